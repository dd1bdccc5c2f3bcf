"""Lightning scripts as people write them: not one knows of lightning-costs, but for the one that says so."""

from __future__ import annotations

GAN = """
import torch
import lightning.pytorch as pl
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class GAN(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16))
        self.discriminator = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch):
        (real,) = batch
        opt_g, opt_d = self.optimizers()
        fake = self.generator(torch.randn(len(real), 8))
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)

        self.toggle_optimizer(opt_g)
        g_loss = nn.functional.binary_cross_entropy_with_logits(self.discriminator(fake), ones)
        opt_g.zero_grad()
        self.manual_backward(g_loss)
        opt_g.step()
        self.untoggle_optimizer(opt_g)

        self.toggle_optimizer(opt_d)
        d_loss = nn.functional.binary_cross_entropy_with_logits(self.discriminator(real), ones)
        d_loss = d_loss + nn.functional.binary_cross_entropy_with_logits(self.discriminator(fake.detach()), zeros)
        opt_d.zero_grad()
        self.manual_backward(d_loss)
        opt_d.step()
        self.untoggle_optimizer(opt_d)
        self.log_dict({"g_loss": g_loss, "d_loss": d_loss}, prog_bar=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.generator.parameters()), torch.optim.Adam(self.discriminator.parameters())


if __name__ == "__main__":
    loader = DataLoader(TensorDataset(torch.randn(48, 16)), batch_size=8)
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(GAN(), loader)
"""

TEXT = """
import torch
import pytorch_lightning as pl
from torch import nn
from torch.utils.data import DataLoader


def collate(rows):
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor([row[0] % 2 for row in rows])}


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16, padding_idx=0)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask, labels):
        hidden = self.encoder(self.embed(input_ids), src_key_padding_mask=attention_mask == 0)
        logits = self.head(hidden[:, 0])
        return nn.functional.cross_entropy(logits, labels), logits

    def training_step(self, batch, batch_idx):
        return self(**batch)[0]

    def validation_step(self, batch, batch_idx):
        loss, logits = self(**batch)
        self.log("val_acc", (logits.argmax(-1) == batch["labels"]).float().mean(), batch_size=len(batch["labels"]))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


if __name__ == "__main__":
    rows = [[1 + i % 9] * (3 + i % 2) for i in range(32)]
    train, val = (DataLoader(rows, batch_size=8, collate_fn=collate) for _ in range(2))
    best = pl.callbacks.ModelCheckpoint(monitor="val_acc", mode="max")
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", log_every_n_steps=2, logger=False, callbacks=[best])
    trainer.fit(Classifier(), train, val)
"""

CLI = """
import os

import torch
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringDataModule, BoringModel


class Model(BoringModel):
    def __init__(self, lr: float = 0.1):
        super().__init__()
        self.lr = lr

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.step(batch))


if __name__ == "__main__":
    os.makedirs("elsewhere", exist_ok=True)
    os.chdir("elsewhere")
    LightningCLI(Model, BoringDataModule, save_config_callback=None)
"""

FABRIC = """
import sys

import torch
from lightning.fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@torch.no_grad()
def accuracy(model, loader):
    model.eval()
    right = sum((model(x).argmax(1) == y).sum() for x, y in loader)
    model.train()
    return right / len(loader.dataset)


def main(epochs=3):
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    fabric.seed_everything(1, verbose=False)
    data = TensorDataset(torch.randn(64, 16), torch.arange(64) % 4)
    train, val = fabric.setup_dataloaders(DataLoader(data, 8, shuffle=True), DataLoader(data, 16))
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model, optimizer = fabric.setup(model, optimizer)
    for epoch in range(epochs):
        for step, (x, y) in enumerate(train):
            if epoch == 2 and step == 4 and "--fail" in sys.argv:
                raise RuntimeError("the data is broken")
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            fabric.backward(loss)
            optimizer.step()
        fabric.log("val/acc", accuracy(model, val))
        fabric.save("last.ckpt", {"model": model, "optimizer": optimizer})


if __name__ == "__main__":
    main()
"""

SEVERAL = """
import sys

import lightning.pytorch as pl
from lightning.pytorch.callbacks import LearningRateMonitor, Timer
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning_costs import CostMonitor


def trainer(callbacks):
    return pl.Trainer(max_epochs=1, limit_train_batches=4, limit_val_batches=0, accelerator="cpu", logger=False,
                      enable_checkpointing=False, enable_progress_bar=False, callbacks=callbacks)


shared = [Timer()]
trainer(shared).fit(BoringModel())
trainer(shared).fit(BoringModel())
trainer([CostMonitor(save_dir="own")]).fit(BoringModel())
late = trainer([])
late.callbacks.append(CostMonitor(save_dir="own"))
late.fit(BoringModel())
sys.exit(5)
"""

DDP = """
import lightning.pytorch as pl
from lightning.pytorch.demos.boring_classes import BoringModel

if __name__ == "__main__":
    trainer = pl.Trainer(max_epochs=1, limit_train_batches=6, limit_val_batches=2, accelerator="cpu", devices=2,
                         strategy="ddp", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(BoringModel())
"""

ENDLESS = """
import lightning.pytorch as pl
from lightning.pytorch.demos.boring_classes import BoringModel

trainer = pl.Trainer(max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
                     enable_progress_bar=False, log_every_n_steps=4)
trainer.fit(BoringModel())
"""

#: What it prints is JSON: the names of all that its loggers, its search and its progress bar get.
QUIET = """
import csv
import json
import logging
import sys

import {name} as pl
from {name}.demos.boring_classes import BoringModel
from {name}.loggers import CSVLogger

logging.getLogger("{name}").setLevel(logging.ERROR)


class Model(BoringModel):
    def training_step(self, batch, batch_idx):
        loss = self.step(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.step(batch))

    def on_train_end(self):
        bar.extend(self.trainer.progress_bar_callback.get_metrics(self.trainer, self))


bar = []
logger = CSVLogger(".", name="csv", version=0)
trainer = pl.Trainer(max_epochs=2, limit_train_batches=4, limit_val_batches=2, log_every_n_steps=1, accelerator="cpu",
                     logger=logger, enable_checkpointing=False, enable_model_summary=False)
with open("bar.txt", "w") as sys.stdout:
    trainer.fit(Model())
sys.stdout = sys.__stdout__
with open("csv/version_0/metrics.csv") as file:
    rows = list(csv.DictReader(file))
heavy = sorted({{"lightning", "pytorch_lightning"}} & set(sys.modules))
print(json.dumps([sorted(trainer.callback_metrics), list(rows[0]), sorted(bar), heavy]))
"""

INERT = """
import sys
from importlib import import_module

import lightning.fabric
import lightning.pytorch
import lightning_fabric
import pytorch_lightning


def callbacks():
    for name in ("lightning.pytorch", "pytorch_lightning"):
        trainer = import_module(name).Trainer(accelerator="cpu", logger=False)
        yield from (type(callback).__name__ for callback in trainer.callbacks)
    for name in ("lightning.fabric", "lightning_fabric"):
        yield from (type(callback).__name__ for callback in import_module(name).Fabric(accelerator="cpu")._callbacks)


print(*callbacks())
print(*sorted(name for name in sys.modules if name.startswith("lightning_costs")))
"""

"""Deep or wide, SGD or SAM: what does each cost? Real data, two CPU cores, no account, three seeds of each.

Trains small vision transformers on the 1,797 handwritten digits that ship with scikit-learn: a deep narrow one, a wide
shallow one, and the wide one with SAM. To reach 90 % accuracy, the wide model needs about half the samples and twice
the FLOPs of the deep one. The costs of each run go to its run folder, to CSV and to an offline W&B run, in the rows
that hold its accuracy. Then the runs are compared. Each run is a process of its own, so that no run pays for the
imports of another. To adapt the script, change `Digits` (the data), `ViT` (the model) or `METHODS`.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from pytorch_optimizer import SAM
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_costs import CostMonitor, Tariff, compare, load_run

METHODS: dict[str, dict[str, Any]] = {
    "deep": {"width": 32, "depth": 6},
    "wide": {"width": 160, "depth": 1},
    "sam": {"width": 160, "depth": 1, "sam": True},
}
SEEDS = 3
TARGETS = [0.8, 0.9]
#: Runs whose names differ only after '-seed' are seeds of one method.
GROUP = r"name~(.+)-seed\d+"


class Digits(pl.LightningDataModule):
    """8x8 grey images of digits: 1,437 to train on, 360 to validate on."""

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        images, labels = load_digits(return_X_y=True)
        x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
        y = torch.tensor(labels)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        train, held_out = order[:1437], order[1437:]
        self.train_set = TensorDataset(x[train], y[train])
        self.held_out = TensorDataset(x[held_out], y[held_out])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train_set, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.held_out, 360)


class Bar(TQDMProgressBar):
    """One line: training, with quality and cost so far."""

    def init_validation_tqdm(self) -> Any:
        bar = super().init_validation_tqdm()
        bar.disable = True
        return bar


class ViT(pl.LightningModule):
    """A vision transformer over 2x2 patches (Dosovitskiy et al. 2021), with SGD and momentum, or SAM around it."""

    def __init__(self, width: int = 48, depth: int = 4, sam: bool = False, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.patches = nn.Conv2d(1, width, kernel_size=2, stride=2)
        self.positions = nn.Parameter(torch.randn(1, 16, width) / 2)
        layer = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.head(self.encoder(tokens).mean(dim=1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self(x), y)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val/acc", (self(x).argmax(1) == y).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        options = {"lr": self.hparams["lr"], "momentum": 0.9}
        if self.hparams["sam"]:
            optimizer: Any = SAM(self.parameters(), torch.optim.SGD, rho=0.05, **options)
        else:
            optimizer = torch.optim.SGD(self.parameters(), **options)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.hparams["lr"], steps, pct_start=0.1, cycle_momentum=False
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any | None = None) -> None:
        """SAM's `step` expects gradients at the current weights, which Lightning's closure has not made yet."""
        if self.hparams["sam"]:
            optimizer_closure()
        optimizer.step(closure=optimizer_closure)


def train(method: str, seed: int, out: Path, epochs: int, tariff: Tariff) -> None:
    warnings.filterwarnings("ignore", message=".*(does not have many workers|LeafSpec).*")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.set_num_threads(1)  # these models are too small for two, and a busy machine disturbs one thread less
    pl.seed_everything(seed, verbose=False)
    name = f"{method}-seed{seed}"
    loggers = [CSVLogger(out / "csv", name=name), WandbLogger(name=name, project="digits", save_dir=out, offline=True)]
    monitor = CostMonitor(
        monitor="val/acc", mode="max", targets=TARGETS, save_dir=out / "costs", name=name, tariff=tariff
    )
    trainer = pl.Trainer(
        max_epochs=epochs,
        val_check_interval=0.5,
        accelerator="cpu",
        devices=1,
        callbacks=[monitor, Bar(refresh_rate=5)],
        logger=loggers,
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(ViT(**METHODS[method]), datamodule=Digits())
    loggers[1].experiment.finish()


def train_all(out: Path, methods: Sequence[str], seeds: int, epochs: int, tariff: Tariff) -> list[Path]:
    """Train seed by seed, so that a machine that slows down slows every method alike."""
    out.mkdir(parents=True, exist_ok=True)
    before = set((out / "costs").glob("*"))
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["lightning.pytorch", "sklearn.datasets"])  # imported once, for all runs
    for seed in range(1, seeds + 1):
        for method in methods:
            process = processes.Process(target=train, args=(method, seed, out, epochs, tariff))
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"training {method!r} with seed {seed} failed: exit code {process.exitcode}")
    return sorted(set((out / "costs").glob("*")) - before, key=lambda folder: folder.stat().st_mtime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="where runs and the report go")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs of each method")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--country", default="FRA", help="whose electricity (ISO 3166-1)")
    args = parser.parse_args()

    # A made-up price and a place to show the columns with; without a tariff, money and carbon are missing.
    tariff = Tariff(country=args.country, usd_per_node_h=0.10, usd_per_kwh=0.25, source="made up for the demo")
    folders = train_all(args.out, args.methods, args.seeds, args.epochs, tariff)
    compared = compare([load_run(folder) for folder in folders], monitor="val/acc", mode="max", group=GROUP)
    print(compared)
    page = compared.to_html(args.out / "report.html")
    print(f"report: {page.resolve()}")
    print(f"next:   open it in a browser, or try  lightning-costs show {folders[0]}")


if __name__ == "__main__":
    main()

"""Small real models for real Trainers, under either namespace."""

from __future__ import annotations

import time
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

NAMESPACES = ("lightning.pytorch", "pytorch_lightning")


def namespace(name: str) -> ModuleType:
    """The namespace with its submodules `loggers`, `callbacks`, `tuner` and `cli` imported."""
    for part in ("loggers", "callbacks", "tuner"):
        import_module(f"{name}.{part}")
    return import_module(name)


def data(samples: int = 64, batch_size: int = 8, features: int = 16) -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, features, generator=generator)
    return DataLoader(TensorDataset(x, torch.arange(samples) % 4), batch_size)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Samples without a length."""

    def __init__(self, samples: int = 60) -> None:
        self.samples = samples

    def __iter__(self) -> Any:
        for i in range(self.samples):
            yield torch.full((16,), float(i)), torch.tensor(i % 4)


class Dicts(Dataset[dict[str, Tensor]]):
    """Samples as dicts, in the Hugging Face form."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": torch.full((5,), index % 7), "labels": torch.tensor(index % 4)}


def classifier(pl: ModuleType, *, optimizer: str = "sgd", train_s: float = 0.0, val_s: float = 0.0) -> Any:
    """A two-layer classifier whose steps and validation epochs can sleep for a known time."""

    class Classifier(pl.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
            self.lr = 0.05

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if train_s:
                time.sleep(train_s)
            x, y = batch
            loss = nn.functional.cross_entropy(self.net(x), y)
            self.log("train/loss", loss)
            return loss

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            x, y = batch
            self.log("val/acc", (self.net(x).argmax(1) == y).float().mean(), batch_size=len(x))

        def on_validation_epoch_end(self) -> None:
            if val_s:
                time.sleep(val_s)

        def configure_optimizers(self) -> Any:
            if optimizer == "sam":
                from pytorch_optimizer import SAM

                return SAM(self.parameters(), torch.optim.SGD, lr=self.lr, momentum=0.9)
            if optimizer == "adam":
                return torch.optim.Adam(self.parameters(), lr=self.lr)
            return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            if optimizer_closure is not None and type(optimizer).__name__.endswith("SAM"):
                optimizer_closure()
            optimizer.step(closure=optimizer_closure)

    return Classifier()


def trainer(pl: ModuleType, *callbacks: Any, **options: Any) -> Any:
    """A quiet Trainer on the CPU."""
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 2,
        "log_every_n_steps": 4,
    }
    return pl.Trainer(**{**quiet, **options}, callbacks=list(callbacks))

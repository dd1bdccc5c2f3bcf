"""Real data that is on every machine: scikit-learn's digits, and the sources of Python's standard library as text."""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from .study import Settings


class Digits(pl.LightningDataModule):
    """8x8 grey images of handwritten digits: 1,437 to train on, 360 to validate on.

    Which are held out does not depend on the seed. Settings that it reads: `batch`.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings

    def setup(self, stage: str) -> None:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
        y = torch.tensor(labels)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        train, held_out = order[:1437], order[1437:]
        self.train_set = TensorDataset(x[train], y[train])
        self.held_out = TensorDataset(x[held_out], y[held_out])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train_set, self.settings["batch"], shuffle=True, drop_last=True, generator=seeded())

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.held_out, 360)


@cache
def sources() -> tuple[bytes, bytes]:
    """Python's standard library as text: what to train on, and what is held out (every tenth file, by name).

    Modules at the top of the library, without packages and tests: some 5 MB with Python 3.11.
    """
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    texts = [file.read_bytes() for file in files]
    train = [text for at, text in enumerate(texts) if at % 10]
    held_out = [text for at, text in enumerate(texts) if not at % 10]
    return b"\n".join(train), b"\n".join(held_out)


class Text(pl.LightningDataModule):
    """Tokens in windows of `context` + 1: every window of the training text once an epoch, in an order of the seed's.

    Settings that it reads: `batch`, `context`, and `held_out`: how many windows are validated on, spread evenly.

    Args:
        train: [tokens] of the training text.
        held_out: [tokens] of the text held out.
        settings: As said.
    """

    def __init__(self, train: Tensor, held_out: Tensor, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.train_set = TensorDataset(windows(train, settings["context"]))
        cut = windows(held_out, settings["context"])
        kept = torch.linspace(0, len(cut) - 1, min(settings["held_out"], len(cut))).long()
        self.held_out = TensorDataset(cut[kept])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train_set, self.settings["batch"], shuffle=True, drop_last=True, generator=seeded())

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.held_out, self.settings["batch"])


def seeded() -> torch.Generator:
    """Random numbers of the job's seed alone: whatever a model has drawn for its weights, batches are the same."""
    return torch.Generator().manual_seed(torch.initial_seed())


def windows(tokens: Tensor, context: int) -> Tensor:
    """[windows, context + 1]: neighbours share one token, the last of one being the first of the next."""
    return tokens.unfold(0, context + 1, context).contiguous()


def as_bytes(text: bytes) -> Tensor:
    """[tokens]: a byte is a token."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()

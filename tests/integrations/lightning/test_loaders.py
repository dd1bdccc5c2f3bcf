"""Samples, tokens and padding of whatever a training reads from; and whose the seconds beside training are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import FakeClock
from lightning_models import data, namespace, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_costs import CostMonitor
from lightning_costs.run.record import RunRecord

pl = namespace("lightning.pytorch")
CombinedLoader = pl.utilities.CombinedLoader


class Reads(pl.LightningModule):
    """Trains on whatever tensors of 16 features a batch holds."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(16, 4)

    def training_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        found = [x for x in torch.utils._pytree.tree_leaves(batch) if torch.is_tensor(x) and x.shape[-1:] == (16,)]
        return torch.cat([self.net(x) for x in found]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(tmp_path: Path, loaders: Any, *callbacks: Any, model: Any = None, **options: Any) -> RunRecord:
    monitor = CostMonitor(save_dir=tmp_path, infer=False, **options)
    trainer(pl, monitor, *callbacks, max_epochs=1).fit(model or Reads(), loaders)
    assert monitor.run is not None
    return monitor.run


@pytest.mark.parametrize(
    ("mode", "samples"),
    [
        ("min_size", 3 * 8 + 3 * 4),  # 3 batches of 8 end it: 24 and 12
        ("max_size", 24 + 40),  # every batch once; the exhausted loader gives None
        ("max_size_cycle", 10 * 8 + 40),  # the shorter loader again and again
    ],
)
@pytest.mark.parametrize("structure", ["dict", "list", "nested"])
def test_samples_of_several_loaders_add_up(tmp_path: Path, mode: str, samples: int, structure: str) -> None:
    a, b = data(24, 8), data(40, 4)
    loaders: Any = {"dict": {"a": a, "b": b}, "list": [a, b], "nested": {"x": {"a": a}, "y": [b]}}[structure]
    run = fit(tmp_path, CombinedLoader(loaders, mode))
    assert run.final["samples"] == samples
    assert run.final["dataset_samples"] == 64


def test_a_last_short_batch_counts_as_what_it_is(tmp_path: Path) -> None:
    assert fit(tmp_path, data(27, 8)).final["samples"] == 27


class Texts(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.embedding(batch["input_ids"]) * batch["attention_mask"][..., None]).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def texts() -> DataLoader[Any]:
    """Two batches: 2 x 5 elements of which 7 are tokens, 2 x 3 of which 6 are."""

    def batch(*lengths: int) -> dict[str, Tensor]:
        width = max(lengths)
        mask = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
        return {"input_ids": mask * 7, "attention_mask": mask, "lengths": torch.tensor(lengths)}

    return DataLoader([batch(5, 2), batch(3, 3)], batch_size=None)


def test_padding_is_told_apart_where_length_fn_says_what_is_none(tmp_path: Path) -> None:
    final = fit(tmp_path, texts(), model=Texts(), length_fn=lambda b: int(b["lengths"].sum())).final
    assert (final["tokens"], final["padding_tokens"]) == (13, 3)


def test_without_length_fn_padding_is_in_the_tokens_and_that_is_said(tmp_path: Path) -> None:
    run = fit(tmp_path, texts(), model=Texts())
    assert run.final["tokens"] == 16
    assert "length_fn counts what is none" in run.header["missing"]["padding_tokens"]


def test_a_slow_callback_is_visible_as_such(tmp_path: Path, only_sleeps: FakeClock) -> None:
    class Slow(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            time.sleep(0.02)

    class Quick(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            pass

    run = fit(tmp_path, data(80, 8), Quick(), Slow())
    by_whom = {whose: seconds for account, whose, seconds in run.header["by_whom_s"] if account == "other"}
    assert by_whom["Slow"] == pytest.approx(0.2)
    assert by_whom.get("Quick", 0.0) == 0.0
    assert sum(by_whom.values()) <= run.final["other_s"] * (1 + 1e-9)  # type: ignore[operator]


def test_a_graph_that_is_compiled_late_is_warm_up(tmp_path: Path) -> None:
    class Growing(Reads):
        """Asks for another graph in the middle of its training, on batches of one shape."""

        def __init__(self) -> None:
            super().__init__()
            self.deep = False
            self.inner = torch.compile(self.work, backend="eager")

        def work(self, x: Tensor) -> Tensor:
            return self.net(x) if not self.deep else self.net(x).sin()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.deep = batch_idx >= 12
            return self.inner(batch[0]).square().mean()

    early = fit(tmp_path / "early", data(160, 8))
    late = fit(tmp_path / "late", data(160, 8), model=Growing())
    assert late.final["samples"] == early.final["samples"] == 160
    # The step that compiled is warm-up, and the next ones may be counted: their graph is another one.
    assert 8 <= early.final["steady_samples"] - late.final["steady_samples"] <= 24  # type: ignore[operator]

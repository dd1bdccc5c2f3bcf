"""Restoring and compiling in a real Trainer: each is told apart, and stays a part of the account that it happens in."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_costs import CostMonitor
from lightning_costs.probes import compile_time
from lightning_costs.probes.compile_time import CompileTime, compiled_s
from lightning_costs.probes.context import ProbeContext
from lightning_costs.records.missing import Missing
from lightning_costs.run.goodput import goodput

DATA = TensorDataset(torch.randn(32, 4), torch.randn(32, 2))


class Model(LightningModule):
    def __init__(self, *, compiled: bool = False, restore_takes_s: float = 0.0) -> None:
        super().__init__()
        net = nn.Linear(4, 2)
        self.net = torch.compile(net, backend="eager") if compiled else net
        self.restore_takes_s = restore_takes_s

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self.training_step(batch, batch_idx))

    def on_load_checkpoint(self, checkpoint: Any) -> None:
        time.sleep(self.restore_takes_s)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


def fit(folder: Path, model: Model, *more: Callback, epochs: int = 1, resume: Any = None, **options: Any) -> Trainer:
    monitor = CostMonitor(save_dir=folder / "costs", infer=False, count="off")
    given = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(**given | options, max_epochs=epochs, callbacks=[monitor, *more], default_root_dir=folder)
    trainer.fit(model, DataLoader(DATA, 8), DataLoader(DATA, 8), ckpt_path=resume)
    return trainer


def run_of(trainer: Trainer) -> Any:
    return next(each for each in trainer.callbacks if isinstance(each, CostMonitor)).run


def test_loading_a_checkpoint_is_told_apart_and_is_a_part_of_setting_up(tmp_path: Path) -> None:
    first = fit(tmp_path, Model())
    assert run_of(first).final["restore_s"] == 0.0
    first.save_checkpoint(tmp_path / "one.ckpt")
    told = run_of(fit(tmp_path, Model(restore_takes_s=0.2), epochs=2, resume=tmp_path / "one.ckpt"))
    assert len(told.header["attempts"]) == 2
    assert 0.2 <= told.final["restore_s"] <= told.final["setup_s"]
    spent = goodput(told.header, told.final)
    assert spent.bucket("restore").s == told.final["restore_s"]
    assert sum(bucket.s for bucket in spent.buckets) == pytest.approx(spent.wall_s)
    assert spent.wall_s == pytest.approx(spent.clock_s, abs=0.05)
    assert "_restore_modules_and_callbacks" not in vars(first._checkpoint_connector)


class Compiling(Callback):
    """What torch has compiled by the end of each batch of training, counted from its begin."""

    seconds = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._begun_s = compiled_s()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds += compiled_s() - self._begun_s


def test_what_torch_compiles_in_training_is_its_own_account_of_it_and_evaluation_keeps_its_own(tmp_path: Path) -> None:
    torch._dynamo.reset()
    before_s, truth = compiled_s(), Compiling()
    told = run_of(fit(tmp_path, Model(compiled=True), truth, num_sanity_val_steps=0))
    assert told.final["compile_s"] == pytest.approx(truth.seconds)
    assert 0.0 < told.final["compile_s"] < min(told.final["train_s"], compiled_s() - before_s)
    assert goodput(told.header, told.final).bucket("compile").s == told.final["compile_s"]


def test_a_model_that_is_not_compiled_compiles_for_no_time(tmp_path: Path) -> None:
    assert run_of(fit(tmp_path, Model())).final["compile_s"] == 0.0


def test_a_torch_that_keeps_no_account_of_compiling_makes_the_column_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = CompileTime(ProbeContext())
    monkeypatch.delattr("torch._dynamo.utils.cumulative_time_spent_ns")
    probe.on_bucket_change()  # it raises nothing inside a training
    with pytest.raises(Missing, match="this torch does not have"):
        probe.take_s()
    assert compile_time._WALL == ("entire_frame_compile", "entire_backward_compile")


class SlowStart(SingleDeviceStrategy):
    """Takes its time where a distributed strategy initializes torch.distributed, or fails there."""

    error: Exception | None = None

    def setup_environment(self) -> None:
        time.sleep(0.1)
        if self.error is not None:
            raise self.error
        super().setup_environment()

    def setup(self, trainer: Any) -> None:
        time.sleep(0.15)
        super().setup(trainer)


class SlowData(LightningDataModule):
    def prepare_data(self) -> None:
        time.sleep(0.05)

    def train_dataloader(self) -> Any:
        time.sleep(0.2)
        return DataLoader(DATA, 8)


def test_the_start_up_is_split_into_parts_that_add_up_to_it(tmp_path: Path) -> None:
    monitor, strategy = CostMonitor(save_dir=tmp_path, infer=False, count="off"), SlowStart("cpu")
    trainer = Trainer(
        strategy=strategy, max_epochs=1, callbacks=[monitor], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(Model(), SlowData())
    run = monitor.run
    assert run is not None
    (attempt,) = run.header["attempts"]
    parts = attempt["startup_s"]
    assert sum(parts.values()) == pytest.approx(run.final["setup_s"])
    assert parts["distributed"] >= 0.1
    assert parts["data"] >= 0.05
    assert parts["model"] >= 0.15
    assert 0.2 <= attempt["first_wait_s"] <= attempt["first_batch_s"] <= run.final["train_s"]
    setup = goodput(run.header, run.final).bucket("setup")
    assert setup.how.startswith(("imports ", "script "))
    assert 0.0 < attempt["unmetered_s"] < run.final["setup_s"]
    assert setup.how.endswith("of it before energy was metered")
    assert "setup_environment" not in vars(strategy)


def test_a_fit_that_fails_before_it_is_set_up_leaves_no_patch(tmp_path: Path) -> None:
    strategy = SlowStart("cpu")
    strategy.error = RuntimeError("no such host")
    trainer = Trainer(strategy=strategy, max_epochs=1, callbacks=[CostMonitor(save_dir=tmp_path)], logger=False)
    with pytest.raises(RuntimeError, match="no such host"):
        trainer.fit(Model(), SlowData())
    assert "setup_environment" not in vars(strategy)
    with pytest.raises(MisconfigurationException):  # before the strategy is asked for anything
        trainer.fit(LightningModule(), SlowData())
    assert "setup_environment" not in vars(strategy)

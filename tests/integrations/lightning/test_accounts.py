"""Every second of a real Trainer's run lands in its account, and the accounts add up to an outside stopwatch.

Sleeps alone move the clock: each second is planted, and what the machine itself takes is in no figure.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeClock
from lightning_models import classifier, data, namespace, trainer

from lightning_costs import CostMonitor, load_runs

pl = namespace("lightning.pytorch")
ACCOUNTS = ("setup_s", "train_s", "evaluate_s", "checkpoint_s", "other_s")


@pytest.fixture(autouse=True)
def stopwatch(only_sleeps: FakeClock) -> Any:
    """Seconds since a run of this process ended: the next one begins there."""
    began = only_sleeps()
    return lambda: only_sleeps() - began


class SlowCheckpoint(pl.callbacks.ModelCheckpoint):
    def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
        time.sleep(0.5)
        super()._save_checkpoint(trainer, filepath)


class SlowState(pl.Callback):
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        time.sleep(0.4)


class SlowHook(pl.Callback):
    def on_train_batch_end(self, *args: Any) -> None:
        time.sleep(0.1)


class SlowLogger(pl.loggers.CSVLogger):
    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        time.sleep(0.1)
        super().log_metrics(*args, **kwargs)


def adds_up(final: dict[str, Any], outside_s: float) -> None:
    total_s = sum(final[name] for name in ACCOUNTS)
    assert total_s == pytest.approx(final["total_s"], abs=1e-6)
    assert final["run_s"] == pytest.approx(final["total_s"] - final["setup_s"], abs=1e-6)
    assert final["total_s"] == pytest.approx(outside_s, abs=1e-6)


def test_each_planted_sleep_lands_in_its_account(tmp_path: Path, stopwatch: Any) -> None:
    monitor = CostMonitor(infer=False, save_dir=tmp_path / "costs")
    fit = trainer(
        pl,
        monitor,
        SlowHook(),
        SlowState(),
        SlowCheckpoint(dirpath=tmp_path / "checkpoints"),
        enable_checkpointing=True,
        num_sanity_val_steps=0,
    )
    fit.fit(classifier(pl, train_s=0.4, val_s=0.8), data(32), data(16))
    outside_s = stopwatch()
    assert monitor.run is not None
    final = monitor.run.final
    assert final["train_s"] == pytest.approx(8 * 0.4)
    assert final["evaluate_s"] == pytest.approx(2 * 0.8)
    assert final["checkpoint_s"] == pytest.approx(2 * (0.5 + 0.4))
    assert final["other_s"] == pytest.approx(8 * 0.1)
    adds_up(final, outside_s)


def test_logging_is_other_time_and_sanity_checks_too(tmp_path: Path, stopwatch: Any) -> None:
    monitor = CostMonitor(infer=False, save_dir=tmp_path / "costs")
    logger = SlowLogger(tmp_path / "csv")
    fit = trainer(pl, monitor, logger=logger, log_every_n_steps=8, num_sanity_val_steps=2)
    fit.fit(classifier(pl, val_s=0.8), data(), data(16))
    outside_s = stopwatch()
    assert monitor.run is not None
    final = monitor.run.final
    # Two train rows and two evaluation rows; the sanity check's sleep.
    assert final["other_s"] == pytest.approx(4 * 0.1 + 0.8)
    assert final["evaluate_s"] == pytest.approx(2 * 0.8)
    adds_up(final, outside_s)


def test_waiting_for_batches_is_part_of_training(tmp_path: Path) -> None:
    loader = data()

    def slow(samples: Any) -> Any:
        time.sleep(0.03)
        return tuple(map(torch.stack, zip(*samples, strict=True)))

    import torch

    monitor = CostMonitor(infer=False, save_dir=tmp_path)
    slow_loader = torch.utils.data.DataLoader(loader.dataset, 8, collate_fn=slow)
    trainer(pl, monitor).fit(classifier(pl), slow_loader)
    assert monitor.run is not None
    final = monitor.run.final
    assert final["data_wait_s"] == pytest.approx(16 * 0.03)
    assert final["data_wait_s"] <= final["train_s"]


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("boom"), "failed"), (KeyboardInterrupt(), "interrupted")])
def test_a_run_that_ends_by_an_error_keeps_all_it_spent(
    tmp_path: Path, stopwatch: Any, error: BaseException, status: str
) -> None:
    class Breaks(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 1 and batch_idx == 1:
                raise error

    monitor = CostMonitor(infer=False, save_dir=tmp_path)
    fit = trainer(pl, monitor, Breaks())
    with pytest.raises((RuntimeError, SystemExit)):
        fit.fit(classifier(pl, train_s=0.4, val_s=0.3), data(32), data(16))
    outside_s = stopwatch()
    (run,) = load_runs(tmp_path)
    assert run.header["status"] == status
    assert run.final["batches"] == run.final["steps"] == 5
    assert run.final["samples"] == 40
    assert run.final["train_s"] == pytest.approx(5 * 0.4)
    adds_up(run.final, outside_s)
    assert "run" not in vars(fit.fit_loop)
    assert "save_checkpoint" not in vars(fit)


def test_a_second_fit_of_the_process_begins_where_the_first_ended(tmp_path: Path, stopwatch: Any) -> None:
    first, second = (CostMonitor(infer=False, save_dir=tmp_path, name=name) for name in "ab")
    trainer(pl, first).fit(classifier(pl, train_s=0.02), data())
    time.sleep(0.2)
    trainer(pl, second).fit(classifier(pl, train_s=0.02), data())
    outside_s = stopwatch()
    assert first.run is not None
    assert second.run is not None
    together_s = first.run.final["total_s"] + second.run.final["total_s"]  # type: ignore[operator]
    assert together_s == pytest.approx(outside_s)
    assert second.run.final["setup_s"] == pytest.approx(0.2)


def test_two_fits_of_one_monitor_are_two_runs(tmp_path: Path) -> None:
    monitor = CostMonitor(infer=False, save_dir=tmp_path, name="twice")
    fit = trainer(pl, monitor)
    model = classifier(pl)
    fit.fit(model, data())
    fit.fit_loop.max_epochs = 3
    fit.fit(model, data())
    runs = load_runs(tmp_path)
    assert len(runs) == 2
    assert [run.final["epochs"] for run in runs] == [2, 1]


def test_seconds_of_the_learning_rate_finder_are_other_time_of_the_run_that_follows(
    tmp_path: Path, stopwatch: Any
) -> None:
    monitor = CostMonitor(infer=False, save_dir=tmp_path / "costs")
    fit = trainer(pl, monitor, default_root_dir=tmp_path, logger=False)
    model = classifier(pl, train_s=0.3)
    pl.tuner.Tuner(fit).lr_find(model, data(32), num_training=20, early_stop_threshold=None)
    assert not (tmp_path / "costs").exists()
    fit.fit(model, data(32))
    outside_s = stopwatch()
    (run,) = load_runs(tmp_path / "costs")
    assert run.final["other_s"] == pytest.approx(8 * 0.3)  # two epochs of it
    assert run.final["train_s"] == pytest.approx(8 * 0.3)
    assert run.final["batches"] == 8
    adds_up(run.final, outside_s)


def test_a_finder_among_the_callbacks_is_other_time_and_leaves_no_points(tmp_path: Path) -> None:
    monitor = CostMonitor(infer=False, save_dir=tmp_path / "costs")
    finder = pl.callbacks.LearningRateFinder(num_training_steps=10, early_stop_threshold=None)
    trained: list[int] = []

    class Trained(pl.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            trained.append(args[-1])

    fit = trainer(pl, monitor, finder, Trained(), default_root_dir=tmp_path, num_sanity_val_steps=0)
    fit.fit(classifier(pl, train_s=0.3), data(32))
    (run,) = load_runs(tmp_path / "costs")
    assert len(trained) in (4, 8), "after a finder Lightning 2.5.0 trains one epoch less"
    assert run.final["batches"] == len(trained)
    assert run.final["train_s"] == pytest.approx(len(trained) * 0.3)
    assert run.final["other_s"] == pytest.approx(8 * 0.3)


class FindsAtMilestones(pl.callbacks.LearningRateFinder):
    """As Lightning's documentation has one."""

    def on_fit_start(self, *args: Any) -> None:
        pass

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.lr_find(trainer, pl_module)


@pytest.mark.parametrize("first", [True, False])
def test_steps_of_a_finder_amid_training_are_none_of_the_run(tmp_path: Path, *, first: bool) -> None:
    runs = []
    for callback in (pl.Callback(), FindsAtMilestones(num_training_steps=6, early_stop_threshold=None)):
        monitor = CostMonitor(infer=False, save_dir=tmp_path / "costs")
        callbacks = [callback, monitor] if first else [monitor, callback]
        fit = trainer(pl, *callbacks, default_root_dir=tmp_path, log_every_n_steps=4, num_sanity_val_steps=0)
        fit.fit(classifier(pl), data(64))
        assert monitor.run is not None
        runs.append(monitor.run)
    plain, found = runs
    for column in ("batches", "steps", "optimizer_steps", "samples", "flop"):
        assert found.final[column] == plain.final[column] is not None, column
    assert found.header["missing"].keys() == plain.header["missing"].keys()
    assert found.points["trigger"].to_list() == plain.points["trigger"].to_list()


@pytest.mark.integration
def test_the_batch_size_finder_leaves_no_points(tmp_path: Path) -> None:
    class Sized(type(classifier(pl))):  # type: ignore[misc]
        batch_size = 4

        def train_dataloader(self) -> Any:
            return data(batch_size=self.batch_size)

        val_dataloader = train_dataloader

    monitor = CostMonitor(infer=False, save_dir=tmp_path / "costs")
    fit = trainer(pl, monitor, default_root_dir=tmp_path)
    model = Sized()
    pl.tuner.Tuner(fit).scale_batch_size(model, max_trials=2, mode="power", steps_per_trial=1)
    assert not (tmp_path / "costs").exists()
    fit.fit(model)
    (run,) = load_runs(tmp_path / "costs")
    assert run.final["samples"] == 128

"""Quality and every cost stand in one row, in every logger; headline ones are in `callback_metrics` too."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from fakes import FakeClock
from lightning_models import NAMESPACES, classifier, data, namespace, trainer
from processes import TESTS, Script
from wandb_server import leet_inspect

from lightning_costs import CostMonitor, Tariff
from lightning_costs.run.record import RunRecord


def columns(run: RunRecord, *, headline: bool = False) -> set[str]:
    """Counters and gauges that the folder has and that are not missing."""
    declared = run.header["indicators"]
    return {
        name
        for name, amount in run.final.items()
        if amount is not None and declared[name]["kind"] != "static" and (declared[name]["headline"] or not headline)
    }


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", NAMESPACES)
@pytest.mark.parametrize("log", ["complete", "headline"])
def test_csv_rows_of_results_hold_the_cost_curves(tmp_path: Path, name: str, log: Any) -> None:
    pl = namespace(name)
    monitor = CostMonitor(save_dir=tmp_path / "costs", monitor="val/acc", mode="max", log=log)
    logger = pl.loggers.CSVLogger(tmp_path, name="csv", version=0)
    trainer(pl, monitor, logger=logger).fit(classifier(pl), data(), data())
    assert monitor.run is not None
    run = monitor.run
    rows = rows_of(tmp_path / "csv" / "version_0" / "metrics.csv")
    evaluated = [row for row in rows if row["val/acc"]]
    trained = [row for row in rows if row["train/loss"]]
    expected = columns(run, headline=log == "headline")
    assert len(evaluated) == 2
    assert len(trained) == 4
    for row in [*evaluated, *trained]:
        assert {
            key.removeprefix("cost/") for key, value in row.items() if key.startswith("cost/") and value
        } == expected
    points = run.points.filter(run.points["trigger"] == "evaluate").to_dicts()
    for row, point in zip(evaluated, points, strict=True):
        assert int(row["step"]) == point["step"]
        for column in expected:
            assert float(row[f"cost/{column}"]) == point[column]


@pytest.mark.parametrize("name", NAMESPACES)
def test_with_log_none_nothing_leaves_the_run_folder(tmp_path: Path, name: str) -> None:
    pl = namespace(name)
    monitor = CostMonitor(save_dir=tmp_path / "costs", monitor="val/acc", mode="max", log="none")
    logger = pl.loggers.CSVLogger(tmp_path, name="csv", version=0)
    bars: list[str] = []
    asked: list[str] = []

    class Run:
        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            return lambda *args, **kwargs: None

    class WandbLogger(pl.loggers.CSVLogger):  # type: ignore[misc]
        @property
        def experiment(self) -> Any:
            return Run()

        log_metrics = log_hyperparams = save = lambda self, *args, **kwargs: None

    class Model(type(classifier(pl))):  # type: ignore[misc]
        def on_train_epoch_end(self) -> None:
            bars.extend(self.trainer.progress_bar_callback.get_metrics(self.trainer, self))

    fit = trainer(pl, monitor, logger=[logger, WandbLogger(tmp_path)], enable_progress_bar=True)
    fit.fit(Model(), data(), data())
    rows = rows_of(tmp_path / "csv" / "version_0" / "metrics.csv")
    assert [key for key in (*rows[0], *fit.callback_metrics, *bars) if "cost" in key] == []
    assert "v_num" in bars
    assert asked == [], "a W&B run is told nothing"
    assert monitor.run is not None
    assert monitor.run.points["val/acc"].drop_nulls().len() == 2


def test_rows_of_other_steps_are_left_alone(tmp_path: Path) -> None:
    pl = namespace("lightning.pytorch")

    class OnStep(type(classifier(pl))):  # type: ignore[misc]
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)
            self.log("val/batch", float(batch_idx), on_step=True, on_epoch=False)

        def on_train_start(self) -> None:
            self.logger.log_metrics({"hand/made": 1.0}, step=0)

    logger = pl.loggers.CSVLogger(tmp_path, name="csv", version=0)
    trainer(pl, CostMonitor(save_dir=tmp_path / "costs"), logger=logger).fit(OnStep(), data(), data())
    rows = rows_of(tmp_path / "csv" / "version_0" / "metrics.csv")
    by_hand = [row for row in rows if row["hand/made"] or row["val/batch"]]
    assert by_hand
    assert not any(row["cost/steps"] for row in by_hand if not row["val/acc"] and not row["train/loss"])


def test_tensorboard_gets_the_curves_too(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pl = namespace("lightning.pytorch")
    monitor = CostMonitor(save_dir=tmp_path / "costs")
    logger = pl.loggers.TensorBoardLogger(tmp_path, name="tb", version=0)
    trainer(pl, monitor, logger=logger).fit(classifier(pl), data(), data())
    events = EventAccumulator(str(tmp_path / "tb" / "version_0"))
    events.Reload()
    assert monitor.run is not None
    assert {f"cost/{column}" for column in columns(monitor.run)} <= set(events.Tags()["scalars"])


def test_callback_metrics_hold_the_headline_in_float64(tmp_path: Path) -> None:
    pl = namespace("lightning.pytorch")
    monitor = CostMonitor(save_dir=tmp_path)
    stop = pl.callbacks.EarlyStopping("cost/samples", mode="min", divergence_threshold=100)
    fit = trainer(pl, monitor, stop, max_epochs=5)
    fit.fit(classifier(pl), data(), data())
    assert monitor.run is not None
    costs = {name: value for name, value in fit.callback_metrics.items() if name.startswith("cost/")}
    assert {name.removeprefix("cost/") for name in costs} == columns(monitor.run, headline=True)
    assert all(value.dtype == torch.float64 for value in costs.values())
    assert monitor.run.final["epochs"] == 2  # 128 samples is past the threshold of 100


def test_the_progress_bar_shows_the_cost_so_far_and_at_the_end(
    tmp_path: Path, only_sleeps: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    pl = namespace("lightning.pytorch")
    seen: list[str] = []

    class Peek(pl.Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            time.sleep(0.03 * (trainer.global_step % 7))  # steps differ, so that there is an interval

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(trainer.progress_bar_callback.get_metrics(trainer, pl_module)["cost"])

    monitor = CostMonitor(save_dir=tmp_path, tariff=Tariff(usd_per_device_h=3600.0), infer=False)
    bar = {"enable_progress_bar": True, "max_epochs": 8}
    plain = pl.callbacks.TQDMProgressBar()  # rich's draws in a thread, whose sleep would move the clock
    trainer(pl, monitor, Peek(), plain, **bar).fit(classifier(pl, train_s=0.25), data(), data())
    assert len(seen) == 8
    so_far, at_end = seen[-2].split(" → ")
    for text in (so_far, at_end):
        assert " s" in text
        assert "J" in text
        assert "$" in text
    assert "→" not in seen[-1], "at the end there is nothing ahead"
    # At a dollar a second the estimate is near the run's total.
    dollars = float(at_end.split("$")[1].split()[0])
    assert monitor.run is not None
    assert dollars == pytest.approx(monitor.run.final["cloud_usd"], rel=0.1)


class Ending(NamedTuple):
    """How long a trainer is going to train, and how many steps that makes."""

    options: dict[str, Any]
    steps: float


@pytest.mark.parametrize(
    "ending",
    [
        Ending({"max_epochs": 3}, 24),
        Ending({"max_epochs": 3, "accumulate_grad_batches": 3}, 9),
        Ending({"max_epochs": 3, "limit_train_batches": 5}, 15),
        Ending({"max_epochs": -1, "max_steps": 10}, 10),
        Ending({"max_epochs": 3, "max_steps": 10}, 10),
        Ending({"max_epochs": -1}, math.inf),
    ],
)
def test_planned_steps_are_those_that_the_training_will_have(tmp_path: Path, ending: Ending) -> None:
    pl = namespace("lightning.pytorch")
    planned: list[float] = []
    monitor = CostMonitor(save_dir=tmp_path, infer=False)

    class Peek(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            planned.append(monitor._session.view.planned_steps(calls_a_step=1))  # type: ignore[union-attr]
            if len(planned) == 50:
                trainer.should_stop = True

    trainer(pl, monitor, Peek(), **ending.options).fit(classifier(pl), data(64, 8))
    assert set(planned) == {ending.steps}
    assert monitor.run is not None
    if ending.steps < math.inf:
        assert monitor.run.final["steps"] == ending.steps


_WANDB = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostMonitor
pl = namespace(sys.argv[2])
out = Path(sys.argv[3])
logger = pl.loggers.WandbLogger(project="p", save_dir=out, offline=True, prefix=sys.argv[4])
monitor = CostMonitor(save_dir=out / "costs", monitor="val/acc", mode="max")
try:
    trainer(pl, monitor, logger=logger).fit(classifier(pl), data(), data())
finally:
    logger.experiment.finish()
print(monitor.recorder, monitor.run.id)
"""


@leet_inspect
@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "prefix"), [pytest.param("lightning.pytorch", "", marks=pytest.mark.slow), ("pytorch_lightning", "mine")]
)
def test_an_offline_wandb_run_holds_quality_and_all_costs_in_one_row(tmp_path: Path, name: str, prefix: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(_WANDB)
    done = Script(script, (TESTS, name, str(tmp_path), prefix), tmp_path).ended()
    assert done.code == 0, done.err[-3000:]
    from lightning_costs import load_runs

    (run,) = load_runs(tmp_path / "costs")
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    records = inspect(folder)
    before = f"{prefix}-" if prefix else ""
    history = [row for row in records["history"] if f"{before}val/acc" in row]
    assert len(history) == 2
    points = run.points.filter(run.points["trigger"] == "evaluate").to_dicts()
    for row, point in zip(history, points, strict=True):
        logged = {key.removeprefix(f"{before}cost/"): value for key, value in row.items() if f"{before}cost/" in key}
        assert set(logged) == {c for c in columns(run) if point[c] is not None}
        assert all(logged[column] == point[column] for column in logged)
        assert row["trainer/global_step"] == point["step"]
    config = {key: value for update in records["config"] for key, value in update.items()}
    assert config["cost"]["run_id"] == run.id
    assert config["cost"]["setup"]["hardware"] == run.header["setup"]["hardware"]
    summary = {key: value for update in records["summary"] for key, value in update.items()}
    for column, amount in run.final.items():
        assert summary.get(f"{before}cost/{column}") == amount


def inspect(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """History rows, config and summary updates of an offline run, as W&B's own client reads them."""
    wandb = shutil.which("wandb", path=str(Path(sys.executable).parent)) or "wandb"
    done = subprocess.run(
        [wandb, "leet", "inspect", "--json", str(folder)], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    parts: dict[str, list[dict[str, Any]]] = {"history": [], "config": [], "summary": []}
    for record in map(json.loads, done.stdout.splitlines()):
        if record["type"] in parts:
            body = record[record["type"]]
            parts[record["type"]].append(body.get("item") or body.get("update") or {})
    return parts

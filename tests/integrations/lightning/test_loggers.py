"""TensorBoard, MLflow and CSV through Lightning's own loggers: quality and costs are joined when read back."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars
import pytest
from lightning_models import classifier, data, namespace, trainer

from lightning_costs import CostMonitor

pytestmark = pytest.mark.integration

pl = namespace("lightning.pytorch")
#: Step to name to value, as a logger's own reader tells.
Read = dict[int, dict[str, float]]


def tensorboard(folder: Path) -> tuple[Any, Callable[[], Read]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read() -> Read:
        events = EventAccumulator(str(folder / "tb" / "version_0"))
        events.Reload()
        rows: Read = {}
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                rows.setdefault(event.step, {})[tag] = event.value
        return rows

    return pl.loggers.TensorBoardLogger(folder, name="tb", version=0), read


def mlflow(folder: Path) -> tuple[Any, Callable[[], Read]]:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    at = f"sqlite:///{folder / 'mlflow.db'}"
    logger = pl.loggers.MLFlowLogger("costs", tracking_uri=at, artifact_location=str(folder / "artifacts"))

    def read() -> Read:
        client = MlflowClient(at)
        rows: Read = {}
        for key in client.get_run(logger.run_id).data.metrics:
            for entry in client.get_metric_history(logger.run_id, key):
                rows.setdefault(entry.step, {})[key] = entry.value
        return rows

    return logger, read


def table(folder: Path) -> tuple[Any, Callable[[], Read]]:
    def read() -> Read:
        with (folder / "csv" / "version_0" / "metrics.csv").open(newline="") as file:
            rows: Read = {}
            for row in csv.DictReader(file):
                known = {name: float(value) for name, value in row.items() if value and name != "step"}
                rows.setdefault(int(row["step"]), {}).update(known)
            return rows

    return pl.loggers.CSVLogger(folder, name="csv", version=0), read


@pytest.mark.filterwarnings("default")  # what MLflow says of its own database is not ours to mend
@pytest.mark.parametrize(("made", "exact"), [(tensorboard, False), (mlflow, True), (table, True)])
def test_quality_and_costs_read_back_are_those_of_the_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: Any, exact: bool
) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    logger, read = made(tmp_path)
    monitor = CostMonitor(save_dir=tmp_path / "costs", monitor="val/acc", mode="max", infer=False)
    trainer(pl, monitor, logger=logger).fit(classifier(pl), data(), data())
    assert monitor.run is not None
    rows = read()
    declared = monitor.run.header["indicators"]
    points = monitor.run.points.filter(polars.col("trigger") == "evaluate").to_dicts()
    assert len(points) == 2
    for point in points:
        row = rows[point["step"]]
        assert row["val/acc"] == pytest.approx(point["val/acc"])
        costs = {name: point[name] for name, row in declared.items() if row["kind"] != "static"}
        known = {name: amount for name, amount in costs.items() if amount is not None}
        assert {name for name in row if name.startswith("cost/")} == {f"cost/{name}" for name in known}
        for name, amount in known.items():
            # TensorBoard's scalars are float32.
            assert row[f"cost/{name}"] == (amount if exact else pytest.approx(amount, rel=1e-6)), name


@pytest.mark.filterwarnings("default")
def test_mlflow_has_who_the_run_is_once_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # another test's seed would be this run's
    logger, _ = mlflow(tmp_path)
    module = classifier(pl)
    module.save_hyperparameters({"width": 8})  # Lightning sends these for itself
    monitor = CostMonitor(
        save_dir=tmp_path / "costs",
        monitor="val/acc",
        mode="max",
        infer=False,
        hyperparameters={"sampler": "sobol", "api_key": "1234"},
        owner="the lab",
    )
    trainer(pl, monitor, logger=logger).fit(module, data(), data())
    assert monitor.run is not None
    kept = logger.experiment.get_run(logger.run_id).data
    ours = {name: value for name, value in kept.tags.items() if name.startswith("cost/")}
    git = {f"cost/git.{name}": str(value) for name, value in monitor.run.header["git"].items()}
    assert ours == {
        "cost/run_id": monitor.run.id,
        "cost/hyperparameters.sampler": "sobol",
        "cost/owner": "the lab",
        **git,
        **{f"cost/{name}": monitor.run.header[name] for name in ("script",) if name in monitor.run.header},
    }
    assert kept.params["width"] == "8"
    assert monitor.run.header["hyperparameters"] == {"width": 8, "sampler": "sobol"}

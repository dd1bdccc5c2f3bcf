"""Runs that trackers keep: MLflow, Trackio, TensorBoard, a Trainer's state; each written by the tracker itself."""

from __future__ import annotations

import json
import math
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from lightning_costs import compare, load_runs
from lightning_costs.sources import mlflow as mlflow_source
from lightning_costs.sources.columns import ReadOptions
from lightning_costs.sources.tracked import Reading, TrackedRun, run_of_tracker

pytestmark = pytest.mark.integration

STEPS = (0, 10, 20)


def rows(*, measured: bool, before: str = "") -> list[tuple[int, dict[str, float]]]:
    made = []
    for at, step in enumerate(STEPS, 1):
        row = {"val/acc": 0.2 * at, "loss": 1.0 / at}
        if measured:
            row |= {f"{before}cost/samples": 80.0 * at, f"{before}cost/energy_j": 2.5 * at}
        made.append((step, row))
    return made


def check_measured(run: Any) -> None:
    assert run.points["step"].to_list() == list(STEPS)
    assert run.points["val/acc"].to_list() == pytest.approx([0.2, 0.4, 0.6])
    assert run.points["samples"].to_list() == [80.0, 160.0, 240.0]
    assert (run.final["energy_j"], run.header["indicators"]["energy_j"]["unit"]) == (7.5, "j")


def check_unmeasured(run: Any, tracker: str) -> None:
    assert run.points["val/acc"].to_list() == pytest.approx([0.2, 0.4, 0.6])
    assert (
        run.header["missing"]["energy_j"] == f"logged to {tracker} without lightning-costs: its costs were not measured"
    )


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    client = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # the client sets it for the process
    monkeypatch.chdir(tmp_path)
    return client


def log_to(mlflow: Any, uri: str) -> None:
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("digits/small")
    for name, measured in (("ours", True), ("theirs", False)):
        with mlflow.start_run(run_name=name):
            mlflow.log_params({"lr": 0.1, "api_key": "sk-not-for-us"})
            for step, row in rows(measured=measured):
                mlflow.log_metrics(row, step=step)
            if measured:
                mlflow.set_tag("cost/run_id", "recorded")


def stores(tmp_path: Path) -> dict[str, str]:
    return {"sqlite": f"sqlite:///{tmp_path}/some.db", "files": (tmp_path / "mlruns").as_uri()}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("store", ["sqlite", "files"])
def test_a_store_of_mlflow_is_read_without_it(
    tmp_path: Path, mlflow: Any, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = stores(tmp_path)[store]
    log_to(mlflow, uri)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setitem(sys.modules, "mlflow", None)  # importing it raises
    ours, theirs = sorted(load_runs("mlflow:digits/small", monitor="val/acc", mode="max"), key=lambda run: run.name)
    check_measured(ours)
    check_unmeasured(theirs, "MLflow")
    assert (ours.name, ours.header["status"], ours.header["recorded_as"]) == ("ours", "finished", "recorded")
    assert ours.header["hyperparameters"] == {"lr": "0.1"}
    (one,) = load_runs("mlflow:digits/small/theirs")
    assert one.id == theirs.id
    with pytest.raises(ValueError, match="names no run there: expected one of"):
        load_runs("mlflow:digits/small/nobody")
    with pytest.raises(ValueError, match="names no experiment in"):
        load_runs("mlflow:letters")


@pytest.mark.filterwarnings("default")
def test_a_server_of_mlflow_says_what_its_store_does(tmp_path: Path, mlflow: Any) -> None:
    uri = stores(tmp_path)["sqlite"]
    log_to(mlflow, uri)
    by_client = mlflow_source._of_server(uri, "digits/small")
    by_file = mlflow_source._experiment(uri, "digits/small")
    assert by_client is not None
    assert by_file is not None
    key = lambda run: run.name  # noqa: E731
    for one, other in zip(sorted(by_client, key=key), sorted(by_file, key=key), strict=True):
        assert sorted(one.readings) == sorted(other.readings)
        assert (one.run_id, one.status, one.began_s, one.params) == (
            other.run_id,
            other.status,
            other.began_s,
            other.params,
        )


@pytest.mark.filterwarnings("default")
def test_a_folder_of_mlflow_is_found_in_folders(tmp_path: Path, mlflow: Any) -> None:
    log_to(mlflow, stores(tmp_path)["files"])
    assert sorted(run.name for run in load_runs(tmp_path)) == ["ours", "theirs"]


def test_a_store_that_is_not_there_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ValueError, match="no MLflow store at mlruns"):
        load_runs("mlflow:digits")
    assert mlflow_source._shown("https://me:secret@host/x") == "https://host"


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("prefix", ["", "train/"])
def test_a_project_of_trackio_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    make_trackio(tmp_path / "digits.db", prefix)
    ours, theirs = sorted(load_runs("trackio:digits", monitor="val/acc", mode="max"), key=lambda run: run.name)
    check_measured(ours)
    check_unmeasured(theirs, "Trackio")
    assert ours.header["hyperparameters"] == {"lr": 0.1}
    assert ours.points["runtime_s"].to_list() == [0.0, 1.0, 2.0]
    (one,) = load_runs("trackio:digits/ours")
    assert one.id == ours.id
    with pytest.raises(ValueError, match=r"names no project in .*one of digits"):
        load_runs("trackio:letters")


def make_trackio(file: Path, prefix: str) -> None:
    """As Trackio 0.43 writes it, and, with a prefix, as 0.2 did, which had no identities."""
    identified = bool(prefix)
    with sqlite3.connect(file) as store:
        run_id = "run_id TEXT NOT NULL, " if identified else ""
        store.execute(
            f"CREATE TABLE metrics (id INTEGER PRIMARY KEY, {run_id}timestamp TEXT, run_name TEXT, step INTEGER, "
            "metrics TEXT)"
        )
        store.execute(f"CREATE TABLE configs (id INTEGER PRIMARY KEY, {run_id}run_name TEXT, config TEXT)")
        for name in ("ours", "theirs"):
            who = ([f"id-{name}"] if identified else []) + [name]
            marks = ", ".join("?" * len(who))
            key = "run_id, run_name" if identified else "run_name"
            config = json.dumps({"lr": 0.1, "_Username": "somebody"}).encode()
            store.execute(f"INSERT INTO configs ({key}, config) VALUES ({marks}, ?)", [*who, config])
            for at, (step, row) in enumerate(rows(measured=name == "ours", before=prefix)):
                values = [*who, f"2026-01-01T00:00:0{at}+00:00", step, json.dumps(row).encode()]
                store.execute(
                    f"INSERT INTO metrics ({key}, timestamp, step, metrics) VALUES ({marks}, ?, ?, ?)", values
                )
    store.close()


@pytest.mark.filterwarnings("default")
def test_what_trackio_itself_wrote_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    pytest.importorskip("trackio", reason="trackio is not installed: pip install trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    script = (
        "import trackio, json, sys\n"
        "trackio.init(project='real', name='ours', config={'lr': 0.1})\n"
        f"for step, row in {rows(measured=True, before='train/')!r}: trackio.log(row, step=step)\n"
        "trackio.finish()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    (run,) = load_runs("trackio:real", monitor="val/acc", mode="max")
    check_measured(run)


def write_events(folder: Path, *, measured: bool, before: str = "") -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for step, row in rows(measured=measured, before=before):
            for name, value in row.items():
                writer.add_scalar(name, value, step)


@pytest.mark.filterwarnings("default")
def test_event_files_of_tensorboard_are_read_in_folders(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install tensorboard")
    write_events(tmp_path / "ours", measured=True, before="train/")
    write_events(tmp_path / "theirs", measured=False)
    ours, theirs = sorted(load_runs(tmp_path, monitor="val/acc", mode="max"), key=lambda run: run.name)
    check_measured(ours)
    check_unmeasured(theirs, "TensorBoard")
    assert "runtime_s" in theirs.final


def state(*, max_steps: int = 20) -> dict[str, Any]:
    history = [{"step": step, "epoch": 1.0, **row} for step, row in rows(measured=False)]
    counted = [row | {"num_input_tokens_seen": 100 * row["step"]} for row in history]
    return {"log_history": counted, "global_step": 20, "max_steps": max_steps, "stateful_callbacks": {}}


def test_the_last_state_of_a_trainer_is_its_run(tmp_path: Path) -> None:
    for number in (10, 20):
        folder = tmp_path / "out" / f"checkpoint-{number}"
        folder.mkdir(parents=True)
        held = state()
        held["log_history"] = [row for row in held["log_history"] if row["step"] <= number]
        (folder / "trainer_state.json").write_text(json.dumps(held))
    (run,) = load_runs(tmp_path, monitor="val/acc", mode="max")
    check_unmeasured(run, "Trainer")
    assert (run.name, run.header["status"]) == ("out", "finished")
    assert (run.final["steps"], run.final["tokens"]) == (20.0, 2000.0)
    (one,) = load_runs(tmp_path / "out" / "checkpoint-10" / "trainer_state.json")
    assert one.final["steps"] == 10.0


def test_trackers_stand_beside_each_other_and_what_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    make_trackio(tmp_path / "digits.db", "train/")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "trainer_state.json").write_text(json.dumps(state()))
    runs = load_runs(["trackio:digits", tmp_path / "out"], monitor="val/acc", mode="max")
    assert sorted(run.name for run in runs) == ["ours", "out", "theirs"]
    text = str(compare(runs))
    assert "ours" in text
    assert "out" in text
    for run, tracker in ((run, "Trainer" if run.name == "out" else "Trackio") for run in runs if run.name != "ours"):
        assert run.header["missing"]["flop"].startswith(f"logged to {tracker} without")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"log_history": 3}'])
def test_what_is_no_state_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "trainer_state.json"
    file.write_text(text)
    with pytest.raises(ValueError, match="is no trainer_state"):
        load_runs(file)


def test_the_time_of_an_evaluation_is_that_of_its_metric_whatever_else_counts_steps_of_its_own() -> None:
    def at(metric: str, *when: tuple[int, float]) -> list[Reading]:
        return [Reading(metric, step, 0.5, 1000.0 + time_s) for step, time_s in when]

    readings = at("val/acc", (100, 500.0), (200, 1000.0)) + at("system/gpu", *((k, 10.0 * k) for k in range(101)))
    readings += at("test/acc", (0, 1030.0))
    tracked = TrackedRun(tracker="MLflow", run_id="r", name="r", readings=readings)
    run = run_of_tracker(tracked, ReadOptions(monitor="val/acc", mode="max"))
    evaluated = run.points.filter(run.points["val/acc"].is_not_null())
    assert evaluated.select("step", "runtime_s").rows() == [(100, 500.0), (200, 1000.0)]
    assert run.final == {"runtime_s": 1030.0}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("how", ["file", "client"])
def test_infinity_in_a_database_of_mlflow_is_infinity(tmp_path: Path, mlflow: Any, how: str) -> None:
    uri = stores(tmp_path)["sqlite"]
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("e")
    with mlflow.start_run(run_name="r"):
        for step, value in enumerate([1.0, math.inf, math.nan, -math.inf]):
            mlflow.log_metric("val/loss", value, step=step)
    (run,) = (mlflow_source._of_server if how == "client" else mlflow_source._experiment)(uri, "e") or []
    assert [str(each.value) for each in sorted(run.readings, key=lambda each: each.step)] == [
        "1.0",
        "inf",
        "nan",
        "-inf",
    ]

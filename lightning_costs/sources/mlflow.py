"""Runs of MLflow: its folder of files and its SQLite are read as they are, a server is asked by MLflow's client."""

from __future__ import annotations

import math
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from lightning_costs.run.record import RunRecord
from lightning_costs.sources.columns import ReadOptions
from lightning_costs.sources.tracked import Reading, TrackedRun, run_of_tracker, selected
from lightning_costs.storage.loggers import PREFIX
from lightning_costs.storage.paths import SourcePath

#: How an experiment or a run of it is named on the command line.
MLFLOW = "mlflow:"
#: What each folder of a run holds in a store of files.
META = "meta.yaml"
_STATES = ("", "running", "running", "finished", "failed", "killed")
_RUN_ID = f"{PREFIX}run_id"


def read_mlflow(path: str, reading: ReadOptions) -> list[RunRecord]:
    """Runs of `mlflow:experiment` or `mlflow:experiment/run`, each by name or id.

    The store is that of MLFLOW_TRACKING_URI, else `mlflow.db` or `mlruns` here.

    Raises:
        ValueError: There is no such store, experiment or run.
    """
    asked = path.removeprefix(MLFLOW).strip("/")
    uri = os.environ.get("MLFLOW_TRACKING_URI") or ("sqlite:///mlflow.db" if Path("mlflow.db").is_file() else "mlruns")
    tries = [(asked, None), (asked.rpartition("/")[0], asked.rpartition("/")[2])]
    for experiment, run in tries if asked else []:  # an experiment's name may hold a slash
        runs = _experiment(uri, experiment) if experiment else None
        if runs is not None:
            return [run_of_tracker(each, reading) for each in selected(runs, run, path)]
    raise ValueError(
        f"{path} names no experiment in {_shown(uri)}: expected mlflow:experiment or mlflow:experiment/run; "
        "MLFLOW_TRACKING_URI says where the store is"
    )


def read_mlflow_folder(folder: SourcePath, reading: ReadOptions) -> RunRecord:
    """The run of a folder in a store of files."""
    return run_of_tracker(_of_files(Path(folder.path)), reading)


def is_run(meta: SourcePath) -> bool:
    """Whether a `meta.yaml` is that of a run, and not of an experiment."""
    return not meta.remote and meta.contains(b"run_id: ") and meta.contains(b"experiment_id: ")


def _shown(uri: str) -> str:
    """A store's address without what may be a secret in it."""
    url = urlsplit(uri)
    return f"{url.scheme}://{url.hostname}" if url.hostname else uri


def _experiment(uri: str, experiment: str) -> list[TrackedRun] | None:
    """Its runs; None if there is no such experiment."""
    if uri.startswith("sqlite:///"):
        return _of_sqlite(Path(uri.removeprefix("sqlite:///")), experiment)
    if uri.startswith("file:") or ("://" not in uri and not uri.startswith("databricks")):
        root = Path(url2pathname(urlsplit(uri).path)) if uri.startswith("file:") else Path(uri)
        return _of_folder(root, experiment)
    return _of_server(uri, experiment)


# A store of files ---------------------------------------------------------------------------------------------


def _of_folder(root: Path, experiment: str) -> list[TrackedRun] | None:
    if not root.is_dir():
        raise ValueError(f"no MLflow store at {root}: expected mlruns or mlflow.db here, or MLFLOW_TRACKING_URI")
    for meta in sorted(root.glob(f"*/{META}")):
        about = _meta(meta)
        if experiment in (str(about.get("name")), str(about.get("experiment_id"))):
            runs = sorted(meta.parent.glob(f"*/{META}"))
            return [_of_files(run.parent) for run in runs if _meta(run).get("lifecycle_stage") != "deleted"]
    return None


def _meta(file: Path) -> dict[str, Any]:
    import yaml

    about = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(about, dict):
        raise ValueError(f"{file} is no {META} of MLflow: expected a mapping")
    return about


def _of_files(folder: Path) -> TrackedRun:
    about = _meta(folder / META)
    state = about.get("status")
    return _tracked(
        str(about.get("run_id") or folder.name),
        str(about.get("run_name") or ""),
        _STATES[state] if isinstance(state, int) and 0 < state < len(_STATES) else str(state).lower(),
        about.get("start_time"),
        list(_readings(folder / "metrics")),
        _texts(folder / "params"),
        _texts(folder / "tags"),
    )


def _readings(folder: Path) -> Iterator[Reading]:
    for file in sorted(folder.rglob("*")):
        if not file.is_file():
            continue
        metric = file.relative_to(folder).as_posix()
        for line in file.read_text(encoding="utf-8").splitlines():
            parts = line.split()
            if len(parts) >= 2:
                yield Reading(metric, int(parts[2]) if len(parts) > 2 else 0, float(parts[1]), int(parts[0]) / 1000)


def _texts(folder: Path) -> dict[str, str]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_text(encoding="utf-8") for file in files}


# SQLite -------------------------------------------------------------------------------------------------------


def _of_sqlite(file: Path, experiment: str) -> list[TrackedRun] | None:
    if not file.is_file():
        raise ValueError(f"no MLflow store at {file}: there is no such file")
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as store:
        try:
            return _asked(store, experiment)
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{file} cannot be read as MLflow's SQLite: {error}") from error


def _asked(store: sqlite3.Connection, experiment: str) -> list[TrackedRun] | None:
    asked = "SELECT experiment_id FROM experiments WHERE name = ? OR CAST(experiment_id AS TEXT) = ?"
    held = store.execute(asked, (experiment, experiment)).fetchone()
    if held is None:
        return None
    about = (
        "SELECT run_uuid, name, status, start_time FROM runs WHERE experiment_id = ? AND lifecycle_stage = 'active' "
        "ORDER BY start_time"
    )
    measured = "SELECT key, step, value, timestamp, is_nan FROM metrics WHERE run_uuid = ? ORDER BY timestamp, step"
    runs = []
    for run_id, name, status, began in store.execute(about, held).fetchall():
        readings = [
            Reading(key, step, float("nan") if is_nan else _value(value), time / 1000)
            for key, step, value, time, is_nan in store.execute(measured, (run_id,))
        ]
        params = dict(store.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run_id,)).fetchall())
        tags = dict(store.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run_id,)).fetchall())
        runs.append(_tracked(run_id, name or "", str(status).lower(), began, readings, params, tags))
    return runs


def _value(stored: float) -> float:
    """A value as it was logged: MLflow's databases hold the largest finite number in the place of infinity."""
    return math.copysign(math.inf, stored) if abs(stored) == sys.float_info.max else stored


# A server -----------------------------------------------------------------------------------------------------


def _of_server(uri: str, experiment: str) -> list[TrackedRun] | None:
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise ImportError("an MLflow server is asked by its client: pip install mlflow-skinny") from error
    try:
        client = MlflowClient(tracking_uri=uri)
        held = client.get_experiment_by_name(experiment)
        if held is None and experiment.isdigit():
            held = client.get_experiment(experiment)
        return None if held is None else [_of_client(client, run) for run in _all_runs(client, held.experiment_id)]
    except MlflowException as error:
        raise ValueError(f"{_shown(uri)} cannot be read as MLflow's server: {error}") from error


def _all_runs(client: Any, experiment_id: str) -> Iterator[Any]:
    token = None
    while True:
        page = client.search_runs([experiment_id], page_token=token)
        yield from page
        if not (token := page.token):
            return


def _of_client(client: Any, run: Any) -> TrackedRun:
    histories = [client.get_metric_history(run.info.run_id, key) for key in run.data.metrics]
    readings = [Reading(m.key, m.step, _value(m.value), m.timestamp / 1000) for history in histories for m in history]
    readings.sort(key=lambda each: each.time_s or 0.0)
    info = run.info
    name = info.run_name or ""
    return _tracked(info.run_id, name, info.status.lower(), info.start_time, readings, run.data.params, run.data.tags)


def _tracked(
    run_id: str,
    name: str,
    status: str,
    began_ms: object,
    readings: list[Reading],
    params: dict[str, str],
    tags: dict[str, str],
) -> TrackedRun:
    return TrackedRun(
        tracker="MLflow",
        run_id=run_id,
        name=name or run_id,
        readings=readings,
        began_s=began_ms / 1000 if isinstance(began_ms, int) else None,
        status=status if status in _STATES and status else "unknown",
        params=params,
        recorded_as=tags.get(_RUN_ID),
    )

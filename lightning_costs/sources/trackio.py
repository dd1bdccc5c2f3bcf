"""Runs of Trackio: the SQLite file that it keeps of each project on this machine."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from lightning_costs.run.record import RunRecord
from lightning_costs.sources.columns import ReadOptions
from lightning_costs.sources.imported import number
from lightning_costs.sources.tracked import Reading, TrackedRun, run_of_tracker, seconds, selected

#: How a project or a run of it is named on the command line.
TRACKIO = "trackio:"


def read_trackio(path: str, reading: ReadOptions) -> list[RunRecord]:
    """Runs of `trackio:project` or `trackio:project/run`, by name or id.

    The files are in TRACKIO_DIR, else in `trackio` under HF_HOME, as Trackio's own.

    Raises:
        ValueError: There is no such project or run.
    """
    project, _, run = path.removeprefix(TRACKIO).strip("/").partition("/")
    file = _root() / f"{project}.db"
    if not project or not file.is_file():
        there = ", ".join(sorted(each.stem for each in _root().glob("*.db"))) or "none"
        raise ValueError(f"{path} names no project in {_root()}: expected trackio:project[/run], one of {there}")
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as store:
        try:
            runs = _runs(store)
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise ValueError(f"{file} cannot be read as Trackio's SQLite: {error}") from error
    return [run_of_tracker(each, reading) for each in selected(runs, run or None, path)]


def _root() -> Path:
    if folder := os.environ.get("TRACKIO_DIR"):
        return Path(folder)
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface") / "trackio"


def _runs(store: sqlite3.Connection) -> list[TrackedRun]:
    configs = {}
    if _columns(store, "configs"):
        key = _key(store, "configs")
        configs = {run: _object(text) for run, text in store.execute(f"SELECT {key}, config FROM configs")}
    key = _key(store, "metrics")
    readings: dict[str, list[Reading]] = {}
    names: dict[str, str] = {}
    asked = f"SELECT {key}, run_name, step, timestamp, metrics FROM metrics ORDER BY id"
    for run, name, step, time, text in store.execute(asked):
        names[run] = name
        for metric, value in _object(text).items():
            if (amount := number(value)) is not None:
                readings.setdefault(run, []).append(Reading(metric, step, amount, seconds(time)))
    return [
        TrackedRun(
            tracker="Trackio",
            run_id=str(run),
            name=name,
            readings=readings.get(run, []),
            params={key: value for key, value in configs.get(run, {}).items() if not key.startswith("_")},
        )
        for run, name in names.items()
    ]


def _columns(store: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in store.execute(f"PRAGMA table_info({table})")]


def _key(store: sqlite3.Connection, table: str) -> str:
    """What tells runs apart: older files know their names alone."""
    return "run_id" if "run_id" in _columns(store, table) else "run_name"


def _object(text: str | bytes) -> dict[str, Any]:
    held = json.loads(text)
    return held if isinstance(held, dict) else {}

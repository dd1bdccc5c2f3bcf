"""Runs that a tracker keeps as series of metrics, whichever tracker that is: MLflow, Trackio, TensorBoard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from lightning_costs.records.hyperparameters import plain_hyperparameters
from lightning_costs.run.record import RunRecord
from lightning_costs.sources.columns import ReadOptions
from lightning_costs.sources.csv_logger import LoggedRun, run_of_log
from lightning_costs.sources.imported import number, unmeasured
from lightning_costs.storage.loggers import PREFIX

#: Readings of one step that are no further apart were logged together.
_TOGETHER_S = 1.0


class Reading(NamedTuple):
    """A value of a metric, in the order in which they were logged; `time_s` is the Unix time."""

    metric: str
    step: int
    value: float
    time_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackedRun:
    """What a tracker keeps of a run.

    Args:
        tracker: Its name, for people.
        run_id: The run's identity there.
        name: What people call the run.
        readings: All values of all metrics.
        began_s: When it began, in Unix time; the first reading by default.
        status: One of the package's.
        params: Hyperparameters.
        recorded_as: The identity of the run folder that was written beside it.
        own: Costs that the tracker counts without any measurement.
    """

    tracker: str
    run_id: str
    name: str
    readings: Sequence[Reading]
    began_s: float | None = None
    status: str = "unknown"
    params: Mapping[str, Any] = field(default_factory=dict)
    recorded_as: str | None = None
    own: Sequence[str] = ()


def run_of_tracker(tracked: TrackedRun, reading: ReadOptions) -> RunRecord:
    """The run, with missing costs named if it was not measured; a step's last values are its point."""
    source = f"{tracked.tracker}, {tracked.name}"
    began_s = tracked.began_s
    if began_s is None:
        began_s = min((each.time_s for each in tracked.readings if each.time_s is not None), default=None)
    header: dict[str, Any] = {"recorded_as": tracked.recorded_as} if tracked.recorded_as else {}
    if params := plain_hyperparameters(tracked.params):
        header["hyperparameters"] = params
    if began_s is not None:
        header["created"] = datetime.fromtimestamp(began_s, UTC).isoformat(timespec="seconds")
    rows = _rows(tracked, began_s, reading.monitor)
    run = run_of_log(
        LoggedRun(rows=rows, step="step", stamped=False, totals=_ended(tracked, began_s, rows)),
        reading,
        run_id=tracked.run_id,
        name=tracked.name,
        source=source,
        status=tracked.status,
        setup={"origin": f"{tracked.tracker}, setup unknown"},
        **header,
    )
    if any(PREFIX in each.metric and each.metric not in tracked.own for each in tracked.readings):
        return run
    return unmeasured(run, f"logged to {tracked.tracker} without lightning-costs: its costs were not measured")


def _rows(tracked: TrackedRun, began_s: float | None, monitor: str | None) -> list[Mapping[str, object]]:
    """A row per step, with its metrics' last values and the time of the monitored one, else of the last of all.

    Other metrics may count steps of their own, as MLflow's of the system do, or none: such are logged at step 0.
    """
    timed = {each.metric for each in tracked.readings if each.metric == monitor}
    rows: dict[int, dict[str, object]] = {}
    for metric, step, value, time_s in tracked.readings:
        row = rows.setdefault(step, {"step": step})
        row[metric] = value
        if time_s is not None and began_s is not None and metric in (timed or (metric,)):
            row["_runtime"] = max(time_s - began_s, float(str(row.get("_runtime", 0.0))))
    ordered: list[Mapping[str, object]] = [rows[step] for step in sorted(rows)]
    return ordered


def _ended(tracked: TrackedRun, began_s: float | None, rows: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """Seconds until the last reading of any metric, unless that was logged with the last row's."""
    times_s = [each.time_s for each in tracked.readings if each.time_s is not None]
    if began_s is None or not times_s:
        return {}
    runtime_s = max(0.0, max(times_s) - began_s)
    last_s = number(rows[-1].get("_runtime"))
    return {} if last_s is not None and runtime_s - last_s < _TOGETHER_S else {"_runtime": runtime_s}


def selected(runs: Iterable[TrackedRun], wanted: str | None, path: str) -> list[TrackedRun]:
    """Those that are called so, by identity or name; all if nothing is wanted.

    Raises:
        ValueError: None is, with those that there are.
    """
    there = list(runs)
    found = [run for run in there if wanted in (None, run.run_id, run.name)]
    if not found:
        names = ", ".join(run.name for run in there[:12]) or "none"
        raise ValueError(f"{path} names no run there: expected one of {names}")
    return found


def seconds(time: object) -> float | None:
    """Unix time of an ISO 8601 text; None for anything else."""
    with suppress(TypeError, ValueError):
        return datetime.fromisoformat(str(time)).timestamp()
    return None

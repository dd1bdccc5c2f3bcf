"""Which quality metric runs are compared by, and which direction of it is better."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Literal, NamedTuple

from lightning_costs.analysis.schema import Mode
from lightning_costs.run.record import RunRecord


class Metric(NamedTuple):
    """A quality metric by the name it was logged under, and its better direction."""

    monitor: str
    mode: Mode


def agree_on_metric(
    runs: Sequence[RunRecord], monitor: str | None = None, mode: Literal["max", "min"] | None = None
) -> Metric:
    """The metric that was asked for, else the one that the runs' headers agree on.

    A header that names no metric has no say. A mode is taken from the headers that name this metric.

    Raises:
        ValueError: Where headers disagree or say nothing, a metric has no mode, or no run logged it.
    """
    if mode not in (None, "max", "min"):
        raise ValueError(f"mode must be 'max' or 'min', got {mode!r}")
    asked = monitor is not None
    if monitor is None:
        named = sorted({str(run.header["monitor"]) for run in runs if run.header.get("monitor") is not None})
        if len(named) > 1:
            raise ValueError(
                f"expected one metric for all runs, but their headers monitor {_listed(named)}; "
                f"choose one: compare(runs, monitor={named[0]!r}, mode=...)"
            )
        if not named:
            raise ValueError(
                "no metric to compare by: no run's header names one; "
                f"give monitor= and mode=; the runs logged {_listed(_logged(runs))}"
            )
        monitor = named[0]
    if mode is None:
        mode = _mode_of(runs, monitor)
    elif not asked:
        _check_mode(runs, monitor, mode)
    logged = _logged(runs)
    if logged and monitor not in logged:
        near = difflib.get_close_matches(monitor, logged, n=4, cutoff=0.4) or logged
        raise ValueError(f"no run logged {monitor!r}; give monitor= one of the metrics they logged: {_listed(near)}")
    return Metric(monitor, mode)


def declared_otherwise(runs: Sequence[RunRecord], labels: Sequence[str], metric: Metric) -> list[str]:
    """Labels of the runs whose headers name the other direction of this metric as the better one."""
    return [
        label
        for run, label in zip(runs, labels, strict=True)
        if run.header.get("monitor") == metric.monitor and run.header.get("mode") not in (None, metric.mode)
    ]


def _check_mode(runs: Sequence[RunRecord], monitor: str, mode: str) -> None:
    declared = {run.header.get("mode") for run in runs if run.header.get("monitor") == monitor} - {None}
    if declared and mode not in declared:
        raise ValueError(
            f"the runs declare mode {declared.pop()!r} for {monitor!r}, got {mode!r}: leave mode out, or, where the "
            f"runs are wrong, give monitor={monitor!r} beside it"
        )


def _mode_of(runs: Sequence[RunRecord], monitor: str) -> Mode:
    modes = {run.header.get("mode") for run in runs if run.header.get("monitor") == monitor} - {None}
    if modes == {"max"}:
        return "max"
    if modes == {"min"}:
        return "min"
    if modes:
        raise ValueError(
            f"expected one mode of {monitor!r}, but the runs' headers have "
            f"{_listed(sorted(map(str, modes)))}; give mode='max' or mode='min'"
        )
    raise ValueError(
        f"monitor={monitor!r} needs a mode, and no run's header has one for it; give mode='max' or mode='min'"
    )


def _logged(runs: Sequence[RunRecord]) -> list[str]:
    return sorted({name for run in runs for name in run.quality_columns})


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return (f"{shown} and {len(names) - most} more" if len(names) > most else shown) or "no metric at all"

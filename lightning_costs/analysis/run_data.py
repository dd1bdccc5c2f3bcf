"""What the runs of a comparison say, read into plain data: labels, declarations, curves and final amounts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lightning_costs.analysis.metric import Metric
from lightning_costs.analysis.schedule import planned_fraction
from lightning_costs.analysis.schema import Curve, Declaration, EarlyStop, RunRow, RunVerdict, Search
from lightning_costs.analysis.setup import run_settings
from lightning_costs.analysis.targets import EvaluationCurve
from lightning_costs.pricing.rates import RATES, UnitPrices
from lightning_costs.records.certainty import certainty
from lightning_costs.records.samples import Amount
from lightning_costs.run.record import RunRecord
from lightning_costs.run.verdict import verdict

#: What a header says beside columns that a report shows.
_ABOUT = (
    "attempts",
    "budget",
    "by_whom_s",
    "census",
    "communication",
    "created",
    "energy",
    "git",
    "memory_at_peak",
    "owner",
    "pipeline",
    "repriced",
    "roofline",
    "script",
    "seeds",
    "trace",
    "warmup",
    "written_by",
)


class RunData(NamedTuple):
    """One run, read: its row, and its evaluations with every counter and gauge at them."""

    run: RunRow
    course: EvaluationCurve


def unique_labels(runs: Iterable[RunRecord]) -> list[str]:
    """A label per run: its name, with its id where two have the same, numbered where needed."""
    runs = list(runs)
    names = Counter(run.name for run in runs)
    labels: list[str] = []
    for run in runs:
        label = run.name if names[run.name] == 1 else f"{run.name} ({run.id})"
        number = 2
        while label in labels or (label != run.name and label in names):
            label = f"{run.name} ({run.id}) #{number}"
            number += 1
        labels.append(label)
    return labels


def declarations(runs: Sequence[RunRecord]) -> tuple[dict[str, Declaration], list[str]]:
    """The indicators that any run declares, and those left out because runs mean different things by them.

    Args:
        runs: Their headers' declarations are joined; where wording differs, the first run's counts.
    """
    declared: dict[str, Declaration] = {}
    clashing: list[str] = []
    for run in runs:
        for name, row in run.header["indicators"].items():
            first = declared.setdefault(name, cast(Declaration, dict(row)))
            if any(first[key] != row[key] for key in ("unit", "kind", "better")) and name not in clashing:
                clashing.append(name)
    return {name: row for name, row in declared.items() if name not in clashing}, clashing


def read_run(
    run: RunRecord, label: str, metric: Metric, declared: Mapping[str, Declaration], group: str | None = None
) -> RunData:
    """Read one run under a metric."""
    final = run.final
    missing = {str(name): str(reason) for name, reason in run.header.get("missing", {}).items()}
    methods = {str(name): str(text) for name, text in run.header.get("methods", {}).items()}
    course = _course(run, metric.monitor, declared)
    quality = course.quality
    best = _best(quality, metric)
    step = None if best is None else course.steps[best]
    setup = run_settings(run.header)
    return RunData(
        run={
            "label": label,
            "id": run.id,
            "name": run.name,
            "status": str(run.header.get("status") or "unknown"),
            "source": run.source,
            "group": group,
            "best_quality": None if best is None else float(quality[best]),
            "best_step": None if step is None else int(step),
            "final_quality": float(quality[-1]) if len(quality) else None,
            "evaluations": len(quality),
            "final": {name: _amount(final.get(name)) for name in declared},
            "setup": setup,
            "missing": {name: text for name, text in missing.items() if name in declared},
            "methods": {name: text for name, text in methods.items() if name in declared},
            "certainty": {name: certainty(run.header, name) for name in declared if final.get(name) is not None},
            "intervals": {n: list(ends) for n, ends in (run.header.get("intervals") or {}).items() if n in declared},
            "rates": _rates(run.header.get("tariff") or {}),
            "planned_fraction": planned_fraction(setup, final),
            "stopped": _stop(run.header.get("stopped")),
            "search": _search(run.header.get("search")),
            "verdict": cast(RunVerdict, verdict(run.header, final).as_dict()),
            "about": {name: run.header[name] for name in _ABOUT if run.header.get(name)},
        },
        course=course,
    )


def downsample_curve(course: EvaluationCurve, most: int) -> Curve:
    """A run's evaluations as plain lists, at most about `most` of them.

    If there are more, those are kept that are evenly spaced, the first and the last among them: a curve for the
    eye. Figures are never made from it.
    """
    count = len(course.quality)
    kept: NDArray[np.int64] | slice = slice(None)
    if count > most:
        kept = np.unique(np.linspace(0, count - 1, most).round().astype(np.int64))
    steps = np.asarray(course.steps, dtype=object)[kept].tolist()
    return {
        "step": steps,
        "quality": course.quality[kept].tolist(),
        **{
            name: [None if value != value else value for value in column[kept].tolist()]
            for name, column in course.costs.items()
        },
    }


def _stop(stop: Mapping[str, Any] | None) -> EarlyStop | None:
    if not stop:
        return None
    return {
        "by": str(stop.get("by", "unknown")),
        "step": stop.get("step"),
        "column": str(stop.get("column", "unknown")),
        "limit": stop.get("limit"),
        "amount": stop.get("amount"),
    }


def _search(search: Mapping[str, Any] | None) -> Search | None:
    if not search:
        return None
    return {"trials": search.get("trials"), "under": search.get("under")}


def _rates(tariff: Mapping[str, Any]) -> dict[str, float]:
    rates = UnitPrices.of(tariff)
    return {name: float(rate) for name in RATES if (rate := getattr(rates, name)) is not None}


def _amount(value: Amount) -> Amount:
    """A final amount; not a number is no reading."""
    return None if value is None or math.isnan(value) else value


def _course(run: RunRecord, monitor: str, declared: Mapping[str, Declaration]) -> EvaluationCurve:
    """Step, quality and cost columns at the evaluations: only points where the metric was logged."""
    points = run.points
    if monitor in run.quality_columns and monitor in points.columns:
        quality = points.get_column(monitor).alias("quality")  # polars takes names such as '*' for patterns
        points = points.filter(quality.is_not_null())
    else:
        points = points.clear()
    names = [name for name, row in declared.items() if row["kind"] != "static"]
    there = [name for name in (monitor, *names) if name in points.columns]
    # Not a number stands for no reading; in the quality column none is left, so that there it is what was logged.
    table = {name: points.get_column(name).cast(pl.Float64).to_numpy() for name in there}
    nothing = np.full(points.height, np.nan)
    return EvaluationCurve(
        steps=points["step"].to_list(),
        quality=np.ascontiguousarray(table.get(monitor, nothing)),
        costs={name: table.get(name, nothing) for name in names},
    )


def _best(quality: NDArray[np.float64], metric: Metric) -> int | None:
    """Index of the first best quality; one that is not finite is none."""
    finite = np.isfinite(quality)
    if not finite.any():
        return None
    signed = quality if metric.mode == "max" else -quality
    return int(np.argmax(np.where(finite, signed, -np.inf)))

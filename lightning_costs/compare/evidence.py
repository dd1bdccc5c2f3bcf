"""What the runs of a comparison say, read into plain data: labels, declarations, curves and final amounts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import polars as pl

from lightning_costs.compare.metric import Metric
from lightning_costs.compare.schema import Curve, DeclarationRow, RunRow
from lightning_costs.compare.setup import flatten
from lightning_costs.core.rates import Rates
from lightning_costs.core.records import Amount, RunRecord


class Evidence(NamedTuple):
    """One run, read: its row and its curve."""

    run: RunRow
    curve: Curve


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


def declarations(runs: Sequence[RunRecord]) -> tuple[dict[str, DeclarationRow], list[str]]:
    """The indicators that any run declares, and those left out because runs mean different things by them.

    Args:
        runs: Their headers' declarations are joined; where wording differs, the first run's counts.
    """
    declared: dict[str, DeclarationRow] = {}
    clashing: list[str] = []
    for run in runs:
        for name, row in run.header["indicators"].items():
            mine = declared.setdefault(name, cast(DeclarationRow, dict(row)))
            if any(mine[key] != row[key] for key in ("unit", "kind", "better")) and name not in clashing:
                clashing.append(name)
    return {name: row for name, row in declared.items() if name not in clashing}, clashing


def read_run(run: RunRecord, label: str, metric: Metric, declared: Mapping[str, DeclarationRow]) -> Evidence:
    """Read one run under a metric.

    Args:
        run: The record.
        label: Its unique label.
        metric: The quality metric.
        declared: Columns to read.
    """
    final = run.final
    missing = {str(name): str(reason) for name, reason in run.header.get("missing", {}).items()}
    methods = {str(name): str(text) for name, text in run.header.get("methods", {}).items()}
    curve = _curve(run, metric.monitor, declared)
    best = _best(curve["quality"], metric)
    step = None if best is None else curve["step"][best]
    return Evidence(
        run={
            "label": label,
            "id": run.id,
            "name": run.name,
            "status": str(run.header.get("status") or "unknown"),
            "best_quality": None if best is None else curve["quality"][best],
            "best_step": None if step is None else int(step),
            "final_quality": curve["quality"][-1] if curve["quality"] else None,
            "final": {name: final.get(name) for name in declared},
            "setup": flatten(run.header.get("setup") or {}),
            "missing": {name: text for name, text in missing.items() if name in declared},
            "methods": {name: text for name, text in methods.items() if name in declared},
            "rates": _rates(run.header.get("tariff") or {}),
            "about": {name: run.header[name] for name in ("pipeline",) if run.header.get(name)},
        },
        curve=curve,
    )


def _rates(tariff: Mapping[str, Any]) -> dict[str, float]:
    rates = Rates.of(tariff)
    names = ("gco2e_per_kwh", "pue", "usd_per_device_h", "usd_per_node_h", "usd_per_kwh")
    return {name: float(rate) for name in names if (rate := getattr(rates, name)) is not None}


def _evaluations(run: RunRecord, monitor: str) -> pl.DataFrame:
    if monitor not in run.quality_columns or monitor not in run.points.columns:
        return run.points.clear()
    return run.points.filter(pl.col(monitor).is_not_null())


def _curve(run: RunRecord, monitor: str, declared: Mapping[str, DeclarationRow]) -> Curve:
    """Step, quality and cost columns at the evaluations: only points where the metric was logged."""
    points = _evaluations(run, monitor)

    def column(name: str) -> list[Amount]:
        if name not in points.columns:
            return [None] * points.height
        return points[name].cast(pl.Float64).to_list()

    costs = {name: column(name) for name, row in declared.items() if row["kind"] != "static"}
    return {"step": points["step"].to_list(), "quality": column(monitor), **costs}


def _best(quality: Sequence[Amount], metric: Metric) -> int | None:
    """Index of the first best quality; one that is not finite is none."""
    finite = [(index, value) for index, value in enumerate(quality) if value is not None and math.isfinite(value)]
    if not finite:
        return None
    sign = 1.0 if metric.mode == "max" else -1.0
    return max(finite, key=lambda pair: (sign * pair[1], -pair[0]))[0]

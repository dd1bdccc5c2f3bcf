"""Amounts below 0 of what cannot be below 0: marks of a missing reading, as published tables have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from lightning_costs.pricing.rates import PRICED
from lightning_costs.records.formatting import format_number
from lightning_costs.records.parse_unit import parse_unit
from lightning_costs.records.samples import Amount
from lightning_costs.records.units import COUNTS
from lightning_costs.run.record import RunRecord

#: Of these there is no less than nothing. Money, carbon, fractions, rates and units of one's own may have a sign.
_UNSIGNED = ("s", "j", "w", "bytes", "flop", "mac", *COUNTS)
#: What stands for 'missing' if all other amounts of a column are 0 or more.
_MARKS = (-1.0, -9.0, -99.0, -999.0, -9999.0)
#: Run's place among the runs to the lowest amount that was taken out of it.
Removed = dict[int, float]


def without_below_zero(runs: Sequence[RunRecord]) -> tuple[list[RunRecord], dict[str, Removed]]:
    """Runs in which an amount below 0 of what cannot be below 0 is missing, with its reason; what was taken out.

    A quantity that may have a sign keeps it, unless the one amount below 0 among the runs is a usual mark, such as -1.
    """
    below: dict[str, Removed] = {}
    for index, run in enumerate(runs):
        for name, lowest in _lowest(run).items():
            if lowest < 0:
                below.setdefault(name, {})[index] = lowest
    found = {name: places for name, places in below.items() if _impossible(name, places, runs)}
    if not found:
        return list(runs), {}
    return [
        _without(run, {n: p[index] for n, p in found.items() if index in p}) for index, run in enumerate(runs)
    ], found


def may_be_below_zero(name: str, unit: str) -> bool:
    """Whether an amount of a column may have a sign.

    Example:
        >>> may_be_below_zero("params", "params"), may_be_below_zero("ms", "ms"), may_be_below_zero("co2e_g", "g")
        (False, False, False)
        >>> may_be_below_zero("refund_usd", "usd"), may_be_below_zero("drift", "drift")
        (True, True)
    """
    if name in PRICED:
        return False
    try:
        return parse_unit(unit).unit not in _UNSIGNED
    except ValueError:  # 'GFLOPS', which are either of two
        return False


def _impossible(name: str, places: Removed, runs: Sequence[RunRecord]) -> bool:
    if not all(may_be_below_zero(name, str(runs[index].header["indicators"][name]["unit"])) for index in places):
        return True
    marks = {amount for index in places for amount in _amounts(runs[index], name) if amount < 0}
    others = (amount for run in runs if name in run.header["indicators"] for amount in _amounts(run, name))
    return len(marks) == 1 and marks <= set(_MARKS) and any(amount > 0 for amount in others)


def _lowest(run: RunRecord) -> dict[str, float]:
    """Column to its lowest amount."""
    statics: Mapping[str, Amount] = run.header.get("statics", {})
    declared = run.header["indicators"]
    found: dict[str, Any] = {
        column.name: column.min()
        for column in run.points.get_columns()
        if column.name in declared and column.dtype != pl.Null  # polars 1.17 knows no least of nothing
    }
    found |= {name: amount for name, amount in statics.items() if name in declared}
    return {name: amount for name, amount in found.items() if isinstance(amount, int | float)}


def _amounts(run: RunRecord, name: str) -> list[float]:
    statics: Mapping[str, Amount] = run.header.get("statics", {})
    if name in statics:
        known = [statics[name]]
    else:
        known = run.points[name].cast(pl.Float64).unique().to_list() if name in run.points.columns else []
    return [amount for amount in known if amount is not None]


def _without(run: RunRecord, lowest: Mapping[str, float]) -> RunRecord:
    if not lowest:
        return run
    header: dict[str, Any] = dict(run.header)
    statics = dict(header.get("statics", {}))
    statics |= dict.fromkeys(lowest.keys() & statics.keys())
    points = run.points.with_columns(
        pl.when(pl.col(name) >= 0).then(pl.col(name)).alias(name) for name in lowest if name in run.points.columns
    )
    header["statics"] = statics
    cleaned = replace(run, header=header, points=points)
    emptied = {name: amount for name, amount in lowest.items() if cleaned.final.get(name) is None}
    why = {
        name: f"{format_number(amount)} is written there, and no amount of it is below 0: "
        "taken for a mark that it is missing"
        for name, amount in emptied.items()
    }
    header["missing"] = {**header.get("missing", {}), **why}
    header["methods"] = {name: how for name, how in header.get("methods", {}).items() if name not in emptied}
    return replace(cleaned, header=header)

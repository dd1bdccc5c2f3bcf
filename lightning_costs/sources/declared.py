"""Checks of the declarations of foreign sources against their columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_costs.records.parse_unit import parse_unit
from lightning_costs.records.units import UNITS
from lightning_costs.run.record import RunRecord
from lightning_costs.sources.columns import CostSpec, ReadOptions, not_there


def parsed_costs(texts: str | Sequence[str]) -> tuple[CostSpec, ...]:
    """Costs from their texts.

    Example:
        >>> [cost.name for cost in parsed_costs(["params", "forward_mac=gmacs"])]
        ['params', 'forward_mac']
    """
    costs = tuple(CostSpec.parse(text) for text in ([texts] if isinstance(texts, str) else texts))
    names = [cost.name for cost in costs]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        columns = " and ".join(repr(cost.column) for cost in costs if cost.name == twice[0])
        raise ValueError(f"cost {twice[0]!r} is declared twice, as {columns}: give each a name of its own")
    return costs


def check_declared(reading: ReadOptions, runs: Sequence[RunRecord], left_out: Sequence[str]) -> None:
    """Refuse a cost, a unit or a metric that fits nothing: left out without a word it would seem compared."""
    seen, names = reading.seen, list(reading.seen.columns)
    for name, text in (reading.units or {}).items():
        if parse_unit(text).unit == text and text not in UNITS:
            seen.notes[f"--unit {name}={text}: {text!r} is no unit known here: numbers stay as they are"] = None
    ours = {name for run in runs for name in run.header["indicators"]}
    why = f"; {left_out[0]}" if left_out else ""
    for cost in reading.costs:
        if cost.name not in seen.costs and not (cost.name == cost.column and cost.name in ours):
            raise ValueError(f"--cost {cost.name}: no source has a column {_of(cost.column, names, ours)}{why}")
    for name in reading.units or {}:
        if name not in seen.units:
            costs = sorted({cost for run in runs for cost in run.header["indicators"]}) if names else []
            raise ValueError(
                f"--unit {name}: no cost of a table or log is called so: {_of(name, [*costs, *names], set())}{why}"
            )
    unlogged = names and runs and not any(run.quality_columns for run in runs)
    if unlogged and reading.monitor is not None and reading.monitor not in ours | seen.columns.keys():
        raise ValueError(
            f"--monitor {reading.monitor}: no source has a column {_of(reading.monitor, names, ours)}{why}"
        )


def _of(name: str, names: Sequence[str], ours: set[str]) -> str:
    there = list(dict.fromkeys([*names, *sorted(ours)]))
    return not_there(name, there) if there else f"{name!r}: only run folders were read, which hold all of it"


def scales_differ(reading: ReadOptions, runs: Sequence[RunRecord]) -> list[str]:
    """A word where the metric is a fraction in one table and in per cent in another, as its best values look."""
    if reading.monitor is None or reading.mode != "max" or not reading.seen.columns:
        return []
    best: dict[str, float] = {}
    for run in runs:
        if reading.monitor in run.quality_columns:
            amount = run.points[reading.monitor].max()
            if isinstance(amount, int | float) and math.isfinite(amount):
                best[run.source] = max(best.get(run.source, -math.inf), float(amount))
    shares = [source for source, amount in best.items() if 0 <= amount <= 1]
    percents = [source for source, amount in best.items() if 1.5 < amount <= 100]
    if not shares or not percents:
        return []
    return [
        f"{reading.monitor!r} is at most {max(best[source] for source in shares):.4g} in {shares[0]} and up to "
        f"{max(best[source] for source in percents):.4g} in {percents[0]}: fractions beside per cent compare wrongly"
    ]

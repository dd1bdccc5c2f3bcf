"""What a model costs over its life: trained once, then queried: linear in queries, so that two runs may break even.

Formula: footprint = (training + queries x inference) x intensity, with a PUE if one is given. The training cost is
all that was spent, work that restarts lost included; a query is one sample's forward pass, as `infer_energy_j` measured
it at the run's own batch. Source: Patterson et al. 2021, 'Carbon Emissions and Large Neural Network Training', section
2, which splits footprints so.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from typing import Any, Literal, NamedTuple

from lightning_costs.analysis.lifecycle_schema import BreakEven, Cheapest, Footprint, Lifecycle, LifecycleRun
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import Amount
from lightning_costs.run.record import RunRecord

#: Costs that training and queries have in common. Energy is IT energy; the others hold the PUE if one is given.
COLUMNS = ("energy_j", "co2e_g", "electricity_usd")
#: Numbers of queries that are reported by default.
QUERIES = (1e3, 1e6, 1e9)


class LinearCost(NamedTuple):
    """A cost that is paid once, and again at each query; in any one unit."""

    once: float
    each: float

    def at(self, queries: float) -> float:
        """The cost after a number of queries.

        Example:
            >>> LinearCost(100.0, 0.5).at(20)
            110.0
        """
        return self.once + queries * self.each


class BreakEvenPoint(NamedTuple):
    """How two linear costs stand to each other.

    `fewer` and `more` are 0 for the first and 1 for the second: which costs less below `queries` and above it; the
    same one twice if it costs less at every number.
    """

    outcome: Literal["breaks_even", "dominates", "equal"]
    queries: float | None = None
    fewer: int | None = None
    more: int | None = None


def break_even(first: LinearCost, second: LinearCost) -> BreakEvenPoint:
    """The number of queries at which two costs are equal, if one is cheaper at first and costs more at each query.

    Example:
        >>> break_even(LinearCost(100.0, 2.0), LinearCost(400.0, 0.5))
        BreakEvenPoint(outcome='breaks_even', queries=200.0, fewer=0, more=1)
        >>> break_even(LinearCost(100.0, 0.5), LinearCost(400.0, 2.0)).outcome
        'dominates'
    """
    if first == second:
        return BreakEvenPoint("equal")
    cheaper_once = None if first.once == second.once else int(second.once < first.once)
    cheaper_each = None if first.each == second.each else int(second.each < first.each)
    if cheaper_once is not None and cheaper_each is not None and cheaper_once != cheaper_each:
        queries = (second.once - first.once) / (first.each - second.each)
        if math.isfinite(queries):
            return BreakEvenPoint("breaks_even", queries, cheaper_once, cheaper_each)
    cheaper = cheaper_once if cheaper_once is not None else cheaper_each
    return BreakEvenPoint("dominates", None, cheaper, cheaper)


def cheapest(costs: Mapping[str, LinearCost]) -> list[Cheapest]:
    """Who costs least from how many queries on: the lower envelope of linear costs.

    Example:
        >>> cheapest({"small": LinearCost(1.0, 0.5), "large": LinearCost(7.0, 0.25), "worse": LinearCost(8.0, 0.5)})
        [{'from_queries': 0.0, 'labels': ['small']}, {'from_queries': 24.0, 'labels': ['large']}]
    """
    found: list[Cheapest] = []
    # Costing more per query than the present leader means costing more from here on: only cheaper queries are compared.
    rest, start = dict(costs), 0.0
    while rest:
        # The first round compares what training cost; each later one, who overtakes the leader first.
        if not found:
            leader = min(rest.values())
        else:
            start, leader = min((_meeting(leader, cost), cost) for cost in rest.values())
            if not math.isfinite(start):
                break
        if not found or start > found[-1]["from_queries"]:
            found.append({"from_queries": start, "labels": []})
        found[-1]["labels"] = [label for label, cost in costs.items() if cost == leader]
        rest = {label: cost for label, cost in rest.items() if cost.each < leader.each}
    return found


def _meeting(leader: LinearCost, other: LinearCost) -> float:
    """Where a cost that is cheaper at each query meets one that is cheaper until there."""
    return max(0.0, (other.once - leader.once) / (leader.each - other.each))


def lifecycle(
    runs: Mapping[str, RunRecord], queries: Sequence[float] = (), *, rated: Collection[str] | None = None
) -> Lifecycle:
    """The lifecycle of every run, and of every pair the number of queries at which they break even.

    Args:
        runs: By label, as spent; each is priced under the tariff of its header.
        queries: Numbers of queries to report costs at; by default `QUERIES`.
        rated: Runs with a quality, of which the cheapest are reported; by default all.

    Raises:
        ValueError: For a number of queries that is negative or not finite.
    """
    for number in queries:
        if not math.isfinite(number) or number < 0:
            raise ValueError(f"queries must be a finite number of at least 0, got {number!r}")
    lives = {label: _life(run) for label, run in runs.items()}
    lines = {
        column: {label: line for label, life in lives.items() if (line := _line(life, column)) is not None}
        for column in COLUMNS
    }
    at: list[Footprint] = [
        {
            "queries": float(number),
            "costs": {
                label: {
                    column: lines[column][label].at(number) if label in lines[column] else None for column in COLUMNS
                }
                for label in runs
            },
        }
        for number in dict.fromkeys(queries or QUERIES)
    ]
    return {
        "columns": [column for column in COLUMNS if lines[column]],
        "runs": lives,
        "pairs": [
            _pair(lives, lines[column], column, first, second)
            for first, second in combinations(runs, 2)
            for column in COLUMNS
            if lines[column]
        ],
        "cheapest": {
            column: cheapest({label: line for label, line in lines[column].items() if rated is None or label in rated})
            for column in COLUMNS
            if lines[column]
        },
        "at": at,
    }


def _life(run: RunRecord) -> LifecycleRun:
    """What training cost and what a query costs, and why either is missing."""
    header, final = run.header, run.final
    reasons: Mapping[str, str] = header.get("missing", {})
    infer_j = final.get("infer_energy_j")
    why = reasons.get("infer_energy_j") or "the energy of a forward pass was not measured in this run (infer=True does)"
    once = {column: final.get(column) for column in COLUMNS}
    each, unpriced = _query(infer_j, header.get("tariff") or {})
    missing = {}
    for column in COLUMNS:
        if not _finite(once[column]):
            missing[column] = f"training: {reasons.get(column, 'not measured in this run')}"
        elif not _finite(infer_j):
            missing[column] = f"inference: {why}"
        elif not _finite(each[column]):
            missing[column] = f"inference: {unpriced.get(column, 'not a number')}"
    batch = (header.get("inference") or {}).get("batch_samples")
    return {"once": once, "each": each, "missing": missing, "batch_samples": batch}


def _query(infer_j: Amount, recorded: Mapping[str, Any]) -> tuple[dict[str, Amount], dict[str, str]]:
    """What a query costs under a header's tariff, with the intensity that it resolved to then; why it has no price."""
    each: dict[str, Amount] = {**dict.fromkeys(COLUMNS), "energy_j": infer_j}
    grams = (recorded.get("intensity") or recorded).get("gco2e_per_kwh")
    try:
        tariff = Tariff(gco2e_per_kwh=grams, pue=recorded.get("pue"), usd_per_kwh=recorded.get("usd_per_kwh"))
    except ValueError as error:
        return each, dict.fromkeys(COLUMNS, f"the run's own tariff cannot be used ({error})")
    reasons: dict[str, str] = {}
    for column, way in (("co2e_g", tariff.co2e_g), ("electricity_usd", tariff.electricity_usd)):
        try:
            each[column] = None if infer_j is None else way(infer_j)
        except Missing as missing:
            reasons[column] = str(missing)
    if recorded.get("intensity_by_hour"):
        reasons["co2e_g"] = "a query has no hour; give gco2e_per_kwh= or a place for its carbon"
    return each, reasons


def _line(life: LifecycleRun, column: str) -> LinearCost | None:
    once, each = life["once"][column], life["each"][column]
    if column in life["missing"] or once is None or each is None:
        return None
    return LinearCost(once, each)


def _pair(
    lives: Mapping[str, LifecycleRun], lines: Mapping[str, LinearCost], column: str, first: str, second: str
) -> BreakEven:
    labels = (first, second)
    absent = [label for label in labels if label not in lines]
    pair: BreakEven = {
        "first": first,
        "second": second,
        "column": column,
        "outcome": "missing",
        "queries": None,
        "cost": None,
        "fewer": None,
        "more": None,
        "why": None,
    }
    if absent:
        pair["why"] = f"{absent[0]}: {lives[absent[0]]['missing'][column]}"
        return pair
    crossing = break_even(lines[first], lines[second])
    pair["outcome"], pair["queries"] = crossing.outcome, crossing.queries
    pair["cost"] = None if crossing.queries is None else lines[first].at(crossing.queries)
    pair["fewer"] = None if crossing.fewer is None else labels[crossing.fewer]
    pair["more"] = None if crossing.more is None else labels[crossing.more]
    return pair


def _finite(amount: Amount) -> bool:
    return amount is not None and math.isfinite(amount)

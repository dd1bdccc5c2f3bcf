"""What the page needs so that its reader can price every run under a tariff of their own.

Carbon and electricity are energy times a number, the cloud's price is device time times a number, and a reader's tariff
is one for all runs. So whoever is cheapest by energy is cheapest by carbon, and every front, rank and winner of a
priced column is that of the physical column behind it: the page's script multiplies and writes, and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import cast

from lightning_costs.compare.comparison import Comparison, summary_at_one_price
from lightning_costs.compare.leads import leading
from lightning_costs.compare.schema import DeclarationRow, Spend
from lightning_costs.core.rates import PRICED
from lightning_costs.report.chart_data import ChartData
from lightning_costs.report.tables import Cell, Line, ordered_names, quality_text

#: What a priced column is a multiple of, under one tariff for all.
BASES = {"co2e_g": "energy_j", "cloud_usd": "device_s", "electricity_usd": "energy_j"}
#: Where each rate's slider begins and ends, and its step: what grids, buildings and clouds come in.
SLIDES = {
    "gco2e_per_kwh": (0, 1000, 5),
    "pue": (1, 2, 0.01),
    "usd_per_device_h": (0.05, 15, 0.05),
    "usd_per_kwh": (0.01, 1, 0.01),
}
#: Numbers of a tariff that the reader can change.
RATES = ("gco2e_per_kwh", "pue", "usd_per_device_h", "usd_per_kwh")


def bases(cmp: Comparison, data: ChartData) -> dict[str, str]:
    """Priced columns that the reader can price, with the physical column behind each: those that some run has."""
    return {name: base for name, base in BASES.items() if base in data.axes and base in cmp.indicators}


def with_priced(cmp: Comparison, data: ChartData) -> Comparison:
    """The comparison with declarations of the columns that the reader can price, where runs declare none."""
    lacking = [name for name in bases(cmp, data) if name not in cmp.indicators]
    declared = {name: cast(DeclarationRow, PRICED[name].as_dict()) for name in lacking}
    return replace(
        cmp,
        indicators={**cmp.indicators, **declared},
        runs=[{**run, "final": {**run["final"], **dict.fromkeys(lacking)}} for run in cmp.runs],
    )


def recorded(cmp: Comparison) -> dict[str, float | None]:
    """The rates that all runs are under; None where they have none, or not the same."""
    found = {}
    for rate in RATES:
        numbers = {run["rates"].get(rate) for run in cmp.runs}
        found[rate] = numbers.pop() if len(numbers) == 1 else None
    return found


def room(lines: Sequence[Line], names: Mapping[str, str], cmp: Comparison) -> list[Line]:
    """Lines that a table has not, because nobody had priced them, and that the reader may: empty, for the script."""
    there = {line.name for line in lines}
    return [
        Line(name, cmp.indicators[name]["label"], cmp.indicators[name]["headline"], [Cell("")] * len(cmp.runs))
        for name in names
        if name not in there
    ]


def reader_data(cmp: Comparison, drawn: Comparison, data: ChartData) -> dict[str, object]:
    """What the page's script prices from.

    Args:
        cmp: The comparison, with declarations of the priced columns.
        drawn: The same with the runs that are drawn alone.
        data: The chart data of those.
    """
    names = bases(cmp, data)
    numbers = {label: number for number, label in enumerate(drawn.labels)}
    return {
        "recorded": recorded(cmp),
        "columns": {name: _column(cmp, data, name, base) for name, base in names.items()},
        "bases": {
            base: {
                "curves": [amount for label in drawn.labels for amount in _drawn(drawn, label, base, data.kept[label])],
                "finals": [run["final"][base] for run in drawn.runs],
                "every": [run["final"][base] for run in cmp.runs],
                "targets": [
                    {
                        "spends": [_spend(row["costs"][base][label]) for label in drawn.labels],
                        "winners": [numbers[label] for label in leading(row, base) if label in numbers],
                    }
                    if base in row["costs"]
                    else None
                    for row in drawn.targets
                ],
            }
            for base in dict.fromkeys(names.values())
        },
        "flips": [
            {
                "pair": [pair["first"], pair["second"]],
                "discordant": pair["discordant"],
                "n": pair["n"] * (pair["n"] - 1) // 2,
                "flips": pair["flips"],
            }
            for pair in cmp.ranks["pairs"]
            if pair["flips"] and all(cmp.indicators[name]["headline"] for name in (pair["first"], pair["second"]))
        ],
        "headlines": {
            name: cmp.indicators[name]["label"] for name in ordered_names(cmp, headline=True, role="indicator")
        },
        "summaries": _summaries(cmp, names),
    }


def _column(cmp: Comparison, data: ChartData, name: str, base: str) -> dict[str, object]:
    behind = data.axes[base]
    label = cmp.indicators[name]["label"]
    if cmp.curve == "to_reach":
        label = f"{label} to reach"
    return {
        "base": base,
        "field": f"p{list(BASES).index(name)}",
        "static": behind.static,
        "positive": behind.positive,
        "label": label,
        "unit": PRICED[name].unit,
    }


def _drawn(cmp: Comparison, label: str, base: str, kept: Sequence[int]) -> Sequence[float | None]:
    """A run's amounts at the evaluations that are drawn."""
    column = cmp.curves[label].get(base)
    return [None if column is None else column[at] for at in kept]


def _spend(spend: Spend) -> dict[str, object]:
    def point(pair: list[float | None] | None) -> list[object] | None:
        return None if pair is None else [pair[0], quality_text(pair[1])]

    return {
        "cost": spend["cost"] if spend["reached"] else None,
        "reached": spend["reached"],
        "end": spend["spent_at_end"],
        "miss": point(spend["last_miss"]),
        "hit": point(spend["first_hit"]),
    }


def _summaries(cmp: Comparison, names: Mapping[str, str]) -> dict[str, list[str]]:
    """The summary for every set of headline columns that the reader may price: their leaders are their bases'."""
    headline = [name for name in names if cmp.indicators[name]["headline"]]
    found = {}
    for count in range(1, len(headline) + 1):
        for chosen in combinations(headline, count):
            found[",".join(chosen)] = summary_at_one_price(cmp, {name: names[name] for name in chosen})
    return found

"""Which runs are drawn if they are very many: a rule for the eye, never for a figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.tables.tables import ordered_names

#: Most runs that have a line and a column of their own.
MOST_RUNS = 24
V = TypeVar("V")


def select_runs(cmp: ComparisonData, most: int = MOST_RUNS) -> list[str]:
    """The runs that are drawn, in the order of the comparison.

    All if they are few. Else, until there are `most`, in turns one of each: those with the best quality, those that
    needed least for a target, those cheapest by a headline cost, those on its Pareto front; then the others by quality.
    """
    if len(cmp.runs) <= most:
        return cmp.labels
    chosen: dict[str, None] = {}
    for label in _by_merit(cmp):
        if len(chosen) == most:
            break
        chosen[label] = None
    return [label for label in cmp.labels if label in chosen]


def restrict_to_runs(cmp: ComparisonData, labels: list[str]) -> ComparisonData:
    """The comparison with the rows, curves and cells of some runs; what was found over all of them stays."""
    chosen = set(labels)

    def of(by_label: Mapping[str, V]) -> dict[str, V]:
        return {label: value for label, value in by_label.items() if label in chosen}

    return replace(
        cmp,
        runs=[run for run in cmp.runs if run["label"] in chosen],
        curves=of(cmp.curves),
        targets=[{**row, "costs": {name: of(costs) for name, costs in row["costs"].items()}} for row in cmp.targets],
        setups={**cmp.setups, "different": {key: of(values) for key, values in cmp.setups["different"].items()}},
        lifecycle={
            **cmp.lifecycle,
            "runs": of(cmp.lifecycle["runs"]),
            "pairs": [pair for pair in cmp.lifecycle["pairs"] if {pair["first"], pair["second"]} <= chosen],
            "at": [{**row, "costs": of(row["costs"])} for row in cmp.lifecycle["at"]],
        },
    )


def evenly_spaced_indices(length: int, most: int) -> list[int]:
    """Which of `length` rows stay when at most `most` do (two at least): evenly spaced, the first and the last too.

    Example:
        >>> evenly_spaced_indices(9, 3), evenly_spaced_indices(3, 9)
        ([0, 4, 8], [0, 1, 2])
    """
    most = max(2, most)
    if length <= most:
        return list(range(length))
    return [round(index * (length - 1) / (most - 1)) for index in range(most)]


def _by_merit(cmp: ComparisonData) -> Iterator[str]:
    """Every run, in turns the next of each list: however long one is, the others have their turn."""
    names = ordered_names(cmp, headline=True, role="indicator")
    order = {label: number for number, label in enumerate(cmp.labels)}
    lists: list[Sequence[str]] = [cmp.best]
    lists += [row["winners"].get(name) or () for row in reversed(cmp.targets) for name in names]
    lists += [cmp.leaders[name]["labels"] for name in names if name in cmp.leaders]
    lists += [sorted(cmp.fronts.get(name, ()), key=order.__getitem__) for name in names]
    for place in range(max(map(len, lists), default=0)):
        yield from (one[place] for one in lists if place < len(one))
    yield from sorted(cmp.labels, key=lambda label: cmp.ranks["quality"].get(label, math.inf))

"""Cost-to-quality over all targets: who reaches each at least cost, and how far that holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_costs.analysis.schema import Mode, Sweep, WinnerRange
from lightning_costs.analysis.seeds import medians
from lightning_costs.analysis.targets import EvaluationCurve, Floats, first_hits

#: Most targets that are swept, and most costs that are held: runs x counters x targets.
MOST_TARGETS, MOST_COSTS = 256, 1_000_000
_LEAST_TARGETS = 16


def sweep(
    courses: Mapping[str, EvaluationCurve],
    counters: Mapping[str, str],
    mode: Mode,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Sweep:
    """Sweep the target over every value that some run's best quality so far takes.

    Complexity: O(points) to read, then runs x counters x targets, which is bounded by `MOST_COSTS`.
    """
    labels = list(courses)
    every = _records(list(courses.values()), mode)
    most = min(MOST_TARGETS, max(_LEAST_TARGETS, MOST_COSTS // max(1, len(labels) * len(counters))))
    targets = _thinned(every, most)
    costs = {name: np.full((len(labels), len(targets)), np.nan) for name in counters}
    for row, course in enumerate(courses.values()):
        hits = first_hits(course.quality, targets, mode)
        reached = hits < len(course.quality)
        for name in counters:
            costs[name][row, reached] = course.costs[name][hits[reached]]
            costs[name][row, ~reached] = np.inf
    by_group = {} if groups is None else {name: _of_groups(labels, costs[name], groups) for name in counters}
    return {
        "targets": targets.tolist(),
        "complete": len(targets) == len(every),
        "costs": {
            name: dict(zip(labels, ([None if c != c else c for c in row] for row in table.tolist()), strict=True))
            for name, table in costs.items()
        },
        "winners": {name: winner_ranges(labels, table, targets, counters[name]) for name, table in costs.items()},
        "group_winners": {
            name: winner_ranges(list(groups or ()), table, targets, counters[name]) for name, table in by_group.items()
        },
    }


def winner_ranges(labels: Sequence[str], costs: Floats, targets: Floats, better: str) -> list[WinnerRange]:
    """Runs of neighbouring targets that the same label, or the same ones who tie, reach at least cost.

    Example:
        >>> costs = np.array([[1.0, 2.0, np.inf], [3.0, 3.0, 3.0]])
        >>> winner_ranges(["a", "b"], costs, np.array([0.5, 0.6, 0.7]), "lower")
        [{'after': None, 'first': 0.5, 'upto': 0.6, 'labels': ['a']},
         {'after': 0.6, 'first': 0.7, 'upto': 0.7, 'labels': ['b']}]
    """
    if not costs.size:
        return []
    finite = np.isfinite(costs)
    signed = np.where(finite, costs if better == "lower" else -costs, np.inf)
    won = finite & (signed == signed.min(axis=0))
    changes = np.flatnonzero((won[:, 1:] != won[:, :-1]).any(axis=0)) + 1
    found: list[WinnerRange] = []
    for start, stop in zip((0, *changes.tolist()), (*changes.tolist(), len(targets)), strict=True):
        who = [labels[index] for index in np.flatnonzero(won[:, start]).tolist()]
        if who:
            found.append(
                {
                    "after": float(targets[start - 1]) if start else None,
                    "first": float(targets[start]),
                    "upto": float(targets[stop - 1]),
                    "labels": who,
                }
            )
    return found


def _records(courses: Sequence[EvaluationCurve], mode: Mode) -> Floats:
    """Every value at which a run's best quality so far improves, each once, easiest first."""
    sign = 1.0 if mode == "max" else -1.0
    found = [np.zeros(0)]
    for course in courses:
        signed = np.where(np.isfinite(course.quality), sign * course.quality, -np.inf)
        so_far = np.unique(np.maximum.accumulate(signed)) if len(signed) else signed
        found.append(so_far[np.isfinite(so_far)])
    return sign * np.unique(np.concatenate(found)) + 0.0


def _thinned(values: Floats, most: int) -> Floats:
    if len(values) <= most:
        return values
    chosen: NDArray[np.int64] = np.unique(np.linspace(0, len(values) - 1, most).round().astype(np.int64))
    return values[chosen]


def _of_groups(labels: Sequence[str], costs: Floats, groups: Mapping[str, Sequence[str]]) -> Floats:
    """[groups, targets]: medians with infinity taking part."""
    place = {label: index for index, label in enumerate(labels)}
    return np.array([medians(costs[[place[label] for label in members]]) for members in groups.values()])

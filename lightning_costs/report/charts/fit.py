"""Axes that fit the data, and groups of seeds as a median line and a band: for the eye, never for a figure."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.charts.data import finite
from lightning_costs.report.charts.selection import evenly_spaced_indices

#: Most points of a group's line that are drawn.
_POINTS = 60
#: The room that an axis leaves beyond its data, as a share of their range.
_ROOM = 0.04
Line = Sequence[tuple[float, float]]


class BandPoint(NamedTuple):
    """Of the seeds of one method, at one cost: the least, median and greatest quality."""

    x: float
    low: float
    middle: float
    high: float


def group_of_runs(cmp: ComparisonData) -> dict[str, str]:
    """Run label to its group; empty if no group has two runs, for then every run stands for itself."""
    members = cmp.groups["members"] if cmp.groups else {}
    if not any(len(labels) > 1 for labels in members.values()):
        return {}
    return {label: group for group, labels in members.items() for label in labels}


def quality_domain(cmp: ComparisonData) -> tuple[float, float] | None:
    """The qualities that an axis shows: the better half of every run's evaluations, and all targets.

    Early evaluations, which look alike for all runs, would otherwise take most of the axis.
    """
    sign = 1.0 if cmp.mode == "max" else -1.0
    worst, best = math.inf, -math.inf
    for label in cmp.labels:
        values = [sign * value for value in finite(cmp.curves[label]["quality"])]
        if values:
            worst, best = min(worst, median(values)), max(best, *values)
    if worst > best:
        return None
    worst = min(worst, *(sign * row["target"] for row in cmp.targets if row["reached"]), best)
    room = _ROOM * (best - worst) or abs(best) * _ROOM or 1.0
    low, high = sorted((sign * (worst - room), sign * (best + room)))
    return float(f"{low:.4g}"), float(f"{high:.4g}")


def cost_domain(
    costs: Sequence[float | None],
    qualities: Sequence[float | None],
    shown: tuple[float, float] | None,
    *,
    positive: bool,
) -> tuple[float, float] | None:
    """Least and greatest cost of the evaluations that the quality axis shows; None without two that differ.

    Args:
        costs: [evaluations].
        qualities: [evaluations].
        shown: The quality axis; None shows all.
        positive: Whether only costs above 0 are drawn.
    """
    low, high = shown or (-math.inf, math.inf)
    seen = [
        x
        for x, y in zip(costs, qualities, strict=True)
        if x is not None and y is not None and low <= y <= high and (x > 0 or not positive)
    ]
    return (min(seen), max(seen)) if seen and min(seen) < max(seen) else None


def band(lines: Sequence[Line]) -> list[BandPoint]:
    """The median line of seeds and their band, from the first cost at which every seed has a quality.

    A seed's quality at a cost is that of its last evaluation at or below it: nothing is interpolated, and a seed that
    ended keeps what it had reached.

    Example:
        >>> [(point.x, point.middle) for point in band([[(1.0, 0.1), (3.0, 0.5)], [(2.0, 0.3), (4.0, 0.7)]])]
        [(2.0, 0.2), (3.0, 0.4), (4.0, 0.6)]
    """
    if len(lines) < 2 or not all(lines):
        return []
    begin = max(line[0][0] for line in lines)
    costs = sorted({x for line in lines for x, _ in line if begin <= x})
    grids = [[x for x, _ in line] for line in lines]
    found = []
    for at in evenly_spaced_indices(len(costs), _POINTS):
        values = [line[bisect.bisect_right(grid, costs[at]) - 1][1] for line, grid in zip(lines, grids, strict=True)]
        found.append(BandPoint(costs[at], min(values), median(values), max(values)))
    return found

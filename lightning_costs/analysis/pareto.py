"""Pareto fronts: of quality against one cost, and in all of them together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lightning_costs.analysis.schema import Mode
from lightning_costs.records.samples import Amount

#: Most runs that are listed as dominating another one.
MOST_DOMINATORS = 5
_AT_ONCE = 1 << 22


def nondominated(
    costs: Sequence[Amount], qualities: Sequence[Amount], *, better: str = "lower", mode: Mode = "max"
) -> list[bool]:
    """Identify the rows that no other row dominates: the Pareto front of one cost and one quality.

    A row dominates another when it is at least as good in both columns and better in one (weak dominance with
    one strict inequality). Exact duplicates do not dominate each other, so that all of them stay.

    Args:
        costs: [rows]; None or NaN is a missing reading and leaves the row out: it neither is on the front nor
            dominates.
        qualities: [rows], missing ones likewise.
        better: Which direction of the cost is cheaper, 'lower' or 'higher'.
        mode: Which direction of the quality is better, 'max' or 'min'.

    Returns:
        [rows]: True where the row is on the front, in the order of the rows, which does not matter otherwise.

    Complexity: O(n log n) by one sweep from the cheapest row on.

    Example:
        >>> nondominated([1.0, 2.0, 2.0, 3.0], [0.7, 0.9, 0.8, 0.9])
        [True, True, False, False]
        >>> nondominated([1.0, 1.0, None], [0.7, 0.7, 0.9])
        [True, True, False]
    """
    if len(costs) != len(qualities):
        raise ValueError(f"expected as many qualities as costs, got {len(costs)} costs, {len(qualities)} qualities")
    cost_sign = 1.0 if better == "lower" else -1.0
    quality_sign = -1.0 if mode == "max" else 1.0
    rows = sorted(
        (cost_sign * cost, quality_sign * quality, index)
        for index, (cost, quality) in enumerate(zip(costs, qualities, strict=True))
        if cost is not None and quality is not None and not (math.isnan(cost) or math.isnan(quality))
    )
    front = [False] * len(costs)
    best: tuple[float, float] | None = None
    for cost, quality, index in rows:
        # Sorted, so that a row can only be dominated by the last one on the front, unless it equals it.
        if best is None or quality < best[1] or (cost, quality) == best:
            front[index] = True
            best = (cost, quality)
    return front


def jointly_nondominated(columns: Sequence[Sequence[float]]) -> tuple[list[bool], list[list[int]], list[int]]:
    """Identify the rows that no other row dominates in all columns together, lower being better.

    Args:
        columns: [columns][rows], without a missing value.

    Returns:
        [rows]: whether the row is on the joint front; the first rows that dominate it; how many do.

    Complexity: O(rows^2 x columns), memory bounded.

    Example:
        >>> jointly_nondominated([[1.0, 2.0, 2.0], [5.0, 3.0, 4.0]])
        ([True, True, False], [[], [], [1]], [0, 0, 1])
    """
    table = np.array(columns, dtype=np.float64).T
    rows, width = table.shape
    by: list[list[int]] = []
    count: list[int] = []
    step = max(1, _AT_ONCE // max(1, rows * width))
    for start in range(0, rows, step):
        own = table[start : start + step, None, :]
        no_worse, better = (table <= own).all(axis=2), (table < own).any(axis=2)
        dominated = np.atleast_2d(no_worse & better)
        by += [np.flatnonzero(row)[:MOST_DOMINATORS].tolist() for row in dominated]
        count += dominated.sum(axis=1).tolist()
    return [not dominators for dominators in count], by, count

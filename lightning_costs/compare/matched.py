"""Matched comparisons: pairs of runs that are alike by one indicator, and what that hides of the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_costs.compare.schema import Hidden, Matched, MatchedPair, MatchedRow
from lightning_costs.core.records import Amount

Floats = NDArray[np.float64]
TOLERANCE = 0.05
#: Most pairs that are listed by an indicator, and most that are looked at to tell what they hide.
MOST_LISTED, MOST_PAIRS = 20, 20_000


def matched(
    labels: Sequence[str],
    finals: Mapping[str, Sequence[Amount]],
    best: Sequence[Amount],
    tolerance: float = TOLERANCE,
) -> Matched:
    """Find the pairs of runs that every indicator would call alike.

    Args:
        labels: [runs].
        finals: Indicator to amounts [runs].
        best: [runs]: best quality.
        tolerance: Two amounts are alike where the larger is at most 1 + tolerance times the smaller. Amounts of 0
            are like each other; below 0 nothing is.

    Complexity: O(runs x log runs) to count the pairs, and the pairs looked at (at most `MOST_PAIRS`) x indicators.
    """
    names = list(finals)
    table = np.array([[math.nan if a is None else a for a in finals[name]] for name in names]).reshape(
        len(names), len(labels)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.where(np.isfinite(table) & (table > 0), np.log(table), np.nan)
    rows = [_row(index, names, labels, table, logs, best, tolerance) for index in range(len(names))]
    return {"tolerance": tolerance, "rows": [row for row in rows if row["pairs"]]}


def pairs_within(column: Floats, tolerance: float, most: int = MOST_PAIRS) -> tuple[NDArray[np.int64], int]:
    """Pairs of rows with max <= min x (1 + tolerance), the closest where there are more than `most`, and how many.

    Args:
        column: [runs]; NaN, infinite and negative ones have no pair.
        tolerance: At least 0.
        most: Bound of the pairs returned.

    Returns:
        [pairs, 2] of row numbers, lower first, and the number of all pairs.

    Example:
        >>> found, count = pairs_within(np.array([100.0, 104.0, 200.0]), 0.05)
        >>> found.tolist(), count
        ([[0, 1]], 1)
    """
    rows = np.flatnonzero(np.isfinite(column) & (column >= 0))
    rows = rows[np.argsort(column[rows], kind="stable")]
    ordered = column[rows]
    ends = np.searchsorted(ordered, ordered * (1.0 + tolerance), side="right")
    widths = ends - np.arange(len(rows)) - 1
    count = int(widths.sum())
    if count > most:
        # The closest pairs are neighbours in the order: look at as many neighbours of each row as the bound allows.
        widths = np.minimum(widths, max(1, most // len(rows)))
    first = np.repeat(np.arange(len(rows)), widths)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(widths) - widths, widths)
    return np.stack([rows[first], rows[second]], axis=1)[:most], count


def _row(
    index: int,
    names: Sequence[str],
    labels: Sequence[str],
    table: Floats,
    logs: Floats,
    best: Sequence[Amount],
    tolerance: float,
) -> MatchedRow:
    pairs, count = pairs_within(table[index], tolerance)
    apart = logs[:, pairs[:, 1]] - logs[:, pairs[:, 0]]
    others = [other for other in range(len(names)) if other != index]
    # How much a pair hides: its largest ratio by any other indicator.
    sizes = np.where(np.isnan(apart[others]), 0.0, np.abs(apart[others]))
    hidden = sizes.max(axis=0) if others else np.zeros(len(pairs))
    order = np.argsort(-hidden, kind="stable")[:MOST_LISTED]
    return {
        "column": names[index],
        "pairs": count,
        "looked_at": len(pairs),
        "listed": [_pair(pairs[at], index, names, labels, table, best) for at in order],
        "hides": {
            names[other]: told
            for other in others
            if (told := _hidden(np.abs(apart[other]), pairs, labels, tolerance)) is not None
        },
    }


def _pair(
    pair: NDArray[np.int64],
    index: int,
    names: Sequence[str],
    labels: Sequence[str],
    table: Floats,
    best: Sequence[Amount],
) -> MatchedPair:
    a, b = int(pair[0]), int(pair[1])
    low, high = float(table[index, a]), float(table[index, b])
    return {
        "a": labels[a],
        "b": labels[b],
        "ratio": high / low if low else 1.0,
        "quality": [best[a], best[b]],
        "others": {
            name: _ratio(float(table[other, a]), float(table[other, b]))
            for other, name in enumerate(names)
            if other != index
        },
    }


def _ratio(a: float, b: float) -> Amount:
    return b / a if 0 < a < math.inf and 0 < b < math.inf else None


def _hidden(apart: Floats, pairs: NDArray[np.int64], labels: Sequence[str], tolerance: float) -> Hidden | None:
    known = ~np.isnan(apart)
    if not known.any():
        return None
    most = int(np.argmax(np.where(known, apart, -1.0)))
    return {
        "differ": int((apart[known] > math.log1p(tolerance)).sum()),
        "n": int(known.sum()),
        "most": math.exp(apart[most]),
        "example": [labels[index] for index in pairs[most]],
    }

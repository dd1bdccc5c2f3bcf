"""Pairs of rows that stand near each other in one column: counted, and the widest found, without listing them all.

Rows are in the order of that column, and row i is near the rows after it up to `ends[i]`: a window.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def width(ends: Indices) -> int:
    """How many pairs the windows hold."""
    return int((ends - np.arange(len(ends)) - 1).sum())


def first_pairs(ends: Indices, most: int) -> list[tuple[int, int]]:
    """Pairs of the first windows, at most `most`."""
    found: list[tuple[int, int]] = []
    for row in np.flatnonzero(ends > np.arange(len(ends)) + 1).tolist():
        found += [(row, other) for other in range(row + 1, min(int(ends[row]), row + 1 + most - len(found)))]
        if len(found) == most:
            break
    return found


def count_within(values: Floats, low: Floats, high: Floats, ends: Indices) -> int:
    """Count the pairs (i, j) of the windows with low[i] <= values[j] <= high[i].

    Args:
        values: [rows], finite.
        low: [rows].
        high: [rows], at least `low`.
        ends: [rows]: the window of row i holds the rows from i + 1 up to before ends[i].

    Complexity: O(rows x log rows).

    Example:
        >>> values = np.array([1.0, 9.0, 2.0])
        >>> count_within(values, values - 1, values + 1, np.array([3, 3, 3]))
        1
    """
    ordered = np.unique(values)
    ranks = np.searchsorted(ordered, values)
    starts = np.arange(len(values)) + 1
    upto, below = np.searchsorted(ordered, high, side="right"), np.searchsorted(ordered, low, side="left")
    positions, bounds = np.concatenate([ends, ends, starts, starts]), np.concatenate([upto, below, upto, below])
    a, b, c, d = _count_below(ranks, positions, bounds).reshape(4, len(values)).sum(axis=1).tolist()
    return int(a - b - c + d)


def widest_pairs(values: Floats, ends: Indices, most: int) -> list[tuple[int, int]]:
    """The pairs (i, j) of the windows whose values are furthest apart, the furthest first, at most `most`.

    Pairs of equal values are none.

    Args:
        values: [rows], finite.
        ends: [rows]: the window of row i holds the rows from i + 1 up to before ends[i].
        most: At least 1.

    Complexity: O(rows x log rows + most x rows).

    Example:
        >>> widest_pairs(np.array([1.0, 9.0, 2.0]), np.array([3, 3, 3]), 2)
        [(0, 1), (1, 2)]
    """
    rows = np.flatnonzero(ends > np.arange(len(ends)) + 1)
    heap: list[tuple[float, int, int, int, int, float]] = []

    def push(row: int, start: int, stop: int, sign: float) -> None:
        if start < stop:
            at = start + int(np.argmax(sign * values[start:stop]))
            apart = float(sign * (values[at] - values[row]))
            if apart > 0:
                heapq.heappush(heap, (-apart, row, at, start, stop, sign))

    for sign in (1.0, -1.0):
        apart = _greatest(sign * values, rows + 1, ends[rows]) - sign * values[rows]
        # No other row holds one of the widest pairs: as many rows have a wider one.
        for index in np.argsort(-apart, kind="stable")[:most].tolist():
            push(int(rows[index]), int(rows[index]) + 1, int(ends[rows[index]]), sign)
    found: list[tuple[int, int]] = []
    while heap and len(found) < most:
        _, row, at, start, stop, sign = heapq.heappop(heap)
        found.append((row, at))
        push(row, start, at, sign)
        push(row, at + 1, stop, sign)
    return found


def _count_below(ranks: Indices, positions: Indices, bounds: Indices) -> Indices:
    """[queries]: how many of the first `positions` ranks are below `bounds`, by a wavelet matrix.

    Source: Claude, Navarro and Ordonez 2015, 'The wavelet matrix' (doi:10.1016/j.is.2014.06.002).
    """
    counted = np.zeros(len(positions), dtype=np.int64)
    for bit in reversed(range(len(ranks).bit_length())):
        ones = (ranks >> bit) & 1
        zeros = np.concatenate([[0], np.cumsum(1 - ones)])
        before = zeros[positions]
        above = (bounds >> bit) & 1 == 1
        counted += np.where(above, before, 0)
        positions = np.where(above, zeros[-1] + positions - before, before)
        ranks = np.concatenate([ranks[ones == 0], ranks[ones == 1]])
    return counted


def _greatest(values: Floats, starts: Indices, stops: Indices) -> Floats:
    """[queries]: the greatest value from `starts` up to before `stops`, none of which is empty, by a sparse table."""
    spans = stops - starts
    found = np.empty(len(starts))
    table, size = values, 1
    while len(starts):
        here = (spans >= size) & (spans < 2 * size)
        found[here] = np.maximum(table[starts[here]], table[stops[here] - size])
        if 2 * size > len(values):
            break
        table, size = np.maximum(table[:-size], table[size:]), 2 * size
    return found

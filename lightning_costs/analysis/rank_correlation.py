"""Where indicators disagree about which run is cheaper: rank correlation and the pairs of runs that flip."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_costs.analysis.agreement_schema import Counts, RankPair
from lightning_costs.analysis.rounding import Orders, doubt, orders, spearman_range
from lightning_costs.records.samples import Amount

Floats = NDArray[np.float64]
#: Most pairs of runs that are listed for two indicators; counts are always complete.
MOST_FLIPS = 50
#: Pairs of runs that are compared at once: float32 counts them exactly up to 2**24.
_AT_ONCE = 1 << 20


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation with average ranks for ties; None where a side is constant.

    Formula: Pearson's correlation of the ranks, in integers (ranks doubled), so that agreement is exactly 1.

    Example:
        >>> spearman([1.0, 2.0, 3.0], [10.0, 30.0, 20.0])
        0.5
        >>> spearman([1.0, 2.0], [5.0, 5.0]) is None
        True
    """
    return _correlation(_doubled_ranks(np.asarray(first, float)), _doubled_ranks(np.asarray(second, float)))


def kendall(first: Sequence[float], second: Sequence[float]) -> tuple[float | None, int, int, int]:
    """Kendall's tau-b, and the pairs behind it.

    Formula: (C - D) / sqrt((P - T1)(P - T2)) over all P pairs, with T1 and T2 the pairs tied in one column.

    Returns:
        tau_b (None where a side is constant), concordant pairs, discordant pairs, pairs tied in a column.

    Example:
        >>> kendall([1.0, 2.0, 3.0], [1.0, 1.0, 0.0])
        (-0.816..., 0, 2, 1)
    """
    counted = _count(np.asarray([first, second], dtype=np.float64))
    return (counted.tau(0, 1), *counted.pairs(0, 1))


def discordant_pairs(
    labels: Sequence[str], first: Sequence[float], second: Sequence[float], most: int = MOST_FLIPS
) -> list[list[str]]:
    """The pairs of runs whose order flips: [a, b] where a is lower by `first` and b by `second`.

    Example:
        >>> discordant_pairs(["small", "large"], [1.0, 2.0], [9.0, 3.0])
        [['small', 'large']]
    """
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    found: list[list[str]] = []
    # Where many pairs flip, the first few runs have enough of them.
    start, rows = 0, 16
    while start < len(x) and len(found) < most:
        part = slice(start, start + rows)
        here = np.argwhere((x[part, None] < x) & (y[part, None] > y))[: most - len(found)]
        found += [[labels[start + i], labels[j]] for i, j in here.tolist()]
        start, rows = start + rows, min(4 * rows, max(16, _AT_ONCE // len(x)))
    return found


def average_ranks(values: Sequence[Amount]) -> list[float | None]:
    """Rank of each value, 1 for the lowest, equal ones sharing their average rank; None for what is not finite.

    Example:
        >>> average_ranks([3.0, 1.0, None, 1.0])
        [3.0, 1.5, None, 1.5]
    """
    column = np.array([math.nan if value is None else value for value in values], dtype=np.float64)
    finite = np.isfinite(column)
    ranks = (_doubled_ranks(column[finite]) + finite.sum() + 1) / 2
    placed = iter(ranks.tolist())
    return [next(placed) if there else None for there in finite.tolist()]


def lower_is_cheaper(amounts: Sequence[Amount], better: str) -> Floats:
    """[runs]: amounts so that lower is cheaper; NaN for what is missing or not finite."""
    column = np.array([math.nan if amount is None else amount for amount in amounts], dtype=np.float64)
    column[~np.isfinite(column)] = math.nan
    return column if better == "lower" else -column


def rank_pairs(
    labels: Sequence[str],
    finals: Mapping[str, Sequence[Amount]],
    better: Mapping[str, str],
    groups: Sequence[str | None] | None = None,
    printed: Sequence[bool] | None = None,
) -> list[RankPair]:
    """Compare the orders that indicators put the same runs in, cheapest first, for every pair of indicators.

    Args:
        labels: [runs].
        finals: Indicator to amounts [runs]; a run takes part in a pair if it has finite amounts of both.
        better: Indicator to the cheaper direction, 'lower' or 'higher'.
        groups: [runs], to count pairs of runs within groups apart from those across.
        printed: [runs]: whose figures may have been rounded when they were printed; by default all.

    Complexity: O(runs^2 x indicators^2) in one matrix product, memory bounded.
    """
    names = list(finals)
    columns = np.array([lower_is_cheaper(finals[name], better[name]) for name in names]).reshape(
        len(names), len(labels)
    )
    counted = _count(columns, groups)
    ranks = _Ranks(columns, np.ones(len(labels), dtype=bool) if printed is None else np.asarray(printed, dtype=bool))
    found = []
    for i, first in enumerate(names):
        for j in range(i + 1, len(names)):
            concordant, discordant, ties = counted.pairs(i, j)
            within, across = counted.split(i, j)
            rounded = ranks.rounded(i, j)
            found.append(
                RankPair(
                    first=first,
                    second=names[j],
                    spearman=ranks.spearman(i, j),
                    tau_b=counted.tau(i, j),
                    concordant=concordant,
                    discordant=discordant,
                    ties=ties,
                    n=int(counted.n[i, j]),
                    flips=discordant_pairs(labels, columns[i], columns[j]) if discordant else [],
                    within=within,
                    across=across,
                    rounded=None if rounded is None else [rounded[0], rounded[1]],
                    rounded_exactly=None if rounded is None else rounded[2],
                )
            )
    return found


class _Counted(NamedTuple):
    """[indicators, indicators] each: over pairs of runs with finite both, by the sum of their signs' products.

    `signed` is concordant - discordant, `untied` concordant + discordant, `first` pairs not tied by the row's
    indicator; `n` runs have both. The others count pairs of runs within a group alone.
    """

    n: Floats
    signed: Floats
    untied: Floats
    first: Floats
    n_within: Floats | None
    signed_within: Floats | None
    untied_within: Floats | None

    def pairs(self, i: int, j: int) -> tuple[int, int, int]:
        all_pairs = int(self.n[i, j]) * (int(self.n[i, j]) - 1) // 2
        return _pair_counts(self.signed[i, j], self.untied[i, j], all_pairs)

    def tau(self, i: int, j: int) -> float | None:
        untied = self.first[i, j] * self.first[j, i]
        return float(self.signed[i, j]) / math.sqrt(untied) if untied else None

    def split(self, i: int, j: int) -> tuple[Counts | None, Counts | None]:
        if self.n_within is None or self.signed_within is None or self.untied_within is None:
            return None, None
        inside = _pair_counts(self.signed_within[i, j], self.untied_within[i, j], int(self.n_within[i, j]))
        outside = tuple(whole - part for whole, part in zip(self.pairs(i, j), inside, strict=True))
        return _counts(*inside), _counts(*outside)


def _pair_counts(signed: float, untied: float, pairs: int) -> tuple[int, int, int]:
    concordant, discordant = round(untied + signed) // 2, round(untied - signed) // 2
    return concordant, discordant, pairs - concordant - discordant


def _counts(concordant: int, discordant: int, ties: int) -> Counts:
    return {"concordant": concordant, "discordant": discordant, "ties": ties}


def _count(columns: Floats, groups: Sequence[str | None] | None = None) -> _Counted:
    """Count pairs of runs for all pairs of indicators at once.

    Args:
        columns: [indicators, runs]; NaN leaves a run out.
        groups: [runs]; None is a group of its own.
    """
    indicators, runs = columns.shape
    there = ~np.isnan(columns)
    shape = (indicators, indicators)
    signed, untied, first = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    inside = None if groups is None else tuple(np.zeros(shape) for _ in range(3))
    number = {group: index for index, group in enumerate(dict.fromkeys(groups or ()))}
    codes = np.array([-1 - i if g is None else number[g] for i, g in enumerate(groups or ())])
    rows = max(1, min(_AT_ONCE // max(1, runs), 8 * _AT_ONCE // max(1, runs * indicators)))
    for start in range(0, runs, rows):
        part = slice(start, start + rows)
        own = columns[:, part, None]
        signs = (own > columns[:, None, :]).astype(np.float32) - (own < columns[:, None, :]).astype(np.float32)
        signs = signs.reshape(indicators, own.shape[1] * runs)
        sizes = np.abs(signs)
        both = (there[:, part, None] & there[:, None, :]).reshape(signs.shape).astype(np.float32)
        signed += signs @ signs.T
        untied += sizes @ sizes.T
        first += sizes @ both.T
        if inside is not None:
            same = (codes[part, None] == codes).reshape(-1).astype(np.float32)
            inside[0][...] += (both * same) @ both.T
            inside[1][...] += (signs * same) @ signs.T
            inside[2][...] += (sizes * same) @ sizes.T
    n = there.astype(np.float64) @ there.T.astype(np.float64)
    # Every pair of runs was seen from both of its ends; a run with itself counts in `both` alone.
    halves = (None, None, None) if inside is None else ((inside[0] - n) / 2, inside[1] / 2, inside[2] / 2)
    return _Counted(n, signed / 2, untied / 2, first / 2, *halves)


class _Ranks:
    """Spearman's correlation of pairs of columns, over the runs that have both."""

    def __init__(self, columns: Floats, printed: NDArray[np.bool_]) -> None:
        self._columns = columns
        self._there = ~np.isnan(columns)
        self._printed = printed
        self._ranks: dict[tuple[int, bytes], NDArray[np.int64]] = {}
        self._doubts: dict[tuple[int, bytes], Floats] = {}
        self._orders: dict[tuple[int, bytes], Orders] = {}

    def spearman(self, i: int, j: int) -> float | None:
        both = self._there[i] & self._there[j]
        return _correlation(self._of(i, both), self._of(j, both))

    def rounded(self, i: int, j: int) -> tuple[float, float, bool] | None:
        """Its range over all that was rounded away (`rounding.spearman_range`); None if that changes nothing."""
        both = self._there[i] & self._there[j]
        if not (self._doubt(i, both).any() or self._doubt(j, both).any()):
            return None
        found = spearman_range(self._ordered(i, both), self._ordered(j, both))
        return None if found is None or found[0] == found[1] else found

    def _of(self, i: int, both: NDArray[np.bool_]) -> NDArray[np.int64]:
        key = (i, both.tobytes())
        if key not in self._ranks:
            self._ranks[key] = _doubled_ranks(self._columns[i, both])
        return self._ranks[key]

    def _doubt(self, i: int, both: NDArray[np.bool_]) -> Floats:
        key = (i, both.tobytes())
        if key not in self._doubts:
            self._doubts[key] = doubt(self._columns[i, both], self._printed[both])
        return self._doubts[key]

    def _ordered(self, i: int, both: NDArray[np.bool_]) -> Orders:
        key = (i, both.tobytes())
        if key not in self._orders:
            self._orders[key] = orders(self._columns[i, both], self._doubt(i, both))
        return self._orders[key]


def _correlation(x: NDArray[np.int64], y: NDArray[np.int64]) -> float | None:
    spread = int(x @ x) * int(y @ y)
    return int(x @ y) / math.sqrt(spread) if spread else None


def _doubled_ranks(column: Floats) -> NDArray[np.int64]:
    """Centred average ranks, doubled so that they are integers: values below less values above."""
    if not len(column):
        return np.zeros(0, dtype=np.int64)
    _, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
    below: NDArray[np.int64] = 2 * np.cumsum(counts) - counts - len(column)
    return below[inverse.reshape(-1)]

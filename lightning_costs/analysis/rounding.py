"""Figures that were printed with few digits: which orders of runs they leave open, and what Spearman can be then."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_costs.run.record import RunRecord

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
#: Figures with more significant digits than this are measured, not printed.
MOST_DIGITS = 5
#: Runs further apart than this share of the amount are told apart by any rounding.
_NEAR = 0.01
#: Most orders of a column, and most work for two columns, that are tried; beyond, Spearman is bounded.
_MOST_ORDERS, _MOST_WORK = 5000, 20_000_000
#: Of more runs than this in one clump, orders are too many.
_MOST_CLUMP = 6


class Orders(NamedTuple):
    """The orders that a column may have. Ranks are centred and doubled: runs below less runs above.

    `low` and `high` bound each run's rank [runs]; `least` and `most` bound the sum of their squares, which ties lessen.
    `every` holds all orders [orders, runs], None if they are too many.
    """

    low: Integers
    high: Integers
    least: int
    most: int
    every: Integers | None


def may_be_rounded(run: RunRecord) -> bool:
    """Whether a run's figures were printed somewhere: those that a program recorded or logged have all their digits."""
    origin = (run.header.get("setup") or {}).get("origin")
    return not run.header.get("attempts") and (origin is None or "published" in str(origin))


def rounding_unit(values: Sequence[float]) -> float | None:
    """The unit of the last printed digit of a column; None if its figures are not rounded ones.

    Rounded are figures of at most `MOST_DIGITS` significant digits whose last one is not the ones': a count such as
    12 layers is exact, 86.5 M parameters are not.

    Example:
        >>> (rounding_unit([86.5e6, 88.2e6]), rounding_unit([0.11, 0.35]), rounding_unit([12.0, 24.0]),
        ...  rounding_unit([1 / 3]))
        (100000.0, 0.01, None, None)
    """
    exponents = []
    for value in values:
        # Twelve digits: a unit that a figure was converted by may leave dust in the last ones.
        number = Decimal(f"{value:.12g}").normalize().as_tuple()
        if len(number.digits) > MOST_DIGITS:
            return None
        if value:
            exponents.append(int(number.exponent))
    place = min(exponents, default=0)
    return 10.0**place if place else None


def doubt(column: Floats, printed: NDArray[np.bool_]) -> Floats:
    """[runs]: how far the amount behind each figure may be from it; 0 if it has all its digits.

    Half of the last printed digit, and less if that is a large part of the amount. Figures that are equal as printed
    can be in any order. So can those one digit apart, if they are within about a hundredth of each other.

    Args:
        column: [runs], finite.
        printed: [runs]: whose figures may have been rounded.
    """
    place = rounding_unit(column[printed].tolist())
    if place is None:
        return np.zeros(len(column))
    # Somewhat more than the halves, so that neighbours overlap whatever binary fractions they are.
    share = np.maximum(1.02 * _NEAR * np.abs(column), 1e-3 * place)
    return np.where(printed, 0.5001 * np.minimum(place, share), 0.0)


def orders(column: Floats, doubts: Floats) -> Orders:
    """The orders of amounts, each of which may be anywhere within its doubt.

    Example:
        >>> found = orders(np.array([86.5, 86.5, 50.1]), np.array([0.05, 0.05, 0.05]))
        >>> found.every.tolist()
        [[0, 2, -2], [2, 0, -2], [1, 1, -2]]
    """
    lows, highs = column - doubts, column + doubts
    # Runs below it for sure less those that may be above it, and the other way round; itself is neither.
    spread = (lows < highs).astype(np.int64)
    low = _below(highs, lows) - _above(highs, lows) + spread
    high = _below(lows, highs) - _above(lows, highs) - spread
    runs = len(column)
    whole = _lost_to_ties(np.array([runs]))
    clumps = _clumps(lows, highs)
    exact = np.unique(column[doubts == 0], return_counts=True)[1]
    return Orders(
        low=low,
        high=high,
        least=whole - _lost_to_ties(np.array([len(clump) for clump in clumps])),
        most=whole - _lost_to_ties(exact),
        every=_every(clumps, lows, highs, low, high),
    )


def spearman_range(x: Orders, y: Orders) -> tuple[float, float, bool] | None:
    """Least and most of what Spearman's correlation can be, and whether these are its extremes.

    They are if all pairs of orders could be tried. Else they are bounds that no order is outside of. With
    D = sum of squared differences of ranks, rho = (X + Y - D) / (2 sqrt(X Y)). X and Y are the columns' sums of
    squared ranks; each run's difference, X and Y are bounded by themselves.

    Returns:
        None if no order has a correlation: a column in which all runs tie.
    """
    if x.every is not None and y.every is not None and len(x.every) * len(y.every) * len(x.low) <= _MOST_WORK:
        squares = np.outer((x.every**2).sum(axis=1), (y.every**2).sum(axis=1)).astype(np.float64)
        known = squares > 0
        if not known.any():
            return None
        products = x.every.astype(np.float64) @ y.every.T.astype(np.float64)
        found = np.clip(products[known] / np.sqrt(squares[known]), -1.0, 1.0)
        return float(found.min()), float(found.max()), True
    if not (x.most and y.most):
        return None
    near = np.maximum(0, np.maximum(x.low - y.high, y.low - x.high)).astype(np.float64)
    far = np.maximum(x.high - y.low, y.high - x.low).astype(np.float64)
    bounds = (
        _over(x.least + y.least - float(far @ far), x, y, up=False),
        _over(x.most + y.most - float(near @ near), x, y, up=True),
    )
    return max(-1.0, bounds[0]), min(1.0, bounds[1]), False


def _over(numerator: float, x: Orders, y: Orders, *, up: bool) -> float:
    """The numerator over the denominator that leads furthest up, or down."""
    denominator = x.least * y.least if (numerator > 0) == up else x.most * y.most
    if not denominator:
        return math.copysign(1.0, numerator) if numerator else 0.0
    return numerator / (2 * math.sqrt(denominator))


def _below(values: Floats, bounds: Floats) -> Integers:
    """[bounds]: how many values are lower."""
    return np.searchsorted(np.sort(values), bounds, side="left")


def _above(values: Floats, bounds: Floats) -> Integers:
    """[bounds]: how many values are higher."""
    return len(values) - np.searchsorted(np.sort(values), bounds, side="right")


def _lost_to_ties(sizes: Integers) -> int:
    """What ties of these sizes take off the sum of squared ranks; of all runs, what there is to take."""
    return sum(int(size) * (int(size) ** 2 - 1) for size in sizes) // 3


def _clumps(lows: Floats, highs: Floats) -> list[list[int]]:
    """Runs whose intervals hang together, lowest first: the order of two clumps is certain."""
    found: list[list[int]] = []
    reach = -math.inf
    for run in np.argsort(lows, kind="stable").tolist():
        if lows[run] > reach:
            found.append([])
        found[-1].append(run)
        reach = max(reach, float(highs[run]))
    return found


def _every(
    clumps: Sequence[Sequence[int]], lows: Floats, highs: Floats, low: Integers, high: Integers
) -> Integers | None:
    """[orders, runs]: every order, as ranks; None if they are too many."""
    if max(map(len, clumps), default=0) > _MOST_CLUMP:
        return None
    runs = len(lows)
    # A run whose rank is certain has it in every order.
    ranks = low[None, :]
    placed = 0
    for clump in clumps:
        if (low[clump] < high[clump]).any():
            own = np.array(list(_weak_orders(clump, lows, highs)), dtype=np.int64)
            if len(ranks) * len(own) > min(_MOST_ORDERS, _MOST_WORK // runs):
                return None
            ranks = np.repeat(ranks, len(own), axis=0)
            ranks[:, clump] = np.tile(own, (len(ranks) // len(own), 1)) + 2 * placed + len(clump) - runs
        placed += len(clump)
    return ranks


def _weak_orders(clump: Sequence[int], lows: Floats, highs: Floats) -> Iterator[list[int]]:
    """Every order of a clump's runs with every tie, as ranks within it, that amounts within their intervals have."""

    def grow(rest: tuple[int, ...], ranks: dict[int, int]) -> Iterator[list[int]]:
        if not rest:
            yield [ranks[run] for run in clump]
        for size in range(1, len(rest) + 1):
            for lowest in combinations(rest, size):
                others = tuple(run for run in rest if run not in lowest)
                at = max(lows[run] for run in lowest)
                # These tie at one amount, and each of the others is above it.
                if all(at <= highs[run] for run in lowest) and all(at < highs[run] for run in others):
                    rank = len(clump) - len(rest) - len(others)
                    yield from grow(others, ranks | dict.fromkeys(lowest, rank))

    return grow(tuple(clump), {})

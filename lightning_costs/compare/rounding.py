"""Figures that were printed with few digits: which orders of runs a rounding decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lightning_costs.core.records import Amount

#: Figures with more significant digits than this are measured, not printed.
MOST_DIGITS = 5
#: Runs further apart than this share of the amount are told apart by any rounding.
_NEAR = 0.01
#: Beyond so many runs, and so many near pairs, orders are not tried out.
_MOST_RUNS, _MOST_NEAR = 200, 32


def last_place(values: Sequence[float]) -> float | None:
    """The unit of the last printed digit of a column; None where its figures are not rounded ones.

    Rounded are figures of at most `MOST_DIGITS` significant digits whose last one is not the ones': a count such as
    12 layers is exact, 86.5 M parameters are not.

    Args:
        values: Finite amounts.

    Example:
        >>> last_place([86.5e6, 88.2e6]), last_place([0.11, 0.35]), last_place([12.0, 24.0]), last_place([1 / 3])
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


def near_pairs(values: Sequence[Amount]) -> list[tuple[int, int]]:
    """Neighbours in a column, lower first, whose order a rounding may have decided: one printed digit apart.

    Args:
        values: [runs]; what is missing or not finite has no neighbour.

    Example:
        >>> near_pairs([86.5e6, 86.6e6, 88.2e6])
        [(0, 1)]
    """
    there = [(value, index) for index, value in enumerate(values) if value is not None and math.isfinite(value)]
    place = last_place([value for value, _ in there])
    if place is None:
        return []
    ordered = sorted(there)
    return [
        (i, j)
        for (low, i), (high, j) in pairwise(ordered)
        if 0 < high - low <= min(1.0001 * place, _NEAR * max(abs(low), abs(high)))
    ][:_MOST_NEAR]


def swapped(column: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The column with each near pair in the other order, and tied; empty for many runs.

    Args:
        column: [runs], finite.
    """
    if len(column) > _MOST_RUNS:
        return []
    found = []
    for i, j in near_pairs(column.tolist()):
        other, tied = column.copy(), column.copy()
        other[[i, j]] = column[[j, i]]
        tied[i] = column[j]
        found += [other, tied]
    return found

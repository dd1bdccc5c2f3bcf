"""One stratum: batches alike in all that is known before one is counted, their counts, and the variance of their total.

Cochran, Sampling Techniques, 1977, section 8.5: variances by successive differences, as batches come in order.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Generic, TypeVar, final

import numpy
from numpy.typing import NDArray

from lightning_costs.probes.opcount.feature_model import Vector

#: Counts kept of one stratum: of more, every second one drawn is forgotten, and those left stand for more.
MOST_COUNTS = 512
#: Relative variance of what is known to a power of two alone: that of a uniform distribution from 1 to 2.
_OF_A_MAGNITUDE = (1 / 12) / 1.5**2
#: Drawn counts of a stratum from which its own variance is taken; below, that of all strata together.
ENOUGH_COUNTS = 4

T = TypeVar("T")


@final
class Stratum(Generic[T]):
    """Batches that nothing told apart before one of them was counted."""

    __slots__ = (
        "agrees",
        "amounts",
        "batches",
        "counts",
        "drawn",
        "features",
        "key",
        "positions",
        "siblings",
        "steady",
        "values",
    )

    def __init__(self, key: Hashable, features: Vector, siblings: list[Stratum[T]] | None = None) -> None:
        self.key, self.features = key, features
        #: Strata that differ from this one in a magnitude alone, itself among them.
        self.siblings = siblings if siblings is not None else []
        self.siblings.append(self)
        self.batches = self.steady = 0
        self.counts: list[T] = []
        self.values: list[Vector] = []
        self.positions: list[int] = []
        self.drawn: list[bool] = []
        self.agrees = True
        #: What the totals have of it: all batches, and the steady ones.
        self.amounts: tuple[Vector, Vector] | None = None

    def add(self, count: T, values: Vector, *, drawn: bool) -> None:
        """Note the count of the batch that was booked last."""
        if len(self.counts) >= MOST_COUNTS:
            keep = [not was or n % 2 == 0 for n, was in enumerate(self.drawn)]
            lists: tuple[list[Any], ...] = (self.counts, self.values, self.positions, self.drawn)
            for held in lists:
                held[:] = [each for each, kept in zip(held, keep, strict=True) if kept]
        self.agrees = self.agrees and (not self.values or values == self.values[0])
        self.counts.append(count)
        self.values.append(values)
        self.positions.append(self.batches)
        self.drawn.append(drawn)

    def shares(self) -> NDArray[numpy.float64]:
        """[counts]: how many of the batches each count stands for."""
        return shares(self.batches, self.positions, self.drawn)

    def totals(self) -> Vector:
        """Amounts of all batches, by quantity."""
        if self.agrees:
            return tuple([self.batches * value for value in self.values[0]])
        totals = self.shares() @ numpy.array(self.values, dtype=float)
        return tuple(self._exact(n) if self.settles(n) else float(total) for n, total in enumerate(totals))

    @property
    def unchecked(self) -> bool:
        """Whether its batches may differ within their magnitude, and one count is all that is known of them."""
        return len(self.siblings) > 1 and len(self.values) == 1 < self.batches

    def settles(self, quantity: int) -> bool:
        """Whether all counts agree, or all of those drawn: the others stand for themselves."""
        if self.agrees:
            return not self.unchecked
        first, drawn = self._by_draw(quantity)
        return len({*first, *drawn}) == 1 or (len(drawn) >= ENOUGH_COUNTS and len(set(drawn)) == 1)

    def _exact(self, quantity: int) -> float:
        """The total, if the counts settle it."""
        first, drawn = self._by_draw(quantity)
        if not drawn:
            return self.batches * first[0]
        return sum(first) + (self.batches - len(first)) * drawn[0]

    def _by_draw(self, quantity: int) -> tuple[list[float], list[float]]:
        """Amounts of the batches that were counted as they came first, and of those that were drawn."""
        pairs = list(zip((values[quantity] for values in self.values), self.drawn, strict=True))
        return [amount for amount, was in pairs if not was], [amount for amount, was in pairs if was]

    def variance(self, amounts: NDArray[numpy.float64], relative: float) -> float:
        """Variance of the total of `amounts` ([counts]).

        Args:
            amounts: By count.
            relative: Relative variance of a batch, if too few were drawn here to estimate it.
        """
        counted = len(amounts)
        if counted >= self.batches:
            return 0.0
        if self.unchecked:
            relative = max(relative, _OF_A_MAGNITUDE)
        if self.agrees and not relative:
            return 0.0
        weights = self.shares()
        drawn = numpy.array(self.drawn) if any(self.drawn) else numpy.ones(counted, dtype=bool)
        weights, amounts = weights[drawn], amounts[drawn]
        rest = 1 - counted / self.batches
        if len(amounts) < ENOUGH_COUNTS:
            return rest * relative * float(amounts.mean()) ** 2 * float((weights**2).sum())
        return rest * successive(amounts, weights)


def shares(batches: int, positions: Sequence[int], drawn: Sequence[bool]) -> NDArray[numpy.float64]:
    """How many of `batches` each counted one stands for: those not drawn for themselves, if any was drawn.

    `positions` are [counts]: which were counted, from 1, ascending; `drawn` are [counts]: whether it was at random.

    Example:
        >>> shares(100, [1, 30, 60], [False, True, True]).tolist()
        [1.0, 44.55, 54.45]
    """
    at_random = numpy.array(drawn, dtype=bool)
    if not at_random.any():
        return numpy.full(len(positions), batches / len(positions))
    weights = numpy.ones(len(positions))
    where = numpy.array(positions, dtype=float)[at_random]
    edges = numpy.concatenate(([0.0], (where[1:] + where[:-1]) / 2, [batches]))
    weights[at_random] = numpy.diff(edges) * (1 - (~at_random).sum() / batches)
    return weights


def successive(amounts: NDArray[numpy.float64], weights: NDArray[numpy.float64]) -> float:
    """Variance of a weighted sum of amounts in order, by the differences of neighbours: a trend is no scatter.

    The larger of two: every difference counts alike, as if the order said nothing; or by the weights of its pair, as
    if the amounts had changed once and for all between the two.

    Example:
        >>> successive(numpy.array([1.0, 1.0, 3.0, 3.0]), numpy.array([2.0, 2.0, 2.0, 2.0]))
        10.666666666666666
    """
    squares, count = weights**2, len(amounts)
    differences = numpy.diff(amounts) ** 2 / 2
    alike = float(differences.mean() * squares.sum())
    by_pair = float(((squares[1:] + squares[:-1]) / 2 * differences).sum()) * count / (count - 1)
    return max(alike, by_pair)

"""Totals over batches of which some were counted: exact where the counts agree, else an estimate with its interval.

Batches fall into strata by all that is known of them without counting. Within a stratum, some batches are counted
because they come first, others because they were drawn at random. Once any was drawn, the first ones stand for
themselves, and the drawn ones share the others by the order in which they came. A stratum without a count is predicted
from the features of the counted ones, by least squares: the model that best predicts counts which were left out (PRESS;
Allen 1974). Intervals are those of stratified sampling (Cochran, Sampling Techniques, 1977, sections 5.3 and 8.5:
successive differences, as batches come in order).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, final

import numpy
from numpy.typing import NDArray

from lightning_costs.probes.opcount.feature_model import FeatureModel, Vector
from lightning_costs.probes.opcount.stratum import ENOUGH_COUNTS, MOST_COUNTS, Stratum
from lightning_costs.records.forecast import student_t

#: Share of intervals that hold the truth.
COVERAGE = 0.95
#: Half of an interval that is short enough, as a share of its total.
WANTED = 0.02
#: Strata that are told apart; batches of further ones are predicted from their features alone.
MOST_STRATA = 256

T = TypeVar("T")
_Sums = tuple[NDArray[numpy.float64], float, float]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A total or a mean over all batches, with half of its 95 % interval.

    It is exact if every stratum was counted and all counts of each agree; integer counts then give an int.
    """

    amount: float
    half_width: float
    counted: int
    batches: int
    exact: bool

    def per(self, parts: float) -> Estimate:
        """The same of one of `parts` equal parts."""
        return replace(self, amount=self.amount / parts, half_width=self.half_width / parts)

    @property
    def low(self) -> float:
        """Lower end of the interval: no count is below 0."""
        return max(0.0, self.amount - self.half_width)

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.amount + self.half_width


@final
class Strata(Generic[T]):
    """Books batches by stratum, and adds up their counts.

    Args:
        values: Quantities of a count.
        alike: What keys have in common whose batches cost about the same: the uncounted ones are taken for the counted.
        sized: What keys have in common that a magnitude of their work alone tells apart; None for other keys.

    Example:
        >>> strata: Strata[int] = Strata(lambda count: (count,))
        >>> for n in range(10):
        ...     stratum = strata.stratum("step", (1.0,))
        ...     strata.book(stratum)
        ...     if n == 0:
        ...         strata.count(stratum, 7)
        >>> strata.total(0), strata.estimate(0).exact
        (70, True)
    """

    def __init__(
        self,
        values: Callable[[T], Vector],
        alike: Callable[[Hashable], Hashable] = lambda key: key,
        sized: Callable[[Hashable], Hashable] = lambda key: None,
    ) -> None:
        self._values, self._alike, self._sized = values, alike, sized
        self._siblings: dict[Hashable, list[Stratum[T]]] = {}
        self._means: tuple[int, dict[Hashable, NDArray[numpy.float64]]] = (-1, {})
        self._strata: dict[Hashable, Stratum[T]] = {}
        self._changed: set[Stratum[T]] = set()
        #: Strata without a count.
        self.unknown: dict[Hashable, Stratum[T]] = {}
        #: Batches whose stratum is not told apart, and those among them that are steady.
        self._rest_features: Vector = ()
        self.rest = self.rest_steady = 0
        #: Counted batches among the rest: features and values.
        self._rest_counts: list[tuple[Vector, Vector]] = []
        self._sums: Vector = ()
        self._steady_sums: Vector = ()
        self.counted = 0
        #: What is asked several times at a point: sums over the uncounted strata, and what they are of.
        self._sought: dict[bool, tuple[tuple[object, ...], _Sums]] = {}
        self._model: FeatureModel | None = None
        self._fitted = -1
        self._agree: bool | None = True

    # Booking ------------------------------------------------------------------------------------------------

    def stratum(self, key: Hashable, features: Vector) -> Stratum[T] | None:
        """The stratum of a key; None if no more are told apart."""
        found = self._strata.get(key)
        if found is None and len(self._strata) < MOST_STRATA:
            size = self._sized(key)
            siblings = self._siblings.setdefault(size, []) if size is not None else []
            found = self._strata[key] = self.unknown[key] = Stratum(key, features, siblings)
            self._agree = None
        return found

    def get(self, key: Hashable) -> Stratum[T] | None:
        """The stratum of a key if there is one."""
        return self._strata.get(key)

    def __iter__(self) -> Iterator[Stratum[T]]:
        return iter(self._strata.values())

    def book(self, stratum: Stratum[T] | None, features: Vector = (), batches: int = 1, steady: int = 0) -> None:
        """Note batches of a stratum; of no stratum, if it is None, with the features of one of them."""
        if stratum is not None:
            stratum.batches += batches
            stratum.steady += steady
            self._changed.add(stratum)
            return
        self.rest += batches
        self.rest_steady += steady
        before = self._rest_features or (0.0,) * len(features)
        self._rest_features = tuple(so_far + batches * one for so_far, one in zip(before, features, strict=True))

    def steady(self, stratum: Stratum[T] | None) -> None:
        """A batch booked before is steady."""
        if stratum is None:
            self.rest_steady += 1
        else:
            stratum.steady += 1
            self._changed.add(stratum)

    def count(self, stratum: Stratum[T] | None, count: T, *, features: Vector = (), drawn: bool = False) -> None:
        """Note what was counted in the batch booked last."""
        self.counted += 1
        self._agree = None
        values = self._values(count)
        if stratum is None:
            self._rest_counts.append((features, values))
            del self._rest_counts[:-MOST_COUNTS]
            return
        stratum.add(count, values, drawn=drawn)
        self.unknown.pop(stratum.key, None)
        self._changed.add(stratum)

    def remove(self, stratum: Stratum[T]) -> None:
        """The batch of a stratum that was booked last was none."""
        if stratum.positions and stratum.positions[-1] == stratum.batches:  # it was counted, at nothing
            self.counted -= 1
            self._agree = None
            for held in (stratum.counts, stratum.values, stratum.positions, stratum.drawn):
                held.pop()
            stratum.agrees = len(set(stratum.values)) <= 1
            if not stratum.values:
                self.unknown[stratum.key] = stratum
        stratum.batches -= 1
        self._changed.add(stratum)

    # Totals -------------------------------------------------------------------------------------------------

    @property
    def agrees(self) -> bool:
        """Whether all batches are of strata that were counted, and the counts of each agree."""
        if self.unknown or self.rest:
            return False
        if self._changed:
            self._add_up()
        if self._agree is None:
            self._agree = all(stratum.agrees and not stratum.unchecked for stratum in self._strata.values())
        return self._agree

    def total(self, quantity: int, *, steady: bool = False) -> float:
        """A quantity over all batches; `steady` for the steady ones."""
        if self._changed:
            self._add_up()
        sums = self._steady_sums if steady else self._sums
        known = sums[quantity] if sums else 0
        if not self.unknown and not self.rest:
            return known
        return known + self._predicted(quantity, steady=steady)

    def _add_up(self) -> None:
        """Add to the sums what was booked since: only strata that changed are read."""
        if self._siblings:  # these are settled by how many batches there are, too
            self._agree = None
        for stratum in self._changed:
            if not stratum.values and not stratum.amounts:
                continue
            n, steady_n = stratum.batches, stratum.steady
            steady: Vector
            all_of_it = stratum.totals() if n and stratum.values else (0,) * len(self._sums)
            if not n or not stratum.values:
                steady = all_of_it
            elif stratum.agrees:
                steady = tuple([steady_n * value for value in stratum.values[0]])
            else:
                steady = tuple(
                    total * steady_n // n
                    if isinstance(total, int) and not total * steady_n % n
                    else total * steady_n / n
                    for total in all_of_it
                )
            none = (0,) * len(all_of_it)
            before, steady_before = stratum.amounts or (none, none)
            self._sums = _moved(self._sums or none, all_of_it, before)
            self._steady_sums = _moved(self._steady_sums or none, steady, steady_before)
            stratum.amounts = (all_of_it, steady)
        self._changed.clear()

    def _predicted(self, quantity: int, *, steady: bool = False) -> float:
        """The total of the batches that are of no counted stratum."""
        model, means = self._fit(), self._means_of_alike()
        if model is None:
            return 0.0
        features, batches, _ = self._uncounted(steady=steady)
        found = max(0.0, model.total(features, quantity)) if batches else 0.0
        for stratum in self.unknown.values():
            if (mean := means.get(self._alike(stratum.key))) is not None:
                found += (stratum.steady if steady else stratum.batches) * float(mean[quantity])
        return found

    def _means_of_alike(self) -> dict[Hashable, NDArray[numpy.float64]]:
        """[quantities] of one batch, by what strata have in common of which some were counted."""
        if self._means[0] != self.counted:
            groups: dict[Hashable, list[Stratum[T]]] = {}
            for stratum in self._strata.values():
                if stratum.values and stratum.batches:
                    groups.setdefault(self._alike(stratum.key), []).append(stratum)
            means = {
                group: numpy.array([s.totals() for s in found], dtype=float).sum(axis=0) / sum(s.batches for s in found)
                for group, found in groups.items()
            }
            self._means = (self.counted, means)
        return self._means[1]

    def _uncounted(self, *, steady: bool = False) -> _Sums:
        """Features of all batches of no counted stratum, their number, and the sum of its squares by stratum."""
        seen = (self.counted, self.rest, self.rest_steady, *((s.batches, s.steady) for s in self.unknown.values()))
        found = self._sought.get(steady)
        if found is None or found[0] != seen:
            found = self._sought[steady] = (seen, self._sum_up(steady=steady))
        return found[1]

    def _sum_up(self, *, steady: bool) -> _Sums:
        means = self._means_of_alike()
        unlike = [stratum for stratum in self.unknown.values() if self._alike(stratum.key) not in means]
        strata = [(s.steady if steady else s.batches, s.features) for s in unlike]
        batches = float(sum(n for n, _ in strata))
        squares = float(sum(n * n for n, _ in strata))
        features = sum((n * numpy.array(f) for n, f in strata), start=numpy.zeros(len(strata[0][1]) if strata else 0))
        if self.rest:
            share = self.rest_steady / self.rest if steady else 1.0
            rest = numpy.array(self._rest_features) * share
            features = features + rest if strata else rest
            batches += self.rest * share
            squares += self.rest * share
        return features, batches, squares

    def _fit(self) -> FeatureModel | None:
        """The model of the counts so far; made again when there are a tenth more of them."""
        if self.counted and (self._model is None or self.counted > 1.1 * self._fitted):
            known = [s for s in self._strata.values() if s.values]
            means = [(s.features, numpy.array(s.totals()) / s.batches, s.batches) for s in known if s.batches]
            means += [(features, numpy.array(values), 1) for features, values in self._rest_counts]
            if means:
                features, values, batches = zip(*means, strict=True)
                self._model = FeatureModel(
                    numpy.array(features, dtype=float), numpy.array(values), numpy.array(batches)
                )
                self._fitted = self.counted
        return self._model

    def estimate(self, quantity: int, *, refit: bool = True) -> Estimate:
        """A quantity over all batches, with its interval; `refit` fits the model to all that was counted."""
        parts = self._parts(self, quantity)
        if self.unknown or self.rest:
            if refit:
                self._fitted = -1
            model = self._fit()
            if model is not None:
                features, batches, squares = self._uncounted()
                if batches:
                    parts.append(model.variance(features, quantity, squares))
                if self.counted > 2 and all(len(stratum.values) < 2 for stratum in self):  # no count checks another
                    unchecked = float(sum((stratum.batches - 1) ** 2 for stratum in self if stratum.values))
                    parts.append(model.variance(numpy.zeros(1), quantity, unchecked))
                relative, degrees = self._relative(quantity)
                for stratum in self.unknown.values():
                    if (mean := self._means_of_alike().get(self._alike(stratum.key))) is not None:
                        parts.append((relative * (stratum.batches * float(mean[quantity])) ** 2, degrees))
                    else:
                        parts.append(((stratum.batches * model.beyond(stratum.features, quantity)) ** 2, math.inf))
        everything = sum(stratum.batches for stratum in self) + self.rest
        exact = not self.unknown and not self.rest and _agree(self, quantity)
        half_width = 0.0 if exact else _half_width(parts)
        amount = self.total(quantity)
        return Estimate(amount=amount, half_width=half_width, counted=self.counted, batches=everything, exact=exact)

    def wanted(self, quantity: int) -> float:
        """Counts that would bring the interval of a total to 2 %; 0 if all counts agree."""
        found = self.estimate(quantity, refit=False)
        if found.exact:
            return 0.0
        return self.counted * (found.half_width / (WANTED * found.amount)) ** 2 if found.amount else 0.0

    def mean(self, quantity: int, among: Callable[[Hashable], bool]) -> Estimate | None:
        """A quantity of one batch, over the counted strata among these keys; None if there are none."""
        strata = [stratum for stratum in self if stratum.values and stratum.batches and among(stratum.key)]
        if not strata:
            return None
        batches, counted = sum(s.batches for s in strata), sum(len(s.values) for s in strata)
        found = {values[quantity] for stratum in strata for values in stratum.values}
        if len(found) == 1:
            return Estimate(amount=found.pop(), half_width=0.0, counted=counted, batches=batches, exact=True)
        amount = math.fsum(stratum.totals()[quantity] for stratum in strata) / batches
        half_width = _half_width(self._parts(strata, quantity)) / batches
        exact = _agree(strata, quantity)  # the mean of kinds that are each known
        return Estimate(amount=amount, half_width=half_width, counted=counted, batches=batches, exact=exact)

    def _parts(self, strata: Iterable[Stratum[T]], quantity: int) -> list[tuple[float, float]]:
        """Variance of each stratum's total, and its degrees of freedom."""
        relative, degrees = self._relative(quantity)
        parts = []
        for stratum in strata:
            if stratum.values and not (stratum.settles(quantity) and not relative):  # else it varies in nothing
                amounts = numpy.array([values[quantity] for values in stratum.values], dtype=float)
                own = int(sum(stratum.drawn)) or len(amounts)
                variance = stratum.variance(amounts, relative)
                parts.append((variance, 2 * (own - 1) / 3 if own >= ENOUGH_COUNTS else degrees))
        return parts

    def _relative(self, quantity: int) -> tuple[float, float]:
        """Relative variance of batches of one stratum, over all strata, and its degrees of freedom."""
        squares, degrees = 0.0, 0
        for stratum in self._strata.values():
            if stratum.agrees:
                degrees += max(0, len(stratum.values) - 1)
            else:
                amounts = numpy.array([values[quantity] for values in stratum.values], dtype=float)
                if mean := float(amounts.mean()):
                    squares += float(((amounts - mean) ** 2).sum()) / mean**2
                degrees += len(amounts) - 1
        return (squares / degrees if degrees else 0.0), max(1, degrees)


def _moved(sums: Vector, now: Vector, before: Vector) -> Vector:
    return tuple([total + new - old for total, new, old in zip(sums, now, before, strict=True)])


def _agree(strata: Iterable[Stratum[T]], quantity: int) -> bool:
    return all(stratum.settles(quantity) for stratum in strata)


def _half_width(parts: Iterable[tuple[float, float]]) -> float:
    """Half of the interval of a sum of parts, each with its variance and degrees of freedom (Satterthwaite 1946)."""
    parts = [(variance, degrees) for variance, degrees in parts if variance > 0]
    variance = math.fsum(part for part, _ in parts)
    if not variance:
        return 0.0
    shares = math.fsum(part**2 / max(1.0, degrees) for part, degrees in parts)
    degrees = int(min(1e6, variance**2 / shares)) if shares else 10**6
    return student_t((1 + COVERAGE) / 2, max(1, degrees)) * math.sqrt(variance)

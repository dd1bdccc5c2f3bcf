"""What a run will have cost at the end of training, from what it has cost so far, with an interval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import NormalDist
from typing import final

from lightning_costs.records.formatting import format_amount
from lightning_costs.records.samples import Amount

#: Share of ends within the interval, if blocks of steps continue to vary as before.
COVERAGE = 0.8
_MOST_BLOCKS = 64
#: Cycles from one evaluation to the next that must have been seen before their spread is believed.
_LEAST_CYCLES = 3


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A total at the end of training, in the unit of its column.

    Args:
        middle: The estimate.
        low: Lower end of the interval; None if too few steps were recorded.
        high: Upper end of the interval.
    """

    middle: float
    low: float | None = None
    high: float | None = None

    def words(self, unit: str) -> str:
        """The estimate and its interval in human units.

        Example:
            >>> Forecast(middle=7300.0, low=7200.0, high=7400.0).words("s"), Forecast(middle=5.3).words("usd")
            ('2 h 01 min (2 h 00 min to 2 h 03 min)', '$5.30')
        """
        middle = format_amount(self.middle, unit)
        if self.low is None or self.high is None:
            return middle
        low, high = format_amount(self.low, unit), format_amount(self.high, unit)
        return middle if low == high else f"{middle} ({low} to {high})"


@final
class Forecaster:
    """Extrapolates totals by the step: marks are taken during the run.

    If the run evaluates, whole cycles (evaluation to evaluation) are extrapolated, so that future evaluations are
    included; before the first cycle they are not. The estimate is the total at the last cycle's end plus the remaining
    steps times the mean cost of a step. The interval is that of a prediction from n blocks of like length for the m
    blocks to come: mean +- t(n-1) s sqrt(1/n + 1/m) a block (a normal sample's; Hahn and Meeker, Statistical
    Intervals, 1991, section 4.8).

    Example:
        >>> forecast = Forecaster(["energy_j"])
        >>> for step in (10, 20, 30, 40):
        ...     forecast.observe(step, {"energy_j": 5.0 + 2.0 * step}, cycle=False)
        >>> forecast.predict(100)
        {'energy_j': Forecast(middle=205.0, low=205.0, high=205.0)}
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._marks: list[tuple[float, tuple[Amount, ...]]] = []
        self._cycles: list[tuple[float, tuple[Amount, ...]]] = []

    def observe(self, steps: float, costs: Mapping[str, Amount], *, cycle: bool) -> None:
        """Note the totals after that many steps; `cycle` says that an evaluation just ended."""
        mark = (steps, tuple(costs.get(name) for name in self._names))
        if cycle:
            if not self._cycles and self._marks:
                self._cycles.append(self._marks[0])
            _append(self._cycles, mark)
        _append(self._marks, mark)

    def predict(self, planned_steps: float) -> dict[str, Forecast]:
        """Totals after that many steps in all; empty before two marks, or where the plan has no end."""
        blocks = self._cycles if len(self._cycles) > 1 else self._marks
        if len(blocks) < 2 or not math.isfinite(planned_steps):
            return {}
        spread = self._cycles if len(self._cycles) > _LEAST_CYCLES else self._marks
        found = {}
        for place, name in enumerate(self._names):
            estimate = _extrapolated(blocks, spread, place, planned_steps)
            if estimate is not None:
                found[name] = estimate
        return found


def _append(marks: list[tuple[float, tuple[Amount, ...]]], mark: tuple[float, tuple[Amount, ...]]) -> None:
    """Add a mark; if there are many, blocks of two become one."""
    if marks and marks[-1][0] >= mark[0]:
        marks[-1] = mark
        return
    marks.append(mark)
    if len(marks) > _MOST_BLOCKS:
        del marks[1:-1:2]


def _extrapolated(
    blocks: list[tuple[float, tuple[Amount, ...]]],
    spread: list[tuple[float, tuple[Amount, ...]]],
    place: int,
    planned_steps: float,
) -> Forecast | None:
    first, last = blocks[0][1][place], blocks[-1][1][place]
    if first is None or last is None:
        return None
    remaining = max(0.0, planned_steps - blocks[-1][0])
    rate = (last - first) / (blocks[-1][0] - blocks[0][0])
    middle = last + rate * remaining
    half = _half_width(spread, place, remaining)
    if half is None:
        return Forecast(middle=middle)
    return Forecast(middle=middle, low=max(last, middle - half), high=middle + half)


def _half_width(marks: list[tuple[float, tuple[Amount, ...]]], place: int, remaining: float) -> float | None:
    """Half of the prediction interval of the cost of the remaining steps."""
    lengths, rates = [], []
    for (begun, before), (ended, after) in pairwise(marks):
        low, high = before[place], after[place]
        if low is None or high is None:
            return None
        lengths.append(ended - begun)
        rates.append((high - low) / (ended - begun))
    n = len(rates)
    if n < 2:
        return None
    total = math.fsum(lengths)
    mean = math.fsum(rate * length for rate, length in zip(rates, lengths, strict=True)) / total
    # Blocks of unlike length: a rate's variance goes with one over its steps, so steps weigh the squares.
    squares = (length * (rate - mean) ** 2 for rate, length in zip(rates, lengths, strict=True))
    per_step = math.fsum(squares) / (n - 1)
    deviation = math.sqrt(per_step * remaining * (1.0 + remaining / total))
    return student_t(0.5 + COVERAGE / 2, n - 1) * deviation


@cache
def student_t(probability: float, degrees: int) -> float:
    """Quantile of Student's t: exact for 1 and 2 degrees of freedom, else Abramowitz and Stegun 1964, 26.7.5.

    Example:
        >>> [round(student_t(0.9, degrees), 2) for degrees in (1, 2, 3, 10, 100)]
        [3.08, 1.89, 1.64, 1.37, 1.29]
    """
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    if degrees == 2:
        alpha = 4 * probability * (1 - probability)
        return 2 * (probability - 0.5) * math.sqrt(2 / alpha)
    z = _normal_quantile(probability)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / degrees + g2 / degrees**2 + g3 / degrees**3 + g4 / degrees**4


_normal_quantile = cache(NormalDist().inv_cdf)

"""Two methods against each other: ratios of the runs of one seed, with an interval, and what the interval decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np

from lightning_costs.analysis.schema import Spread
from lightning_costs.analysis.seeds import CONFIDENCE, LEAST_RUNS, RESAMPLES, SEED, median, seed_spread
from lightning_costs.records.samples import Amount

Verdict = Literal["held", "not held", "undecided"]
#: Fewest values that have an interquartile mean: of three or fewer, a quarter is none.
LEAST_IQM = 4


def ratio(one: float, two: float) -> float | None:
    """One over the other; a cost that was never reached is infinite, and two of them say nothing of each other.

    Example:
        >>> ratio(1.0, 4.0), ratio(float("inf"), 2.0), ratio(2.0, float("inf")), ratio(0.0, 0.0)
        (0.25, inf, 0.0, 1.0)
        >>> ratio(float("inf"), float("inf"))
    """
    if math.isinf(one) and math.isinf(two):
        return None
    if two == 0:
        return 1.0 if one == 0 else math.inf
    return one / two


def difference(one: float, two: float) -> float | None:
    """One less the other; None if both are infinite."""
    return None if math.isinf(one) and math.isinf(two) else one - two


def paired_spread(
    pairs: Sequence[tuple[Amount, Amount]], by: Callable[[float, float], float | None], *, counted: bool = False
) -> Spread:
    """How `by` of both amounts varies over pairs of runs of one seed.

    Args:
        pairs: [seeds]: amounts of both runs; None without a reading.
        by: `ratio`, or a difference.
        counted: Whether the amounts are counts of what a model is and does: if all pairs have the same, there is
            nothing to estimate however few they are.

    Example:
        >>> found = paired_spread([(1.0, 2.0), (3.0, 4.0), (1.0, None), (2.0, 2.0)], ratio)
        >>> found["n"], found["missing"], found["median"], found["low"], found["high"]
        (3, 1, 0.75, 0.5, 1.0)
    """
    found = seed_spread([None if one is None or two is None else by(one, two) for one, two in pairs])
    if counted and found["n"] and found["least"] == found["most"]:
        return {**found, "low": found["least"], "high": found["most"]}
    return found


def unpaired_spread(
    ours: Sequence[Amount], theirs: Sequence[Amount], by: Callable[[float, float], float | None]
) -> Spread:
    """`by` of the medians of two groups whose runs share no seed.

    The interval is the percentile bootstrap's: runs of each group are resampled apart from the other's.
    """
    one, two = ([value for value in values if value is not None] for values in (ours, theirs))
    middle = (median(one), median(two))
    value = None if middle[0] is None or middle[1] is None else by(middle[0], middle[1])
    found = seed_spread([value])
    least = min(len(one), len(two))
    found = {**found, "n": least, "missing": len(ours) + len(theirs) - len(one) - len(two)}
    if least < LEAST_RUNS:
        return found
    drawn = [_resampled_medians(values, SEED + place) for place, values in enumerate((one, two))]
    ends = sorted(end for a, b in zip(*drawn, strict=True) if (end := by(a, b)) is not None)
    if not ends or value is None:
        return found
    tail = (1 - CONFIDENCE) / 2
    low, high = ends[math.floor(tail * len(ends))], ends[math.ceil((1 - tail) * len(ends)) - 1]
    return {**found, "low": low, "high": high, "least": ends[0], "most": ends[-1]}


def interval_verdict(
    found: Spread, *, holds: Callable[[float, float], bool], fails: Callable[[float, float], bool]
) -> Verdict:
    """What an interval over seeds decides: 'undecided' without one, and if it is on neither side.

    Args:
        found: What is judged.
        holds: Whether all from the first to the second is on the claim's side.
        fails: Whether all of it is on the other side.
    """
    low, high = found["low"], found["high"]
    if low is None or high is None:
        return "undecided"
    if holds(low, high):
        return "held"
    return "not held" if fails(low, high) else "undecided"


def excludes(found: Spread, value: float) -> bool:
    """Whether the interval lies on one side of a value.

    Example:
        >>> excludes(paired_spread([(1.0, 2.0)] * 3, ratio), 1.0), excludes(paired_spread([(1.0, 2.0)], ratio), 1.0)
        (True, False)
    """
    return interval_verdict(found, holds=lambda _, high: high < value, fails=lambda low, _: low > value) != "undecided"


def interquartile_mean(values: Sequence[Amount]) -> float | None:
    """The mean of the middle half: a quarter of the values, rounded down, is left out at either end.

    Agarwal et al., 'Deep Reinforcement Learning at the Edge of the Statistical Precipice' (arXiv 2108.13264), section
    4.3; rliable computes it as scipy's `trim_mean` with a share of 0.25. Infinite if a value of the middle half is.

    Returns:
        None for fewer than `LEAST_IQM` values.

    Example:
        >>> interquartile_mean([1.0, 2.0, 4.0, 100.0]), interquartile_mean([1.0, 2.0, 3.0])
        (3.0, None)
    """
    known = sorted(value for value in values if value is not None and not math.isnan(value))
    if len(known) < LEAST_IQM:
        return None
    cut = len(known) // 4
    middle = known[cut : len(known) - cut]
    return sum(middle) / len(middle)


def probability_of_improvement(ours: Sequence[Amount], theirs: Sequence[Amount], better: str) -> float | None:
    """The share of pairs of runs, one of each group, in which ours is the better one; equal ones count half.

    Agarwal et al. (arXiv 2108.13264), section 4.3: the Mann-Whitney U statistic over the number of pairs.

    Returns:
        None if a group has fewer than `LEAST_IQM` known values.

    Example:
        >>> probability_of_improvement([1.0, 2.0, 3.0, 4.0], [2.0, 5.0, 6.0, 7.0], "lower")
        0.84375
    """
    one, two = ([value for value in values if value is not None] for values in (ours, theirs))
    if min(len(one), len(two)) < LEAST_IQM:
        return None
    sign = 1 if better == "higher" else -1
    won = sum(1.0 if sign * a > sign * b else 0.5 if a == b else 0.0 for a in one for b in two)
    return won / (len(one) * len(two))


def pair_by_seed(ours: Mapping[str, str | None], theirs: Mapping[str, str | None]) -> list[tuple[str, str]]:
    """Labels of the runs of one seed in two groups, in the order of `ours`; of repeated seeds the first with the first.

    Example:
        >>> pair_by_seed({"a1": "1", "a2": "2"}, {"b2": "2", "b3": "3"})
        [('a2', 'b2')]
    """
    left = [label for label, seed in theirs.items() if seed is not None]
    pairs = []
    for label, seed in ours.items():
        other = next((other for other in left if theirs[other] == seed), None)
        if other is not None:
            left.remove(other)
            pairs.append((label, other))
    return pairs


def _resampled_medians(values: Sequence[float], seed: int) -> list[float]:
    known = np.sort(np.asarray(values, dtype=np.float64))
    drawn = np.sort(np.random.default_rng(seed).integers(0, len(known), size=(RESAMPLES, len(known))), axis=1)
    low, high = drawn[:, (len(known) - 1) // 2], drawn[:, len(known) // 2]
    found: list[float] = ((known[low] + known[high]) / 2).tolist()
    return found

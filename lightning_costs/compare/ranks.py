"""Where indicators disagree about which run is cheaper: rank correlation and the pairs of runs that flip."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_costs.compare.schema import RankPair, Ranks
from lightning_costs.core.records import Amount


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation with average ranks for ties; None where a side is constant.

    Formula: Pearson's correlation of the ranks, in integers (ranks doubled), so that agreement is exactly 1.

    Args:
        first: [runs], finite.
        second: [runs], finite.

    Example:
        >>> spearman([1.0, 2.0, 3.0], [10.0, 30.0, 20.0])
        0.5
        >>> spearman([1.0, 2.0], [5.0, 5.0]) is None
        True
    """
    x, y = _doubled_ranks(first), _doubled_ranks(second)
    spread = int(x @ x) * int(y @ y)
    return int(x @ y) / math.sqrt(spread) if spread else None


def kendall(first: Sequence[float], second: Sequence[float]) -> tuple[float | None, int, int, int]:
    """Kendall's tau-b, and the pairs behind it.

    Formula: (C - D) / sqrt((P - T1)(P - T2)) over all P pairs, with T1 and T2 the pairs tied in one column.

    Returns:
        tau_b (None where a side is constant), concordant pairs, discordant pairs, pairs tied in a column.

    Example:
        >>> kendall([1.0, 2.0, 3.0], [1.0, 1.0, 0.0])
        (-0.816..., 0, 2, 1)
    """
    x, y = _signs(first), _signs(second)
    product = x * y
    concordant, discordant = int((product > 0).sum()) // 2, int((product < 0).sum()) // 2
    pairs = len(first) * (len(first) - 1) // 2
    untied = (int(np.abs(x).sum()) // 2) * (int(np.abs(y).sum()) // 2)
    tau = (concordant - discordant) / math.sqrt(untied) if untied else None
    return tau, concordant, discordant, pairs - concordant - discordant


def flips(labels: Sequence[str], first: Sequence[float], second: Sequence[float]) -> list[list[str]]:
    """The pairs of runs whose order flips: [a, b] where a is lower by `first` and b by `second`.

    Example:
        >>> flips(["small", "large"], [1.0, 2.0], [9.0, 3.0])
        [['small', 'large']]
    """
    x, y = _signs(first), _signs(second)
    return [[labels[i], labels[j]] for i, j in np.argwhere((x < 0) & (y > 0)).tolist()]


def rank_agreement(labels: Sequence[str], finals: Mapping[str, Sequence[Amount]], better: Mapping[str, str]) -> Ranks:
    """Compare the orders that indicators put the same runs in, cheapest first, for every pair of indicators.

    Args:
        labels: [runs].
        finals: Indicator to amounts [runs]; a run takes part in a pair where it has finite both.
        better: Indicator to the cheaper direction, 'lower' or 'higher'.
    """
    names = list(finals)
    oriented = {name: [_oriented(amount, better[name]) for amount in amounts] for name, amounts in finals.items()}
    pairs = [
        _pair(labels, first, second, oriented[first], oriented[second])
        for index, first in enumerate(names)
        for second in names[index + 1 :]
    ]
    return {"indicators": names, "pairs": pairs}


def _oriented(amount: Amount, better: str) -> Amount:
    if amount is None or not math.isfinite(amount):
        return None
    return amount if better == "lower" else -amount


def _pair(labels: Sequence[str], first: str, second: str, x: Sequence[Amount], y: Sequence[Amount]) -> RankPair:
    both = [(r, a, b) for r, a, b in zip(labels, x, y, strict=True) if a is not None and b is not None]
    runs, xs, ys = [r for r, _, _ in both], [a for _, a, _ in both], [b for _, _, b in both]
    tau, concordant, discordant, ties = kendall(xs, ys)
    return {
        "first": first,
        "second": second,
        "spearman": spearman(xs, ys),
        "tau_b": tau,
        "concordant": concordant,
        "discordant": discordant,
        "ties": ties,
        "n": len(both),
        "flips": flips(runs, xs, ys),
    }


def _signs(values: Sequence[float]) -> NDArray[np.int64]:
    """[runs, runs]: -1 where the row's value is the lower one, 1 where it is the higher one, 0 for ties."""
    column = np.asarray(values, dtype=np.float64)
    higher = column[:, None] > column[None, :]
    return higher.astype(np.int64) - higher.T.astype(np.int64)


def _doubled_ranks(values: Sequence[float]) -> NDArray[np.int64]:
    """Centred average ranks, doubled so that they are integers."""
    ranks: NDArray[np.int64] = _signs(values).sum(axis=1)
    return ranks

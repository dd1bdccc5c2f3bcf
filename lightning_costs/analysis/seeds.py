"""Several runs of one method: medians in which runs that never got there take part, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from lightning_costs.analysis.schema import Groups, GroupTarget, Spread, TargetRow
from lightning_costs.analysis.targets import winners
from lightning_costs.records.samples import Amount

Floats = NDArray[np.float64]
#: Resamples of the bootstrap, and what it starts from: the same runs have the same interval, always.
RESAMPLES, SEED = 2000, 20211025
#: Fewest runs that an interval is given for, and the share of resampled medians in it.
LEAST_RUNS, CONFIDENCE = 3, 0.95


def median(values: Sequence[float]) -> float | None:
    """The median, infinite values taking part; None for none.

    The mean of the two middle ones if they are even in number: infinite as soon as one of them is.

    Example:
        >>> median([3.0, float("inf"), 1.0]), median([1.0, float("inf")]), median([])
        (3.0, inf, None)
    """
    ordered = sorted(values)
    if not ordered:
        return None
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def medians(table: Floats) -> Floats:
    """[columns]: the median of each column of [runs, columns]; rows that are NaN there take no part.

    NaN where a column has no value.
    """
    ordered = np.sort(table, axis=0)  # NaN comes last
    count = (~np.isnan(table)).sum(axis=0)
    columns = np.arange(table.shape[1])
    low, high = ordered[np.maximum(count - 1, 0) // 2, columns], ordered[count // 2, columns]
    middle: Floats = (low + high) / 2
    return middle


def seed_spread(values: Sequence[Amount]) -> Spread:
    """How a quantity varies over the runs of a group.

    The interval is the percentile bootstrap's of the median (Efron 1979): `RESAMPLES` draws of n runs with
    replacement, from a fixed seed; the order statistics at 2.5 and 97.5 %, not interpolated, as they may be infinite.

    Args:
        values: [runs]; infinite if a target was not reached, None (or NaN) without a reading.

    Example:
        >>> found = seed_spread([1.0, 2.0, float("inf"), None])
        >>> found["median"], found["n"], found["reached"], found["missing"], found["low"], found["high"]
        (2.0, 3, 2, 1, 1.0, inf)
    """
    known = sorted(value for value in values if value is not None and not math.isnan(value))
    reached = sum(math.isfinite(value) for value in known)
    low, high = bootstrap_interval(known) if len(known) >= LEAST_RUNS else (None, None)
    return {
        "n": len(known),
        "reached": reached,
        "share_reached": reached / len(known) if known else None,
        "median": median(known),
        "low": low,
        "high": high,
        "least": known[0] if known else None,
        "most": known[-1] if known else None,
        "missing": len(values) - len(known),
    }


def bootstrap_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """The bootstrap interval of the median of values in ascending order, at least one."""
    low, high = _resampled(len(ordered))
    values = np.asarray(ordered, dtype=np.float64)
    drawn = np.sort((values[low] + values[high]) / 2)
    tail = (1 - CONFIDENCE) / 2
    return float(drawn[math.floor(tail * RESAMPLES)]), float(drawn[math.ceil((1 - tail) * RESAMPLES) - 1])


def aggregate_groups(
    by: str,
    members: Mapping[str, Sequence[str]],
    best: Mapping[str, Amount],
    finals: Mapping[str, Mapping[str, Amount]],
    targets: Sequence[TargetRow],
    better: Mapping[str, str],
) -> Groups:
    """Groups of runs by quality, final amounts and cost-to-quality."""

    def by_group(amounts: Mapping[str, Amount]) -> dict[str, Spread]:
        return {group: seed_spread([amounts.get(label) for label in labels]) for group, labels in members.items()}

    rows: list[GroupTarget] = []
    for row in targets:
        costs = {
            name: by_group({label: spend["cost"] for label, spend in spends.items()})
            for name, spends in row["costs"].items()
        }
        won = {name: winners({g: s["median"] for g, s in costs[name].items()}, better[name]) for name in costs}
        rows.append({"target": row["target"], "costs": costs, "winners": won})
    return {
        "by": by,
        "members": {group: list(labels) for group, labels in members.items()},
        "quality": by_group(best),
        "finals": {name: by_group(amounts) for name, amounts in finals.items()},
        "targets": rows,
    }


@lru_cache(maxsize=64)
def _resampled(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[resamples]: which of n ordered values are the two middle ones of each resample."""
    drawn = np.sort(np.random.default_rng(SEED).integers(0, n, size=(RESAMPLES, n)), axis=1)
    return drawn[:, (n - 1) // 2].copy(), drawn[:, n // 2].copy()

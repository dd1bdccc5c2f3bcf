"""Cost-to-quality: what a run had spent at the first evaluation at or past a target, by every counter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_costs.analysis.rank_correlation import average_ranks, rank_pairs
from lightning_costs.analysis.schema import ClockDisagreement, CostToTarget, Mode, TargetRow
from lightning_costs.records.samples import Amount

Floats = NDArray[np.float64]
#: The three clocks, after AlgoPerf and MLPerf.
CLOCKS = ("train_s", "run_s", "total_s")


class EvaluationCurve(NamedTuple):
    """A run's evaluations as arrays: steps, qualities, and counters with NaN for a missing reading."""

    steps: Sequence[Amount]
    quality: Floats
    costs: Mapping[str, Floats]


def first_hits(quality: Floats, targets: Sequence[float] | Floats, mode: Mode) -> NDArray[np.int64]:
    """[targets]: index of the first evaluation at or past each; the number of evaluations if none is.

    An evaluation that is not finite is never at or past a target.

    Args:
        quality: [evaluations].
        targets: Finite ones.
        mode: Which direction of the quality is better.

    Complexity: O(evaluations + targets x log evaluations).

    Example:
        >>> first_hits(np.array([0.1, np.nan, 0.5, 0.4]), [0.5, 0.6], "max").tolist()
        [2, 4]
    """
    so_far = np.maximum.accumulate(_signed(quality, mode))
    return np.searchsorted(so_far, _sign(mode) * np.asarray(targets, dtype=np.float64), side="left")


def first_sustained_hits(quality: Floats, targets: Sequence[float] | Floats, mode: Mode) -> NDArray[np.int64]:
    """[targets]: index of the evaluation from which on all are at or past each ('reached and kept').

    The number of evaluations where the last one is not.

    Example:
        >>> first_sustained_hits(np.array([0.5, 0.4, 0.6, 0.5]), [0.5, 0.6], "max").tolist()
        [2, 4]
    """
    from_here = np.minimum.accumulate(_signed(quality, mode)[::-1])[::-1]
    return np.searchsorted(from_here, _sign(mode) * np.asarray(targets, dtype=np.float64), side="left")


def cost_to_target(
    course: EvaluationCurve, column: str, target: float, *, hit: int, kept: int, spent_at_end: Amount
) -> CostToTarget:
    """What a run had spent by `column` at evaluation `hit`, never interpolated, with the bracket around it.

    Args:
        course: The run's evaluations.
        column: A counter.
        target: The quality to reach.
        hit: From `first_hits`; past the end costs infinity, also for a run that diverged or was aborted.
        kept: From `first_sustained_hits`, likewise.
        spent_at_end: The counter's total at the end of the run.

    Example:
        >>> course = EvaluationCurve([1, 2], np.array([0.1, 0.9]), {"energy_j": np.array([5.0, 11.0])})
        >>> spend = cost_to_target(course, "energy_j", 0.5, hit=1, kept=1, spent_at_end=12.0)
        >>> spend["cost"], spend["last_miss"], spend["first_hit"], spend["interpolated"]
        (11.0, [5.0, 0.1], [11.0, 0.9], 8.0)
    """
    costs, quality = course.costs[column], course.quality
    reached = hit < len(quality)
    miss = hit - 1
    step = course.steps[hit] if reached else None
    before: list[Amount] | None = [_amount(costs[miss]), float(quality[miss])] if miss >= 0 else None
    after: list[Amount] | None = [_amount(costs[hit]), float(quality[hit])] if reached else None
    return {
        "cost": _amount(costs[hit]) if reached else math.inf,
        "reached": reached,
        "step": None if step is None else int(step),
        "last_miss": before,
        "first_hit": after,
        "spent_at_end": spent_at_end,
        "kept_cost": _amount(costs[kept]) if kept < len(quality) else math.inf,
        "kept": kept < len(quality),
        "interpolated": _between(before, after, target),
    }


def winners(costs: Mapping[str, Amount], better: str = "lower") -> list[str] | None:
    """Labels of those who reached the target at the least cost, all if they tie; None if none reached it.

    Args:
        costs: By label; infinite if the target was not reached, None without a reading.
        better: Which direction of the cost is cheaper.
    """
    reached = {label: cost for label, cost in costs.items() if cost is not None and math.isfinite(cost)}
    if not reached:
        return None
    least = min(reached.values()) if better == "lower" else max(reached.values())
    return [label for label, cost in reached.items() if cost == least]


def chosen_targets(best: Sequence[Amount], mode: Mode) -> list[tuple[float, str]]:
    """Targets from results, for runs that declared none: they are hindsight, and marked so.

    Returns:
        The best quality that every run reaches, and the best that at least half of the runs reach, each with its
        reason. If they are the same, it is returned once.

    Example:
        >>> chosen_targets([0.7, 0.9, 0.8], "max")
        [(0.7, 'the best that every run reaches'), (0.8, 'the best that at least half of the runs reach')]
    """
    ordered = sorted((value for value in best if value is not None), reverse=mode == "max")
    if not ordered:
        return []
    every, half = ordered[-1], ordered[(len(ordered) + 1) // 2 - 1]
    rated = "" if len(ordered) == len(best) else " with a quality"
    chosen = [(every, f"the best that every run{rated} reaches")]
    if half != every:
        chosen.append((half, f"the best that at least half of the runs{rated} reach"))
    return chosen


def target_row(
    target: float,
    *,
    declared: bool,
    basis: str,
    mode: Mode,
    courses: Mapping[str, EvaluationCurve],
    finals: Mapping[str, Mapping[str, Amount]],
    counters: Mapping[str, str],
) -> TargetRow:
    """Cost-to-quality of every run by every counter at one target."""
    aim = [_in_single_precision(target, mode)]
    hits = {label: int(first_hits(course.quality, aim, mode)[0]) for label, course in courses.items()}
    kept = {label: int(first_sustained_hits(course.quality, aim, mode)[0]) for label, course in courses.items()}
    costs = {
        name: {
            label: cost_to_target(
                course, name, target, hit=hits[label], kept=kept[label], spent_at_end=finals[label].get(name)
            )
            for label, course in courses.items()
        }
        for name in counters
    }
    first = {name: {label: spend["cost"] for label, spend in spends.items()} for name, spends in costs.items()}
    lasting = {name: {label: spend["kept_cost"] for label, spend in spends.items()} for name, spends in costs.items()}
    return {
        "target": target,
        "declared": declared,
        "basis": basis,
        "reached": [label for label, course in courses.items() if hits[label] < len(course.quality)],
        "costs": costs,
        "winners": {name: winners(first[name], better) for name, better in counters.items()},
        "kept_winners": {name: winners(lasting[name], better) for name, better in counters.items()},
        "orders": {name: _order(first[name], better) for name, better in counters.items()},
        "reversals": clock_disagreements(first, counters),
    }


def clock_disagreements(
    costs: Mapping[str, Mapping[str, Amount]], better: Mapping[str, str]
) -> list[ClockDisagreement]:
    """Pairs of counters that order runs differently by cost-to-target, clocks first, then the most discordant."""
    labels = list(next(iter(costs.values()), {}))
    by_counter = {name: list(row.values()) for name, row in costs.items()}
    found: list[ClockDisagreement] = [
        {
            "first": pair["first"],
            "second": pair["second"],
            "clocks": pair["first"] in CLOCKS and pair["second"] in CLOCKS,
            "discordant": pair["discordant"],
            "n": pair["n"],
            "pairs": pair["flips"],
        }
        for pair in rank_pairs(labels, by_counter, better, printed=[False] * len(labels))
        if pair["discordant"]
    ]
    return sorted(found, key=lambda row: (not row["clocks"], -row["discordant"]))


def _order(costs: Mapping[str, Amount], better: str) -> dict[str, float]:
    sign = 1.0 if better == "lower" else -1.0
    ranks = average_ranks([None if cost is None else sign * cost for cost in costs.values()])
    return {label: rank for label, rank in zip(costs, ranks, strict=True) if rank is not None}


def _between(before: Sequence[Amount] | None, after: Sequence[Amount] | None, target: float) -> Amount:
    """The cost at the target on the line through both ends of the bracket."""
    if before is None or after is None or None in (*before, *after):
        return None
    (cost, low), (dearer, high) = before, after
    if not all(value is not None and math.isfinite(value) for value in (cost, low, dearer, high)):
        return None
    share = min(1.0, (target - low) / (high - low))  # type: ignore[operator]
    return cost + share * (dearer - cost)  # type: ignore[operator]


def _in_single_precision(target: float, mode: Mode) -> float:
    """The target, or what single precision makes of it if that is easier: most metrics are logged as float32.

    Example:
        >>> _in_single_precision(0.95, "max"), _in_single_precision(0.5, "max"), _in_single_precision(0.95, "min")
        (0.949999988079071, 0.5, 0.95)
    """
    with np.errstate(over="ignore"):
        rounded = float(np.float32(target))
    if not math.isclose(rounded, target, rel_tol=1e-7):  # outside its range
        return target
    return min(target, rounded) if mode == "max" else max(target, rounded)


def _sign(mode: Mode) -> float:
    return 1.0 if mode == "max" else -1.0


def _signed(quality: Floats, mode: Mode) -> Floats:
    """Quality where higher is better; what is not finite is worse than anything."""
    return np.where(np.isfinite(quality), _sign(mode) * quality, -np.inf)


def _amount(value: np.float64) -> Amount:
    return None if np.isnan(value) else float(value)

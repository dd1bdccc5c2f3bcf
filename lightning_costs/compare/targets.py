"""Cost-to-quality: what a run had spent at the first evaluation at or past a target, by every counter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lightning_costs.compare.schema import Curve, Mode, Spend, TargetRow
from lightning_costs.core.records import Amount


def first_hit(quality: Sequence[Amount], target: float, mode: Mode) -> int | None:
    """Index of the first evaluation whose quality is at or past the target; one that is not finite never is.

    Example:
        >>> first_hit([0.1, float("nan"), 0.5, 0.4], 0.5, "max"), first_hit([0.3, 0.2], 0.1, "min")
        (2, None)
    """
    for index, value in enumerate(quality):
        if value is None or not math.isfinite(value):
            continue
        if value >= target if mode == "max" else value <= target:
            return index
    return None


def cost_to_quality(curve: Curve, column: str, hit: int | None, spent_at_end: Amount) -> Spend:
    """What a run had spent by `column` at evaluation `hit`, never interpolated, with the bracket around it.

    Args:
        curve: `step`, `quality` and cost columns, one value per evaluation.
        column: A counter.
        hit: From `first_hit`; None costs infinity, also for a run that diverged or was aborted.
        spent_at_end: The counter's total at the end of the run.

    Example:
        >>> curve = {"step": [1, 2], "quality": [0.1, 0.9], "energy_j": [5.0, 11.0]}
        >>> spend = cost_to_quality(curve, "energy_j", 1, 12.0)
        >>> spend["cost"], spend["last_miss"], spend["first_hit"]
        (11.0, [5.0, 0.1], [11.0, 0.9])
    """
    quality, costs = curve["quality"], curve[column]
    miss = len(quality) - 1 if hit is None else hit - 1
    step = None if hit is None else curve["step"][hit]
    return {
        "cost": math.inf if hit is None else costs[hit],
        "reached": hit is not None,
        "step": None if step is None else int(step),
        "last_miss": [costs[miss], quality[miss]] if miss >= 0 else None,
        "first_hit": None if hit is None else [costs[hit], quality[hit]],
        "spent_at_end": spent_at_end,
    }


def winners(spends: Mapping[str, Spend], better: str = "lower") -> list[str] | None:
    """Labels of the runs that reached the target at the least cost, all where they tie; None for nobody."""
    reached = {
        label: spend["cost"]
        for label, spend in spends.items()
        if spend["reached"] and spend["cost"] is not None and math.isfinite(spend["cost"])
    }
    if not reached:
        return None
    least = min(reached.values()) if better == "lower" else max(reached.values())
    return [label for label, cost in reached.items() if cost == least]


def chosen_targets(best: Sequence[Amount], mode: Mode) -> list[tuple[float, str]]:
    """Targets from results, for runs that declared none: they are hindsight, and marked so.

    Args:
        best: [runs]: best quality of each run, None where it logged none.
        mode: Which direction of the quality is better.

    Returns:
        The best quality that every run reaches, and the best that at least half of the runs reach, once where
        they are the same, each with its reason.

    Example:
        >>> chosen_targets([0.7, 0.9, 0.8], "max")
        [(0.7, 'the best that every run reaches'), (0.8, 'the best that at least half of the runs reach')]
    """
    ordered = sorted((value for value in best if value is not None), reverse=mode == "max")
    if not ordered:
        return []
    every, half = ordered[-1], ordered[(len(ordered) + 1) // 2 - 1]
    chosen = [(every, "the best that every run reaches")]
    if half != every:
        chosen.append((half, "the best that at least half of the runs reach"))
    return chosen


def target_row(
    target: float,
    *,
    declared: bool,
    basis: str,
    mode: Mode,
    curves: Mapping[str, Curve],
    finals: Mapping[str, Mapping[str, Amount]],
    counters: Mapping[str, str],
) -> TargetRow:
    """Cost-to-quality of every run by every counter at one target.

    Args:
        target: Quality to reach.
        declared: Whether it was set before results were seen.
        basis: Where it comes from, in words.
        mode: Which direction of the quality is better.
        curves: By run label.
        finals: Run label to final amounts by column.
        counters: Counter to its cheaper direction.
    """
    hits = {label: first_hit(curve["quality"], target, mode) for label, curve in curves.items()}
    costs = {
        name: {
            label: cost_to_quality(curve, name, hits[label], finals[label].get(name)) for label, curve in curves.items()
        }
        for name in counters
    }
    return {
        "target": target,
        "declared": declared,
        "basis": basis,
        "costs": costs,
        "winners": {name: winners(costs[name], better) for name, better in counters.items()},
    }

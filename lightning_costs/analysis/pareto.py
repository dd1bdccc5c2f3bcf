"""Pareto fronts: of quality against one cost, in all of them together, and who is on which."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lightning_costs.analysis.agreement_schema import Dominance
from lightning_costs.analysis.schema import Declaration, Mode
from lightning_costs.records.formatting import counted
from lightning_costs.records.samples import Amount

#: Most runs that are listed as dominating another one.
MOST_DOMINATORS = 5
_AT_ONCE = 1 << 22


def nondominated(
    costs: Sequence[Amount], qualities: Sequence[Amount], *, better: str = "lower", mode: Mode = "max"
) -> list[bool]:
    """Identify the rows that no other row dominates: the Pareto front of one cost and one quality.

    A row dominates another when it is at least as good in both columns and better in one (weak dominance with
    one strict inequality). Exact duplicates do not dominate each other, so that all of them stay.

    Args:
        costs: [rows]; None or NaN is a missing reading and leaves the row out: it neither is on the front nor
            dominates.
        qualities: [rows], missing ones likewise.
        better: Which direction of the cost is cheaper, 'lower' or 'higher'.
        mode: Which direction of the quality is better, 'max' or 'min'.

    Returns:
        [rows]: True where the row is on the front, in the order of the rows, which does not matter otherwise.

    Complexity: O(n log n) by one sweep from the cheapest row on.

    Example:
        >>> nondominated([1.0, 2.0, 2.0, 3.0], [0.7, 0.9, 0.8, 0.9])
        [True, True, False, False]
        >>> nondominated([1.0, 1.0, None], [0.7, 0.7, 0.9])
        [True, True, False]
    """
    if len(costs) != len(qualities):
        raise ValueError(f"expected as many qualities as costs, got {len(costs)} costs, {len(qualities)} qualities")
    cost_sign = 1.0 if better == "lower" else -1.0
    quality_sign = -1.0 if mode == "max" else 1.0
    rows = sorted(
        (cost_sign * cost, quality_sign * quality, index)
        for index, (cost, quality) in enumerate(zip(costs, qualities, strict=True))
        if cost is not None and quality is not None and not (math.isnan(cost) or math.isnan(quality))
    )
    front = [False] * len(costs)
    best: tuple[float, float] | None = None
    for cost, quality, index in rows:
        # Sorted, so that a row can only be dominated by the last one on the front, unless it equals it.
        if best is None or quality < best[1] or (cost, quality) == best:
            front[index] = True
            best = (cost, quality)
    return front


def jointly_nondominated(columns: Sequence[Sequence[float]]) -> tuple[list[bool], list[list[int]], list[int]]:
    """Identify the rows that no other row dominates in all columns together, lower being better.

    Args:
        columns: [columns][rows], without a missing value.

    Returns:
        [rows]: whether the row is on the joint front; the first rows that dominate it; how many do.

    Complexity: O(rows^2 x columns), memory bounded.

    Example:
        >>> jointly_nondominated([[1.0, 2.0, 2.0], [5.0, 3.0, 4.0]])
        ([True, True, False], [[], [], [1]], [0, 0, 1])
    """
    table = np.array(columns, dtype=np.float64).T
    rows, width = table.shape
    by: list[list[int]] = []
    count: list[int] = []
    step = max(1, _AT_ONCE // max(1, rows * width))
    for start in range(0, rows, step):
        own = table[start : start + step, None, :]
        no_worse, better = (table <= own).all(axis=2), (table < own).any(axis=2)
        dominated = np.atleast_2d(no_worse & better)
        by += [np.flatnonzero(row)[:MOST_DOMINATORS].tolist() for row in dominated]
        count += dominated.sum(axis=1).tolist()
    return [not dominators for dominators in count], by, count


def pareto_fronts(
    labels: Sequence[str],
    finals: Mapping[str, Sequence[Amount]],
    best: Sequence[Amount],
    declared: Mapping[str, Declaration],
    mode: Mode,
) -> dict[str, list[str]]:
    """Indicator to the labels on the Pareto front of best quality against the amount at the end."""
    return {
        name: [
            label
            for label, kept in zip(
                labels, nondominated(amounts, best, better=declared[name]["better"], mode=mode), strict=True
            )
            if kept
        ]
        for name, amounts in finals.items()
    }


def dominance(
    labels: Sequence[str],
    finals: Mapping[str, Sequence[Amount]],
    best: Sequence[Amount],
    declared: Mapping[str, Declaration],
    mode: Mode,
    fronts: Mapping[str, Sequence[str]],
) -> Dominance:
    """Fronts taken together, and the front in quality and all costs at once.

    A run without quality takes no part. An indicator that only some of the others have a reading of is left out of the
    joint front: a missing amount is neither good nor bad. A run without a reading that another run has is not on every
    front.
    """
    taking = [index for index, quality in enumerate(best) if quality is not None]
    here = {name: [amounts[index] for index in taking] for name, amounts in finals.items()}
    lacking = {name: sum(amount is None or math.isnan(amount) for amount in row) for name, row in here.items()}
    columns = [name for name, count in lacking.items() if not count and taking]
    left_out = {
        name: "no run has it"
        if count == len(taking)
        else f"{count} of {counted(len(taking))} {'has' if count == 1 else 'have'} no reading"
        for name, count in lacking.items()
        if count
    }
    quality = [(-1.0 if mode == "max" else 1.0) * (best[index] or 0.0) for index in taking]
    table = [[*_signed(here[name], declared[name]["better"])] for name in columns]
    kept, by, count = jointly_nondominated([quality, *table]) if columns else ([], [], [])
    taken = [labels[index] for index in taking]
    on = {name: set(front) for name, front in fronts.items()}
    known = {name: [a is not None and not math.isnan(a) for a in row] for name, row in here.items()}
    measured = [name for name, row in known.items() if any(row)]
    by_run = {
        label: {
            "on": [name for name in finals if label in on[name]],
            "off": [name for name in finals if known[name][row] and label not in on[name]],
        }
        for row, label in enumerate(taken)
    }
    return {
        "joint": [label for label, stays in zip(taken, kept, strict=False) if stays],
        "columns": columns,
        "left_out": left_out,
        "by_run": by_run,
        "everywhere": [label for label, row in by_run.items() if measured and row["on"] == measured],
        "nowhere": [label for label, row in by_run.items() if row["off"] and not row["on"]],
        "dominated_by": {label: [taken[i] for i in rows] for label, rows in zip(taken, by, strict=False) if rows},
        "dominators": {label: number for label, number in zip(taken, count, strict=False) if number},
    }


def _signed(amounts: Sequence[Amount], better: str) -> list[float]:
    sign = 1.0 if better == "lower" else -1.0
    return [sign * (amount or 0.0) for amount in amounts]

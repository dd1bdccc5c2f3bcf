"""Who is efficient by every indicator, and who by none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lightning_costs.analysis.pareto import jointly_nondominated, nondominated
from lightning_costs.analysis.schema import Declaration, Dominance, Mode
from lightning_costs.records.samples import Amount


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
        name: "no run has it" if count == len(taking) else f"{count} of {len(taking)} runs have no reading"
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

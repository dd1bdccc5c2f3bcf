"""What a run came to, as flat numbers: best quality, and what each declared target cost to reach."""

from __future__ import annotations

import math

from lightning_costs.compare.evidence import read_run
from lightning_costs.compare.metric import agree_on_metric
from lightning_costs.compare.targets import first_hits
from lightning_costs.core.records import RunRecord


def outcome(run: RunRecord) -> dict[str, float | bool]:
    """Best quality and cost-to-quality of a run that knows its metric; empty for one that does not or logged none.

    `best_quality` at `best_step`; `to_target_<column>` is what every counter had come to at the first evaluation at or
    past the first declared target, and `to_target_2_<column>` at the second, in the order of the header's `targets`.
    A target that was not reached has no such numbers: `target_reached` (`target_2_reached`) says False. Each is the
    amount that `compare` names.
    """
    header = run.header
    monitor = header.get("monitor")
    if monitor is None or monitor not in run.quality_columns:
        return {}
    metric = agree_on_metric([run])
    row, course = read_run(run, run.name, metric, header["indicators"])
    told: dict[str, float | bool] = {}
    if row["best_quality"] is not None and row["best_step"] is not None:
        told |= {"best_quality": row["best_quality"], "best_step": row["best_step"]}
    counters = [
        name for name, row in header["indicators"].items() if row["kind"] == "counter" and row["role"] == "indicator"
    ]
    for number, target in enumerate(header.get("targets") or (), start=1):
        named = "target" if number == 1 else f"target_{number}"
        hit = int(first_hits(course.quality, [target], metric.mode)[0])
        told[f"{named}_reached"] = hit < len(course.quality)
        if told[f"{named}_reached"]:
            spent = {name: float(course.costs[name][hit]) for name in counters}
            told |= {f"to_{named}_{name}": amount for name, amount in spent.items() if not math.isnan(amount)}
    return told

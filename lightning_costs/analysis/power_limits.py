"""Runs under several power limits: energy against time to one target, and who is on their Pareto front."""

from __future__ import annotations

import math
from typing import NamedTuple

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.pareto import nondominated

#: Where a run's setup has the limit of the device that it trained on.
SETTING = "hardware.power_limit_w"


class PowerLimitRun(NamedTuple):
    """What reaching the target cost a run under its limit; `on_front` if no run needed less of both."""

    label: str
    limit_w: float
    time_s: float
    energy_j: float
    on_front: bool


def power_limit_runs(cmp: ComparisonData) -> list[PowerLimitRun]:
    """The runs that reached the answer's target at a known time and energy; none without two different limits.

    Time is the total clock's, energy that of all components: what a lower limit saves is held against the idle time
    that a longer run draws.
    """
    target = next((row for row in cmp.targets if row["target"] == cmp.answer["target"]), None)
    if target is None:
        return []
    times, energies = (target["costs"].get(name, {}) for name in ("total_s", "energy_j"))
    found = []
    for run in cmp.runs:
        limit_w, label = run["setup"].get(SETTING), run["label"]
        if not isinstance(limit_w, int | float) or label not in times or label not in energies:
            continue
        time_s, energy_j = times[label]["cost"], energies[label]["cost"]
        if time_s is not None and energy_j is not None and math.isfinite(time_s) and math.isfinite(energy_j):
            found.append(PowerLimitRun(label, float(limit_w), time_s, energy_j, on_front=False))
    if len({run.limit_w for run in found}) < 2:
        return []
    front = nondominated([run.time_s for run in found], [run.energy_j for run in found], mode="min")
    return [run._replace(on_front=on) for run, on in zip(found, front, strict=True)]

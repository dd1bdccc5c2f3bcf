"""Energy against time to the target of runs under several power limits, each with its limit, and their Pareto front."""

from __future__ import annotations

import altair as alt

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.power_limits import power_limit_runs
from lightning_costs.records.formatting import choose_unit
from lightning_costs.report.charts.data import Axis, ChartData
from lightning_costs.report.charts.look import RunStyle
from lightning_costs.report.charts.pareto import front_chart


def power_limit_chart(look: RunStyle, data: ChartData, cmp: ComparisonData) -> alt.LayerChart | None:
    """Lay runs, their limits and the front over each other; None without two limits that reach a target."""
    found = power_limit_runs(cmp)
    if not found:
        return None
    time = choose_unit("s", max(run.time_s for run in found))
    energy = choose_unit("j", max(run.energy_j for run in found))
    numbers = {label: number for number, label in enumerate(data.labels)}
    rows = [
        {
            **look.identity(numbers[run.label]),
            "x": run.time_s / time.factor,
            "y": run.energy_j / energy.factor,
            "f": int(run.on_front),
            "limit": f"{run.limit_w:g} W",
        }
        for run in found
        if run.label in numbers
    ]
    source = alt.InlineData(values=rows)
    x = Axis(field="x", label="time to the target", suffix=time.suffix, static=False, positive=False)
    y = Axis(field="y", label="energy to the target", suffix=energy.suffix, static=False, positive=False)
    limits = (
        alt.Chart(source).mark_text(align="left", dx=9, dy=-7, color="#52606d").encode(x="x:Q", y="y:Q", text="limit:N")
    )
    return alt.layer(front_chart(look, x, y, source, log=False, higher=False), limits)

"""Pareto fronts: of quality and one cost, and of energy and time under several power limits."""

from __future__ import annotations

import altair as alt

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.power_limits import power_limit_runs
from lightning_costs.records.formatting import choose_unit
from lightning_costs.report.charts.data import Axis, ChartData
from lightning_costs.report.charts.look import (
    SHOWN,
    RunStyle,
    amount_code,
    at_field,
    described,
    encoded,
    run_legend,
    tooltip_of,
)

#: Of `Comparison.fronts`, how a chart's rows say that a run is on one.
_ON, _OFF = "datum.f === 1", "datum.f !== 1"


def front_rows(look: RunStyle, data: ChartData, cmp: ComparisonData, name: str) -> list[dict[str, object]]:
    """A row per run that has both: amount `x`, best quality `y`, and `f`, 1 on the front."""
    on = set(cmp.fronts.get(name, ()))
    amounts, qualities = data.finals[data.axes[name].field], data.finals["q"]
    return [
        {**look.identity(r), "x": x, "y": y, "f": int(label in on)}
        for r, (label, x, y) in enumerate(zip(data.labels, amounts, qualities, strict=True))
        if x is not None and y is not None
    ]


def front_chart(
    look: RunStyle,
    x: Axis,
    y: Axis,
    source: alt.InlineData | alt.NamedData,
    *,
    log: bool,
    higher: bool,
    page: bool = False,
) -> alt.LayerChart:
    """Lay the front's steps, the runs off it and those on it over each other."""
    x, y = at_field(x, "x"), at_field(y, "y")
    base = alt.Chart(source).encode(x=encoded(alt.X, x, log=log), y=encoded(alt.Y, y, log=False))
    if not page and log:
        base = base.transform_filter("datum.x > 0")
    mark: dict[str, object] = {}
    if not page:
        base = base.transform_calculate(x_text=amount_code("x", x.suffix), y_text=amount_code("y", y.suffix))
        mark = {"tooltip": tooltip_of({"run": "run", y.label: "y_text", x.label: "x_text"})}
        mark |= described("datum.y_text", "datum.x_text")
    steps = (
        base.transform_filter(_ON)
        .mark_line(interpolate="step-before" if higher else "step-after", color="#7b8794", strokeWidth=1.5, aria=False)
        .encode(order=alt.Order("x:Q"))
    )
    others = base.transform_filter("datum.r < 0").mark_point(
        shape="circle", size=18, filled=True, color="#9aa5b1", **mark
    )
    named = base.transform_filter(f"datum.r >= 0 && {SHOWN}" if page else "datum.r >= 0").encode(
        color=alt.Color(look.by, scale=look.colors, legend=None if page else run_legend()),
        shape=alt.Shape(look.by, scale=look.shapes, legend=None),
    )
    off = named.transform_filter(_OFF).mark_point(filled=False, size=70, strokeWidth=2, opacity=0.9, **mark)
    on = named.transform_filter(_ON).mark_point(filled=True, size=130, opacity=1, **mark)
    picture = alt.layer(steps, others, off, on)
    return picture.add_params(alt.param(name="hidden", value=[])) if page else picture


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

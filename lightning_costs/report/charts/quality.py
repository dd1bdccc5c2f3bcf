"""Charts of a comparison in Altair: quality, or any indicator, against a cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import altair as alt

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.charts.data import Axis, ChartData, Column, chart_data, rows
from lightning_costs.report.charts.fit import BandPoint, band, cost_domain, group_of_runs, quality_domain
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

#: Seeds of one method, under the line and band of their group.
_FAINT = 0.28


class QualitySource(NamedTuple):
    """What a chart of quality against a cost is drawn from."""

    points: alt.InlineData | alt.NamedData
    bands: alt.InlineData | alt.NamedData | None = None


def chart(
    cmp: ComparisonData,
    x: str,
    y: str | None = None,
    *,
    log: bool = True,
    ylim: tuple[float, float] | None = None,
    group: bool | None = None,
    width: int | None = None,
) -> alt.LayerChart:
    """Draw quality, or the indicator `y`, against the cost `x`, with its data and a legend that filters on click.

    Args:
        cmp: The comparison.
        x: Column of an indicator.
        y: Column of another; None or the metric's name draws the quality.
        log: Whether costs are drawn on a logarithmic axis.
        ylim: Least and greatest value of the vertical axis; None fits it to the data.
        group: Whether seeds of one method share a color, with their median and band; None if runs are grouped.
        width: In pixels.

    Raises:
        ValueError: For an indicator that is not compared or that no run has a value of, limits out of order, or
            `group=True` for runs without groups.
    """
    return _picture(cmp, x, y, log=log, still=False, ylim=ylim, group=group, width=width)


def _picture(
    cmp: ComparisonData,
    x: str,
    y: str | None,
    *,
    log: bool,
    still: bool,
    ylim: tuple[float, float] | None = None,
    group: bool | None = None,
    width: int | None = None,
) -> alt.LayerChart:
    names = [x] if y is None or (y == cmp.monitor and y not in cmp.indicators) else [x, y]
    for name in names:
        if name not in cmp.indicators:
            raise ValueError(f"{name!r} is not compared; choose one of {', '.join(cmp.indicators)}")
    if ylim is not None and not ylim[0] < ylim[1]:
        raise ValueError(f"ylim must be (least, greatest), got {ylim}")
    of = group_of_runs(cmp)
    if group and not of:
        raise ValueError("group=True needs runs in groups: compare(runs, group='name~(.+)-seed\\d+'), for example")
    data = chart_data(cmp, names)
    for name in names:
        if name not in data.axes:
            raise ValueError(f"{name!r} is missing in every run; `runs` of the comparison has the reasons")
    look = RunStyle(data.labels, of if group is not False else {})
    axes = [data.axes[name] for name in names]
    static = any(axis.static for axis in axes)
    columns = data.finals if static else data.curves
    points = alt.InlineData(values=rows(identities(look), columns, [axis.field for axis in axes]))
    quality = data.best if static else replace(data.quality, domain=quality_domain(cmp))
    vertical = axes[1] if len(axes) > 1 else quality
    vertical = replace(vertical, domain=ylim or vertical.domain)
    if vertical.field == "q":
        axes[0] = fitted(axes[0], columns, vertical)
    banded = look.grouped and not static and len(axes) == 1
    source = QualitySource(points, alt.InlineData(values=band_rows(look, data, axes[0])) if banded else None)
    picture = layered_chart(look, axes[0], vertical, source=source, log=log, lines=not static, still=still)
    return picture.properties(width=width or (360 if still else 560), height=260 if still else 340)


def fitted(axis: Axis, columns: Mapping[str, Column], vertical: Axis) -> Axis:
    """The cost axis over what the quality axis shows: an evaluation that it cuts off takes no room."""
    return replace(axis, domain=cost_domain(columns[axis.field], columns["q"], vertical.domain, positive=axis.positive))


def identities(look: RunStyle) -> list[Mapping[str, object]]:
    """By run number, what a row says of the run."""
    return [look.identity(run) for run in range(len(look.labels))]


def group_bands(look: RunStyle, data: ChartData, axis: Axis) -> dict[int, list[BandPoint]]:
    """The legend's entry to its line and band of quality against a cost; entries of one run have none."""
    if not look.grouped or axis.static:
        return {}
    lines: dict[int, list[tuple[float, float]]] = {run: [] for run in range(len(look.labels))}
    for run, x, y in zip(data.curves["r"], data.curves[axis.field], data.curves["q"], strict=True):
        if x is not None and y is not None:
            lines[int(run or 0)].append((x, y))
    found = {}
    for key in range(len(look.names)):
        seeds = [sorted(lines[run], key=lambda point: point[0]) for run, one in enumerate(look.keys) if one == key]
        if points := band(seeds):
            found[key] = points
    return found


def band_rows(look: RunStyle, data: ChartData, axis: Axis) -> list[dict[str, object]]:
    """A row per point of each group's line."""
    return [
        {"k": key, "who": look.names[key], "run": look.names[key], **point._asdict()}
        for key, points in group_bands(look, data, axis).items()
        for point in points
    ]


def layered_chart(
    look: RunStyle,
    x: Axis,
    y: Axis,
    *,
    source: QualitySource,
    log: bool,
    lines: bool,
    page: bool = False,
    still: bool = False,
) -> alt.LayerChart:
    """Lay bands of groups, lines, run shapes and hover points over each other.

    Args:
        look: How runs, or their groups, are told apart.
        x: Cost axis.
        y: Quality axis, or another indicator's.
        source: What is drawn; in a page, names that the page fills in.
        log: Whether indicators are drawn on logarithmic axes.
        lines: Whether rows are points of curves rather than one per run.
        page: Whether the page's script fills in titles, scales and tooltips, and its own legend the runs that are
            hidden.
        still: Whether the chart is a picture: no hover points, no legend to click.
    """
    legend = None if page else run_legend()
    color = alt.Color(look.by, scale=look.colors, legend=legend)
    shape = alt.Shape(look.by, scale=look.shapes, legend=None)
    dash = alt.StrokeDash(look.by, scale=look.dashes, legend=None)
    across = encoded(alt.X, x, log=log and x.field != "q")
    up = encoded(alt.Y, y, log=log and y.field != "q")
    banded = lines and source.bands is not None
    base = alt.Chart(source.points).encode(x=across, y=up, color=color)
    tooltip: alt.ExprRef | None = None
    params = []
    # Seeds stand behind the line of their group.
    strong = _FAINT if banded else 0.95
    visible: object = alt.value(strong)
    if page:
        base = base.transform_filter(SHOWN)
        params.append(alt.param(name="hidden", value=[]))
    else:
        for axis in (x, y):
            base = base.transform_filter(_drawable(axis, "log" if not still else "true" if log else "false"))
        base = base.transform_calculate(x_text=amount_code(x.field, x.suffix), y_text=amount_code(y.field, y.suffix))
        tooltip = tooltip_of(
            {"run": "run", "step" if lines else "step of the best": "s", y.label: "y_text", x.label: "x_text"}
        )
        if not still:
            runs = alt.selection_point(name="runs", fields=["who"], bind="legend")
            visible = alt.condition(runs, alt.value(strong), alt.value(0.08))
            params += [alt.param(name="log", value=log), runs]
    hover = {} if tooltip is None else {"tooltip": tooltip}
    mark = {} if tooltip is None else {**hover, **described("datum.y_text", "datum.x_text")}
    layers: list[alt.Chart] = []
    if banded and source.bands is not None:
        grouped = alt.Chart(source.bands).encode(x=encoded(alt.X, at_field(x, "x"), log=log), color=color)
        if page:
            grouped = grouped.transform_filter(SHOWN)
        elif log and x.positive:
            grouped = grouped.transform_filter("datum.x > 0")
        layers.append(
            grouped.mark_area(opacity=0.16, interpolate="step-after", clip=True, aria=False).encode(
                y=encoded(alt.Y, at_field(y, "low"), log=False), y2="high:Q"
            )
        )
        layers.append(
            grouped.mark_line(strokeWidth=2.5, interpolate="step-after", clip=True, aria=False).encode(
                y=encoded(alt.Y, at_field(y, "middle"), log=False), strokeDash=dash, order=alt.Order("x:Q")
            )
        )
    if lines:
        layers.append(
            base.mark_line(strokeWidth=1 if banded else 2, strokeJoin="round", clip=True, aria=False).encode(
                strokeDash=dash, detail="r:N", order=alt.Order("s:Q"), opacity=visible
            )
        )
    layers.append(
        base.transform_filter("datum.m === 1")
        .mark_point(filled=True, size=22 if banded else 45 if lines else 130, clip=True, **mark)
        .encode(shape=shape, opacity=visible)
    )
    if still:
        return alt.layer(*layers)
    if lines:
        near = alt.selection_point(name="near", nearest=True, on="pointerover", clear="pointerout", empty=False)
        layers.append(
            base.mark_point(filled=True, size=110, stroke="white", strokeWidth=1.5, clip=True, aria=False, **hover)
            .encode(opacity=alt.condition(near, alt.value(1), alt.value(0)))
            .add_params(near)
        )
    return alt.layer(*layers).add_params(*params)


def _drawable(axis: Axis, log: str) -> str:
    value = f"isValid(datum.{axis.field})"
    return value if axis.field == "q" else f"{value} && (!{log} || datum.{axis.field} > 0)"

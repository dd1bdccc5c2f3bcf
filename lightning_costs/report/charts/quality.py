"""Charts of a comparison in Altair: quality, or any indicator, against a cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import altair as alt

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.charts.data import Axis, ChartData, chart_data, rows

T = TypeVar("T")

#: Okabe and Ito 2008, 'Color Universal Design', with wine (Tol's 'muted') for yellow, which a white page swallows.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D", "#882255")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
#: Room between the marks and the frame, in pixels.
PADDING = 12
#: Rows of runs that the page's legend has not switched off.
SHOWN = "indexof(hidden, datum.r) < 0"
DASHES = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3), (4, 4))


def chart(cmp: ComparisonData, x: str, y: str | None = None, *, log: bool = True) -> alt.LayerChart:
    """Draw quality, or the indicator `y`, against the cost `x`, with its data and a legend that filters on click.

    Args:
        cmp: The comparison.
        x: Column of an indicator.
        y: Column of another; None or the metric's name draws the quality.
        log: Whether costs are drawn on a logarithmic axis.

    Raises:
        ValueError: For an indicator that is not compared or that no run has a value of.
    """
    return _picture(cmp, x, y, log=log, still=False)


def static_chart(cmp: ComparisonData, xs: Sequence[str], *, log: bool = True) -> alt.HConcatChart:
    """Draw quality against several costs side by side, as a picture that does not answer to a pointer.

    Args:
        cmp: The comparison.
        xs: Columns of indicators.
        log: Whether costs are drawn on logarithmic axes.

    Raises:
        ValueError: For an indicator that is not compared or that no run has a value of.
    """
    return alt.hconcat(*(_picture(cmp, x, None, log=log, still=True) for x in xs))


def _picture(cmp: ComparisonData, x: str, y: str | None, *, log: bool, still: bool) -> alt.LayerChart:
    names = [x] if y is None or (y == cmp.monitor and y not in cmp.indicators) else [x, y]
    for name in names:
        if name not in cmp.indicators:
            raise ValueError(f"{name!r} is not compared; choose one of {', '.join(cmp.indicators)}")
    data = chart_data(cmp, names)
    for name in names:
        if name not in data.axes:
            raise ValueError(f"{name!r} is missing in every run; `runs` of the comparison has the reasons")
    axes = [data.axes[name] for name in names]
    static = any(axis.static for axis in axes)
    columns = data.finals if static else data.curves
    source = alt.InlineData(values=rows(data, columns, [axis.field for axis in axes]))
    quality = data.best if static else data.quality
    vertical = axes[1] if len(axes) > 1 else quality
    picture = layered_chart(data, axes[0], vertical, source=source, log=log, lines=not static, still=still)
    return picture.properties(width=360 if still else 560, height=260 if still else 340)


def layered_chart(
    data: ChartData,
    x: Axis,
    y: Axis,
    *,
    source: alt.InlineData | alt.NamedData,
    log: bool,
    lines: bool,
    page: bool = False,
    still: bool = False,
) -> alt.LayerChart:
    """Lay lines, run shapes and hover points over each other.

    Args:
        data: For the runs' labels.
        x: Cost axis.
        y: Quality axis, or another indicator's.
        source: Rows with the columns of `ChartData`; in a page, a name that the page fills in.
        log: Whether indicators are drawn on logarithmic axes.
        lines: Whether rows are points of curves rather than one per run.
        page: Whether the page's script fills in titles, scales and tooltips, and its own legend the runs that are
            hidden.
        still: Whether the chart is a picture: no hover points, no legend to click.
    """
    look = RunStyle(data.labels, page=page)
    legend = None if page else run_legend()
    color = alt.Color(look.by, scale=look.colors, legend=legend)
    shape = alt.Shape(look.by, scale=look.shapes, legend=None)
    dash = alt.StrokeDash(look.by, scale=look.dashes, legend=None)
    base = alt.Chart(source).encode(
        x=encoded(alt.X, x, log=log and x.field != "q"),
        y=encoded(alt.Y, y, log=log and y.field != "q"),
        color=color,
    )
    tooltip: alt.ExprRef | None = None
    params = []
    visible: object = alt.value(0.95)
    if page:
        base = base.transform_filter(SHOWN)
        params.append(alt.param(name="hidden", value=[]))
    else:
        for axis in (x, y):
            base = base.transform_filter(_drawable(axis, "log" if not still else "true" if log else "false"))
        base = base.transform_calculate(x_text=_text(x), y_text=_text(y))
        tooltip = tooltip_of(
            {"run": "run", "step" if lines else "step of the best": "s", y.label: "y_text", x.label: "x_text"}
        )
        if not still:
            runs = alt.selection_point(name="runs", fields=["run"], bind="legend")
            visible = alt.condition(runs, alt.value(0.95), alt.value(0.08))
            params += [alt.param(name="log", value=log), runs]
    mark = {} if tooltip is None else {"tooltip": tooltip}
    layers = []
    if lines:
        layers.append(
            base.mark_line(strokeWidth=2, strokeJoin="round").encode(
                strokeDash=dash, order=alt.Order("s:Q"), opacity=visible
            )
        )
    layers.append(
        base.transform_filter("datum.m === 1")
        .mark_point(filled=True, size=45 if lines else 130, **mark)
        .encode(shape=shape, opacity=visible)
    )
    if still:
        return alt.layer(*layers)
    if lines:
        near = alt.selection_point(name="near", nearest=True, on="pointerover", clear="pointerout", empty=False)
        layers.append(
            base.mark_point(filled=True, size=110, stroke="white", strokeWidth=1.5, **mark)
            .encode(opacity=alt.condition(near, alt.value(1), alt.value(0)))
            .add_params(near)
        )
    return alt.layer(*layers).add_params(*params)


def styled(spec: alt.LayerChart) -> alt.LayerChart:
    """The look that charts of this package share."""
    font = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
    return (
        spec.configure(font=font)
        .configure_axis(
            labelFontSize=11,
            titleFontSize=12,
            titleFontWeight=600,
            titleColor="#1f2933",
            labelColor="#52606d",
            gridColor="#e9edf2",
            domainColor="#9aa5b1",
            tickColor="#9aa5b1",
            titlePadding=8,
        )
        .configure_view(stroke=None)
    )


def cycle(values: Sequence[T], count: int) -> list[T]:
    """`count` values, from the start again where they run out.

    Example:
        >>> cycle(("a", "b"), 3)
        ['a', 'b', 'a']
    """
    return [values[index % len(values)] for index in range(count)]


class RunStyle:
    """How runs are told apart: color, shape and dash by run, the same in every chart.

    Args:
        labels: The runs.
        page: Whether rows carry the run's number `r`, as the page's do, or its label.
    """

    def __init__(self, labels: Sequence[str], *, page: bool = False) -> None:
        count = len(labels)
        domain: list[int] | list[str] = list(range(count)) if page else list(labels)
        self.by = "r:N" if page else "run:N"
        self.colors = alt.Scale(domain=domain, range=cycle(COLORS, count))
        self.shapes = alt.Scale(domain=domain, range=cycle(SHAPES, count))
        self.dashes = alt.Scale(domain=domain, range=[list(dash) for dash in cycle(DASHES, count)])


def run_legend(symbol: str = "circle", orient: Literal["right", "top"] = "right") -> alt.Legend:
    """The legend of a chart outside the page."""
    return alt.Legend(title=None, labelLimit=260, symbolType=symbol, symbolOpacity=1, orient=orient)


def encoded(channel: type[alt.X] | type[alt.Y], axis: Axis, *, log: bool) -> alt.X | alt.Y:
    """A quantitative channel with the axis's title, logarithmic where it can be."""
    scale = (
        alt.Scale(type="log", nice=False, padding=PADDING)
        if log and axis.positive
        else alt.Scale(type="linear", zero=False, nice=False, padding=PADDING)
    )
    return channel(
        f"{axis.field}:Q",
        # A zero-width space: Vega looks a bare title up among JavaScript's own names and fails on 'constructor'.
        title=f"{axis.title}\u200b",
        scale=scale,
        axis=alt.Axis(format=",.4~r", tickCount=6, labelOverlap="greedy", titleLimit=420),
    )


def _drawable(axis: Axis, log: str) -> str:
    value = f"isValid(datum.{axis.field})"
    return value if axis.field == "q" else f"{value} && (!{log} || datum.{axis.field} > 0)"


def _text(axis: Axis) -> str:
    suffix = f" {axis.suffix}" if axis.suffix else ""
    # As a JSON literal: a unit comes from a run's header, which anybody may have written.
    return f"format(datum.{axis.field}, ',.4~r') + {json.dumps(suffix)}"


def tooltip_of(rows: Mapping[str, str]) -> alt.ExprRef:
    """A tooltip's titles and the fields they show.

    An expression of our own: Vega-Lite 6 looks for the texts of a nearest point in the wrong place (the cell around
    the point rather than the point). The colon keeps a user's title from meaning something: vega-tooltip shows one
    named 'image' as a picture, and Vega's interpreter refuses 'constructor'.
    """
    shown: dict[str, str] = {}
    for title, field in rows.items():
        line = f"{' '.join(title.split())[:80]}:"
        while line in shown:  # an expression takes no title twice
            line += "\u200b"
        shown[line] = field
    lines = (f"{json.dumps(line)}: (datum.datum || datum).{field}" for line, field in shown.items())
    return alt.ExprRef(f"{{{', '.join(lines)}}}")

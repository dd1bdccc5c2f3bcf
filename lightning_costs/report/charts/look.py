"""The look that all charts share: colors, shapes and dashes of runs or of their groups, axes, tooltips, fonts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import altair as alt

from lightning_costs.report.charts.data import Axis

#: The version of Vega-Lite that Altair writes for.
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])

T = TypeVar("T")

#: Okabe and Ito 2008, 'Color Universal Design', with wine (Tol's 'muted') for yellow, which a white page swallows.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D", "#882255")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down")
DASHES = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3), (4, 4))
#: Room between the marks and the frame, in pixels.
PADDING = 12
#: The smallest text of a chart, in pixels.
TEXT = 12
#: Rows of runs that the page's legend has not switched off.
SHOWN = "indexof(hidden, datum.k) < 0"
_INK = "#1f2933"


class RunStyle:
    """How runs are told apart: color, shape and dash by run, or by group where runs are seeds of methods.

    Args:
        labels: The runs.
        groups: Run label to its group; empty where every run is drawn for itself.
        page: Whether rows carry the number `k` of the legend's entry, as the page's do, or its name `who`.
    """

    def __init__(self, labels: Sequence[str], groups: Mapping[str, str] | None = None, *, page: bool = False) -> None:
        of = dict(groups or {})
        self.groups = of
        self.labels = list(labels)
        self.grouped = bool(of)
        self.names = list(dict.fromkeys(of.get(label, label) for label in labels))
        numbers = {name: number for number, name in enumerate(self.names)}
        #: The number of the legend's entry of each run.
        self.keys = [numbers[of.get(label, label)] for label in labels]
        count = len(self.names)
        domain: list[int] | list[str] = list(range(count)) if page else self.names
        self.by = "k:N" if page else "who:N"
        self.colors = alt.Scale(domain=domain, range=cycle(COLORS, count))
        self.shapes = alt.Scale(domain=domain, range=cycle(SHAPES, count))
        self.dashes = alt.Scale(domain=domain, range=[list(dash) for dash in cycle(DASHES, count)])

    def identity(self, run: int) -> dict[str, object]:
        """What a chart's row says of whom it is about: run number and name, and the legend's entry likewise."""
        key = self.keys[run]
        return {"r": run, "run": self.labels[run], "k": key, "who": self.names[key]}


def styled(spec: alt.LayerChart) -> alt.LayerChart:
    """The look that charts of this package share."""
    font = "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"
    return (
        spec.configure(font=font)
        .configure_axis(
            labelFontSize=TEXT,
            titleFontSize=TEXT,
            titleFontWeight=600,
            titleColor=_INK,
            labelColor="#52606d",
            gridColor="#e9edf2",
            domainColor="#9aa5b1",
            tickColor="#9aa5b1",
            titlePadding=8,
        )
        .configure_legend(labelFontSize=TEXT)
        .configure_view(stroke=None)
    )


def cycle(values: Sequence[T], count: int) -> list[T]:
    """`count` values, from the start again if they run out.

    Example:
        >>> cycle(("a", "b"), 3)
        ['a', 'b', 'a']
    """
    return [values[index % len(values)] for index in range(count)]


def run_legend(symbol: str = "circle", orient: Literal["right", "top"] | None = None) -> alt.Legend:
    """The legend of a chart outside the page, where the chart's configuration has it if `orient` does not say."""
    legend = alt.Legend(title=None, labelLimit=260, symbolType=symbol, symbolOpacity=1)
    if orient is not None:
        legend.orient = orient
    return legend


def encoded(channel: type[alt.X] | type[alt.Y], axis: Axis, *, log: bool) -> alt.X | alt.Y:
    """A quantitative channel with the axis's title and domain, logarithmic if possible."""
    scale = (
        alt.Scale(type="log", nice=False, padding=PADDING)
        if log and axis.positive
        else alt.Scale(type="linear", zero=False, nice=False, padding=PADDING)
    )
    if axis.domain is not None:
        scale.domain = list(axis.domain)
    return channel(
        f"{axis.field}:Q",
        # A zero-width space: Vega looks a bare title up among JavaScript's own names and fails on 'constructor'.
        title=f"{axis.title}\u200b",
        scale=scale,
        axis=alt.Axis(format=",.4~r", tickCount=6, labelOverlap="greedy", labelSeparation=6, titleLimit=420),
    )


def at_field(axis: Axis, field: str) -> Axis:
    """The axis for another column of the data."""
    return replace(axis, field=field)


def amount_code(field: str, suffix: str) -> str:
    """Vega's expression for an amount and its unit."""
    # As a JSON literal: a unit comes from a run's header, which may have been written by any program.
    return f"format(datum.{field}, ',.4~r') + {json.dumps(f' {suffix}' if suffix else '')}"


def described(*parts: str) -> dict[str, object]:
    """What a screen reader says of a mark: the run, then expressions such as those of `amount_code`."""
    return {"description": alt.ExprRef(" + ', ' + ".join(("datum.run", *parts)))}


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

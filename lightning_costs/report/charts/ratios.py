"""Groups of seeds against one of them: the ratio of every independent cost, with its interval."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import altair as alt

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.schema import Contrast, Spread
from lightning_costs.records.certainty import noted
from lightning_costs.records.formatting import format_number
from lightning_costs.report.charts.answer import differing_costs
from lightning_costs.report.charts.data import single_line
from lightning_costs.report.charts.fit import group_of_runs
from lightning_costs.report.charts.look import TEXT, RunStyle, styled
from lightning_costs.report.charts.selection import select_runs
from lightning_costs.report.tables.tables import infinite_ratio_text

#: The words for an amount that is no cost of a target.
AT_END = "at the end"
_ROW = 24
#: Ratios beyond these are drawn at the edge.
_FURTHEST = 20.0
#: Ratios nearer to 1 than this do not make the axis narrower.
_LEAST_SPAN = 1.15
#: Below this width the figure has no words beside its marks.
_PHONE = 480
#: The most characters of a group's name.
_LONGEST = 18
_TICKS = (0.05, 0.1, 0.2, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 5, 10, 20)


class RatioLine(NamedTuple):
    """One cost of a group against the reference.

    Args:
        group: The group.
        column: The cost's column.
        label: The cost, with the mark of what is modelled.
        at: 'to reach the target' or 'at the end', in words.
        ratio: Of the group's amount to the reference's over seeds; below 1 is cheaper.
        text: The ratio and its interval in words.
        verdict: 'less', 'more', 'equal' or 'undecided'.
        star: Whether the interval excludes 1 and the group needs less.
        improvement: The probability that a run of the group costs less, in words; '' if seeds are too few.
    """

    group: str
    column: str
    label: str
    at: str
    ratio: Spread
    text: str
    verdict: str
    star: bool
    improvement: str


def ratio_lines(cmp: ComparisonData) -> list[RatioLine]:
    """Ratios of the independent costs, at the target and at the end, cost by cost."""
    if cmp.contrasts is None:
        return []
    costs = {cost["column"]: cost for cost in differing_costs(cmp)}
    found = []
    for column, cost in costs.items():
        label = noted(cost["label"], 1.0, "modelled" if cost["modelled_share"] else "exact")
        for at in ("target", "end"):
            rows = [row for row in cmp.contrasts["costs"] if row["column"] == column and row["at"] == at]
            found += [_line(cmp, row, label) for row in rows]
    return found


def _line(cmp: ComparisonData, row: Contrast, label: str) -> RatioLine:
    target = "" if cmp.contrasts is None else cmp.contrasts["target"]
    chance = row["improvement"]
    return RatioLine(
        group=row["group"],
        column=row["column"],
        label=label,
        at=f"to reach {target:.4g}" if row["at"] == "target" else AT_END,
        ratio=row["ratio"],
        text=ratio_text(row["ratio"], infinite_ratio_text(cmp, row)),
        verdict=row["verdict"],
        star=row["verdict"] == "less",
        improvement="" if chance is None else f"{100 * chance:.0f} %",
    )


def ratio_text(ratio: Spread, infinite: str = "∞") -> str:
    """A ratio with its interval; `infinite` says what an infinite one is.

    Example:
        >>> ratio_text({"n": 5, "reached": 5, "share_reached": 1.0, "median": 0.931, "low": 0.9, "high": 0.97,
        ...             "least": 0.9, "most": 0.97, "missing": 0})
        '0.931 [0.900, 0.970]'
    """
    median, low, high = ratio["median"], ratio["low"], ratio["high"]
    if median is None:
        return "missing"
    if median == math.inf and infinite == "never":
        return "never reached"
    if low is None or high is None:
        return f"{_number(median)} [too few seeds]"
    return f"{_number(median)} [{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    return "∞" if value == math.inf else format_number(float(f"{value:.3g}"))


def ratio_chart(cmp: ComparisonData, *, width: int = 700) -> alt.LayerChart | None:
    """Draw a row per cost and group: the ratio as a mark, its interval as a line; left of 1 the group needs less."""
    lines = _drawn(cmp)
    medians = [line.ratio["median"] for line in lines]
    if cmp.contrasts is None or not any(value is not None and math.isfinite(value) for value in medians):
        return None
    phone = width < _PHONE
    look = RunStyle(select_runs(cmp), group_of_runs(cmp))
    span = _span(lines)
    heads, rows, tall = _rows(lines, span)
    names = [name for name in look.names if any(line.group == name for line in lines)]
    colors = alt.Scale(domain=names, range=[look.colors.range[look.names.index(name)] for name in names])
    left = 12 + 8 * max(len(single_line(line.group, _LONGEST)) for line in lines)
    right = 0 if phone else 250
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.6, tall - 0.4], reverse=True, nice=False, zero=False))
    x = alt.X(
        "x:Q",
        title=f"times the cost of {single_line(cmp.contrasts['reference'], 30)}\u200b",
        scale=alt.Scale(type="log", domain=[1 / span, span], nice=False),
        axis=alt.Axis(format=",.3~r", values=[tick for tick in _TICKS if 1 / span <= tick <= span], grid=True),
    )
    color = alt.Color("who:N", scale=colors, legend=None)
    base = alt.Chart(alt.InlineData(values=rows)).encode(y=y)
    drawn = base.transform_filter("isValid(datum.x)")
    one = alt.Chart(alt.InlineData(values=[{"x": 1}])).mark_rule(color="#52606d", strokeDash=[3, 3], aria=False)
    layers: list[alt.Chart] = [
        one.encode(x=x),
        drawn.mark_rule(strokeWidth=2.5, aria=False).encode(x="low:Q", x2="high:Q", color=color),
        drawn.mark_point(
            filled=True, size=90, opacity=1, stroke="white", description=alt.ExprRef("datum.description")
        ).encode(x=x, color=color),
        base.mark_text(align="right", fontSize=TEXT, aria=False).encode(
            x=alt.value(-8), text="name:N", color=alt.value("#1f2933")
        ),
        alt.Chart(alt.InlineData(values=heads))
        .mark_text(align="left", fontSize=TEXT, fontWeight=600, color="#1f2933", aria=False)
        .encode(y=y, x=alt.value(-left), text="head:N"),
        base.transform_filter("!isValid(datum.x)")
        .mark_text(align="left", fontSize=TEXT, color="#52606d", dx=6, description=alt.ExprRef("datum.description"))
        .encode(x=alt.value(0), text="text:N"),
    ]
    if not phone:
        layers.append(
            drawn.transform_calculate(words="datum.text + ', ' + datum.verdict")
            .mark_text(align="left", fontSize=TEXT, color="#52606d", aria=False)
            .encode(x=alt.value(width - left - right + 10), text="words:N")
        )
    return alt.layer(*layers).properties(width=round(width - left - right), height=round(_ROW * tall))


def _drawn(cmp: ComparisonData) -> list[RatioLine]:
    """What a target cost, and at the end what no target has."""
    lines = [line for line in ratio_lines(cmp) if line.ratio["median"] is not None]
    at_target = {line.column for line in lines if line.at != AT_END}
    return [line for line in lines if (line.at != AT_END) == (line.column in at_target)]


def _span(lines: Sequence[RatioLine]) -> float:
    """The axis ends at this ratio and at its reciprocal; what lies beyond is drawn at the edge."""
    known = [value for line in lines for key in ("median", "low", "high") if (value := line.ratio[key]) is not None]
    inside = [max(value, 1 / value) for value in known if 1 / _FURTHEST < value < _FURTHEST]
    return 1.1 * max(_LEAST_SPAN, *inside)


def _rows(lines: Sequence[RatioLine], span: float) -> tuple[list[dict[str, object]], list[dict[str, object]], float]:
    """Headings, a row per line of the figure, and the height of all in rows."""
    heads: list[dict[str, object]] = []
    rows: list[dict[str, object]] = []
    place = 0.0
    for (label, at), group in itertools.groupby(lines, key=lambda line: (line.label, line.at)):
        place += 0.5 if heads else 0.0
        heads.append({"y": place, "head": f"{label} {at}"})
        place += 0.85
        for line in group:
            row: dict[str, object] = {
                "y": place,
                "who": line.group,
                "name": single_line(line.group, _LONGEST),
                "text": line.text,
                "verdict": line.verdict,
                "description": f"{line.group}, {label} {at}: {line.text}, {line.verdict}",
            }
            median, low, high = line.ratio["median"], line.ratio["low"], line.ratio["high"]
            if median is not None and math.isfinite(median):
                known = low is not None and high is not None
                ends = (low, high) if known else (median, median)
                row |= dict(zip(("x", "low", "high"), (_within(value, span) for value in (median, *ends)), strict=True))
            rows.append(row)
            place += 1
    return heads, rows, place


def ratio_figure(cmp: ComparisonData, *, width: int = 700) -> alt.LayerChart | None:
    """The figure with the fonts and colors of all charts."""
    picture = ratio_chart(cmp, width=width)
    return None if picture is None else styled(picture)


def _within(value: float | None, span: float) -> float:
    return 1.0 if value is None else min(span, max(1 / span, value))

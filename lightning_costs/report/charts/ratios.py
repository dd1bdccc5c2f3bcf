"""Groups of seeds against one of them: the ratio of every independent cost, with its interval."""

from __future__ import annotations

import math
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

#: The words for an amount that is no cost of a target.
AT_END = "at the end"
_ROW = 24
#: Ratios beyond these are drawn at the edge.
_FURTHEST = 20.0
_PHONE = 480
_TICKS = (0.05, 0.1, 0.2, 0.5, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 5, 10, 20)


class RatioLine(NamedTuple):
    """One cost of a group against the reference.

    Args:
        group: The group.
        column: The cost's column.
        label: The cost, with the mark of what is modelled.
        at: 'to reach the target' or 'at the end', in words.
        ratio: Of the group's amount to the reference's, over seeds.
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
        text=ratio_text(row["ratio"]),
        verdict=row["verdict"],
        star=row["verdict"] == "less",
        improvement="" if chance is None else f"{100 * chance:.0f} %",
    )


def ratio_text(ratio: Spread) -> str:
    """A ratio with its interval.

    Example:
        >>> ratio_text({"n": 5, "reached": 5, "share_reached": 1.0, "median": 0.931, "low": 0.9, "high": 0.97,
        ...             "least": 0.9, "most": 0.97, "missing": 0})
        '0.931 [0.900, 0.970]'
    """
    median, low, high = ratio["median"], ratio["low"], ratio["high"]
    if median is None:
        return "missing"
    if median == math.inf:
        return "never reached"
    if low is None or high is None:
        return f"{_number(median)} [too few seeds]"
    return f"{_number(median)} [{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    return "∞" if value == math.inf else format_number(float(f"{value:.3g}"))


def ratio_chart(cmp: ComparisonData, *, width: int = 700) -> alt.LayerChart | None:
    """Draw a row per cost and group: the ratio as a mark, its interval as a line; left of 1 the group needs less.

    Args:
        cmp: The comparison.
        width: Of the whole figure, in pixels.
    """
    every = [line for line in ratio_lines(cmp) if line.ratio["median"] is not None]
    # What a target cost is told by that; what no target has, at the end.
    at_target = {line.column for line in every if line.at != AT_END}
    lines = [line for line in every if (line.at != AT_END) == (line.column in at_target)]
    if cmp.contrasts is None or not any(math.isfinite(line.ratio["median"] or math.inf) for line in lines):
        return None
    phone = width < _PHONE
    look = RunStyle(select_runs(cmp), group_of_runs(cmp))
    rows = []
    place = 0.0
    heads = []
    last = None
    for line in lines:
        if (line.label, line.at) != last:
            place += 0.5 if last is not None else 0
            heads.append({"y": place, "head": f"{line.label} {line.at}"})
            place += 0.85
            last = (line.label, line.at)
        median = line.ratio["median"] or math.inf
        row = {
            "y": place,
            "who": line.group,
            "name": single_line(line.group, 18),
            "text": line.text,
            "verdict": line.verdict,
        }
        if math.isfinite(median):
            known = line.ratio["low"] is not None and line.ratio["high"] is not None
            row |= {
                "x": _clipped(median),
                "low": _clipped(line.ratio["low"] if known else median),
                "high": _clipped(line.ratio["high"] if known else median),
            }
        row["said"] = f"{line.group}, {line.label} {line.at}: {line.text}, {line.verdict}"
        rows.append(row)
        place += 1
    names = [name for name in look.names if any(row["who"] == name for row in rows)]
    colors = alt.Scale(domain=names, range=[look.colors.range[look.names.index(name)] for name in names])
    edges = [value for row in rows if "x" in row for value in (row["x"], row["low"], row["high"])]
    inside = [value for value in edges if 1 / _FURTHEST < value < _FURTHEST]
    span = 1.1 * max(1.15, *(max(value, 1 / value) for value in inside or edges))
    for row in rows:
        if "x" in row:  # an interval that is open at an end is drawn to the edge
            row |= {"from": max(row["low"], 1 / span), "upto": min(row["high"], span)}
    left, right = 12 + 8 * max(len(str(row["name"])) for row in rows), 0 if phone else 250
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[-0.6, place - 0.4], reverse=True, nice=False, zero=False))
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
        drawn.mark_rule(strokeWidth=2.5, aria=False).encode(x="from:Q", x2="upto:Q", color=color),
        drawn.mark_point(filled=True, size=90, opacity=1, stroke="white", description=alt.ExprRef("datum.said")).encode(
            x=x, color=color
        ),
        base.mark_text(align="right", fontSize=TEXT, aria=False).encode(
            x=alt.value(-8), text="name:N", color=alt.value("#1f2933")
        ),
        alt.Chart(alt.InlineData(values=heads))
        .mark_text(align="left", fontSize=TEXT, fontWeight=600, color="#1f2933", aria=False)
        .encode(y=y, x=alt.value(-left), text="head:N"),
        base.transform_filter("!isValid(datum.x)")
        .mark_text(align="left", fontSize=TEXT, color="#52606d", dx=6, aria=False)
        .encode(x=alt.value(0), text="text:N"),
    ]
    if not phone:
        layers.append(
            drawn.transform_calculate(words="datum.text + ', ' + datum.verdict")
            .mark_text(align="left", fontSize=TEXT, color="#52606d", aria=False)
            .encode(x=alt.value(width - left - right + 10), text="words:N")
        )
    return alt.layer(*layers).properties(width=round(width - left - right), height=round(_ROW * place))


def ratio_figure(cmp: ComparisonData, *, width: int = 700) -> alt.LayerChart | None:
    """The figure with the fonts and colors of all charts."""
    picture = ratio_chart(cmp, width=width)
    return None if picture is None else styled(picture)


def _clipped(value: float | None) -> float:
    return 1.0 if value is None else min(_FURTHEST, max(1 / _FURTHEST, value))

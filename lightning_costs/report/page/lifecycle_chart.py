"""The page's chart of costs against queries: a line per run over training and queries, a mark where two break even."""

from __future__ import annotations

import math

import altair as alt

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.records.formatting import DisplayUnit, choose_unit, format_amount
from lightning_costs.report.charts.data import rounded
from lightning_costs.report.charts.look import PADDING, SHOWN, RunStyle, described, styled, tooltip_of
from lightning_costs.report.tables.lifecycle import COLUMNS, available_columns, queries_text

#: Most break-even numbers that are marked, and points of a line per power of ten.
_MARKS, _STEPS = 60, 4


def life_data(look: RunStyle, cmp: ComparisonData) -> dict[str, object]:
    """By column that some run has both parts of: the chart's title, its specification, its lines and marks."""
    found: dict[str, object] = {}
    steps = [10 ** (step / _STEPS) for step in range(_STEPS * _decades(cmp) + 1)]
    for name in available_columns(cmp.lifecycle):
        unit, label = COLUMNS[name]
        costs = []
        for run in cmp.labels:
            life = cmp.lifecycle["runs"][run]
            once, each = life["once"][name], life["each"][name]
            costs.append([] if once is None or each is None else [once + queries * each for queries in steps])
        shown = choose_unit(unit, max(row[0] for row in costs if row))
        rows = [
            {**look.identity(r), "x": queries, "y": rounded(cost, shown.factor)}
            for r, row in enumerate(costs)
            for queries, cost in zip(steps, row, strict=False)
            if cost > 0 and math.isfinite(cost)
        ]
        found[name] = {
            "title": f"{label} of training and queries, against the number of queries",
            "spec": _specification(look, f"{label}, training and queries ({shown.suffix})\u200b"),
            "rows": rows,
            "marks": _marks(look, cmp, name, shown, steps[-1]),
        }
    return found


def _decades(cmp: ComparisonData) -> int:
    """Powers of ten that the axis of queries spans: past the last break-even, to 1e15 at most."""
    furthest = max((pair["queries"] or 0.0 for pair in cmp.lifecycle["pairs"]), default=0.0)
    return next((power for power in range(9, 15) if furthest < 10 ** (power - 0.5)), 15)


def _marks(look: RunStyle, cmp: ComparisonData, name: str, shown: DisplayUnit, most: float) -> list[dict[str, object]]:
    """The pairs that break even within the axis, those with the fewest queries first."""
    even = [(pair["queries"] or 0.0, pair["cost"] or 0.0, pair) for pair in cmp.lifecycle["pairs"]]
    on_axis = [one for one in even if one[2]["column"] == name and 1 <= one[0] <= most and one[1] > 0]
    return [
        {
            "x": queries,
            "y": rounded(cost, shown.factor),
            "a": look.keys[cmp.labels.index(pair["first"])],
            "b": look.keys[cmp.labels.index(pair["second"])],
            "run": f"{pair['first']} and {pair['second']}",
            "at": queries_text(queries),
            "cost": format_amount(cost, COLUMNS[name][0]),
        }
        for queries, cost, pair in sorted(on_axis, key=lambda one: one[0])[:_MARKS]
    ]


def _specification(look: RunStyle, title: str) -> dict[str, object]:
    look = RunStyle(look.labels, look.groups, page=True)
    log = alt.Scale(type="log", nice=False, padding=PADDING)
    x = alt.X(
        "x:Q", title="queries\u200b", scale=log, axis=alt.Axis(format=",.2~s", tickCount=8, labelOverlap="greedy")
    )
    y = alt.Y(
        "y:Q",
        title=title,
        scale=log,
        axis=alt.Axis(format=",.4~r", tickCount=6, labelOverlap="greedy", titleLimit=420),
    )
    color = alt.Color(look.by, scale=look.colors, legend=None)
    dash = alt.StrokeDash(look.by, scale=look.dashes, legend=None)
    lines = (
        alt.Chart(alt.NamedData(name="rows"))
        .transform_filter(SHOWN)
        .mark_line(strokeWidth=2, aria=False)
        .encode(x=x, y=y, color=color, strokeDash=dash, detail="r:N")
    )
    marks = (
        alt.Chart(alt.NamedData(name="marks"))
        .transform_filter("indexof(hidden, datum.a) < 0 && indexof(hidden, datum.b) < 0")
        .mark_point(
            shape="circle",
            size=90,
            filled=True,
            color="#1f2933",
            stroke="white",
            strokeWidth=1.5,
            opacity=1,
            tooltip=tooltip_of({"break even": "run", "at": "at", "cost": "cost"}),
            **described("'break even at ' + datum.at"),
        )
        .encode(x=x, y=y)
    )
    picture = alt.layer(lines, marks).add_params(alt.param(name="hidden", value=[]))
    spec: dict[str, object] = styled(picture.properties(width="container", height=340)).to_dict(validate=False)
    return spec

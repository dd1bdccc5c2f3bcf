"""The page's chart of costs against queries: what its script draws and computes from, for any number of queries."""

from __future__ import annotations

import math

import altair as alt

from lightning_costs.compare.comparison import Comparison
from lightning_costs.report.charts import COLORS, DASHES, PADDING, cycled, styled, tooltip_of
from lightning_costs.report.lifecycle_words import TOLD, told
from lightning_costs.report.scale import display

#: The number of queries that the page opens with.
FIRST = 1e6
#: So many break-even numbers are marked, at most.
_MARKS = 60


def life_data(cmp: Comparison) -> dict[str, object]:
    """What the script reads: by column, each run's two numbers in the unit shown, break-even marks, and the chart.

    A missing amount is None. Amounts are in the column's unit; `query` is the factor to the one that a single query
    is told in.
    """
    life = cmp.lifecycle
    columns = {}
    for name in told(life):
        unit, label = TOLD[name]
        mine = [life["runs"][run] for run in cmp.labels]
        shown = display(unit, max(run["once"][name] or 0.0 for run in mine if name not in run["missing"]))
        query = display(unit, max(run["each"][name] or 0.0 for run in mine if name not in run["missing"]))
        marks = sorted(
            (pair for pair in life["pairs"] if pair["column"] == name and pair["queries"] is not None),
            key=lambda pair: pair["queries"] or 0.0,
        )[:_MARKS]
        columns[name] = {
            "label": label,
            "suffix": shown.suffix,
            "query": [shown.factor / query.factor, query.suffix],
            "runs": [[_in(run["once"][name], shown.factor), _in(run["each"][name], shown.factor)] for run in mine],
            "marks": [
                {
                    "n": pair["queries"],
                    "v": _in(pair["cost"], shown.factor),
                    "a": cmp.labels.index(pair["first"]),
                    "b": cmp.labels.index(pair["second"]),
                }
                for pair in marks
            ],
        }
    return {"columns": columns, "decades": decades(cmp), "first": FIRST, "spec": _specification(cmp)}


def decades(cmp: Comparison) -> int:
    """Powers of ten that the axis of queries spans: past the last break-even, to 1e15 at most."""
    furthest = max((pair["queries"] or 0.0 for pair in cmp.lifecycle["pairs"]), default=0.0)
    return next((power for power in range(9, 15) if furthest < 10 ** (power - 0.5)), 15)


def _in(amount: float | None, factor: float) -> float | None:
    return amount / factor if amount is not None and math.isfinite(amount) else None


def _specification(cmp: Comparison) -> dict[str, object]:
    """Lines of the runs, a mark where two break even, a rule at the reader's number."""
    domain = list(range(len(cmp.labels)))
    log = alt.Scale(type="log", nice=False, padding=PADDING)
    x = alt.X(
        "n:Q", title="queries\u200b", scale=log, axis=alt.Axis(format=",.2~s", tickCount=8, labelOverlap="greedy")
    )
    y = alt.Y(
        "v:Q",
        title="footprint\u200b",
        scale=log,
        axis=alt.Axis(format=",.4~r", tickCount=6, labelOverlap="greedy", titleLimit=420),
    )
    color = alt.Color("r:N", scale=alt.Scale(domain=domain, range=cycled(COLORS, len(domain))), legend=None)
    dash = alt.StrokeDash(
        "r:N", scale=alt.Scale(domain=domain, range=[list(d) for d in cycled(DASHES, len(domain))]), legend=None
    )
    lines = (
        alt.Chart(alt.NamedData(name="footprints"))
        .transform_filter("indexof(hidden, datum.r) < 0")
        .mark_line(strokeWidth=2)
        .encode(x=x, y=y, color=color, strokeDash=dash)
    )
    asked = (
        alt.Chart(alt.NamedData(name="asked"))
        .mark_rule(color="#52606d", strokeDash=[3, 3], strokeWidth=1.5)
        .encode(x=x)
    )
    marks = (
        alt.Chart(alt.NamedData(name="breaks"))
        .transform_filter("indexof(hidden, datum.a) < 0 && indexof(hidden, datum.b) < 0")
        .mark_point(
            shape="circle",
            size=90,
            filled=True,
            color="#1f2933",
            stroke="white",
            strokeWidth=1.5,
            opacity=1,
            tooltip=tooltip_of({"break even": "pair", "at": "at", "cost": "cost"}),
        )
        .encode(x=x, y=y)
    )
    picture = alt.layer(lines, asked, marks).add_params(alt.param(name="hidden", value=[]))
    spec: dict[str, object] = styled(picture.properties(width="container", height=340)).to_dict()
    return spec

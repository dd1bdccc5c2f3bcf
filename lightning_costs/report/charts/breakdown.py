"""What a cost is made of: time by account, memory and energy by kind, step times, waiting, money."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import altair as alt

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.records.formatting import choose_unit, format_amount
from lightning_costs.report.charts.data import rounded, single_line
from lightning_costs.report.charts.fit import group_of_runs
from lightning_costs.report.charts.look import SHAPES, SHOWN, TEXT, RunStyle, cycle, described, tooltip_of
from lightning_costs.report.tables.tables import Cell, TableRow

#: Greys, because colors are those of runs; neighbours differ in lightness, and a number in each bar says the same.
PARTS = ("#3e4c59", "#cbd2d9", "#7b8794", "#e4e7eb", "#52606d", "#aab4bf", "#616e7c")
#: Text on the light ones.
_LIGHT = ("#cbd2d9", "#e4e7eb", "#aab4bf")
#: Where parts stand among these, the same in every breakdown; others take the first that is free.
_PLACES = {
    "train": 0,
    "evaluate": 1,
    "checkpoint": 2,
    "other": 3,
    "setup": 4,
    "param": 0,
    "grad": 1,
    "opt_state": 2,
    "activation": 3,
    "master": 4,
    "other_memory": 5,
}
_KIND = re.compile(r"(_energy)?_(s|j|bytes|usd|fraction)$")
#: A part below this share of the longest bar has no room for its number.
_ROOM = 0.035
#: The height of a run's row, in pixels.
_ROW = 26
#: Amounts further apart than this are drawn on a logarithmic axis if they are only read side by side.
_FAR = 30.0
_NAMES = {"other_bytes": "other memory", "busy_fraction": "GPU busy (not idle between steps)"}


class BreakdownChart(NamedTuple):
    """A breakdown for people.

    Args:
        key: Theme of `Comparison.breakdowns`.
        title: Its heading.
        stacked: Whether its columns are parts of one thing.
        heads: What each column is called.
        shades: The grey of each.
        suffix: The unit of `rows`.
        rows: What the chart draws: run `r`, column `c`, amount `v` from `a` to `b`, and words.
        lines: The table behind it, a line per run.
        far: Whether the amounts are too far apart for a linear axis.
        nothing: Whether every amount is 0.
    """

    key: str
    title: str
    stacked: bool
    heads: list[str]
    shades: list[str]
    suffix: str
    rows: list[dict[str, object]]
    lines: list[TableRow]
    far: bool
    nothing: bool


def parts(cmp: ComparisonData) -> list[BreakdownChart]:
    """The comparison's breakdowns, of the runs that it names."""
    look = RunStyle(cmp.labels, group_of_runs(cmp))
    return [_parts(cmp, look, key) for key in cmp.breakdowns]


def part_chart(
    part: BreakdownChart, labels: Sequence[str], source: alt.InlineData | alt.NamedData, *, page: bool = False
) -> alt.LayerChart:
    """Draw parts as stacked bars, and what is only read side by side as points on a line, a row per run."""
    count = len(part.heads)
    heads = [f"{number} {single_line(head, 34)}" for number, head in enumerate(part.heads, 1)]
    names = f"{json.dumps([single_line(label, 34) for label in labels])}[datum.value]"
    y = alt.Y(
        "r:O",
        title=None,
        scale=alt.Scale(domain=list(range(len(labels))), **({"paddingInner": 0.3} if part.stacked else {})),
        axis=alt.Axis(labelExpr=names, labelLimit=150, ticks=False, domain=False),
    )
    legend = alt.Legend(
        title=None,
        orient="top",
        columns=3,
        labelExpr=f"{json.dumps(heads)}[datum.value]",
        labelLimit=220,
        symbolType="square",
    )
    domain = list(range(count))
    color = alt.Color("c:N", scale=alt.Scale(domain=domain, range=part.shades), legend=legend)
    title = f"{part.suffix}\u200b"
    axis = alt.Axis(format=",.4~r", tickCount=6, labelOverlap="greedy")
    base = alt.Chart(source).encode(y=y)
    if page:
        base = base.transform_filter(SHOWN)
    mark = {"tooltip": tooltip_of({"run": "run", "part": "part", "amount": "text"})}
    mark |= described("datum.part", "datum.text")
    if part.stacked:
        light = [c for c, shade in enumerate(part.shades) if shade in _LIGHT]
        bars = base.mark_bar(stroke="white", strokeWidth=1, **mark).encode(
            x=alt.X("a:Q", title=title, axis=axis, scale=alt.Scale(nice=False)), x2="b:Q", color=color
        )
        numbers = (
            base.transform_filter("datum.wide === 1")
            .mark_text(fontSize=TEXT, fontWeight=600, aria=False)
            .encode(
                x="mid:Q",
                text="n:N",
                color=alt.condition(f"indexof({light}, datum.c) >= 0", alt.value("#1f2933"), alt.value("white")),
            )
        )
        layers = [bars, numbers]
    else:
        scale = alt.Scale(type="log" if part.far else "linear", nice=False, padding=10)
        scale.zero = alt.Undefined if part.far else True
        x = alt.X("v:Q", title=title, axis=axis, scale=scale)
        shape = alt.Shape("c:N", scale=alt.Scale(domain=domain, range=cycle(SHAPES, count)), legend=legend)
        spans = base.mark_line(color="#c3cad3", strokeWidth=2, aria=False).encode(x=x, detail="r:N")
        points = base.mark_point(filled=True, size=90, opacity=1, **mark).encode(x=x, color=color, shape=shape)
        layers = [spans, points]
    picture = alt.layer(*layers).properties(height=_ROW * len(labels))
    return picture.add_params(alt.param(name="hidden", value=[])) if page else picture


def _parts(cmp: ComparisonData, look: RunStyle, key: str) -> BreakdownChart:
    found = cmp.breakdowns[key]
    heads = [_head(cmp, name) for name in found["columns"]]
    amounts = [found["amounts"][label] for label in cmp.labels]
    sums = [math.fsum(value or 0.0 for value in row.values()) for row in amounts]
    largest = max(sums) if found["parts"] else max((v for row in amounts for v in row.values() if v), default=0.0)
    unit = choose_unit(found["unit"], largest)
    rows: list[dict[str, object]] = []
    lines = []
    for r, (label, row) in enumerate(zip(cmp.labels, amounts, strict=True)):
        begun = 0.0
        for c, name in enumerate(found["columns"]):
            value = row[name]
            if value is None or not math.isfinite(value):
                continue
            one = {**look.identity(r), "c": c, "part": heads[c], "text": format_amount(value, found["unit"])}
            one["v"] = rounded(value, unit.factor)
            if found["parts"]:
                ended = begun + value
                one |= {"a": rounded(begun, unit.factor), "b": rounded(ended, unit.factor), "n": str(c + 1)}
                one |= {"mid": rounded((begun + ended) / 2, unit.factor), "wide": int(value > _ROOM * largest)}
                begun = ended
            rows.append(one)
        cells = [Cell(format_amount(row[name], found["unit"]), missing=row[name] is None) for name in found["columns"]]
        lines.append(TableRow(label, label, True, cells))
    known = [value for row in amounts for value in row.values() if value is not None and math.isfinite(value)]
    return BreakdownChart(
        key=key,
        title=found["title"],
        stacked=found["parts"],
        heads=heads,
        shades=_shades(found["columns"]),
        suffix=unit.suffix,
        rows=rows,
        lines=lines,
        far=not found["parts"] and bool(known) and min(known) > 0 and max(known) > _FAR * min(known),
        nothing=not any(known),
    )


def _shades(names: Sequence[str]) -> list[str]:
    """A grey per column: that of its kind, or the first that no column of this breakdown has."""
    free = [place for place in range(len(PARTS)) if place not in {_place(name) for name in names}]
    taken = iter(free)
    places = [_place(name) for name in names]
    chosen = [next(taken, index) if place is None else place for index, place in enumerate(places)]
    return [PARTS[place % len(PARTS)] for place in chosen]


def _place(name: str) -> int | None:
    return _PLACES.get("other_memory" if name == "other_bytes" else _KIND.sub("", name))


def _head(cmp: ComparisonData, name: str) -> str:
    return cmp.indicators[name]["label"] if name in cmp.indicators else _NAMES.get(name, name)

"""How indicators order runs: ranks from one indicator to the next, and their correlation."""

from __future__ import annotations

import json
from collections.abc import Sequence

import altair as alt

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.charts.data import single_line
from lightning_costs.report.charts.look import SHOWN, TEXT, RunStyle, described, run_legend, tooltip_of
from lightning_costs.report.tables.tables import TableRow, is_cost, ordered_names, quality_text

#: Room above the first and below the last rank, in pixels.
_ROOM = 14
#: Most runs that have their name at the end of their line.
_NAMED = 12
#: White for the same order, dark for the reverse, as `page.css` shades its table: colors are those of runs.
_SHADES = ("#27303a", "#46515d", "#66727f", "#8792a0", "#a7b1bc", "#c3cad3", "#d9dee4", "#eceff2", "#fafbfc")


def bump_names(cmp: ComparisonData) -> list[str]:
    """Headline costs that order any runs, family by family; a rate is no cost."""
    orders = cmp.ranks["orders"]
    return [
        name
        for name in ordered_names(cmp, headline=True, role="indicator")
        if orders.get(name) and is_cost(cmp.indicators[name])
    ]


def ranking_bases(cmp: ComparisonData) -> dict[str, str]:
    """What runs are ranked by, with words for it: amounts at the end, and the cost of each target."""
    found = {"end": "the amount at the end"}
    for number, row in enumerate(cmp.targets):
        if any(len(order) > 1 for order in row["orders"].values()):
            found[str(number)] = f"the cost to reach {quality_text(row['target'])}"
    return found


def orders(cmp: ComparisonData, basis: str, names: Sequence[str]) -> dict[str, list[float | None]]:
    """Indicator to each run's rank, None if it has none; 1 is best."""
    by_name = cmp.ranks["orders"] if basis == "end" else cmp.targets[int(basis)]["orders"]
    return {name: [by_name[name].get(label) for label in cmp.labels] for name in names if by_name.get(name)}


def bump_rows(
    look: RunStyle, cmp: ComparisonData, basis: str, names: Sequence[str]
) -> tuple[list[str], list[dict[str, object]]]:
    """What stands under the columns, quality first, and a row per run and column `i` with its `rank`."""
    found = orders(cmp, basis, names)
    heads = [f"best {single_line(cmp.monitor)}", *(cmp.indicators[name]["label"] for name in found)]
    columns = [[cmp.ranks["quality"].get(label) for label in cmp.labels], *found.values()]
    return (
        heads,
        [
            {**look.identity(r), "i": i, "rank": rank, "by": heads[i]}
            for i, column in enumerate(columns)
            for r, rank in enumerate(column)
            if rank is not None
        ],
    )


def bump_chart(
    look: RunStyle,
    heads: Sequence[str],
    source: alt.InlineData | alt.NamedData,
    labels: Sequence[str],
    *,
    page: bool = False,
) -> alt.LayerChart:
    """Draw ranks, best on top, a line per run; where two lines cross, their order flips."""
    x = alt.X(
        "i:O",
        title=None,
        scale=alt.Scale(domain=list(range(len(heads))), type="point", padding=0.3),
        axis=alt.Axis(
            labelExpr=f"{json.dumps([single_line(head, 28) for head in heads])}[datum.value]",
            labelAngle=-40,
            labelAlign="right",
            labelLimit=150,
            grid=True,
        ),
    )
    y = alt.Y(
        "rank:Q",
        title="rank, 1 is best\u200b",
        scale=alt.Scale(reverse=True, zero=False, nice=False, padding=_ROOM),
        axis=alt.Axis(format="d", tickMinStep=1, grid=False),
    )
    color = alt.Color(look.by, scale=look.colors, legend=None if page else run_legend(orient="top"))
    base = alt.Chart(source).encode(x=x, y=y, color=color)
    if page:
        base = base.transform_filter(SHOWN)
    lines = base.mark_line(strokeWidth=2.5, opacity=0.85, aria=False).encode(
        strokeDash=alt.StrokeDash(look.by, scale=look.dashes, legend=None), detail="r:N", order=alt.Order("i:Q")
    )
    points = base.mark_point(
        filled=True,
        size=110,
        opacity=1,
        tooltip=tooltip_of({"run": "run", "by": "by", "rank": "rank"}),
        **described("'rank ' + datum.rank + ' by ' + datum.by"),
    ).encode(shape=alt.Shape(look.by, scale=look.shapes, legend=None))
    layers = [lines, points]
    if len(labels) <= _NAMED:
        names = json.dumps([single_line(label, 22) for label in labels])
        layers.append(
            base.transform_filter(f"datum.i === {len(heads) - 1}")
            .transform_calculate(name=f"{names}[datum.r]")
            # Those that share a rank share a line of text.
            .transform_joinaggregate(names="values(name)", groupby=["rank"])
            .transform_window(nth="row_number()", groupby=["rank"])
            .transform_filter("datum.nth === 1")
            .transform_calculate(ends="join(pluck(datum.names, 'name'), ', ')")
            .mark_text(align="left", dx=12, fontSize=TEXT, limit=150, aria=False)
            .encode(text="ends:N")
        )
    picture = alt.layer(*layers)
    return picture.add_params(alt.param(name="hidden", value=[])) if page else picture


def heat_map(lines: Sequence[TableRow]) -> alt.LayerChart:
    """Draw Spearman's correlation of every two indicators, its number in each cell."""
    heads = [single_line(line.label, 28) for line in lines]
    rows = [
        {"i": i, "j": j, "v": cell.shade, "t": cell.text}
        for i, line in enumerate(lines)
        for j, cell in enumerate(line.cells)
    ]
    names = f"{json.dumps(heads)}[datum.value]"
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X("j:O", title=None, axis=alt.Axis(labelExpr=names, labelAngle=-40, labelLimit=170, orient="top")),
        y=alt.Y("i:O", title=None, axis=alt.Axis(labelExpr=names, labelLimit=170)),
    )
    shades = alt.Scale(domain=list(range(-4, 5)), range=list(_SHADES))
    cells = (
        base.transform_filter("isValid(datum.v)")
        .mark_rect(stroke="white", strokeWidth=2)
        .encode(color=alt.Color("v:O", scale=shades, legend=None))
    )
    texts = base.mark_text(fontSize=TEXT).encode(
        text="t:N", color=alt.condition("isValid(datum.v) && datum.v <= -2", alt.value("white"), alt.value("#1f2933"))
    )
    return alt.layer(cells, texts).properties(width=alt.Step(44), height=alt.Step(28))

"""The answer's figure: how every independent cost ranks runs or groups, a line each, amounts beside the ranks."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import altair as alt

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.schema import AnswerCost
from lightning_costs.records.certainty import Certainty, noted
from lightning_costs.records.formatting import format_amount
from lightning_costs.report.charts.data import share_text, single_line
from lightning_costs.report.charts.fit import group_of_runs
from lightning_costs.report.charts.look import TEXT, RunStyle, styled, tooltip_of
from lightning_costs.report.charts.selection import select_runs
from lightning_costs.report.tables.tables import quality_text

#: Most runs or groups that have a line.
MOST_LINES = 10
#: Columns this near each other, in pixels, have slanted heads and no amounts.
_NARROW = 74
#: The height of all ranks together (on a phone: the second), and of one: least and most.
_TALL, _SHORT, _LEAST_ROW, _MOST_ROW = 330, 220, 25, 54
#: From this height of a row on there is room for an amount beneath each rank.
_AMOUNTS = 40
#: Below this width names take less room.
_PHONE = 480
#: Colors on which a white number is hard to read.
_LIGHT = ("#56B4E9", "#E69F00", "#CC79A7")
_INK, _SOFT = "#1f2933", "#52606d"


class RankColumn(NamedTuple):
    """A column of the figure.

    Args:
        head: What it is called.
        basis: Origin of its amounts, and whether they are modelled.
        texts: By name: the amount for people.
        ranks: By name: 1 is best; None without a finite amount.
        reached: By name: whether the target was reached; None without a reading.
        winner: Who is best alone and by more than noise.
        undecided: Whether the best one's lead may be noise.
    """

    head: str
    basis: str
    texts: dict[str, str]
    ranks: dict[str, float | None]
    reached: dict[str, bool | None]
    winner: str | None
    undecided: bool


def differing_costs(cmp: ComparisonData) -> list[AnswerCost]:
    """The answer's costs by which not all are equal."""
    return [
        cost
        for cost in cmp.answer["costs"]
        if len({rank for rank in cost["ranks"].values() if rank is not None}) > 1
        or (any(cost["ranks"].values()) and math.inf in cost["amounts"].values())
    ]


def answer_columns(cmp: ComparisonData) -> list[RankColumn]:
    """The figure's columns as words and ranks: quality, then every independent cost that ranks any two differently."""
    found = cmp.answer
    if not found["labels"]:
        return []
    quality = found["quality"]
    ordered = sorted(value for value in quality.values() if value is not None and math.isfinite(value))
    ordered = ordered[::-1] if cmp.mode == "max" else ordered
    columns = [
        RankColumn(
            head=f"best {single_line(cmp.monitor, 30)}",
            basis="median of seeds" if found["by"] == "group" else "",
            texts={name: quality_text(value) for name, value in quality.items()},
            ranks={
                name: ordered.index(value) + 1.0 if value is not None and math.isfinite(value) else None
                for name, value in quality.items()
            },
            reached={name: None if value is None else True for name, value in quality.items()},
            winner=None,
            undecided=False,
        )
    ]
    return columns + [_column(cmp, cost) for cost in differing_costs(cmp)]


def _column(cmp: ComparisonData, cost: AnswerCost) -> RankColumn:
    share = cost["modelled_share"]
    modelled = share is not None and share > 0
    words = [f"to {quality_text(cmp.answer['target'])}" if cost["basis"] == "target" else "at the end"]
    if modelled and share is not None:
        words.append(share_text(share))
    kind: Certainty = "modelled" if modelled else "exact"
    at_target = cost["basis"] == "target"
    texts = {
        name: "never"
        if at_target and amount == math.inf
        else noted(_bare(format_amount(amount, cost["unit"]), cost["unit"]), amount, kind)
        for name, amount in cost["amounts"].items()
    }
    return RankColumn(
        head=noted(cost["label"], 1.0, kind),
        basis=", ".join(words),
        texts=texts,
        ranks=dict(cost["ranks"]),
        reached={name: None if amount is None else amount != math.inf for name, amount in cost["amounts"].items()},
        winner=None if cost["undecided"] else cost["winner"],
        undecided=cost["undecided"],
    )


def _bare(text: str, unit: str) -> str:
    """An amount without the word for what is counted, which the column's head says."""
    return text.removesuffix(f" {unit}") if len(unit) > 1 else text


def shown_names(cmp: ComparisonData, most: int = MOST_LINES) -> list[str]:
    """Who has a line: all if they are few, else those best in quality or cheapest by a cost, best quality first."""
    labels = cmp.answer["labels"]
    if len(labels) <= most:
        return labels
    winners = [cost["winner"] for cost in differing_costs(cmp) if cost["winner"] is not None]
    chosen = list(dict.fromkeys([labels[0], *winners, *labels]))[:most]
    return [label for label in labels if label in chosen]


def answer_chart(cmp: ComparisonData, *, width: int = 700) -> alt.LayerChart:
    """Draw ranks by quality and by every independent cost, a line per run or group.

    Raises:
        ValueError: Without two runs, or without a cost that tells them apart.
    """
    columns, names = answer_columns(cmp), shown_names(cmp)
    if len(columns) < 2 or len(names) < 2:
        raise ValueError("the answer's figure needs two runs or more that differ in a cost")
    phone = width < _PHONE
    side = min(12 + 8 * max(len(single_line(name, 18)) for name in names), 70 if phone else 140)
    gap = (width - 2 * side - 34) / max(1, len(columns) - 1)
    row = min(_MOST_ROW, max(_LEAST_ROW, (_SHORT if phone else _TALL) / len(names)))
    narrow = gap < _NARROW
    look = RunStyle(select_runs(cmp), group_of_runs(cmp))
    rows = _rows(columns, names)
    data = alt.InlineData(values=rows)
    heads = alt.InlineData(
        values=[
            {"i": i, "head": _head(column, gap), "who": "", "foot": _foot(column)} for i, column in enumerate(columns)
        ]
    )
    x = alt.X("i:Q", axis=None, scale=alt.Scale(domain=[0, len(columns) - 1], nice=False, zero=False))
    y = alt.Y(
        "slot:Q", axis=None, scale=alt.Scale(domain=[0.5, len(names) + 0.5], reverse=True, nice=False, zero=False)
    )
    color = alt.Color("who:N", scale=_colors(look, names), legend=None)
    base = alt.Chart(data).encode(x=x, y=y)
    rules = alt.Chart(heads).mark_rule(color="#e9edf2", strokeWidth=1, aria=False).encode(x=x)
    lines = base.mark_line(strokeWidth=2.5, opacity=0.75, aria=False).encode(
        color=color, order=alt.Order("i:Q"), detail="who:N"
    )
    described = alt.ExprRef("datum.who + ', ' + datum.by + ': ' + datum.description")
    tooltip = tooltip_of({"who": "who", "by": "by", "amount": "description"})
    dots = base.mark_circle(
        size=420, opacity=1, stroke="white", strokeWidth=1.5, description=described, tooltip=tooltip
    )
    reached = dots.transform_filter("datum.rank !== ''").encode(color=color)
    never = (
        base.transform_filter("datum.rank === ''")
        .mark_point(
            size=300, filled=True, fill="white", strokeWidth=2, opacity=1, description=described, tooltip=tooltip
        )
        .encode(stroke=alt.Stroke("who:N", scale=_colors(look, names), legend=None))
    )
    light = [name for name in names if _color(look, name) in _LIGHT]
    number = alt.condition(
        alt.FieldOneOfPredicate(field="who", oneOf=light) if light else "false", alt.value(_INK), alt.value("white")
    )
    ranks = (
        base.transform_filter("datum.rank !== ''")
        .mark_text(fontSize=TEXT, fontWeight=700, aria=False)
        .encode(text="rank:N", color=number)
    )
    cross = (
        base.transform_filter("datum.rank === ''")
        .mark_text(fontSize=TEXT + 1, fontWeight=700, text="×", color=_SOFT, aria=False)
    )  # fmt: skip
    layers: list[alt.Chart] = [rules, lines, reached, never, ranks, cross]
    if not narrow and row >= _AMOUNTS:
        amounts = {"fontSize": TEXT, "dy": 20, "aria": False}
        layers.append(base.mark_text(stroke="white", strokeWidth=4, color="white", **amounts).encode(text="text:N"))
        layers.append(base.mark_text(color=_INK, **amounts).encode(text="text:N"))
    for end, align, dx in ((0, "right", -18), (len(columns) - 1, "left", 18)):
        layers.append(
            base.transform_filter(f"datum.i === {end} && datum.slot !== null")
            .mark_text(align=align, dx=dx, fontSize=TEXT + (0 if phone else 1), fontWeight=600, limit=side, aria=False)
            .encode(text="name:N", color=alt.value(_INK))
        )
    most = 1 + max(_head(column, gap).count("\n") for column in columns)
    slant = {"angle": 308, "align": "left", "baseline": "middle", "dx": 4} if narrow else {"baseline": "top"}
    layers.append(
        alt.Chart(heads)
        .mark_text(fontSize=TEXT, fontWeight=600, color=_INK, lineBreak="\n", aria=False, **slant)
        .encode(x=x, y=alt.value(-6 if narrow else -14 * most), text="head:N")
    )
    if not narrow:
        layers.append(
            alt.Chart(heads)
            .mark_text(fontSize=TEXT, color=_SOFT, baseline="top", dy=6, aria=False)
            .encode(x=x, y=alt.value(row * len(names)), text="foot:N")
        )
    size = {"width": round(width - 2 * side - 34), "height": round(row * len(names))}
    return styled(alt.layer(*layers).properties(**size))


def answer_figure(cmp: ComparisonData, *, width: int = 700) -> alt.LayerChart | None:
    """The answer's figure; None if there is nothing to rank."""
    ranked = len(answer_columns(cmp)) > 1 and len(shown_names(cmp)) > 1
    return answer_chart(cmp, width=width) if ranked else None


def _rows(columns: Sequence[RankColumn], names: Sequence[str]) -> list[dict[str, object]]:
    """A row per name and column; its `slot` is its place from the top, None without a reading."""
    rows: list[dict[str, object]] = []
    order = {name: place for place, name in enumerate(names)}
    for i, column in enumerate(columns):
        known = [name for name in names if column.reached[name] is not None]
        known.sort(key=lambda name: (math.inf if column.ranks[name] is None else column.ranks[name] or 0, order[name]))
        slots = {name: place + 1 for place, name in enumerate(known)}
        # Equal ranks keep the order of the column before, so that lines cross only if an order changes.
        order.update(slots)
        for name in names:
            rank = column.ranks[name]
            tied = rank is not None and sum(column.ranks[other] == rank for other in names) > 1
            first = 1 + sum(
                1 for value in column.ranks.values() if value is not None and rank is not None and value < rank
            )
            text = "" if rank is None else f"{first}{'=' if tied and first < 10 else ''}"
            star = " ★" if column.winner == name else ""
            rows.append(
                {
                    "i": i,
                    "who": name,
                    "name": single_line(name, 30),
                    "slot": slots.get(name),
                    "rank": text,
                    "text": column.texts[name] + star,
                    "by": column.head,
                    "description": f"{f'rank {text}, ' if text else ''}{column.texts[name]}",
                }
            )
    return rows


def _head(column: RankColumn, gap: float) -> str:
    if gap < _NARROW:
        return single_line(column.head, 17)
    fits = max(9, int(gap / 7))
    return "\n".join([*textwrap.wrap(column.head, fits)[:2], *textwrap.wrap(column.basis, fits)[:2]])


def _foot(column: RankColumn) -> str:
    return "undecided" if column.undecided else ""


def _color(look: RunStyle, name: str) -> str:
    """The color of a run or group in every chart; those that no other chart draws are grey."""
    colors: list[str] = look.colors.range
    return colors[look.names.index(name)] if name in look.names else "#7b8794"


def _colors(look: RunStyle, names: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(names), range=[_color(look, name) for name in names])

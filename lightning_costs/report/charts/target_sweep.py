"""Cost-to-quality over all targets: how a winner depends on the quality that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.schema import WinnerRange
from lightning_costs.records.samples import Amount
from lightning_costs.report.charts.data import Axis, ChartData, rounded
from lightning_costs.report.charts.look import PADDING, SHOWN, RunStyle, at_field, encoded, run_legend
from lightning_costs.report.charts.selection import evenly_spaced_indices
from lightning_costs.report.tables.tables import quality_text

#: Most targets that are drawn; winners hold for all.
MOST_TARGETS = 120
#: Where the strip of winners is, in pixels from the top.
_STRIP = 5


def sampled_targets(cmp: ComparisonData) -> list[int]:
    """Which targets of the sweep are drawn."""
    return evenly_spaced_indices(len(cmp.sweep["targets"]), MOST_TARGETS)


def sweep_columns(cmp: ComparisonData, data: ChartData, name: str) -> list[list[float | None]]:
    """A list per run: what each drawn target cost it, in the axis's unit; None if it was not reached."""
    rows, factor = sampled_targets(cmp), data.axes[name].factor
    nothing: list[Amount] = [None] * len(cmp.sweep["targets"])
    by_label = cmp.sweep["costs"][name]
    return [[rounded(by_label.get(label, nothing)[row], factor) for row in rows] for label in data.labels]


def sweep_ranges(look: RunStyle, cmp: ComparisonData, name: str) -> list[dict[str, object]]:
    """Where each winner holds: from `a` to `b`, its identity (`k` -1: several, or one not drawn), in words `least`."""
    targets = cmp.sweep["targets"]
    numbers = {label: number for number, label in enumerate(look.labels)}
    found = []
    for row in cmp.sweep["winners"].get(name, ()):
        first = targets[0] if row["after"] is None else row["after"]
        alone = row["labels"][0] if len(row["labels"]) == 1 else ""
        identity = look.identity(numbers[alone]) if alone in numbers else {"r": -1, "run": alone, "k": -1, "who": ""}
        found.append({**identity, "a": first, "b": row["upto"], "least": " and ".join(row["labels"])})
    return found


def sweep_rows(look: RunStyle, cmp: ComparisonData, data: ChartData, name: str) -> list[dict[str, object]]:
    """A row per run and target that it reached: the target `x`, its cost `y`."""
    targets = [cmp.sweep["targets"][row] for row in sampled_targets(cmp)]
    return [
        {**look.identity(r), "x": x, "y": y}
        for r, costs in enumerate(sweep_columns(cmp, data, name))
        for x, y in zip(targets, costs, strict=True)
        if y is not None
    ]


def describe_ranges(rows: Sequence[WinnerRange], targets: Sequence[float], most: int = 6) -> str:
    """Who needs least for which targets, in words.

    Example:
        >>> (describe_ranges([{"after": None, "first": 0.5, "upto": 0.8, "labels": ["a"]},
        ...               {"after": 0.8, "first": 0.82, "upto": 0.9, "labels": ["b", "c"]}], [0.5, 0.8, 0.82, 0.9]))
        'a up to 0.8, then b and c up to 0.9'
    """
    shown = [f"{' and '.join(row['labels'])} up to {quality_text(row['upto'])}" for row in rows[:most]]
    if len(rows) > most:
        shown.append(f"{len(rows) - most} changes more up to {quality_text(rows[-1]['upto'])}")
    elif rows and rows[-1]["upto"] != targets[-1]:
        shown.append("no run at a known cost")
    return ", then ".join(shown)


def sweep_chart(
    look: RunStyle,
    x: Axis,
    y: Axis,
    sources: Mapping[str, alt.InlineData | alt.NamedData],
    *,
    log: bool,
    falling: bool,
    page: bool = False,
) -> alt.LayerChart:
    """Draw each run's cost against the target, a strip of who needs least above."""
    across = encoded(alt.X, at_field(x, "x"), log=False)
    across.scale = alt.Scale(type="linear", zero=False, nice=False, padding=PADDING, reverse=falling)
    legend = None if page else run_legend("stroke")
    color = alt.Color(look.by, scale=look.colors, legend=legend)
    base = alt.Chart(sources["rows"]).encode(x=across, y=encoded(alt.Y, at_field(y, "y"), log=log), color=color)
    if page:
        base = base.transform_filter(SHOWN)
    elif log:
        base = base.transform_filter("datum.y > 0")
    lines = base.mark_line(
        strokeWidth=1.5 if look.grouped else 2,
        opacity=0.6 if look.grouped else 1,
        interpolate="step-before",
        aria=False,
    ).encode(strokeDash=alt.StrokeDash(look.by, scale=look.dashes, legend=legend), detail="r:N", order=alt.Order("x:Q"))
    if page:
        near = alt.selection_point(name="near", nearest=True, on="pointerover", clear="pointerout", empty=False)
        points = (
            base.mark_point(filled=True, size=110, stroke="white", strokeWidth=1.5, aria=False)
            .encode(opacity=alt.condition(near, alt.value(1), alt.value(0)))
            .add_params(near)
        )
    else:
        points = base.mark_point(opacity=0, aria=False)
    strip = alt.Chart(sources["ranges"]).encode(
        x=alt.X("a:Q"), x2=alt.X2("b:Q"), y=alt.value(-_STRIP - 4), y2=alt.value(-4)
    )
    several = strip.transform_filter("datum.k < 0").mark_rect(color="#9aa5b1", aria=False)
    single = strip.transform_filter("datum.k >= 0").mark_rect(aria=False).encode(color=color)
    picture = alt.layer(lines, points, several, single)
    return picture.add_params(alt.param(name="hidden", value=[])) if page else picture

"""A study's figure: its quality against each of its costs, small marks for runs and large ones for medians of seeds."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import altair as alt

from lightning_costs.report.charts.look import COLORS, SHAPES, styled

from .claims import Results, final, quality
from .study import Study

#: Charts in a row.
_ABREAST = 3


def save_picture(study: Study, results: Results, path: Path) -> None:
    """Draw the figure as SVG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_small(picture(study, results), path)


def save_small(drawn: alt.TopLevelMixin, path: Path) -> None:
    """Write a chart as SVG without what an image on a page does not show: roles of its parts, digits below a pixel."""
    text = StringIO()
    drawn.save(text, format="svg")
    path.write_text(small(text.getvalue()), encoding="utf-8")


def small(svg: str) -> str:
    """An SVG at two thirds of its size.

    Example:
        >>> small('<path class="mark" aria-hidden="true" d="M0.123456,2.5h-1.0004"/>')
        '<path d="M0.12,2.5h-1"/>'
    """
    bare = re.sub(r' (?:aria-[a-z]+|role|class)="[^"]*"', "", svg)
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}".rstrip("0").rstrip("."), bare)


def picture(study: Study, results: Results) -> alt.ConcatChart:
    """Quality against each of the study's columns that every method has a reading of."""
    arms = list(results.rows)
    color = alt.Color("method:N", sort=arms, scale=alt.Scale(domain=arms, range=list(COLORS[: len(arms)])))
    shapes = [SHAPES[at % len(SHAPES)] for at in range(len(arms))]
    shape = alt.Shape("method:N", sort=arms, scale=alt.Scale(domain=arms, range=shapes))
    charts = []
    for column in study.columns:
        medians = {arm: results.over_seeds(final(column), arm)["median"] for arm in arms}
        if column not in results.compared.indicators or any(median is None for median in medians.values()):
            continue
        dots = [
            {"method": arm, "x": row["final"][column], "y": row["best_quality"]}
            for arm in arms
            for row in results.rows[arm].values()
        ]
        middles = [
            {"method": arm, "x": medians[arm], "y": results.over_seeds(quality(), arm)["median"]} for arm in arms
        ]
        positive = all(dot["x"] is not None and dot["x"] > 0 for dot in dots)
        scale = alt.Scale(type="log" if positive else "linear", nice=False, zero=False, padding=14)
        x = alt.X("x:Q", title=_title(results, column), scale=scale, axis=alt.Axis(format="~s", tickCount=4))
        y = alt.Y("y:Q", title=study.monitor, scale=alt.Scale(zero=False, padding=12))
        layers = [
            alt.Chart(alt.InlineData(values=values)).mark_point(filled=True, size=size, opacity=opacity)
            for values, size, opacity in ((dots, 18, 0.45), (middles, 110, 1.0))
        ]
        charts.append(alt.layer(*(layer.encode(x=x, y=y, color=color, shape=shape) for layer in layers)))
    drawn = [chart.properties(width=200, height=170) for chart in charts]
    return styled(alt.concat(*drawn, columns=_ABREAST))


def _title(results: Results, column: str) -> str:
    declared = results.compared.indicators[column]
    return f"{declared['label']} ({declared['unit']})"

"""What the page's script draws from: columns once, axes, chart templates, lines of life cycles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import altair as alt

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.charts.breakdown import BreakdownChart, part_chart
from lightning_costs.report.charts.data import Axis, ChartData, rounded
from lightning_costs.report.charts.fit import quality_domain
from lightning_costs.report.charts.look import RunStyle, styled
from lightning_costs.report.charts.pareto import front_chart
from lightning_costs.report.charts.quality import QualitySource, group_bands, layered_chart
from lightning_costs.report.charts.ranks import bump_chart, bump_names, bump_rows, ranking_bases
from lightning_costs.report.charts.target_sweep import sampled_targets, sweep_chart, sweep_columns, sweep_ranges
from lightning_costs.report.page.lifecycle_chart import life_data

#: Axes that the script fills in.
_X = Axis(field="x", label="x", suffix="", static=False, positive=True)
_Y = Axis(field="y", label="y", suffix="", static=False, positive=True)


def page_data(
    cmp: ComparisonData,
    drawn: ComparisonData,
    data: ChartData,
    look: RunStyle,
    themes: Sequence[BreakdownChart],
    curves: Sequence[str],
    csv: str,
) -> dict[str, object]:
    """All of it, ready for JSON."""
    return {
        "labels": data.labels,
        "keys": look.keys,
        "datasets": {"curves": data.curves, "finals": data.finals},
        "others": _others(cmp, data),
        "axes": {name: _axis(cmp, name, axis) for name, axis in data.axes.items()},
        "quality": {"title": data.quality.title, "best": data.best.title, "label": cmp.monitor},
        "domain": quality_domain(drawn),
        "bands": {name: _band(look, data, name) for name in curves},
        "templates": _templates(look, cmp.mode),
        "fronts": {name: _front(cmp, data, name) for name in data.axes if cmp.fronts.get(name)},
        "sweep": _sweep(look, cmp, data),
        "bumps": _bumps(look, drawn),
        "parts": {part.key: _parts(part, data.labels) for part in themes},
        "lifecycle": life_data(look, drawn),
        "csv": csv,
    }


def _templates(look: RunStyle, mode: str) -> dict[str, object]:
    """A specification per kind of chart, for rows of the columns `x` and `y`."""
    rows = alt.NamedData(name="rows")
    look = RunStyle(look.labels, look.groups, page=True)
    bare, banded = QualitySource(rows), QualitySource(rows, alt.NamedData(name="bands"))
    return {
        "curve": _specification(layered_chart(look, _X, _Y, source=bare, log=False, lines=True, page=True)),
        "banded": _specification(layered_chart(look, _X, _Y, source=banded, log=False, lines=True, page=True)),
        "point": _specification(layered_chart(look, _X, _Y, source=bare, log=False, lines=False, page=True)),
        "front": _specification(front_chart(look, _X, _Y, rows, log=False, higher=False, page=True)),
        "sweep": _specification(
            sweep_chart(
                look,
                _X,
                _Y,
                {"rows": rows, "ranges": alt.NamedData(name="ranges")},
                log=False,
                falling=mode == "min",
                page=True,
            )
        ),
    }


def _band(look: RunStyle, data: ChartData, name: str) -> list[list[float | None]]:
    """Columns `k`, `x`, `low`, `middle` and `high` of the groups' lines against a cost."""
    points = [(key, *point) for key, found in group_bands(look, data, data.axes[name]).items() for point in found]
    return [[rounded(value, 1.0) for value in column] for column in zip(*points, strict=True)]


def _specification(picture: alt.LayerChart) -> dict[str, object]:
    spec: dict[str, object] = styled(picture.properties(width="container", height=420)).to_dict(validate=False)
    return spec


def _axis(cmp: ComparisonData, name: str, axis: Axis) -> dict[str, object]:
    return {
        "field": axis.field,
        "label": axis.label,
        "title": axis.title,
        "suffix": axis.suffix,
        "static": axis.static,
        "positive": axis.positive,
        "higher": cmp.indicators[name]["better"] == "higher",
    }


def _others(cmp: ComparisonData, data: ChartData) -> dict[str, list[object]] | None:
    """The final amounts of runs that are not drawn, as `ChartData.finals` has those of the others; None without any."""
    shown = set(data.labels)
    rows = [run for run in cmp.runs if run["label"] not in shown]
    if not rows:
        return None
    found: dict[str, list[object]] = {
        "run": [run["label"] for run in rows],
        "q": [rounded(run["best_quality"], 1.0, 6) for run in rows],
    }
    for name, axis in data.axes.items():
        found[axis.field] = [rounded(run["final"][name], axis.factor) for run in rows]
    return found


def _front(cmp: ComparisonData, data: ChartData, name: str) -> dict[str, list[int]]:
    """Who is on it: numbers of drawn runs, and of the others among the others."""
    on = set(cmp.fronts[name])
    shown = set(data.labels)
    others = [run["label"] for run in cmp.runs if run["label"] not in shown]
    return {
        "drawn": [number for number, label in enumerate(data.labels) if label in on],
        "others": [number for number, label in enumerate(others) if label in on],
    }


def _sweep(look: RunStyle, cmp: ComparisonData, data: ChartData) -> dict[str, object] | None:
    targets = [cmp.sweep["targets"][row] for row in sampled_targets(cmp)]
    names = [name for name in cmp.sweep["winners"] if name in data.axes and cmp.sweep["winners"][name]]
    if not targets or not names:
        return None
    return {
        "targets": [rounded(target, 1.0, 6) for target in targets],
        "costs": {name: sweep_columns(cmp, data, name) for name in names},
        "ranges": {name: sweep_ranges(look, cmp, name) for name in names},
    }


def _bumps(look: RunStyle, drawn: ComparisonData) -> dict[str, object]:
    """A specification per basis that runs are ranked by, and which column of the chart is which indicator's."""
    names = bump_names(drawn)
    look = RunStyle(look.labels, look.groups, page=True)
    found: dict[str, object] = {}
    for basis in ranking_bases(drawn) if names and len(drawn.runs) > 1 else ():
        heads, rows = bump_rows(look, drawn, basis, names)
        picture = bump_chart(look, heads, alt.NamedData(name="rows"), drawn.labels, page=True)
        found[basis] = {"spec": _specification(picture), "rows": rows}
    return found


def _parts(part: BreakdownChart, labels: Sequence[str]) -> Mapping[str, object]:
    picture = part_chart(part, labels, alt.NamedData(name="rows"), page=True)
    spec = styled(picture.properties(width="container")).to_dict(validate=False)
    return {"spec": spec, "title": part.title, "rows": part.rows, "far": part.far}

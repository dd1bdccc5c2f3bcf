"""Every chart of a comparison as files for a paper: PNG, SVG and PDF."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import altair as alt
import vl_convert

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.records.printable import printable_data
from lightning_costs.report.charts.breakdown import part_chart, parts
from lightning_costs.report.charts.data import Axis, chart_data, rows
from lightning_costs.report.charts.pareto import front_chart, front_rows
from lightning_costs.report.charts.quality import RunStyle, layered_chart, styled
from lightning_costs.report.charts.ranks import bump_chart, bump_names, bump_rows, heat_map, ranking_bases
from lightning_costs.report.charts.selection import restrict_to_runs, select_runs
from lightning_costs.report.charts.target_sweep import sweep_chart, sweep_ranges, sweep_rows
from lightning_costs.report.tables.tables import ordered_names, rank_matrix

#: The size of a figure, in pixels of 1/96 inch: a column of a two-column page at two thirds.
WIDTH, HEIGHT = 400, 260
#: Dots per inch of the PNGs.
PPI = 200
_LONGEST = 80


class Figure(NamedTuple):
    """A chart and the name that its files begin with."""

    name: str
    picture: alt.TopLevelMixin


def write_figures(cmp: ComparisonData, folder: Path) -> list[Path]:
    """Write each figure as PNG, SVG and PDF; returns the files.

    Args:
        cmp: The comparison; of very many runs, those are drawn that the page draws.
        folder: Made where it is not there; files of the same names are written over.
    """
    folder.mkdir(parents=True, exist_ok=True)
    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    written: list[Path] = []
    names: set[str] = set()
    for figure in figures(cmp):
        name = slug(figure.name, names)
        names.add(name.lower())
        svg = vl_convert.vegalite_to_svg(json.dumps(printable_data(figure.picture.to_dict())), vl_version=version)
        for suffix, content in (
            ("svg", svg.encode()),
            ("png", vl_convert.svg_to_png(svg, scale=1, ppi=PPI)),
            ("pdf", vl_convert.svg_to_pdf(svg)),
        ):
            path = folder / f"{name}.{suffix}"
            path.write_bytes(content)
            written.append(path)
    return written


def slug(text: str, taken: Collection[str] = (), most: int = _LONGEST) -> str:
    """A file name, without its ending, that every system takes, whatever a user called what it shows.

    Args:
        text: What the file shows.
        taken: Names in lower case that are taken; a number tells this one from them.
        most: Its most characters.

    Example:
        >>> slug("quality against ../../etc/passwd"), slug("Größe: 5 %"), slug("🔥"), slug("a", {"a"})
        ('quality-against-etc-passwd', 'Groe-5', 'figure', 'a-2')
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^A-Za-z0-9_]+", "-", plain)[:most].strip("-") or "figure"
    number, found = 2, name
    while found.lower() in taken:
        found, number = f"{name}-{number}", number + 1
    return found


def figures(cmp: ComparisonData) -> Iterator[Figure]:
    """The charts of the page, each by itself: quality against costs, fronts, targets, ranks, parts of costs."""
    drawn = restrict_to_runs(cmp, select_runs(cmp))
    data = chart_data(drawn, every=cmp.runs)
    look = RunStyle(data.labels)
    for name, axis in data.axes.items():
        if cmp.indicators[name]["kind"] not in ("counter", "static"):
            continue
        columns = data.finals if axis.static else data.curves
        source = alt.InlineData(values=rows(data, columns, [axis.field]))
        quality = data.best if axis.static else data.quality
        yield _figure(
            f"quality-against-{name}",
            layered_chart(data, axis, quality, source=source, log=True, lines=not axis.static, still=True),
        )
    headline = [name for name in ordered_names(cmp, headline=True, role="indicator") if name in data.axes]
    for name in headline:
        if found := front_rows(data, drawn, name):
            source = alt.InlineData(values=found)
            log, higher = data.axes[name].positive, cmp.indicators[name]["better"] == "higher"
            yield _figure(
                f"front-{name}", front_chart(look, data.axes[name], data.best, source, log=log, higher=higher)
            )
    target = Axis(field="x", label=f"{cmp.monitor} to reach", suffix="", static=False, positive=True)
    for name in headline:
        if cmp.sweep["winners"].get(name):
            sources = {
                "rows": alt.InlineData(values=sweep_rows(drawn, data, name)),
                "ranges": alt.InlineData(values=sweep_ranges(drawn, data, name)),
            }
            log = data.axes[name].positive
            yield _figure(
                f"targets-{name}",
                sweep_chart(look, target, data.axes[name], sources, log=log, falling=cmp.mode == "min"),
            )
    yield from _of_ranks(cmp, drawn, look)
    for part in parts(drawn):
        if not part.nothing:
            picture = part_chart(part, data.labels, alt.InlineData(values=part.rows))
            yield Figure(part.key, styled(picture.properties(width=WIDTH)))


def _of_ranks(cmp: ComparisonData, drawn: ComparisonData, look: RunStyle) -> Iterator[Figure]:
    names = bump_names(cmp)
    if len(cmp.runs) < 2 or not names:
        return
    for basis in ranking_bases(cmp):
        heads, found = bump_rows(drawn, basis, names)
        picture = bump_chart(look, heads, alt.InlineData(values=found), drawn.labels)
        yield _figure(
            "ranks" if basis == "end" else f"ranks-to-target-{int(basis) + 1}", picture, width=46 * len(heads)
        )
    lines = rank_matrix(cmp, ordered_names(cmp, headline=True, role="indicator"))
    if len(lines) > 1:
        yield Figure("rank-correlation", styled(heat_map(lines)))


def _figure(name: str, picture: alt.LayerChart, *, width: int = WIDTH) -> Figure:
    return Figure(name, styled(picture.properties(width=width, height=HEIGHT)))

"""Charts of a comparison as files for a paper: PDF, SVG and PNG, as wide as a column or the text."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import altair as alt
import vl_convert

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.records.printable import printable, printable_data
from lightning_costs.report.charts.answer import answer_figure, differing_costs
from lightning_costs.report.charts.breakdown import part_chart, parts
from lightning_costs.report.charts.data import Axis, ChartData, chart_data, rows
from lightning_costs.report.charts.fit import group_of_runs, quality_domain
from lightning_costs.report.charts.look import TEXT, VEGA_LITE, RunStyle, styled
from lightning_costs.report.charts.pareto import front_chart, front_rows, power_limit_chart
from lightning_costs.report.charts.quality import QualitySource, band_rows, fitted, identities, layered_chart
from lightning_costs.report.charts.ranks import bump_chart, bump_names, bump_rows, heat_map, ranking_bases
from lightning_costs.report.charts.ratios import ratio_figure
from lightning_costs.report.charts.selection import restrict_to_runs, select_runs
from lightning_costs.report.charts.target_sweep import sweep_chart, sweep_ranges, sweep_rows
from lightning_costs.report.tables.tables import ordered_names, quality_text, rank_matrix

Format = Literal["pdf", "svg", "png"]
Width = Literal["column", "text"]
#: In pixels of 1/96 inch: a column of a two-column page (84 mm), and its text (174 mm).
WIDTHS: dict[str, int] = {"column": 317, "text": 658}
#: The formats of a figure if none is asked for: for a paper, and to look at.
FORMATS: tuple[Format, ...] = ("pdf", "png", "svg")
#: Of most figures, in the same pixels.
HEIGHT = 260
#: Dots per inch of the PNGs.
PPI = 200
_LONGEST = 80
_MM = 96 / 25.4
#: Legends of figures at least this wide have more columns.
_ROOMY = 480


class Figure(NamedTuple):
    """A chart, the name that its files begin with, the column that it is of, and what it shows in a line."""

    name: str
    picture: alt.TopLevelMixin
    column: str
    about: str


def write_figures(
    cmp: ComparisonData,
    folder: Path,
    *,
    only: Sequence[str] = (),
    formats: Sequence[Format] = FORMATS,
    width: Width | float = "text",
) -> list[Path]:
    """Write figures; returns the files.

    Args:
        cmp: The comparison; of very many runs, those are drawn that the page draws.
        folder: Created if it does not exist; files of the same names are written over.
        only: Names of figures, or columns, of which all figures are written; without any, the answer, the independent
            costs and what costs are made of, with a README.txt that has a line each.
        formats: 'pdf', 'svg' and 'png'.
        width: 'column' (84 mm), 'text' (174 mm) or a number of millimetres.

    Raises:
        ValueError: For an unknown format or width, or if `only` names nothing that can be drawn.
    """
    unknown = [one for one in formats if one not in get_args(Format)] if formats else ["none"]
    if unknown:
        raise ValueError(f"formats must be some of {', '.join(get_args(Format))}, got {', '.join(unknown)}")
    wide = _pixels(width)
    found = list(figures(cmp, only=only, width=wide))
    if only:
        _check(cmp, only, found)
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    names: set[str] = set()
    lines = []
    for figure in found:
        name = slug(figure.name, names)
        names.add(name.lower())
        svg = vl_convert.vegalite_to_svg(
            json.dumps(printable_data(figure.picture.to_dict(validate=False))), vl_version=VEGA_LITE
        )
        for suffix in dict.fromkeys(formats):
            path = folder / f"{name}.{suffix}"
            path.write_bytes(_content(svg, suffix))
            written.append(path)
        lines.append(f"{name}: {' '.join(printable(figure.about).split())}\n")
    if not only:
        path = folder / "README.txt"
        path.write_text("".join(lines), encoding="utf-8")
        written.append(path)
    return written


def _content(svg: str, suffix: Format) -> bytes:
    if suffix == "svg":
        return svg.encode()
    found: bytes = vl_convert.svg_to_pdf(svg) if suffix == "pdf" else vl_convert.svg_to_png(svg, scale=1, ppi=PPI)
    return found


def _pixels(width: Width | float) -> int:
    if isinstance(width, str):
        if width not in WIDTHS:
            raise ValueError(f"width must be {' or '.join(WIDTHS)}, or millimetres, got {width!r}")
        return WIDTHS[width]
    if not 30 <= width <= 2000:
        raise ValueError(f"width must be 30 to 2000 mm, got {width:g}")
    return round(width * _MM)


def _check(cmp: ComparisonData, only: Sequence[str], found: Sequence[Figure]) -> None:
    """Every name that was asked for must have given a figure."""
    got = {figure.name for figure in found} | {figure.column for figure in found}
    for name in only:
        if name in got:
            continue
        known = [*(figure.name for figure in figures(cmp)), *cmp.indicators]
        near = ", ".join(difflib.get_close_matches(name, known, n=4, cutoff=0.4) or known[:8])
        why = " (no run has a reading of it)" if name in cmp.indicators else ""
        raise ValueError(f"no figure is named {name!r} or drawn of such a column{why}; there are {near}")


def slug(text: str, taken: Collection[str] = (), most: int = _LONGEST) -> str:
    """A file name, without its ending, that every system takes, whatever a user called what it shows.

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


def figures(cmp: ComparisonData, *, only: Sequence[str] = (), width: int = WIDTHS["text"]) -> Iterator[Figure]:
    """Charts of the page, each by itself: the answer, groups, quality, fronts, targets, ranks, parts of costs.

    Args:
        cmp: The comparison.
        only: Names of figures, or columns, of which all figures are drawn; by default those of independent costs.
        width: In pixels.
    """
    drawn = restrict_to_runs(cmp, select_runs(cmp))
    data = chart_data(drawn, every=cmp.runs)
    look = RunStyle(data.labels, group_of_runs(cmp))
    columns = [name for name in only if name in data.axes] if only else _independent(cmp, data)
    asked = set(only)
    if only and not asked <= set(data.axes):  # a figure's own name: 'front-energy_j'
        columns = list(data.axes)
    for figure in _all(cmp, drawn, data, look, columns, width):
        if not only or figure.name in asked or figure.column in asked:
            yield figure


def _independent(cmp: ComparisonData, data: ChartData) -> list[str]:
    costs = [cost["column"] for cost in differing_costs(cmp) if cost["column"] in data.axes]
    return costs or [name for name in ordered_names(cmp, headline=True, role="indicator") if name in data.axes]


def _all(
    cmp: ComparisonData, drawn: ComparisonData, data: ChartData, look: RunStyle, columns: Sequence[str], width: int
) -> Iterator[Figure]:
    if (answer := answer_figure(cmp, width=width)) is not None:
        at = "at the end" if cmp.answer["target"] is None else f"to reach {quality_text(cmp.answer['target'])}"
        yield Figure("answer", answer, "", f"ranks by best {cmp.monitor} and by every independent cost {at}")
    if (ratios := ratio_figure(cmp, width=width)) is not None and cmp.contrasts is not None:
        about = f"costs of every group over those of {cmp.contrasts['reference']}, with 95 % intervals over seeds"
        yield Figure("ratios", ratios, "", about)
    seen = quality_domain(drawn)
    for name in columns:
        axis, label = data.axes[name], cmp.indicators[name]["label"]
        if cmp.indicators[name]["kind"] in ("counter", "static"):
            held = data.finals if axis.static else data.curves
            quality = data.best if axis.static else replace(data.quality, domain=seen)
            points = alt.InlineData(values=rows(identities(look), held, [axis.field]))
            banded = look.grouped and not axis.static
            source = QualitySource(points, alt.InlineData(values=band_rows(look, data, axis)) if banded else None)
            across = fitted(axis, held, quality)
            picture = layered_chart(look, across, quality, source=source, log=True, lines=not axis.static, still=True)
            yield _figure(f"quality-against-{name}", picture, name, f"{cmp.monitor} against {label}", width)
        if found := front_rows(look, data, drawn, name):
            source_of = alt.InlineData(values=found)
            higher = cmp.indicators[name]["better"] == "higher"
            picture = front_chart(look, axis, data.best, source_of, log=axis.positive, higher=higher)
            yield _figure(f"front-{name}", picture, name, f"Pareto front of best {cmp.monitor} and {label}", width)
        if cmp.sweep["winners"].get(name):
            target = Axis(field="x", label=f"{cmp.monitor} to reach", suffix="", static=False, positive=True)
            sources = {
                "rows": alt.InlineData(values=sweep_rows(look, drawn, data, name)),
                "ranges": alt.InlineData(values=sweep_ranges(look, drawn, name)),
            }
            falling = cmp.mode == "min"
            picture = sweep_chart(look, target, axis, sources, log=axis.positive, falling=falling)
            yield _figure(f"targets-{name}", picture, name, f"{label} to reach every {cmp.monitor}", width)
    if (picture_of_limits := power_limit_chart(look, data, drawn)) is not None:
        about = (
            f"energy against time to reach {quality_text(cmp.answer['target'])}, by power limit, and their Pareto front"
        )
        yield _figure("power-limits", picture_of_limits, "", about, width)
    yield from _of_ranks(cmp, drawn, look, width)
    for part in parts(drawn):
        if not part.nothing:
            picture = part_chart(part, data.labels, alt.InlineData(values=part.rows))
            yield Figure(part.key, _legended(_fitting(picture, width), width), "", part.title)


def _of_ranks(cmp: ComparisonData, drawn: ComparisonData, look: RunStyle, width: int) -> Iterator[Figure]:
    names = bump_names(cmp)
    if len(cmp.runs) < 2 or not names:
        return
    for basis, words in ranking_bases(cmp).items():
        heads, found = bump_rows(look, drawn, basis, names)
        picture = bump_chart(look, heads, alt.InlineData(values=found), drawn.labels)
        name = "ranks" if basis == "end" else f"ranks-to-target-{int(basis) + 1}"
        yield _figure(name, picture, "", f"ranks by every headline cost: {words}", max(width, 46 * len(heads)))
    lines = rank_matrix(cmp, names)
    if len(lines) > 1:
        about = "Spearman's rank correlation of every two headline costs"
        yield Figure("rank-correlation", styled(heat_map(lines)), "", about)


def _figure(name: str, picture: alt.LayerChart, column: str, about: str, width: int) -> Figure:
    return Figure(name, _legended(_fitting(picture.properties(height=HEIGHT), width), width), column, about)


def _fitting(picture: alt.LayerChart, width: int) -> alt.LayerChart:
    """The chart with its axes and legend within the width."""
    return picture.properties(width=width, autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))


def _legended(picture: alt.LayerChart, width: int) -> alt.LayerChart:
    columns = 4 if width >= _ROOMY else 2
    return styled(picture).configure_legend(
        labelFontSize=TEXT, orient="top", columns=columns, labelLimit=width // columns
    )

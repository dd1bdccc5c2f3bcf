"""A comparison as one HTML file that opens anywhere and asks nothing of anybody: no request leaves it."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import altair as alt
import jinja2
import vl_convert

from lightning_costs.compare.comparison import Comparison
from lightning_costs.report.chart_data import Axis, ChartData, chart_data, one_line
from lightning_costs.report.charts import COLORS, DASHES, SHAPES, cycled, draw, styled
from lightning_costs.report.lifecycle_chart import FIRST, decades, life_data
from lightning_costs.report.lifecycle_words import TOLD, life_heads, life_sentences, life_tables, told
from lightning_costs.report.pipeline_picture import pictured
from lightning_costs.report.reader import bases, reader_data, recorded, room, with_priced
from lightning_costs.report.tables import (
    TargetTable,
    final_blocks,
    flip_lines,
    front_lines,
    ordered_names,
    quality_text,
    rank_matrix,
    target_tables,
)
from lightning_costs.report.words import summary, waits

#: The charts' shapes as SVG paths, for the legend.
_OUTLINES = {
    "circle": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",
    "square": "M-4,-4H4V4H-4Z",
    "triangle-up": "M0,-5L5,4H-5Z",
    "diamond": "M0,-5L4,0L0,5L-4,0Z",
    "cross": "M-5,-2H-2V-5H2V-2H5V2H2V5H-2V2H-5Z",
    "triangle-down": "M0,5L5,-4H-5Z",
}
_SCRIPTS = ("page.js", "page_reader.js", "lifecycle.js")
#: Up to so many runs, figures tell of the evaluations around them.
NOTED = 200
#: The chart that a reader sees first, where runs have it.
_FIRST = ("energy_j", "device_s", "train_s", "total_s", "flop")


def write_page(cmp: Comparison, path: Path) -> Path:
    """Write the page, folders above it included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(cmp), encoding="utf-8")
    return path


def page(cmp: Comparison) -> str:
    """The page as text.

    Scripts are named in the content security policy by their hash, so that nothing else on the page can run, not
    even what a run's name would smuggle in; charts are evaluated by Vega's interpreter, without `eval`.
    """
    data = chart_data(cmp)
    cmp = with_priced(cmp, data)
    priced = bases(cmp, data)
    # An HTML parser reads a carriage return as a line feed, which would change the hash.
    scripts = [text.replace("\r\n", "\n").replace("\r", "\\r") for text in (_vega(), "".join(map(_resource, _SCRIPTS)))]
    headline = ordered_names(cmp, headline=True, role="indicator")
    everything = ordered_names(cmp, role="indicator")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(_resource("page.html.j2"))
    return template.render(
        cmp=cmp,
        policy=policy(scripts),
        style=_resource("page.css"),
        scripts=scripts,
        data=script_json(page_data(cmp, data)),
        metric=one_line(cmp.monitor),
        summary=summary(cmp),
        legend=_legend(cmp.labels),
        choices=_choices(cmp, data),
        first=_first(data),
        counters=[name for name in everything if _small(cmp, data, name)],
        absent=[(name, cmp.indicators[name]["label"]) for name in everything if name not in data.axes],
        priced={name: name in data.axes for name in priced},
        rates=recorded(cmp),
        room=lambda lines: room(lines, priced, cmp),
        targets=_targets(cmp),
        fronts=front_lines(cmp),
        matrix=rank_matrix(cmp, headline),
        matrix_of_all=rank_matrix(cmp, everything),
        flips=flip_lines(cmp, headline),
        finals=final_blocks(cmp),
        waits=waits(cmp),
        pipelines=pictured(cmp),
        life=_lifecycle(cmp),
        best=[quality_text(run["best_quality"]) for run in cmp.runs],
    )


def page_data(cmp: Comparison, data: ChartData) -> dict[str, object]:
    """What the page's script reads: columns of the charts once, and how each indicator's chart is filled in."""
    drawings = _Drawings(data)
    return {
        "labels": data.labels,
        "datasets": {"curves": data.curves, "finals": data.finals},
        "charts": {
            name: {
                "label": f"{cmp.monitor} against {axis.title}",
                "source": "finals" if axis.static else "curves",
                "positive": axis.positive,
                **drawings.of(axis),
            }
            for name, axis in data.axes.items()
        },
        "reader": reader_data(cmp, data, drawings.of),
        "shapes": drawings.shapes,
        "lifecycle": life_data(cmp) if told(cmp.lifecycle) else None,
    }


def script_json(value: object) -> str:
    r"""JSON that is safe inside a script element, whatever texts it holds.

    Example:
        >>> script_json("</script><!--")
        '"\\u003c/script\\u003e\\u003c!--"'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # A lone surrogate cannot be written as UTF-8.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def policy(scripts: list[str]) -> str:
    """A content security policy that allows these inline scripts, inline styles, and no connection at all."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


class _Drawings:
    """Specifications of the charts: few shapes, which the script fills in with an axis's field, label and unit."""

    def __init__(self, data: ChartData) -> None:
        self._data = data
        self._numbers: dict[tuple[bool, bool, str], int] = {}
        self.shapes: list[dict[str, object]] = []

    def of(self, axis: Axis) -> dict[str, object]:
        """The number of an axis's shape, and what is filled in."""
        form = "bare" if not axis.suffix else "same" if axis.suffix == axis.label else "full"
        key = (axis.static, axis.positive, form)
        if key not in self._numbers:
            self._numbers[key] = len(self.shapes)
            suffix = {"bare": "", "same": "@x-label@", "full": "@x-unit@"}[form]
            blank = replace(axis, field="@x-field@", label="@x-label@", suffix=suffix)
            self.shapes.append(_specification(self._data, blank))
        fills = {"field": axis.field, "label": _harmless(one_line(axis.label)), "unit": _harmless(axis.suffix)}
        return {"shape": self._numbers[key], "fills": fills}


def _harmless(text: str) -> str:
    """A text that is the same within JSON and within an expression: what either would escape looks like it only."""
    return "".join(one for one in text.replace("\\", "∖").replace('"', "”") if one.isprintable())


def _targets(cmp: Comparison) -> list[TargetTable]:
    """Cost-to-quality; with very many runs without the evaluations around each figure, which `--json` holds."""
    tables = target_tables(cmp)
    if len(cmp.runs) <= NOTED:
        return tables
    return [
        table._replace(
            lines=[line._replace(cells=[cell._replace(note="") for cell in line.cells]) for line in table.lines]
        )
        for table in tables
    ]


def _specification(data: ChartData, axis: Axis) -> dict[str, object]:
    source = alt.NamedData(name="finals" if axis.static else "curves")
    quality = data.best if axis.static else data.quality
    picture = draw(data, axis, quality, source=source, log=axis.positive, lines=not axis.static, page=True)
    spec: dict[str, object] = styled(picture.properties(width="container", height=420)).to_dict()
    return spec


def _lifecycle(cmp: Comparison) -> dict[str, object] | None:
    """What the section on training and queries shows before its script runs; None without one."""
    names = told(cmp.lifecycle)
    if not names and "infer_energy_j" not in cmp.indicators:
        return None
    return {
        "choices": [(name, TOLD[name][1]) for name in names],
        "sentences": life_sentences(cmp),
        "heads": life_heads(cmp),
        "tables": life_tables(cmp),
        "first": f"{FIRST:.0f}",
        "decades": decades(cmp),
    }


def _legend(labels: list[str]) -> list[tuple[str, str, str, str]]:
    """Label, color, dash and outline of each run, as the charts draw it."""
    count = len(labels)
    dashes = [" ".join(map(str, dash)) for dash in cycled(DASHES, count)]
    outlines = [_OUTLINES[shape] for shape in cycled(SHAPES, count)]
    return list(zip(labels, cycled(COLORS, count), dashes, outlines, strict=True))


def _choices(cmp: Comparison, data: ChartData) -> dict[str, list[tuple[str, str]]]:
    """Family to the indicators that the reader can choose as x, each with its title."""
    choices: dict[str, list[tuple[str, str]]] = {}
    for name in ordered_names(cmp, role="indicator"):
        if name in data.axes:
            choices.setdefault(cmp.indicators[name]["family"], []).append((name, data.axes[name].title))
    return choices


def _first(data: ChartData) -> str:
    return next((name for name in (*_FIRST, *data.axes) if name in data.axes), "")


def _small(cmp: Comparison, data: ChartData, name: str) -> bool:
    return name in data.axes and cmp.indicators[name]["kind"] in ("counter", "static")


def _resource(name: str) -> str:
    return files("lightning_costs.report").joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed in the version that Altair writes for, as one script."""
    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return bundle.replace("</script", "<\\/script")

"""A comparison as one HTML file that opens anywhere and needs no server: no request leaves it."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import altair as alt
import jinja2
import vl_convert
from altair.utils.schemapi import debug_mode

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.charts.breakdown import parts
from lightning_costs.report.charts.data import ChartData, chart_data, single_line
from lightning_costs.report.charts.fit import group_of_runs
from lightning_costs.report.charts.look import COLORS, DASHES, SHAPES, RunStyle, cycle
from lightning_costs.report.charts.ranks import bump_names
from lightning_costs.report.charts.ranks import orders as rank_orders
from lightning_costs.report.charts.ranks import ranking_bases as bump_bases
from lightning_costs.report.charts.ratios import ratio_lines
from lightning_costs.report.charts.selection import restrict_to_runs, select_runs
from lightning_costs.report.charts.target_sweep import describe_ranges
from lightning_costs.report.page.data import page_data
from lightning_costs.report.page.sections import (
    answer_pictures,
    answer_table,
    cost_sections,
    distinct_methods,
    missing_reasons,
    page_cautions,
    pipeline_sections,
    ratio_pictures,
    tied_costs,
)
from lightning_costs.report.tables.agreement import (
    dominance_sentences,
    family_lines,
    group_qualities,
    matched_lines,
    reversal_lines,
)
from lightning_costs.report.tables.lifecycle import COLUMNS, available_columns, life_heads, life_sentences, life_tables
from lightning_costs.report.tables.run_table import run_columns, run_lines, runs_csv
from lightning_costs.report.tables.tables import (
    final_blocks,
    flip_lines,
    front_lines,
    group_tables,
    ordered_names,
    quality_text,
    rank_matrix,
    target_tables,
)
from lightning_costs.run.input_stalls import describe_input_stalls
from lightning_costs.run.step_shares import describe_steps

#: The charts' shapes as SVG paths, for the legend.
_OUTLINES = {
    "circle": "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",
    "square": "M-4,-4H4V4H-4Z",
    "triangle-up": "M0,-5L5,4H-5Z",
    "diamond": "M0,-5L4,0L0,5L-4,0Z",
    "cross": "M-5,-2H-2V-5H2V-2H5V2H2V5H-2V2H-5Z",
    "triangle-down": "M0,5L5,-4H-5Z",
}
_SCRIPTS = ("page.js", "page_table.js")
#: Sections on what a cost is made of, and the breakdowns in each.
_THEMES = {
    "time": ("time", "phases", "steps", "waiting", "waiting_share", "utilization", "lost"),
    "memory": ("memory_at_peak", "memory", "peaks"),
    "energy": ("energy", "energy_by_account", "money"),
}
#: The chart that a reader sees first, where runs have it.
_FIRST = ("energy_j", "device_s", "train_s", "total_s", "flop")


def write_page(cmp: ComparisonData, path: Path, *, reload_s: int | None = None) -> Path:
    """Write the page, folders above it included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(cmp, reload_s=reload_s), encoding="utf-8")
    return path


def page(cmp: ComparisonData, *, reload_s: int | None = None) -> str:
    """The page as text.

    Charts are checked against Vega-Lite's schema by tests, not here, since that takes half of the time.

    Scripts are named in the content security policy by their hash. So nothing else on the page can run, not
    even what a run's name would smuggle in; charts are evaluated by Vega's interpreter, without `eval`.
    """
    with debug_mode(False):
        return _page(cmp, reload_s)


def _page(cmp: ComparisonData, reload_s: int | None) -> str:
    labels = select_runs(cmp)
    drawn = restrict_to_runs(cmp, labels)
    data = chart_data(drawn, every=cmp.runs)
    look = RunStyle(labels, group_of_runs(cmp))
    csv = runs_csv(cmp)
    # An HTML parser reads a carriage return as a line feed, which would change the hash.
    scripts = [text.replace("\r\n", "\n").replace("\r", "\\r") for text in (_vega(), "".join(map(_resource, _SCRIPTS)))]
    everything = ordered_names(cmp, role="indicator")
    themes = parts(drawn)
    costs = cost_sections(cmp, data)
    bumps = bump_bases(cmp) if len(cmp.runs) > 1 and bump_names(cmp) else {}
    return _template().render(
        all=cmp,
        cmp=drawn,
        policy=content_security_policy(scripts),
        style=_resource("page.css"),
        scripts=scripts,
        reload_s=reload_s,
        now=datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        data=script_json(page_data(cmp, drawn, data, look, themes, [cost.name for cost in costs if cost.curve], csv)),
        metric=single_line(cmp.monitor),
        answer=answer_table(cmp),
        pictures=answer_pictures(cmp),
        ratios=ratio_lines(cmp),
        ratio_pictures=ratio_pictures(cmp),
        cautions=page_cautions(cmp),
        thinned=_thinned(cmp, data),
        legend=_legend(look),
        keys=look.keys,
        grouped=look.grouped,
        choices=_choices(cmp, data),
        first=_first(data),
        costs=costs,
        tied=tied_costs(cmp),
        missing=missing_reasons(drawn),
        # Every target has the same counters: all of these tables have lines, or none has.
        targets=[table for table in target_tables(drawn) if table.lines],
        reversals=[reversal_lines(row, cmp) for row in cmp.targets],
        groups=[table for table in group_tables(cmp) if table.lines],
        qualities=group_qualities(cmp),
        sweeps=_sweeps(cmp, data),
        complete=cmp.sweep["complete"],
        fronts=front_lines(drawn),
        dominance=dominance_sentences(cmp),
        bumps=bumps,
        rank_tables={basis: rank_orders(drawn, basis, everything) for basis in bumps},
        matrix=rank_matrix(cmp, bump_names(cmp)),
        matrix_of_all=rank_matrix(cmp, everything),
        flips=flip_lines(cmp, bump_names(cmp)),
        families=family_lines(cmp) if len(cmp.runs) > 1 else [],
        matched=matched_lines(cmp),
        themes={group: [part for part in themes if part.key in keys] for group, keys in _THEMES.items()},
        columns=run_columns(cmp, [cost.name for cost in costs]),
        runs=run_lines(cmp, labels, [cost.name for cost in costs]),
        finals=final_blocks(drawn),
        methods=distinct_methods(drawn),
        waits=_waits(drawn),
        verdicts=_verdicts(drawn),
        insides=_insides(drawn),
        pipelines=pipeline_sections(drawn),
        life=_lifecycle(drawn),
        best=[quality_text(run["best_quality"]) for run in drawn.runs],
    )


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


def content_security_policy(scripts: list[str]) -> str:
    """A content security policy that allows these inline scripts, inline styles, and no connection at all."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _lifecycle(cmp: ComparisonData) -> dict[str, object] | None:
    """What the section on training and queries shows; None without one."""
    names = available_columns(cmp.lifecycle)
    if not names and "infer_energy_j" not in cmp.indicators:
        return None
    return {
        "choices": [(name, COLUMNS[name][1]) for name in names],
        "sentences": life_sentences(cmp),
        "heads": life_heads(cmp),
        "tables": life_tables(cmp),
    }


def _verdicts(cmp: ComparisonData) -> dict[str, str]:
    """Run label to what bounds it; runs without any evidence are absent."""
    judged = {run["label"]: run["verdict"] for run in cmp.runs}
    return {label: v["words"].removeprefix("verdict: ") for label, v in judged.items() if v["kind"] != "unknown"}


def _waits(cmp: ComparisonData) -> dict[str, str]:
    """Run label to whether it waited for its data; runs without a reading are absent."""
    texts = {run["label"]: "; ".join(describe_input_stalls(run["setup"], run["final"])) for run in cmp.runs}
    return {label: text for label, text in texts.items() if text}


def _insides(cmp: ComparisonData) -> dict[str, list[str]]:
    """Run label to what its steps were made of; runs without a reading are absent."""
    by_label = {run["label"]: describe_steps(run["about"], run["final"]) for run in cmp.runs}
    return {label: sentences for label, sentences in by_label.items() if sentences}


def _legend(look: RunStyle) -> list[tuple[str, str, str, str]]:
    """Name, color, dash and outline of each run or group, as the charts draw it."""
    count = len(look.names)
    dashes = [" ".join(map(str, dash)) for dash in cycle(DASHES, count)]
    outlines = [_OUTLINES[shape] for shape in cycle(SHAPES, count)]
    return list(zip(look.names, cycle(COLORS, count), dashes, outlines, strict=True))


def _choices(cmp: ComparisonData, data: ChartData) -> dict[str, list[tuple[str, str]]]:
    """Family to the indicators that the reader can choose as x, each with its title."""
    choices: dict[str, list[tuple[str, str]]] = {}
    for name in ordered_names(cmp, role="indicator"):
        if name in data.axes:
            choices.setdefault(cmp.indicators[name]["family"], []).append((name, data.axes[name].title))
    return choices


def _first(data: ChartData) -> str:
    return next((name for name in (*_FIRST, *data.axes) if name in data.axes), "")


def _thinned(cmp: ComparisonData, data: ChartData) -> list[str]:
    """What is left out of drawings, in words; figures are always made from everything."""
    sentences = []
    if len(data.labels) < len(cmp.runs):
        sentences.append(
            f"{len(data.labels)} of {len(cmp.runs):,} runs are drawn and have columns of their own: in turns, those "
            "with the best quality, those that needed least for a target or are cheapest by a headline cost, and "
            f"those on its Pareto front. Every figure, front, rank and caution is of all {len(cmp.runs):,}, which are "
            "in the table of all runs."
        )
    evaluations = {run["label"]: run["evaluations"] for run in cmp.runs}
    if any(evaluations[label] > len(kept) for label, kept in data.kept.items()):
        most = max(map(len, data.kept.values()))
        sentences.append(
            f"Curves are drawn with {most} evaluations of each run at most, evenly many, with the first, the last, the "
            "best and the worst; figures are made from all."
        )
    return sentences


def _sweeps(cmp: ComparisonData, data: ChartData) -> list[tuple[str, str, str]]:
    """Indicator, its label and who needs least for which targets, in words; only those with a chart."""
    targets = cmp.sweep["targets"]
    return [
        (name, cmp.indicators[name]["label"], describe_ranges(cmp.sweep["winners"].get(name, ()), targets))
        for name in ordered_names(cmp, role="indicator")
        if name in data.axes and cmp.sweep["winners"].get(name)
    ]


def _resource(name: str) -> str:
    return files("lightning_costs.report.page").joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    """One for all pages: to compile it takes a third of a page's time."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        loader=jinja2.FunctionLoader(_resource),
    )
    return environment.get_template("page.html.j2")


@lru_cache(maxsize=1)
def _vega() -> str:
    """Vega, Vega-Lite and Vega-Embed in the version that Altair writes for, as one script."""
    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return bundle.replace("</script", "<\\/script")

"""The page's sections: independent costs, what was not measured, cautions and pipelines, as words for its templates."""

from __future__ import annotations

import json
import math
import re
from typing import NamedTuple

import altair as alt
import vl_convert
from markupsafe import Markup

from lightning_costs.analysis.advice import by_weight
from lightning_costs.analysis.data import ComparisonData
from lightning_costs.records.certainty import noted
from lightning_costs.records.formatting import list_words
from lightning_costs.records.pipeline.ideal_bubble import describe_bubble
from lightning_costs.records.printable import printable_data
from lightning_costs.report.charts.answer import answer_columns, answer_figure, differing_costs
from lightning_costs.report.charts.data import ChartData, share_text
from lightning_costs.report.charts.fit import quality_domain
from lightning_costs.report.charts.look import VEGA_LITE
from lightning_costs.report.charts.ratios import ratio_figure
from lightning_costs.report.charts.target_sweep import describe_ranges
from lightning_costs.report.tables.agreement import evidence_lines
from lightning_costs.report.tables.tables import ordered_names
from lightning_costs.run.timeline_svg import timeline_svg

#: The widths that figures of the first screen are drawn for: a desktop's and a phone's.
_WIDE, _PHONE = 740, 328
#: A range of targets below this share of the quality axis is left out of the words beside a cost.
_NARROW = 0.03


class CostSection(NamedTuple):
    """An independent cost on the page.

    Args:
        name: Its column.
        label: Its label, with the mark of what is modelled.
        share: How much of it is modelled, in words; '' if all was measured.
        alike: Labels of the columns that cannot disagree with it.
        ranges: Who needs least for which targets; '' for what is no counter.
        curve: Whether quality against it is a curve.
        front: Whether it has a Pareto front.
    """

    name: str
    label: str
    share: str
    alike: list[str]
    ranges: str
    curve: bool
    front: bool


class AnswerTable(NamedTuple):
    """The answer as a table: a line per run or group, best quality first."""

    heads: list[str]
    lines: list[tuple[str, list[tuple[str, str]]]]


class MissingReason(NamedTuple):
    """Why columns are missing, once for all columns and runs of one reason."""

    labels: list[str]
    runs: str
    why: str


def cost_sections(cmp: ComparisonData, data: ChartData) -> list[CostSection]:
    """The independent costs by which runs differ, or all if they differ by none, in the answer's order.

    None if no run has the quality that they are drawn with.
    """
    seen = quality_domain(cmp)
    if seen is None:
        return []
    found = []
    for cost in differing_costs(cmp) or cmp.answer["costs"]:
        name, share = cost["column"], cost["modelled_share"]
        if name not in data.axes:
            continue
        modelled = share is not None and share > 0
        found.append(
            CostSection(
                name=name,
                label=noted(cost["label"], 1.0, "modelled" if modelled else "exact"),
                share=share_text(share) if modelled and share is not None else "",
                alike=[cmp.indicators[other]["label"] for other in cost["columns"][1:]],
                ranges=_ranges(cmp, name, seen),
                curve=cmp.indicators[name]["kind"] == "counter" and not data.axes[name].static,
                front=bool(cmp.fronts.get(name)),
            )
        )
    return found


def _ranges(cmp: ComparisonData, name: str, seen: tuple[float, float] | None) -> str:
    """Who needs least for which of the targets that the quality axis shows, without the narrowest ranges."""
    low, high = seen or (-math.inf, math.inf)
    winners = cmp.sweep["group_winners" if cmp.answer["by"] == "group" else "winners"]
    least = _NARROW * (high - low) if seen else 0.0
    rows = [
        row
        for row in winners.get(name, ())
        if low <= row["upto"] <= high
        and abs(row["upto"] - (row["first"] if row["after"] is None else row["after"])) >= least
    ]
    return describe_ranges(rows, [row["upto"] for row in rows], most=4)


def tied_costs(cmp: ComparisonData) -> str:
    """The independent costs by which all are equal, in words."""
    differing = [cost["column"] for cost in differing_costs(cmp)]
    return list_words([cost["label"] for cost in cmp.answer["costs"] if cost["column"] not in differing])


def answer_table(cmp: ComparisonData) -> AnswerTable | None:
    """Ranks and amounts behind the answer's figure."""
    columns = answer_columns(cmp)
    if not columns:
        return None
    heads = [f"{column.head} ({column.basis})" if column.basis else column.head for column in columns]
    lines = []
    for name in cmp.answer["labels"]:
        cells = []
        for column in columns:
            rank = column.ranks[name]
            verdict = "★" if column.winner == name else "undecided" if column.undecided and rank == 1 else ""
            words = [] if rank is None else [f"rank {rank:g}"]
            cells.append((column.texts[name], ", ".join([*words, *([verdict] if verdict else [])])))
        lines.append((name, cells))
    return AnswerTable(heads, lines)


def answer_pictures(cmp: ComparisonData) -> list[tuple[str, Markup]]:
    """The answer's figure for a desktop and for a phone, each with the class that shows it."""
    return _pictures([("wide", answer_figure(cmp, width=_WIDE)), ("phone", answer_figure(cmp, width=_PHONE))])


def ratio_pictures(cmp: ComparisonData) -> list[tuple[str, Markup]]:
    """Ratios of groups with their intervals, for a desktop and for a phone."""
    return _pictures([("wide", ratio_figure(cmp, width=1040)), ("phone", ratio_figure(cmp, width=_PHONE))])


def missing_reasons(cmp: ComparisonData) -> list[MissingReason]:
    """Every column that a run has no reading of, once, with the reason; reasons that differ in a number are one."""
    reasons: dict[str, tuple[str, dict[str, None], dict[str, None]]] = {}
    for name in ordered_names(cmp):
        for run in cmp.runs:
            if run["final"].get(name) is not None:
                continue
            why = run["missing"].get(name, "") or "no reason was recorded"
            why = re.sub(r"^(needs \w+: )+", "", why)
            _, labels, runs = reasons.setdefault(_numberless(why), (why, {}, {}))
            labels[cmp.indicators[name]["label"]] = None
            runs[run["label"]] = None
    return [
        MissingReason(list(labels), "" if len(runs) == len(cmp.runs) else list_words(list(runs), 4), why)
        for why, labels, runs in reasons.values()
    ]


def distinct_methods(cmp: ComparisonData) -> dict[str, str]:
    """Column to how it was got, for all runs; texts that differ in a number are one."""
    return {
        name: "; ".join({_numberless(how): how for run in cmp.runs if (how := run["methods"].get(name))}.values())
        for name in cmp.indicators
    }


def _numberless(text: str) -> str:
    return re.sub(r"\d+(\.\d+)?(e[+-]?\d+)?", "#", text)


def _pictures(figures: list[tuple[str, alt.LayerChart | None]]) -> list[tuple[str, Markup]]:
    found = []
    for shown, figure in figures:
        if figure is None:
            continue
        spec = {**printable_data(figure.to_dict(validate=False)), "background": "transparent"}
        # Vega writes texts of users as text: `&`, `<` and quotes are escaped by it.
        found.append((shown, Markup(vl_convert.vegalite_to_svg(json.dumps(spec), vl_version=VEGA_LITE))))
    return found


class PipelineSection(NamedTuple):
    """A run that was a pipeline.

    Args:
        label: The run's.
        sentence: What is in its bubble, beside the closed form.
        svg: One step; None if none was kept.
        clock: What the picture was read from.
    """

    label: str
    sentence: str
    svg: Markup | None
    clock: str


def pipeline_sections(cmp: ComparisonData) -> list[PipelineSection]:
    """The runs that were pipelines, in the order of the comparison."""
    found = []
    for number, run in enumerate(cmp.runs):
        pipeline = run["about"].get("pipeline")
        if pipeline is None:
            continue
        svg = timeline_svg(pipeline, number)
        found.append(
            PipelineSection(
                label=run["label"],
                sentence="; ".join(describe_bubble(pipeline, run["final"])),
                # Made of numbers and of text that is escaped there.
                svg=None if svg is None else Markup(svg),
                clock=pipeline["timeline"]["clock"] if svg is not None else "",
            )
        )
    return found


#: What limits a claim less than the others is folded.
_LIGHT = {
    "targets_in_hindsight",
    "early_lead",
    "one_indicator",
    "almost_as_good",
    "parameters_matched",
    "compute_matched",
    "few_runs",
    "decided_by_rounding",
    "estimates_overlap",
}
#: Most kinds that are open.
_OPEN = 4


class PageCaution(NamedTuple):
    """Cautions of one kind: the first in words, those of other runs beneath it.

    Args:
        text: The first one.
        advice: What to do; '' if nothing can be done.
        section: That of the paper which warns of it.
        more: The others of this kind.
        evidence: The figures behind the first one.
    """

    text: str
    advice: str
    section: str | None
    more: list[str]
    evidence: list[tuple[str, str]]


def page_cautions(cmp: ComparisonData) -> tuple[list[PageCaution], list[PageCaution]]:
    """Cautions of most weight, and those to fold."""
    opened: list[PageCaution] = []
    folded: list[PageCaution] = []
    for first, _, advice in by_weight(cmp.cautions):
        others = [one for one in cmp.cautions if one["kind"] == first["kind"] and one is not first]
        entry = PageCaution(
            text=labelled(first["text"], cmp),
            advice=advice,
            section=first["section"],
            more=[labelled(caution["text"], cmp) for caution in others],
            evidence=[(labelled(key, cmp), labelled(text, cmp)) for key, text in evidence_lines(first["evidence"])],
        )
        (folded if first["kind"] in _LIGHT or len(opened) == _OPEN else opened).append(entry)
    return (opened, folded) if opened else (folded[:_OPEN], folded[_OPEN:])


def labelled(text: str, cmp: ComparisonData) -> str:
    """The text with labels for the names of columns: people read 'total time', not total_s."""
    names = sorted((name for name in cmp.indicators if "_" in name), key=len, reverse=True)
    if not names:
        return text
    return re.sub(
        rf"(?<![\w./'-])({'|'.join(map(re.escape, names))})(?![\w./'-])",
        lambda found: cmp.indicators[found[1]]["label"],
        text,
    )

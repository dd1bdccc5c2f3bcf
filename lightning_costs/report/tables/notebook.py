"""A comparison in a notebook: the answer's sentences, its figure with the extra `report`, and a compact table."""

from __future__ import annotations

import json
from html import escape
from importlib import import_module

from lightning_costs.analysis.advice import by_weight
from lightning_costs.analysis.data import ComparisonData
from lightning_costs.records.printable import printable_data
from lightning_costs.report.tables.tables import final_text, ordered_names, quality_text

#: Most rows of the table.
_MOST = 50


def comparison_html(cmp: ComparisonData) -> str:
    """The answer, then runs by best quality and headline costs; every text is escaped."""
    names = [
        name for name in ordered_names(cmp, headline=True) if any(run["final"][name] is not None for run in cmp.runs)
    ]
    heads = ["run", "status", f"best {cmp.monitor}", *(cmp.indicators[name]["label"] for name in names)]
    right = "style='text-align:right;white-space:nowrap'"
    body = "".join(
        "<tr>"
        f"<th style='text-align:left'>{escape(run['label'])}</th>"
        f"<td style='text-align:left'>{escape(run['status'])}</td>"
        f"<td {right}>{escape(quality_text(run['best_quality']))}</td>"
        + "".join(f"<td {right}>{escape(final_text(run, name, cmp.indicators[name]['unit']))}</td>" for name in names)
        + "</tr>"
        for run in cmp.runs[:_MOST]
    )
    more = f"<p>{len(cmp.runs) - _MOST} more runs: to_html() writes all.</p>" if len(cmp.runs) > _MOST else ""
    kinds = by_weight(cmp.cautions)
    cautions = "".join(
        f"<li>{escape(caution['text'])}{f' ({count} more like it)' if count else ''}. {escape(advice)}</li>"
        for caution, count, advice in kinds
    )
    texts = [*cmp.answer["sentences"], cmp.answer["grouping"]]
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in texts if sentence)
    return (
        f"<div>{sentences}{_figure(cmp)}"
        f"<table><caption>At the end of each run</caption><thead><tr>"
        f"{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr></thead><tbody>{body}</tbody></table>{more}"
        + (f"<details><summary>{len(kinds)} cautions</summary><ul>{cautions}</ul></details>" if cautions else "")
        + "</div>"
    )


def _figure(cmp: ComparisonData) -> str:
    """The answer's figure as SVG; nothing without the extra `report`."""
    try:
        drawing = import_module("lightning_costs.report.charts.answer")
        svg = import_module("vl_convert").vegalite_to_svg(
            json.dumps(printable_data(drawing.answer_chart(cmp).to_dict()))
        )
    except (ImportError, ValueError):
        return ""
    return f"<div>{svg}</div>"

"""A comparison as a compact table for notebooks, without any package of the extra `report`."""

from __future__ import annotations

from html import escape

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.tables.tables import final_text, ordered_names, quality_text


def comparison_html(cmp: ComparisonData) -> str:
    """Runs by best quality and headline costs, as an HTML table; every text is escaped."""
    names = [
        name for name in ordered_names(cmp, headline=True) if any(run["final"][name] is not None for run in cmp.runs)
    ]
    heads = ["run", f"best {cmp.monitor}", *(cmp.indicators[name]["label"] for name in names)]
    body = "".join(
        "<tr>"
        f"<th style='text-align:left'>{escape(run['label'])}</th>"
        f"<td>{escape(quality_text(run['best_quality']))}</td>"
        + "".join(f"<td>{escape(final_text(run, name, cmp.indicators[name]['unit']))}</td>" for name in names)
        + "</tr>"
        for run in cmp.runs
    )
    cautions = "".join(f"<li>{escape(caution['text'])}</li>" for caution in cmp.cautions)
    return (
        f"<table><thead><tr>{''.join(f'<th>{escape(head)}</th>' for head in heads)}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
        + (f"<details><summary>{len(cmp.cautions)} cautions</summary><ul>{cautions}</ul></details>" if cautions else "")
    )

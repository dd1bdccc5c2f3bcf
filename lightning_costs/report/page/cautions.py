"""The page's cautions: each kind once, with what to do about it, in labels rather than column names."""

from __future__ import annotations

import re
from typing import NamedTuple

from lightning_costs.analysis.advice import by_weight
from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.tables.agreement import evidence_lines

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

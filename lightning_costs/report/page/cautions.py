"""The page's cautions: each kind once, with what to do about it, in labels rather than column names."""

from __future__ import annotations

import re
from typing import NamedTuple

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.tables.agreement import evidence_lines

#: By kind, what a reader can do; kinds without a line have nothing that can be done.
_ADVICE = {
    "unfinished": "compare finished runs, or read costs to a target alone",
    "stopped_by_budget": "compare costs to a target, not costs at the end",
    "not_at_the_end_of_the_schedule": "train to the end of the schedule, or compare runs of equal schedules",
    "mode_contradicts_runs": "leave --mode out, or correct it in CostMonitor",
    "no_quality": "check the name in CostMonitor(monitor=...) against what is logged",
    "diverged": "leave the run out, or lower its learning rate",
    "methods_differ": "compare this cost only among runs that got it alike",
    "flop_conventions": "compare FLOPs only among runs that counted alike",
    "flop_lower_bound": "give formulas of the operators (docs/columns.md)",
    "estimates_overlap": "take their order as undecided, or sample more steps",
    "steps_hide_passes": "compare by FLOPs, time or energy",
    "tariffs_differ": "give one tariff for all: --tariff FILE",
    "setups_differ": "compare runs that differ only in what is studied",
    "hardware_differs": "compare time, energy, money and memory on one machine",
    "tuning_budgets_differ": "search all settings in as many trials",
    "targets_in_hindsight": "declare targets before training: CostMonitor(targets=[...])",
    "early_lead": "read the cost of the quality that is needed, not of an easier one",
    "one_indicator": "report the other costs beside it",
    "searched_under_the_indicator": "search settings under no cost, or under every one",
    "almost_as_good": "decide whether the last of the quality is worth its cost",
    "parameters_matched": "report compute beside parameters",
    "compute_matched": "report parameters beside compute",
    "within_seed_noise": "train more seeds before naming the better one",
    "single_seed": "train as many seeds of every method",
    "few_runs": "train more runs or seeds before claiming an order",
    "decided_by_rounding": "give more digits",
    "restarts_lost_work": "compare with --curve to-reach as well",
    "below_zero": "write missing amounts as empty cells",
    "declarations_clash": "rename one of the columns",
}
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
#: So many kinds are open, at most.
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
    by_kind: dict[str, list[int]] = {}
    for number, caution in enumerate(cmp.cautions):
        by_kind.setdefault(caution["kind"], []).append(number)
    opened: list[PageCaution] = []
    folded: list[PageCaution] = []
    for kind, numbers in by_kind.items():
        first, *others = [cmp.cautions[number] for number in numbers]
        entry = PageCaution(
            text=labelled(first["text"], cmp),
            advice=_ADVICE.get(kind, ""),
            section=first["section"],
            more=[labelled(caution["text"], cmp) for caution in others],
            evidence=[(labelled(key, cmp), labelled(text, cmp)) for key, text in evidence_lines(first["evidence"])],
        )
        (folded if kind in _LIGHT or len(opened) == _OPEN else opened).append(entry)
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

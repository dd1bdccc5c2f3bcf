"""What a comparison found, in a few sentences that are limited to the setup that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_costs.analysis.agreement_schema import Dominance, Families
from lightning_costs.analysis.leads import Field
from lightning_costs.analysis.metric import Metric
from lightning_costs.analysis.schema import Declaration, Leader, Plain, RunRow, Setups
from lightning_costs.analysis.text import quote
from lightning_costs.records.formatting import counted, list_words

#: Most runs that a sentence names.
_MOST = 6
#: Families in reading order; others come last.
FAMILIES = ("time", "compute", "energy", "money", "memory", "data", "size")
#: What costs are, of a comparison without the work that restarts lost.
TO_REACH = "Costs are those to reach each state: what restarts lost was spent too and is left out"
#: Settings that a claim holds for, in reading order; the page lists all of them.
_TOLD = (
    "hardware.device",
    "hardware.accelerator",
    "hardware.cpu",
    "devices",
    "hardware.devices",
    "nodes",
    "precision",
    "dataset",
)


def summary(
    runs: Sequence[RunRow],
    metric: Metric,
    best: Sequence[str],
    declared: Mapping[str, Declaration],
    leaders: Mapping[str, Leader],
    fields: Mapping[str, Field],
    families: Families,
    dominance: Dominance,
    setups: Setups,
    curve: str,
    against: int = 0,
) -> list[str]:
    """Sentences: how many runs, who was best, who leads by which headline indicators, by how many families, where."""
    return [
        _runs(runs, metric, against),
        *_best(runs, best),
        *_leaders(runs, declared, leaders, fields),
        *_families(runs, families),
        *front_sentences(dominance, best),
        *_curve(curve),
        _limits(setups),
    ]


def _runs(runs: Sequence[RunRow], metric: Metric, against: int) -> str:
    count = "1 run is" if len(runs) == 1 else f"{len(runs)} runs are"
    direction = "higher" if metric.mode == "max" else "lower"
    though = f", though {against} of them declare{'s' if against == 1 else ''} the opposite" if against else ""
    return f"{count} compared by {quote(metric.monitor)}, where {direction} is better{though}."


def _best(runs: Sequence[RunRow], best: Sequence[str]) -> list[str]:
    if not best:
        return ["None of them logged it, so that only their costs can be shown."]
    value = next(run["best_quality"] for run in runs if run["label"] == best[0])
    return [f"The best value, {value:.4g}, was reached by {list_words([quote(label) for label in best], _MOST)}."]


def _leaders(
    runs: Sequence[RunRow],
    declared: Mapping[str, Declaration],
    leaders: Mapping[str, Leader],
    fields: Mapping[str, Field],
) -> list[str]:
    if len(runs) < 2:
        return []
    headline = [name for name, row in declared.items() if row["headline"] and row["role"] == "indicator"]
    by_lead: dict[tuple[str, tuple[str, ...], Field], list[str]] = {}
    for name in sorted(headline, key=lambda name: family_place(declared[name]["family"])):
        lead = leaders.get(name)
        # If all runs tie, none leads.
        if lead is not None and len(lead["labels"]) < fields[name].taking:
            by_lead.setdefault((lead["basis"], tuple(lead["labels"]), fields[name]), []).append(declared[name]["label"])
    clauses: dict[str, list[str]] = {}
    for (basis, labels, field), indicators in by_lead.items():
        who = list_words([quote(label) for label in labels], _MOST)
        verb = "needed least" if basis.startswith("to reach") else "had the best"
        lack = "has" if field.lacking == 1 else "have"
        of = f" (of {counted(field.taking)}; {field.lacking} more {lack} no reading)" if field.lacking else ""
        clauses.setdefault(basis, []).append(f"{who} {verb} {list_words(indicators, most=12)}{of}")
    return [f"{basis[0].upper()}{basis[1:]}, {'; '.join(texts)}." for basis, texts in clauses.items()]


def _families(runs: Sequence[RunRow], families: Families) -> list[str]:
    """Who leads by how many families of indicators: columns that say one thing are counted once."""
    if len(runs) < 2 or not families["contested"]:
        return []
    leads = sorted(families["leads"].items(), key=lambda row: -len(row[1]))
    led_by = [(quote(label), f"in {len(led)} ({list_words(led, most=8)})") for label, led in leads[:4]]
    split = [row["family"] for row in families["rows"] if row["split"]]
    who = (
        f"{led_by[0][0]} leads {led_by[0][1]}"
        if len(led_by) == 1
        else f"{list_words([' '.join(each) for each in led_by], _MOST)} lead"
        if led_by
        else "nobody leads"
    )
    rest = f"; the columns of {list_words(split, most=8)} disagree" if split else ""
    count = families["contested"]
    return [f"Of {counted(count, 'family')} of indicators that {'differs' if count == 1 else 'differ'}, {who}{rest}."]


def front_sentences(dominance: Dominance, best: Sequence[str]) -> list[str]:
    """The runs on the Pareto front of every indicator, and those on none; the same words everywhere."""
    columns = {label: {*row["on"], *row["off"]} for label, row in dominance["by_run"].items()}
    count = len(set().union(*columns.values()))
    if len(columns) < 2 or not count:
        return []
    complete = sum(len(names) == count for names in columns.values())
    notes = (
        []
        if complete == len(columns)
        else [
            f"{complete or 'none'} of {len(columns)} runs {'has' if complete == 1 else 'have'} a reading of all {count}"
        ]
    )
    everywhere, nowhere = dominance["everywhere"], dominance["nowhere"]
    if everywhere:
        # No run dominates the one run of the best quality if that has a reading.
        if len(best) == 1 and best[0] in everywhere:
            notes.insert(0, "the best quality always is")
        first = f"On the Pareto front of every indicator: {list_words([quote(label) for label in everywhere], _MOST)}"
    else:
        first = "No run is on the Pareto front of every indicator"
    note = f" ({'; '.join(notes)})" if notes else ""
    return [
        f"{first}{note}{f'; on none: {list_words([quote(label) for label in nowhere], _MOST)}' if nowhere else ''}."
    ]


def _curve(curve: str) -> list[str]:
    if curve == "spent":
        return []
    return [f"{TO_REACH}."]


def _limits(setups: Setups) -> str:
    same = setups["same"]
    settings = [f"{key.rpartition('.')[2]} {_value(same[key])}" for key in _TOLD if same.get(key) not in (None, "")]
    where = f" ({', '.join(settings)})" if settings else ""
    return (
        f"All of this holds for the setup that was measured{where} and says nothing about other hardware, "
        "software or data."
    )


def _value(value: Plain) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def family_place(family: str) -> int:
    """Where a family stands in the order of reading."""
    return FAMILIES.index(family) if family in FAMILIES else len(FAMILIES)

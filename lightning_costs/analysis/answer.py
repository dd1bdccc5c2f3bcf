"""The answer in short: independent costs and how each ranks runs or groups, best quality first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lightning_costs.analysis.answer_sentences import sentences
from lightning_costs.analysis.contrasts import GroupedRuns, cost_verdict
from lightning_costs.analysis.families import family_of, proportional
from lightning_costs.analysis.metric import Metric
from lightning_costs.analysis.rank_correlation import average_ranks, lower_is_cheaper
from lightning_costs.analysis.schema import Answer, AnswerCost, Declaration, RunRow, TargetRow
from lightning_costs.analysis.seeds import median
from lightning_costs.records.certainty import ENERGY_PARTS, is_of_energy
from lightning_costs.records.samples import Amount
from lightning_costs.records.units import is_rate

#: Columns that stand for their family if runs have a reading of them; after them its headline columns, as declared.
_REPRESENTATIVES = ("total_s", "flop", "samples", "energy_j", "params", "peak_mem_bytes")
#: Families in reading order; others come last.
_ORDER = ("time", "compute", "data", "energy", "money", "size", "memory")
#: Units of what is counted, not measured: the same on every machine, whatever the seed.
_COUNTED = ("params", "flop", "mac", "elements")


def answer(
    rows: Sequence[RunRow],
    metric: Metric,
    targets: Sequence[TargetRow],
    runs: GroupedRuns,
    grouping: str = "",
) -> Answer:
    """Rank runs, or groups if any has two runs, by every independent cost."""
    quality = {name: _middle([runs.best[label] for label in labels]) for name, labels in runs.members.items()}
    sign = -1 if metric.mode == "max" else 1
    labels = sorted(quality, key=lambda name: math.inf if (value := quality[name]) is None else sign * value)
    target = hardest_shared_target(targets, runs.members)
    costs = [_cost(columns, rows, target, runs, labels, quality) for columns in _independent(runs, target, labels)]
    found: Answer = {
        "by": "group" if any(len(members) > 1 for members in runs.members.values()) else "run",
        "labels": labels,
        "quality": {name: quality[name] for name in labels},
        "target": None if target is None else target["target"],
        "grouping": grouping,
        "costs": costs,
        "sentences": [],
    }
    return {**found, "sentences": sentences(found, metric, target, runs)}


def hardest_shared_target(targets: Sequence[TargetRow], members: Mapping[str, Sequence[str]]) -> TargetRow | None:
    """The hardest target that at least two groups reach by the median of their runs; None without one."""
    for row in reversed(targets):
        if sum(reaches(row, labels) for labels in members.values()) > 1:
            return row
    return None


def reaches(target: TargetRow, labels: Sequence[str]) -> bool:
    """Whether a group reaches a target by the median of its runs."""
    reached = set(target["reached"])
    return median([1.0 if label in reached else math.inf for label in labels]) == 1.0


def _independent(runs: GroupedRuns, target: TargetRow | None, labels: Sequence[str]) -> list[list[str]]:
    """Columns that cannot disagree, a list for each family: the one that stands for it first.

    A column of a family whose unit is not one of the package's, as of a table, is a family by itself.
    """
    finals = {name: list(amounts.values()) for name, amounts in runs.finals.items()}
    families: dict[str, list[str]] = {}
    for name, declared in runs.declared.items():
        if is_rate(declared["unit"]) or not any(amount is not None for amount in finals[name]):
            continue
        family = family_of(name, finals, runs.declared)[0]
        families.setdefault(family if family in _ORDER else f"{family}: {name}", []).append(name)
    found = []
    for family in sorted(families, key=lambda family: _ORDER.index(family) if family in _ORDER else len(_ORDER)):
        columns = families[family]
        by_label = {name: _amounts(runs, name, target) for name in columns}
        amounts = {name: [of[label] for label in labels] for name, of in by_label.items()}
        first = min(columns, key=lambda name: (amounts[name].count(None), _preference(name, runs.declared[name])))
        alike = [name for name in columns if name != first and _cannot_disagree(amounts[name], amounts[first])]
        found.append([first, *alike])
    return found


def _cannot_disagree(one: Sequence[Amount], two: Sequence[Amount]) -> bool:
    """Whether one column is the other times a number for all that reached the target, and the same never did."""
    pairs = [(a, b) for a, b in zip(one, two, strict=True) if not a == b == math.inf]
    return proportional([a for a, _ in pairs], [b for _, b in pairs])


def _preference(name: str, declared: Declaration) -> tuple[int, bool, bool]:
    """Sorts columns of a family: the usual ones, headline ones, counters, then as they are declared."""
    place = _REPRESENTATIVES.index(name) if name in _REPRESENTATIVES else len(_REPRESENTATIVES)
    return place, not declared["headline"], declared["kind"] != "counter"


def _cost(
    columns: list[str],
    rows: Sequence[RunRow],
    target: TargetRow | None,
    runs: GroupedRuns,
    labels: Sequence[str],
    quality: Mapping[str, Amount],
) -> AnswerCost:
    column = columns[0]
    declared = runs.declared[column]
    at_target = target is not None and column in target["costs"]
    by_label = _amounts(runs, column, target)
    amounts = {label: by_label[label] for label in labels}
    reached = {label: target is None or reaches(target, runs.members[label]) for label in labels}
    known = [amounts[label] if reached[label] and quality[label] is not None else None for label in labels]
    ranked = average_ranks(
        [
            None if value is None or not math.isfinite(value) else value
            for value in lower_is_cheaper(known, declared["better"])
        ]
    )
    ranks = dict(zip(labels, ranked, strict=True))
    first = [label for label, rank in ranks.items() if rank == 1]
    winner = first[0] if len(first) == 1 and sum(rank is not None for rank in ranked) > 1 else None
    return {
        "column": column,
        "columns": columns,
        "label": declared["label"],
        "unit": declared["unit"],
        "basis": "target" if at_target else "end",
        "amounts": amounts,
        "ranks": ranks,
        "modelled_share": max(
            (share for row in rows if (share := _modelled_share(row, column)) is not None), default=None
        ),
        "winner": winner,
        "undecided": winner is not None and _undecided(column, target if at_target else None, runs, winner, ranks),
    }


def _undecided(
    column: str, target: TargetRow | None, runs: GroupedRuns, winner: str, ranks: Mapping[str, float | None]
) -> bool:
    """Whether the lead over any other may be noise; what is counted from the model and not timed has none."""
    others = [label for label, rank in ranks.items() if rank is not None and label != winner]
    if all(len(runs.members[label]) == 1 for label in (winner, *others)):
        return target is not None or runs.declared[column]["unit"] not in _COUNTED
    verdicts = [cost_verdict(runs.ratio(column, target, winner, label)) for label in others]
    return any(verdict in ("undecided", "equal") for verdict in verdicts)


def _modelled_share(row: RunRow, column: str) -> float | None:
    """The share of a run's amount that comes from a model or a constant: of energy, by its components."""
    if row["certainty"].get(column) != "modelled":
        return None
    parts = {name: amount for name in ENERGY_PARTS if (amount := row["final"].get(name)) is not None}
    total = sum(parts.values())
    if column in parts or not is_of_energy(column) or not total:
        return 1.0
    return sum(amount for name, amount in parts.items() if row["certainty"].get(name) == "modelled") / total


def _amounts(runs: GroupedRuns, column: str, target: TargetRow | None) -> dict[str, Amount]:
    by_run = runs.amounts(column, target)
    return {name: _middle([by_run[label] for label in labels]) for name, labels in runs.members.items()}


def _middle(values: Sequence[Amount]) -> Amount:
    return median([value for value in values if value is not None and not math.isnan(value)])

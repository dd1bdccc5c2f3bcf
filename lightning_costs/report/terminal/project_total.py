"""What a whole project cost: every run of it added up, failed and killed ones too, by status, group, owner and more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightning_costs.analysis.below_zero import without_below_zero
from lightning_costs.analysis.parts import NONE, parts_of
from lightning_costs.pricing.rates import PRICED, tariff_text
from lightning_costs.pricing.reprice import reprice
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.certainty import modelled_share, noted
from lightning_costs.records.formatting import format_amount, list_words
from lightning_costs.records.samples import Amount
from lightning_costs.report.tables.csv_safety import as_csv
from lightning_costs.run.plan import describe_errors
from lightning_costs.run.record import RunRecord, printable_run
from lightning_costs.run.summary import sum_known

ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialSum:
    """A sum over some of the runs: how much, of how many runs, and how many of them do not know it.

    `modelled_share` is the share of the sum that comes from a model or a constant; None if all of it was measured.
    """

    part: str
    column: str
    label: str
    unit: str
    amount: Amount
    runs: int
    unknown_runs: int
    modelled_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectTotal:
    """Sums over a project's runs.

    Args:
        by: What parts are.
        runs: Part to the number of its runs; 'all' last.
        sums: Column by column, part by part; columns that no run has are left out.
        notes: What a reader must know of the sums.
    """

    by: str
    runs: dict[str, int]
    sums: tuple[PartialSum, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "sums": [asdict(one) for one in self.sums], "notes": list(self.notes)}


def project_total(runs: Sequence[RunRecord], *, by: str = "status", tariff: Tariff | None = None) -> ProjectTotal:
    """Add up runs.

    Args:
        runs: All of a project's.
        by: What to tell apart: one of `analysis.parts.PARTS`, a hyperparameter or a setting. A run of two tags is in
            both.
        tariff: Prices all of them again; by default each keeps what it recorded.

    Raises:
        ValueError: For a setting that no run has.
    """
    priced = {name for run in without_below_zero(runs)[0] for name in PRICED if run.final.get(name) is not None}
    runs = priced_runs(runs, tariff)
    finals = [run.final for run in runs]
    members: dict[str, list[int]] = {}
    for at, of_run in enumerate(parts_of(runs, by)):
        for part in of_run:
            members.setdefault(part, []).append(at)
    parts = {part: members[part] for part in sorted(members, key=lambda part: (part == NONE, part))}
    several = by == "tag" and sum(map(len, parts.values())) > len(runs)
    parts[ALL if ALL not in parts else f"{ALL} runs"] = list(range(len(runs)))
    declared: dict[str, dict[str, Any]] = {}
    for run in runs:
        for name, row in run.header["indicators"].items():
            declared.setdefault(name, row)
    sums = []
    for name, row in declared.items():
        if row["kind"] != "counter" or row["role"] != "indicator":
            continue
        found = [sum_known([finals[at] for at in kept], name) for kept in parts.values()]
        if all(amount is None for amount, _ in found):
            continue
        sums += [
            PartialSum(
                part=part,
                column=name,
                label=row["label"],
                unit=row["unit"],
                amount=amount,
                runs=len(kept),
                unknown_runs=unknown,
                modelled_share=_modelled([runs[at] for at in kept], name, amount),
            )
            for (part, kept), (amount, unknown) in zip(parts.items(), found, strict=True)
        ]
    return ProjectTotal(
        by=by,
        runs={part: len(kept) for part, kept in parts.items()},
        sums=tuple(sums),
        notes=tuple(_notes(runs, several=several, tariff=tariff, priced=priced)),
    )


def priced_runs(runs: Sequence[RunRecord], tariff: Tariff | None) -> list[RunRecord]:
    """The runs that can be added up, their texts legible, priced again if there is a tariff."""
    possible, _ = without_below_zero(runs)
    return [printable_run(run if tariff is None else reprice(run, tariff)) for run in possible]


def project_rows(project: ProjectTotal) -> list[list[str]]:
    """The sums for people: a row per column, a cell per part, those that some runs do not know marked."""
    parts = shown_parts(project)
    rows = [["runs", *(str(project.runs[part]) for part in parts)]]
    by_column: dict[str, list[PartialSum]] = {}
    for one in project.sums:
        if one.part in parts:
            by_column.setdefault(one.column, []).append(one)
    return rows + [[found[0].label, *map(_cell, found)] for found in by_column.values()]


def shown_parts(project: ProjectTotal) -> list[str]:
    """The parts that a table has columns for: without 'all' if there is one part, which is the same."""
    parts = list(project.runs)
    return parts[:1] if len(parts) == 2 and project.runs[parts[0]] == project.runs[parts[1]] else parts


def project_csv(project: ProjectTotal) -> str:
    """The sums as CSV, a row per column and part, amounts in the unit that the column's name ends in."""
    heads = [project.by, "column", "unit", "amount", "runs", "unknown_runs"]
    rows = [[one.part, one.column, one.unit, one.amount, one.runs, one.unknown_runs] for one in project.sums]
    return as_csv(heads, rows)


def _cell(one: PartialSum) -> str:
    text = noted(format_amount(one.amount, one.unit), one.amount, "modelled" if one.modelled_share else "exact")
    return f"{text} (+ {one.unknown_runs} unknown)" if one.unknown_runs and one.amount is not None else text


def modelled_note(project: ProjectTotal) -> str:
    """What the mark ≈ in the table means, with shares of the sum over all runs; '' if nothing is modelled."""
    whole = list(project.runs)[-1]
    shares = [
        f"{one.label} {100 * one.modelled_share:.0f} %"
        for one in project.sums
        if one.part == whole and one.modelled_share
    ]
    return f"≈ modelled, not measured (model or constant): {list_words(shares, 6)}" if shares else ""


def _modelled(runs: Sequence[RunRecord], name: str, total: Amount) -> float | None:
    shares = [(run.final.get(name) or 0.0) * modelled_share(run.header, name, run.final) for run in runs]
    return sum(shares) / total if total and sum(shares) else None


def _notes(runs: Sequence[RunRecord], *, several: bool, tariff: Tariff | None, priced: Collection[str]) -> list[str]:
    notes = []
    if several:
        notes.append("runs of several tags are in each of their columns, and once in all")
    if tariff is None:
        known = [run for run in runs if any(run.final.get(name) is not None for name in PRICED)]
        recorded = {tariff_text(run.header.get("tariff") or {}) for run in known}
        if len(recorded) > 1:
            notes.append("carbon and money are as recorded, under different tariffs; --tariff FILE prices all alike")
    else:
        notes += _unpriced(runs, priced)
    notes += describe_errors((run.header, run.final) for run in runs)
    owners = Counter(
        attempt for run in runs for attempt in {str(a["id"]) for a in run.header.get("attempts", ()) if a.get("id")}
    )
    if shared := sum(count - 1 for count in owners.values() if count > 1):
        notes.append(
            f"{shared} attempt{'s are' if shared > 1 else ' is'} in several runs, which branched from one checkpoint: "
            "the sums hold what it spent more than once"
        )
    return notes


def _unpriced(runs: Sequence[RunRecord], priced: Collection[str]) -> list[str]:
    """Priced columns that runs had as recorded and none has under the tariff, with the reason that most give."""
    notes = []
    for name in (name for name in PRICED if name in priced and all(run.final.get(name) is None for run in runs)):
        reasons = Counter(str(run.header.get("missing", {}).get(name, "not measured")) for run in runs)
        ((reason, _),) = reasons.most_common(1)
        notes.append(f"{PRICED[name].label} is left out, as no run has it under this tariff: {reason}")
    return notes

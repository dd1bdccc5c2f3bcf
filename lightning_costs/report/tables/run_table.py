"""All runs in one table, a row each: to be sorted on the page, and to be taken along as CSV."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.tables.csv_safety import as_csv
from lightning_costs.report.tables.tables import final_text, ordered_names, quality_text


class RunTableColumn(NamedTuple):
    """A column of the table: what stands over it, and whether more is better."""

    name: str
    label: str
    higher: bool


class RunCell(NamedTuple):
    """An amount in words, and as the number to sort by ('' without one)."""

    text: str
    value: str


class RunLine(NamedTuple):
    """One run; `drawn` is its number among those that are drawn (None: it is not)."""

    drawn: int | None
    label: str
    status: str
    group: str | None
    quality: RunCell
    best: bool
    cells: list[RunCell]


def run_columns(cmp: ComparisonData, names: Sequence[str] = ()) -> list[RunTableColumn]:
    """The columns that some run has.

    Args:
        cmp: The comparison.
        names: Columns to take; without any, the headline indicators, family by family.
    """
    return [
        RunTableColumn(name, cmp.indicators[name]["label"], cmp.indicators[name]["better"] == "higher")
        for name in names or ordered_names(cmp, headline=True)
        if any(run["final"].get(name) is not None for run in cmp.runs)
    ]


def run_lines(cmp: ComparisonData, drawn: list[str], names: Sequence[str] = ()) -> list[RunLine]:
    """A line per run, best quality first, in the order of the comparison if it is the same."""
    columns = run_columns(cmp, names)
    numbers = {label: number for number, label in enumerate(drawn)}
    best = set(cmp.best)
    lines = [
        RunLine(
            numbers.get(run["label"]),
            run["label"],
            run["status"],
            run["group"],
            RunCell(quality_text(run["best_quality"]), _number(run["best_quality"])),
            run["label"] in best,
            [
                RunCell(
                    final_text(run, column.name, cmp.indicators[column.name]["unit"]),
                    _number(run["final"][column.name]),
                )
                for column in columns
            ],
        )
        for run in cmp.runs
    ]
    return sorted(lines, key=lambda line: cmp.ranks["quality"].get(line.label, math.inf))


def runs_csv(cmp: ComparisonData) -> str:
    """Every run and every column at its end, amounts in the unit that the column's name ends in; missing is empty."""
    heads = ["run", "id", "status", "group", f"best {cmp.monitor}", "best_step", f"final {cmp.monitor}", "evaluations"]
    rows = [
        [
            run["label"],
            run["id"],
            run["status"],
            run["group"],
            run["best_quality"],
            run["best_step"],
            run["final_quality"],
            run["evaluations"],
            *(run["final"][name] for name in cmp.indicators),
        ]
        for run in cmp.runs
    ]
    return as_csv([*heads, *cmp.indicators], rows)


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.6g}"

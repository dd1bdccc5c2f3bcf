"""The tables of a comparison as CSV, a file each, for spreadsheets and other programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.leads import leading
from lightning_costs.analysis.schema import Spread
from lightning_costs.report.tables.csv_safety import as_csv
from lightning_costs.report.tables.run_table import runs_csv


class CsvTable(NamedTuple):
    """A table: its file's name without the ending, heads and rows."""

    name: str
    heads: Sequence[str]
    rows: list[Sequence[object]]


def write_csv(cmp: ComparisonData, folder: Path) -> list[Path]:
    """Write every table that has rows; returns the files. Amounts are in the unit that their column's name ends in."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"runs": runs_csv(cmp)}
    texts |= {table.name: as_csv(table.heads, table.rows) for table in csv_tables(cmp) if table.rows}
    written = []
    for name, text in texts.items():
        path = folder / f"{name}.csv"
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def csv_tables(cmp: ComparisonData) -> Iterator[CsvTable]:
    """Everything but the table of runs, in long form: a row per fact. Missing and infinite amounts are empty."""
    yield CsvTable(
        "indicators",
        ("column", "label", "unit", "family", "kind", "role", "better", "headline"),
        [
            [name, row["label"], row["unit"], row["family"], row["kind"], row["role"], row["better"], row["headline"]]
            for name, row in cmp.indicators.items()
        ],
    )
    yield CsvTable(
        "missing",
        ("run", "column", "reason"),
        [[run["label"], name, reason] for run in cmp.runs for name, reason in run["missing"].items()],
    )
    yield CsvTable(
        "cost_to_quality",
        (
            *("target", "declared", "column", "run", "reached", "cost", "step", "least"),
            *("kept", "kept_cost", "interpolated", "spent_at_end"),
        ),
        [
            [
                *(row["target"], row["declared"], name, label, spend["reached"], spend["cost"], spend["step"]),
                label in leading(row, name),
                *(spend["kept"], spend["kept_cost"], spend["interpolated"], spend["spent_at_end"]),
            ]
            for row in cmp.targets
            for name, costs in row["costs"].items()
            for label, spend in costs.items()
        ],
    )
    yield CsvTable(
        "winners_by_target",
        ("column", "after", "first", "upto", "run"),
        [
            [name, part["after"], part["first"], part["upto"], label]
            for name, parts in cmp.sweep["winners"].items()
            for part in parts
            for label in part["labels"]
        ],
    )
    yield CsvTable(
        "pareto_fronts", ("column", "run"), [[name, label] for name, front in cmp.fronts.items() for label in front]
    )
    yield CsvTable(
        "ranks",
        ("column", "run", "rank"),
        [[name, label, rank] for name, order in cmp.ranks["orders"].items() for label, rank in order.items()],
    )
    counts = ("spearman", "tau_b", "concordant", "discordant", "ties", "n")
    yield CsvTable(
        "rank_correlation",
        ("first", "second", *counts),
        [[pair["first"], pair["second"], *(dict(pair)[key] for key in counts)] for pair in cmp.ranks["pairs"]],
    )
    yield CsvTable(
        "matched_pairs",
        ("column", "a", "b", "ratio", "other_column", "b_over_a"),
        [
            [row["column"], pair["a"], pair["b"], pair["ratio"], name, ratio]
            for row in cmp.matched["rows"]
            for pair in row["listed"]
            for name, ratio in pair["others"].items()
        ],
    )
    yield CsvTable(
        "breakdowns",
        ("theme", "run", "column", "amount"),
        [
            [theme, label, name, amount]
            for theme, found in cmp.breakdowns.items()
            for label, amounts in found["amounts"].items()
            for name, amount in amounts.items()
        ],
    )
    yield CsvTable("groups", ("target", "column", "group", *_SPREAD), list(_groups(cmp)))
    yield CsvTable(
        "cautions",
        ("kind", "section", "text", "runs"),
        [[row["kind"], row["section"], row["text"], "; ".join(row["runs"])] for row in cmp.cautions],
    )


_SPREAD = ("n", "reached", "share_reached", "median", "low", "high", "least", "most", "missing")


def _groups(cmp: ComparisonData) -> Iterator[Sequence[object]]:
    """Qualities and final amounts (no target), then costs of targets."""

    def cells(spread: Spread) -> list[object]:
        return [dict(spread)[key] for key in _SPREAD]

    if cmp.groups is None:
        return
    for group, spread in cmp.groups["quality"].items():
        yield ["", cmp.monitor, group, *cells(spread)]
    for name, groups in cmp.groups["finals"].items():
        for group, spread in groups.items():
            yield ["", name, group, *cells(spread)]
    for row in cmp.groups["targets"]:
        for name, groups in row["costs"].items():
            for group, spread in groups.items():
                yield [row["target"], name, group, *cells(spread)]

"""What a W&B Report says in words and tables: Markdown, from the plain data of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_costs.analysis.agreement_schema import MatchedRow
from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.schema import Plain
from lightning_costs.records.formatting import format_amount
from lightning_costs.report.statement.escape import markdown as escaped
from lightning_costs.report.tables.tables import (
    TableRow,
    TargetTable,
    final_blocks,
    flip_lines,
    front_lines,
    ordered_names,
    quality_text,
    rank_matrix,
)

#: Rows of a table that stays readable; a sentence says how many more there are.
_MOST_ROWS = 40
_MOST_FLIPS = 8


def cautions(cmp: ComparisonData) -> list[str]:
    """What limits the claims, each with the paper's section that warns of it."""
    return [
        escaped(caution["text"])
        + (f" (The Efficiency Misnomer, section {caution['section']})" if caution["section"] else "")
        for caution in cmp.cautions
    ]


def finals(cmp: ComparisonData) -> str:
    """Final amounts of every run by every headline indicator, best quality first."""
    best = [quality_text(run["best_quality"]) for run in cmp.runs]
    lines = [line for block in final_blocks(cmp, headline=True) for line in block.lines]
    return _table(["", *cmp.labels], [[f"best {cmp.monitor}", *best], *map(_cells, lines)])


def target_table(cmp: ComparisonData, table: TargetTable) -> str:
    """What it cost to reach a target, winners in bold."""
    return _table(["", *cmp.labels], [_cells(line) for line in table.lines if line.headline])


def group_table(cmp: ComparisonData, table: TargetTable) -> str:
    """What groups of seeds needed to reach a target: medians, their intervals, and how many reached it."""
    groups = list(cmp.groups["members"]) if cmp.groups is not None else []
    return _table(["median", *groups], [_cells(line) for line in table.lines])


def fronts(cmp: ComparisonData) -> str:
    """Who is on the Pareto front of quality and cost, by headline indicator, and in all together."""
    lines = [line for line in front_lines(cmp) if line.headline]
    rows = [[line.label, *("●" if cell.best else "" for cell in line.cells)] for line in lines]
    joint = ["all indicators together", *("●" if label in cmp.dominance["joint"] else "" for label in cmp.labels)]
    return _table(["on the front by", *cmp.labels], [*rows, joint])


def ranks(cmp: ComparisonData) -> str:
    """Spearman's correlation of every two headline indicators, and the pairs of runs whose order flips."""
    names = ordered_names(cmp, headline=True, role="indicator")
    matrix = rank_matrix(cmp, names)
    if len(cmp.runs) < 2 or len(matrix) < 2:
        return "One run, or one indicator: there is no order to disagree on."
    heads = ["", *(str(number) for number in range(1, len(matrix) + 1))]
    rows = [[f"{number} {line.label}", *(cell.text for cell in line.cells)] for number, line in enumerate(matrix, 1)]
    flips = [
        f"- {escaped(flip.first)} and {escaped(flip.second)} order {flip.discordant} of {flip.pairs} pairs otherwise: "
        + escaped("; ".join(flip.sentences) + (f"; {flip.more} more" if flip.more else ""))
        for flip in flip_lines(cmp, names)[:_MOST_FLIPS]
    ]
    return "\n\n".join([_table(heads, rows), "\n".join(flips) or "No two of them order two runs differently."])


def matched(cmp: ComparisonData) -> str:
    """Pairs of runs that are alike by one headline indicator, and by how much they differ in the others."""
    rows = [row for row in cmp.matched["rows"] if row["listed"] and cmp.indicators[row["column"]]["headline"]]
    pairs = [[*_pair(cmp, row, number)] for row in rows for number in range(len(row["listed"]))]
    if not pairs:
        within = format_amount(cmp.matched["tolerance"], "fraction")
        return f"No two runs are within {within} of each other by any of them."
    heads = ["matched by", "runs", f"{cmp.monitor}", "but differ most in"]
    more = f"\n\n{len(pairs) - _MOST_ROWS} more are in the page." if len(pairs) > _MOST_ROWS else ""
    return _table(heads, pairs[:_MOST_ROWS]) + more


def _pair(cmp: ComparisonData, row: MatchedRow, number: int) -> list[str]:
    pair = row["listed"][number]
    others = {
        name: max(ratio, 1 / ratio)
        for name, ratio in pair["others"].items()
        if ratio is not None and cmp.indicators[name]["headline"]
    }
    worst = sorted(others.items(), key=lambda item: -item[1])[:3]
    return [
        cmp.indicators[row["column"]]["label"],
        f"{pair['a']} and {pair['b']}",
        " and ".join(quality_text(value) for value in pair["quality"]),
        ", ".join(f"{cmp.indicators[name]['label']} {ratio:.3g} times" for name, ratio in worst) or "nothing",
    ]


def setups(cmp: ComparisonData) -> str:
    """What the runs' setups differ in, and what they share."""
    different = [
        [name, *(_plain(values.get(label)) for label in cmp.labels)] for name, values in cmp.setups["different"].items()
    ]
    same = [[name, _plain(value)] for name, value in cmp.setups["same"].items()]
    parts = [_table(["differs", *cmp.labels], different[:_MOST_ROWS]) if different else "All setups are the same."]
    if len(different) > _MOST_ROWS:
        parts.append(f"{len(different) - _MOST_ROWS} more are in the page.")
    if same:
        parts.append(_table(["the same for all", ""], same[:_MOST_ROWS]))
    return "\n\n".join(parts)


def missing(cmp: ComparisonData) -> str:
    """Headline costs that a run does not have, with the reason; empty if none is missing."""
    rows = [
        [label, cmp.indicators[name]["label"], run["missing"].get(name, "")]
        for label, run in zip(cmp.labels, cmp.runs, strict=True)
        for name in ordered_names(cmp, headline=True, role="indicator")
        if run["final"][name] is None
    ]
    more = f"\n\n{len(rows) - _MOST_ROWS} more are in the page." if len(rows) > _MOST_ROWS else ""
    return _table(["run", "missing", "why"], rows[:_MOST_ROWS]) + more if rows else ""


def _cells(line: TableRow) -> list[str]:
    return [line.label, *(f"**{escaped(cell.text)}**" if cell.best else escaped(cell.text) for cell in line.cells)]


def _plain(value: Plain) -> str:
    return "" if value is None else str(value)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; cells that are in bold are escaped already."""
    lines = ["| " + " | ".join(cell if cell.startswith("**") else escaped(cell) for cell in row) + " |" for row in rows]
    return "\n".join([f"| {' | '.join(map(escaped, heads))} |", "|" + " --- |" * len(heads), *lines])

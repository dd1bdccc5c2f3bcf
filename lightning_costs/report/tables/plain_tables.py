"""The tables of a comparison as plain texts, which Markdown and LaTeX escape each in its own way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.charts.selection import restrict_to_runs, select_runs
from lightning_costs.report.statement.render import Table
from lightning_costs.report.tables.tables import (
    TableRow,
    final_blocks,
    front_lines,
    group_tables,
    ordered_names,
    quality_text,
    rank_matrix,
    target_tables,
)

#: Most runs side by side in a table; more follow in another.
MOST_COLUMNS = 6


def comparison_tables(cmp: ComparisonData) -> list[Table]:
    """Final costs, cost-to-quality, groups, fronts and rank correlation by headline indicators."""
    labels = select_runs(cmp)
    drawn = restrict_to_runs(cmp, labels)
    some = "" if len(labels) == len(cmp.runs) else f" {len(labels)} of {len(cmp.runs)} runs."
    best = [quality_text(run["best_quality"]) for run in drawn.runs]
    finals = [line for block in final_blocks(drawn, headline=True) for line in block.lines if line.known]
    found = list(_chunks(f"Costs at the end of each run.{some}", labels, finals, [f"best {cmp.monitor}", *best]))
    for target in target_tables(drawn, headline=True):
        chosen = "" if target.declared else ", chosen after seeing results"
        caption = f"Cost to reach {cmp.monitor} {target.target} ({target.basis}{chosen}); * needed least.{some}"
        found += _chunks(caption, labels, target.lines)
    groups = list(cmp.groups["members"]) if cmp.groups else []
    for target in group_tables(cmp, headline=True):
        caption = (
            f"Median cost of each group to reach {cmp.monitor} {target.target}, runs that never did being infinite; "
            "95 % interval from three runs on; how many reached it; * least."
        )
        found += _chunks(caption, groups, target.lines)
    fronts = [line for line in front_lines(drawn) if line.headline]
    found += _chunks(f"On the Pareto front of best {cmp.monitor} and cost: *.{some}", labels, fronts)
    found += _correlation(cmp)
    return found


def _chunks(
    caption: str, heads: Sequence[str], lines: Sequence[TableRow], first: Sequence[str] = ()
) -> Iterator[Table]:
    """A table per `MOST_COLUMNS` runs; `first` is a row above the lines."""
    if not lines:
        return
    for begin in range(0, len(heads), MOST_COLUMNS):
        part = slice(begin, begin + MOST_COLUMNS)
        rows = [[first[0], *first[1:][part]]] if first else []
        rows += [[line.label, *(_text(cell.text, cell.best) for cell in line.cells[part])] for line in lines]
        weights = (2.0, *[1.4] * len(heads[part]))
        yield Table(caption + (" (continued)" if begin else ""), ["", *heads[part]], rows, weights)


def _text(text: str, best: bool) -> str:
    if text == "on the front":
        return "*"
    return f"{text} *" if best else text


def _correlation(cmp: ComparisonData) -> list[Table]:
    lines = rank_matrix(cmp, ordered_names(cmp, headline=True, role="indicator"))
    if len(cmp.runs) < 2 or len(lines) < 2:
        return []
    heads = ["", *(str(number) for number in range(1, len(lines) + 1))]
    rows = [[f"{number} {line.label}", *(cell.text for cell in line.cells)] for number, line in enumerate(lines, 1)]
    shown = {line.name for line in lines}
    counts = [pair["n"] for pair in cmp.ranks["pairs"] if {pair["first"], pair["second"]} <= shown]
    runs = f"{max(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    caption = f"Spearman's rank correlation of the costs of {runs} runs: 1 is the same order, -1 the reverse."
    return [Table(caption, heads, rows, (2.9, *[0.8] * len(lines)))]

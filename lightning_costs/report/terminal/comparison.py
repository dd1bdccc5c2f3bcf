"""A comparison in the terminal, in human units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from io import StringIO

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.charts.selection import restrict_to_runs
from lightning_costs.report.tables.lifecycle import available_columns, life_heads, life_sentences, life_tables
from lightning_costs.report.tables.tables import (
    Cell,
    TableRow,
    final_blocks,
    flip_lines,
    front_lines,
    group_tables,
    ordered_names,
    quality_text,
    rank_matrix,
    target_tables,
)

#: So many runs fit beside each other in a terminal.
ABREAST = 12
#: Which ones those are, where there are more.
CHOSEN = "those of the best quality, then those that lead by most costs and are on most fronts"


def comparison_text(cmp: ComparisonData, width: int = 120) -> str:
    """The comparison as text: summary, final costs, cost-to-quality, fronts, ranks, cautions.

    Args:
        cmp: The comparison.
        width: Columns of the terminal.
    """
    out = StringIO()
    console = Console(
        file=out, width=width, color_system=None, force_terminal=False, legacy_windows=False, markup=False
    )
    for part in comparison_tables(cmp):
        console.print(part)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip() + "\n"


def comparison_tables(cmp: ComparisonData) -> list[RenderableType]:
    """The parts of `comparison_text`, for a rich console; users' texts are never read as markup."""
    parts: list[RenderableType] = [Text(" ".join(cmp.summary)), Text()]
    count, cmp = len(cmp.runs), fit_to_width(cmp)
    if len(cmp.runs) < count:
        parts += [Text(f"Of {count} runs, {len(cmp.runs)} are shown: {CHOSEN}; the page and --json have all."), Text()]
    parts += [_title("At the end of each run"), _finals(cmp)]
    for target in filter(lambda table: table.lines, target_tables(cmp, headline=True)):
        title = f"Cost to reach {cmp.monitor} {target.target} ({target.basis}); * needed least"
        parts += [_title(title), _table(cmp.labels, target.lines)]
    for target in group_tables(cmp, headline=True):
        title = f"Medians by group to reach {cmp.monitor} {target.target}, 95 % interval, how many reached it; * least"
        parts += [_title(title), _table(list(cmp.groups["members"] if cmp.groups else ()), target.lines)]
    fronts = [line for line in front_lines(cmp) if line.headline]
    if fronts:
        parts += [_title("On the Pareto front of quality and cost: *"), _table(cmp.labels, fronts)]
    parts += _ranks(cmp)
    parts += _lifecycle(cmp)
    if cmp.cautions:
        parts.append(_title("Cautions"))
        parts += [Text(f"- {caution['text']}{_section(caution['section'])}") for caution in cmp.cautions]
    return parts


def fit_to_width(cmp: ComparisonData, most: int = ABREAST) -> ComparisonData:
    """The comparison with no more runs than fit beside each other; what was found of all of them stays as it is."""
    if len(cmp.runs) <= most:
        return cmp
    praised = Counter(label for lead in cmp.leaders.values() for label in lead["labels"])
    fronts = Counter(label for front in cmp.fronts.values() for label in front)
    ranked = sorted(cmp.labels, key=lambda label: (label not in cmp.best, -praised[label], -fronts[label]))
    chosen = set(ranked[:most])
    return restrict_to_runs(cmp, [label for label in cmp.labels if label in chosen])


def _finals(cmp: ComparisonData) -> Table:
    table = _headed(cmp.labels)
    best = [Text(quality_text(run["best_quality"])) for run in cmp.runs]
    table.add_row(Text(f"best {cmp.monitor}", style="bold"), *best)
    for block in final_blocks(cmp, headline=True):
        for line in block.lines:
            table.add_row(Text(line.label), *(_cell(cell) for cell in line.cells))
    return table


def _ranks(cmp: ComparisonData) -> list[RenderableType]:
    names = ordered_names(cmp, headline=True, role="indicator")
    matrix = rank_matrix(cmp, names)
    if len(cmp.runs) < 2 or len(matrix) < 2:
        return []
    table = _headed([str(index + 1) for index in range(len(matrix))])
    for index, line in enumerate(matrix):
        table.add_row(Text(f"{index + 1} {line.label}"), *(Text(cell.text) for cell in line.cells))
    found: list[RenderableType] = [_title("Do indicators agree on who is cheaper? (Spearman)"), table]
    for flip in flip_lines(cmp, names)[:5]:
        shown = "; ".join(flip.sentences) + (f"; {flip.more} more" if flip.more else "")
        found.append(Text(f"{flip.first} and {flip.second} disagree on {flip.discordant} of {flip.pairs}: {shown}"))
    return [*found, Text()]


def _lifecycle(cmp: ComparisonData) -> list[RenderableType]:
    """Training and queries together; nothing where no run has ever been asked what a query costs."""
    if not available_columns(cmp.lifecycle) and "infer_energy_j" not in cmp.indicators:
        return []
    found: list[RenderableType] = []
    for table in life_tables(cmp):
        found += [_title(f"Over the model's life: {table.label}; * least"), _table(life_heads(cmp), table.lines)]
    if not found:
        found.append(_title("Over the model's life"))
    return [*found, *(Text(f"- {sentence}") for sentence in life_sentences(cmp)), Text()]


def _section(section: str | None) -> str:
    return f" (The Efficiency Misnomer, section {section})" if section else ""


def _title(text: str) -> Text:
    return Text(" ".join(text.split()), style="bold")


def _headed(heads: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for head in heads:
        table.add_column(Text(" ".join(head.split())), justify="right", overflow="fold")
    return table


def _table(labels: Sequence[str], lines: Sequence[TableRow]) -> Table:
    table = _headed(labels)
    for line in lines:
        table.add_row(Text(line.label), *(_cell(cell) for cell in line.cells))
    return table


def _cell(cell: Cell) -> Text:
    text = "*" if cell.text == "on the front" else f"{cell.text} *" if cell.best else cell.text
    return Text(text, style="bold" if cell.best else "dim" if cell.missing else "")

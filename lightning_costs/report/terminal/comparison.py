"""Everything that a comparison holds, in the terminal: runs in rows, tables in as many blocks as they need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from io import StringIO

from rich.console import Console
from rich.text import Text

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.schema import Contrast
from lightning_costs.records.formatting import format_amount, format_number
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
from lightning_costs.report.terminal.answer import answer_lines, difference_text, ratio_cell
from lightning_costs.report.terminal.columns import Column, blocks

#: Most runs that tables have rows for, and columns in a document.
MOST_RUNS, ABREAST = 60, 12
#: Which ones those are, if there are more.
CHOSEN = "those of the best quality, then those that lead by most costs and are on most fronts"


def comparison_text(cmp: ComparisonData, width: int = 120) -> str:
    """The comparison as text: the answer, then every table, and all cautions."""
    out = StringIO()
    console = Console(
        file=out, width=width, color_system=None, force_terminal=False, legacy_windows=False, markup=False
    )
    for part in comparison_lines(cmp, width):
        console.print(part)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip() + "\n"


def comparison_lines(cmp: ComparisonData, width: int) -> list[Text]:
    """The lines of `comparison_text`, for a rich console; users' texts are never read as markup."""
    parts = [*answer_lines(cmp, width, cautions=False), Text(), Text(" ".join(cmp.summary)), Text()]
    parts += _contrasts(cmp, width)
    count, cmp = len(cmp.runs), fit_to_width(cmp, MOST_RUNS)
    if len(cmp.runs) < count:
        parts += [Text(f"Of {count} runs, {len(cmp.runs)} are shown: {CHOSEN}; the page and --json have all."), Text()]
    best = Column(f"best {cmp.monitor}", [Text(quality_text(run["best_quality"])) for run in cmp.runs])
    finals = [_column(line) for block in final_blocks(cmp, headline=True) for line in block.lines]
    parts += [_title("At the end of each run"), *blocks(cmp.labels, [best, *finals], width)]
    for target in filter(lambda table: table.lines, target_tables(cmp, headline=True)):
        title = f"Cost to reach {cmp.monitor} {target.target} ({target.basis}); * needed least"
        parts += [_title(title), *_table(cmp.labels, target.lines, width)]
    for target in group_tables(cmp, headline=True):
        title = f"Medians by group to reach {cmp.monitor} {target.target}, 95 % interval, how many reached it; * least"
        parts += [_title(title), *_table(list(cmp.groups["members"] if cmp.groups else ()), target.lines, width)]
    fronts = [line for line in front_lines(cmp) if line.headline]
    if fronts:
        parts += [_title("On the Pareto front of quality and cost: *"), *_table(cmp.labels, fronts, width)]
    parts += _ranks(cmp, width)
    parts += lifecycle_lines(cmp, width)
    if cmp.cautions:
        parts.append(_title("Cautions"))
        parts += [Text(f"- {caution['text']}{_section(caution['section'])}") for caution in cmp.cautions]
    return parts


def fit_to_width(cmp: ComparisonData, most: int = ABREAST) -> ComparisonData:
    """The comparison with no more runs than can be shown; what was found of all of them stays as it is."""
    if len(cmp.runs) <= most:
        return cmp
    praised = Counter(label for lead in cmp.leaders.values() for label in lead["labels"])
    fronts = Counter(label for front in cmp.fronts.values() for label in front)
    ranked = sorted(cmp.labels, key=lambda label: (label not in cmp.best, -praised[label], -fronts[label]))
    chosen = set(ranked[:most])
    return restrict_to_runs(cmp, [label for label in cmp.labels if label in chosen])


def _contrasts(cmp: ComparisonData, width: int) -> list[Text]:
    """Every cost of every group against the reference, at the target and at the end."""
    versus = cmp.contrasts
    if versus is None:
        return []
    found: list[Text] = []
    for row in versus["quality"]:
        group = row["group"]
        rows = {(each["column"], each["at"]): each for each in versus["costs"] if each["group"] == group}
        differ = {name for (name, _), each in rows.items() if each["verdict"] != "equal"}
        names = [name for name in ordered_names(cmp) if name in differ]
        how = "runs of the same seed" if versus["paired"][group] else "medians, as they share no seeds"
        found.append(_title(f"'{group}' over '{versus['reference']}' ({how}), 95 % interval"))
        found.append(Text(f"best {cmp.monitor}: {difference_text(row)}, {row['verdict']}{_chance(row['improvement'])}"))
        columns = [
            _ratios(cmp, f"to {quality_text(versus['target'])}", [rows.get((name, "target")) for name in names]),
            _ratios(cmp, "at the end", [rows.get((name, "end")) for name in names]),
        ]
        chances = [rows.get((name, "end")) for name in names]
        if any(each is not None and each["improvement"] is not None for each in chances):
            shown = ["" if each is None else _percent(each["improvement"]) for each in chances]
            columns.append(Column("P(less)", [Text(text) for text in shown]))
        if any(each is not None and each["interquartile_mean"] is not None for each in chances):
            means = [
                "" if each is None else format_amount(each["interquartile_mean"], cmp.indicators[name]["unit"])
                for name, each in zip(names, chances, strict=True)
            ]
            columns.append(Column("interquartile mean", [Text(text) for text in means]))
        found += blocks([cmp.indicators[name]["label"] for name in names], columns, width)
    return found


def _ratios(cmp: ComparisonData, head: str, rows: Sequence[Contrast | None]) -> Column:
    cells = [Text("") if row is None else ratio_cell(cmp, row) for row in rows]
    return Column(head, cells, [" *" if row is not None and row["verdict"] == "less" else "" for row in rows])


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _chance(share: float | None) -> str:
    return "" if share is None else f"; a run of it is the better one with a probability of {format_number(share)}"


def _ranks(cmp: ComparisonData, width: int) -> list[Text]:
    names = ordered_names(cmp, headline=True, role="indicator")
    matrix = rank_matrix(cmp, names)
    if len(cmp.runs) < 2 or len(matrix) < 2:
        return []
    columns = [
        Column(str(place + 1), [Text(line.cells[place].text) for line in matrix]) for place in range(len(matrix))
    ]
    rows = [f"{place + 1} {line.label}" for place, line in enumerate(matrix)]
    found = [_title("Do indicators agree on who is cheaper? (Spearman)"), *blocks(rows, columns, width)]
    for flip in flip_lines(cmp, names)[:5]:
        shown = "; ".join(flip.sentences) + (f"; {flip.more} more" if flip.more else "")
        found.append(Text(f"{flip.first} and {flip.second} disagree on {flip.discordant} of {flip.pairs}: {shown}"))
    return [*found, Text()]


def lifecycle_lines(cmp: ComparisonData, width: int) -> list[Text]:
    """Training and queries together; nothing if no run was ever asked what a query costs."""
    if not available_columns(cmp.lifecycle) and "infer_energy_j" not in cmp.indicators:
        return []
    found: list[Text] = []
    for table in life_tables(cmp):
        found += [
            _title(f"Over the model's life: {table.title}; * least"),
            *_table(life_heads(cmp), table.lines, width),
        ]
    if not found:
        found.append(_title("Over the model's life"))
    return [*found, *(Text(f"- {sentence}") for sentence in life_sentences(cmp)), Text()]


def _section(section: str | None) -> str:
    return f" (The Efficiency Misnomer, section {section})" if section else ""


def _title(text: str) -> Text:
    return Text(" ".join(text.split()), style="bold")


def _table(labels: Sequence[str], lines: Sequence[TableRow], width: int) -> list[Text]:
    return blocks(labels, [_column(line) for line in lines], width)


def _column(line: TableRow) -> Column:
    cells = ["*" if cell.text == "on the front" else cell.text for cell in line.cells]
    styled = [Text(text, style=_style(cell)) for text, cell in zip(cells, line.cells, strict=True)]
    return Column(
        line.label, styled, [" *" if cell.best and cell.text != "on the front" else "" for cell in line.cells]
    )


def _style(cell: Cell) -> str:
    return "bold" if cell.best else "dim" if cell.missing else ""

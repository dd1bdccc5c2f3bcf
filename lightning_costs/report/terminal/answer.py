"""The answer of a comparison on one screen: sentences, one table, cautions with what to do."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from io import StringIO

from rich.console import Console
from rich.text import Text

from lightning_costs.analysis.advice import by_weight
from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.schema import Answer, AnswerCost, Contrast, QualityContrast, Spread
from lightning_costs.analysis.summary import TO_REACH
from lightning_costs.records.certainty import Certainty, noted
from lightning_costs.records.formatting import format_amount, list_words
from lightning_costs.records.units import COUNTS, UNITS
from lightning_costs.report.tables.tables import infinite_ratio_text, quality_text
from lightning_costs.report.terminal.columns import Column, fit_table

#: Most lines of the answer; cautions that do not fit are counted.
MOST_LINES = 36
#: Characters of a caution; the whole of it is in `--all`.
_MOST_TEXT = 190
#: Most rows of a table; of more runs, the best and all winners are shown.
MOST_ROWS = 16
_WON, _UNSURE, _FAINT = "bold green", "bold yellow", "dim"


def answer_lines(cmp: ComparisonData, width: int, most: int = MOST_LINES, *, cautions: bool = True) -> list[Text]:
    """The answer as lines of a terminal."""
    found = cmp.answer
    first, *others = found["sentences"]
    lines = _wrapped(first, width, style="bold")
    lines += [line for sentence in others for line in _wrapped(sentence, width)]
    if found["grouping"]:
        lines += _wrapped(found["grouping"], width, style=_FAINT)
    if cmp.curve == "to_reach":
        lines += _wrapped(f"{TO_REACH}.", width, style=_FAINT)
    lines += [Text(), *_costs(cmp, width)]
    if cmp.contrasts is not None and found["by"] == "group":
        lines += [Text(), *_contrasts(cmp, width)]
    return [*lines, *_cautions(cmp, width, most - len(lines))] if cautions else lines


def answer_text(cmp: ComparisonData, width: int = 80, most: int = MOST_LINES) -> str:
    """The answer as plain text: what `print` of a comparison shows."""
    out = StringIO()
    console = Console(
        file=out, width=width, color_system=None, force_terminal=False, legacy_windows=False, markup=False
    )
    for line in answer_lines(cmp, width, most):
        console.print(line, soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip() + "\n"


def shown_labels(found: Answer, most: int = MOST_ROWS) -> list[str]:
    """The runs or groups that a table has rows for: the best and all winners, best quality first."""
    if len(found["labels"]) <= most:
        return found["labels"]
    winners = {cost["winner"] for cost in found["costs"]}
    kept = set([label for label in found["labels"] if label in winners][:most])
    for label in found["labels"]:
        if len(kept) >= most:
            break
        kept.add(label)
    return [label for label in found["labels"] if label in kept]


def _costs(cmp: ComparisonData, width: int) -> list[Text]:
    """Runs in rows, independent costs in columns, and what the marks in it mean."""
    found = cmp.answer
    labels = shown_labels(found)
    noun = "runs" if found["by"] == "run" else "groups"
    goal = "at the end" if found["target"] is None else f"to reach {cmp.monitor} {quality_text(found['target'])}"
    of = " (medians)" if found["by"] == "group" else ""
    title = f"Cost {goal}{of}, best quality first"
    quality = [Text(quality_text(found["quality"][label])) for label in labels]
    columns = [Column(f"best {cmp.monitor}", quality), *(_column(cost, labels) for cost in found["costs"])]
    table = fit_table(labels, columns, width)
    lines = [*_wrapped(title, width, style="bold"), *table.lines]
    if (hidden := len(found["labels"]) - len(labels)) > 0:
        lines += _wrapped(f"… {hidden} more {noun}: --all or --json has them.", width, style=_FAINT)
    if table.left_out:
        names = list_words(table.left_out)
        lines += _wrapped(f"Left out at {width} columns: {names}; --all or a wider terminal has them.", width, _FAINT)
    for note in _notes(cmp, labels):
        lines += _wrapped(note, width, style=_FAINT)
    return lines


def _column(cost: AnswerCost, labels: Sequence[str]) -> Column:
    kind: Certainty = "exact" if cost["modelled_share"] is None else "modelled"
    cells, marks = [], []
    for label in labels:
        amount = cost["amounts"][label]
        infinite = amount is not None and math.isinf(amount)
        text = "never" if infinite else _short(format_amount(amount, cost["unit"]), cost["unit"])
        won = label == cost["winner"]
        style = (_UNSURE if cost["undecided"] else _WON) if won else _FAINT if infinite or amount is None else ""
        cells.append(Text(text if infinite else noted(text, amount, kind), style=style))
        marks.append((" ?" if cost["undecided"] else " *") if won else "")
    return Column(cost["label"], cells, marks)


def _short(text: str, unit: str) -> str:
    """An amount without the name of what is counted, or of a unit of the user's own, which the heading has."""
    if unit in COUNTS or unit not in UNITS:
        return text.removesuffix(unit).removesuffix(unit.removesuffix("s")).rstrip()
    return text


def _notes(cmp: ComparisonData, labels: Sequence[str]) -> list[str]:
    """What marks mean, and what a column stands for; only what the table has."""
    found = cmp.answer
    costs, notes, signs = found["costs"], [], []
    if any(cost["winner"] and not cost["undecided"] for cost in costs):
        signs.append("* least")
    if any(cost["winner"] and cost["undecided"] for cost in costs):
        why = "one run each" if found["by"] == "run" else "the interval of the ratio includes 1, or too few seeds"
        signs.append(f"? least, but undecided: {why}")
    if modelled := [cost for cost in costs if cost["modelled_share"] is not None]:
        shares = [f"{cost['label']} {100 * (cost['modelled_share'] or 0):.0f} %" for cost in modelled]
        signs.append(f"≈ modelled, not measured (model or constant): {list_words(shares)}")
    if signs:
        notes.append("; ".join(signs) + ".")
    same = []
    for cost in costs:
        others = [name for name in cost["columns"][1:] if cmp.indicators[name]["headline"]]
        if others:
            same.append(f"{cost['label']} stands for {list_words([cmp.indicators[name]['label'] for name in others])}")
    end = [cost["label"] for cost in costs if cost["basis"] == "end"]
    if end and found["target"] is not None:
        same.append(f"{list_words(end)} {'is' if len(end) == 1 else 'are'} at the end of training")
    if same:
        text = "; ".join(same)
        notes.append(f"{text[0].upper()}{text[1:]}.")
    return notes


def _contrasts(cmp: ComparisonData, width: int) -> list[Text]:
    """Every group against the reference: a ratio with its interval, or the word 'undecided'."""
    versus = cmp.contrasts
    assert versus is not None
    others = [label for label in shown_labels(cmp.answer) if label != versus["reference"]]
    bases = {cost["column"]: cost["basis"] for cost in cmp.answer["costs"]}
    ratios = {(row["column"], row["group"]): row for row in versus["costs"] if bases.get(row["column"]) == row["at"]}
    quality = {row["group"]: row for row in versus["quality"]}
    columns = []
    for cost in cmp.answer["costs"]:
        rows = [ratios.get((cost["column"], name)) for name in others]
        if any(row is not None and row["verdict"] != "equal" for row in rows):
            cells = [ratio_cell(cmp, row) for row in rows]
            marks = [" *" if row is not None and row["verdict"] == "less" else "" for row in rows]
            columns.append(Column(cost["label"], cells, marks))
    columns.append(Column(f"{cmp.monitor} better by", [_difference_cell(quality.get(name)) for name in others]))
    paired = all(versus["paired"].get(name) for name in others)
    how = "runs of the same seed" if paired else "paired by seed where seeds are shared"
    title = f"Ratio to '{versus['reference']}' ({how}), 95 % interval; * costs less, by more than noise"
    table = fit_table(others, columns, width)
    lines = [*_wrapped(title, width, style="bold"), *table.lines]
    if table.left_out:
        names = list_words(table.left_out)
        lines += _wrapped(f"Left out at {width} columns: {names}; --all or a wider terminal has them.", width, _FAINT)
    return lines


def ratio_cell(cmp: ComparisonData, row: Contrast | None) -> Text:
    """A ratio with its interval, 'equal', or the word 'undecided'."""
    if row is None:
        return Text("–", style=_FAINT)
    if row["verdict"] == "equal":
        return Text("equal", style=_FAINT)
    if row["verdict"] == "undecided":
        return Text(f"{_number(row['ratio']['median'], infinite_ratio_text(cmp, row))} undecided", style=_UNSURE)
    return Text(
        interval_text(row["ratio"], infinite_ratio_text(cmp, row)), style=_WON if row["verdict"] == "less" else ""
    )


def _difference_cell(row: QualityContrast | None) -> Text:
    if row is None or row["difference"]["median"] is None:
        return Text("–", style=_FAINT)
    if row["verdict"] == "undecided":
        return Text(f"{row['difference']['median']:+.3g} undecided", style=_UNSURE)
    return Text(difference_text(row), style=_WON if row["verdict"] == "better" else "")


def difference_text(row: QualityContrast) -> str:
    """A difference of quality with its sign and interval."""
    return interval_text(row["difference"], signed=True)


def interval_text(found: Spread, infinite: str = "∞", *, signed: bool = False) -> str:
    """A median and its interval, which is left out if all pairs are the same.

    Example:
        >>> found = {"n": 3, "reached": 2, "share_reached": 2 / 3, "median": 0.5, "low": 0.25, "high": math.inf,
        ...          "least": 0.25, "most": math.inf, "missing": 0}
        >>> interval_text(found), interval_text(found, "never")
        ('0.5 [0.25, ∞]', '0.5 [0.25, never]')
    """
    middle = _number(found["median"], infinite, signed=signed)
    if found["low"] is None or found["low"] == found["high"]:
        return middle
    low, high = (_number(found[end], infinite, signed=signed) for end in ("low", "high"))
    return f"{middle} [{low}, {high}]"


def _number(value: float | None, infinite: str = "∞", *, signed: bool = False) -> str:
    if value is None:
        return "unknown"
    if math.isinf(value):
        return f"{'-' if value < 0 else '+' if signed else ''}{infinite}"
    if signed:
        return f"{value:+.2g}"
    if abs(value - 1) < 0.01 and value != 1:
        return f"{value:.3f}"
    return f"{value:.2g}" if value < 99.5 else f"{value:,.0f}"


def _cautions(cmp: ComparisonData, width: int, room: int) -> list[Text]:
    """One caution of each kind with what to do, as many as there is room for; the others are counted."""
    blocks = []
    for caution, more, advice in by_weight(cmp.cautions):
        text = _with_labels(cmp, caution["text"].strip())
        brief = text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT].rsplit(' ', 1)[0]} …"
        also = f" ({more} more like it)" if more else ""
        do = f" {advice[0].upper()}{advice[1:]}." if advice else ""
        end = "." if also or brief == text else ""
        blocks.append(_wrapped(f"- {brief[0].upper()}{brief[1:]}{also}{end}{do}", width, indent="  "))
    if not blocks:
        return []
    lines: list[Text] = [Text(), Text("Cautions", style="bold")]
    room -= len(lines) + 1
    for place, block in enumerate(blocks):
        if len(block) > room and place:
            left = len(blocks) - place
            lines.append(Text(f"- {left} more kind{'s' if left > 1 else ''} of caution: --all has them.", style=_FAINT))
            break
        lines += block
        room -= len(block)
    return lines


def _with_labels(cmp: ComparisonData, text: str) -> str:
    """A caution's text with the columns that it names as people call them."""
    return re.sub(r"(?<!['\w])[a-z]\w*_\w+", lambda word: _label_of(cmp, word[0]), text)


def _label_of(cmp: ComparisonData, name: str) -> str:
    return cmp.indicators[name]["label"] if name in cmp.indicators else name


def _wrapped(text: str, width: int, style: str = "", indent: str = "") -> list[Text]:
    folded = textwrap.wrap(" ".join(text.split()), max(width, 20), subsequent_indent=indent, break_on_hyphens=False)
    return [Text(line, style=style) for line in folded]

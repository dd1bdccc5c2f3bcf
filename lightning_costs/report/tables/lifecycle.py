"""Training and queries together in words and table lines: who costs least over how many queries."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.lifecycle_schema import BreakEven, Footprint, Lifecycle
from lightning_costs.analysis.text import quote
from lightning_costs.records.formatting import format_amount, list_words
from lightning_costs.report.tables.tables import Cell, TableRow, TableSection, quality_text

#: Column to its unit and what it is called here.
COLUMNS = {
    "energy_j": ("j", "energy"),
    "co2e_g": ("g", "CO2e"),
    "electricity_usd": ("usd", "electricity cost"),
}
#: Least difference of two runs' energies of a query that exceeds the edges of the meter's windows
#: (`probes/inference.py` gives no energy where these may be more).
EDGE = 0.1
_STEPS = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def queries_text(queries: float) -> str:
    """A number of queries with three significant digits.

    Example:
        >>> queries_text(1234567.0), queries_text(48.0), queries_text(0.3), queries_text(1.0)
        ('1.23 million queries', '48 queries', 'less than 1 query', '1 query')
    """
    if 0 < queries < 1:
        return "less than 1 query"
    if queries >= 1e15:
        return f"{queries:.2e} queries"
    rounded = float(f"{queries:.3g}")
    for step, word in _STEPS:
        if rounded >= step:
            number = rounded / step
            return f"{number:.{2 if number < 10 else 1 if number < 100 else 0}f} {word} queries"
    return "1 query" if rounded == 1 else f"{rounded:,.0f} queries"


def available_columns(life: Lifecycle) -> list[str]:
    """The columns that some run has both parts of, in reading order."""
    return [name for name in COLUMNS if name in life["columns"]]


def life_sentences(cmp: ComparisonData, most: int = 10) -> list[str]:
    """Who costs least over how many queries, then pair by pair; the quality beside each claim."""
    columns = available_columns(cmp.lifecycle)
    if not columns:
        return _absent(cmp)
    sentences = [] if len(cmp.runs) < 2 else [*_envelopes(cmp, columns), *_pairs(cmp, columns, most)]
    return [*sentences, *_lacking(cmp, columns)]


def life_tables(cmp: ComparisonData) -> list[TableSection]:
    """A table per column, a line per run: training, one query, and the sum after each number of queries."""
    life = cmp.lifecycle
    found = []
    for name in available_columns(life):
        unit, label = COLUMNS[name]
        rated = [run["label"] for run in cmp.runs if run["best_quality"] is not None]
        least = [_least(row, name, rated) for row in life["at"]]
        lines = []
        for run in cmp.runs:
            costs = life["runs"][run["label"]]
            why = costs["missing"].get(name, "")
            cells = [_cell(amount, unit, why) for amount in (costs["once"][name], costs["each"][name])]
            for row, smallest in zip(life["at"], least, strict=True):
                amount = row["costs"][run["label"]][name]
                cells.append(
                    _cell(amount, unit, why, best=amount is not None and amount == smallest and run["label"] in rated)
                )
            lines.append(TableRow(name, run["label"], True, cells))
        found.append(TableSection(label, lines))
    return found


def life_heads(cmp: ComparisonData) -> list[str]:
    """What stands over the columns of `life_tables`."""
    return ["training", "one query", *(f"after {queries_text(row['queries'])}" for row in cmp.lifecycle["at"])]


def _least(row: Footprint, name: str, rated: Sequence[str]) -> float | None:
    known = [amount for label in rated if (amount := row["costs"][label][name]) is not None]
    return min(known, default=None)


def _cell(amount: float | None, unit: str, why: str, *, best: bool = False) -> Cell:
    if amount is None:
        return Cell(format_amount(None, unit), why, missing=True)
    return Cell(format_amount(amount, unit) if math.isfinite(amount) else "too large to show", best=best)


def _absent(cmp: ComparisonData) -> list[str]:
    if not cmp.runs:
        return []
    first = cmp.runs[0]["label"]
    return [f"Costs over queries are missing: {quote(first)}: {cmp.lifecycle['runs'][first]['missing']['energy_j']}."]


def _lacking(cmp: ComparisonData, columns: Sequence[str]) -> list[str]:
    """Runs that have no lifecycle by the first column, with why."""
    name = columns[0]
    return [
        f"{quote(label)} is left out: {life['missing'][name]}."
        for label, life in cmp.lifecycle["runs"].items()
        if name in life["missing"]
    ]


def _envelopes(cmp: ComparisonData, columns: Sequence[str]) -> list[str]:
    """Who costs least from where on; columns that say the same share a sentence."""
    by_text: dict[str, list[str]] = {}
    for name in columns:
        if not (rows := cmp.lifecycle["cheapest"][name]):
            continue
        parts = []
        for row, following in zip(rows, [*rows[1:], None], strict=True):
            who = " and ".join(quote(label) for label in row["labels"])
            if following is None:
                parts.append(f"{who} at every number of queries" if len(rows) == 1 else f"{who} beyond")
            else:
                parts.append(f"{who} up to {queries_text(following['from_queries'])}")
        by_text.setdefault(", then ".join(parts), []).append(COLUMNS[name][1])
    return [f"Least {list_words(names)}: {text}." for text, names in by_text.items()]


def _pairs(cmp: ComparisonData, columns: Sequence[str], most: int) -> list[str]:
    by_pair: dict[tuple[str, str], dict[str, list[str]]] = {}
    for pair in cmp.lifecycle["pairs"]:
        if pair["column"] not in columns or pair["outcome"] == "missing":
            continue
        texts = by_pair.setdefault((pair["first"], pair["second"]), {})
        texts.setdefault(_outcome(pair), []).append(COLUMNS[pair["column"]][1])
    sentences = [
        f"By {list_words(names)}, {text} ({_quality(cmp, *labels)}{_near(cmp, *labels)})."
        for labels, texts in by_pair.items()
        for text, names in texts.items()
    ]
    more = len(sentences) - most
    return [*sentences[:most], f"{more} more pairs are in the comparison's data."] if more > 0 else sentences


def _outcome(pair: BreakEven) -> str:
    first, second = quote(pair["first"]), quote(pair["second"])
    if pair["outcome"] == "equal":
        return f"{first} and {second} cost the same at every number of queries"
    fewer, more = quote(str(pair["fewer"])), quote(str(pair["more"]))
    if pair["queries"] is None:
        return f"{fewer} costs less than {second if fewer == first else first} at every number of queries"
    return (
        f"{first} and {second} break even at {queries_text(pair['queries'])}: {fewer} costs less before, {more} after"
    )


def _quality(cmp: ComparisonData, first: str, second: str) -> str:
    best = {run["label"]: run["best_quality"] for run in cmp.runs}
    one, other = quality_text(best[first]), quality_text(best[second])
    if best[first] is None or best[second] is None:
        return f"best {quote(cmp.monitor)}: {one} and {other}; whether this is like for like is unknown"
    if best[first] == best[second]:
        return f"both reach {quote(cmp.monitor)} {one}"
    return f"best {quote(cmp.monitor)} {one} against {other}: not like for like"


def _near(cmp: ComparisonData, first: str, second: str) -> str:
    """A word if two runs' queries differ by less than a meter can resolve."""
    one, other = (cmp.lifecycle["runs"][label]["each"]["energy_j"] for label in (first, second))
    if one is None or other is None or one == other or abs(one - other) > EDGE * max(abs(one), abs(other)):
        return ""
    apart = abs(one - other) / max(abs(one), abs(other))
    return f"; their queries' energies are {apart:.1%} apart, within the {EDGE:.0%} that measuring them may be off"

"""Tables of a comparison as text in human units, for the page and the terminal alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lightning_costs.analysis.agreement_schema import RankPair
from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.leads import leading
from lightning_costs.analysis.schema import Contrast, CostToTarget, Declaration, RunRow, Spread, TargetRow
from lightning_costs.analysis.summary import family_place
from lightning_costs.records.certainty import amount_text, noted
from lightning_costs.records.formatting import format_amount, format_number
from lightning_costs.records.units import is_rate


class Cell(NamedTuple):
    """A value in words, with how it was got or why it is missing, and whether it stands out.

    Of a rank correlation, `shade` is its own from -4 to 4; None without one.
    """

    text: str
    note: str = ""
    best: bool = False
    missing: bool = False
    shade: int | None = None


class TableRow(NamedTuple):
    """One row of a table: an indicator and a cell per run."""

    name: str
    label: str
    headline: bool
    cells: list[Cell]

    @property
    def known(self) -> bool:
        """Whether any cell has an amount."""
        return not all(cell.missing for cell in self.cells)


class TableSection(NamedTuple):
    """Rows under one heading."""

    title: str
    lines: list[TableRow]


class TargetTable(NamedTuple):
    """Cost-to-quality at one target."""

    target: str
    declared: bool
    basis: str
    lines: list[TableRow]


class FlipLine(NamedTuple):
    """Two indicators and the pairs of runs that they order differently, in words."""

    first: str
    second: str
    discordant: int
    pairs: int
    sentences: list[str]
    more: int


def infinite_ratio_text(cmp: ComparisonData, row: Contrast) -> str:
    """What an infinite ratio of a group's cost to the reference's stands for: 'never' if that is surely the reason.

    Anything over a cost of 0 is infinite too, and then no target was missed.
    """
    versus, found = cmp.contrasts, cmp.groups
    if row["at"] != "target" or versus is None or found is None or cmp.indicators[row["column"]]["better"] == "higher":
        return "∞"
    spreads = next(
        (each["costs"][row["column"]] for each in found["targets"] if each["target"] == versus["target"]), {}
    )
    ours, theirs = spreads.get(row["group"]), spreads.get(versus["reference"])
    if ours is None or theirs is None or ours["reached"] == ours["n"]:
        return "∞"
    return "never" if theirs["least"] is not None and theirs["least"] > 0 else "∞"


def quality_text(value: float | None) -> str:
    """A quality with up to four significant digits.

    Example:
        >>> quality_text(0.98765), quality_text(float("nan")), quality_text(None)
        ('0.9877', 'not a number', 'never logged')
    """
    if value is None:
        return "never logged"
    if math.isnan(value):
        return "not a number"
    return f"{value:.4g}"


def ordered_names(cmp: ComparisonData, *, headline: bool = False, role: str | None = None) -> list[str]:
    """Indicators by family, headline ones first within each."""
    chosen = [
        (family_place(row["family"]), not row["headline"], index, name)
        for index, (name, row) in enumerate(cmp.indicators.items())
        if (row["headline"] or not headline) and role in (None, row["role"])
    ]
    return [name for *_, name in sorted(chosen)]


def is_cost(row: Declaration) -> bool:
    """Whether an indicator is spent or occupied; a rate or anything of which more is better is no cost."""
    return row["better"] != "higher" and not is_rate(row["unit"])


def final_blocks(cmp: ComparisonData, *, headline: bool = False) -> list[TableSection]:
    """Final amounts of every run by family, in human units."""
    blocks: dict[str, list[TableRow]] = {}
    for name in ordered_names(cmp, headline=headline):
        row = cmp.indicators[name]
        line = _row(cmp, name, [_final_cell(run, row) for run in cmp.runs])
        blocks.setdefault(row["family"], []).append(line)
    return [TableSection(title, lines) for title, lines in blocks.items()]


def target_tables(cmp: ComparisonData, *, headline: bool = False) -> list[TargetTable]:
    """Cost-to-quality per target, winners marked."""
    names = ordered_names(cmp, headline=headline, role="indicator")
    return [
        TargetTable(
            target=quality_text(row["target"]),
            declared=row["declared"],
            basis=row["basis"],
            lines=[_target_line(cmp, row, name) for name in names if _known(cmp, row, name)],
        )
        for row in cmp.targets
    ]


def group_tables(cmp: ComparisonData, *, headline: bool = False) -> list[TargetTable]:
    """Cost-to-quality of groups per target: medians, never over survivors alone; whose is least is marked."""
    if cmp.groups is None:
        return []
    names = ordered_names(cmp, headline=headline, role="indicator")
    modelled = {name for name in names if any(run["certainty"].get(name) == "modelled" for run in cmp.runs)}
    tables = []
    for row, target in zip(cmp.groups["targets"], cmp.targets, strict=True):
        lines = [
            _row(
                cmp,
                name,
                [
                    Cell(
                        _marked(spread_text(spread, cmp.indicators[name]["unit"]), modelled=name in modelled),
                        best=group in (row["winners"][name] or []),
                        missing=not spread["n"],
                    )
                    for group, spread in row["costs"][name].items()
                ],
            )
            for name in names
            if _known(cmp, target, name)
        ]
        tables.append(TargetTable(quality_text(row["target"]), target["declared"], target["basis"], lines))
    return tables


def spread_text(spread: Spread, unit: str) -> str:
    """The median of a group in words, its interval if there is one, and how many reached it.

    Example:
        >>> (spread_text({"n": 3, "reached": 2, "share_reached": 2 / 3, "median": 90.0, "low": 60.0, "high": math.inf,
        ...               "least": 60.0, "most": math.inf, "missing": 0}, "s"))
        '90 s [60 s, not reached], 2 of 3'
    """
    if not spread["n"]:
        return "missing"
    bounds = (
        ""
        if spread["low"] is None
        else f" [{format_amount(spread['low'], unit)}, {format_amount(spread['high'], unit)}]"
    )
    return f"{format_amount(spread['median'], unit)}{bounds}, {spread['reached']} of {spread['n']}"


def front_lines(cmp: ComparisonData) -> list[TableRow]:
    """Who is on the Pareto front of quality and cost, per indicator."""
    return [
        _row(
            cmp,
            name,
            [Cell("on the front", best=True) if label in cmp.fronts[name] else Cell("") for label in cmp.labels],
        )
        for name in ordered_names(cmp, role="indicator")
        if cmp.fronts.get(name)
    ]


def rank_matrix(cmp: ComparisonData, names: Sequence[str]) -> list[TableRow]:
    """Spearman's correlation of every two of the indicators that some pair of runs has."""
    pairs = {(pair["first"], pair["second"]): pair for pair in cmp.ranks["pairs"]}
    ranked = set(cmp.ranks["indicators"])
    present = [name for name in names if name in ranked and any(run["final"].get(name) is not None for run in cmp.runs)]

    def cell(row: str, column: str) -> Cell:
        pair = pairs.get((row, column)) or pairs.get((column, row))
        return Cell("1", "an indicator with itself") if pair is None else _rank_cell(cmp, pair)

    return [_row(cmp, row, [cell(row, column) for column in present]) for row in present]


def flip_lines(cmp: ComparisonData, names: Sequence[str], most: int = 4) -> list[FlipLine]:
    """Pairs of indicators that order runs differently, the most disagreeing first."""
    chosen = [
        pair for pair in cmp.ranks["pairs"] if pair["flips"] and pair["first"] in names and pair["second"] in names
    ]
    return [
        FlipLine(
            first=cmp.indicators[pair["first"]]["label"],
            second=cmp.indicators[pair["second"]]["label"],
            discordant=pair["discordant"],
            pairs=pair["n"] * (pair["n"] - 1) // 2,
            sentences=[f"{one} ⇄ {other}" for one, other in pair["flips"][:most]],
            more=max(0, pair["discordant"] - min(most, len(pair["flips"]))),
        )
        for pair in sorted(chosen, key=lambda pair: -pair["discordant"])
    ]


def spend_text(spend: CostToTarget, unit: str) -> str:
    """What reaching a target cost, in words, also if it was never reached.

    Example:
        >>> (spend_text({"cost": float("inf"), "reached": False, "step": None, "last_miss": None,
        ...              "first_hit": None, "spent_at_end": 7200.0}, "s"))
        'not reached within 2 h 00 min'
    """
    if spend["reached"]:
        return format_amount(spend["cost"], unit)
    if spend["spent_at_end"] is None:
        return "not reached"
    return f"not reached within {format_amount(spend['spent_at_end'], unit)}"


def final_text(run: RunRow, name: str, unit: str) -> str:
    """A run's final amount for people, in the notation of its certainty."""
    interval = run["intervals"].get(name)
    kind = run["certainty"].get(name, "exact")
    return amount_text(run["final"][name], unit, kind, (interval[0], interval[1]) if interval else None)


def _final_cell(run: RunRow, row: Declaration) -> Cell:
    name = row["name"]
    amount = run["final"][name]
    if amount is None:
        why = run["missing"].get(name, "")
        return Cell("never" if why.startswith("never:") else "missing", why, missing=True)
    return Cell(final_text(run, name, row["unit"]), run["methods"].get(name, ""))


def _known(cmp: ComparisonData, row: TargetRow, name: str) -> bool:
    """Whether the indicator is a counter that any run has an amount of."""
    return name in row["costs"] and any(run["final"][name] is not None for run in cmp.runs)


def _target_line(cmp: ComparisonData, row: TargetRow, name: str) -> TableRow:
    declared = cmp.indicators[name]
    won = leading(row, name)
    if len(won) > 1 and len(won) == sum(spend["reached"] for spend in row["costs"][name].values()):
        won = []  # if all tie, no run leads: a CPU's GPU energy is 0 in every run
    cells = []
    for run in cmp.runs:
        label = run["label"]
        spend = row["costs"][name][label]
        modelled = run["certainty"].get(name) == "modelled" and spend["reached"] and spend["cost"] is not None
        cells.append(
            Cell(
                _marked(spend_text(spend, declared["unit"]), modelled=modelled),
                _bracket(spend, declared["unit"]),
                best=label in won,
                missing=not spend["reached"] or spend["cost"] is None,
            )
        )
    return _row(cmp, name, cells)


def _row(cmp: ComparisonData, name: str, cells: list[Cell]) -> TableRow:
    """An indicator's row."""
    return TableRow(name, cmp.indicators[name]["label"], cmp.indicators[name]["headline"], cells)


def _marked(text: str, *, modelled: bool) -> str:
    return noted(text, 0.0, "modelled") if modelled else text


def _bracket(spend: CostToTarget, unit: str) -> str:
    def point(pair: list[float | None]) -> str:
        return f"{quality_text(pair[1])} at {format_amount(pair[0], unit)}"

    words = []
    if spend["last_miss"] is not None:
        words.append(f"last evaluation short of it: {point(spend['last_miss'])}")
    if spend["first_hit"] is not None:
        words.append(f"first one at or past it: {point(spend['first_hit'])}")
    return "; ".join(words)


def _rank_cell(cmp: ComparisonData, pair: RankPair) -> Cell:
    first, second = cmp.indicators[pair["first"]]["label"], cmp.indicators[pair["second"]]["label"]
    rho, tau = pair["spearman"], pair["tau_b"]
    if rho is None:
        return Cell("–", f"{first} / {second}: no order to compare over {pair['n']} runs")
    note = (
        f"{first} / {second}: Spearman {rho:.2f}, Kendall tau-b {format_number(round(tau or 0.0, 2))}, "
        f"{pair['discordant']} pairs flip, {pair['concordant']} agree, {pair['ties']} tie, {pair['n']} runs"
    )
    return Cell(f"{rho:.2f}".replace("-0.00", "0.00"), note, shade=round(4 * rho))

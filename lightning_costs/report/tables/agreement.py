"""What a comparison says in words beside its tables of runs: families, dominance, reversals, matched pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from lightning_costs.analysis.agreement_schema import MatchedPair
from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.schema import TargetRow
from lightning_costs.analysis.summary import front_sentences
from lightning_costs.analysis.text import list_runs, quote
from lightning_costs.records.formatting import format_number
from lightning_costs.report.tables.tables import ordered_names, quality_text


class FamilyLine(NamedTuple):
    """A family of indicators, counted once: its columns, and who leads it in words."""

    family: str
    columns: list[str]
    leaders: str
    note: str


class MatchedLine(NamedTuple):
    """Runs that are alike by one indicator, and what that hides of the others."""

    label: str
    name: str
    headline: bool
    pairs: int
    hides: list[str]
    examples: list[str]


def family_lines(cmp: ComparisonData) -> list[FamilyLine]:
    """Who leads which family of indicators; one that disagrees with itself has no leader."""
    found = []
    for row in cmp.families["rows"]:
        tie = "all tie" if any(name in cmp.leaders for name in row["columns"]) else "none: too few have a reading"
        leaders = list_runs(row["leaders"]) if row["leaders"] else "its indicators disagree" if row["split"] else tie
        columns = [cmp.indicators[name]["label"] for name in row["columns"]]
        found.append(FamilyLine(row["family"], columns, leaders, "; ".join(dict.fromkeys(row["merged"].values()))))
    return found


def dominance_sentences(cmp: ComparisonData) -> list[str]:
    """Who is efficient by every indicator, who by none, and who by some mixture of all."""
    found = cmp.dominance
    sentences = front_sentences(found, cmp.best)
    if not sentences or not found["columns"]:
        return sentences
    count = len(found["columns"])
    sentences.append(f"On the joint front in quality and {count} indicators together: {list_runs(found['joint'])}.")
    for label in found["nowhere"][:3]:
        if above := found["dominated_by"].get(label):
            sentences.append(f"{quote(label)} is no better by any of these {count} than {list_runs(above, 3)}.")
    some = [name for name in found["left_out"] if cmp.fronts.get(name)]
    if some:
        left = ", ".join(cmp.indicators[name]["label"] for name in some)
        sentences.append(f"Left out of the joint front, because only some runs have it: {left}.")
    return sentences


def group_qualities(cmp: ComparisonData) -> list[tuple[str, str]]:
    """Each group's best qualities: the median of its runs, its 95 % interval if there is one, and how many runs."""
    found = []
    for group, spread in (cmp.groups["quality"] if cmp.groups else {}).items():
        interval = "" if spread["low"] is None else f" [{quality_text(spread['low'])}, {quality_text(spread['high'])}]"
        runs = "1 run" if spread["n"] == 1 else f"{spread['n']} runs"
        found.append((group, f"{quality_text(spread['median'])}{interval}, {runs}"))
    return found


def reversal_lines(row: TargetRow, cmp: ComparisonData, most: int = 4) -> list[str]:
    """Counters that order runs differently by what a target cost them, clocks first."""
    sentences = []
    for flips in row["reversals"][:most]:
        first, second = (cmp.indicators[flips[end]]["label"] for end in ("first", "second"))
        pairs = "; ".join(f"{one} ⇄ {other}" for one, other in flips["pairs"][:3])
        more = flips["discordant"] - min(3, len(flips["pairs"]))
        of = flips["n"] * (flips["n"] - 1) // 2
        sentences.append(
            f"{first} and {second} disagree on {flips['discordant']} of {of}: {pairs}"
            + (f"; {more} more" if more > 0 else "")
        )
    if len(row["reversals"]) > most:
        sentences.append(f"{len(row['reversals']) - most} more pairs of costs disagree")
    return sentences


def matched_lines(cmp: ComparisonData) -> list[MatchedLine]:
    """What a comparison at an equal amount hides of headline indicators, those that differ most first."""
    names = ordered_names(cmp, role="indicator")
    headline = set(ordered_names(cmp, headline=True, role="indicator"))
    rows = {row["column"]: row for row in cmp.matched["rows"] if row["pairs"]}
    found = []
    for row in (rows[name] for name in names if name in rows):
        worst = sorted(row["hides"].items(), key=lambda item: -item[1]["most"])
        hides = [
            f"{cmp.indicators[name]['label']} up to {format_number(round(hidden['most'], 2))} times"
            + (f", in {hidden['differ']} of {hidden['n']}" if hidden["n"] > 1 else "")
            for name, hidden in worst
            if hidden["differ"] and math.isfinite(hidden["most"]) and name in headline
        ]
        examples = [example for pair in row["listed"][:2] if (example := _example(pair, cmp, headline))]
        declared = cmp.indicators[row["column"]]
        found.append(
            MatchedLine(declared["label"], row["column"], declared["headline"], row["pairs"], hides[:4], examples)
        )
    return found


def evidence_lines(evidence: Mapping[str, Any], most: int = 12) -> list[tuple[str, str]]:
    """The figures behind a caution, name and text; long ones are cut.

    Example:
        >>> evidence_lines({"ratio": 0.123456, "runs": {"a": 1.0}})
        [('ratio', '0.123'), ('runs', 'a: 1')]
    """
    return [(str(key).replace("_", " "), _cut(_as_words(value))) for key, value in list(evidence.items())[:most]]


def _example(pair: MatchedPair, cmp: ComparisonData, names: Collection[str]) -> str:
    """Two runs and what differs most between them; nothing if all is within the tolerance."""
    known = {name: ratio for name in pair["differ"] if name in names and (ratio := pair["others"][name]) is not None}
    name = max(known, key=lambda one: abs(math.log(known[one])), default="")
    if not name:
        return ""
    text = f"{quote(pair['a'])} and {quote(pair['b'])}"
    ratio = known[name]
    more, times = ("second", ratio) if ratio >= 1 else ("first", 1 / ratio)
    return f"{text}: the {more} has {format_number(round(times, 2))} times the {cmp.indicators[name]['label']}"


def _as_words(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "unknown"}[value]
    if isinstance(value, int | float):
        return format_number(float(f"{value:.3g}")) if math.isfinite(value) else "not reached"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_as_words(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(map(_as_words, value))
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _cut(text: str, most: int = 300) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most - 1]}…"

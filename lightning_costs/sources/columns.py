"""How columns of a foreign table or log are read: which are costs, their unit and their better direction."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, cast, get_args

from lightning_costs.records.declaration import Better, Declaration, Kind
from lightning_costs.records.parse_unit import parse_unit
from lightning_costs.records.units import COUNTS, UNITS, unit_of_name
from lightning_costs.run.record import RunRecord
from lightning_costs.sources.cells import Decimal
from lightning_costs.storage.loggers import PREFIX

#: What AlgoPerf's logs call our clocks (github.com/mlcommons/algorithmic-efficiency, measurements.csv), all of them.
_ALGOPERF = {
    "accumulated_submission_time": "train_s",
    "accumulated_eval_time": "evaluate_s",
    "total_duration": "total_s",
    "global_step": "steps",
}
#: Names of rates: more is usually better, but the direction has to be declared.
_RATE = re.compile(r"_per_s(?:ec|econd)?(?:s|_|\b)|/ ?s(?:ec|econd)?\b|throughput|(?:_|\b)fps(?:_|\b)", re.IGNORECASE)
_HEADING = re.compile(r"[(\[]([^()\[\]]+)[)\]]\s*$")
#: Short words in brackets that mean too much to be taken for a unit: billions or bytes, metres or thousandths.
_UNCLEAR = ("B", "m", "d", "t", "g", "n", "u", "P", "E")
#: Units of what comes in whole numbers. A broken amount below `_LEAST_BROKEN` is in thousands or millions: a mean over
#: runs may be broken, and is large.
_WHOLE = ("params", "flop", "mac", "bytes", "samples", "tokens", "elements")
_LEAST_BROKEN = 1000
#: Of a fraction's peaks and denominators some are estimates: it may be somewhat above 1, and not 45.2.
_MOST_FRACTION = 1.5
#: Operations as headings have them: GFLOPs, gflops, GMACs, Gmac.
_OPERATIONS = re.compile(r"([kmgtpe])(flop|mac)s?", re.IGNORECASE)
_BYTES = re.compile(r"([kmgtp])(i?)b", re.IGNORECASE)
_FAMILIES = {
    "s": "time",
    "j": "energy",
    "w": "energy",
    "g": "energy",
    "l": "energy",
    "bytes": "memory",
    "flop": "compute",
    "mac": "compute",
    "usd": "money",
    "params": "size",
    "elements": "size",
    "calls": "compute",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSpec:
    """A declared cost: `NAME[=COLUMN][:min|max][:counter|gauge|static]`.

    It is compared under `name`: a name of the package's stands beside run folders. None is what was not given.
    """

    name: str
    column: str
    better: Better | None = None
    kind: Kind | None = None

    @classmethod
    def parse(cls, text: str) -> CostSpec:
        """A cost from its text.

        Example:
            >>> CostSpec.parse("images_per_s:max")
            CostSpec(name='images_per_s', column='images_per_s', better='higher', kind=None)
            >>> CostSpec.parse("forward_mac=GFLOPs:static").column
            'GFLOPs'
        """
        body, words = text, list[str]()
        while (split := body.rpartition(":"))[2] in ("min", "max", *get_args(Kind)):
            body, words = split[0], [split[2], *words]
        name, _, column = body.partition("=")
        ways = [word for word in words if word in ("min", "max")]
        kinds = [word for word in words if word in get_args(Kind)]
        if not name or (":" in name and "=" not in body) or len(ways) > 1 or len(kinds) > 1:
            raise ValueError(
                f"a cost must be NAME[=COLUMN][:min|max][:counter|gauge|static], such as images_per_s:max, got {text!r}"
            )
        better: Better | None = None if not ways else "lower" if ways == ["min"] else "higher"
        return cls(name=name, column=column or name, better=better, kind=cast(Kind, kinds[0]) if kinds else None)


@dataclass(slots=True, kw_only=True)
class Seen:
    """What readers found: the columns, the declared and matched costs, and notes for people."""

    columns: dict[str, None] = field(default_factory=dict)
    costs: set[str] = field(default_factory=set)
    units: set[str] = field(default_factory=set)
    notes: dict[str, None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How foreign sources are read; run folders say all of it themselves.

    If any costs are named, a table's other columns are none. `units` has cost or column to the unit that it is written
    in, `run_columns` those that name runs together. Cells show the decimal mark if it is None. Readers add to `seen`.
    """

    monitor: str | None = None
    mode: str | None = None
    costs: tuple[CostSpec, ...] = ()
    units: Mapping[str, str] | None = None
    run_columns: tuple[str, ...] = ()
    step_column: str | None = None
    decimal: Decimal | None = None
    seen: Seen = field(default_factory=Seen, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostColumn:
    """A cost column of a source: its place, the factor of its amounts, and its declaration."""

    column: str
    factor: float
    declared: Declaration


def cost_columns(columns: Sequence[str], reading: ReadOptions, *, kind: Kind, log: bool = False) -> list[CostColumn]:
    """The costs among a source's columns.

    Declared columns; otherwise columns with names of the package. In a log, the latter (`cost/<name>`) are always
    costs.
    """
    found: dict[str, CostColumn] = {}
    units = dict(reading.units or {})
    reading.seen.columns |= dict.fromkeys(columns)
    for cost in reading.costs:
        if cost.column in columns:
            reading.seen.costs.add(cost.name)
            if not {cost.name, cost.column} & units.keys():
                units |= _units_of_heading(cost, reading.seen)
            found[cost.name] = _declared(cost, units, kind, named=True)
    if log:
        for column in columns:
            head, logged, name = column.rpartition(PREFIX)
            if logged and (not head or head.endswith(("-", "/"))) and name and name not in found:
                found[name] = _declared(CostSpec(name=name, column=column), units, kind)
    elif not reading.costs:
        algoperf = _ALGOPERF if _ALGOPERF.keys() <= set(columns) else {}
        for column in columns:
            name = algoperf.get(column, column.removeprefix(PREFIX))
            if column != reading.monitor and name in known_columns() and name not in found:
                found[name] = _declared(CostSpec(name=name, column=column), units, kind)
    for at in found.values():
        reading.seen.units |= {at.declared.name, at.column} & units.keys()
    return list(found.values())


def not_there(name: str, names: Sequence[str], most: int = 12) -> str:
    """A name that is none of those that there are, for an error: with the nearest of them, and with them.

    Example:
        >>> not_there("gflop", ["model", "gflops"])
        "'gflop' (did you mean 'gflops'?); there are 'model', 'gflops'"
    """
    folded = {other.lower(): other for other in names}
    near = difflib.get_close_matches(name.lower(), list(folded), n=1, cutoff=0.6)
    guess = f" (did you mean {folded[near[0]]!r}?)" if near else ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{name!r}{guess}; there are {', '.join(map(repr, names[:most]))}{more}"


@lru_cache(maxsize=1)
def known_columns() -> Mapping[str, Declaration]:
    """Our own columns, by name."""
    from lightning_costs.indicators import default_indicators  # loads torch: only where a foreign source is read

    return {indicator.name: indicator.declaration() for indicator in default_indicators()}


def _declared(cost: CostSpec, units: Mapping[str, str], kind: Kind, *, named: bool = False) -> CostColumn:
    """What a column is: as we know it, as its name says, as was declared; the last word counts.

    A `named` cost is shown first, whatever the package's column of that name is.
    """
    known = known_columns().get(cost.name)
    unit, factor = known.unit if known else unit_of_name(cost.name), 1.0
    if (text := units.get(cost.name, units.get(cost.column))) is not None:
        given = parse_unit(text)
        unit, factor = given.unit or unit, given.factor
    if known and unit == known.unit:
        its_kind = cost.kind or known.kind
        row = known.as_dict() | {"better": cost.better or known.better, "headline": named or known.headline}
        if its_kind != known.kind:
            row |= {"kind": its_kind, "fold": "sum" if its_kind == "counter" else "last"}
        return CostColumn(column=cost.column, factor=factor, declared=Declaration(**row))
    if cost.better is None and (unit.endswith("_per_s") or _RATE.search(f"{cost.name} {cost.column}")):
        raise ValueError(
            f"cost {cost.name!r} is a rate: say which direction is better, "
            f"--cost {cost.name}:max or --cost {cost.name}:min"
        )
    its_kind = cost.kind or kind
    fields: dict[str, Any] = {
        "name": cost.name,
        "unit": unit,
        "kind": its_kind,
        "fold": "sum" if its_kind == "counter" else "last",
        "better": cost.better or "lower",
        "family": family_of(unit),
        "label": known.label if known else cost.name.replace("_", " "),
    }
    return CostColumn(column=cost.column, factor=factor, declared=Declaration(**fields))


def _units_of_heading(cost: CostSpec, seen: Seen) -> dict[str, str]:
    """The unit of a cost as its heading states it, and a note if that changes its numbers or is not understood."""
    own = _own_unit(cost)
    unit = unit_of_heading(cost)
    if unit is None:
        if own in UNITS and (heading := _HEADING.search(cost.column)) is not None:
            text = heading[1].strip()
            seen.notes[f"{cost.column!r} is read in {own}: {text!r} in its heading is no unit known here"] = None
        return {}
    if parse_unit(unit) not in ((own, 1.0), ("", 1.0)):
        seen.notes[f"{cost.column!r} is read in {unit}, as its heading says"] = None
    return {cost.name: unit}


def _own_unit(cost: CostSpec) -> str:
    """The unit that a cost's name says; the name itself if it says none."""
    known = known_columns().get(cost.name)
    return known.unit if known else unit_of_name(cost.name)


def refuse_other_unit(cost: CostColumn, amounts: Sequence[float | None], where: Callable[[int], str]) -> None:
    """Refuse amounts that are in another unit than they are read in: 25.56 are no parameters, 45.2 is no share.

    Raises:
        ValueError: Names the first of them, by `where` of its place, and says what to give.
    """
    name, unit = cost.declared.name, cost.declared.unit
    if cost.factor != 1.0 or not (unit in _WHOLE or unit == "fraction"):
        return
    for at, amount in enumerate(amounts):
        if amount is None or not math.isfinite(amount):
            continue
        if unit == "fraction" and amount > _MOST_FRACTION:
            why, example = "a fraction is at most 1", "%"
        elif unit in _WHOLE and 0 < amount < _LEAST_BROKEN and amount != round(amount):
            why, example = f"{unit} are whole numbers", "GB" if unit == "bytes" else "M"
        else:
            continue
        raise ValueError(
            f"{where(at)}: {cost.column} is {amount:g}, and {why}: say the unit of its numbers, "
            f"such as --unit {name}={example}"
        )


def unit_of_heading(cost: CostSpec) -> str | None:
    """The unit that a column's name states for a cost, in brackets or as its last word; None if it states none.

    Raises:
        ValueError: The brackets hold a unit that the cost cannot have, or one that may be two.

    Example:
        >>> [unit_of_heading(CostSpec(name="params", column=f"Params ({unit})")) for unit in ("M", "B", "total")]
        ['M', 'billions', None]
        >>> [unit_of_heading(CostSpec(name="train_s", column=column)) for column in ("GPU hours", "wall_ms", "time")]
        ['hours', 'ms', None]
        >>> unit_of_heading(CostSpec(name="latency", column="Latency [ms]"))
        'ms'
    """
    own = _own_unit(cost)
    heading = _HEADING.search(cost.column)
    if heading is None:
        return None if cost.name == cost.column or own not in UNITS else _unit_of_words(cost, own)
    text = heading[1].strip()
    if own not in UNITS:  # the name of the cost says nothing of its unit
        if text in _UNCLEAR:
            return None
        return text if parse_unit(text).unit in ("", *UNITS) else None
    if (unit := _fitting(text, own)) is not None:
        return unit
    if (stated := _stated(text)) is not None:
        raise ValueError(_say_the_unit(cost, own, f"its heading says {stated}"))
    words = {_fitting(word, own) for word in re.split(r"[\s,;_-]+", text) if len(word) > 1} - {None}
    return words.pop() if len(words) == 1 else None


def _unit_of_words(cost: CostSpec, own: str) -> str | None:
    """The unit in a heading without brackets: its last word, or the one before 'per', as in ms_per_image."""
    words = re.sub(r"[_\-.\s]+", " ", cost.column).strip()
    rate = re.search(r"(\S+?) ?(?:/ ?| per )(?:s|sec|second)$", words, re.IGNORECASE)
    if rate is not None:
        return _fitting(f"{rate[1]}/s", own)
    word = re.split(r" per |/", words)[0].rpartition(" ")[2]
    if (unit := _fitting(word, own)) is None and (stated := _stated(word)) is not None and _miscounted(stated, own):
        raise ValueError(_say_the_unit(cost, own, f"its heading says {stated}"))
    return unit


def _fitting(text: str, own: str) -> str | None:
    """A unit of a heading as `parse_unit` reads it for a cost in `own`; None if it is none, or none of that."""
    base = own.removesuffix("_per_s")
    if (operations := _OPERATIONS.fullmatch(text)) is not None and base in ("flop", "mac"):
        # People write GFLOPS for a number of operations as for a rate of them: which it is, the cost's name says.
        if base == "flop" and operations[2].lower() == "mac":
            return None
        return f"{operations[1].upper().replace('K', 'k')}{base.upper()}{'/s' if own != base else ''}"
    if own == "s" and text.lower() in ("m", "m."):
        return None
    counted = base in (*COUNTS, "flop", "mac")
    if len(text) == 1 and (counted or base == "bytes") and (prefix := _prefix(text, counted=counted)) is not None:
        return prefix
    for spelled in dict.fromkeys((text, text.lower(), _recased(text))):
        try:
            unit = parse_unit(spelled).unit
        except ValueError:
            continue
        if unit == own or (unit == "" and (len(text) > 1 or text in ("k", "K", "M", "G", "T"))):
            return spelled
    return None


def _prefix(letter: str, *, counted: bool) -> str | None:
    """One letter of thousands, millions, billions and trillions, in either case."""
    prefixes = {"k": "k", "m": "M", "g": "G", "t": "T"} | ({"b": "billions"} if counted else {})
    return prefixes.get(letter.lower())


def _recased(text: str) -> str:
    """A unit in the case that it is written in: kwh, gb, gib, kg. Nothing else distinguishes milli from mega."""
    found = _BYTES.fullmatch(text)
    if found is not None:
        return f"{found[1].upper()}{'i' if found[2] else ''}B"
    return {"kwh": "kWh", "wh": "Wh", "gwh": "GWh", "kj": "kJ", "gj": "GJ", "kw": "kW"}.get(text.lower(), text)


def _stated(text: str) -> str | None:
    """The unit of the package that a heading states, whatever the cost is; None if it states none."""
    if _OPERATIONS.fullmatch(text):
        return text
    if len(text) < 2:
        return text if text in _UNCLEAR else None
    for spelled in (text, _recased(text)):
        try:
            if parse_unit(spelled).unit in UNITS:
                return text
        except ValueError:
            return text
    return None


def _miscounted(stated: str, own: str) -> bool:
    """Whether a heading says multiply-accumulates where operations are asked for, or a time of two meanings."""
    operations = _OPERATIONS.fullmatch(stated)
    return (operations is not None and own in ("flop", "mac")) or (own == "s" and stated == "m")


def _say_the_unit(cost: CostSpec, own: str, why: str) -> str:
    return (
        f"--cost {cost.name}={cost.column}: {cost.name} is in {own} and {why}; "
        f"say the unit of its numbers: --unit {cost.name}=UNIT"
    )


def family_of(unit: str) -> str:
    """The family of a unit: rates belong to time; a foreign unit has none.

    Example:
        >>> family_of("mac"), family_of("samples_per_s"), family_of("ms_per_image")
        ('compute', 'time', 'other')
    """
    if unit.endswith("_per_s"):
        return "time"
    return _FAMILIES.get(unit, "data" if unit in COUNTS else "other")


def parsed_costs(texts: str | Sequence[str]) -> tuple[CostSpec, ...]:
    """Costs from their texts.

    Example:
        >>> [cost.name for cost in parsed_costs(["params", "forward_mac=gmacs"])]
        ['params', 'forward_mac']
    """
    costs = tuple(CostSpec.parse(text) for text in ([texts] if isinstance(texts, str) else texts))
    names = [cost.name for cost in costs]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        columns = " and ".join(repr(cost.column) for cost in costs if cost.name == twice[0])
        raise ValueError(f"cost {twice[0]!r} is declared twice, as {columns}: give each a name of its own")
    return costs


def check_declared(reading: ReadOptions, runs: Sequence[RunRecord], left_out: Sequence[str]) -> None:
    """Refuse a cost, a unit or a metric that fits nothing: left out without a word it would seem compared."""
    seen, names = reading.seen, list(reading.seen.columns)
    for name, text in (reading.units or {}).items():
        if parse_unit(text).unit == text and text not in UNITS:
            seen.notes[f"--unit {name}={text}: {text!r} is no unit known here: numbers stay as they are"] = None
    ours = {name for run in runs for name in run.header["indicators"]}
    why = f"; {left_out[0]}" if left_out else ""
    for cost in reading.costs:
        if cost.name not in seen.costs and not (cost.name == cost.column and cost.name in ours):
            raise ValueError(f"--cost {cost.name}: no source has a column {_of(cost.column, names, ours)}{why}")
    for name in reading.units or {}:
        if name not in seen.units:
            costs = sorted({cost for run in runs for cost in run.header["indicators"]}) if names else []
            raise ValueError(
                f"--unit {name}: no cost of a table or log is called so: {_of(name, [*costs, *names], set())}{why}"
            )
    unlogged = names and runs and not any(run.quality_columns for run in runs)
    if unlogged and reading.monitor is not None and reading.monitor not in ours | seen.columns.keys():
        raise ValueError(
            f"--monitor {reading.monitor}: no source has a column {_of(reading.monitor, names, ours)}{why}"
        )


def _of(name: str, names: Sequence[str], ours: set[str]) -> str:
    there = list(dict.fromkeys([*names, *sorted(ours)]))
    return not_there(name, there) if there else f"{name!r}: only run folders were read, which hold all of it"


def scales_differ(reading: ReadOptions, runs: Sequence[RunRecord]) -> list[str]:
    """A word where the metric is a fraction in one table and in per cent in another, as its best values look."""
    if reading.monitor is None or reading.mode != "max" or not reading.seen.columns:
        return []
    best: dict[str, float] = {}
    for run in runs:
        if reading.monitor in run.quality_columns:
            amount = run.points[reading.monitor].max()
            if isinstance(amount, int | float) and math.isfinite(amount):
                best[run.source] = max(best.get(run.source, -math.inf), float(amount))
    shares = [source for source, amount in best.items() if 0 <= amount <= 1]
    percents = [source for source, amount in best.items() if 1.5 < amount <= 100]
    if not shares or not percents:
        return []
    return [
        f"{reading.monitor!r} is at most {max(best[source] for source in shares):.4g} in {shares[0]} and up to "
        f"{max(best[source] for source in percents):.4g} in {percents[0]}: fractions beside per cent compare wrongly"
    ]

"""How columns of a foreign table or log are read: which are costs, their unit and their better direction."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
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
            if not {cost.name, cost.column} & units.keys() and (unit := unit_of_heading(cost)) is not None:
                units[cost.name] = unit
                reading.seen.notes[f"{cost.column!r} is read in {unit}, as its heading says"] = None
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


def unit_of_heading(cost: CostSpec) -> str | None:
    """The unit in brackets behind a column's name; None if there is none, or none that fits the cost.

    Example:
        >>> [unit_of_heading(CostSpec(name="params", column=f"Params ({unit})")) for unit in ("M", "B", "GB")]
        ['M', None, None]
        >>> unit_of_heading(CostSpec(name="latency", column="Latency [ms]"))
        'ms'
    """
    heading = _HEADING.search(cost.column)
    text = heading[1].strip() if heading else ""
    if not text or text in _UNCLEAR:
        return None
    unit, known = parse_unit(text).unit, known_columns().get(cost.name)
    fits = (unit in ("", known.unit)) if known else unit in ("", *UNITS)
    return text if fits else None


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

"""The schema of a run's header: untrusted data, checked once, when it is read.

Code that gets a header from here can rely on its fields. A null field counts as absent, and an unknown one is kept.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_args

from lightning_costs.pricing.rates import PRICED, RATES
from lightning_costs.records.declaration import Better, Kind, Role
from lightning_costs.records.pipeline.timeline import KINDS
from lightning_costs.records.printable import utf8_encodable
from lightning_costs.records.samples import SCHEMA_VERSION
from lightning_costs.storage.run_folder.frames import OWN
from lightning_costs.storage.run_folder.journal import from_json

#: Most columns that a run may declare (there are some hundred), and levels of data within data in its header.
MOST_COLUMNS, DEEPEST = 1_000, 32
#: Most of anything that a table of points counts.
MOST_COUNT = 2**53

Shape = Callable[[Any, str], Any]


class Misshapen(ValueError):  # noqa: N818 - what it is, not what went wrong
    """A field of a header is not what it must be."""


def header_of(text: str | bytes) -> dict[str, Any]:
    """The header that a text holds; of a newer version its number alone.

    Raises:
        ValueError: Names the field, what was expected there and what is there.
    """
    try:
        return header_from(json.loads(text, parse_constant=lambda _: None))
    except RecursionError:
        raise Misshapen(f"expected data at most {DEEPEST} levels deep") from None


def header_from(header: Any) -> dict[str, Any]:
    """The header that data of JSON hold; of a newer version its number alone."""
    if not isinstance(header, dict):
        raise Misshapen(f"expected an object with the field 'schema_version', got {_quoted(header)}")
    version = _count(header.get("schema_version"), "schema_version")
    if version > SCHEMA_VERSION:
        return {"schema_version": version}
    return checked(_plain(header, 0))


def checked(header: dict[str, Any]) -> dict[str, Any]:
    """A header whose fields are what they must be, and which names no column that it does not declare."""
    header = _HEADER(header, "")
    declared = header["indicators"]
    if len(declared) > MOST_COLUMNS:
        raise Misshapen(f"expected at most {MOST_COLUMNS:,} indicators, got {len(declared):,}")
    if taken := [name for name in declared if name in OWN]:
        raise Misshapen(f"an indicator cannot be named {taken[0]!r}, which every point has")
    if other := [name for name, row in declared.items() if row["name"] != name]:
        raise Misshapen(f"the indicator {other[0]!r} cannot be named {declared[other[0]]['name']!r}")
    named = [*header.get("budget", {}).get("limits", ())]
    named += [header["stopped"]["column"]] if "stopped" in header else []
    if strange := [name for name in named if name not in declared]:
        raise Misshapen(f"a budget is of {strange[0]!r}, which is none of the run's indicators")
    for number, attempt in enumerate(header.get("attempts", ())):
        if attempt.get("resumed", -1) >= number:
            raise Misshapen(f"'attempts[{number}].resumed' must be the number of an earlier attempt")
    return header


def _plain(data: Any, depth: int) -> Any:
    """Data whose texts a file can hold and whose numbers a computer can, no deeper than what follows can go."""
    if depth > DEEPEST:
        raise Misshapen(f"expected data at most {DEEPEST} levels deep")
    if isinstance(data, str):
        return data if data.isascii() else utf8_encodable(data)
    if isinstance(data, dict):
        return {utf8_encodable(key): _plain(value, depth + 1) for key, value in data.items()}
    if isinstance(data, list):
        return [_plain(item, depth + 1) for item in data]
    if isinstance(data, int | float) and not -_MOST_NUMBER <= data <= _MOST_NUMBER:
        raise Misshapen("expected numbers that a computer can hold")
    return float(data) if isinstance(data, int) and abs(data) > _MOST_WHOLE else data


_MOST_NUMBER = sys.float_info.max
_MOST_WHOLE = 2**64


# Shapes: each takes a value and its place, and returns the value or raises -----------------------------


def _quoted(value: Any) -> str:
    if value is None:
        return "null"
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    what = kinds.get(type(value), "a number")
    return what if isinstance(value, dict | list) else f"{what}: {repr(value)[:40]}"


def _wrong(expected: str, value: Any, where: str) -> Misshapen:
    return Misshapen(f"{where!r} must be {expected}, got {_quoted(value)}")


def _any(value: Any, where: str) -> Any:
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong("a text", value, where)
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong("a number", value, where)
    return value


def _positive(value: Any, where: str) -> float:
    if _number(value, where) <= 0:
        raise _wrong("a number above 0", value, where)
    return float(value)


def _count(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_COUNT or value % 1:
        raise _wrong("a whole number of at least 0", value, where)
    return int(value)


def _plain_value(value: Any, where: str) -> Any:
    if isinstance(value, dict | list):
        raise _wrong("a text, a number, or true or false", value, where)
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong("true or false", value, where)
    return value


def _amount(value: Any, where: str) -> float | None:
    """A number, one that JSON writes as a text (NaN, Infinity), or null."""
    try:
        return from_json(_number(value, where) if not isinstance(value, str | None) else value)
    except KeyError:
        raise _wrong("a number", value, where) from None


def _target(value: Any, where: str) -> float:
    amount = _amount(value, where)
    if amount is None or math.isnan(amount):
        raise _wrong("a number", value, where)
    return amount


def _one_of(*choices: str) -> Shape:
    def shape(value: Any, where: str) -> Any:
        if not (isinstance(value, str) and value in choices):
            raise _wrong(f"one of {', '.join(choices)}", value, where)
        return value

    return shape


def _or_null(of: Shape) -> Shape:
    return lambda value, where: None if value is None else of(value, where)


def _each(of: Shape) -> Shape:
    def shape(value: Any, where: str) -> Any:
        if not isinstance(value, list):
            raise _wrong("a list", value, where)
        return [of(item, f"{where}[{at}]") for at, item in enumerate(value)]

    return shape


def _row(*of: Shape) -> Shape:
    def shape(value: Any, where: str) -> Any:
        if not isinstance(value, list) or len(value) != len(of):
            raise _wrong(f"a list of {len(of)}", value, where)
        return [one(item, f"{where}[{at}]") for at, (one, item) in enumerate(zip(of, value, strict=True))]

    return shape


def _by_name(of: Shape) -> Shape:
    """An object whose fields are all alike; those that are null are left out, unless that is a value of theirs."""

    def shape(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong("an object", value, where)
        kept = {name: item for name, item in value.items() if item is not None or of is _amount}
        return {name: of(item, f"{where}.{name}") for name, item in kept.items()}

    return shape


def _fields(needed: Mapping[str, Shape], known: Mapping[str, Shape], nullable: Collection[str] = ()) -> Shape:
    """An object with these fields; others stay, known ones that are null go, unless they are `nullable`."""
    of = {**known, **needed}

    def shape(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise _wrong("an object", value, where)
        before = f"{where}." if where else ""
        for name in needed:
            if name not in value:
                raise Misshapen(f"expected the field {before + name!r}, which is not there")
        found = {}
        for name, item in value.items():
            if name not in of or (item is None and name in nullable):
                found[name] = item
            elif item is not None or name in needed:
                found[name] = of[name](item, before + name)
        return found

    return shape


# The header ---------------------------------------------------------------------------------------------------

_REASONS = _by_name(_text)
_AMOUNTS = _by_name(_amount)
_DECLARATION = _fields(
    {
        "name": _text,
        "unit": _text,
        "kind": _one_of(*get_args(Kind)),
        "better": _one_of(*get_args(Better)),
        "family": _text,
        "role": _one_of(*get_args(Role)),
        "label": _text,
        "headline": _flag,
    },
    {"fold": _text, "scope": _text, "across": _text},
)
_PRICE_ROW = _fields(
    dict.fromkeys(("provider", "tier", "gpu", "source", "date"), _text),
    {"usd_per_device_h": _number, "region": _text, "includes": _text},
)
_TEXTS = ("country", "region", "cloud", "cloud_region", "provider", "tier", "price_region", "source", "date")
_TARIFF = _fields(
    {},
    {
        **dict.fromkeys((*_TEXTS, "embodied_source", "unpriced"), _text),
        **dict.fromkeys(RATES, _number),
        "intensity": _fields({}, {"gco2e_per_kwh": _number, "source": _text}),
        "price_row": _PRICE_ROW,
        "intensity_by_hour": _text,
        "hours": _each(_row(_number, _number)),
    },
)
_ATTEMPT = _fields(
    {},
    {
        **dict.fromkeys(("id", "began", "started", "ended", "status", "device", "launch", "unbegun_since"), _text),
        **dict.fromkeys(("devices", "nodes", "from_step", "row", "resumed", "restart"), _count),
        **dict.fromkeys(("queue_s", "first_batch_s", "first_wait_s", "unmetered_s"), _number),
        "unbegun": _each(_text),
        "startup_s": _AMOUNTS,
        "lost": _AMOUNTS,
        "used": _AMOUNTS,
        "tariff": _TARIFF,
    },
)
_COMPONENT = _fields(
    {"method": _text, "instrument": _text, "error_j": _or_null(_number)}, {"counter_over_power": _number}
)
_INTERVAL = _row(_one_of(*KINDS), _number, _number, _number, _number)
_LANE = _fields(
    {"stage": _number, "begun_us": _number, "chunks": _each(_any), "cut": _flag, "intervals": _each(_INTERVAL)}, {}
)
_TIMELINE = _fields({"lanes": _each(_LANE), "length_us": _number, "step": _number, "clock": _text}, {})
_SLOWEST = _fields(
    {**dict.fromkeys(("rank", "node"), _number), **dict.fromkeys(("ahead_s", "data_wait_s", "lead_s"), _number)}, {}
)
_STRAGGLER = _fields(
    {"ranks": _each(_count), "phase": _text, **dict.fromkeys(("node", "batch", "excess_s", "waited_s"), _number)},
    dict.fromkeys(("slower", "until"), _number),
)

_NEEDED: Mapping[str, Shape] = {
    "schema_version": _count,
    "run_id": _text,
    "indicators": _by_name(_DECLARATION),
}
_KNOWN: Mapping[str, Shape] = {
    **dict.fromkeys(("name", "group", "monitor"), _text),
    "mode": _one_of("max", "min"),
    **dict.fromkeys(("status", "created", "warmup", "written_by", "recorded_as"), _text),
    "tags": _each(_text),
    "targets": _each(_target),
    "missing": _REASONS,
    "methods": _REASONS,
    "intervals": _by_name(_row(_number, _number)),
    "statics": _AMOUNTS,
    "setup": _fields({}, {"hardware": _by_name(_any), "software": _by_name(_any)}),
    "tariff": _TARIFF,
    "priced": _each(_one_of(*PRICED)),
    "attempts": _each(_ATTEMPT),
    "lineage": _each(_row(_or_null(_count), _or_null(_count))),
    "repriced": _each(_fields({}, {"until": _text, "tariff": _TARIFF})),
    "census": _fields(
        dict.fromkeys(("counted_steps", "batches", "batches_not_counted"), _number),
        {"uncounted_calls": _by_name(_number), "took_s": _number},
    ),
    "communication": _each(
        _fields({"kind": _text, "group": _text, **dict.fromkeys(("ranks", "calls", "bytes"), _number)}, {})
    ),
    "trace": _fields(
        {"clock": _text, "by_category_s": _by_name(_number), **dict.fromkeys(("steps", "step_s", "idle_s"), _number)},
        dict.fromkeys(("windows", "took_s"), _number),
    ),
    "energy": _fields({}, {**dict.fromkeys(("gpu", "cpu", "ram"), _COMPONENT), "job_share_fraction": _number}),
    "by_whom_s": _each(_row(_text, _text, _number)),
    "ranks": _fields(
        {},
        {
            "slowest": _SLOWEST,
            "stragglers": _each(_STRAGGLER),
            "scores": _fields({}, dict.fromkeys(("relative", "individual"), _by_name(_each(_number)))),
            "gone": _REASONS,
            "late": _each(_any),
            "failed": _text,
            "of": _number,
        },
    ),
    "roofline": _fields({"words": _text}, {}),
    "memory_at_peak": _fields(
        {"phase": _or_null(_text), "total_bytes": _number},
        dict.fromkeys(
            ("param_bytes", "master_bytes", "grad_bytes", "opt_state_bytes", "activation_bytes", "other_bytes"),
            _number,
        ),
    ),
    "oom": _fields(
        {"in": _text, "phase": _text, "error": _text, "held_bytes": _by_name(_number)},
        dict.fromkeys(
            ("rank", "step", "asked_bytes", "allocated_bytes", "reserved_bytes", "capacity_bytes"),
            _number,
        ),
    ),
    "inference": _fields({}, {"batch_samples": _count}),
    "prediction": _fields({"amounts": _by_name(_AMOUNTS)}, {"setting": _by_name(_plain_value), "coverage": _number}),
    "step_profile": _fields(
        {"classes": _each(_row(_text, _text, _text, _number, _number, _number, _number)), "samples": _number},
        {
            **dict.fromkeys(
                ("resting_bytes", "batch_bytes", "blocks", "block_bytes", "boundary_bytes", "host_s"), _number
            ),
            "memory": _by_name(_AMOUNTS),
            "compiled": _flag,
            "device": _text,
        },
    ),
    "pipeline": _fields(
        {"schedule": _text, "stages": _number, "microbatches": _number, "chunks": _number},
        {"theory": _text, "timeline": _TIMELINE},
    ),
    "budget": _fields({}, {"limits": _by_name(_positive)}),
    "stopped": _fields(
        {"by": _text, "step": _number, "column": _text, "limit": _positive, "amount": _number},
        {},
    ),
    "hyperparameters": _by_name(_plain_value),
    "git": _fields({}, {"commit": _text, "dirty": _flag, "missing": _text}),
    "script": _text,
    "seeds": _by_name(_number),
    "owner": _text,
    "saves": _fields({}, {"count": _count, "train_s": _amount, "evaluate_s": _amount}),
    "search": _fields({}, {"trials": _number, "under": _text}),
}
_HEADER = _fields(_NEEDED, _KNOWN, nullable=("name", "group", "monitor", "mode", "status", "created"))

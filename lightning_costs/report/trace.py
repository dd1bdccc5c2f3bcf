"""Runs on a time axis: attempts and time accounts as JSON that Perfetto and Chrome's tracing draw.

Source: 'Trace Event Format', Google: complete events (`X`), counters (`C`) and metadata (`M`), in microseconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from lightning_costs.records.samples import Amount
from lightning_costs.records.time_buckets import ACCOUNTS, PARTS
from lightning_costs.run.attempts import seconds_of
from lightning_costs.run.record import RunRecord, printable_run

_ATTEMPTS, _ACCOUNTS = 1, 2
_TRACKS = {_ATTEMPTS: "attempts", _ACCOUNTS: "time accounts; their order between two points is not recorded"}
_Event = dict[str, Any]
_Row = Mapping[str, Any]


def trace_json(runs: Sequence[RunRecord]) -> str:
    """The runs, a process each, as a text that ui.perfetto.dev opens.

    Raises:
        ValueError: No run has any.
    """
    events: list[_Event] = []
    for pid, run in enumerate(map(printable_run, runs), start=1):
        if {"time", "total_s"} <= set(run.points.columns) and run.points.height:
            events += [{"pid": pid, **event} for event in _events(run)]
    if not events:
        raise ValueError("expected runs with time accounts (run folders, say); none of these has any")
    begin_s = min(event["ts"] for event in events if "ts" in event)
    for event in events:
        if "ts" in event:
            event["ts"] = _us(event["ts"] - begin_s)
    return json.dumps({"displayTimeUnit": "ms", "otherData": {"begin_unix_s": begin_s}, "traceEvents": events})


def _events(run: RunRecord) -> Iterator[_Event]:
    """Events of a run; `ts` is in Unix seconds yet, so that runs can be put on one axis."""
    yield {"ph": "M", "name": "process_name", "args": {"name": f"{run.name} ({run.header.get('status')})"}}
    for tid, name in _TRACKS.items():
        yield {"ph": "M", "name": "thread_name", "tid": tid, "args": {"name": name}}
    rows = run.points.to_dicts()
    yield from _attempts(run.header.get("attempts") or (), rows)
    kept: Sequence[Sequence[int | None]] = run.header.get("lineage") or [[0, None]]
    ended_s, monitor = -math.inf, run.header.get("monitor")
    for number, (before, row) in enumerate(pairwise([{}, *rows])):
        spent = _spent(before, row)
        took_s = spent.get("total_s") or 0.0
        begun_s = max(row["time"] - took_s, ended_s)
        ended_s = begun_s + took_s
        lost = not any((first or 0) <= number < (math.inf if end is None else end) for first, end in kept)
        yield from _accounts(spent, begun_s, {"step": row.get("step"), **({"lost": True} if lost else {})})
        energy_j = spent.get("energy_j")
        shown = {"samples_per_s": row.get("samples_per_s"), str(monitor): row.get(str(monitor))}
        shown["power_w"] = energy_j / took_s if energy_j is not None and took_s > 0 else None
        for name, amount in shown.items():
            if amount is not None and math.isfinite(amount):
                yield {"ph": "C", "name": name, "ts": ended_s, "args": {"value": amount}}


def _spent(before: _Row, row: _Row) -> dict[str, Amount]:
    """What a window took, of the columns that are drawn."""
    names = ("total_s", "energy_j", *(f"{name}_s" for name in (*ACCOUNTS, *PARTS)))
    now = {name: row.get(name) for name in names}
    return {name: None if value is None else max(0.0, value - (before.get(name) or 0.0)) for name, value in now.items()}


def _accounts(spent: Mapping[str, Amount], begun_s: float, about: _Row) -> Iterator[_Event]:
    """The accounts of a window one behind the other, each around its parts."""
    for account in ACCOUNTS:
        whole_s = spent.get(f"{account}_s") or 0.0
        if not whole_s:
            continue
        yield _complete(account, _ACCOUNTS, begun_s, whole_s, about)
        part_begun_s, left_s = begun_s, whole_s
        for part in (part for part, of in PARTS.items() if of == account):
            part_s = min(spent.get(f"{part}_s") or 0.0, left_s)
            if part_s:
                yield _complete(part, _ACCOUNTS, part_begun_s, part_s, about)
            part_begun_s, left_s = part_begun_s + part_s, left_s - part_s
        begun_s += whole_s


def _attempts(attempts: Sequence[_Row], rows: Sequence[_Row]) -> Iterator[_Event]:
    """Each attempt from its process's start to its end, and what lies between two."""
    down_s: float | None = None
    for number, attempt in enumerate(attempts, start=1):
        begun_s = seconds_of(attempt.get("started") or attempt.get("began"))
        ended_s = seconds_of(attempt.get("ended"))
        if ended_s is None and number == len(attempts):  # killed, or in progress
            ended_s = rows[-1]["time"]
        if begun_s is None or ended_s is None:
            continue
        if down_s is not None and begun_s > down_s:
            yield _complete("down", _ATTEMPTS, down_s, begun_s - down_s, {})
        down_s = ended_s
        about = {name: attempt[name] for name in ("device", "devices", "nodes", "from_step") if name in attempt}
        name = f"attempt {number} ({attempt.get('status') or 'running, or killed'})"
        yield _complete(name, _ATTEMPTS, begun_s, max(0.0, ended_s - begun_s), about)


def _complete(name: str, tid: int, begun_s: float, took_s: float, about: _Row) -> _Event:
    return {"ph": "X", "name": name, "tid": tid, "ts": begun_s, "dur": _us(took_s), "args": dict(about)}


def _us(seconds: float) -> float:
    return round(1e6 * seconds, 3)

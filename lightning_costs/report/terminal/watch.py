"""Runs in progress in the terminal: how good they are, what they cost so far and will at the end, and their budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lightning_costs.records.certainty import amount_of
from lightning_costs.records.formatting import MISSING, format_amount, format_number
from lightning_costs.report.terminal.run import Ahead, forecast
from lightning_costs.run.input_stalls import describe_input_stalls
from lightning_costs.run.record import RunRecord
from lightning_costs.run.summary import describe_ranks

_BLOCKS = "▁▂▃▄▅▆▇█"
_CURVE = 40
_BAR = 30
#: Costs that are watched, those that are limited besides.
_COLUMNS = ("total_s", "samples", "flop", "energy_j", "co2e_g", "cloud_usd")


def running_first(runs: Sequence[RunRecord], *, most: int) -> list[RunRecord]:
    """At most `most` runs: those in progress, then the newest."""
    newest = sorted(runs, key=lambda run: str(run.header.get("created", "")), reverse=True)
    return sorted(newest, key=lambda run: run.header.get("status") != "running")[:most]


def watch_view(runs: Sequence[RunRecord], *, marks: bool = True) -> RenderableType:
    """All runs, one below the other."""
    parts: list[RenderableType] = []
    for run in runs:
        parts += [*([Text()] if parts else []), *_run(run, marks=marks)]
    return Group(*parts)


def _run(run: RunRecord, *, marks: bool) -> Iterator[RenderableType]:
    header = run.header
    limits: Mapping[str, float] = (header.get("budget") or {}).get("limits", {})
    names = list(dict.fromkeys([*_COLUMNS, *limits]))
    ahead = forecast(run, names)
    status = str(header.get("status") or "unknown")
    if header.get("unsure"):
        status += ", or killed: its writer runs on another machine"
    steps = run.final.get("steps")
    done = f", {format_amount(steps, 'steps')}" if steps is not None else ""
    yield Text(f"{run.name}  ({status}{done})", style="bold")
    if ahead is not None and marks:
        line = Table.grid(padding=(0, 1))
        share = Text(f"{format_amount(ahead.done_fraction, 'fraction')} of the planned steps")
        line.add_row(ProgressBar(total=1.0, completed=ahead.done_fraction, width=_BAR), share)
        yield line
    if (quality := _quality(run, marks=marks)) is not None:
        yield Text(quality, no_wrap=True, overflow="ellipsis")
    yield _costs(run, ahead, limits, names)
    stalls = describe_input_stalls(header.get("setup") or {}, run.final)
    for verdict in (*stalls, *describe_ranks(header.get("ranks") or {}, run.final)):
        yield Text(verdict)


def _costs(run: RunRecord, ahead: Ahead | None, limits: Mapping[str, float], names: Sequence[str]) -> Table:
    declared: Mapping[str, Any] = run.header.get("indicators") or {}
    table = Table(box=None, pad_edge=False)
    table.add_column("cost", no_wrap=True)
    titles = ["so far", *(["at the end"] if ahead else []), *(["of the budget"] if limits else [])]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for name in names:
        amount = run.final.get(name)
        if name not in declared or (amount is None and name not in limits):
            continue
        unit = declared[name]["unit"]
        cells = [amount_of(run.header, name, amount, unit)]
        if ahead:
            end = ahead.totals.get(name)
            cells.append(end.words(unit) if end is not None else MISSING)
        if limits:
            limit = limits.get(name)
            known = limit is not None and amount is not None
            share = format_amount((amount or 0.0) / (limit or 1.0), "fraction")
            cells.append(f"{share} of {format_amount(limit, unit)}" if known else "" if limit is None else MISSING)
        table.add_row(str(declared[name].get("label") or name), *cells)
    return table


def _quality(run: RunRecord, *, marks: bool) -> str | None:
    """The metric's course, its best and its last value; None before it was logged."""
    monitor, higher = run.header.get("monitor"), run.header.get("mode") == "max"
    if monitor is None or monitor not in run.points.columns:
        return None
    values = [float(value) for value in run.points[str(monitor)].drop_nulls() if math.isfinite(value)]
    if not values:
        return None
    best = max(values) if higher else min(values)
    curve = f"{sparkline(values)}  " if marks and len(values) > 1 else ""
    return f"{monitor}  {curve}best {format_number(best)}, last {format_number(values[-1])}"


def sparkline(values: Sequence[float], width: int = _CURVE) -> str:
    """Values as blocks, the least one lowest; of more than fit, evenly spaced ones.

    Example:
        >>> sparkline([0.0, 0.5, 1.0]), sparkline([2.0, 2.0])
        ('▁▅█', '▁▁')
    """
    if len(values) > width:
        values = [values[round(at * (len(values) - 1) / (width - 1))] for at in range(width)]
    least, span = min(values), max(values) - min(values)
    top = len(_BLOCKS) - 1
    return "".join(_BLOCKS[math.floor((value - least) / span * top + 0.5) if span else 0] for value in values)

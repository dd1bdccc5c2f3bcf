"""One run in the terminal: who it is and how good it got, then what it cost, then what is missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from rich.table import Table

from lightning_costs.analysis.parts import commit_in_words
from lightning_costs.analysis.setup import flatten
from lightning_costs.records.forecast import Forecast, Forecaster
from lightning_costs.records.formatting import MISSING, format_amount, format_number
from lightning_costs.records.pipeline.ideal_bubble import describe_bubble
from lightning_costs.run.record import RunRecord
from lightning_costs.run.summary import SummaryRow, describe_attempts, describe_run, summary_rows
from lightning_costs.run.verdict import verdict

#: Most hyperparameters that are shown unless all are asked for.
MOST_SETTINGS = 12
#: Columns of which a run in progress shows the expected total.
_AHEAD = ("total_s", "energy_j", "co2e_g", "cloud_usd")


def who_table(run: RunRecord, *, everything: bool = False) -> Table:
    """When, on what and with which settings it ran, and how good it got."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _who(run, everything=everything):
        table.add_row(name, text)
    return table


def _who(run: RunRecord, *, everything: bool) -> Iterator[tuple[str, str]]:
    header = run.header
    setup: Mapping[str, Any] = header.get("setup") or {}
    if header.get("created"):
        yield "began", f"{str(header['created'])[:16].replace('T', ' ')} UTC"
    if hardware := _hardware(setup):
        yield "hardware", hardware
    yield from _quality(run)
    settings = [(name, value) for name, value in (header.get("hyperparameters") or {}).items() if value is not None]
    if settings:
        shown = settings if everything else settings[:MOST_SETTINGS]
        more = f" and {len(settings) - len(shown)} more" if len(settings) > len(shown) else ""
        yield "settings", ", ".join(f"{name}={value}" for name, value in shown) + more
    for optimizer in setup.get("optimizers") or ():
        if isinstance(optimizer, Mapping):
            rest = {name: value for name, value in optimizer.items() if name != "name"}
            yield "optimizer", ", ".join([str(optimizer.get("name", "")), *(f"{n}={v}" for n, v in rest.items())])
    if setup.get("schedulers"):
        yield "schedule", ", ".join(map(str, setup["schedulers"]))
    git = header.get("git") or {}
    commit = commit_in_words(header)
    if script := header.get("script"):
        yield "script", str(script)
    if commit is not None or git.get("missing"):
        yield "commit", commit or f"unknown: {git['missing']}"
    if seeds := header.get("seeds"):
        yield "seeds", ", ".join(f"{name}={seed}" for name, seed in seeds.items())
    for name in ("owner", "group"):
        if header.get(name):
            yield name, str(header[name])
    if header.get("tags"):
        yield "tags", ", ".join(map(str, header["tags"]))


def _hardware(setup: Mapping[str, Any]) -> str:
    found = flatten(setup.get("hardware") or {})
    device, cpu = found.get("device"), found.get("cpu")
    count, nodes = setup.get("devices"), setup.get("nodes")
    parts = [f"{count or 1} x {device}" if device else "", f"{cpu}" if cpu else ""]
    text = ", ".join(part for part in parts if part)
    return f"{text} on {nodes} nodes" if isinstance(nodes, int) and nodes > 1 else text


def _quality(run: RunRecord) -> Iterator[tuple[str, str]]:
    monitor, higher = run.header.get("monitor"), run.header.get("mode") == "max"
    if monitor is None:
        return
    if monitor not in run.points.columns or not (logged := run.points.drop_nulls(str(monitor))).height:
        near = f"; logged: {', '.join(run.quality_columns[:8])}" if run.quality_columns else ""
        yield "quality", f"{monitor} was never logged{near}"
        return
    values = [(float(value), step) for value, step in zip(logged[str(monitor)], logged["step"], strict=True)]
    finite = [pair for pair in values if math.isfinite(pair[0])]
    if not finite:
        yield "quality", f"best {monitor}: none of {len(values)} is a finite number"
        return
    best, step = max(finite) if higher else min(finite)
    count = f"over {len(values)} evaluation{'s' if len(values) != 1 else ''}"
    yield "quality", f"best {monitor}: {best:.5g} {count}, at step {step}; last {format_number(values[-1][0])}"
    targets = [float(target) for target in run.header.get("targets") or () if target is not None]
    if targets:
        words = [f"{t:g} {'reached' if (best >= t if higher else best <= t) else 'not reached'}" for t in targets]
        yield "targets", ", ".join(words)


def cost_table(rows: Sequence[SummaryRow], *, everything: bool = False, width: int = 100) -> Table:
    """The costs that are known, with how each was got: one line each, unless all is to be seen."""
    known = [row for row in rows if row.text != MISSING]
    table = Table(box=None, pad_edge=False)
    table.add_column("cost", no_wrap=True)
    table.add_column("amount", no_wrap=True)
    table.add_column("how", overflow="fold")
    left = width - sum(max((len(row[part]) for row in known), default=0) for part in (0, 1)) - 4
    for row in known:
        table.add_row(row.label, row.text, row.note if everything else _cut(row.note, max(left, 8)))
    return table


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}…"


def missing_lines(rows: Sequence[SummaryRow], *, everything: bool = False, width: int = 100) -> list[str]:
    """The missing costs by reason, a line a reason; cut to the width unless all is asked for."""
    by_reason: dict[str, list[str]] = {}
    for row in rows:
        if row.text == MISSING:
            by_reason.setdefault(row.note or "not measured", []).append(row.label)
    if not by_reason:
        return []
    lines = [f"- {', '.join(labels)}: {reason}" for reason, labels in by_reason.items()]
    if not everything:
        lines = [_cut(line, width) for line in lines]
    cut = " (--all for whole reasons)" if any(line.endswith("…") for line in lines) else ""
    return [f"missing{cut}:", *lines]


def sentences(run: RunRecord) -> list[str]:
    """What else the run says, and how much of it is to come."""
    bubble = describe_bubble(run.header.get("pipeline"), run.final)
    ahead = forecast_line(run)
    lines = [*describe_run(run.header, run.final), *bubble]
    lines.insert(1 if "oom" in run.header else 0, verdict(run.header, run.final).words())
    lines = [*describe_attempts(run.header, run.final), *lines]
    return [*([ahead] if ahead is not None else []), *lines]


class Ahead(NamedTuple):
    """What is to come of a run in progress: the share of its planned steps that are done, and totals at the end."""

    done_fraction: float
    totals: Mapping[str, Forecast]


def forecast_line(run: RunRecord) -> str | None:
    """What a run in progress will have cost at the end, as planned; None for one that is over or has no plan."""
    ahead, declared = forecast(run, _AHEAD), run.header["indicators"]
    if ahead is None or not ahead.totals:
        return None
    amounts = ", ".join(format_amount(each.middle, declared[name]["unit"]) for name, each in ahead.totals.items())
    return f"{format_amount(ahead.done_fraction, 'fraction')} of the planned steps are done; at the end: {amounts}"


def forecast(run: RunRecord, columns: Sequence[str]) -> Ahead | None:
    """What is to come of a run in progress, in these columns; None for one that is over or has no plan."""
    if run.header.get("status") != "running" or not run.points.height or "steps" not in run.points.columns:
        return None
    planned = _planned_steps(run.header.get("setup") or {}, run.final)
    done = run.final.get("steps")
    if planned is None or not done or done >= planned:
        return None
    names = [name for name in columns if name in run.header["indicators"] and name in run.points.columns]
    forecaster = Forecaster(names)
    for point in run.points.iter_rows(named=True):
        if point["steps"]:
            forecaster.observe(point["steps"], point, cycle=point["trigger"] == "evaluate")
    return Ahead(done / planned, forecaster.predict(planned))


def _planned_steps(setup: Mapping[str, Any], final: Mapping[str, float | None]) -> float | None:
    """Steps of the whole training as the Trainer was set; None if it was given no end."""
    epochs, batches = setup.get("max_epochs"), setup.get("planned_batches_per_epoch")
    most, accumulated = setup.get("max_steps"), setup.get("accumulate_grad_batches") or 1
    ends = []
    if isinstance(epochs, int) and isinstance(batches, int) and epochs > 0 and batches > 0:
        ends.append(float(math.ceil(batches / accumulated) * epochs))
    if isinstance(most, int) and most > 0:
        calls, steps = final.get("optimizer_steps"), final.get("steps")
        ends.append(most / (calls / steps) if calls and steps else float(most))
    return min(ends, default=None)


def shown_rows(run: RunRecord, *, everything: bool) -> list[SummaryRow]:
    """The rows of `cost_table` and `missing_lines`."""
    return summary_rows(run.header, run.final, everything=everything)

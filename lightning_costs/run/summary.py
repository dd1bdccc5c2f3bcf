"""A run in about ten rows for people, from its header and final costs alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, NamedTuple

from lightning_costs.records.certainty import amount_of, modelled_share
from lightning_costs.records.formatting import format_amount
from lightning_costs.records.limits import describe_budget
from lightning_costs.records.meter_info import COMPONENTS
from lightning_costs.run.input_stalls import describe_input_stalls
from lightning_costs.run.plan import describe_plan
from lightning_costs.run.step_shares import describe_steps


class SummaryRow(NamedTuple):
    """One line of a table: what, how much in human units, and how it was got or why it is missing."""

    label: str
    text: str
    note: str


def summary_rows(
    header: Mapping[str, Any], final: Mapping[str, float | None], *, everything: bool = False
) -> list[SummaryRow]:
    """The headline costs of a run in human units, missing ones with how to get them."""
    missing: Mapping[str, str] = header.get("missing", {})
    methods: Mapping[str, str] = header.get("methods", {})
    rows = []
    for name, declared in header["indicators"].items():
        if not (everything or declared["headline"]):
            continue
        amount = final.get(name)
        note = missing.get(name, "") if amount is None else methods.get(name, "")
        if amount is not None and (share := modelled_share(header, name, final)):
            note = f"{100 * share:.0f} % of it is modelled, not measured{f': {note}' if note else ''}"
        rows.append(SummaryRow(declared["label"], amount_of(header, name, amount, declared["unit"]), note))
    return rows


def describe_lost_work(header: Mapping[str, Any], final: Mapping[str, float | None]) -> str | None:
    """The lost work of a run, in words; None without lost work.

    Example:
        >>> describe_lost_work({"attempts": [{}, {}], "indicators": {}}, {"lost_s": 12.3, "total_s": 60.0})
        'lost 12.3 s of 60 s to restarts'
    """
    if len(header.get("attempts", ())) < 2 or "lost_s" not in header["indicators"] | final:
        return None
    lost_s, total_s = final.get("lost_s"), final.get("total_s")
    if lost_s is None:
        why = header.get("missing", {}).get("lost_s", "not measured")
        return f"lost an unknown part to restarts ({why})"
    return f"lost {format_amount(lost_s, 's')} of {format_amount(total_s, 's')} to restarts" if lost_s else None


def describe_attempts(header: Mapping[str, Any], final: Mapping[str, float | None]) -> list[str]:
    """The attempts of a run that was restarted, a line each, and what the restarts lost.

    Example:
        >>> describe_attempts({"attempts": [
        ...     {"began": "2026-01-02T03:04:05.678+00:00", "from_step": 0, "devices": 4, "status": "killed"},
        ...     {"began": "2026-01-02T04:04:05.678+00:00", "from_step": 120, "devices": 2},
        ... ], "indicators": {}}, {"lost_s": 0.0, "total_s": 60.0})
        ['attempt 1: 2026-01-02 03:04:05 UTC, from step 0, on 4 devices, killed',
         'attempt 2: 2026-01-02 04:04:05 UTC, from step 120, on 2 devices',
         'restarts lost nothing']
    """
    attempts = header.get("attempts", ())
    if len(attempts) < 2:
        return []
    lines = []
    for number, attempt in enumerate(attempts, 1):
        began = str(attempt.get("began", ""))[:19].replace("T", " ")
        devices = attempt.get("devices")
        parts = [
            f"{began} UTC" if began else "",
            f"from step {attempt['from_step']}" if "from_step" in attempt else "",
            f"on {devices} device{'s' if devices != 1 else ''}" if devices else "",
            str(attempt.get("status", "")),
        ]
        lines.append(f"attempt {number}: {', '.join(part for part in parts if part)}")
    if "lost_s" in header["indicators"] | final:
        lines.append(describe_lost_work(header, final) or "restarts lost nothing")
    return lines


_KINDS = {
    "param_bytes": "parameters",
    "master_bytes": "fp32 masters",
    "grad_bytes": "gradients",
    "opt_state_bytes": "optimizer state",
    "activation_bytes": "activations",
    "other_bytes": "other",
}


#: If one step in ten differs, 29 steps drawn at random are all alike in 1 of 20 trainings (0.9 ** 29 = 0.047).
FEW_COUNTS = 29


def describe_run(header: Mapping[str, Any], final: Mapping[str, float | None] | None = None) -> list[str]:
    """What a run says beside its columns: whether it waited for data, how energy was got, what is uncounted, and more.

    Example:
        >>> describe_run({"census": {"counted_steps": 64, "batches": 200, "batches_not_counted": 50}})
        ['FLOPs: 64 of 200 batches were counted; 50 are of kinds of which none was']
        >>> describe_run({"census": {"counted_steps": 9, "batches": 300, "batches_not_counted": 0},
        ...     "methods": {"flop": "exact; step census"}})
        ['FLOPs: 9 of 300 batches were counted, and agree; others may differ unseen']
    """
    lines = (
        [
            *describe_budget(header, final),
            *describe_plan(header, final),
            *describe_input_stalls(header.get("setup") or {}, final),
            *describe_steps(header, final),
        ]
        if final is not None
        else []
    )
    if oom := header.get("oom"):
        lines.insert(0, describe_out_of_memory(oom))
    if history := header.get("repriced"):
        day = str(history[-1].get("until", ""))[:10]
        lines.append(f"carbon and money were priced again on {day}; the earlier tariffs are in the header")
    if roofline := header.get("roofline"):
        lines.append(f"roofline of the training steps: {roofline['words']}")
    if at_peak := header.get("memory_at_peak"):
        held = {word: at_peak[name] for name, word in _KINDS.items() if at_peak.get(name)}
        kinds = ", ".join(f"{word} {format_amount(nbytes, 'bytes')}" for word, nbytes in held.items())
        total = format_amount(at_peak["total_bytes"], "bytes")
        lines.append(f"memory at its peak, {total} in the {at_peak['phase']} phase: {kinds}")
    lines += describe_ranks(header.get("ranks") or {}, final or {})
    lines += _energy(header.get("energy") or {})
    lines += _unmetered(header.get("attempts") or (), final or {})
    lines += _by_whom(header.get("by_whom_s", ()), final or {})
    if census := header.get("census"):
        lost, batches, counted = census["batches_not_counted"], census["batches"], census["counted_steps"]
        if lost:
            lines.append(f"FLOPs: {counted} of {batches} batches were counted; {lost} are of kinds of which none was")
        elif counted < min(batches, FEW_COUNTS) and _flops_are_exact(header):
            lines.append(f"FLOPs: {counted} of {batches} batches were counted, and agree; others may differ unseen")
        if calls := census.get("uncounted_calls"):
            named = ", ".join(f"{name} ({n} call{'s' if n != 1 else ''})" for name, n in calls.items())
            lines.append(f"FLOPs are a lower bound, no formula for: {named}")
    return lines


def _flops_are_exact(header: Mapping[str, Any]) -> bool:
    return str((header.get("methods") or {}).get("flop", "")).startswith("exact")


def describe_out_of_memory(facts: Mapping[str, Any]) -> str:
    """Where memory ran out, and what was held, by kind.

    Example:
        >>> describe_out_of_memory({"in": "training_step", "phase": "forward", "rank": 0, "step": 12, "error": "E",
        ...     "asked_bytes": 2**31, "held_bytes": {"param_bytes": 2**30, "grad_bytes": 0}})
        'out of memory in training_step (forward) after 12 steps: 2.00 GiB were asked for; held: parameters 1.00 GiB'
    """
    where = " ".join(filter(None, (facts["in"], f"({facts['phase']})" if facts["in"] else facts["phase"])))
    rank = f" on rank {facts['rank']}" if facts.get("rank") else ""
    after = f" after {facts['step']:,} steps" if "step" in facts else ""
    parts = []
    if "asked_bytes" in facts:
        parts.append(f"{format_amount(facts['asked_bytes'], 'bytes')} were asked for")
    if "allocated_bytes" in facts and "capacity_bytes" in facts:
        allocated, reserved, capacity = (
            format_amount(facts.get(f"{name}_bytes"), "bytes") for name in ("allocated", "reserved", "capacity")
        )
        parts.append(f"{allocated} allocated and {reserved} reserved of {capacity}")
    kinds = [
        f"{word} {format_amount(n, 'bytes')}" for name, word in _KINDS.items() if (n := facts["held_bytes"].get(name))
    ]
    if kinds:
        parts.append(f"held: {', '.join(kinds)}")
    return f"out of memory{f' in {where}' if where else ''}{rank}{after}: {'; '.join(parts) or facts['error']}"


def describe_straggler(straggler: Mapping[str, Any]) -> str:
    """Who kept the others waiting, with what, from when on, and how long.

    Example:
        >>> describe_straggler({"ranks": [3], "node": 1, "phase": "input", "batch": 96, "excess_s": 0.02,
        ...                     "slower": 0.1, "waited_s": 31.0, "until": None})
        'rank 3 on node 1 is a straggler (input): 10 % slower than the others, 20 ms a batch before ranks meet, \
found after 96 batches; the others waited 31 s for it'
    """
    ranks = straggler["ranks"]
    who = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
    slower = (
        f"{100 * straggler['slower']:.0f} % slower than the others, " if straggler.get("slower") is not None else ""
    )
    until = f", until batch {straggler['until']}" if straggler.get("until") is not None else ""
    one = len(ranks) == 1
    return (
        f"{who} on node {straggler['node']} {'is a straggler' if one else 'are stragglers'} ({straggler['phase']}): "
        f"{slower}{format_amount(straggler['excess_s'], 's')} a batch before ranks meet, "
        f"found after {straggler['batch']} batches{until}; "
        f"the others waited {format_amount(straggler['waited_s'], 's')} for {'it' if one else 'them'}"
    )


#: A rank whose own work takes less of the training time beyond the others' than this is not named.
_LEAST_AHEAD = 0.02


def describe_ranks(ranks: Mapping[str, Any], final: Mapping[str, float | None]) -> list[str]:
    """The straggler, and the ranks that did not report.

    Example:
        >>> slowest = {"rank": 3, "node": 1, "ahead_s": 12.0, "data_wait_s": 11.0, "lead_s": 2.0}
        >>> describe_ranks({"heard": 4, "of": 4, "slowest": slowest}, {"train_s": 36.0})
        ['rank 3 on node 1 delays the others: 12 s of 36 s (its data 11 s, its work before the backward 2 s)']
    """
    lines = [describe_straggler(each) for each in ranks.get("stragglers") or ()]
    slowest, train_s, of = ranks.get("slowest"), final.get("train_s"), ranks.get("of", "all")
    if "stragglers" not in ranks and slowest is not None and train_s and slowest["ahead_s"] >= _LEAST_AHEAD * train_s:
        lines.append(
            f"rank {slowest['rank']} on node {slowest['node']} delays the others: "
            f"{format_amount(slowest['ahead_s'], 's')} of {format_amount(train_s, 's')} "
            f"(its data {format_amount(slowest['data_wait_s'], 's')}, its work before the backward "
            f"{format_amount(slowest['lead_s'], 's')})"
        )
    if ended := ranks.get("gone"):
        lines.append(f"{len(ended)} of {of} ranks no longer report: {'; '.join(ended.values())}")
    if late := ranks.get("late"):
        lines.append(f"{len(late)} of {of} ranks are late, counted with their last totals: {late}")
    if failed := ranks.get("failed"):
        lines.append(f"ranks could not exchange their costs: {failed}")
    return lines


def _energy(meters: Mapping[str, Any]) -> list[str]:
    """How the energy was got, component by component with its bound, and whose else it is."""
    parts = []
    for component in COMPONENTS:
        how = meters.get(component)
        if how is None or how["method"] == "none":
            continue
        bound = "no bound" if how["error_j"] is None else f"within {format_amount(how['error_j'], 'j')}"
        parts.append(f"{component.upper()} by {how['method']} ({how['instrument']}), {bound}")
    lines = [f"energy: {'; '.join(parts)}"] if parts else []
    if ratio := meters.get("gpu", {}).get("counter_over_power"):
        lines.append(f"NVML's energy counter over its own power: {ratio:.3f}")
    if (share := meters.get("job_share_fraction")) is not None:
        lines.append(
            f"node energy is that of all processes on the node: {format_amount(share, 'fraction')} of the CPU time was "
            "this job's"
        )
    return lines


#: Time without a meter below this share of the total time is not named.
_LEAST_UNMETERED = 0.1


def _unmetered(attempts: Iterable[Mapping[str, Any]], final: Mapping[str, float | None]) -> list[str]:
    """How much of the total time the energy leaves out, if a reader who divides one by the other would go wrong."""
    total_s, unmetered_s = final.get("total_s"), sum(attempt.get("unmetered_s") or 0.0 for attempt in attempts)
    if final.get("energy_j") is None or not total_s or unmetered_s < _LEAST_UNMETERED * total_s:
        return []
    return [
        f"energy is metered from the monitor's setup on: the start-up before it, {format_amount(unmetered_s, 's')} of "
        f"{format_amount(total_s, 's')}, is in the total time and not in the energy"
    ]


#: Callbacks and loggers below this share of the total time are not named.
_LEAST_SHARE = 0.01


def _by_whom(by_whom_s: Iterable[tuple[str, str, float]], final: Mapping[str, float | None]) -> list[str]:
    """Who took time beside training, the longest first."""
    total_s = final.get("total_s") or 0.0
    accounts: dict[str, list[str]] = {}
    for account, source, seconds in by_whom_s:
        if seconds >= _LEAST_SHARE * total_s > 0:
            accounts.setdefault(account, []).append(f"{source} {format_amount(seconds, 's')}")
    return [
        f"{format_amount(final.get(f'{account}_s'), 's')} of {account} time: {', '.join(who)}"
        for account, who in accounts.items()
    ]


def html_table(title: str, rows: Iterable[SummaryRow]) -> str:
    """The rows as an HTML table for notebooks; every text is escaped."""
    body = "".join(
        f"<tr><th style='text-align:left'>{escape(row.label)}</th><td>{escape(row.text)}</td>"
        f"<td style='text-align:left;opacity:.7'>{escape(row.note)}</td></tr>"
        for row in rows
    )
    return f"<table><caption>{escape(title)}</caption>{body}</table>"


def sum_known(finals: Iterable[Mapping[str, float | None]], column: str) -> tuple[float | None, int]:
    """A column's sum over the runs that have it, and the number of the others; None if none has it."""
    amounts = [final.get(column) for final in finals]
    known = [amount for amount in amounts if amount is not None]
    return (math.fsum(known) if known else None), len(amounts) - len(known)

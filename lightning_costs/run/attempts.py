"""The attempts of a run by clocks and signals: time between them, in the queue, and how often it broke."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from lightning_costs.records.samples import Amount

#: Columns that change where an attempt begins, and at no other time.
OF_ATTEMPTS = ("down_s", "queue_s", "disruptions")
NO_START = "an earlier attempt of this run did not record when its process started"
NO_FOLDER = "the folder of the run's earlier attempt is not available"
NO_QUEUE = "needs the time of submission, from SLURM's scontrol or LIGHTNING_COSTS_SUBMIT_TIME=$(date +%s) sbatch ..."
BRANCHED = "a branch that began from another run's checkpoint: the time between them is no restart's"

_Attempts = Sequence[Mapping[str, Any]]


def seconds_of(moment: object) -> float | None:
    """Unix seconds of an ISO text; None for what is none.

    Example:
        >>> seconds_of("1970-01-01T00:01:00+00:00"), seconds_of("soon")
        (60.0, None)
    """
    try:
        parsed = datetime.fromisoformat(str(moment))
        return (parsed if parsed.tzinfo is not None else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def iso(moment_s: float) -> str:
    """Unix seconds as an ISO text of milliseconds in UTC.

    Example:
        >>> iso(60.0)
        '1970-01-01T00:01:00.000+00:00'
    """
    return datetime.fromtimestamp(moment_s, UTC).isoformat(timespec="milliseconds")


def disruptions(attempts: _Attempts) -> int:
    """How often a run was broken off and begun again, as far as anything is left of it.

    An attempt that ended by itself was not disrupted. One that died before its first batch is in `unbegun` of the
    next one, or in a count of SLURM's that leaps.

    Example:
        >>> disruptions([{"status": "killed", "restart": 0}, {"status": "finished", "restart": 2}, {"restart": 3}])
        2
    """
    broken: int = sum(attempt.get("status") != "finished" for attempt in attempts[:-1])
    unbegun: int = len(attempts[0].get("unbegun") or ()) if attempts else 0
    for before, attempt in pairwise(attempts):
        traces, was, restart = len(attempt.get("unbegun") or ()), before.get("restart"), attempt.get("restart")
        unbegun += traces if was is None or restart is None else max(traces, int(restart) - int(was) - 1)
    return broken + unbegun


def first_start_s(attempts: _Attempts) -> float | None:
    """When the first attempt started, one that trained no batch if there was one before; Unix seconds."""
    return seconds_of(attempts[0].get("unbegun_since") or attempts[0].get("started"))


def at_begin(attempts: _Attempts, spent_s: Amount) -> tuple[dict[str, Amount], dict[str, str]]:
    """The columns `OF_ATTEMPTS` where the last of these attempts begins, and why some are missing.

    What lies between the first start and this one, and is in no account of the attempts before, is down time: from
    the last record of a process to the start of the next one.

    Example:
        >>> first, second = {"started": iso(0.0), "status": "killed"}, {"started": iso(100.0)}
        >>> at_begin([first, second], 60.0)[0]
        {'down_s': 40.0, 'queue_s': None, 'disruptions': 1.0}
    """
    amounts: dict[str, Amount] = {"down_s": 0.0, "queue_s": None, "disruptions": float(disruptions(attempts))}
    missing = {}
    if len(attempts) > 1 or "unbegun_since" in attempts[0]:
        first_s, last_s = first_start_s(attempts), seconds_of(attempts[-1].get("started"))
        if first_s is None or last_s is None:
            amounts["down_s"], missing["down_s"] = None, NO_START
        elif spent_s is None:
            amounts["down_s"], missing["down_s"] = None, "needs total_s of the attempts before"
        else:
            amounts["down_s"] = max(0.0, last_s - first_s - spent_s)
    queued = [attempt.get("queue_s") for attempt in attempts]
    if None in queued:
        missing["queue_s"] = NO_QUEUE
    else:
        amounts["queue_s"] = sum(float(seconds) for seconds in queued if seconds is not None)
    return amounts, missing

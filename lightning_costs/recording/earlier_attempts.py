"""What the folder of a run records of its earlier attempts, when another one continues it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any

from lightning_costs.records.ledger import LOST
from lightning_costs.records.samples import Amount
from lightning_costs.storage.run_folder.reader import EarlierAttempts


def attempts_of(earlier: EarlierAttempts) -> list[dict[str, Any]]:
    """The attempts, each with the tariff that it was under; one that did not write its end was killed."""
    attempts = [dict(attempt) for attempt in earlier.header.get("attempts", [])]
    if attempts and attempts[-1].get("status", "killed") == "killed" and "ended" not in attempts[-1]:
        attempts[-1]["status"] = "killed"
        if len(earlier.points) > attempts[-1].get("row", 0):
            last = datetime.fromtimestamp(earlier.points[-1].time, UTC)
            attempts[-1]["ended"] = last.isoformat(timespec="milliseconds")
    for attempt in attempts:
        attempt.setdefault("tariff", earlier.header.get("tariff", {}))
    return attempts


def spent_in(earlier: EarlierAttempts) -> dict[str, Any]:
    """The folder's last totals, and what of them was lost, as a state of the ledger."""
    attempts = earlier.header.get("attempts") or [{}]
    lost: Mapping[str, Amount] | None = attempts[-1].get("lost", None if len(attempts) > 1 else {})
    costs = earlier.final
    return {"costs": costs, "lost": {} if lost is None else {name: lost.get(name, 0.0) for name in costs}}


def ran_since(state: Mapping[str, Any], earlier: EarlierAttempts) -> bool:
    """Whether the run trained on after a checkpoint, as its folder has it: only then is anything lost."""
    then, now = state["ledger"]["costs"].get("steps"), earlier.final.get("steps")
    if then is not None and now is not None:
        return bool(now > then)
    rows: list[tuple[int, int]] = state.get("lineage") or [(0, 0)]
    later = earlier.points[rows[-1][1] :]
    again = len(earlier.header.get("attempts", ())) > len(state["header"]["attempts"])
    return bool(later) and (again or max(point.step for point in later) >= state.get("step", 0))


def notes_of_resumed(
    columns: Collection[str], totals: Mapping[str, Amount], notes: Mapping[str, str]
) -> dict[str, str]:
    """Why columns are missing once earlier totals are taken up: an earlier attempt did not measure `columns`."""
    unmeasured = "an earlier attempt of this run did not measure it"
    found = {column: notes.get(column, unmeasured) for column in columns}
    for column, base in LOST.items():
        if column in totals and totals[column] is None:
            found[column] = f"needs {base}: {found[base]}" if base in columns else notes.get(column, unmeasured)
    return found

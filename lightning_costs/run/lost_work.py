"""What it took to reach the state a run is in: its curve without the work that restarts lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lightning_costs.records.ledger import LOST

if TYPE_CHECKING:
    import polars

#: 'spent': all that was spent, lost work in it. 'to_reach': what led to each state.
Curve = Literal["spent", "to_reach"]

UNKNOWN = "what the run's restarts lost is unknown"


def without_lost_work(points: polars.DataFrame, header: Mapping[str, Any]) -> tuple[polars.DataFrame, dict[str, str]]:
    """The points that led to the run's last attempt, and why counters are missing in them that are known as spent.

    Counters are without what was lost by then: an attempt's `lost` for the points from its `row` on. `lineage` are the
    [first, end) rows that are no lost work.
    """
    import polars

    attempts: Sequence[Mapping[str, Any]] = header.get("attempts", ())
    lineage: Sequence[Sequence[int | None]] = header.get("lineage", [[0, None]])
    last = points.height
    kept = [row for first, end in lineage for row in range(first or 0, last if end is None else min(end, last))]
    by_row: list[Mapping[str, Any] | None] = [{}] * points.height
    for attempt in attempts:
        if (row := attempt.get("row")) is not None or len(attempts) > 1:
            row = min(row or 0, last)
            by_row[row:] = [attempt.get("lost")] * (last - row)
    counters = [name for name, declared in header["indicators"].items() if declared["kind"] == "counter"]
    reasons: dict[str, str] = {}
    columns = []
    for name in counters:
        if name not in points.columns:
            continue
        base = LOST.get(name, name)
        lost = [None if at is None else at.get(base, 0.0) for at in by_row]
        columns.append(points[name] - polars.Series(name, lost, polars.Float64))
        if points[name].null_count() < points.height and None in lost:
            reasons[name] = UNKNOWN
    return points.with_columns(columns)[kept], reasons

"""What of a run's totals was kept, and its curve without the work that restarts lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from lightning_costs.records.ledger import LOST
from lightning_costs.records.samples import Amount

if TYPE_CHECKING:
    import polars

#: Parts of training time in which nothing was learned, as `badput_of_training` splits it.
TRAINING = ("data_wait", "device_idle", "compile", "slow_steps")
#: Gauges that follow from totals and lost work.
OF_KEPT = ("productive_s", "goodput_fraction")

_Costs = Mapping[str, Amount]


def lost_of(header: Mapping[str, Any]) -> Mapping[str, Amount] | None:
    """What restarts lost, by column, those of 0 left out; None if it was not recorded.

    Example:
        >>> lost_of({"attempts": [{}]}), lost_of({"attempts": [{}, {"lost": {"train_s": 1.0}}]})
        ({}, {'train_s': 1.0})
    """
    attempts: Sequence[Mapping[str, Any]] = header.get("attempts") or ()
    if len(attempts) < 2:
        return {}
    lost: Mapping[str, Amount] | None = attempts[-1].get("lost")
    return lost


def kept_of(costs: _Costs, lost: _Costs | None, name: str) -> Amount:
    """What was kept of a counter; None if its total or what was lost of it is unknown.

    Example:
        >>> kept_of({"train_s": 9.0}, {"train_s": 2.0}, "train_s"), kept_of({"train_s": 9.0}, None, "train_s")
        (7.0, None)
    """
    total = costs.get(name)
    if total is None or lost is None or (lost_amount := lost.get(name, 0.0)) is None:
        return None
    return total - lost_amount


def badput_of_training(costs: _Costs, lost: _Costs | None) -> dict[str, float]:
    """Seconds of kept training in which nothing was learned, by cause; they never overlap, nor exceed the training.

    On a CUDA device waiting for data is what the device waited, the mean over devices, and not what the host did. What
    the run did not measure is 0 here.

    Example:
        >>> badput_of_training({"train_s": 10.0, "data_wait_s": 2.0, "slow_s": 0.5}, {})
        {'data_wait': 2.0, 'device_idle': 0.0, 'compile': 0.0, 'slow_steps': 0.5}
    """

    def kept(name: str) -> float:
        return max(0.0, kept_of(costs, lost, name) or 0.0)

    idle_s, idle_data_s = kept_of(costs, lost, "idle_s"), kept_of(costs, lost, "idle_data_s")
    if idle_s is not None and idle_data_s is not None:
        total_s, device_s = costs.get("total_s") or 0.0, costs.get("device_s") or 0.0
        devices = max(1.0, device_s / total_s) if total_s > 0 else 1.0
        # Idle in others' hooks is no training that could be lost: it is in other_s.
        idle_else_s = idle_s - idle_data_s - kept("idle_hooks_s")
        parts = [max(0.0, idle_data_s) / devices, max(0.0, idle_else_s) / devices]
    else:
        parts = [kept("data_wait_s"), 0.0]
    compile_s = kept("compile_s")
    slow_s = max(0.0, kept("slow_s") - compile_s)  # a step that compiles is a slow one
    left_s, split = kept("train_s"), {}
    for name, seconds in zip(TRAINING, [*parts, compile_s, slow_s], strict=True):
        split[name] = min(seconds, left_s)
        left_s -= split[name]
    return split


def productive(costs: _Costs, lost: _Costs | None) -> dict[str, Amount]:
    """Seconds of training that were kept, without waiting, idle, compilation and slow steps; and their share.

    The share is of the wall clock from the first attempt's start: `total_s` and `down_s`.

    Example:
        >>> productive({"train_s": 8.0, "data_wait_s": 2.0, "total_s": 9.0, "down_s": 1.0}, {"train_s": 1.0})
        {'productive_s': 5.0, 'goodput_fraction': 0.5}
    """
    train_s, total_s, down_s = kept_of(costs, lost, "train_s"), costs.get("total_s"), costs.get("down_s")
    if train_s is None:
        return {"productive_s": None, "goodput_fraction": None}
    productive_s = train_s - sum(badput_of_training(costs, lost).values())
    known = total_s is not None and down_s is not None and total_s + down_s > 0
    return {"productive_s": productive_s, "goodput_fraction": productive_s / (total_s + down_s) if known else None}  # type: ignore[operator]


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

"""One step of a pipeline as plain data: a lane per stage, and the lanes of several processes put on one clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

#: What an interval of a lane is, by its letter; F, B, I and W as in torch and in Qi et al. 2023 (arXiv 2401.10241).
KINDS = {
    "F": "forward",
    "B": "backward",
    "I": "backward, input gradient",
    "W": "backward, weight gradient",
    "S": "send",
    "R": "receive",
    "L": "load",
    "G": "reduce gradients",
    "U": "optimizer step",
}
#: The kinds in which a stage is busy.
COMPUTE = ("F", "B", "I", "W")
#: Intervals that a lane holds at most: with 40 characters each it stays under 64 KiB as JSON.
MOST_INTERVALS = 1500


class Span(NamedTuple):
    """What a stage did for a while.

    Args:
        kind: One of `KINDS`.
        chunk: Which of the rank's parts of the model; 0 if it has one.
        microbatch: Which micro-batch; -1 if it belongs to none.
        begun_s: Seconds since the step began on this rank.
        ended_s: Likewise.
    """

    kind: str
    chunk: int
    microbatch: int
    begun_s: float
    ended_s: float


Lane = Mapping[str, Any]


def busy_s(intervals: Iterable[Span]) -> float:
    """Seconds in which at least one of the intervals ran: overlapping ones count once.

    Example:
        >>> busy_s([Span("F", 0, 0, 0.0, 2.0), Span("B", 0, 0, 1.0, 3.0), Span("F", 0, 1, 5.0, 6.0)])
        4.0
    """
    total_s, until_s = 0.0, -math.inf
    for interval in sorted(intervals, key=lambda i: i.begun_s):
        total_s += max(0.0, interval.ended_s - max(interval.begun_s, until_s))
        until_s = max(until_s, interval.ended_s)
    return total_s


def stage_timeline(
    intervals: Sequence[Span],
    *,
    step: int,
    rank: int,
    node: int,
    replica: int,
    stage: int,
    chunks: Sequence[int],
    began: float,
    clock: str,
    length_s: float,
) -> dict[str, Any]:
    """A stage's step as plain data that JSON can hold, in microseconds, small enough to send (under 64 KiB).

    If there are too many intervals, sends and receives are left out first, then the last ones; `cut` says so.
    `chunks` are the model's parts that the stage holds, numbered as a micro-batch passes them; `began` is Unix time.
    """
    kept = list(intervals)
    if len(kept) > MOST_INTERVALS:
        kept = [interval for interval in kept if interval.kind in COMPUTE]
    return {
        "step": step,
        "rank": rank,
        "node": node,
        "replica": replica,
        "stage": stage,
        "chunks": list(chunks),
        "began": round(began, 6),
        "clock": clock,
        "length_us": round(1e6 * length_s),
        "cut": len(kept) > MOST_INTERVALS,
        "intervals": [
            [i.kind, i.chunk, i.microbatch, round(1e6 * i.begun_s), round(1e6 * i.ended_s)]
            for i in kept[:MOST_INTERVALS]
        ],
    }


def merge_timelines(lanes: Iterable[Lane]) -> dict[str, Any] | None:
    """Lanes of one replica's stages as one picture's data: all on the clock of the first stage, whose step begins at 0.

    Of several replicas the one of the lowest rank is taken, of several steps the latest that most lanes are of. None of
    no lanes.
    """
    by_rank = sorted(lanes, key=lambda each: each["rank"])
    if not by_rank:
        return None
    of_replica = [each for each in by_rank if each["replica"] == by_rank[0]["replica"]]
    steps = [each["step"] for each in of_replica]
    step = max(set(steps), key=lambda number: (steps.count(number), number))
    by_stage = {each["stage"]: each for each in reversed(of_replica) if each["step"] == step}
    ordered = [by_stage[stage] for stage in sorted(by_stage)]
    moves = clock_offsets_us(ordered)
    ends = [each["length_us"] + move for each, move in zip(ordered, moves, strict=True)]
    return {
        "step": step,
        "clock": _clock_words(ordered),
        "length_us": max(ends),
        "lanes": [
            {
                "rank": each["rank"],
                "stage": each["stage"],
                "chunks": each["chunks"],
                "cut": each["cut"],
                "begun_us": move,
                "ended_us": end,
                "intervals": [[*what, begun + move, ended + move] for *what, begun, ended in each["intervals"]],
            }
            for each, move, end in zip(ordered, moves, ends, strict=True)
        ],
    }


def clock_offsets_us(lanes: Sequence[Lane]) -> list[int]:
    """Microseconds to add to each lane so that all are on the first one's clock.

    Hosts' clocks are compared by Unix time, which processes of one machine share. Lanes of other machines are shifted
    so that no micro-batch arrives before it was sent, as are lanes read from a device's events. The shift lies between
    the least that forward passes allow and the most that backward passes do, as NTP bounds an offset by a round trip.
    """
    moves: list[int] = []
    for index, this in enumerate(lanes):
        guess = round(1e6 * (this["began"] - lanes[0]["began"]))
        sure = this["clock"] == lanes[0]["clock"] == "host" and this["node"] == lanes[0]["node"]
        if index and not sure:
            least, most = _bounds(this, list(zip(lanes[:index], moves, strict=True)))
            if this["clock"] == "device" and math.isfinite(least) and math.isfinite(most):
                guess = round((least + most) / 2)
            else:
                guess = round(min(max(guess, least), most))
        moves.append(guess)
    return moves


def _bounds(this: Lane, placed: Sequence[tuple[Lane, int]]) -> tuple[float, float]:
    """Between which moves a lane's passes follow those that they need, in the lanes that were placed before."""
    begins, ends = _passes(this, 0)
    least, most = -math.inf, math.inf
    for other, move in placed:
        other_begins, other_ends = _passes(other, move)
        for (way, part, microbatch), begun in begins.items():
            needed = other_ends.get((way, part - 1 if way == "F" else part + 1, microbatch))
            if needed is not None:
                least = max(least, needed - begun)
        for (way, part, microbatch), ended in ends.items():
            needing = other_begins.get((way, part + 1 if way == "F" else part - 1, microbatch))
            if needing is not None:
                most = min(most, needing - ended)
    if least > most:  # clocks jitter by microseconds
        least = most = (least + most) / 2
    return least, most


_Passes = dict[tuple[str, int, int], int]


def _passes(lane: Lane, move: int) -> tuple[_Passes, _Passes]:
    """When each pass of a micro-batch through a part of the model began and ended; B stands for I, too."""
    begins: _Passes = {}
    ends: _Passes = {}
    for kind, chunk, microbatch, begun, ended in lane["intervals"]:
        if kind in ("F", "B", "I"):
            key = ("F" if kind == "F" else "B", lane["chunks"][chunk], microbatch)
            begins.setdefault(key, begun + move)
            ends[key] = ended + move
    return begins, ends


def _clock_words(lanes: Sequence[Lane]) -> str:
    if any(each["clock"] == "device" for each in lanes):
        return "each device's own events; stages aligned so that no micro-batch arrives before it left"
    if len({each["node"] for each in lanes}) > 1:
        return "each host's clock; other machines aligned so that no micro-batch arrives before it left"
    return "the host's clock, one for all stages"

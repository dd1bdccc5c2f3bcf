from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stages import gpipe, lane_of

from lightning_costs.records.pipeline.timeline import MOST_INTERVALS, Span, busy_s, clock_offsets_us, merge_timelines


def test_processes_of_one_host_are_put_on_one_clock_by_unix_time() -> None:
    truth = gpipe(3, 4)
    told = merge_timelines([lane_of(s, truth[s], late_s=0.01 * s) for s in (2, 0, 1)])
    assert told is not None
    assert [each["stage"] for each in told["lanes"]] == [0, 1, 2]
    for s, each in enumerate(told["lanes"]):
        assert each["begun_us"] == 10_000 * s
        expected = [[i.kind, 0, i.microbatch, round(1e6 * i.begun_s), round(1e6 * i.ended_s)] for i in truth[s]]
        assert each["intervals"] == [
            [*what, pytest.approx(a, abs=2), pytest.approx(b, abs=2)] for *what, a, b in expected
        ]
    assert told["clock"] == "the host's clock, one for all stages"


@given(
    p=st.integers(2, 5),
    m=st.integers(1, 6),
    wrong_s=st.lists(st.floats(-3, 3), min_size=5, max_size=5),
    clock=st.sampled_from(["host", "device"]),
)
def test_on_clocks_that_disagree_no_microbatch_arrives_before_it_left(
    p: int, m: int, wrong_s: list[float], clock: str
) -> None:
    truth = gpipe(p, m)
    lanes = [lane_of(s, truth[s], node=s, clock=clock) for s in range(p)]
    lanes = [{**each, "began": each["began"] + wrong_s[s] * (s > 0)} for s, each in enumerate(lanes)]
    told = merge_timelines(lanes)
    assert told is not None
    ends: dict[tuple[str, int, int], int] = {}
    begins: dict[tuple[str, int, int], int] = {}
    for each in told["lanes"]:
        for kind, _, microbatch, begun, ended in each["intervals"]:
            begins[kind, each["stage"], microbatch], ends[kind, each["stage"], microbatch] = begun, ended
    for kind, stage, microbatch in begins:
        before = (kind, stage + (-1 if kind == "F" else 1), microbatch)
        if before in ends:
            assert begins[kind, stage, microbatch] >= ends[before] - 2  # microseconds are rounded
    assert "aligned so that no micro-batch arrives before it left" in told["clock"]


def test_a_clock_that_is_right_is_not_moved() -> None:
    truth = gpipe(2, 4)
    lanes = [lane_of(0, truth[0]), lane_of(1, truth[1], late_s=0.005, node=1)]
    assert clock_offsets_us(lanes) == [0, 5000]


def test_a_lane_of_any_length_is_small_enough_to_send_and_keeps_passes_before_messages() -> None:
    passes = [Span("F", 3, 1000 + i, 100.0 + i, 100.5 + i) for i in range(MOST_INTERVALS)]
    messages = [Span("S", 3, 1000 + i, 100.5 + i, 101.0 + i) for i in range(MOST_INTERVALS)]
    made = lane_of(0, [*passes, *messages])
    assert len(json.dumps(made)) < 64 * 1024
    assert {kind for kind, *_ in made["intervals"]} == {"F"}
    assert not made["cut"]
    made = lane_of(0, [*passes, *passes])
    assert made["cut"]
    assert len(made["intervals"]) == MOST_INTERVALS


def test_of_several_replicas_the_first_is_drawn_and_of_several_steps_the_one_most_lanes_are_of() -> None:
    truth = gpipe(2, 2)
    lanes = [
        lane_of(s, truth[s], rank=2 * replica + s, replica=replica, step=4 if (replica, s) == (0, 1) else 5)
        for replica in (0, 1)
        for s in (0, 1)
    ]
    told = merge_timelines(lanes)
    assert told is not None
    assert (told["step"], [each["rank"] for each in told["lanes"]]) == (5, [0])
    assert merge_timelines([]) is None


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=12))
def test_busy_seconds_are_those_of_the_union(ends: list[tuple[int, int]]) -> None:
    intervals = [Span("F", 0, 0, float(min(pair)), float(max(pair))) for pair in ends]
    covered = {second for i in intervals for second in range(int(i.begun_s), int(i.ended_s))}
    assert busy_s(intervals) == len(covered)

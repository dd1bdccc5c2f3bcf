from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from math import nan

import numpy as np
import pytest
from fakes import declared
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.ranks.aggregator import RANK_TIMEOUT_S, RankAggregator
from lightning_costs.ranks.snapshot import RankSnapshot, RankTotals, decode, encode
from lightning_costs.ranks.stragglers import own_blocks
from lightning_costs.records.samples import Amount, RankInfo

DECLARED = {
    "samples": declared("samples", unit="samples", kind="counter", scope="replica", across="sum"),
    "cpu_energy_j": declared("cpu_energy_j", unit="j", kind="counter", scope="node", across="sum"),
    "total_s": declared("total_s", kind="counter", scope="job", across="rank0"),
    "data_wait_s": declared("data_wait_s", kind="counter", scope="rank", across="max"),
    "rank_max_lead_s": declared("rank_max_lead_s", kind="counter", scope="rank", across="max"),
    "param_bytes": declared("param_bytes", unit="bytes", kind="gauge", scope="rank", across="sum"),
}
COLUMNS = list(DECLARED)


class Ranks:
    """A job of so many ranks, two on a node, whose letters can be held back."""

    def __init__(self, ranks: int) -> None:
        self.places = [RankInfo(rank=r, node=r // 2, replica=r) for r in range(ranks)]
        self.totals = [RankTotals({name: d.kind == "counter" for name, d in DECLARED.items()}) for _ in self.places]
        self.roll = RankAggregator(DECLARED, self.places)
        self.points = 0

    def window(self, rank, **amounts):
        window = dict.fromkeys(COLUMNS, 0.0) | {"param_bytes": None} | amounts
        if rank % 2:  # one reader of a node
            window.pop("cpu_energy_j")
        self.totals[rank].add(window)
        return window

    def letter(self, rank, *, points=None, final=False, missing=(), batches=0):
        return self.totals[rank].snapshot(
            self.places[rank], points=points or self.points, batches=batches, final=final, missing=missing
        )

    def point(self, windows, *, heard=None, final=False, now_s=0.0, missing=()):
        """All ranks make a point; letters of those in `heard` arrive."""
        self.points += 1
        for rank, amounts in enumerate(windows):
            own = self.window(rank, **amounts)
            if rank == 0:
                rank0 = own
            if rank == 0 or heard is None or rank in heard:
                self.roll.update(self.letter(rank, final=final, missing=missing), now_s)
        self.roll.drop_silent_ranks(self.points, now_s, ending=final)
        return self.roll.aggregate(rank0, self.points)


def test_sums_count_replicas_and_nodes_once_and_clocks_are_rank_0s():
    ranks = Ranks(4)
    joined = ranks.point(
        [{"samples": 8.0, "cpu_energy_j": 5.0, "total_s": 1.0 + r, "param_bytes": 4.0} for r in range(4)]
    )
    assert joined.window["samples"] == 32.0
    assert joined.window["cpu_energy_j"] == 10.0
    assert joined.window["total_s"] == 1.0
    assert joined.window["param_bytes"] == 16.0
    assert joined.missing == {}
    assert joined.even == joined.window


def test_a_late_rank_counts_with_its_last_totals_and_the_jobs_catch_up():
    ranks = Ranks(2)
    assert ranks.point([{"samples": 8.0}] * 2).window["samples"] == 16.0
    late = ranks.point([{"samples": 8.0}] * 2, heard=())
    assert (late.window["samples"], late.even) == (8.0, None)
    assert ranks.roll.report()["late"] == [1]
    caught_up = ranks.point([{"samples": 8.0}] * 2)
    assert caught_up.window["samples"] == 24.0
    assert caught_up.even is not None
    assert caught_up.even["samples"] == 32.0  # both windows since all were heard at one point: what rates are made of
    assert "late" not in ranks.roll.report()


def test_a_rank_that_was_never_heard_has_spent_nothing_yet_and_its_gauges_wait():
    ranks = Ranks(2)
    first = ranks.point([{"samples": 8.0, "param_bytes": 4.0}] * 2, heard=())
    assert (first.window["samples"], first.window["param_bytes"], first.missing) == (8.0, None, {})
    second = ranks.point([{"samples": 8.0}] * 2)
    assert (second.window["samples"], second.window["param_bytes"]) == (24.0, 8.0)


def test_a_rank_whose_device_is_slow_before_the_backward_pass_is_named():
    aggregator, waited = watched(led_s=(0.005, 0.006, 0.005, 0.005))
    (found,) = aggregator.report()["stragglers"]
    assert (found["ranks"], found["phase"], found["batch"]) == ([1], "training", 50)
    assert found["excess_s"] == pytest.approx(0.001, rel=0.05)
    assert sum(waited) == pytest.approx(200 * 0.001, rel=0.05)


def test_forward_passes_that_one_rank_does_not_know_accuse_nobody():
    assert watched(led_s=(0.005, nan, 0.009, 0.005))[0].report()["stragglers"] == []


def test_a_rank_that_is_silent_for_long_takes_what_it_alone_knows_with_it():
    ranks = Ranks(4)
    ranks.point([{"samples": 8.0, "cpu_energy_j": 1.0}] * 4, now_s=0.0)
    for now_s in (RANK_TIMEOUT_S / 2, RANK_TIMEOUT_S):
        joined = ranks.point([{"samples": 8.0, "cpu_energy_j": 1.0}] * 4, heard=(1, 2), now_s=now_s)
        assert joined.window["samples"] == 24.0
    joined = ranks.point([{"samples": 8.0, "cpu_energy_j": 1.0}] * 4, heard=(1, 2), now_s=RANK_TIMEOUT_S + 1)
    assert joined.window["samples"] is None
    assert joined.missing["samples"] == f"rank 3 did not report for {RANK_TIMEOUT_S + 1:.0f} s"
    assert joined.window["cpu_energy_j"] == 2.0  # rank 2 reads for that node
    assert joined.window["total_s"] == 0.0
    assert ranks.roll.report()["gone"] == {"3": joined.missing["samples"]}
    again = ranks.point([{"samples": 8.0}] * 4, now_s=RANK_TIMEOUT_S + 2)  # what went missing stays so
    assert again.window["samples"] is None


def test_points_far_apart_are_no_silence():
    ranks = Ranks(2)
    ranks.point([{"samples": 8.0}] * 2, now_s=0.0)
    joined = ranks.point([{"samples": 8.0}] * 2, heard=(), now_s=10 * RANK_TIMEOUT_S)
    assert (joined.window["samples"], joined.missing) == (8.0, {})


def test_at_the_end_a_rank_without_a_last_letter_makes_its_sums_missing():
    ranks = Ranks(2)
    ranks.point([{"samples": 8.0}] * 2)
    joined = ranks.point([{"samples": 8.0}] * 2, heard=(), final=True)
    assert joined.window["samples"] is None
    assert joined.missing["samples"] == "rank 1 did not report after its point 1, and the run has ended"


def test_a_last_letter_counts_however_early_its_rank_ended():
    ranks = Ranks(2)
    ranks.window(1, samples=8.0)
    ranks.roll.update(ranks.letter(1, points=1, final=True), 0.0)
    for _ in range(3):
        joined = ranks.point([{"samples": 8.0}, {}], heard=())
    assert joined.missing == {}
    assert ranks.roll.pending_ranks(ranks.points) == []


def test_a_reading_that_one_rank_lacks_is_missing_with_that_rank_named():
    ranks = Ranks(3)
    joined = ranks.point([{"samples": 8.0}, {"samples": None}, {"samples": 8.0}])
    assert joined.window["samples"] is None
    assert joined.missing["samples"] == "rank 1 has no reading of it"


def test_a_gauge_that_waits_is_not_missing_and_one_that_a_rank_gave_up_is():
    ranks = Ranks(2)
    assert ranks.point([{"param_bytes": 4.0}, {}]).missing == {}
    joined = ranks.point([{"param_bytes": 4.0}, {}], missing=("param_bytes",))
    assert joined.missing == {"param_bytes": "rank 1 has no reading of it"}


def test_an_older_letter_is_left_out():
    ranks = Ranks(2)
    ranks.point([{"samples": 8.0}] * 2)
    old = ranks.letter(1)
    ranks.point([{"samples": 8.0}] * 2)
    ranks.roll.update(old, 0.0)
    assert ranks.roll.pending_ranks(2) == []
    assert ranks.point([{}, {}]).window["samples"] == 0.0


def test_waiting_for_a_rank_that_was_late_before_is_of_no_use():
    ranks = Ranks(2)
    for expected in ([set(), set(), {1}], [set(), {1}, {1}]):
        ranks = Ranks(2)
        if expected[1]:
            ranks.point([{}, {}])
        seen = []
        for _ in range(3):
            ranks.point([{}, {}], heard=())
            seen.append(ranks.roll.stalled_ranks(ranks.points))
        assert seen == expected


def test_the_slowest_rank_is_named_with_what_it_costs_the_others():
    ranks = Ranks(4)
    waits = [1.0, 1.5, 1.0, 6.0]
    ranks.point([{"data_wait_s": wait, "rank_max_lead_s": 2.0} for wait in waits])
    told = ranks.roll.report()
    assert told["slowest"] == {"rank": 3, "node": 1, "ahead_s": 5.0, "data_wait_s": 6.0, "lead_s": 2.0}
    assert told["spread"]["data_wait_s"] == {"min": 1.0, "min_rank": 0, "median": 1.25, "max": 6.0, "max_rank": 3}
    assert (told["heard"], told["of"]) == (4, 4)


OWN = dict(DECLARED, straggler_s=declared("straggler_s", kind="counter", scope="job", across="rank0"))
OWN["train_s"] = declared("train_s", kind="counter", scope="job", across="rank0")


def watched(
    late: Collection[int] = (), points: int = 4, led_s: Sequence[float] = ()
) -> tuple[RankAggregator, list[Amount]]:
    """Four ranks, two on a node, whose own work is 10 ms of a step, but 12 ms on rank 3: their data; some are late.

    With `led_s`, what comes before a backward pass on each rank's device, there is no other difference.
    """
    places = [RankInfo(rank=r, node=r // 2, replica=r) for r in range(4)]
    roll = RankAggregator(OWN, places)
    waited: list[Amount] = []
    totals = [RankTotals({name: d.kind == "counter" for name, d in OWN.items()}) for _ in places]
    letters: dict[tuple[int, int], RankSnapshot] = {}
    for point in range(1, points + 1):
        for rank, place in enumerate(places):
            totals[rank].add(dict.fromkeys(OWN, 0.0) | {"train_s": 1.0})
            own_s = [0.012 if rank == 3 and not led_s else 0.01] * 50
            jitter = [own * (1 + (17 * rank + 7 * at) % 5 / 1000) for at, own in enumerate(own_s)]
            led = [led_s[rank] + own / 100 for own in jitter] if led_s else ()
            blocks = own_blocks([jitter, [0.004 if rank == 3 else 0.002] * 50, [0.0] * 50], 50, led)
            letters[rank, point] = totals[rank].snapshot(
                place, points=point, batches=50 * point, final=False, missing=(), blocks=blocks
            )
            if not (rank == 1 and point in late):
                roll.update(letters[rank, point], 0.0)
        for rank in roll.unwatched_ranks(point - 1):  # as the exchange reads what came late
            roll.update(letters[rank, point - 1], 0.0)
        window = roll.aggregate({"train_s": 1.0, "straggler_s": 0.0}, point).window
        waited.append(window["straggler_s"])
    return roll, waited


@pytest.mark.parametrize("late", [set(), {1}, {2}])
def test_a_straggler_is_named_within_100_batches_with_what_the_others_waited(late):
    roll, waited = watched(late)
    (found,) = roll.report()["stragglers"]
    assert (found["ranks"], found["node"], found["phase"], found["until"]) == ([3], 1, "input", None)
    assert found["batch"] <= (150 if late == {2} else 100)
    assert found["waited_s"] == pytest.approx(200 * 0.002, rel=0.02)
    assert sum(waited) == pytest.approx(found["waited_s"])


def test_a_rank_that_is_silent_for_long_stops_the_watch_and_holds_nothing_back():
    roll, waited = watched(set(range(1, 10)), points=9)
    assert "stragglers" not in roll.report()  # that there are none is not known
    assert waited == [0.0] * 9
    assert max(map(len, roll._blocks)) <= 4


@given(
    windows=st.lists(st.lists(st.integers(0, 100), min_size=3, max_size=3), min_size=1, max_size=8),
    data=st.data(),
)
def test_whoever_is_late_totals_never_go_down_and_end_exact(windows, data):
    ranks = Ranks(3)
    total = 0.0
    for each in windows:
        heard = data.draw(st.sets(st.integers(1, 2)))
        joined = ranks.point([{"samples": float(n)} for n in each], heard=heard)
        assert joined.window["samples"] >= 0
        total += joined.window["samples"]
    total += ranks.point([{}] * 3, final=True).window["samples"]
    assert total == sum(map(sum, windows))


places = st.builds(
    RankInfo,
    rank=st.integers(0, 2**31 - 1),
    node=st.integers(0, 10_000),
    replica=st.integers(0, 10_000),
    stage=st.integers(0, 100),
    shard=st.integers(0, 100),
    device=st.none() | st.text(max_size=60),
)


@given(
    place=places,
    points=st.integers(0, 2**60),
    final=st.booleans(),
    columns=st.lists(st.tuples(st.floats(width=64), st.booleans()), max_size=80),
)
def test_a_letter_says_what_was_written(place, points, final, columns):
    names = [f"c{n}_s" for n in range(len(columns))]
    letter = RankSnapshot(
        place=place,
        points=points,
        batches=7,
        final=final,
        amounts=np.array([amount for amount, _ in columns], dtype=np.float64),
        missing=np.array([gone for _, gone in columns], dtype=np.bool_),
    )
    data = encode(letter, names)
    # an empty device name and none are the same to whoever compares devices of one node
    device = place.device or None
    read = decode(data, names)
    assert (read.place.rank, read.place.device, read.points, read.final) == (place.rank, device, points, final)
    assert np.array_equal(read.amounts, letter.amounts, equal_nan=True)
    assert np.array_equal(read.missing, letter.missing)
    assert len(data) == 44 + 9 * len(names) + len((device or "").encode())


def test_a_letter_of_other_columns_is_refused():
    letter = Ranks(1).letter(0, points=1)
    with pytest.raises(ValueError, match="rank 0 measures other columns"):
        decode(encode(letter, COLUMNS), [*COLUMNS[:-1], "grad_bytes"])
    with pytest.raises(ValueError, match="a snapshot has"):
        decode(b"", COLUMNS)


def test_a_counter_that_lost_a_window_stays_without_an_amount():
    totals = RankTotals({"samples": True, "param_bytes": False})
    totals.add({"samples": None, "param_bytes": 4.0})
    totals.add({"samples": 8.0})
    letter = totals.snapshot(RankInfo(), points=1, batches=1, final=False, missing=["samples"])
    assert math.isnan(letter.amounts[0])
    assert letter.amounts[1] == 4.0
    assert letter.missing.tolist() == [True, False]

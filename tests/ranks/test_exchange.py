from __future__ import annotations

import itertools
import time
from datetime import timedelta

import pytest
import torch.distributed as dist
from fakes import FakeClock, declared

from lightning_costs.ranks import exchange as exchanges
from lightning_costs.ranks.exchange import Exchange, job_store
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import CostVector, RankInfo

DECLARED = {
    "samples": declared("samples", unit="samples", kind="counter", scope="replica", across="sum"),
    "total_s": declared("total_s", kind="counter", scope="job", across="rank0"),
}
_names = itertools.count()


class Job:
    """Ranks of one process that meet in a real store, each over a connection of its own."""

    def __init__(self, ranks: int, clock=None):
        server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=240))
        self.server = server
        name = f"test-{next(_names)}"
        self.places = [RankInfo(rank=r, replica=r) for r in range(ranks)]
        self.ranks = [
            Exchange(
                dist.PrefixStore("job", server if r == 0 else self._client(server.port)),
                place, self.places, DECLARED, clock=clock or time.monotonic, name=name,
            )
            for r, place in enumerate(self.places)
        ]  # fmt: skip

    @staticmethod
    def _client(port):
        return dist.TCPStore("127.0.0.1", port, is_master=False, timeout=timedelta(seconds=240))

    def point(self, rank, samples, *, final=False, missing=None):
        own = CostVector(place=self.places[rank], amounts={"samples": samples, "total_s": 1.0})
        self.ranks[rank].points += 1
        self.ranks[rank].publish(own, batches=self.ranks[rank].points, final=final, missing=missing or {})
        return own

    def join(self, own, **how):
        return self.ranks[0].collect(own, **({"trigger": "train"} | how))


def test_rank_0_joins_what_all_ranks_left():
    job = Job(4)
    for _ in range(3):
        for rank in (3, 1, 2):
            job.point(rank, 8.0 + rank)
        joined = job.join(job.point(0, 8.0), trigger="evaluate")
        assert joined.window == {"samples": 38.0, "total_s": 1.0}
        assert joined.even == joined.window
    assert job.ranks[0].report()["heard"] == 4


def test_a_letter_that_comes_a_little_later_is_waited_for_at_an_evaluation(monkeypatch):
    job, pauses = Job(2), []

    def sleep(seconds):
        if not pauses:
            job.point(1, 8.0)
        pauses.append(seconds)

    monkeypatch.setattr(exchanges.time, "sleep", sleep)
    joined = job.join(job.point(0, 8.0), trigger="evaluate")
    assert joined.window["samples"] == 16.0
    assert pauses


def test_nobody_waits_long_for_a_rank_that_is_late_and_not_again_for_one_that_stays_away(monkeypatch):
    pauses = []
    clock = FakeClock(0.0)

    def sleep(seconds):
        pauses.append(seconds)
        clock.sleep(seconds)

    monkeypatch.setattr(exchanges.time, "sleep", sleep)
    job = Job(2, clock=clock)
    waited = []
    for trigger, window_s in [("train", 2.0), ("train", 20.0), ("train", 9.0), ("evaluate", 9.0)]:
        clock.sleep(window_s)
        pauses.clear()
        joined = job.join(job.point(0, 8.0), trigger=trigger)
        waited.append(sum(pauses))
        assert joined.window["samples"] == 8.0
    assert waited[0] == pytest.approx(0.02, abs=0.001)  # a hundredth of the window
    assert waited[1] == pytest.approx(0.05, abs=0.001)  # and no more than that
    assert waited[2:] == [0.0, 0.0]


def test_a_rank_leaves_its_letters_without_waiting_for_anybody(monkeypatch):
    job = Job(2)
    monkeypatch.setattr(exchanges.time, "sleep", lambda _: pytest.fail("it waits"))
    for _ in range(1000):
        job.point(1, 8.0)  # rank 0 reads none of them
    assert job.ranks[1].failed is None


def test_what_a_late_rank_left_at_an_earlier_point_is_heard_at_the_next(monkeypatch):
    monkeypatch.setitem(exchanges.MAX_WAIT_S, "end", 0.0)
    job = Job(2)
    job.join(job.point(0, 8.0))
    job.point(1, 8.0)  # after rank 0 had looked; rank 1 makes no other
    joined = job.join(job.point(0, 8.0, final=True), trigger="end")
    assert joined.missing["samples"] == "rank 1 did not report after its point 1, and the run has ended"


def test_the_end_waits_for_last_letters_and_says_who_sent_none(monkeypatch):
    monkeypatch.setitem(exchanges.MAX_WAIT_S, "end", 0.05)
    job = Job(3)
    job.point(1, 8.0, final=True)
    joined = job.join(job.point(0, 8.0, final=True), trigger="end")
    assert joined.window == {"samples": None, "total_s": 1.0}
    assert joined.missing["samples"] == "rank 2 never reported, and the run has ended"


def test_between_points_letters_of_the_same_batches_are_waited_for_once_at_most(monkeypatch):
    job = Job(2)
    job.point(1, 8.0)
    job.join(job.point(0, 8.0), trigger="evaluate")
    between = [CostVector(place=place, amounts={"samples": 4.0, "total_s": 0.5}) for place in job.places]
    job.ranks[1].publish(between[1], batches=5, final=False, missing={})
    job.ranks[0].publish(between[0], batches=5, final=False, missing={})
    assert job.join(between[0], trigger="train", exact=True, batches=5).window["samples"] == 8.0
    pauses = []
    monkeypatch.setattr(exchanges.time, "sleep", lambda seconds: pauses.append(seconds) or time.monotonic())
    for batches in (6, 7):
        job.ranks[0].publish(between[0], batches=batches, final=False, missing={})
        assert job.join(between[0], trigger="train", exact=True, batches=batches).window["samples"] == 4.0
        if batches == 6:
            assert pauses
            pauses.clear()
    assert not pauses  # rank 0 asks alone in this run


def test_the_reason_for_a_missing_reading_is_the_ranks_own():
    job = Job(2)
    job.point(1, None, missing={"samples": "batches are of unknown size"})
    joined = job.join(job.point(0, 8.0), trigger="evaluate")
    assert joined.missing == {"samples": "rank 1: batches are of unknown size"}


def test_all_ranks_see_the_same_numbers_after_an_evaluation():
    job = Job(3)
    for rank in (0, 1, 2):
        job.point(rank, 8.0)
    numbers = {"cost/samples": 67128463.0, "cost/energy_j": 0.1 + 0.2}
    assert job.ranks[0].broadcast_headline(numbers, "evaluate") == numbers
    assert [job.ranks[rank].broadcast_headline({}, "evaluate") for rank in (1, 2)] == [numbers, numbers]


def test_numbers_of_another_point_are_not_taken_for_this_ones(monkeypatch):
    monkeypatch.setitem(exchanges.MAX_WAIT_S, "evaluate", 0.02)
    job = Job(2)
    for rank in (0, 1):
        job.point(rank, 8.0)
    job.ranks[0].broadcast_headline({"cost/samples": 16.0}, "evaluate")
    for _ in range(4):  # the place where this point's numbers would stand holds those of four points ago
        job.point(1, 8.0)
    assert job.ranks[1].broadcast_headline({}, "evaluate") == {}


def test_a_store_that_is_gone_ends_the_exchange_and_nothing_else(monkeypatch, caplog):
    job = Job(2)
    job.point(1, 8.0)
    job.join(job.point(0, 8.0), trigger="evaluate")

    class Gone:
        def __getattr__(self, name):
            raise dist.DistNetworkError("connection reset by peer")

    for each in job.ranks:
        each._store = Gone()
    job.point(1, 8.0)
    assert "connection reset" in job.ranks[1].failed
    assert job.ranks[1].broadcast_headline({}, "evaluate") == {}
    joined = job.join(job.point(0, 8.0))
    assert joined.window["samples"] == 8.0
    joined = job.join(job.point(0, 8.0, final=True), trigger="end")
    assert joined.window["samples"] is None
    assert "the exchange between ranks failed" in joined.missing["samples"]
    assert job.ranks[0].report()["failed"] == "DistNetworkError (its text is in the log)"
    assert "connection reset" in caplog.text


def test_letters_that_make_no_sense_end_the_exchange_with_the_reason():
    job = Job(2)
    other = Exchange(
        job.ranks[0]._store, RankInfo(rank=1), job.places, {"samples": DECLARED["samples"]},
        name=job.ranks[0]._prefix.rpartition("/")[2],
    )  # fmt: skip
    other.points = 1
    other.publish(CostVector(place=RankInfo(rank=1), amounts={"samples": 1.0}), batches=1, final=False, missing={})
    job.join(job.point(0, 8.0), trigger="evaluate")
    assert "pass the same indicators on every rank" in job.ranks[0].report()["failed"]


def test_letters_of_an_earlier_exchange_of_the_same_name_are_nobodys():
    """Rank 1 measured a fit that rank 0 did not: its first exchange is not the one that rank 0 makes first."""
    job = Job(2)
    name = job.ranks[0]._prefix.rpartition("/")[2] + "-again"
    store = job.ranks[0]._store
    early = Exchange(store, job.places[1], job.places, DECLARED, name=name)
    early.points = 1
    early.publish(CostVector(place=job.places[1], amounts={"samples": 99.0}), batches=1, final=True, missing={})
    late = Exchange(store, job.places[0], job.places, DECLARED, name=name)
    late.points = 1
    own = CostVector(place=job.places[0], amounts={"samples": 8.0, "total_s": 1.0})
    late.publish(own, batches=1, final=False, missing={})
    assert late.collect(own, trigger="train").window["samples"] == 8.0
    assert late.report()["late"] == [1]


def test_only_rank_0_joins():
    job = Job(2)
    with pytest.raises(ValueError, match="only rank 0 joins"):
        job.ranks[1].collect(job.point(1, 8.0), trigger="train")


def test_without_torch_distributed_there_is_no_store():
    with pytest.raises(Missing, match="not initialized"):
        job_store()


def test_a_file_is_no_store_for_letters(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        with pytest.raises(Missing, match=r"met in a FileStore.*init_method"):
            job_store()
    finally:
        dist.destroy_process_group()


def test_the_jobs_own_store_is_used():
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        job_store().set("here", "it is")
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("ended", ["failed", "interrupted"])
def test_a_run_that_does_not_finish_waits_for_nobody_long(monkeypatch, ended):
    clock = FakeClock(0.0)
    monkeypatch.setattr(exchanges.time, "sleep", clock.sleep)
    job = Job(2, clock=clock)
    job.join(job.point(0, 8.0))
    before_s = clock()
    joined = job.join(job.point(0, 8.0, final=True), trigger="end", hurry=ended)
    assert clock() - before_s == pytest.approx(exchanges.UNFINISHED_S[ended], abs=0.001)
    assert joined.window["samples"] is None

from __future__ import annotations

from fakes import FakeClock

from lightning_costs.probes.own_work import OwnWork
from lightning_costs.records.time_buckets import TimeBuckets


def batch(clock: FakeClock, accounts: TimeBuckets, own: OwnWork, *, hook_s: float = 0.0, backwards: int = 1) -> None:
    """1 s of waiting for data, a hook before the step, 4 s of forward, 8 s of backward, and the same hook behind it."""
    with accounts.bucket("data_wait"):
        clock.sleep(1.0)
    own.on_batch()
    with accounts.bucket("other"):
        clock.sleep(hook_s)
    clock.sleep(4.0)
    for number in range(backwards):
        if not number:
            own.on_backward()
        clock.sleep(8.0)
    with accounts.bucket("other"):
        clock.sleep(hook_s)


def test_own_work_is_waiting_hooks_and_what_comes_before_the_backward_pass() -> None:
    clock = FakeClock()
    accounts = TimeBuckets(clock, begun_s=0.0)
    accounts.reset_to("train")
    own = OwnWork(accounts, shared=True)
    batch(clock, accounts, own)
    batch(clock, accounts, own, hook_s=2.0, backwards=2)
    batch(clock, accounts, own)
    whole, waits, others = own.take()
    assert list(whole) == [5.0, 7.0, 7.0]  # the hook behind a step delays the next one's collective
    assert list(waits) == [1.0, 1.0, 1.0]
    assert list(others) == [0.0, 2.0, 2.0]
    assert (own.take_lead_s(), own.take_lead_s()) == (12.0, 0.0)
    assert own.take()[0].tolist() == []


def test_a_loop_without_backward_passes_to_tell_counts_cpu_time_instead() -> None:
    clock = FakeClock()
    accounts = TimeBuckets(clock, begun_s=0.0)
    accounts.reset_to("train")
    own = OwnWork(accounts, shared=True)
    with accounts.bucket("data_wait"):
        clock.sleep(1.0)
    clock.sleep(100.0)  # most of it waiting in a collective
    own.on_work(3.0)
    whole, waits, others = own.take()
    assert (list(whole), list(waits), list(others)) == ([4.0], [1.0], [0.0])
    assert own.take_lead_s() is None

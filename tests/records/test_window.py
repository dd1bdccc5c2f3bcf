from __future__ import annotations

import itertools
import math

import pytest
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.records.samples import StepSample
from lightning_costs.records.time_buckets import ACCOUNTS, TimeBuckets
from lightning_costs.records.window import Window


class Loop:
    """A training loop on a fake clock, told in operations."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.accounts = TimeBuckets(self.clock, 0.0)
        self.window = Window(self.accounts)
        self.samples: list[StepSample] = []

    def begin(self, setup_s: float = 0.0):
        self.clock.sleep(setup_s)
        self.accounts.reset_to("train")
        self.window.start_clock()
        return self

    def batch(self, took_s=1.0, *, samples=8, tokens=None, steps=1, warm=False):
        self.clock.sleep(took_s)
        return self.window.add_batch(samples=samples, tokens=tokens, optimizer_steps=steps, warm=warm)

    def pause(self, account, took_s):
        with self.accounts.bucket(account):
            self.clock.sleep(took_s)

    def close(self, **stamp):
        self.samples.append(self.window.close(**{"step": 0, "epoch": 0, "trigger": "train"} | stamp))
        return self.samples[-1]


def test_a_window_carries_its_own_length_and_what_happened_in_it():
    loop = Loop().begin(setup_s=4)
    loop.pause("data_wait", 0.5)
    loop.batch(1.0)
    loop.pause("evaluate", 2.0)
    loop.window.add_epoch()
    closed = loop.close(step=7, epoch=3, trigger="evaluate")
    assert (closed.step, closed.epoch, closed.trigger) == (7, 3, "evaluate")
    assert (closed.begun_s, closed.ended_s) == (0.0, 7.5)
    assert closed.accounts_s == {"setup": 4.0, "train": 1.5, "evaluate": 2.0, "checkpoint": 0.0, "other": 0.0}
    assert (closed.data_wait_s, closed.batches, closed.steps, closed.optimizer_steps, closed.epochs) == (
        0.5,
        1,
        1,
        1,
        1,
    )


def test_the_next_window_begins_where_this_one_ended():
    loop = Loop().begin(setup_s=2)
    loop.batch()
    first = loop.close()
    loop.batch(3.0)
    second = loop.close()
    assert (second.begun_s, second.ended_s) == (first.ended_s, first.ended_s + 3.0)
    assert second.accounts_s["setup"] == 0.0
    assert (second.samples, second.batches) == (8, 1)


def test_warm_up_is_in_the_totals_and_out_of_the_rates():
    loop = Loop().begin()
    assert loop.batch(100.0, samples=8, warm=True) is False
    assert loop.batch(1.0, samples=8) is True
    assert loop.batch(3.0, samples=4) is True
    closed = loop.close()
    assert (closed.samples, closed.steps, closed.accounts_s["train"]) == (20, 3, 104.0)
    assert (closed.steady_s, len(closed.step_times_s), closed.steady_samples) == (4.0, 2, 12)
    assert closed.step_times_s == (1.0, 3.0)


def test_an_accumulating_batch_belongs_to_the_step_that_follows():
    loop = Loop().begin()
    assert loop.batch(1.0, samples=8, steps=0) is None
    assert loop.batch(2.0, samples=8, steps=0) is None
    assert loop.batch(4.0, samples=2, steps=1) is True
    closed = loop.close()
    assert (closed.batches, closed.steps, closed.optimizer_steps, closed.samples) == (3, 1, 1, 18)
    assert (closed.steady_s, len(closed.step_times_s), closed.steady_samples, closed.step_times_s) == (
        7.0,
        1,
        18,
        (7.0,),
    )


def test_batches_that_have_not_stepped_yet_are_in_the_totals_and_not_in_the_rates():
    loop = Loop().begin()
    loop.batch(1.0)
    loop.batch(1.0, steps=0)
    closed = loop.close()
    assert (closed.samples, closed.batches) == (16, 2)
    assert (closed.steady_samples, len(closed.step_times_s), closed.steady_s) == (8, 1, 1.0)
    loop.batch(1.0)
    later = loop.close()
    assert (later.samples, later.steady_samples, later.steady_s) == (8, 16, 2.0)


def test_one_warm_batch_makes_the_accumulated_step_warm():
    loop = Loop().begin()
    loop.batch(5.0, steps=0, warm=True)
    assert loop.batch(1.0, steps=1) is False
    assert loop.batch(1.0, steps=1) is True
    assert loop.close().steady_s == 1.0


def test_a_gans_two_optimizer_steps_on_a_batch_are_one_step():
    loop = Loop().begin()
    loop.batch(steps=2)
    loop.batch(steps=2)
    closed = loop.close()
    assert (closed.steps, closed.optimizer_steps, closed.batches) == (2, 4, 2)


def test_only_training_time_is_step_time():
    loop = Loop().begin()
    loop.batch(1.0)
    for account in ("evaluate", "checkpoint", "other"):
        loop.pause(account, 50.0)
    loop.pause("data_wait", 0.25)
    loop.batch(1.0)
    assert loop.close().step_times_s == (1.0, 1.25)


def test_training_time_before_the_clock_is_started_is_nobodys_step():
    loop = Loop()
    loop.accounts.reset_to("train")
    loop.clock.sleep(9.0)
    loop.window.start_clock()
    loop.batch(1.0)
    closed = loop.close()
    assert (closed.steady_s, closed.accounts_s["train"]) == (1.0, 10.0)


def test_a_batch_that_does_not_tell_its_size_makes_the_windows_count_missing_and_no_other():
    loop = Loop().begin()
    loop.batch(samples=8, tokens=80)
    loop.batch(samples=None, tokens=80)
    loop.batch(samples=8, tokens=None)
    closed = loop.close()
    assert (closed.samples, closed.steady_samples, closed.tokens, closed.steady_tokens) == (None, None, None, None)
    assert (closed.steps, closed.steady_s) == (3, 3.0)
    loop.batch(samples=8, tokens=80)
    closed = loop.close()
    assert (closed.samples, closed.steady_samples, closed.tokens, closed.steady_tokens) == (8, 8, 80, 80)


def test_an_unknown_accumulating_batch_spoils_only_the_step_it_belongs_to():
    loop = Loop().begin()
    loop.batch(samples=None, steps=0)
    loop.close()
    loop.batch(samples=8)
    assert loop.close().steady_samples is None
    loop.batch(samples=8)
    assert loop.close().steady_samples == 8


def test_the_mean_step_of_the_open_window_is_known_before_it_closes():
    loop = Loop().begin()
    assert loop.window.steady_step_s is None
    loop.batch(9.0, warm=True)
    assert loop.window.steady_step_s is None
    loop.batch(1.0)
    loop.batch(2.0)
    assert loop.window.steady_step_s == 1.5


def test_overhead_is_handed_over_once():
    loop = Loop().begin()
    loop.window.overhead_s += 0.5
    assert loop.close().overhead_s == 0.5
    assert loop.close().overhead_s == 0.0


seconds = st.integers(0, 2**12).map(lambda n: n / 256)
counts = st.none() | st.integers(0, 64)
batch = st.fixed_dictionaries(
    {"took_s": seconds, "samples": counts, "tokens": counts, "steps": st.integers(0, 2), "warm": st.booleans()}
)
operation = (
    st.tuples(st.just("batch"), batch)
    | st.tuples(st.just("pause"), st.sampled_from(("evaluate", "checkpoint", "other", "data_wait")), seconds)
    | st.tuples(st.just("epoch"))
)


def told(operations, cuts):
    loop = Loop().begin(setup_s=1)
    for n, (op, *rest) in enumerate(operations):
        if op == "batch":
            loop.batch(**rest[0])
        elif op == "pause":
            loop.pause(*rest)
        else:
            loop.window.add_epoch()
        if n in cuts:
            loop.close()
    loop.close()
    return loop.samples


def totals(samples):
    """What a ledger would make of them: sums, missing where one is missing."""
    out = {}
    for name in ("steps", "optimizer_steps", "batches", "epochs", "data_wait_s", "steady_s"):
        out[name] = sum(getattr(s, name) for s in samples)
    for name in ("samples", "tokens", "steady_samples", "steady_tokens"):
        amounts = [getattr(s, name) for s in samples]
        out[name] = None if None in amounts else sum(amounts)
    for account in ACCOUNTS:
        out[account] = sum(s.accounts_s[account] for s in samples)
    out["step_times_s"] = tuple(t for s in samples for t in s.step_times_s)
    out["length_s"] = sum(s.ended_s - s.begun_s for s in samples)
    return out


@given(operations=st.lists(operation, max_size=25), cuts=st.sets(st.integers(0, 24)))
def test_splitting_a_window_anywhere_keeps_the_totals(operations, cuts):
    assert totals(told(operations, cuts)) == totals(told(operations, set()))


@given(operations=st.lists(operation, max_size=25), cuts=st.sets(st.integers(0, 24)))
def test_windows_lie_side_by_side_and_their_accounts_add_up_to_their_length(operations, cuts):
    samples = told(operations, cuts)
    assert samples[0].begun_s == 0.0
    for earlier, later in itertools.pairwise(samples):
        assert later.begun_s == earlier.ended_s
    for closed in samples:
        assert sum(closed.accounts_s.values()) == closed.ended_s - closed.begun_s
        assert 0 <= closed.data_wait_s <= closed.accounts_s["train"]
        assert len(closed.step_times_s) <= closed.steps <= closed.batches
        assert math.fsum(closed.step_times_s) == closed.steady_s


@pytest.mark.parametrize("sizes", [(8, 8, 8), (8, 4, 1), (1, 1000, 3)])
def test_batches_of_different_sizes_add_up(sizes):
    loop = Loop().begin()
    for size in sizes:
        loop.batch(samples=size, tokens=10 * size)
    closed = loop.close()
    assert (closed.samples, closed.tokens) == (sum(sizes), 10 * sum(sizes))


sizes = st.none() | st.integers(0, 100)


@given(
    before=st.lists(st.tuples(sizes, st.floats(0.0, 5.0), st.booleans()), max_size=4),
    like=st.tuples(sizes, sizes, st.integers(1, 3)),
    took_s=st.lists(st.floats(0.0, 5.0), max_size=6),
)
def test_repeated_batches_are_as_batches_told_one_by_one(before, like, took_s):
    closed = []
    samples, tokens, calls = like
    for at_once in (False, True):
        loop, marks = Loop().begin(), []
        for size, seconds, warm in before:
            loop.batch(seconds, samples=size, warm=warm)
        for seconds in took_s:
            if at_once:
                loop.clock.sleep(seconds)
                marks.append(loop.accounts.train_s())
            else:
                loop.batch(seconds, samples=samples, tokens=tokens, steps=calls)
        loop.window.add_repeated(marks, samples=samples, tokens=tokens, padding=None, calls=calls)
        closed.append(loop.close())
    one, all_at_once = closed
    if took_s:
        assert one == all_at_once

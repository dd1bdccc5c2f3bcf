"""Idle time against a stream whose truth is known, and beside it what a timer on the host would have said."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import nan

import pytest
import torch
from fakes import FakeClock, FakeEvent, FakeStream
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.device_timeline import DeviceTimeline
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import DeviceTime
from lightning_costs.records.time_buckets import TimeBuckets
from lightning_costs.records.window import Window

MS = 1e-3


@dataclass(kw_only=True)
class Batch:
    """What happens around one batch, in seconds of the host or of the device, in the order of the fields."""

    after: float = 0.0  # Python since the batch before: callbacks, logging
    wait: float = 0.0  # for the loader
    copy: float = 0.0  # on the compute stream
    blocking: bool = False  # the host waits for the copy, as from pageable memory
    python: float = 0.0  # between copy and step: hooks
    late: float = 0.0  # inside the step, before its first kernel
    forward: float | None = None  # work before a backward pass that is reported
    work: float = 0.0
    inside: float = 0.0  # a read-back after a tenth of the work, and Python before the rest is launched
    steps: bool = True
    steady: bool = True
    shape: str = ""


@dataclass
class Loop:
    """A training loop on a simulated stream, told to the probe as the callbacks tell it."""

    told: bool = True  # whether the transfer is told
    most: int = 4096
    clock: FakeClock = field(default_factory=lambda: FakeClock(100.0))
    ends: list[tuple[float, bool]] = field(default_factory=list)
    waited_s: float = 0.0
    begun_s: float | None = None

    def __post_init__(self) -> None:
        self.stream = FakeStream(self.clock)
        self.probe: DeviceTimeline[FakeEvent] = DeviceTimeline(self.stream, self.most)

    def run(self, *batches: Batch) -> None:
        for batch in batches:
            self.clock.sleep(batch.after)
            self.clock.sleep(batch.wait)
            if batch.copy:
                if self.told:
                    self.probe.mark_h2d_start()
                self.stream.launch(batch.copy, "copy")
                if batch.blocking:
                    self.stream.synchronize()
                if self.told:
                    self.probe.mark_h2d_end()
            self.clock.sleep(batch.python)
            self.probe.begin(batch.wait, batch.after)
            self.clock.sleep(batch.late)
            if batch.forward is not None:
                self.stream.launch(batch.forward)
                self.probe.mark_backward()
            self.stream.launch(batch.work / 10 if batch.inside else batch.work)
            if batch.inside:
                self.stream.synchronize()
                self.clock.sleep(batch.inside)
                self.stream.launch(batch.work * 9 / 10)
            self.probe.end()
            if batch.steps:
                self.probe.stepped(steady=batch.steady, signature=batch.shape)
                self.ends.append((self.stream.free_at_s, batch.steady))
            if self.begun_s is None:
                self.begun_s = self.clock()
            else:
                self.waited_s += batch.wait

    def collect(self) -> DeviceTime:
        """All of it: the device catches up first."""
        self.stream.synchronize()
        return self.probe.collect()

    def truth(self, kind: str = "idle") -> float:
        """Seconds of a kind in the periods that count."""
        return sum(self.stream.spent_s(begin, end, kind) for (begin, _), (end, steady) in pairwise(self.ends) if steady)

    @property
    def true_fraction(self) -> float:
        return self.truth() / sum(end - begin for (begin, _), (end, steady) in pairwise(self.ends) if steady)

    @property
    def host_timer(self) -> float:
        """What a timer around the loader's `next` says: waiting over the wall time of the loop."""
        assert self.begun_s is not None
        return self.waited_s / (self.clock() - self.begun_s)


def fraction(found: DeviceTime) -> float:
    return found.idle_s / found.timed_s


#: Name, what happens around every batch, the true idle fraction in closed form, what a host timer says.
CASES = [
    ("device-bound: the host runs ahead", Batch(after=2 * MS, work=20 * MS), 0.0, 0.0),
    ("host-bound: Python between steps on an empty queue", Batch(after=10 * MS, work=5 * MS), 0.5, 0.0),
    ("input-bound: a slow loader", Batch(wait=30 * MS, work=20 * MS), 1 / 3, 1.0),
    ("loading hidden behind the device", Batch(wait=15 * MS, work=20.7 * MS, inside=0.37 * MS), 0.018, 0.712),
    ("a copy behind queued work", Batch(after=1 * MS, copy=4 * MS, work=16 * MS), 0.0, 0.0),
    ("a copy onto an empty queue", Batch(wait=25 * MS, copy=5 * MS, work=15 * MS), 0.2, 1.0),
    ("a copy that blocks", Batch(wait=5 * MS, copy=4 * MS, blocking=True, python=2 * MS, work=14 * MS), 0.1, 0.25),
    ("a copy that blocks, slow loader", Batch(wait=36 * MS, copy=4 * MS, blocking=True, work=20 * MS), 16 / 40, 0.9),
]


@pytest.mark.parametrize(("batch", "truth", "host"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_idle_is_within_two_points_of_the_truth(batch: Batch, truth: float, host: float) -> None:
    loop = Loop()
    loop.run(*[batch] * 400)
    loop.stream.synchronize()  # the host's timer, too, ends when the work is done
    found = loop.probe.collect()
    print(f"true {loop.true_fraction:.3f}, events {fraction(found):.3f}, host timer {loop.host_timer:.3f}")
    assert loop.true_fraction == pytest.approx(truth, abs=0.005), "the case is what its name says"
    assert loop.host_timer == pytest.approx(host, abs=0.02)
    assert fraction(found) == pytest.approx(loop.true_fraction, abs=0.02)
    if not batch.inside:
        assert fraction(found) == pytest.approx(loop.true_fraction, abs=1e-9)
    assert found.h2d_s == pytest.approx(loop.truth("copy"))
    assert len(found.step_times_s) == 399
    assert sum(found.step_times_s) == pytest.approx(found.timed_s)


def test_the_lengths_of_steps_may_vary() -> None:
    loop = Loop()
    loop.run(*[Batch(wait=(i * 7 % 60) * MS, after=MS, work=(5 + i * 11 % 40) * MS) for i in range(500)])
    found = loop.collect()
    assert 0.05 < loop.true_fraction < 0.5
    assert fraction(found) == pytest.approx(loop.true_fraction, abs=1e-9)
    assert max(found.step_times_s) > 2 * min(found.step_times_s)


@pytest.mark.parametrize("blocking", [False, True])
def test_a_copy_that_nobody_tells_counts_as_idle(blocking: bool) -> None:
    batches = [Batch(copy=4 * MS, blocking=blocking, work=16 * MS)] * 100
    told, untold = Loop(), Loop(told=False)
    told.run(*batches)
    untold.run(*batches)
    assert fraction(told.collect()) == pytest.approx(0.0, abs=1e-9)
    assert fraction(untold.collect()) == pytest.approx(0.2), "which is why it is told"


def test_a_late_first_kernel_makes_idle_a_lower_bound() -> None:
    early, late = Loop(), Loop()
    early.run(*[Batch(after=6 * MS, late=4 * MS, work=5 * MS)] * 100)
    late.run(*[Batch(after=6 * MS, python=4 * MS, work=5 * MS)] * 100)  # begin told at the first kernel
    assert early.true_fraction == late.true_fraction == pytest.approx(0.5)
    assert fraction(early.collect()) == pytest.approx(0.1), "the end of the work is ahead of the host by one step"
    assert fraction(late.collect()) == pytest.approx(0.5)


def test_idle_within_a_step_is_not_seen() -> None:
    loop = Loop()
    loop.run(*[Batch(work=10 * MS, inside=5 * MS)] * 100)
    assert fraction(loop.collect()) == 0.0 < loop.true_fraction


@pytest.mark.parametrize(("wait", "after", "share"), [(30, 0, 1.0), (0, 30, 0.0), (15, 15, 1.0), (5, 25, 0.5)])
def test_idle_that_instant_batches_would_have_saved(wait: float, after: float, share: float) -> None:
    loop = Loop()
    loop.run(*[Batch(wait=wait * MS, after=after * MS, work=20 * MS)] * 100)
    found = loop.collect()
    assert found.idle_s == pytest.approx(99 * 10 * MS)
    assert found.idle_data_s == pytest.approx(share * found.idle_s)
    # The claim itself: the same loop with a loader that needs no time.
    instant = Loop()
    instant.run(*[Batch(after=after * MS, work=20 * MS)] * 100)
    assert found.idle_s - instant.collect().idle_s == pytest.approx(found.idle_data_s)


def test_waiting_hidden_behind_the_device_is_no_idle() -> None:
    loop = Loop()
    loop.run(*[Batch(wait=15 * MS, work=20 * MS)] * 100)
    found = loop.collect()
    assert found.idle_s == found.idle_data_s == pytest.approx(0.0, abs=1e-9)


def test_a_period_in_which_something_else_ran_is_no_steps() -> None:
    batch = Batch(after=2 * MS, wait=12 * MS, copy=MS, work=9 * MS)
    loop, plain = Loop(), Loop()
    plain.run(*[batch] * 30)
    for _ in range(3):
        loop.run(*[batch] * 10)
        loop.probe.interrupted()  # an evaluation: kernels, transfers of its own batches, a second of the host's time
        loop.probe.mark_h2d_start()
        loop.stream.launch(0.5, "copy")
        loop.probe.mark_h2d_end()
        loop.stream.launch(0.5, "evaluation")
        loop.clock.sleep(1.0)
    found, expected = loop.collect(), plain.collect()
    assert len(found.step_times_s) == 27, "the first of each ten has no step right before it"
    assert found.step_times_s == pytest.approx(expected.step_times_s[:27])
    for amount in ("idle_s", "idle_data_s", "h2d_s", "timed_s"):
        assert getattr(found, amount) == pytest.approx(getattr(expected, amount) * 27 / 29)


def test_warm_up_is_in_no_sum() -> None:
    loop = Loop()
    loop.run(*[Batch(wait=500 * MS, work=100 * MS, steady=False)] * 3)
    loop.run(*[Batch(wait=5 * MS, work=5 * MS)] * 10)
    found = loop.collect()
    assert len(found.step_times_s) == 10
    assert found.timed_s < 0.2, "none of the first three"
    assert found.idle_s == pytest.approx(loop.truth())


def test_micro_batches_of_a_step_are_one_step_and_idle_between_them_counts() -> None:
    loop = Loop()
    micro = Batch(wait=6 * MS, copy=MS, blocking=True, work=3 * MS, steps=False)
    loop.run(*[micro, micro, micro, Batch(wait=6 * MS, copy=MS, blocking=True, work=3 * MS)] * 20)
    found = loop.collect()
    assert len(found.step_times_s) == 19
    assert found.step_times_s == pytest.approx([4 * 7 * MS] * 19)
    assert found.idle_s == pytest.approx(19 * 4 * 3 * MS)
    assert found.idle_s == pytest.approx(loop.truth())
    assert found.idle_data_s == pytest.approx(found.idle_s)
    assert found.h2d_s == pytest.approx(loop.truth("copy"))


def test_an_evaluation_amid_an_accumulation_drops_that_step_whole() -> None:
    loop = Loop()
    micro, last = Batch(wait=6 * MS, work=3 * MS, steps=False), Batch(wait=6 * MS, work=3 * MS)
    loop.run(*[micro, last] * 5, micro)
    loop.probe.interrupted()
    loop.clock.sleep(10.0)
    loop.run(last, *[micro, last] * 5)
    found = loop.collect()
    assert len(found.step_times_s) == 9
    assert found.timed_s == pytest.approx(9 * 12 * MS)
    assert found.idle_s == pytest.approx(9 * 6 * MS)


def test_marks_in_flight_are_bounded_and_what_is_dropped_is_dropped_from_every_sum() -> None:
    loop = Loop(most=64)
    batch = Batch(after=2 * MS, wait=MS, copy=MS, work=9 * MS)
    loop.stream.launch(3600.0)  # the device has an hour to catch up with, so nothing of it happens meanwhile
    for _ in range(100):
        loop.run(batch)
        assert loop.stream.in_use <= 66, "the tape, and the ends that reading holds"
    for _ in range(50):
        loop.stream.synchronize()
        loop.run(batch)
    found = loop.collect()
    assert len(found.step_times_s) == 64 // 4 + 50, "what fits on the tape, and all that the device kept up with"
    assert sum(found.step_times_s) == pytest.approx(found.timed_s)
    assert found.h2d_s == pytest.approx(len(found.step_times_s) * MS)
    busy_s = len(found.step_times_s) * 10 * MS
    assert found.idle_s == pytest.approx(found.timed_s - busy_s)


def test_a_step_longer_than_the_tape_is_dropped_and_the_next_is_not() -> None:
    loop = Loop(most=8)
    loop.run(Batch(work=MS))
    loop.stream.launch(3600.0)
    loop.run(*[Batch(work=MS, steps=False)] * 20, Batch(work=MS))
    loop.run(Batch(after=MS, work=2 * MS))
    found = loop.collect()
    assert found.step_times_s == pytest.approx([2 * MS])
    assert found.idle_s == pytest.approx(0.0)


def test_a_full_tape_that_the_device_has_passed_loses_nothing() -> None:
    loop = Loop(most=16)
    loop.run(*[Batch(after=2 * MS, work=MS)] * 200)
    assert len(loop.collect().step_times_s) == 199


def test_a_loop_that_tells_steps_alone_has_step_times_and_no_idle() -> None:
    loop = Loop()
    for _ in range(5):
        loop.stream.launch(MS)
        loop.probe.stepped(steady=True)
    found = loop.collect()
    assert found.step_times_s == pytest.approx([MS] * 4)
    assert found.timed_s == found.idle_s == 0.0


@pytest.mark.parametrize("collected_every", [1, 5, 100])
def test_a_slow_step_is_one_above_the_median_of_its_shape_whatever_shapes_are_mixed(collected_every: int) -> None:
    """Short and long steps in turns, with a hiccup on the device in two of them, and a loader that is late once."""
    short, long = Batch(work=10 * MS, shape="8x3"), Batch(work=40 * MS, shape="8x12")
    batches = [short, long] * 20
    batches[20], batches[25] = replace(short, work=16 * MS), replace(long, work=49 * MS)
    batches[30] = replace(short, wait=200 * MS)
    loop, window, slow_s = Loop(), Window(TimeBuckets(FakeClock(), 0.0)), 0.0
    for number, batch in enumerate(batches, start=1):
        loop.run(batch)
        if number % collected_every == 0 or number == len(batches):
            slow_s += window.device_slow_s(loop.collect())
    assert slow_s == pytest.approx(15 * MS)


@pytest.mark.parametrize("most", [8, 9])
def test_steps_keep_their_shapes_if_the_tape_overflows(most: int) -> None:
    loop = Loop(most=most)
    loop.run(*[Batch(work=(1 + n % 3) * MS, shape=str(1 + n % 3)) for n in range(50)])
    assert all(busy_s == pytest.approx(int(str(shape)) * MS) for shape, busy_s in loop.collect().busy)


def test_nothing_is_waited_for() -> None:
    loop = Loop()
    loop.run(*[Batch(work=1.0)] * 3)
    before = loop.clock()
    assert loop.probe.collect() == DeviceTime()
    assert loop.clock() == before
    loop.clock.sleep(2.0)
    assert loop.probe.collect().step_times_s == (1.0,)


def test_a_begin_told_twice_is_not_counted_twice() -> None:
    loop = Loop()
    loop.run(Batch(work=MS), Batch(after=2 * MS, work=MS))
    loop.clock.sleep(3 * MS)
    loop.probe.begin()  # a batch that was skipped
    loop.run(Batch(after=2 * MS, work=MS), Batch(after=2 * MS, work=MS))
    found = loop.collect()
    assert len(found.step_times_s) == 3
    assert found.timed_s == pytest.approx(2 * 2 * MS), "the step of the skipped batch has no idle that is known"
    assert found.idle_s == pytest.approx(2 * MS)


def test_without_a_cuda_device_there_is_no_such_probe() -> None:
    with pytest.raises(Missing, match="device events need a CUDA device"):
        ProbeContext(device=torch.device("cpu")).probe(DeviceTimeline)


# Properties ---------------------------------------------------------------------------------------------------

#: Seconds of which sums are exact.
_ticks = st.integers(0, 40).map(lambda n: n / 1024)
_batches = st.builds(
    Batch,
    after=_ticks,
    wait=_ticks,
    copy=_ticks,
    blocking=st.booleans(),
    python=_ticks,
    forward=st.none() | _ticks,
    work=_ticks,
    steps=st.booleans(),
    steady=st.booleans(),
)
_programs = st.lists(st.tuples(_batches, st.sampled_from(["", "", "collect", "interrupt", "synchronize"])), max_size=40)


def _played(program: list[tuple[Batch, str]], *, collecting: bool) -> tuple[Loop, list[DeviceTime]]:
    loop, found = Loop(), []
    for batch, then in program:
        loop.run(batch)
        if then == "collect" and collecting:
            found.append(loop.probe.collect())
        elif then == "interrupt":
            loop.probe.interrupted()
            if loop.ends:
                loop.ends.append((float("nan"), False))
        elif then == "synchronize":
            loop.stream.synchronize()
    return loop, [*found, loop.collect()]


def _total(found: list[DeviceTime]) -> DeviceTime:
    return DeviceTime(
        step_times_s=tuple(t for each in found for t in each.step_times_s),
        busy=tuple(step for each in found for step in each.busy),
        timed_s=sum(each.timed_s for each in found),
        idle_s=sum(each.idle_s for each in found),
        idle_data_s=sum(each.idle_data_s for each in found),
        idle_hooks_s=sum(each.idle_hooks_s for each in found),
        h2d_s=sum(each.h2d_s for each in found),
        hooks_idle_s=sum(each.hooks_idle_s for each in found),
        steady_hooks_idle_s=sum(each.steady_hooks_idle_s for each in found),
        own_times_s=tuple(times for each in found for times in each.own_times_s),
    )


@given(_programs)
def test_when_it_is_collected_changes_no_total(program: list[tuple[Batch, str]]) -> None:
    _, often = _played(program, collecting=True)
    _, once = _played(program, collecting=False)
    assert _total(often) == once[0]


@given(_programs)
def test_every_device_second_of_a_counted_step_is_work_transfer_or_idle_and_only_one(
    program: list[tuple[Batch, str]],
) -> None:
    loop, found = _played(program, collecting=True)
    total = _total(found)
    counted = []
    broken = True
    for (begin, _), (end, steady) in pairwise([(float("nan"), False), *loop.ends]):
        if end != end:
            broken = True
            continue
        if not broken and steady:
            counted.append((begin, end))
        broken = False
    expected = DeviceTime(
        step_times_s=tuple(end - begin for begin, end in counted),
        busy=tuple(("", end - begin - loop.stream.spent_s(begin, end, "idle")) for begin, end in counted),
        timed_s=sum(end - begin for begin, end in counted),
        idle_s=sum(loop.stream.spent_s(begin, end, "idle") for begin, end in counted),
        idle_data_s=total.idle_data_s,
        idle_hooks_s=total.idle_hooks_s,
        h2d_s=sum(loop.stream.spent_s(begin, end, "copy") for begin, end in counted),
        hooks_idle_s=total.hooks_idle_s,
        steady_hooks_idle_s=total.steady_hooks_idle_s,
        own_times_s=total.own_times_s,
    )
    assert total == expected
    own_s, data_s, h2d_s = (
        sum(part) for part in zip((0.0, 0.0, 0.0), *[own[:3] for own in total.own_times_s], strict=True)
    )
    assert (own_s, data_s, h2d_s) == pytest.approx((total.idle_s + total.h2d_s, total.idle_data_s, total.h2d_s))
    led = [led_s for *_, led_s in total.own_times_s if led_s == led_s]
    assert sum(led) <= sum(batch.forward or 0.0 for batch, _ in program) + 1e-9
    assert total.steady_hooks_idle_s <= total.hooks_idle_s <= sum(batch.after for batch, _ in program) + 1e-9
    assert 0 <= total.idle_data_s <= total.idle_data_s + total.idle_hooks_s <= total.idle_s <= total.timed_s
    assert total.idle_hooks_s <= total.hooks_idle_s
    assert loop.stream.in_use <= 4, (
        "the ends of the last step, of the last batch and of one not yet judged, and its begin"
    )


@given(_programs, st.integers(8, 24))
def test_an_overflow_never_makes_a_sum_larger_than_what_happened(program: list[tuple[Batch, str]], most: int) -> None:
    whole, small = Loop(), Loop(most=most)
    for loop in (whole, small):
        loop.stream.launch(1.0)  # the device is behind from the start
        for batch, then in program:
            loop.run(batch)
            if then == "interrupt":
                loop.probe.interrupted()
    all_of_it, kept = whole.collect(), small.collect()
    assert set(kept.step_times_s) <= set(all_of_it.step_times_s)
    assert 0 <= kept.idle_s <= all_of_it.idle_s
    assert 0 <= kept.h2d_s <= all_of_it.h2d_s
    assert sum(kept.step_times_s) == kept.timed_s <= all_of_it.timed_s
    assert small.stream.in_use <= 4


def test_what_leads_to_the_backward_pass_is_known_of_each_step_with_all_its_micro_batches():
    loop = Loop()
    loop.run(Batch(forward=3 * MS, work=9 * MS))
    loop.run(
        *[
            Batch(after=MS, forward=forward * MS, work=9 * MS, steps=steps)
            for forward, steps in ((3, True), (7, True), (2, False), (4, True))
        ]
    )
    loop.run(Batch(work=9 * MS))  # nobody reports its backward pass
    assert [own[3] for own in loop.collect().own_times_s] == pytest.approx([3 * MS, 7 * MS, 6 * MS, nan], nan_ok=True)
    assert loop.stream.in_use <= 4


def test_a_backward_pass_in_a_captured_graph_leaves_no_event_in_it():
    stream = FakeStream(FakeClock(100.0))
    probe = DeviceTimeline(stream, capturing=lambda: True)
    probe.begin()
    in_use = stream.in_use
    probe.mark_backward()
    assert stream.in_use == in_use


def test_hooks_in_which_the_device_works_on_are_no_idle_time():
    """A progress bar that waits for the device: 40 ms of the host, none of them idle."""
    loop = Loop()
    loop.run(*[Batch(work=40 * MS) for _ in range(5)])
    for _ in range(20):
        began_s = loop.clock()
        loop.stream.synchronize()
        waited_s = loop.clock() - began_s
        loop.clock.now -= waited_s  # `after` is the host's time in the hook, which `run` lets pass
        loop.run(Batch(after=waited_s, work=40 * MS))
    found = loop.collect()
    assert found.hooks_idle_s == pytest.approx(0.0)
    assert sum(found.step_times_s) == pytest.approx(40 * MS * len(found.step_times_s), rel=0.05)


def test_hooks_in_which_the_device_idles_are_idle_time():
    loop = Loop()
    for _ in range(10):
        loop.run(Batch(after=30 * MS, work=10 * MS))
    found = loop.collect()
    assert found.hooks_idle_s == found.steady_hooks_idle_s == pytest.approx(20 * MS * 9 + 30 * MS)


def test_hooks_of_a_steady_step_leave_its_seconds_also_if_something_else_ran_in_it():
    """A trace window is read for seconds between two steps: those are neither training's nor in any rate."""
    loop = Loop()
    for after in (1 * MS, 1 * MS, 5.0, 1 * MS):
        if after > 1:
            loop.probe.interrupted()
        loop.run(Batch(after=after, work=40 * MS))
    found = loop.collect()
    assert found.steady_hooks_idle_s == found.hooks_idle_s >= 5.0
    assert max(found.step_times_s) < 0.1


def test_the_hosts_time_is_that_of_queueing_while_the_device_waits(monkeypatch: pytest.MonkeyPatch):
    loop = Loop()
    monkeypatch.setattr("lightning_costs.probes.device_timeline.now_s", loop.clock)
    loop.run(*[Batch(late=3 * MS, work=50 * MS) for _ in range(5)])
    assert loop.probe.host_s == pytest.approx(3 * MS)  # the first one alone: the device is behind from then on
    loop.run(*[Batch(after=60 * MS, late=5 * MS, work=50 * MS, inside=2 * MS, copy=1 * MS) for _ in range(40)])
    assert loop.probe.host_s > 5 * MS
    queued = Loop()
    queued.stream.launch(1.0)
    queued.probe.end()
    queued.run(*[Batch(work=50 * MS) for _ in range(3)])
    assert queued.probe.host_s is None


def test_hooks_beside_an_evaluation_are_not_trainings():
    loop = Loop()
    loop.run(Batch(work=40 * MS), Batch(work=40 * MS))
    loop.probe.interrupted()
    loop.run(Batch(after=10 * MS, work=40 * MS))
    assert loop.collect().hooks_idle_s == pytest.approx(10 * MS)

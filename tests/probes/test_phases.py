from __future__ import annotations

import math
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from fakes import FakeClock, FakeStream

from lightning_costs.probes.phases import (
    BACKWARD,
    FORWARD,
    MOST_APART,
    OPTIMIZER,
    DevicePhases,
    HostPhases,
    Phases,
    _draw,
)

WEIGHT = torch.ones(1, requires_grad=True)


class Step:
    """Work whose phases are known: what is spent where goes into `truth`."""

    def __init__(self, phases: Phases, spend: Callable[[float], None]) -> None:
        self.phases, self.spend = phases, spend
        self.truth = {FORWARD: 0.0, BACKWARD: 0.0, OPTIMIZER: 0.0}

    def _spend(self, phase: int, seconds: float) -> None:
        self.spend(seconds)
        self.truth[phase] += seconds

    def forward(self, seconds: float) -> None:
        WEIGHT * 2  # a node of autograd, as in any forward pass
        self._spend(FORWARD, seconds)

    def backward(self, seconds: float) -> None:
        self.phases.backward_begins()
        self._spend(BACKWARD, seconds)
        self.phases.backward_ends()

    def update(self, seconds: float) -> None:
        self.phases.update_begins()
        self._spend(OPTIMIZER, seconds)
        self.phases.update_ends()

    def closure(self, forward: float, backward: float) -> None:
        """Lightning's: hooks and clipping belong to no phase."""
        self.phases.closure_begins()
        self.spend(0.25)
        self.phases.forward_begins()
        self.forward(forward)
        self.phases.pause()
        self.spend(0.5)  # self.log
        self.phases.resume()
        self.forward(forward)
        self.phases.forward_ends()
        self.spend(0.125)
        self.backward(backward)
        self.spend(1.0)
        self.phases.closure_ends()

    def automatic(self, forward: float = 2.0, backward: float = 4.0, update: float = 1.0) -> None:
        self.phases.update_begins()
        self.closure(forward, backward)
        self._spend(OPTIMIZER, update)
        self.phases.update_ends()
        self.spend(8.0)

    def sam(self) -> None:
        """Both passes within one update, and a perturbation between them."""
        self.phases.update_begins()
        self.closure(2.0, 4.0)
        self._spend(OPTIMIZER, 0.5)
        self.closure(2.0, 4.0)
        self._spend(OPTIMIZER, 1.0)
        self.phases.update_ends()

    def accumulating(self) -> None:
        self.closure(2.0, 4.0)
        self.spend(3.0)

    def manual(self) -> None:
        """A GAN's two updates, and a forward pass that nothing follows."""
        self.phases.forward_begins()
        for _ in range(2):
            self.forward(2.0)
            self.phases.pause()
            self.spend(0.5)
            self.backward(4.0)
            self.spend(0.25)  # clipping
            self.update(1.0)
        self.forward(1.0)
        self.phases.forward_ends()

    def loop(self) -> None:
        """A script's own loop that shows its backward passes and updates."""
        self.phases.work_begins()
        self.forward(2.0)
        self.backward(4.0)
        self.forward(2.0)
        self.backward(4.0)
        self.spend(0.5)
        self.update(1.0)
        self.phases.work_ends()
        self.spend(16.0)


KINDS = ("automatic", "sam", "accumulating", "manual", "loop")


@pytest.mark.parametrize("kind", KINDS)
def test_every_second_of_a_cpu_is_in_its_phase(kind: str) -> None:
    clock = FakeClock()
    phases = HostPhases(clock)
    step = Step(phases, clock.sleep)
    phases.start()
    for _ in range(3):
        getattr(step, kind)()
        phases.stepped(steady=False, certain=True)
        clock.sleep(64.0)
    assert {phase: phases.estimate(phase).amount for phase in step.truth} == step.truth
    assert phases.estimate(FORWARD).exact
    assert phases.why is None


@pytest.mark.parametrize("drift", [1.0, 3.0])
def test_a_share_of_the_steps_is_timed_on_a_cpu_and_scaled_to_all_also_if_steps_grow_longer(drift: float) -> None:
    clock = FakeClock()
    phases = HostPhases(clock)
    step = Step(phases, clock.sleep)
    phases.start()
    timed, done = 0, 0
    while done < 4000:
        for _ in range(min(phases.quiet, 4000 - done)):
            step.automatic(forward=2.0 * drift ** (done / 4000))
            phases.skipped(1)
            done += 1
        if done < 4000:
            timed += phases.on
            step.automatic(forward=2.0 * drift ** (done / 4000))
            phases.stepped(steady=done >= 3, certain=done < 2)
            done += 1
    assert 3 + 4000 // MOST_APART <= timed < 4000 // 20
    for phase, seconds in step.truth.items():
        found = phases.estimate(phase)
        assert found.amount == pytest.approx(seconds, rel=0.02 if drift > 1 else 1e-9)
        assert found.low <= seconds * (1 + 1e-9)
        assert found.high >= seconds * (1 - 1e-9)
        assert (found.counted, found.batches, found.exact) == (timed, 4000, False)


def test_nothing_is_noted_before_training_and_after_it() -> None:
    clock = FakeClock()
    phases = HostPhases(clock)
    step = Step(phases, clock.sleep)
    step.automatic()
    phases.start()
    phases.stop()
    step.automatic()
    assert phases.estimate(FORWARD).amount == phases.estimate(OPTIMIZER).amount == 0.0


def test_an_update_whose_backward_pass_was_not_seen_is_named() -> None:
    clock = FakeClock()
    phases = HostPhases(clock)
    step = Step(phases, clock.sleep)
    phases.start()
    phases.forward_begins()
    step.forward(1.0)
    step.update(1.0)
    phases.forward_ends()
    assert phases.why is not None
    assert "self.manual_backward(loss)" in phases.why


def on_device(
    steps: int, work: Callable[[Step, int], Any], warm: int = 3
) -> tuple[DevicePhases[Any], Step, FakeStream]:
    clock = FakeClock()
    stream = FakeStream(clock)
    phases: DevicePhases[Any] = DevicePhases(stream)
    step = Step(phases, stream.launch)
    phases.start()
    for number in range(steps):
        work(step, number)
        phases.stepped(steady=number >= warm, certain=number < warm - 1)
    stream.synchronize()
    return phases, step, stream


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_is_timed_at_a_share_of_the_steps_and_scaled_to_all(kind: str) -> None:
    phases, step, stream = on_device(400, lambda step, _: getattr(step, kind)())
    for phase, seconds in step.truth.items():
        found = phases.estimate(phase)
        assert found.amount == pytest.approx(seconds)
        assert found.half_width == pytest.approx(0.0, abs=1e-6)
        assert 3 + 400 // MOST_APART <= found.counted < 60
        assert not found.exact
    assert stream.in_use == 0, "every event is given back"


def test_warm_up_stands_for_itself() -> None:
    def work(step: Step, number: int) -> None:
        step.automatic(forward=1000.0 if number == 0 else 2.0)

    phases, step, _ = on_device(100, work)
    assert phases.estimate(FORWARD).amount == pytest.approx(step.truth[FORWARD])


def test_the_interval_holds_the_truth_of_steps_that_differ() -> None:
    held = 0
    for seed in range(40):
        draw = random.Random(seed)
        phases, step, _ = on_device(200, lambda step, _, draw=draw: step.automatic(forward=draw.lognormvariate(0, 0.5)))
        found = phases.estimate(FORWARD)
        assert found.half_width > 0
        held += found.low <= step.truth[FORWARD] <= found.high
    assert held >= 34, "95 % of 40, within chance"


def test_gradients_accumulate_over_whole_steps() -> None:
    def work(step: Step, _: int) -> None:
        for _ in range(3):
            step.accumulating()
        step.automatic()

    phases, step, _ = on_device(200, work)
    for phase, seconds in step.truth.items():
        assert phases.estimate(phase).amount == pytest.approx(seconds)


def test_a_device_that_is_behind_is_never_waited_for() -> None:
    clock = FakeClock()
    stream = FakeStream(clock)
    phases: DevicePhases[Any] = DevicePhases(stream)
    step = Step(phases, stream.launch)
    phases.start()
    for number in range(5000):
        step.automatic()
        phases.stepped(steady=number >= 3, certain=number < 2)
    assert phases.estimate(FORWARD).amount == 0.0
    assert stream.in_use < 1000, "the oldest steps are forgotten"
    stream.synchronize()
    assert phases.estimate(FORWARD).amount == pytest.approx(step.truth[FORWARD])


def test_a_step_in_which_a_graph_is_captured_or_an_event_fails_is_let_go() -> None:
    clock = FakeClock()
    stream, capturing = FakeStream(clock), [False]
    phases: DevicePhases[Any] = DevicePhases(stream, lambda: capturing[0])
    step = Step(phases, stream.launch)
    phases.start()
    phases.forward_begins()
    capturing[0] = True
    phases.forward_ends()
    assert not phases.on
    assert stream.in_use == 0
    capturing[0] = False
    phases.stepped(steady=False, certain=True)
    step.automatic()
    phases.stepped(steady=True)
    stream.synchronize()
    assert phases.estimate(BACKWARD).counted == 1
    phases.on = True
    stream.record = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    phases.forward_begins()
    assert phases.why == "an event could not be recorded: ZeroDivisionError (its text is in the log)"


def test_ranks_draw_the_same_steps_and_no_two_are_far_apart() -> None:
    drawn, at = [], _draw(0)[0]
    for done in range(1, 5000):
        if done > at:
            drawn.append(at)
            at = _draw(done)[0]
            assert at >= done
    assert all(0 < later - earlier < 2 * MOST_APART for earlier, later in pairwise(drawn))
    assert len(drawn) > 5000 / MOST_APART / 1.1
    assert {length for _, length in map(_draw, range(5000))} == {2, 4, 8, 16, 32, 64}
    assert math.isclose(len(set(drawn)), len(drawn))

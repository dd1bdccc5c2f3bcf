"""Where a step's time goes: forward passes, backward passes and updates, by moments between them.

On a CPU a moment is a clock read, on a CUDA device an event on the compute stream, read late and never waited for.
Warm-up is timed, and a share of the steps after it, drawn at random; the others are estimated from these.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Generic, TypeVar, final

import torch

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.probes.clock import now_s
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.device_timeline import CudaEvents, EventSource
from lightning_costs.probes.opcount.sampling import scattered
from lightning_costs.probes.opcount.strata import COVERAGE, Estimate
from lightning_costs.probes.repeat_steps import nodes_made
from lightning_costs.records.forecast import student_t
from lightning_costs.records.missing import type_only

#: What a moment ends: something else of the step, or one of the three.
REST, FORWARD, BACKWARD, OPTIMIZER = range(4)
#: One step of each block is drawn. Blocks grow with the run up to this many steps: what reports the moments of a drawn
#: one is put for it alone, some 40 Python calls. A loop that is no single call records it in full.
MOST_APART = 64
#: Drawn steps in flight at most; of a device that is further behind, the oldest are forgotten.
MOST_STEPS = 64
E = TypeVar("E")


class Phases:
    """Receives the moments of a batch's work, in the order in which they come.

    What is between two of them belongs to the phase that is under way. User code may show no forward pass (manual
    optimization, a loop of Fabric's). There, a gap before a backward pass or an update is a forward pass if autograd
    made nodes in it; else clipping, zeroing or logging. Inside an update, what is neither pass is the update's own
    work: SAM's two passes are two, and its perturbation is an update.

    The total is that of warm-up and, for the other steps, the mean of the drawn ones, weighted by the lengths of their
    blocks. Its interval is that of a simple random sample without replacement (Cochran, Sampling Techniques, 1977,
    section 2.9). Its size is the effective one of the weights (Kish, Survey Sampling, 1965, section 11.2).
    """

    def __init__(self) -> None:
        #: Whether the work in progress is timed.
        self.on = False
        self._started = False
        self._steps = 0
        self._next, self._weight = _draw(0)
        self._certain, self._drawn = _Sums(), _Sums()
        #: Why phases are not known.
        self.why: str | None = None
        #: Whether a backward pass was seen, and whether one came whose forward pass had not shown.
        self.seen = self.forwards_hidden = False
        self._shown = False
        self._phase = REST
        self._open = False
        #: Nodes that autograd had made where the last gap began, and at the last update or the batch's begin.
        self._nodes = self._before = 0
        self._resumes, self._paused = REST, False
        self._updates: list[int] = []
        self._closures = self._backwards = 0
        #: What four columns of a point ask for, and what it is of.
        self._asked: tuple[float, ...] = ()
        self._estimates: dict[int, Estimate] = {}

    @classmethod
    def attach(cls, setting: ProbeContext) -> Phases:
        """Timed by the device that trains."""
        return (
            DevicePhases(CudaEvents(setting.device), torch.cuda.is_current_stream_capturing)
            if setting.on_cuda
            else HostPhases(now_s)
        )

    def detach(self) -> None:
        """No more moments are noted."""
        self.on = False

    def start(self) -> None:
        """Training begins."""
        self._started = self.on = True

    def stop(self) -> None:
        """Training is over."""
        self._started = self.on = False

    @property
    def quiet(self) -> int:
        """How many steps may follow before one that is timed."""
        return 0 if self.on else max(0, self._next - self._steps)

    def skipped(self, n: int) -> None:
        """`n` steps are complete, none of which `stepped` reports."""
        self._advance(n, certain=False)

    def begin_repeat(self) -> None:
        """The step that is drawn begins, and `skipped` has not reported those before it yet."""
        self.on = self._started

    def end_repeat(self) -> int:
        """It is over, and `skipped` will report it, too.

        Returns:
            How many steps after it the next one is timed.
        """
        if self.on:
            self._end(self._weight)
            self.on = False
        timed = self._next
        self._next, self._weight = _draw(timed + 1)
        return self._next - timed

    def lose(self, error: Exception) -> None:
        """A moment could not be noted: phases are not known any more."""
        self.stop()
        self.why = type_only("a moment of a step could not be noted", error)

    def stepped(self, *, steady: bool, certain: bool = False) -> None:
        """An optimizer step is complete.

        Args:
            steady: Whether it may stand for others, as warm-up does not.
            certain: Whether the next one is to be timed in any case.
        """
        if self.on:
            self._end(self._weight if steady else 0)
        self._advance(1, certain=certain)

    def _end(self, weight: int) -> None:
        self._finish(weight)
        self._phase, self._open, self._shown, self._closures = REST, False, False, 0
        self._updates.clear()

    def _advance(self, n: int, *, certain: bool) -> None:
        self._steps += n
        if self._steps > self._next:
            self._next, self._weight = _draw(self._steps)
        self.on = self._started and (certain or self._steps == self._next)

    def _finish(self, weight: int) -> None:
        """The step in work was timed, and stands for a block of this length; 0 for itself alone."""
        raise NotImplementedError

    def _turn(self, ended: int, begins: int) -> None:
        """A moment: the phase that ends at it, and the one that begins."""
        raise NotImplementedError

    def _read(self) -> list[float]:
        """Read what can be read; seconds by phase of the step in work."""
        raise NotImplementedError

    def _add(self, seconds: list[float], weight: int) -> None:
        """A timed step."""
        if weight:
            self._drawn.add(seconds, weight)
        else:
            self._certain.add(seconds, 1)

    def estimate(self, phase: int) -> Estimate:
        """Seconds of a phase in all steps so far."""
        unfinished = self._read()
        asked = (self._steps, self._certain.n, self._drawn.n, *unfinished)
        if asked != self._asked:
            self._asked, self._estimates = asked, {}
        if (found := self._estimates.get(phase)) is None:
            found = self._estimates[phase] = self._estimated(phase, unfinished[phase])
        return found

    def _estimated(self, phase: int, unfinished_s: float) -> Estimate:
        certain, drawn = self._certain, self._drawn
        others = self._steps - certain.n
        guess = certain.least[phase] if certain.n > 1 else 0.0
        mean = drawn.sums[phase] / drawn.weight if drawn.n else guess
        half = others * mean
        if drawn.n > 1:
            n = drawn.weight**2 / drawn.weight_squares
            variance = max(0.0, drawn.squares[phase] / drawn.weight - mean * mean) * drawn.n / (drawn.n - 1)
            left = max(0.0, 1.0 - drawn.n / others) if others else 0.0
            half = others * student_t((1 + COVERAGE) / 2, drawn.n - 1) * math.sqrt(variance * left / n)
        return Estimate(
            amount=certain.sums[phase] + others * mean + unfinished_s,
            half_width=half,
            counted=certain.n + drawn.n,
            batches=self._steps,
            exact=not others,
        )

    @property
    def known(self) -> bool:
        """Whether enough steps were read for an estimate."""
        others = self._steps - self._certain.n
        return self._drawn.n > 1 or self._certain.n >= 9 * others

    # Moments ------------------------------------------------------------------------------------------------

    def work_begins(self) -> None:
        """A batch is in the hands of user code whose forward passes may not show."""
        self._paused = False
        if self.on:
            self._updates.clear()
            self._open, self._shown, self._backwards, self._closures = True, True, 0, 0
            self._nodes = self._before = nodes_made()
            self._turn(REST, REST)

    def work_ends(self) -> None:
        """The batch is done."""
        self._paused = False
        if self.on and self._open:
            self._turn(self._phase, REST)
            self._open = False

    def forward_begins(self) -> None:
        """A training step or a forward pass begins."""
        if self.on:
            self._shown = True
            if not self._open:
                self._open, self._backwards = True, 0
                self._nodes = self._before = nodes_made()
            self._turn(self._phase, FORWARD)

    def forward_ends(self) -> None:
        """A training step is over; in manual optimization all of its passes and updates were in it."""
        if self.on and self._open:
            self._turn(self._ended(), REST)
            self._open = False

    def backward_begins(self) -> None:
        """A backward pass begins."""
        if self.on:
            self.seen = True
            self.forwards_hidden |= not self._shown
            self._backwards += 1
            self._turn(self._ended() if self._open else self._phase, BACKWARD)

    def backward_ends(self) -> None:
        """A backward pass is over."""
        if self.on:
            if self._open:
                self._nodes = nodes_made()
            self._turn(self._phase, OPTIMIZER if self._updates and not self._closures else REST)

    def closure_begins(self) -> None:
        """An update calls for passes, and for hooks and clipping after them."""
        if self.on:
            self._closures += 1
            self._turn(self._phase, REST)

    def closure_ends(self) -> None:
        """The update continues, if one is under way."""
        if self.on:
            self._closures -= self._closures > 0
            if self._open:
                self._nodes = nodes_made()
            self._turn(self._phase, OPTIMIZER if self._updates else REST)

    def pause(self) -> None:
        """Something begins that is no pass: logging, zeroing, hooks before a backward pass. In an update it is its."""
        self._paused = self.on and self._open and (self._closures > 0 or not self._updates)
        if self._paused:
            ended, self._resumes = self._ended(), self._phase if self._phase in (FORWARD, BACKWARD) else REST
            self._nodes = nodes_made()
            self._turn(ended, REST)

    def resume(self) -> None:
        """It is over."""
        if self._paused:
            self._paused = False
            self._nodes = nodes_made()
            self._turn(REST, self._resumes)

    def update_begins(self) -> None:
        """An optimizer's step begins; it may call for passes."""
        if self.on:
            ended = self._phase
            if self._open:
                ended, nodes = self._ended(), nodes_made()
                hidden = ended == FORWARD and not self._backwards and nodes != self._before
                if hidden and (self._closures or not self._updates):  # in a closure it may be another optimizer's
                    self.why = (
                        "an optimizer stepped after a forward pass whose backward pass was not seen: in manual "
                        "optimization call self.manual_backward(loss), in Fabric fabric.backward(loss)"
                    )
                self._nodes = nodes
            self._updates.append(self._phase)
            self._turn(ended, OPTIMIZER)

    def update_ends(self) -> None:
        """An optimizer's step is over."""
        if self.on and self._updates:
            around = self._updates.pop()
            if self._open:
                self._nodes = self._before = nodes_made()
                self._backwards = 0
            self._turn(self._phase, BACKWARD if around == BACKWARD else OPTIMIZER if self._updates else REST)

    def _ended(self) -> int:
        """The phase that was under way; a gap in which autograd made nodes was a forward pass."""
        phase = self._phase
        return FORWARD if phase in (REST, OPTIMIZER) and nodes_made() != self._nodes else phase


class _Sums:
    """Seconds by phase over steps and their squares, weighted, and the weights."""

    def __init__(self) -> None:
        self.n = self.weight = self.weight_squares = 0
        self.sums, self.squares, self.least = [0.0] * 4, [0.0] * 4, [math.inf] * 4

    def add(self, seconds: list[float], weight: int) -> None:
        """One more step."""
        self.n += 1
        self.weight += weight
        self.weight_squares += weight * weight
        for phase in (FORWARD, BACKWARD, OPTIMIZER):
            amount = seconds[phase]
            self.sums[phase] += weight * amount
            self.squares[phase] += weight * amount * amount
            self.least[phase] = min(self.least[phase], amount)


def _draw(done: int) -> tuple[int, int]:
    """The next step to be drawn, on every rank the same one, and the length of the block that it stands for."""
    length = min(MOST_APART, 1 << max(1, (done // 4).bit_length() - 1))
    start = -(-done // length) * length
    return start + scattered(start, length) % length, length


@final
class HostPhases(Phases):
    """By the host's clock.

    Example:
        >>> from itertools import count
        >>> phases = HostPhases(count().__next__)
        >>> phases.start()
        >>> for moment in (phases.forward_begins, phases.forward_ends, phases.backward_begins, phases.backward_ends):
        ...     moment()
        >>> phases.estimate(FORWARD).amount, phases.estimate(BACKWARD).amount
        (1.0, 1.0)
    """

    def __init__(self, clock: Callable[[], float] = now_s) -> None:
        super().__init__()
        self._clock = clock
        self._since_s = 0.0
        self._spent_s = [0.0] * 4

    def _turn(self, ended: int, begins: int) -> None:
        now = self._clock()
        self._spent_s[ended] += now - self._since_s
        self._since_s, self._phase = now, begins

    def _finish(self, weight: int) -> None:
        spent, self._spent_s = self._spent_s, [0.0] * 4
        self._add(spent, weight)

    def _read(self) -> list[float]:
        return self._spent_s


@final
class DevicePhases(Phases, Generic[E]):
    """By events on the compute stream."""

    def __init__(self, events: EventSource[E], capturing: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self._events, self._capturing = events, capturing
        self._marks: list[tuple[int, E]] = []
        self._pending: deque[tuple[int, list[tuple[int, E]]]] = deque()

    def _turn(self, ended: int, begins: int) -> None:
        self._phase = begins
        try:
            if not self._capturing():
                self._marks.append((ended, self._events.record()))
                return
        except Exception as error:  # noqa: BLE001 - whatever the driver raises, the user's step continues
            reraise_from_signal(error)
            self.why = type_only("an event could not be recorded", error)
        self._release(self._marks)  # a graph is captured: an event in it would be the graph's
        self._marks, self.on = [], False

    def _finish(self, weight: int) -> None:
        """Its marks wait for the device."""
        if len(self._pending) >= MOST_STEPS:
            self._release(self._pending.popleft()[1])
        self._pending.append((weight, self._marks))
        self._marks = []

    def _release(self, marks: list[tuple[int, E]]) -> None:
        for _, event in marks:
            self._events.release(event)

    def _read(self) -> list[float]:
        while self._pending:
            weight, marks = self._pending[0]
            if marks and not self._events.done(marks[-1][1]):
                break
            self._pending.popleft()
            seconds = [0.0] * 4
            for (_, earlier), (phase, later) in pairwise(marks):
                if phase != REST:
                    seconds[phase] += self._events.between_s(earlier, later)
            self._release(marks)
            self._add(seconds, weight)
        return [0.0] * 4

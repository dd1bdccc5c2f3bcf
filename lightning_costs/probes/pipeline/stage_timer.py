"""What a pipeline's stage does on this rank, step by step: moments of a clock or of a device's stream, read late."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar, final

from lightning_costs.patching.fail_safe import fail_safe
from lightning_costs.probes.clock import now_s
from lightning_costs.probes.device_timeline import EventSource
from lightning_costs.records.pipeline.timeline import COMPUTE, Span, busy_s
from lightning_costs.records.samples import PipelineTime

#: Steps of the pipeline whose sends and receives are noted too, the warm-up (step 0) left out: the last of them that
#: was run is the one that is drawn.
DRAWN = range(1, 6)
#: Steps in flight at most. Past that the oldest are dropped whole, so that a device far behind stays bounded.
MOST_STEPS = 16
E = TypeVar("E")
_log = logging.getLogger("lightning_costs")


@final
class HostEvents:
    """Moments on the host's clock, for stages that a CPU runs: what was called has happened."""

    def __init__(self, clock: Callable[[], float] = now_s) -> None:
        #: Read the clock: a moment.
        self.record = clock

    def done(self, event: float) -> bool:
        """It was read, so it has happened."""
        return True

    def between_s(self, earlier: float, later: float) -> float:
        """Seconds between two moments."""
        return later - earlier

    def release(self, event: float) -> None:
        """Nothing to give back."""


class _Noted(NamedTuple, Generic[E]):
    """An interval that is not read yet."""

    kind: str
    chunk: int
    microbatch: int
    begun: E
    ended: E


@final
class _Step(Generic[E]):
    """A step in flight: from its begin to the next one's."""

    __slots__ = ("began", "begun", "ended", "next_begun", "noted", "number", "steady")

    def __init__(self, number: int, begun: E, began: float) -> None:
        self.number, self.begun, self.began = number, begun, began
        self.ended: E | None = None
        self.next_begun: E | None = None
        self.noted: list[_Noted[E]] = []
        self.steady = number > 0


@final
class StageTimer(Generic[E]):
    """What a stage does, step by step; sums over steps that count, read once their moments have happened.

    It is called in the middle of the user's training, so no exception gets out of it: it stops.
    """

    def __init__(self, events: EventSource[E], wall: Callable[[], float] = time.time) -> None:
        self._events, self._wall = events, wall
        #: Mark a moment.
        self.mark = events.record
        self._open: _Step[E] | None = None
        self._closed: deque[_Step[E]] = deque()
        self._steps = self._judged = 0
        self.broken = False
        #: Whether sends and receives of the step in work are noted.
        self.detailed = False
        #: What the stage does between two passes, since when: sending, receiving, or ('') nothing that is known of.
        self._between: tuple[str, int, int, E] | None = None
        self._awaited: set[tuple[str, int, int]] = set()
        #: The step that is drawn: its number, when it began, its length, and its intervals.
        self.example_step: tuple[int, float, float, list[Span]] | None = None
        self._sums = PipelineTime()

    def disable(self) -> None:
        """Something went wrong in here: say so once, and note nothing more."""
        was_broken, self.broken = self.broken, True
        self.detailed, self._open = False, None
        if not was_broken:
            _log.exception("timing the pipeline's stages failed and stops here; training continues. Please report this")

    # Calls of the engine -----------------------------------------------------------------------------------

    @fail_safe
    def begin(self) -> None:
        """A training step of the pipeline begins, and the one before is complete."""
        if len(self._closed) >= MOST_STEPS:
            self.read()
            while len(self._closed) >= MOST_STEPS:
                self._release(self._closed.popleft())
        begun = self.mark()
        step, number = self._open, self._steps
        if step is not None:
            step.next_begun = begun
            self._closed.append(step)
        self._steps += 1
        self.detailed = number in DRAWN
        self._open = _Step(number, begun, self._wall() if self.detailed else 0.0)
        self.read()

    @fail_safe
    def end(self) -> None:
        """The step's schedule has ended; what follows until the next `begin` is a part of the step."""
        self._leave()
        self.detailed = False
        if self._open is not None:
            self._open.ended = self.mark()

    @fail_safe
    def add_span(self, kind: str, chunk: int, microbatch: int, begun: E) -> None:
        """Something that began at `begun` is over; outside of a step it is not recorded."""
        if self._open is None or self._open.ended is not None:
            self._events.release(begun)
        else:
            self._open.noted.append(_Noted(kind, chunk, microbatch, begun, self.mark()))

    @fail_safe
    def on_gap(self, kind: str, chunk: int = 0, microbatch: int = -1) -> None:
        """In a detailed step: from here to the next report the stage sends ('S') or does nothing known ('')."""
        self._leave()
        self._between = (kind, chunk, microbatch, self.mark())

    @fail_safe
    def on_recv_start(self, way: str, chunk: int, microbatch: int) -> None:
        """In a detailed step: the input of a forward ('F') or backward ('B') pass is asked of another rank."""
        self._awaited.add((way, chunk, microbatch))
        self.on_gap("R", chunk, microbatch)

    @fail_safe
    def on_compute_start(self, way: str, chunk: int, microbatch: int) -> None:
        """In a detailed step: a pass begins. If its input was asked for, what was done before it is receiving."""
        if (way, chunk, microbatch) in self._awaited and self._between is not None:
            self._awaited.discard((way, chunk, microbatch))
            self._between = ("R", chunk, microbatch, self._between[3])
        self._leave()

    def _leave(self) -> None:
        if self._between is not None:
            kind, chunk, microbatch, begun = self._between
            self._between = None
            if kind:
                self.add_span(kind, chunk, microbatch, begun)
            else:
                self._events.release(begun)

    @property
    def in_step(self) -> bool:
        """Whether a training step's schedule is being gone through."""
        return self._open is not None and self._open.ended is None

    # Calls of the recorder ---------------------------------------------------------------------------------

    @fail_safe
    def mark_steady(self, *, steady: bool) -> None:
        """The optimizer step that ended with the last of the pipeline's steps counts for the rates, or is warm-up."""
        if not steady:
            for step in (*self._closed, *((self._open,) if self._open is not None else ())):
                step.steady = step.steady and step.number < self._judged
        self._judged = self._steps

    @fail_safe
    def interrupted(self) -> None:
        """Something else than training ran: the step in work is longer than it was."""
        if self._open is not None:
            self._open.steady = False

    # Reading -----------------------------------------------------------------------------------------------

    @fail_safe
    def collect(self) -> PipelineTime:
        """What steps outside warm-up that have completed since the last call took."""
        self.read()
        found, self._sums = self._sums, PipelineTime()
        return found

    @fail_safe
    def read(self) -> None:
        """Read the steps whose moments have happened; nothing is waited for."""
        while self._closed and self._happened(self._closed[0]):
            step = self._closed.popleft()
            self._draw(step)
            if step.steady:
                self._add(step)
            self._release(step)
        if self._open is not None and self._open.ended is not None and self._open.number in DRAWN:
            self._draw(self._open)

    def _happened(self, step: _Step[E]) -> bool:
        """Whether all of a step's moments have; a pass on a stream of its own may end after the next step's begin."""
        done = self._events.done
        return done(step.next_begun) and all(done(noted.ended) for noted in step.noted)  # type: ignore[arg-type]

    def _intervals(self, step: _Step[E]) -> list[Span]:
        between_s, begun = self._events.between_s, step.begun
        return [
            Span(n.kind, n.chunk, n.microbatch, between_s(begun, n.begun), between_s(begun, n.ended))
            for n in step.noted
        ]

    def _add(self, step: _Step[E]) -> None:
        assert step.ended is not None
        assert step.next_begun is not None
        intervals = self._intervals(step)
        step_s = self._events.between_s(step.begun, step.next_begun)
        schedule_s = self._events.between_s(step.begun, step.ended)
        within_s = busy_s(i for i in intervals if i.kind in ("L", "G", "U"))
        sums = self._sums
        self._sums = replace(
            sums,
            steps=sums.steps + 1,
            step_s=sums.step_s + step_s,
            busy_s=sums.busy_s + busy_s(i for i in intervals if i.kind in COMPUTE),
            outside_s=sums.outside_s + step_s - schedule_s + within_s,
        )

    def _draw(self, step: _Step[E]) -> None:
        done = self._events.done
        if step.number not in DRAWN or step.ended is None or not done(step.ended):
            return
        if not all(done(noted.ended) for noted in step.noted):
            return
        if self.example_step is None or self.example_step[0] < step.number:
            length_s = self._events.between_s(step.begun, step.ended)
            self.example_step = (step.number, step.began, length_s, self._intervals(step))

    def _release(self, step: _Step[E]) -> None:
        """Give the moments back, but for the one at which the next step begins."""
        self._events.release(step.begun)
        if step.ended is not None:
            self._events.release(step.ended)
        for noted in step.noted:
            self._events.release(noted.begun)
            self._events.release(noted.ended)

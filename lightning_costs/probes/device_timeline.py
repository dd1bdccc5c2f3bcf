"""The device's side of a training run: step times, and where the device had nothing to do, from events read late."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Hashable
from math import nan
from typing import Generic, Protocol, Self, TypeVar, final

import torch

from lightning_costs.probes.clock import now_s
from lightning_costs.probes.context import ProbeContext
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import DeviceTime

#: Marks in flight at most. Past that the oldest steps are dropped whole, so that a device far behind stays bounded.
MOST_EVENTS = 4096
#: Host times of queueing that are kept.
MOST_HOST_TIMES = 64

E = TypeVar("E")


class EventSource(Protocol[E]):
    """Moments on one stream that runs its work in order: each happens when everything queued before it is done."""

    def record(self) -> E:
        """Queue a moment behind what was queued so far."""

    def done(self, event: E) -> bool:
        """Whether it has happened; never waits."""

    def between_s(self, earlier: E, later: E) -> float:
        """Seconds between two moments that have happened."""

    def release(self, event: E) -> None:
        """This event is not needed any more: it may be used again."""


@final
class CudaEvents:
    """Timing events of CUDA, from a pool, on the stream that was current when the first one was recorded.

    That is the compute stream of the loop; passing it on is faster than asking for the current one at every record.
    Resolution is about half a microsecond (cudaEventElapsedTime).

    Args:
        device: Which device.
        follow: Record on the stream that is current at each record instead: for work that changes streams.
    """

    def __init__(self, device: torch.device | None, *, follow: bool = False) -> None:
        self._device, self._follow = device, follow
        self._pool: list[torch.cuda.Event] = []
        self._stream: torch.cuda.Stream | None = None

    def record(self) -> torch.cuda.Event:
        """Record an event; one is made only if none is free."""
        if self._stream is None or self._follow:
            self._stream = torch.cuda.current_stream(self._device)
        event = self._pool.pop() if self._pool else torch.cuda.Event(enable_timing=True)
        event.record(self._stream)
        return event

    def done(self, event: torch.cuda.Event) -> bool:
        """Whether the device has passed it."""
        return bool(event.query())

    def between_s(self, earlier: torch.cuda.Event, later: torch.cuda.Event) -> float:
        """Milliseconds of `elapsed_time` as seconds."""
        return float(earlier.elapsed_time(later)) / 1e3

    def release(self, event: torch.cuda.Event) -> None:
        """Back to the pool."""
        self._pool.append(event)


#: What happened at a mark. _LED is the begin of a batch's first backward pass, _ENDED the end of a batch whose step
#: continues, or whose step is not judged yet.
_COPYING, _COPIED, _BEGUN, _LED, _ENDED, _WARM, _STEADY = range(7)
#: Set on a mark before which something else than training ran.
_BROKEN = 8


@final
class DeviceTimeline(Generic[E]):
    """A tape of marks on the compute stream, read once the device has passed them; nothing is ever waited for.

    A period goes from the end of one optimizer step's work to the end of the next one's, micro-batches included::

        end ─ idle ─ copying ─ transfer ─ copied ─ idle ─ begin ─ work ─ end ─ idle ─ begin ─ work ─ end

    Idle is every gap between the end of one batch's work and the begin of the next one's, less the transfers in it.
    What lies inside the work counts as busy, so idle is a lower bound: of a gap inside a step, or between `begin` and
    a first kernel that is launched late, the marks know nothing. A period is dropped whole, from every sum alike,
    if it is warm-up, if something else ran in it (`interrupted`), or if the tape overflowed. One whose
    `begin` was not reported has a step time and no idle.
    """

    def __init__(
        self, events: EventSource[E], most: int = MOST_EVENTS, capturing: Callable[[], bool] = lambda: False
    ) -> None:
        self._events, self._most, self._capturing = events, most, capturing
        self._tape: deque[E] = deque()
        self._kinds: deque[int] = deque()
        #: Host seconds waited for the batch, and in hooks, one pair for each `begin` on the tape.
        self._waits: deque[tuple[float, float]] = deque()
        #: Host seconds in which work was queued, of batches that found the device waiting.
        self._host_s: list[float] = []
        self._begun_s: float | None = None
        #: What distinguishes steps that do different work, one for each end of a step on the tape.
        self._signatures: deque[Hashable] = deque()
        self._interrupted = 0
        # Where reading stands: ends of the last step and of the last batch, the transfer and the period in work.
        self._step_end: E | None = None
        self._batch_end: E | None = None
        self._copying: E | None = None
        self._work_begin: E | None = None
        self._at_work = False
        self._start_period()
        self._gap_copy_s = 0.0
        self._start_window()

    @classmethod
    def attach(cls, setting: ProbeContext) -> Self:
        """A probe of the setting's CUDA device."""
        if not setting.on_cuda:
            raise Missing("device events need a CUDA device")
        return cls(CudaEvents(setting.device), capturing=torch.cuda.is_current_stream_capturing)  # type: ignore[arg-type]

    def detach(self) -> None:
        """Let the events go."""
        self._tape.clear()
        self._kinds.clear()
        self._waits.clear()
        self._signatures.clear()
        self._step_end = self._batch_end = self._copying = self._work_begin = None

    # Calls of the loop -------------------------------------------------------------------------------------

    def mark_h2d_start(self) -> None:
        """The batch is about to be copied to the device, on the compute stream."""
        self._mark(_COPYING)

    def mark_h2d_end(self) -> None:
        """The copy was queued."""
        self._mark(_COPIED)

    def begin(self, wait_s: float = 0.0, hooks_s: float = 0.0) -> None:
        """The work on a batch is about to be queued: as late as may be, before its first kernel.

        Args:
            wait_s: Host seconds that went into waiting for data since the last `end`.
            hooks_s: Host seconds that went into other callbacks' hooks and loggers since the last `begin`.
        """
        waits = len(self._host_s) < MOST_HOST_TIMES and self._waits_for_work()
        self._mark(_BEGUN | self._interrupted)
        self._waits.append((wait_s, hooks_s))
        self._interrupted = 0
        self._begun_s = now_s() if waits else None

    def mark_backward(self) -> None:
        """A batch's first backward pass is about to be queued: what led to it is this rank's own work."""
        if not self._capturing():  # else the event would be the captured graph's
            self._mark(_LED)

    def end(self) -> None:
        """The work on a batch was queued: as early as may be, after its last kernel."""
        if self._begun_s is not None:
            self._host_s.append(now_s() - self._begun_s)
            self._begun_s = None
        self._mark(_ENDED | self._interrupted)
        self._interrupted = 0

    @property
    def host_s(self) -> float | None:
        """Seconds in which the host queues a batch's work while the device waits for it; None if it never did.

        The lower quartile: a queue that is full makes the host wait inside some of them.
        """
        ordered = sorted(self._host_s)
        return ordered[len(ordered) // 4] if ordered else None

    def _waits_for_work(self) -> bool:
        """Whether the device has done the work on the batch before; a copy that follows it does not count."""
        for event, kind in zip(reversed(self._tape), reversed(self._kinds), strict=True):
            if kind & ~_BROKEN >= _ENDED:
                return self._events.done(event)
        return True  # all was read, and so is done

    def stepped(self, *, steady: bool, signature: Hashable = None) -> None:
        """The batch that ended last completed an optimizer step; not called while gradients accumulate.

        Args:
            steady: Whether the step is outside warm-up.
            signature: Distinguishes steps that do different work, such as batches of other shapes.
        """
        if not self._kinds or self._kinds[-1] & ~_BROKEN != _ENDED:
            self.end()  # its end was not reported
        self._kinds[-1] += (_STEADY if steady else _WARM) - _ENDED
        self._signatures.append(signature)

    def finish(self, wait_s: float, hooks_s: float) -> None:
        """No batch follows: the gap after the last one belongs to no step, and has hooks as any other."""
        self._mark(_BEGUN)
        self._waits.append((wait_s, hooks_s))
        self._mark(_WARM)
        self._signatures.append(None)

    def interrupted(self) -> None:
        """Something else than training ran (an evaluation, a checkpoint): the current period belongs to no step."""
        self._interrupted = _BROKEN

    def _mark(self, kind: int) -> None:
        if len(self._tape) >= self._most:
            self._make_room()
        self._tape.append(self._events.record())
        self._kinds.append(kind)

    # Reading ------------------------------------------------------------------------------------------------

    def collect(self) -> DeviceTime:
        """What the device has completed since the last call. When it is called changes no sum over all calls."""
        self._read()
        found = DeviceTime(
            step_times_s=tuple(self._step_times_s),
            busy=tuple(self._busy),
            timed_s=self._timed_s,
            idle_s=self._idle_s,
            idle_data_s=self._idle_data_s,
            idle_hooks_s=self._idle_hooks_s,
            h2d_s=self._h2d_s,
            hooks_idle_s=self._hooks_idle_s,
            steady_hooks_idle_s=self._steady_hooks_idle_s,
            own_times_s=tuple(self._own_times_s),
        )
        self._start_window()
        return found

    def _start_window(self) -> None:
        self._step_times_s: list[float] = []
        self._own_times_s: list[tuple[float, float, float, float]] = []
        self._busy: list[tuple[Hashable, float]] = []
        self._timed_s = self._idle_s = self._idle_data_s = self._idle_hooks_s = self._h2d_s = 0.0
        self._hooks_idle_s = self._steady_hooks_idle_s = 0.0

    def _start_period(self) -> None:
        #: Whether nothing else ran in the period, and whether the begin of all its work is known.
        self._whole = self._seen = True
        self._period_idle_s = self._period_data_s = self._period_h2d_s = self._period_hooks_s = 0.0
        #: From the begin of each batch's work to its first backward pass; None if that was not reported.
        self._period_led_s: float | None = None

    def _read(self) -> None:
        """Read the tape as far as the device is; the stream is in order, so one search finds how far."""
        tape, kinds, done = self._tape, self._kinds, self._events.done
        # A batch's end is left until it is known whether it ends a step.
        judged = len(tape) - (bool(kinds) and kinds[-1] & ~_BROKEN == _ENDED)
        for _ in range(bisect_left(range(judged), True, key=lambda place: not done(tape[place]))):
            kind = kinds.popleft()
            self._whole = self._whole and not kind & _BROKEN
            self._pass(kind & ~_BROKEN, tape.popleft())

    def _pass(self, kind: int, event: E) -> None:
        events = self._events
        if kind == _COPYING:
            self._forget_copying()
            self._copying = event
            return
        if kind == _COPIED:
            if self._copying is not None:
                took_s = events.between_s(self._copying, event)
                self._period_h2d_s += took_s
                self._gap_copy_s += 0.0 if self._at_work else took_s
                self._forget_copying()
            events.release(event)
            return
        if kind == _BEGUN:
            self._pass_gap(event, *self._waits.popleft())
            self._forget_begin()
            self._work_begin = event
            return
        if kind == _LED:
            if self._work_begin is not None:
                self._period_led_s = (self._period_led_s or 0.0) + events.between_s(self._work_begin, event)
            events.release(event)
            return
        self._forget_begin()
        self._seen = self._seen and self._at_work
        self._at_work, self._gap_copy_s = False, 0.0
        if self._batch_end is not None and self._batch_end is not self._step_end:
            events.release(self._batch_end)
        self._batch_end = event
        if kind != _ENDED:
            self._pass_step(event, steady=kind == _STEADY)

    def _pass_gap(self, begin: E, wait_s: float, hooks_s: float) -> None:
        """The gap before a batch's work: idle, but for the transfers in it."""
        if self._batch_end is None or self._at_work:
            self._seen = False
        else:
            idle_s = max(0.0, self._events.between_s(self._batch_end, begin) - self._gap_copy_s)
            data_s = min(idle_s, wait_s)
            self._period_idle_s += idle_s
            self._period_data_s += data_s
            if self._whole:
                hooks_s = min(hooks_s, idle_s - data_s)
        self._period_hooks_s += hooks_s
        self._at_work = True

    def _pass_step(self, end: E, *, steady: bool) -> None:
        signature = self._signatures.popleft()
        self._give_back_hooks(steady=steady)
        if self._step_end is not None:
            if steady and self._whole:
                period_s = self._events.between_s(self._step_end, end)
                self._step_times_s.append(period_s)
                self._busy.append((signature, period_s - self._period_idle_s if self._seen else period_s))
                if self._seen:
                    self._timed_s += period_s
                    self._idle_s += self._period_idle_s
                    self._idle_data_s += self._period_data_s
                    self._idle_hooks_s += self._period_hooks_s
                    self._h2d_s += self._period_h2d_s
                    idle_s, h2d_s = self._period_idle_s, self._period_h2d_s
                    led_s = nan if self._period_led_s is None else self._period_led_s
                    self._own_times_s.append((idle_s + h2d_s, self._period_data_s, h2d_s, led_s))
            self._events.release(self._step_end)
        self._step_end = end
        self._start_period()

    def _give_back_hooks(self, *, steady: bool) -> None:
        """Whatever else ran in the period: the host's clock has its hooks in training and in steady seconds alike."""
        self._hooks_idle_s += self._period_hooks_s
        self._steady_hooks_idle_s += self._period_hooks_s if steady else 0.0

    def _forget_copying(self) -> None:
        if self._copying is not None:
            self._events.release(self._copying)
            self._copying = None

    def _forget_begin(self) -> None:
        if self._work_begin is not None:
            self._events.release(self._work_begin)
            self._work_begin = None

    def _make_room(self) -> None:
        """Read what has happened; if that is nothing, drop the oldest step: the next one's period stays whole."""
        self._read()
        if len(self._tape) < self._most:
            return
        self._forget_copying()
        self._forget_begin()
        if self._batch_end is not None and self._batch_end is not self._step_end:
            self._events.release(self._batch_end)
        if self._step_end is not None:
            self._events.release(self._step_end)
        self._step_end = self._batch_end = None
        self._at_work, self._gap_copy_s, self._whole = False, 0.0, False
        while self._tape:
            kind, event = self._kinds.popleft() & ~_BROKEN, self._tape.popleft()
            if kind == _BEGUN:
                self._waits.popleft()
            if kind in (_WARM, _STEADY):
                self._signatures.popleft()
                self._give_back_hooks(steady=kind == _STEADY)
                self._step_end = self._batch_end = event
                self._start_period()
                return
            self._events.release(event)

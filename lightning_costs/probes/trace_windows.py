"""Trace windows: now and then a few steps under torch's profiler, read as soon as they are over."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from itertools import pairwise
from statistics import fmean, median, stdev
from typing import Any, Self, final

import torch
from torch._C._autograd import DeviceType

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.probes.clock import now_s
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.opcount.strata import COVERAGE, Estimate
from lightning_costs.probes.repeat_steps import compiled_graphs
from lightning_costs.records.forecast import student_t
from lightning_costs.records.missing import Missing
from lightning_costs.records.trace import Interval, Kind, TracedStep, TraceEvent, device_steps, host_steps, perfetto

_log = logging.getLogger("lightning_costs")

#: Steps of a window; the first one is left out, as profiling begins in it.
STEPS = 4
#: Steps before the first window, and how many times as many lie before each one that follows.
FIRST_AT = 20
APART = 4
#: Steps before a window: their median is how long a step takes without a profiler.
PACE = 12
#: Windows after the first one wait until all of them together take at most this share of the training.
SHARE = 0.005
_MARK = "lightning_costs: batch"


@final
class TraceWindows:
    """Profiles a few steps, ever more rarely, and keeps what they show and the last window's trace.

    No window begins while a profiler of the user's runs. One that is under way ends without a result if the user starts
    a profiler. Windows in which operators are counted, code is compiled or an evaluation runs are dropped, too.

    Args:
        device: The one that trains.
        train_s: Seconds of training so far.
        apart: Entered around what windows do, which is no training.
        keeps: Whether the last trace is kept for the run folder.
    """

    def __init__(
        self,
        device: torch.device | None,
        train_s: Callable[[], float] = now_s,
        apart: Callable[[], AbstractContextManager[None]] = nullcontext,
        *,
        keeps: bool = True,
    ) -> None:
        self._keeps = keeps
        self._cuda = device is not None and device.type == "cuda"
        self._train_s, self._apart = train_s, apart
        self._profiler: Any = None
        self._covered: Any = None
        self._range: Any = None
        self._batches: list[list[int]] = []
        self._graphs = 0
        #: When the steps before the window began, in training seconds.
        self._begins: list[float] = []
        #: The step at which the next window begins.
        self.next = FIRST_AT
        #: What was seen, step by step.
        self.steps: list[TracedStep] = []
        self.windows = 0
        #: Seconds that windows took beside their steps; those that are not booked yet; and of the last one.
        self.took_s = self._owed_s = self._last_s = 0.0
        self._kept: bytes | None = None
        #: Why there is none.
        self.why: str | None = None

    @classmethod
    def attach(cls, setting: ProbeContext) -> Self:
        """For the device that trains."""
        if not setting.trace:
            raise Missing("trace windows are off: trace=True profiles a few steps now and then")
        accounts, keeps = setting.accounts, setting.place.rank == 0
        if accounts is None:
            return cls(setting.device, keeps=keeps)
        return cls(setting.device, accounts.train_s, lambda: accounts.bucket("other", "lightning-costs"), keeps=keeps)

    def detach(self) -> None:
        """No window stays open."""
        self.drop()
        self._kept = None

    @property
    def on(self) -> bool:
        """Whether a window is under way."""
        return self._profiler is not None

    @property
    def watched_from(self) -> int:
        """The first of the steps whose pace is taken: `due` has to be asked before each of them."""
        return self.next - PACE

    def due(self, done: int) -> bool:
        """Whether a window is to begin with the step that follows `done` ones."""
        if done < self.watched_from or self.on or self.why is not None:
            return False
        self._begins.append(self._train_s())
        if done < self.next:
            return False
        if self.windows and self.took_s + self._last_s > SHARE * self._train_s():
            self._begin_at(APART * done)
            return False
        if _profiles():
            self._begin_at(done + FIRST_AT)
            return False
        return True

    def begin(self) -> None:
        """A window begins: with the batch that comes next."""
        with self._apart():
            began_s = now_s()
            try:
                profile = torch.autograd.profiler.profile
                self._profiler = profile(use_kineto=True, use_device="cuda" if self._cuda else None)
                self._profiler._prepare_trace()
                self._profiler._start_trace()
                self._cover(profile)
            except Exception as error:  # noqa: BLE001 - whatever a profiler raises, training continues
                self._fail(error)
                reraise_from_signal(error)
            self._batches, self._graphs = [[0]], compiled_graphs()
            self._spent(began_s)

    def batch_begins(self) -> None:
        """The work on a batch begins."""
        if self.on and self._range is None:
            self._range = torch.autograd.profiler.record_function(_MARK)
            self._range.__enter__()
            self._batches[-1][0] += 1

    def batch_ends(self) -> None:
        """It was queued."""
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None

    def step_ends(self, done: int) -> bool:
        """An optimizer step is complete: whether the window ended with it."""
        if not self.on:
            return False
        self.batch_ends()
        if len(self._batches) < STEPS:
            self._batches.append([0])
            return False
        with self._apart():
            began_s, before_s = now_s(), self.took_s
            try:
                with _without_collector():
                    self._read(self._end())
            except Exception as error:  # noqa: BLE001 - as above
                self._fail(error)
                reraise_from_signal(error)
            self._spent(began_s)
            self._last_s = 2 * (self.took_s - before_s)
        self._begin_at(APART * max(done, FIRST_AT))
        return True

    def drop(self) -> None:
        """The window that is under way shows nothing that counts."""
        if not self.on:
            return
        self.batch_ends()
        with self._apart():
            began_s = now_s()
            try:
                self._end()
            except Exception as error:  # noqa: BLE001 - as above
                self._fail(error)
                reraise_from_signal(error)
            self._spent(began_s)
        self._begin_at(self.next + FIRST_AT)

    def take_owed_s(self) -> float:
        """Seconds that windows took since the last call."""
        owed_s, self._owed_s = self._owed_s, 0.0
        return owed_s

    def take_trace(self) -> bytes | None:
        """The last window's trace, if there is a new one."""
        kept, self._kept = self._kept, None
        return kept

    # ----------------------------------------------------------------------------------------------------------

    def _begin_at(self, step: int) -> None:
        self.next, self._begins = step, []

    def _spent(self, began_s: float) -> None:
        took_s = now_s() - began_s
        self.took_s += took_s
        self._owed_s += took_s

    def _cover(self, profile: Any) -> None:
        """While the window lasts, a profiler of the user's that starts ends it first."""
        original, ours = profile._prepare_trace, self._profiler

        def prepare(other: Any) -> Any:
            if other is not ours:
                self.drop()
            return original(other)

        profile._prepare_trace = prepare
        self._covered = (profile, original)

    def _uncover(self) -> None:
        covered, self._covered = self._covered, None
        if covered is not None:
            covered[0]._prepare_trace = covered[1]

    def _end(self) -> Any:
        profiler, self._profiler = self._profiler, None
        self._uncover()
        profiler.__exit__(None, None, None)
        return profiler.kineto_results

    def _fail(self, error: Exception) -> None:
        self._uncover()
        profiler, self._profiler, self._range = self._profiler, None, None
        if profiler is not None:
            with suppress(Exception):  # it may not have begun
                profiler.__exit__(None, None, None)
        self.why = f"torch's profiler failed: {type(error).__name__}; the log has the error"
        _log.info("a trace window failed", exc_info=error)

    def _read(self, results: Any) -> None:
        if compiled_graphs() != self._graphs:
            return
        events = trace_events(results.events())
        marks = sorted((e.begun_s, e.ended_s) for e in events if e.kind == "note" and e.name == _MARK)
        steps: list[list[Interval]] = []
        for (many,) in self._batches:
            steps.append(marks[:many])
            del marks[:many]
        if self._cuda and not any(event.kind == "kernel" for event in events):
            self.why = "torch's profiler saw no kernels: another tool holds CUPTI, or this user may not profile"
            return
        seen = (device_steps if self._cuda else host_steps)(events, steps)[1:]
        if self._cuda and len(self._begins) > 1:
            pace_s = median(later - begun for begun, later in pairwise(self._begins))
            seen = [step.at_pace(pace_s) for step in seen]
        self.steps += [step for step in seen if step.step_s > 0]
        self.windows += 1
        if self._keeps:
            self._kept = perfetto(events)

    # What is known ------------------------------------------------------------------------------------------

    def estimate(self, of: Callable[[TracedStep], float], steps: int) -> Estimate:
        """An amount of all steps, from the traced ones."""
        amounts = [of(step) for step in self.steps]
        n, mean = len(amounts), fmean(amounts)
        half = student_t((1 + COVERAGE) / 2, n - 1) * stdev(amounts) / math.sqrt(n) if n > 1 else mean
        return Estimate(amount=steps * mean, half_width=steps * half, counted=n, batches=steps, exact=False)

    def about(self) -> dict[str, Any]:
        """For the header: what a traced step was made of, in seconds; empty before the first window."""
        if not self.steps:
            return {}
        n = len(self.steps)
        names = sorted({name for step in self.steps for name in step.by_category_s})
        mean = {name: sum(step.by_category_s.get(name, 0.0) for step in self.steps) / n for name in names}
        return {
            "windows": self.windows,
            "steps": n,
            "took_s": self.took_s,
            "clock": "device" if self._cuda else "host",
            "step_s": sum(step.step_s for step in self.steps) / n,
            "idle_s": sum(step.idle_s for step in self.steps) / n,
            "by_category_s": dict(sorted(mean.items(), key=lambda item: -item[1])),
        }


def _profiles() -> bool:
    """Whether another profiler runs, or is prepared to run."""
    if torch._C._autograd._profiler_enabled():
        return True
    kind = torch.autograd.profiler.profile
    held = [thing for thing in gc.get_objects() if type(thing) is kind]
    return any(getattr(one, "entered", False) and getattr(one, "kineto_results", None) is None for one in held)


@contextmanager
def _without_collector() -> Iterator[None]:
    """A hundred thousand events at once would have the garbage collector look for cycles, for half of the time."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def trace_events(found: Sequence[Any]) -> list[TraceEvent]:
    """Kineto's events as plain data, without its repetition of the host's annotations on the device's lanes.

    Nothing runs there for an annotation, and a mark that counted twice would split a step in two.
    """
    starts_ns = [event.start_ns() for event in found]
    zero_ns = min(starts_ns, default=0)  # since the epoch, seconds would be as coarse as kernels are short
    names = [str(event.name()) for event in found]
    noted = {name for name, event in zip(names, found, strict=True) if event.is_user_annotation()} | {_MARK}
    events = []
    for name, start_ns, event in zip(names, starts_ns, found, strict=True):
        note = name in noted
        begun_s, ended_s = (start_ns - zero_ns) / 1e9, (start_ns - zero_ns + event.duration_ns()) / 1e9
        if event.device_type() != DeviceType.CPU:
            if not note:
                lane = event.device_resource_id()
                events.append(TraceEvent("kernel", name, lane, begun_s, ended_s, event.correlation_id()))
        elif note:
            events.append(TraceEvent("note", name, event.start_thread_id(), begun_s, ended_s))
        else:
            kind: Kind = "launch" if name.startswith(("cu", "hip")) and "::" not in name else "operator"
            lane = event.start_thread_id()
            events.append(TraceEvent(kind, name, lane, begun_s, ended_s, event.correlation_id()))
    return events

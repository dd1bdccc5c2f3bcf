"""What trace windows show of the inside of steps: communication, and how much of it is exposed; idle; late launches."""

from __future__ import annotations

from abc import ABC
from operator import attrgetter
from typing import ClassVar, final

from lightning_costs.indicators.base import Measured
from lightning_costs.indicators.compute import relative_error
from lightning_costs.indicators.phases import KNOWN, SAMPLED
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.trace_windows import FIRST_AT, TraceWindows
from lightning_costs.records.declaration import Kind
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import Amount, StepSample


class _Traced(Measured, ABC):
    """Seconds of rank 0's device in all steps, estimated from those of trace windows.

    Class attributes:
        field: What a traced step calls it.
    """

    name, unit, family = "traced_s", "s", "time"
    kind: ClassVar[Kind] = "counter"
    scope, across, role = "job", "rank0", "diagnostic"
    field: ClassVar[str] = ""

    def open(self, setting: ProbeContext) -> None:
        self._trace = setting.probe(TraceWindows)
        if not setting.on_cuda:
            raise Missing("needs a CUDA device: of a CPU, a trace window shows operators by category (header, 'trace')")
        self._steps, self._read = 0, 0.0

    def _check(self, sample: StepSample) -> bool:
        """Whether anything is known yet; raise if nothing will be."""
        self._steps += sample.steps
        if self._trace.why is not None:
            raise Missing(self._trace.why)
        if not self._trace.steps and sample.trigger == "end":
            raise Missing(f"no trace window was completed: the first one begins at step {FIRST_AT}")
        return bool(self._trace.steps)

    def read(self, sample: StepSample) -> Amount:
        if not self._check(sample):
            return 0.0
        found = self._trace.estimate(attrgetter(self.field), self._steps)
        if sample.trigger != "end" and found.half_width > KNOWN * found.amount:
            return 0.0  # see `_Phase`
        self.error = relative_error(found)
        self.method = f"{SAMPLED}; trace windows, torch's profiler"
        total_s = max(self._read, found.amount)  # totals never go down: see `_Phase.read`
        new_s, self._read = total_s - self._read, total_s
        return new_s


@final
class CommS(_Traced):
    """Device seconds of collectives and messages, hidden behind computation or not."""

    name, label = "comm_s", "communication time"
    field = "comm_s"


@final
class ExposedCommS(_Traced):
    """Device seconds of communication in which no other kernel ran."""

    name, label = "exposed_comm_s", "exposed communication"
    field = "exposed_comm_s"


@final
class StepIdleS(_Traced):
    """Device seconds inside steps in which neither a kernel nor a copy ran."""

    name, label = "step_idle_s", "device idle inside steps"
    field = "idle_s"


@final
class LaunchBoundFraction(_Traced):
    """Share of traced steps in which the device was idle and what it ran next was not launched yet."""

    name, unit, kind, label = "launch_bound_fraction", "fraction", "gauge", "waiting for launches"

    def read(self, sample: StepSample) -> Amount:
        if not self._check(sample):
            return None
        steps = self._trace.steps
        self.method = "of traced steps; trace windows, torch's profiler"  # no figure: runs' methods are compared
        return sum(step.late_s for step in steps) / sum(step.step_s for step in steps)

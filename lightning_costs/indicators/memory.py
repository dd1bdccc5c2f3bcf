"""Memory by kind, at rest and inside the step, and the peaks of device and host."""

from __future__ import annotations

from typing import ClassVar, final

from lightning_costs.indicators.base import Measured, rank_max
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.memory.readings import Allocator, rss_reader
from lightning_costs.probes.memory.storage_tracker import Phase, StepMemory
from lightning_costs.probes.memory.tensors import TensorMemory
from lightning_costs.probes.opcount.counter import StepOpCounter
from lightning_costs.probes.opcount.counting import UNSEEN
from lightning_costs.records.declaration import Role
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import Amount, StepSample


class _Held(Measured):
    """Bytes on all ranks together, each storage once on its rank."""

    name, unit, kind, family = "held_bytes", "bytes", "gauge", "memory"
    fold, across, rate_limited = "max", "sum", True
    #: Which part of what is held.
    field: ClassVar[str] = ""

    def open(self, setting: ProbeContext) -> None:
        self._memory = setting.probe(TensorMemory)

    def read(self, sample: StepSample) -> Amount:
        """What is held now; between two train points, as after the last watched step (a walk takes time)."""
        held = self._memory.at_rest(None if sample.trigger == "train" else sample.ended_s)
        return float(getattr(held, self.field))


class _MostHeld(_Held):
    """The most that was held at any moment that was read, which `field` of the probe says."""

    name = "most_held_bytes"

    def read(self, sample: StepSample) -> Amount:
        self._memory.at_rest(None if sample.trigger == "train" else sample.ended_s)
        if self._memory.failed is not None:
            raise Missing(self._memory.failed, warn=True)
        most: int | None = getattr(self._memory, self.field)
        return None if most is None else float(most)


@final
class ParamBytes(_Held):
    """Parameters."""

    name, label, field = "param_bytes", "memory of parameters", "param_bytes"


@final
class GradBytes(_MostHeld):
    """Gradients, at most: they exist from the backward pass to the next zeroing."""

    name, label, field = "grad_bytes", "memory of gradients", "grad_peak_bytes"


@final
class MasterBytes(_Held):
    """Master weights: the copies (fp32, as a rule) that an optimizer updates in place of the model's parameters."""

    name, label, field = "master_bytes", "memory of master weights", "master_bytes"


@final
class OptStateBytes(_Held):
    """Optimizer state at rest, between steps."""

    name, label, headline, field = "opt_state_bytes", "optimizer memory at rest", True, "opt_state_bytes"


@final
class OptPeakBytes(_MostHeld):
    """Most optimizer memory at any moment of the watched steps: SAM holds a second copy of the weights there."""

    name, label, headline, field = "opt_peak_bytes", "optimizer memory inside the step", True, "opt_peak_bytes"


RankMaxParamBytes = rank_max(ParamBytes, "memory of parameters, the fullest rank")
RankMaxGradBytes = rank_max(GradBytes, "memory of gradients, the fullest rank")
RankMaxMasterBytes = rank_max(MasterBytes, "memory of master weights, the fullest rank")
RankMaxOptStateBytes = rank_max(OptStateBytes, "optimizer memory at rest, the fullest rank")
RankMaxOptPeakBytes = rank_max(OptPeakBytes, "optimizer memory inside the step, the fullest rank")


def counted_memory(census: StepOpCounter) -> StepMemory:
    """Memory inside the counted steps, or why it is not known yet."""
    if census.failed is not None:
        raise Missing(census.failed)
    if census.compiled:
        raise Missing(UNSEEN)
    if census.memory is None:
        raise Missing(f"no step was counted: {census.why_none}")
    return census.memory


@final
class ActivationBytes(Measured):
    """Memory of activations: made by a forward pass and still held when its backward pass starts, at most."""

    name, unit, kind, family = "activation_bytes", "bytes", "gauge", "memory"
    fold, across, label, rate_limited = "max", "sum", "memory of activations", True

    def open(self, setting: ProbeContext) -> None:
        self._census = setting.probe(StepOpCounter)
        self.method = "counted steps: storages made by the forward pass (or made again) and alive as backward continues"

    def read(self, sample: StepSample) -> Amount:
        if self._census.memory is None and sample.trigger != "end":
            return None
        return float(counted_memory(self._census).activation_bytes)


class _PhasePeak(Measured):
    """Most memory held at one moment of a phase of the counted steps."""

    name, unit, kind, family = "phase_peak_bytes", "bytes", "static", "memory"
    scope, across = "job", "rank0"
    phase: ClassVar[Phase] = "forward"

    def open(self, setting: ProbeContext) -> None:
        self._census = setting.probe(StepOpCounter)
        self._how = (
            "torch caching allocator, read after each operator of the counted steps; work space inside an operator "
            "shows if it is the most so far"
            if setting.on_cuda
            else "storages of parameters, buffers, gradients, optimizer state and all that the counted steps "
            "touched; work space inside an operator is not seen"
        )

    def read(self, sample: StepSample) -> Amount:
        if not self._census.batches and sample.trigger != "end":
            return None
        memory = counted_memory(self._census)
        early = "; before the first update, so without optimizer state" if self._census.memory_is_early else ""
        self.method = self._how + early
        return float(memory.peak_bytes[self.phase])


@final
class PeakForwardBytes(_PhasePeak):
    """Most memory held during forward passes, everything included."""

    name, label, phase = "peak_forward_bytes", "peak memory of forward", "forward"


@final
class PeakBackwardBytes(_PhasePeak):
    """Most memory held during backward passes, everything included."""

    name, label, phase = "peak_backward_bytes", "peak memory of backward", "backward"


@final
class PeakOptimizerBytes(_PhasePeak):
    """Most memory held during updates, everything included."""

    name, label, phase = "peak_optimizer_bytes", "peak memory of update", "optimizer"


class _Cuda(Measured):
    """A statistic of torch's caching allocator; the user's own peak counters are left alone."""

    name, unit, kind, family = "cuda_bytes", "bytes", "gauge", "memory"
    fold, across, rate_limited = "max", "max", True
    stat: ClassVar[str] = "allocated_bytes.all.peak"

    def open(self, setting: ProbeContext) -> None:
        self._allocator = setting.probe(Allocator)
        self.method = "torch caching allocator, since the process began or the user's last reset"

    def read(self, sample: StepSample) -> float:
        return float(self._allocator.stats(sample)[self.stat])


@final
class PeakMemBytes(_Cuda):
    """Most device memory in tensors, over the run so far."""

    name, label, headline = "peak_mem_bytes", "peak device memory", True


@final
class ReservedBytes(_Cuda):
    """Most device memory that torch's allocator reserved."""

    name, label, stat = "reserved_bytes", "reserved device memory", "reserved_bytes.all.peak"


@final
class FragmentedBytes(_Cuda):
    """Device memory that torch's allocator holds and no tensor uses, the most at a point: reserved less allocated."""

    name, label = "fragmented_bytes", "reserved device memory that no tensor uses"
    role: ClassVar[Role] = "diagnostic"

    def open(self, setting: ProbeContext) -> None:
        super().open(setting)
        self.method = "torch caching allocator, at points: reserved less allocated"

    def read(self, sample: StepSample) -> float:
        stats = self._allocator.stats(sample)
        return float(stats["reserved_bytes.all.current"] - stats["allocated_bytes.all.current"])


class _AllocatorCalls(Measured):
    """How often something happened in torch's caching allocator."""

    name, unit, kind, family = "alloc_calls", "calls", "counter", "memory"
    scope, rate_limited = "device", True
    role: ClassVar[Role] = "diagnostic"
    stat: ClassVar[str] = "num_alloc_retries"

    def open(self, setting: ProbeContext) -> None:
        self._allocator = setting.probe(Allocator)
        self._before = self._allocator.begun[self.stat]
        self.method = "torch caching allocator"

    def read(self, sample: StepSample) -> float:
        total = self._allocator.stats(sample)[self.stat]
        new, self._before = total - self._before, total
        return float(max(0, new))  # the user may reset the allocator's counters


@final
class AllocRetries(_AllocatorCalls):
    """Allocations that failed at first: the allocator freed its cache, which waits for the device, and tried again."""

    name, unit, label = "alloc_retries", "retries", "allocation retries"


@final
class OomCount(_AllocatorCalls):
    """Out-of-memory errors of the device, those that the script caught included."""

    name, unit, label, stat = "oom_count", "count", "out-of-memory errors", "num_ooms"


@final
class HostRssBytes(Measured):
    """Resident memory of this process, the most seen at an emission."""

    name, unit, kind, family = "host_rss_bytes", "bytes", "gauge", "memory"
    fold, across, label, rate_limited = "max", "max", "host memory", True

    def open(self, setting: ProbeContext) -> None:
        self._rss_bytes = rss_reader()
        self.method = "resident set of the training process, sampled at emissions"

    def read(self, sample: StepSample) -> Amount:
        return float(self._rss_bytes())

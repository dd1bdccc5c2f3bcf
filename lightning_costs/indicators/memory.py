"""Memory by kind, at rest and inside the step, and the peaks of device and host."""

from __future__ import annotations

from typing import ClassVar, Literal, final

from lightning_costs.indicators.base import Measured
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.memory.host import rss_reader
from lightning_costs.probes.memory.storage_tracker import Phase, StepMemory
from lightning_costs.probes.memory.tensors import MemoryBreakdown, TensorMemory
from lightning_costs.probes.opcount.counter import StepOpCounter
from lightning_costs.probes.opcount.counting import UNSEEN
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import Amount, StepSample


class _OnRank(Measured):
    """Bytes on this rank, each storage once."""

    name, unit, kind, family = "held_bytes", "bytes", "gauge", "memory"
    fold, rate_limited = "max", True

    def open(self, setting: ProbeContext) -> None:
        self._memory = setting.probe(TensorMemory)

    def _held(self, sample: StepSample) -> MemoryBreakdown:
        """What is held now; between two train points, as after the last watched step (a walk takes time)."""
        return self._memory.at_rest(None if sample.trigger == "train" else sample.ended_s)

    def _most(self, sample: StepSample, peak: Literal["grad_peak_bytes", "opt_peak_bytes"]) -> Amount:
        """The most that was held at any moment that was read."""
        self._held(sample)
        if self._memory.failed is not None:
            raise Missing(self._memory.failed, warn=True)
        most: int | None = getattr(self._memory, peak)
        return None if most is None else float(most)


class _Held(_OnRank):
    """Bytes on all ranks together, each storage once on its rank."""

    name, across = "held_bytes", "sum"


class _Fullest(_OnRank):
    """The same on the rank that holds most."""

    name, across, role = "rank_max_held_bytes", "max", "diagnostic"


@final
class ParamBytes(_Held):
    """Parameters."""

    name, label = "param_bytes", "memory of parameters"

    def read(self, sample: StepSample) -> float:
        return float(self._held(sample).param_bytes)


@final
class GradBytes(_Held):
    """Gradients, at most: they exist from the backward pass to the next zeroing."""

    name, label = "grad_bytes", "memory of gradients"

    def read(self, sample: StepSample) -> Amount:
        return self._most(sample, "grad_peak_bytes")


@final
class MasterBytes(_Held):
    """Master weights: the copies (fp32, as a rule) that an optimizer updates in place of the model's parameters."""

    name, label = "master_bytes", "memory of master weights"

    def read(self, sample: StepSample) -> float:
        return float(self._held(sample).master_bytes)


@final
class OptStateBytes(_Held):
    """Optimizer state at rest, between steps."""

    name, label, headline = "opt_state_bytes", "optimizer memory at rest", True

    def read(self, sample: StepSample) -> float:
        return float(self._held(sample).opt_state_bytes)


@final
class OptPeakBytes(_Held):
    """Most optimizer memory at any moment of the watched steps: SAM holds a second copy of the weights there."""

    name, label, headline = "opt_peak_bytes", "optimizer memory inside the step", True

    def read(self, sample: StepSample) -> Amount:
        return self._most(sample, "opt_peak_bytes")


@final
class RankMaxParamBytes(_Fullest):
    """Parameters on the rank that holds most of them."""

    name, label = "rank_max_param_bytes", "memory of parameters, the fullest rank"

    def read(self, sample: StepSample) -> float:
        return float(self._held(sample).param_bytes)


@final
class RankMaxGradBytes(_Fullest):
    """Gradients, at most, on the rank that holds most of them."""

    name, label = "rank_max_grad_bytes", "memory of gradients, the fullest rank"

    def read(self, sample: StepSample) -> Amount:
        return self._most(sample, "grad_peak_bytes")


@final
class RankMaxMasterBytes(_Fullest):
    """Master weights on the rank that holds most of them."""

    name, label = "rank_max_master_bytes", "memory of master weights, the fullest rank"

    def read(self, sample: StepSample) -> float:
        return float(self._held(sample).master_bytes)


@final
class RankMaxOptStateBytes(_Fullest):
    """Optimizer state at rest on the rank that holds most of it."""

    name, label = "rank_max_opt_state_bytes", "optimizer memory at rest, the fullest rank"

    def read(self, sample: StepSample) -> float:
        return float(self._held(sample).opt_state_bytes)


@final
class RankMaxOptPeakBytes(_Fullest):
    """Most optimizer memory at any moment of the watched steps, on the rank that holds most."""

    name, label = "rank_max_opt_peak_bytes", "optimizer memory inside the step, the fullest rank"

    def read(self, sample: StepSample) -> Amount:
        return self._most(sample, "opt_peak_bytes")


def counted_memory(census: StepOpCounter) -> StepMemory:
    """Memory inside the counted steps, or why it is not known yet."""
    if census.failed is not None:
        raise Missing(census.failed)
    if census.compiled:
        raise Missing(UNSEEN)
    if census.memory is None:
        raise Missing("no step was counted: shapes are unknown, or it is not inside recorder.train_batch(batch)")
    return census.memory


@final
class ActivationBytes(Measured):
    """Memory of activations: made by a forward pass and still held when its backward pass starts, at most."""

    name, unit, kind, family = "activation_bytes", "bytes", "gauge", "memory"
    fold, across, label, rate_limited = "max", "sum", "memory of activations", True

    def open(self, setting: ProbeContext) -> None:
        self._census = setting.probe(StepOpCounter)
        self.method = "counted steps: storages made by the forward pass (or made again) and alive as backward goes on"

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
            "shows where it is the most so far"
            if setting.on_cuda
            else "storages of parameters, buffers, gradients, optimizer state and all that the counted steps "
            "touched; work space inside an operator is not seen"
        )

    def read(self, sample: StepSample) -> Amount:
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
    name, unit, kind, family = "cuda_bytes", "bytes", "gauge", "memory"
    fold, across, rate_limited = "max", "max", True

    def open(self, setting: ProbeContext) -> None:
        if not setting.on_cuda:
            raise Missing("no CUDA device trains; see host_rss_bytes")
        self._device = setting.device
        self.method = "torch caching allocator, since the process began or the user's last reset"


@final
class PeakMemBytes(_Cuda):
    """Most device memory in tensors, over the run so far; the user's own peak counters are left alone."""

    name, label, headline = "peak_mem_bytes", "peak device memory", True

    def read(self, sample: StepSample) -> float:
        import torch

        return float(torch.cuda.max_memory_allocated(self._device))


@final
class ReservedBytes(_Cuda):
    """Most device memory that torch's allocator reserved."""

    name, label = "reserved_bytes", "reserved device memory"

    def read(self, sample: StepSample) -> float:
        import torch

        return float(torch.cuda.max_memory_reserved(self._device))


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

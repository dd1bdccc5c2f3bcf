"""What using the model costs: one forward pass at batch 1, and serving at the training batch."""

from __future__ import annotations

from typing import ClassVar, final

from lightning_costs.indicators.base import Measured
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.opcount.counter import StepOpCounter
from lightning_costs.records.declaration import Family
from lightning_costs.records.inference import Inference
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import Amount, StepSample


class _Inference(Measured):
    """A number of the forward passes that were run after training."""

    name, unit, kind = "infer_s", "s", "static"
    family: ClassVar[Family] = "time"
    scope, across = "job", "rank0"
    field: ClassVar[str] = "latency_p50_s"

    def open(self, setting: ProbeContext) -> None:
        setting.probe(StepOpCounter)  # its first counted forward pass is the one that is repeated
        self._setting = setting

    def read(self, sample: StepSample) -> Amount:
        if sample.trigger != "end":
            return None
        found = self._setting.inference
        if not isinstance(found, Inference):
            raise Missing(found)
        if self.field in found.missing:
            raise Missing(found.missing[self.field])
        self.method = found.method
        return float(getattr(found, self.field))


@final
class InferLatencyP50S(_Inference):
    """Median time of one forward pass of one sample."""

    name, label, field = "infer_latency_p50_s", "inference latency, median", "latency_p50_s"


@final
class InferLatencyP95S(_Inference):
    """95th percentile of the time of one forward pass of one sample."""

    name, label, field = "infer_latency_p95_s", "inference latency, 95th percentile", "latency_p95_s"


@final
class InferSamplesPerS(_Inference):
    """Samples per second through the forward pass, at the training batch."""

    name, unit, label, field = "infer_samples_per_s", "samples_per_s", "inference throughput", "samples_per_s"
    better = "higher"


@final
class InferEnergyJ(_Inference):
    """Energy of one sample's forward pass, at the training batch; the whole machine's, as energy_j is."""

    name, unit, family, label, field = "infer_energy_j", "j", "energy", "inference energy, per sample", "energy_j"


@final
class InferPeakMemBytes(_Inference):
    """Most memory that a forward pass needs at the training batch: parameters, buffers, input and what it makes."""

    name, unit, family = "infer_peak_mem_bytes", "bytes", "memory"
    label, field = "peak memory of inference", "peak_mem_bytes"

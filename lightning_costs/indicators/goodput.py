"""Where time went that taught the model nothing: restarts, queues, restoring, compiling, slow steps; and the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

from lightning_costs.indicators.base import Derived, FromSample, Measured
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.compile_time import CompileTime
from lightning_costs.probes.context import ProbeContext
from lightning_costs.records.declaration import Family, Role
from lightning_costs.records.samples import Amount, StepSample


class _OfAttempts(Derived):
    """Changes where an attempt begins: the run's state sets it there (`lightning_costs.run.attempts`)."""

    name, unit, kind = "between_s", "s", "counter"
    scope, across = "job", "rank0"
    family: ClassVar[Family] = "time"
    role: ClassVar[Role] = "diagnostic"
    needs = ("total_s",)

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        return 0.0


@final
class DownS(_OfAttempts):
    """Between attempts: from the last record of one to the start of the next one's process. Not in `total_s`."""

    name, label = "down_s", "down between attempts"


@final
class QueueS(_OfAttempts):
    """In the scheduler's queue: from submission, or the end of the attempt before, to the job's start."""

    name, label = "queue_s", "time in the queue"


@final
class Disruptions(_OfAttempts):
    """How often the run was broken off and begun again."""

    name, unit, family, label = "disruptions", "disruptions", "data", "disruptions"
    method = (
        "attempts that left a record, or a trace if the environment names the run; one that dies while it imports "
        "leaves a trace under `lightning-costs run` alone, and may be in SLURM's count of restarts"
    )


class _OfKept(Derived):
    """Follows from totals and from what was lost of them: the run's state sets it (`lightning_costs.run.kept`)."""

    name, unit, kind, family = "kept_s", "s", "gauge", "time"
    scope, across = "job", "rank0"
    better, role = "higher", "diagnostic"
    needs: ClassVar[tuple[str, ...]] = ("train_s",)

    def of(self, window: Mapping[str, float], tariff: Tariff) -> Amount:
        return None


@final
class ProductiveS(_OfKept):
    """Training that was kept, without waiting for data, device idle, compilation and slow steps."""

    name, label = "productive_s", "productive training time"


@final
class GoodputFraction(_OfKept):
    """Share of `productive_s` in the wall clock since the first attempt's start, `total_s` and `down_s`."""

    name, unit, label = "goodput_fraction", "fraction", "goodput"
    needs = ("train_s", "total_s", "down_s")


@final
class RestoreS(FromSample):
    """Loading a checkpoint when an attempt begins: a part of `setup_s`."""

    name, unit, kind, family = "restore_s", "s", "counter", "time"
    scope, across, role, label = "job", "rank0", "diagnostic", "restoring checkpoints"
    lacking = (
        "no loading was seen: needs Lightning, fabric.load, accelerator.load_state, DeepSpeed's load_checkpoint, "
        "or `with recorder.bucket('restore')`"
    )


@final
class CompileS(Measured):
    """Compilation by torch.compile during training, by torch's own account: a part of `train_s`."""

    name, unit, kind, family = "compile_s", "s", "counter", "time"
    scope, across, role, label = "job", "rank0", "diagnostic", "compiling"

    def open(self, setting: ProbeContext) -> None:
        self._compiling = setting.probe(CompileTime)
        self.method = "torch._dynamo's cumulative wall time of frames and compiled backward passes"

    def read(self, sample: StepSample) -> float:
        return self._compiling.take_s()


@final
class SlowS(FromSample):
    """Steps above the median of their signature, at least: without waiting for data and idle, with first steps."""

    name, unit, kind, family = "slow_s", "s", "counter", "time"
    scope, across, role, label = "job", "rank0", "diagnostic", "slow steps"
    method = "each step against the median of the last 128 of its signature"

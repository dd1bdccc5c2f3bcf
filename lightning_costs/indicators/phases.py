"""Where the time of training steps goes: forward passes, backward passes, updates, and the rest."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, final

from lightning_costs.indicators.base import Measured
from lightning_costs.indicators.compute import relative_error
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.opcount.strata import Estimate
from lightning_costs.probes.phases import BACKWARD, FORWARD, OPTIMIZER, Phases
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import StepSample

_STAGED = (
    "in a pipeline, passes of several micro-batches interleave: stage_busy_s and stage_outside_s say where time goes"
)
#: Half of an interval, as a share of the amount, from which a total is the interval's lower end.
KNOWN = 0.25
SAMPLED = "estimated from sampled steps"
_UNSEEN = (
    "passes of this loop are not seen: "
    "Lightning, Fabric, Accelerate, the Hugging Face Trainer and a DeepSpeed engine show theirs"
)
_HIDDEN = (
    "forward passes of this loop are not seen: they are in batches of a loader that fabric.setup_dataloaders or "
    "accelerator.prepare returned, and in calls of a model that fabric.setup or prepare returned"
)


class _Phase(Measured, ABC):
    """Rank 0's seconds in a phase, in all steps."""

    name, unit, kind, family = "phase_s", "s", "counter", "time"
    scope, across, role = "job", "rank0", "diagnostic"
    phases: ClassVar[tuple[int, ...]] = ()
    of: ClassVar[str] = ""

    def open(self, setting: ProbeContext) -> None:
        self._phases = setting.probe(Phases)
        self._on_cuda = setting.on_cuda
        self._read = 0.0

    def _total_s(self, sample: StepSample) -> float:
        """Of all steps so far."""
        phases = self._phases
        if sample.pipeline is not None:
            raise Missing(_STAGED)
        if phases.why is not None:
            raise Missing(phases.why)
        if not phases.seen and sample.optimizer_steps:
            raise Missing(_UNSEEN)
        if phases.forwards_hidden and FORWARD in self.phases:
            raise Missing(_HIDDEN)
        found, known = [], phases.known
        for phase in self.phases:
            found.append(estimate := phases.estimate(phase))
            known = known and estimate.half_width <= KNOWN * estimate.amount
        total_s = self._of(found, sample)
        half_s = min(total_s, sum(each.half_width for each in found))
        if sample.trigger != "end" and not known:
            return total_s - half_s  # totals never go down: a first guess that is too high would stay
        if sample.trigger != "train" or self.method is None:
            whole = replace(found[0], amount=total_s, half_width=half_s, exact=all(each.exact for each in found))
            self.error = relative_error(whole)
            how = "CUDA events on the compute stream, read late" if self._on_cuda else "host clock"
            # The interval is in the header's errors: a method's text holds no figure, so that runs' can be compared.
            self.method = f"{'exact' if whole.exact else SAMPLED}; {self.of}{how}"
        return total_s

    def _of(self, found: Sequence[Estimate], sample: StepSample) -> float:
        return found[0].amount

    def read(self, sample: StepSample) -> float:
        # A later sample may lower an estimate: the windows that follow wait for it.
        total_s = max(self._read, self._total_s(sample))
        new_s, self._read = total_s - self._read, total_s
        return new_s


@final
class ForwardS(_Phase):
    """Seconds of forward passes and losses: of `training_step`, without the passes and updates that it calls for."""

    name, label, phases = "forward_s", "forward passes", (FORWARD,)


@final
class BackwardS(_Phase):
    """Seconds of backward passes, with the recomputation and the reduction of gradients in them."""

    name, label, phases = "backward_s", "backward passes", (BACKWARD,)


@final
class OptimizerS(_Phase):
    """Seconds of updates: optimizers' steps, without the passes that they call for."""

    name, label, phases = "optimizer_s", "optimizer updates", (OPTIMIZER,)


@final
class StepRestS(_Phase):
    """What is left of `train_s`: zeroing, clipping, hooks, schedules, loops; on a device idle and transfers, too.

    On a CPU waiting for data is not in it (`data_wait_s`); on a device it is, as far as the device was idle.
    """

    name, label, phases = "step_rest_s", "rest of the steps", (FORWARD, BACKWARD, OPTIMIZER)
    of = "what the three phases leave of train_s, on a CPU without data_wait_s; "

    def open(self, setting: ProbeContext) -> None:
        super().open(setting)
        self._train_s = 0.0

    def _of(self, found: Sequence[Estimate], sample: StepSample) -> float:
        self._train_s += sample.accounts_s["train"] - (0.0 if self._on_cuda else sample.data_wait_s)
        forward, backward, update = found
        return max(0.0, self._train_s - (forward.amount + backward.amount + update.amount))

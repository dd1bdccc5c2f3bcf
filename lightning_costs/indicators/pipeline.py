"""The bubble of pipeline parallelism: stage time in which a stage neither forwards nor backwards."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import ClassVar, final

from lightning_costs.indicators.base import Derived, Measured, Ratio
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.pipeline.pipeline import Pipeline
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import StepSample

_METHOD = "shadows on this run's schedule and stages; start of a step to the start of the next one, warm-up dropped"


class _StageAmount(Measured, ABC):
    """An amount of this rank's stage, under `field` in the sample."""

    field: ClassVar[str]

    def open(self, setting: ProbeContext) -> None:
        self._pipeline = setting.probe(Pipeline)

    def read(self, sample: StepSample) -> float:
        if sample.pipeline is None:
            raise Missing(self._pipeline.unavailable_reason)
        self.method = _METHOD
        seconds: float = getattr(sample.pipeline, self.field)
        return seconds


@final
class StageStepS(_StageAmount):
    """Step seconds of the pipeline's stages, one by one: the denominator of the bubble."""

    name, unit, kind, family = "stage_step_s", "s", "counter", "time"
    role, label, field = "diagnostic", "stage time", "step_s"


@final
class StageBusyS(_StageAmount):
    """Seconds of forward and backward passes of the stages, in the steps of `stage_step_s`."""

    name, unit, kind, family = "stage_busy_s", "s", "counter", "time"
    role, label, field = "diagnostic", "stage time in passes", "busy_s"


@final
class StageOutsideS(_StageAmount):
    """The part of `bubble_s` in loading, reducing gradients, the optimizer step, and between two schedules.

    Where these wait for other stages (DeepSpeed's update does, for the norm of all gradients) that is in it, too.
    """

    name, unit, kind, family = "stage_outside_s", "s", "counter", "time"
    role, label, field = "diagnostic", "stage time outside the schedule", "outside_s"


@final
class BubbleS(Derived):
    """Seconds of all stages in which they were in no forward and no backward pass."""

    name, unit, kind, family = "bubble_s", "s", "counter", "time"
    label, needs = "pipeline bubble", ("stage_step_s", "stage_busy_s")

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        return window["stage_step_s"] - window["stage_busy_s"]


@final
class BubbleFraction(Ratio):
    """The bubble as a share of the stages' step time in the window: `bubble_s` over `stage_step_s`."""

    name, unit, kind, family = "bubble_fraction", "fraction", "gauge", "time"
    label, needs = "pipeline bubble, share", ("bubble_s", "stage_step_s")


@final
class BubbleTheoryFraction(Measured):
    """The bubble that the schedule leaves by its order alone, from its closed form for equal stages."""

    name, unit, kind, family = "bubble_theory_fraction", "fraction", "gauge", "time"
    scope, across, role, label = "job", "rank0", "diagnostic", "pipeline bubble, closed form"

    def open(self, setting: ProbeContext) -> None:
        self._pipeline = setting.probe(Pipeline)

    def read(self, sample: StepSample) -> float:
        share = self._pipeline.theory()
        self.method = self._pipeline.theory_words()
        return share

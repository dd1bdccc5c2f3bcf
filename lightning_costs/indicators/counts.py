"""How much was trained on: steps, batches, epochs, samples and tokens."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar, final

from lightning_costs.indicators.base import FromSample, Measured
from lightning_costs.probes.batch_counter import NOTHING_TELLS
from lightning_costs.probes.context import ProbeContext
from lightning_costs.records.declaration import Role
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import StepSample


class CountedSamples(Measured, ABC):
    """Samples of batches, under the column's name in the sample, or why there are none."""

    unit, kind, family, scope = "samples", "counter", "data", "replica"

    def open(self, setting: ProbeContext) -> None:
        self._sizes = setting.sizes

    def read(self, sample: StepSample) -> float:
        samples: int | None = getattr(sample, self.name)
        if samples is None:
            raise Missing((self._sizes and self._sizes.why) or NOTHING_TELLS, warn=True)
        return float(samples)


class CountedTokens(Measured, ABC):
    """Tokens of batches, likewise."""

    unit, kind, family, scope = "tokens", "counter", "data", "replica"

    def open(self, setting: ProbeContext) -> None:
        self._sizes = setting.sizes

    def read(self, sample: StepSample) -> float:
        tokens: int | None = getattr(sample, self.name)
        if tokens is None:
            why = "no token count: batches have no 'input_ids'; give length_fn=lambda batch: ..."
            raise Missing((self._sizes and self._sizes.why_tokens) or why)
        return float(tokens)


class _Progress(FromSample):
    """Rank 0's own count: every rank makes the same steps."""

    name, unit, kind, family = "progress_steps", "steps", "counter", "data"
    scope, across = "job", "rank0"
    role: ClassVar[Role] = "diagnostic"


@final
class Steps(_Progress):
    """Batches in which an optimizer stepped: a GAN's two steps on a batch are one."""

    name, role, label = "steps", "indicator", "optimizer-step batches"


@final
class OptimizerSteps(_Progress):
    """Every call of an optimizer."""

    name, unit, label = "optimizer_steps", "steps", "optimizer calls"


@final
class Batches(_Progress):
    """Batches trained on, accumulation included."""

    name, unit = "batches", "batches"


@final
class Epochs(_Progress):
    """Epochs completed."""

    name, unit = "epochs", "epochs"


@final
class Samples(CountedSamples):
    """Samples trained on: quality against samples is sample efficiency."""

    name, headline = "samples", True

    def read(self, sample: StepSample) -> float:
        if self._sizes is not None and (sample.trigger != "train" or self.method is None):
            self.method = self._sizes.how
        return super().read(sample)


@final
class Tokens(CountedTokens):
    """Tokens trained on, as `length_fn` counts them, else elements of `input_ids`."""

    name, headline = "tokens", True


@final
class PaddingTokens(FromSample):
    """Elements of `input_ids` beyond the tokens that `length_fn` counts: computed on and of no use."""

    name, unit, kind, family = "padding_tokens", "tokens", "counter", "data"
    scope, role, label = "replica", "diagnostic", "padding"
    lacking = "padding is told apart where batches have 'input_ids' and length_fn counts what is none"


@final
class DatasetSamples(Measured):
    """Size of the training set."""

    name, unit, kind, family = "dataset_samples", "samples", "static", "data"
    scope, across, role, label = "job", "rank0", "diagnostic", "training set"

    def open(self, setting: ProbeContext) -> None:
        self._setting = setting

    def read(self, sample: StepSample) -> float:
        if self._setting.dataset_samples is None:
            raise Missing(self._setting.dataset_why)
        return float(self._setting.dataset_samples)

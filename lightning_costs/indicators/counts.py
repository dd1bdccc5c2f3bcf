"""How much was trained on: steps, batches, epochs, samples and tokens."""

from __future__ import annotations

from typing import ClassVar, final

from lightning_costs.indicators.base import Measured
from lightning_costs.probes.batch_counter import NOTHING_TELLS
from lightning_costs.probes.context import ProbeContext, SampleCounter
from lightning_costs.records.declaration import Role
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import StepSample


def counted_samples(samples: int | None, sizes: SampleCounter | None) -> float:
    """A window's samples, or why there are none."""
    if samples is None:
        raise Missing((sizes and sizes.why) or NOTHING_TELLS, warn=True)
    return float(samples)


def counted_tokens(tokens: int | None, sizes: SampleCounter | None) -> float:
    """A window's tokens, or why there are none."""
    if tokens is None:
        why = "no token count: batches have no 'input_ids'; give length_fn=lambda batch: ..."
        raise Missing((sizes and sizes.why_tokens) or why)
    return float(tokens)


class _Progress(Measured):
    """Rank 0's own count: every rank makes the same steps."""

    name, unit, kind, family = "progress_steps", "steps", "counter", "data"
    scope, across = "job", "rank0"
    role: ClassVar[Role] = "diagnostic"

    def read(self, sample: StepSample) -> float:
        return float(getattr(sample, self.name))


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
class Samples(Measured):
    """Samples trained on: quality against samples is sample efficiency."""

    name, unit, kind, family = "samples", "samples", "counter", "data"
    scope, label, headline = "replica", "samples", True

    def open(self, setting: ProbeContext) -> None:
        self._sizes = setting.sizes

    def read(self, sample: StepSample) -> float:
        if self._sizes is not None:
            self.method = self._sizes.how
        return counted_samples(sample.samples, self._sizes)


@final
class Tokens(Measured):
    """Tokens trained on, as `length_fn` counts them, else elements of `input_ids`."""

    name, unit, kind, family = "tokens", "tokens", "counter", "data"
    scope, label, headline = "replica", "tokens", True

    def open(self, setting: ProbeContext) -> None:
        self._sizes = setting.sizes

    def read(self, sample: StepSample) -> float:
        return counted_tokens(sample.tokens, self._sizes)


@final
class PaddingTokens(Measured):
    """Elements of `input_ids` beyond the tokens that `length_fn` counts: computed on and of no use."""

    name, unit, kind, family = "padding_tokens", "tokens", "counter", "data"
    scope, role, label = "replica", "diagnostic", "padding"

    def read(self, sample: StepSample) -> float:
        if sample.padding_tokens is None:
            raise Missing("padding is told apart where batches have 'input_ids' and length_fn counts what is none")
        return float(sample.padding_tokens)


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

"""Floating-point operations, multiply-accumulates and memory accesses of the training steps, by the step census."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import ClassVar, final

from lightning_costs.indicators.base import Measured
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.opcount.counter import StepOpCounter
from lightning_costs.probes.opcount.counting import UNSEEN, Quantity, StepOpCounts
from lightning_costs.probes.opcount.eval_counter import EvalOpCounter
from lightning_costs.probes.opcount.strata import Estimate
from lightning_costs.records.certainty import TAKEN_ALIKE
from lightning_costs.records.declaration import Family, Scope
from lightning_costs.records.formatting import format_amount
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import Amount, StepSample

_log = logging.getLogger("lightning_costs")

CONVENTION = "executed operators of the step, matrix products and convolutions, 2 FLOP a multiply-accumulate"
COMPILED = "compiled code as it ran: products that the compiler wrote into kernels of its own are not seen"


def how_sure(estimate: Estimate, unit: str) -> str:
    """How a total was got, in words: exact, or estimated, with its interval in human units.

    Example:
        >>> how_sure(Estimate(amount=2e9, half_width=1e8, counted=12, batches=900, exact=False), "flop")
        'estimated over 12 sampled steps of 900, 95 % interval 1.90 GFLOP to 2.10 GFLOP'
    """
    if estimate.exact:  # over how many counted steps stands in the header's census: runs counted alike say the same
        return "exact"
    low, high = format_amount(estimate.low, unit), format_amount(estimate.high, unit)
    return f"estimated over {estimate.counted} sampled steps of {estimate.batches}, 95 % interval {low} to {high}"


def lower_bound_note(uncounted: Iterable[str]) -> str:
    """What a count does not include, in words: operators without a formula; empty if complete.

    Their calls are in the header: a method's text holds no figure that differs between runs counted alike.
    """
    return f"; lower bound: no formula for {', '.join(sorted(uncounted))}" if uncounted else ""


class _Census(Measured):
    """A quantity that the census knows of every batch, added up over the window."""

    name, unit, kind = "census_flop", "flop", "counter"
    family: ClassVar[Family] = "compute"
    scope: ClassVar[Scope] = "rank"
    quantities: ClassVar[tuple[Quantity, ...]] = ("flop",)
    steady: ClassVar[bool] = False

    def open(self, setting: ProbeContext) -> None:
        self._census = setting.probe(StepOpCounter)
        self._read = 0.0
        self._known: tuple[object, ...] = ()

    def _total(self) -> float:
        """The first quantity less the others."""
        total = self._census.total(self.quantities[0], steady=self.steady)
        for quantity in self.quantities[1:]:
            total -= self._census.total(quantity, steady=self.steady)
        return total

    def read(self, sample: StepSample) -> float:
        census = self._census
        if census.failed is not None:
            raise Missing(census.failed)
        if not census.batches and not sample.batches:  # a checkpoint before the first one: what goes missing stays so
            return 0.0
        if not census.counted and not census.censuses:
            raise Missing(f"no batch was counted: {census.why_none}")
        if sample.trigger == "end" and census.waiting:
            raise Missing(f"{census.waiting} of {census.batches} batches were never counted: {census.why_none}")
        if census.saw_no_products:
            raise Missing("no matrix product or convolution was seen in a step (a replayed graph?)")
        known = (
            census.missing_formulas,
            census.compiled,
            census.agrees,
            census.counted if sample.trigger != "train" else 0,
        )
        if known != self._known:
            self._known = known
            estimate = census.estimate(self.quantities[0])  # it fits to all counts: before any total of this point
            self.error = relative_error(estimate)
            self.method = self._how(census, how_sure(estimate, self.unit))
        # What is learnt later may lower an estimate; totals never go down, so the windows that follow wait for it.
        total = max(self._read, self._total())
        new, self._read = total - self._read, total
        return float(new)

    def _how(self, census: StepOpCounter, sure: str) -> str:
        alike = f"; {TAKEN_ALIKE}" if sure == "exact" else ""
        compiled = f"; {COMPILED}" if census.compiled else ""
        return f"{sure}{alike}; step census: {CONVENTION}{compiled}{lower_bound_note(census.missing_formulas)}"


def relative_error(estimate: Estimate) -> float | None:
    """Half of the interval as a share of the amount; None if the amount is exact."""
    return estimate.half_width / estimate.amount if not estimate.exact and estimate.amount else None


@final
class Flop(_Census):
    """Executed floating-point operations of training steps: forward, backward, recomputation, SAM's passes."""

    name, label, headline = "flop", "FLOPs", True

    def open(self, setting: ProbeContext) -> None:
        super().open(setting)
        self._warns = setting.place.rank == 0

    def _how(self, census: StepOpCounter, sure: str) -> str:
        if self._warns and census.missing_formulas:
            self._warns = False
            _log.warning(
                "flop is a lower bound: no formula for %s; register one with "
                "torch.utils.flop_counter.register_flop_formula",
                ", ".join(census.missing_formulas),
            )
        return super()._how(census, sure)


@final
class ModelFlop(_Census):
    """Floating-point operations that the model asks for: without those that only run a forward product again.

    Left out are activation checkpointing's second forward pass and the scores that fused attention recomputes in
    its backward pass (Chowdhery et al. 2022, PaLM, appendix B: model FLOPs against hardware FLOPs).
    """

    name, label, quantities = "model_flop", "model FLOPs", ("flop", "recomputed_flop")

    def _how(self, census: StepOpCounter, sure: str) -> str:
        return f"{super()._how(census, sure)}; without recomputation"


@final
class Mac(_Census):
    """Multiply-accumulates of products, half their FLOPs. The paper's 'FLOPs' are these."""

    name, unit, label, quantities = "mac", "mac", "MACs", ("mac",)


@final
class MemAccessBytes(_Census):
    """Bytes that the operators of training steps read and wrote: memory access cost."""

    name, unit, label, quantities = "mem_access_bytes", "bytes", "memory accesses", ("access_bytes",)
    family = "memory"

    def read(self, sample: StepSample) -> float:
        if self._census.compiled:
            raise Missing(UNSEEN)
        return super().read(sample)

    def _how(self, census: StepOpCounter, sure: str) -> str:
        sampled = "" if sure == "exact" else f"; {sure}"
        return (
            "estimate: step census, inputs and outputs of every operator as it ran, "
            f"no cache between operators, no work space inside one{sampled}"
        )


@final
class CommBytes(_Census):
    """Bytes of collectives and of messages sent, of all ranks: each rank's payload, as nccl-tests counts it."""

    name, unit, label, quantities = "comm_bytes", "bytes", "communication", ("comm_bytes",)
    scope, family, role = "rank", "compute", "diagnostic"

    def _how(self, census: StepOpCounter, sure: str) -> str:
        return f"{sure}; step census: the larger of what a rank gives and gets in each collective of a step"


@final
class SteadyFlop(_Census):
    """Floating-point operations outside warm-up."""

    name, label, role, steady = "steady_flop", "FLOPs outside warm-up", "diagnostic", True


@final
class SteadyModelFlop(_Census):
    """Model FLOPs outside warm-up."""

    name, label, role, steady = "steady_model_flop", "model FLOPs outside warm-up", "diagnostic", True
    quantities = ("flop", "recomputed_flop")


@final
class EvaluateFlop(Measured):
    """Executed floating-point operations of validation during the fit."""

    name, unit, kind, family = "evaluate_flop", "flop", "counter", "compute"
    role, label = "diagnostic", "FLOPs of evaluation"

    def open(self, setting: ProbeContext) -> None:
        self._census = setting.probe(EvalOpCounter)
        self._evaluation_is_reported = setting.evaluation_is_reported
        self._read, self._batches = 0.0, -1

    def read(self, sample: StepSample) -> float:
        census = self._census
        if census.failed is not None:
            raise Missing(census.failed)
        if census.unknown:
            raise Missing("evaluation batches were never counted")
        if not census.batches and not self._evaluation_is_reported and sample.accounts_s["evaluate"] > 0:
            raise Missing("evaluation ran outside recorder.eval_batch(batch)")
        if census.batches == self._batches:
            return 0.0
        self._batches = census.batches
        estimate = census.estimate("flop")
        self.error = relative_error(estimate)
        self.method = (
            f"{how_sure(estimate, self.unit)}; census of evaluation batches{lower_bound_note(census.uncounted)}"
        )
        total = max(self._read, census.flop)
        new, self._read = total - self._read, total
        return float(new)


class _OfOneStep(Measured):
    """A number of one step: of those counted with the shapes of the first one."""

    name, unit, kind = "one_step_calls", "calls", "static"
    family: ClassVar[Family] = "compute"
    scope, across = "job", "rank0"
    quantity: ClassVar[Quantity] = "calls"

    def open(self, setting: ProbeContext) -> None:
        self._census = setting.probe(StepOpCounter)
        self._sizes, self._setting = setting.sizes, setting

    @property
    def _shares(self) -> bool:
        """Whether other ranks work on the same samples beside this one, on its stage."""
        own = self._setting.place
        alike = [p for p in self._setting.places if (p.replica, p.stage) == (own.replica, own.stage)]
        return len(alike) > 1

    def read(self, sample: StepSample) -> Amount:
        first = self._census.first
        self._staged = sample.pipeline is not None
        typical = self._census.typical(self.quantity)
        if first is not None and typical is not None:
            return self._of(first, typical)
        if self._census.failed is not None or sample.trigger == "end":
            raise Missing(self._census.failed or f"no batch was counted: {self._census.why_none}")
        return None

    def _of(self, first: StepOpCounts, typical: Estimate) -> float:
        self.error = relative_error(typical)
        if not typical.exact:
            self.method = how_sure(typical, self.unit)
        return float(typical.amount)


@final
class OpCalls(_OfOneStep):
    """Operators that one step launches: a stand-in for sequential depth, which equal FLOPs hide.

    Views and allocations launch nothing and are not counted.
    """

    name, label = "op_calls", "operators per step"

    def _of(self, first: StepOpCounts, typical: Estimate) -> float:
        if self._census.compiled:
            raise Missing(UNSEEN)
        return super()._of(first, typical)


class _PerSample(_OfOneStep):
    """A number of one forward pass, per sample."""

    name, unit = "forward_calls", "calls"

    def _of(self, first: StepOpCounts, typical: Estimate) -> float:
        if self._staged:
            raise Missing("a pipeline's stage makes no forward pass of a whole batch: use measure(model, batch)")
        if self._census.sharded or self._shares:
            raise Missing("a tensor-parallel rank runs a part of the model: use measure(model, batch)")
        if self._sizes is not None and self._sizes.why is not None:
            raise Missing(self._sizes.why)
        if not first.samples:
            raise Missing("the first counted batch's samples are unknown: give batch_size_fn=lambda batch: ...")
        self.error = relative_error(typical)
        of = "first forward pass of a counted training step"
        if not typical.exact:
            of = f"{how_sure(typical.per(first.samples), self.unit)}; first forward pass of sampled training steps"
        self.method = f"{of}, all products up to its backward pass{lower_bound_note(first.uncounted)}"
        return typical.amount / first.samples


@final
class ForwardFlop(_PerSample):
    """Floating-point operations of one forward pass, per sample."""

    name, unit, label, quantity = "forward_flop", "flop", "FLOPs forward, per sample", "forward_flop"


@final
class ForwardMac(_PerSample):
    """Multiply-accumulates of one forward pass, per sample: the paper's 'GFLOPs'."""

    name, unit, label, quantity = "forward_mac", "mac", "MACs forward, per sample", "forward_mac"


@final
class ActivationElements(_PerSample):
    """Output elements of the building blocks in one forward pass, per sample.

    Dollár et al. 2021 (arXiv 2103.06877), section 3, count the outputs of convolutions. Here: every product
    with a weight (convolutions, linear and recurrent layers; of a transformer its projections and feed-forward
    layers). Products of activations with each other (attention scores) have no weight and are left out, fused or not.
    """

    name, unit, label = "activation_elements", "elements", "activations, per sample"
    family, quantity = "size", "forward_elements"

    def _of(self, first: StepOpCounts, typical: Estimate) -> float:
        if not typical.amount:
            raise Missing("no product with a parameter was seen in a forward pass")
        return super()._of(first, typical)

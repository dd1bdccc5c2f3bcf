"""How big the model is, and how much of it is shared, looked up, used, or not zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import nn

from lightning_costs.indicators.base import Measured
from lightning_costs.probes import parameters
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.opcount.counter import StepOpCounter
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import Amount, StepSample


class _Params(Measured):
    name, unit, kind, family = "all_params", "params", "static", "size"
    scope, across = "job", "rank0"

    def open(self, setting: ProbeContext) -> None:
        if setting.module is None:
            raise Missing("no module was given: no parameters to count")
        self._module = setting.module
        self._setting = setting

    def _sizes(self) -> Mapping[int, int]:
        """Whole sizes of parameters in shards: under FSDP what wraps the module knows them."""
        wrapper = self._setting.wrapper
        return parameters.sharded_sizes(self._module if wrapper is None else wrapper)  # a compiled one has no length

    def _calls(self) -> tuple[Mapping[nn.Module, int], Mapping[nn.Module, int]]:
        """How often the first counted forward pass called each module, and with how many rows."""
        census = self._setting.attached(StepOpCounter)
        if census is None or census.calls is None:
            return {}, {}
        return census.calls.counts, census.calls.rows


@final
class Params(_Params):
    """Unique parameters: a tensor used in two places is one."""

    name, label, headline = "params", "parameters", True

    def read(self, sample: StepSample) -> float:
        return float(parameters.count_parameters(self._module, sizes=self._sizes()))


@final
class TrainableParams(_Params):
    """Unique parameters that take gradients."""

    name, label = "trainable_params", "trainable parameters"

    def read(self, sample: StepSample) -> float:
        return float(parameters.count_parameters(self._module, trainable_only=True, sizes=self._sizes()))


@final
class SharedParams(_Params):
    """Parameters used in more than one place: tied weights, and modules that one forward pass calls repeatedly."""

    name, label = "shared_params", "shared parameters"

    def read(self, sample: StepSample) -> float:
        counts, _ = self._calls()
        if sample.pipeline is not None:  # its stages are called for each micro-batch
            passes = counts.get(self._module, 0)
            counts = {module: calls // passes for module, calls in counts.items()} if passes else {}
        self.method = (
            "registered under several names, or owned by a module that the counted forward pass called repeatedly"
            if counts
            else "registered under several names; no forward pass was counted to see repeated calls"
        )
        return float(parameters.count_shared(self._module, counts, self._sizes()))


@final
class EmbeddingParams(_Params):
    """Parameters in embeddings: looked up, not multiplied."""

    name, label = "embedding_params", "parameters in embeddings"

    def read(self, sample: StepSample) -> float:
        return float(parameters.count_embedding(self._module, self._sizes()))


@final
class ActiveParams(_Params):
    """Parameters used per token: in a sparse mixture of experts, those of the experts that it is routed to."""

    name, label = "active_params", "parameters used per token"

    def read(self, sample: StepSample) -> float:
        counts, rows = self._calls()
        self.method = (
            "declared by modules (active_params), else rows routed to experts over rows in the counted forward pass"
            if counts
            else "declared by modules (active_params); no forward pass was counted to see routing"
        )
        return parameters.count_active(self._module, counts, rows, self._sizes())


@final
class NonzeroParams(_Params):
    """Parameters that are not zero at the end of the run: masked ones are."""

    name, label = "nonzero_params", "parameters not zero"

    def read(self, sample: StepSample) -> Amount:
        if sample.trigger != "end":  # counting waits for the device
            return None
        return float(parameters.count_nonzero(self._module))

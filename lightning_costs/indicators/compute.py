"""Floating-point operations of the training steps, by the step census."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from lightning_costs.core.indicator import Derived, Measured, Missing
from lightning_costs.core.records import Amount, StepSample
from lightning_costs.core.tariff import Tariff
from lightning_costs.indicators.throughput import rate
from lightning_costs.probes.census import MOST_CENSUSES, StepCensus
from lightning_costs.probes.setting import Setting

CONVENTION = "executed operators of the step, matrix products and convolutions, 2 FLOP a multiply-accumulate"


_WAITED = "their tensors' shapes are unknown, or (without Lightning) the step is not inside recorder.counting(batch)"


class _Census(Measured):
    name, unit, kind, family = "census_flop", "flop", "counter", "compute"
    scope = "shard_group"

    def open(self, setting: Setting) -> None:
        self._census = setting.probe(StepCensus)
        self._read = 0

    def _since(self, total: int, sample: StepSample) -> float:
        census = self._census
        if census.waiting and (census.exhausted or sample.trigger == "end"):
            why = f"their shapes were unknown, or new after {MOST_CENSUSES} censuses" if census.exhausted else _WAITED
            raise Missing(f"{census.waiting} of {census.batches} batches were never counted: {why}")
        if census.blind:
            raise Missing("no matrix product or convolution was seen in a step (a replayed graph?)")
        bound = f"; lower bound: no formula for {', '.join(census.uncounted)}" if census.uncounted else ""
        self.method = f"step census: {CONVENTION}{bound}"
        new, self._read = total - self._read, total
        return float(new)


@final
class Flop(_Census):
    """Executed floating-point operations of training steps: forward, backward, recomputation, SAM's passes."""

    name, label, headline = "flop", "FLOPs", True

    def read(self, sample: StepSample) -> float:
        return self._since(self._census.flop, sample)


@final
class SteadyFlop(_Census):
    """Floating-point operations outside warm-up."""

    name, label, role = "steady_flop", "FLOPs outside warm-up", "diagnostic"

    def read(self, sample: StepSample) -> float:
        return self._since(self._census.steady_flop, sample)


@final
class Mac(Derived):
    """Multiply-accumulates: half the FLOPs, as only products are counted. The paper's 'FLOPs' are these."""

    name, unit, kind, family = "mac", "mac", "counter", "compute"
    label, needs = "MACs", ("flop",)

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        return window["flop"] / 2


@final
class FlopPerS(Derived):
    """Executed FLOPs over training seconds, outside warm-up."""

    name, unit, kind, family = "flop_per_s", "flop_per_s", "gauge", "compute"
    better, label, headline = "higher", "FLOP rate", True
    needs = ("steady_flop", "steady_s")

    def of(self, window: Mapping[str, float], tariff: Tariff) -> Amount:
        return rate(window["steady_flop"], window["steady_s"])


@final
class OpCalls(Measured):
    """Operators that one step launches: a stand-in for sequential depth, which equal FLOPs hide."""

    name, unit, kind, family = "op_calls", "calls", "static", "compute"
    scope, across, label = "job", "rank0", "operators per step"

    def open(self, setting: Setting) -> None:
        self._census = setting.probe(StepCensus)

    def read(self, sample: StepSample) -> Amount:
        calls = self._census.op_calls
        return None if calls is None else float(calls)

"""IT energy of the devices and nodes in use, without PUE, network or cooling: by component, by account, by sample."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import ClassVar, final

from lightning_costs.indicators.base import Derived, Measured
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.energy.meters import EnergyMeters
from lightning_costs.records.declaration import Role
from lightning_costs.records.samples import Amount, StepSample

_SINCE = "; measured from the monitor's setup on"


class _Component(Measured):
    """Energy of one component, as its meter counts it."""

    name, unit, kind, family = "component_j", "j", "counter", "energy"
    rate_limited = True
    component: ClassVar[str] = "gpu"

    def open(self, setting: ProbeContext) -> None:
        self._meters, self._reported_j = setting.probe(EnergyMeters), 0.0
        if self._meters.has(self.component):
            self.method = self._meters.method(self.component) + _SINCE

    def read(self, sample: StepSample) -> Amount:
        if not self._meters.has(self.component):
            return None
        total_j = self._meters.total_j(self.component, sample)
        self.method = self._meters.method(self.component) + _SINCE
        spent_j, self._reported_j = total_j - self._reported_j, total_j
        return spent_j


@final
class GpuEnergyJ(_Component):
    """Energy of the training GPUs, each once."""

    name, component = "gpu_energy_j", "gpu"
    scope, label = "device", "GPU energy"


@final
class CpuEnergyJ(_Component):
    """Energy of the nodes' CPUs, each node once."""

    name, component = "cpu_energy_j", "cpu"
    scope, label = "node", "CPU energy"


@final
class RamEnergyJ(_Component):
    """Energy of the nodes' memory, each node once."""

    name, component = "ram_energy_j", "ram"
    scope, label = "node", "RAM energy"


@final
class EnergyJ(Derived):
    """GPU, CPU and RAM energy together; missing if one of them is."""

    name, unit, kind, family = "energy_j", "j", "counter", "energy"
    label, headline = "energy", True
    needs = ("gpu_energy_j", "cpu_energy_j", "ram_energy_j")

    def open(self, setting: ProbeContext) -> None:
        self.method = setting.probe(EnergyMeters).methods_summary()

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        return window["gpu_energy_j"] + window["cpu_energy_j"] + window["ram_energy_j"]


class _Account(Measured):
    """Energy of all components in one account of time; the five add up to `energy_j`.

    Those of a rank: of its device, and of its node if it is the first rank there, by its own time buckets.
    """

    name, unit, kind, family = "account_j", "j", "counter", "energy"
    scope, rate_limited = "device", True
    role: ClassVar[Role] = "diagnostic"
    account: ClassVar[str] = "train"

    def open(self, setting: ProbeContext) -> None:
        self._meters, self._reported_j = setting.probe(EnergyMeters), 0.0
        self._meters.require_accounts()
        self.method = "meters read where accounts change, in between by time"

    def read(self, sample: StepSample) -> float:
        total_j = self._meters.bucket_j(self.account, sample)
        spent_j, self._reported_j = total_j - self._reported_j, total_j
        return spent_j


@final
class TrainEnergyJ(_Account):
    """Energy of the training clock's time."""

    name, account, label, role = "train_energy_j", "train", "energy of training", "indicator"


@final
class EvaluateEnergyJ(_Account):
    """Energy of validation during the fit."""

    name, account, label = "evaluate_energy_j", "evaluate", "energy of evaluation"


@final
class CheckpointEnergyJ(_Account):
    """Energy of saving checkpoints."""

    name, account, label = "checkpoint_energy_j", "checkpoint", "energy of checkpoints"


@final
class OtherEnergyJ(_Account):
    """Energy of logging, other callbacks, sanity checks, and what follows the end of training."""

    name, account, label = "other_energy_j", "other", "energy of other time"


@final
class SetupEnergyJ(_Account):
    """Energy from the monitor's setup to the fit loop; what the process drew before is in no column."""

    name, account, label = "setup_energy_j", "setup", "energy of setup"


class _PerTrained(Derived, ABC):
    """A ratio of the run's totals; None until both have begun."""

    unit, kind, family, of_totals = "j", "gauge", "energy", True

    def of(self, window: Mapping[str, float], tariff: Tariff) -> Amount:
        joules, count = (window[need] for need in self.needs)
        return joules / count if joules > 0 and count > 0 else None


@final
class SampleEnergyJ(_PerTrained):
    """Training energy per sample trained on: `train_energy_j` over `samples`, of the run so far."""

    name, label = "sample_energy_j", "training energy per sample"
    needs = ("train_energy_j", "samples")


@final
class TokenEnergyJ(_PerTrained):
    """Training energy per token trained on: `train_energy_j` over `tokens`, of the run so far."""

    name, label = "token_energy_j", "training energy per token"
    needs = ("train_energy_j", "tokens")

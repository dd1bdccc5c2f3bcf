"""IT energy of the devices and nodes in use, without PUE, network or cooling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from lightning_costs.core.indicator import Derived, Measured, Missing
from lightning_costs.core.records import Amount, StepSample
from lightning_costs.core.tariff import Tariff
from lightning_costs.probes.host_energy import HostEnergy
from lightning_costs.probes.nvml import GpuEnergy
from lightning_costs.probes.setting import Setting

_SINCE = "; measured from the monitor's setup on"


@final
class GpuEnergyJ(Measured):
    """Energy of the training GPUs."""

    name, unit, kind, family = "gpu_energy_j", "j", "counter", "energy"
    scope, label, paced = "rank", "GPU energy", True

    def open(self, setting: Setting) -> None:
        self._meter: GpuEnergy | None = None
        if setting.device is not None and setting.device.type == "cpu":
            self.method = "zero by definition: no GPU trains in this run"
        elif setting.on_cuda:
            self._meter = setting.probe(GpuEnergy)
            self.method = self._meter.method + _SINCE
        else:
            raise Missing(f"energy of device {setting.device!s} cannot be read")

    def read(self, sample: StepSample) -> float:
        return 0.0 if self._meter is None else self._meter.joules()


@final
class CpuEnergyJ(Measured):
    """Energy of the nodes' CPUs, each node once."""

    name, unit, kind, family = "cpu_energy_j", "j", "counter", "energy"
    scope, label, paced = "node", "CPU energy", True

    def open(self, setting: Setting) -> None:
        self._meter = setting.probe(HostEnergy) if setting.first_on_node else None
        if self._meter is not None:
            self.method = self._meter.cpu_method + _SINCE

    def read(self, sample: StepSample) -> Amount:
        return None if self._meter is None else self._meter.cpu_joules()


@final
class RamEnergyJ(Measured):
    """Energy of the nodes' memory, each node once."""

    name, unit, kind, family = "ram_energy_j", "j", "counter", "energy"
    scope, label, paced = "node", "RAM energy", True

    def open(self, setting: Setting) -> None:
        self._meter = setting.probe(HostEnergy) if setting.first_on_node else None
        if self._meter is not None:
            self.method = self._meter.ram_method + _SINCE

    def read(self, sample: StepSample) -> Amount:
        return None if self._meter is None else self._meter.ram_joules()


@final
class EnergyJ(Derived):
    """GPU, CPU and RAM energy together; missing where one of them is."""

    name, unit, kind, family = "energy_j", "j", "counter", "energy"
    label, headline = "energy", True
    needs = ("gpu_energy_j", "cpu_energy_j", "ram_energy_j")

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        return window["gpu_energy_j"] + window["cpu_energy_j"] + window["ram_energy_j"]

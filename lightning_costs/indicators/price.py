"""Carbon and money: functions of physical amounts and the tariff, so that a finished run can be priced again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from lightning_costs.core.indicator import Derived
from lightning_costs.core.tariff import Tariff


def _overhead(tariff: Tariff) -> str:
    return f"PUE {tariff.pue:g}" if tariff.pue else "IT energy alone: no PUE was given"


@final
class Co2eG(Derived):
    """Carbon: energy x PUE x carbon intensity of the place."""

    name, unit, kind, family = "co2e_g", "g", "counter", "energy"
    label, headline, needs = "CO2e", True, ("energy_j",)

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        found = tariff.intensity()
        self.method = f"{found.gco2e_per_kwh:g} g/kWh ({found.source}); {_overhead(tariff)}"
        return tariff.co2e_g(window["energy_j"])


@final
class CloudUsd(Derived):
    """Money for the allocated hardware: device time x price, for all of the total time."""

    name, unit, kind, family = "cloud_usd", "usd", "counter", "money"
    label, headline, needs = "cloud cost", True, ("device_s", "total_s", "nodes")

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        usd = tariff.cloud_usd(device_s=window["device_s"], node_s=window["total_s"] * window["nodes"])
        said = [tariff.provider, tariff.tier, tariff.source, tariff.date]
        self.method = ", ".join(word for word in said if word)
        return usd


@final
class ElectricityUsd(Derived):
    """Money for electricity: energy x PUE x price; never added to the cloud's price."""

    name, unit, kind, family = "electricity_usd", "usd", "counter", "money"
    label, needs = "electricity cost", ("energy_j",)

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        self.method = _overhead(tariff)
        return tariff.electricity_usd(window["energy_j"])

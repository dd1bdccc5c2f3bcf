"""Carbon and money: functions of physical amounts and the tariff, so that a finished run can be priced again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from lightning_costs.indicators.base import Derived
from lightning_costs.pricing.rates import NEEDS
from lightning_costs.pricing.tariff import Tariff


@final
class Co2eG(Derived):
    """Carbon: energy x PUE x carbon intensity of the place."""

    name, unit, kind, family = "co2e_g", "g", "counter", "energy"
    label, headline, needs, priced = "CO2e", True, NEEDS["co2e_g"], True

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        return tariff.co2e_g(window["energy_j"])


@final
class CloudUsd(Derived):
    """Money for the allocated hardware: device time x price, for all of the total time."""

    name, unit, kind, family = "cloud_usd", "usd", "counter", "money"
    label, headline, needs, priced = "cloud cost", True, NEEDS["cloud_usd"], True

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        return tariff.cloud_usd(device_s=window["device_s"], node_s=window["node_s"])


@final
class ElectricityUsd(Derived):
    """Money for electricity: energy x PUE x price; never added to the cloud's price."""

    name, unit, kind, family = "electricity_usd", "usd", "counter", "money"
    label, needs, priced = "electricity cost", NEEDS["electricity_usd"], True

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        return tariff.electricity_usd(window["energy_j"])


@final
class EmbodiedCo2eG(Derived):
    """Carbon of making the hardware: device time over its lifetime, or executed FLOPs; never added to `co2e_g`."""

    name, unit, kind, family = "embodied_co2e_g", "g", "counter", "energy"
    label, needs, priced = "embodied CO2e", NEEDS["embodied_co2e_g"], True

    def needs_under(self, tariff: Tariff) -> tuple[str, ...]:
        return ("device_s",) if tariff.embodied_g_per_exaflop is None else ("flop",)

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        return tariff.embodied_co2e_g(device_s=window["device_s"], flop=window["flop"])


@final
class WaterL(Derived):
    """Water of the data centre: IT energy x WUE."""

    name, unit, kind, family = "water_l", "l", "counter", "energy"
    label, needs, priced = "water", NEEDS["water_l"], True

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        return tariff.water_l(window["energy_j"])

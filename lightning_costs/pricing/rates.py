"""Rates: what turns physical amounts into carbon and money, and a run's history of them, attempt by attempt.

Carbon and money are functions of what a run has used so far, never sums of rounded parts: a run that is priced again
is equal to one that was recorded under that tariff, to the last digit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

from lightning_costs.records.declaration import Declaration
from lightning_costs.records.samples import Amount
from lightning_costs.records.units import FLOP_PER_EXAFLOP, JOULE_PER_KWH, S_PER_YEAR


def carbon_g(energy_j: float, gco2e_per_kwh: float, pue: float | None) -> float:
    """Carbon in grams of CO2 equivalent: energy x PUE x intensity (the IT energy's alone without a PUE).

    Formula: Henderson et al. 2020, 'Towards the Systematic Reporting of the Energy and Carbon Footprints of
    Machine Learning', section 4.

    Example:
        >>> carbon_g(3.6e6, 50.0, 1.2)
        60.0
    """
    return energy_j / JOULE_PER_KWH * (pue or 1.0) * gco2e_per_kwh


def electricity_price_usd(energy_j: float, usd_per_kwh: float, pue: float | None) -> float:
    """Price of electricity in US dollars: energy x PUE x price.

    Example:
        >>> electricity_price_usd(3.6e6, 0.25, 1.2)
        0.3
    """
    return energy_j / JOULE_PER_KWH * (pue or 1.0) * usd_per_kwh


def rental_usd(hired_s: float, usd_per_h: float) -> float:
    """Price of hired hardware in US dollars: device-seconds (or node-seconds) in hours x price.

    Example:
        >>> rental_usd(7200.0, 2.5)
        5.0
    """
    return hired_s / 3600 * usd_per_h


def embodied_by_time_g(device_s: float, kg_per_device: float, lifetime_years: float) -> float:
    """Embodied carbon in grams of CO2 equivalent: that of a device, by device time over its lifetime.

    Formula: M = TE x TiR / EL, of whole devices (RR = ToR). Source: ISO/IEC 21031 (SCI), 'Embodied emissions', whose
    year has 365 days; its example is 1000 kg over four years, for an hour.

    Example:
        >>> round(embodied_by_time_g(3600.0, 1000.0, 4.0), 6)
        28.538813
    """
    return device_s / (lifetime_years * S_PER_YEAR) * kg_per_device * 1000


def embodied_by_flop_g(flop: float, g_per_exaflop: float) -> float:
    """Embodied carbon in grams of CO2 equivalent: executed exaFLOPs x grams for one, as vendors publish them.

    Example:
        >>> embodied_by_flop_g(3e18, 0.5)
        1.5
    """
    return flop / FLOP_PER_EXAFLOP * g_per_exaflop


def site_water_l(energy_j: float, wue_l_per_kwh: float) -> float:
    """Water in litres: IT energy x water usage effectiveness, which is per kWh of IT energy (ISO/IEC 30134-9): no PUE.

    Example:
        >>> site_water_l(7.2e6, 1.8)
        3.6
    """
    return energy_j / JOULE_PER_KWH * wue_l_per_kwh


#: What the priced columns are, for runs whose headers do not declare them.
PRICED = {
    "co2e_g": Declaration(name="co2e_g", unit="g", family="energy", label="CO2e"),
    "cloud_usd": Declaration(name="cloud_usd", unit="usd", family="money", label="cloud cost"),
    "electricity_usd": Declaration(
        name="electricity_usd", unit="usd", family="money", label="electricity cost", headline=False
    ),
    "embodied_co2e_g": Declaration(
        name="embodied_co2e_g", unit="g", family="energy", label="embodied CO2e", headline=False
    ),
    "water_l": Declaration(name="water_l", unit="l", family="energy", label="water", headline=False),
}
#: What they are made from.
NEEDS = {
    "co2e_g": ("energy_j",),
    "cloud_usd": ("device_s", "node_s"),
    "electricity_usd": ("energy_j",),
    "embodied_co2e_g": ("device_s", "flop"),
    "water_l": ("energy_j",),
}
#: The tariff's numbers.
RATES = (
    "gco2e_per_kwh", "pue", "usd_per_device_h", "usd_per_node_h", "usd_per_kwh",
    "embodied_kg_per_device", "lifetime_years", "embodied_g_per_exaflop", "wue_l_per_kwh",
)  # fmt: skip
BASE_COLUMNS = ("energy_j", "device_s", "node_s", "flop")

NO_PLACE = "no place was given: Tariff(country='FRA') or LIGHTNING_COSTS_COUNTRY=FRA"
AFTERWARDS = "carbon by the hour is priced when the run is over: lightning-costs reprice RUN --tariff FILE"
NO_ELECTRICITY = "no electricity price: Tariff(usd_per_kwh=0.25) or LIGHTNING_COSTS_USD_PER_KWH=0.25"
NO_PRICE = (
    "no device price: Tariff(usd_per_device_h=2.5) or LIGHTNING_COSTS_USD_PER_DEVICE_H=2.5, or Tariff(provider='aws')"
)

NO_EMBODIED = (
    "no embodied carbon of a device: Tariff(embodied_kg_per_device=..., lifetime_years=...) from its maker's product "
    "carbon footprint, or Tariff(embodied_g_per_exaflop=...)"
)
NO_WUE = "no water usage effectiveness of the data centre: Tariff(wue_l_per_kwh=...)"
_NOT_GIVEN = {
    "co2e_g": NO_PLACE,
    "electricity_usd": NO_ELECTRICITY,
    "embodied_co2e_g": NO_EMBODIED,
    "water_l": NO_WUE,
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class UnitPrices:
    """A tariff's numbers, once its place and its device are known; None if it says nothing.

    `by_hour` names the table of a tariff by the hour, which `pricing.reprice` reads;
    `carbon` says where the intensity is from, `hire` whose the price of devices or nodes is. `embodied` says whose the
    embodied carbon is, `unpriced` why there is no price.
    """

    gco2e_per_kwh: float | None = None
    pue: float | None = None
    usd_per_kwh: float | None = None
    usd_per_device_h: float | None = None
    usd_per_node_h: float | None = None
    embodied_kg_per_device: float | None = None
    lifetime_years: float | None = None
    embodied_g_per_exaflop: float | None = None
    wue_l_per_kwh: float | None = None
    by_hour: str | None = None
    carbon: str = ""
    embodied: str = ""
    hire: str = ""
    unpriced: str = NO_PRICE

    @classmethod
    def of(cls, tariff: Mapping[str, Any]) -> Self:
        """The rates of `Tariff.as_dict()`: of its figures alone, which no table that changes can alter."""
        intensity, row = tariff.get("intensity") or {}, tariff.get("price_row") or {}
        words = [tariff.get(name) for name in ("provider", "tier", "source", "date")]
        if row:
            region = [] if row.get("region", "all") == "all" else [row["region"]]
            includes = [f"includes {row['includes']}"] if row.get("includes") else []
            words = [row["provider"], *region, row["tier"], row["gpu"], *includes, row["source"], row["date"]]
        return cls(
            gco2e_per_kwh=intensity.get("gco2e_per_kwh", tariff.get("gco2e_per_kwh")),
            by_hour=tariff.get("intensity_by_hour"),
            pue=tariff.get("pue"),
            usd_per_kwh=tariff.get("usd_per_kwh"),
            usd_per_device_h=tariff.get("usd_per_device_h", row.get("usd_per_device_h")),
            usd_per_node_h=tariff.get("usd_per_node_h"),
            embodied_kg_per_device=tariff.get("embodied_kg_per_device"),
            lifetime_years=tariff.get("lifetime_years"),
            embodied_g_per_exaflop=tariff.get("embodied_g_per_exaflop"),
            wue_l_per_kwh=tariff.get("wue_l_per_kwh"),
            embodied=str(tariff.get("embodied_source") or "no source given"),
            carbon=str(intensity.get("source", "given")),
            hire=", ".join(word for word in words if word),
            unpriced=str(tariff.get("unpriced") or NO_PRICE),
        )

    def _rate(self, column: str) -> tuple[str, float | None]:
        """The physical column that a priced one is made from, and its price or intensity."""
        if column == "co2e_g":
            return "energy_j", self.gco2e_per_kwh if self.by_hour is None else None
        if column == "electricity_usd":
            return "energy_j", self.usd_per_kwh
        if column == "water_l":
            return "energy_j", self.wue_l_per_kwh
        if column == "embodied_co2e_g":
            if self.embodied_g_per_exaflop is not None:
                return "flop", self.embodied_g_per_exaflop
            return "device_s", None if self.lifetime_years is None else self.embodied_kg_per_device
        return ("device_s", self.usd_per_device_h) if self.usd_per_node_h is None else ("node_s", self.usd_per_node_h)

    def amount(self, column: str, used: Mapping[str, Amount]) -> Amount:
        """A priced column of what was used; None if the rate or the amount is missing."""
        base, rate = self._rate(column)
        amount = used.get(base)
        if amount is None or rate is None:
            return None
        if column == "embodied_co2e_g":
            if base == "flop":
                return embodied_by_flop_g(amount, rate)
            return embodied_by_time_g(amount, rate, self.lifetime_years or math.nan)
        if column == "water_l":
            return site_water_l(amount, rate)
        if base != "energy_j":
            return rental_usd(amount, rate)
        return (carbon_g if column == "co2e_g" else electricity_price_usd)(amount, rate, self.pue)

    def base_column(self, column: str) -> str:
        """The physical column that a priced one is made from."""
        return self._rate(column)[0]

    def reason(self, column: str) -> str | None:
        """Why these rates cannot price a column; None if they can."""
        if self._rate(column)[1] is not None:
            return None
        if column == "co2e_g" and self.by_hour is not None:
            return AFTERWARDS
        return _NOT_GIVEN.get(column, self.unpriced)

    def method(self, column: str) -> str:
        """The method of a column: its rate and the source of the rate."""
        overhead = f"PUE {self.pue:g}" if self.pue else "IT energy alone: no PUE was given"
        if column == "co2e_g":
            return f"{self.gco2e_per_kwh:g} g/kWh ({self.carbon}); {overhead}"
        if column == "electricity_usd":
            return f"{self.usd_per_kwh:g} USD/kWh; {overhead}"
        if column == "water_l":
            return f"WUE {self.wue_l_per_kwh:g} L per kWh of IT energy"
        if column == "embodied_co2e_g":
            if self.embodied_g_per_exaflop is not None:
                return f"{self.embodied_g_per_exaflop:g} g per executed exaFLOP: {self.embodied}"
            return f"{self.embodied_kg_per_device:g} kg per device over {self.lifetime_years:g} years: {self.embodied}"
        if self.usd_per_node_h is not None:
            price = f"{self.usd_per_node_h:g} USD per node and hour"
        else:
            price = f"{self.usd_per_device_h:g} USD per device and hour"
        return ": ".join(filter(None, (price, self.hire)))

    def price_key(self, column: str) -> tuple[object, ...]:
        """What distinguishes two attempts that are priced differently in a column."""
        base, rate = self._rate(column)
        by_time = self.lifetime_years if column == "embodied_co2e_g" and base == "device_s" else None
        return base, rate, self.pue if column in ("co2e_g", "electricity_usd") else by_time


@final
class PriceHistory:
    """What a run's attempts are priced by.

    Attempts of equal rates are one: their amounts are added up first and priced once.

    Args:
        attempts: A header's. Each has the `tariff` that it is under, what the run had `used` by its begin, and what of
            that was `lost`. It also has the number of the attempt that it `resumed`.
        tariff: The header's own, for attempts that have none.
    """

    def __init__(self, attempts: Sequence[Mapping[str, Any]], tariff: Mapping[str, Any]) -> None:
        self._attempts = attempts or [{}]
        self.rates = [UnitPrices.of(attempt.get("tariff") or tariff) for attempt in self._attempts]

    def amount(self, column: str, used: Mapping[str, Amount], attempt: int | None = None) -> Amount:
        """A priced column at a point of the run that an attempt made, by default the last one."""
        last = len(self.rates) - 1 if attempt is None else attempt
        groups = self._groups(column, last) if last else []
        if len(groups) < 2:
            return self.rates[last].amount(column, used)
        parts = []
        for numbers in groups:
            spent = {
                name: _sum(_less(used.get(name) if n == last else self._used(n + 1, name), self._used(n, name))
                           for n in numbers)
                for name in NEEDS[column]
            }  # fmt: skip
            parts.append(self.rates[numbers[0]].amount(column, spent))
        return _sum(parts)

    def lost(self, column: str, attempt: int) -> Amount:
        """Lost work in a priced column when an attempt began; None if unknown."""
        groups = self._groups(column, attempt)
        if len(groups) == 1:
            lost = {name: self._lost(attempt, name) for name in NEEDS[column]}
            return self.rates[attempt].amount(column, lost)
        by_attempt = {name: self._lost_of(attempt, name) for name in NEEDS[column]}
        parts = []
        for numbers in groups:
            earlier = [n for n in numbers if n < attempt]
            spent = {name: None if of is None else _sum(of[n] for n in earlier) for name, of in by_attempt.items()}
            parts.append(self.rates[numbers[0]].amount(column, spent))
        return _sum(parts)

    def reason(self, column: str) -> str | None:
        """Why the run's total of a column cannot be priced; None if it can."""
        *earlier, last = [rates.reason(column) for rates in self.rates]
        if last is None and (why := next(filter(None, earlier), None)) is not None:
            return f"an earlier attempt of this run was not priced ({why}); lightning-costs reprice prices all of it"
        return last

    def method(self, column: str) -> str:
        """How the run's total of a column was got."""
        methods = dict.fromkeys(rates.method(column) for rates in self.rates if rates.reason(column) is None)
        return "; then ".join(methods)

    def _groups(self, column: str, last: int) -> list[list[int]]:
        """Numbers of the attempts up to one, those of equal rates together."""
        groups: dict[tuple[object, ...], list[int]] = {}
        for number, rates in enumerate(self.rates[: last + 1]):
            groups.setdefault(rates.price_key(column), []).append(number)
        return list(groups.values())

    def _used(self, attempt: int, name: str) -> Amount:
        if attempt == 0:
            return 0.0
        amount: Amount = self._attempts[attempt].get("used", {}).get(name)
        return amount

    def _lost(self, attempt: int, name: str) -> Amount:
        if attempt == 0:
            return 0.0
        lost = self._attempts[attempt].get("lost")
        amount: Amount = None if lost is None else lost.get(name, 0.0)
        return amount

    def _lost_of(self, attempt: int, name: str) -> list[Amount] | None:
        """How much of each earlier attempt was lost when one began: after the checkpoint that it resumed, all."""
        if attempt == 0:
            return []
        total = self._lost(attempt, name)
        resumed = self._attempts[attempt].get("resumed")
        if total is None:
            return None
        spent = [_less(self._used(n + 1, name), self._used(n, name)) for n in range(attempt)]
        if resumed is None:
            return spent if total else [0.0] * attempt
        kept = self._lost_of(resumed, name)
        if kept is None:
            return None
        if total == self._lost(resumed, name):  # nothing had run since
            return [*kept, *([0.0] * (attempt - resumed))]
        after = spent[resumed + 1 :]
        return [*kept, _less(total, _sum([*kept, *after])), *after]


def _less(amount: Amount, other: Amount) -> Amount:
    return None if amount is None or other is None else amount - other


def _sum(amounts: Any) -> Amount:
    total: Amount = None
    for amount in amounts:
        if amount is None:
            return None
        total = amount if total is None else total + amount
    return 0.0 if total is None else total


def tariff_text(tariff: Mapping[str, Any]) -> str:
    """A tariff as a key: the same for two devices, which have two prices at one provider."""
    found = ("price_row", "prices", "unpriced", "hours")
    return json.dumps({k: v for k, v in tariff.items() if k not in found}, sort_keys=True, default=str)

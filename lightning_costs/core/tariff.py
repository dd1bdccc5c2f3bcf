"""The tariff: what turns joules and device-seconds into carbon and money. What nobody gave stays missing."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, final

from lightning_costs.core.grid import Intensity, intensity
from lightning_costs.core.missing import Missing
from lightning_costs.core.units import JOULE_PER_KWH

PREFIX = "LIGHTNING_COSTS_"
_NUMBERS = ("gco2e_per_kwh", "pue", "usd_per_device_h", "usd_per_node_h", "usd_per_kwh")
#: Numbers that may be equal to their least; the others are prices, and a price of 0 is one that nobody knows.
_LEAST = {"pue": (1.0, "of at least 1"), "gco2e_per_kwh": (0.0, "of at least 0")}
#: Fields that only make sense together come from one source: never one source's country with another's region.
_GROUPS = (
    ("country", "region", "cloud", "cloud_region", "gco2e_per_kwh"),
    ("pue",),
    ("provider", "tier", "usd_per_device_h", "usd_per_node_h", "source", "date"),
    ("usd_per_kwh",),
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """Prices and carbon intensity under which physical amounts are priced.

    Args:
        country: ISO 3166-1 code of two or three letters; its grid's carbon intensity is looked up offline.
        region: State, province or bidding zone within the country.
        cloud: Cloud provider whose regions have published intensities (`gcp`).
        cloud_region: That provider's region.
        gco2e_per_kwh: Explicit carbon intensity in g CO2e per kWh; wins over the place.
        pue: Power usage effectiveness of the data centre, at least 1. Where it is not given, carbon and
            electricity are those of the IT energy alone, and the run says so.
        provider: Whose price this is, as a label.
        tier: Kind of price, as a label ('on_demand', 'spot', 'reserved', 'owned').
        usd_per_device_h: Price of one allocated device for an hour, in US dollars.
        usd_per_node_h: Price of one node for an hour, in US dollars; instead of the device's.
        usd_per_kwh: Price of electricity in US dollars per kWh.
        source: Where the price is from.
        date: When it was read, as YYYY-MM-DD.

    Raises:
        ValueError: For an unknown place, a price that is not above zero, a PUE below 1, or prices that
            contradict each other.

    Example:
        >>> Tariff(gco2e_per_kwh=50.0, pue=1.2).co2e_g(3.6e6)
        60.0
        >>> Tariff(usd_per_device_h=0.0)
        Traceback (most recent call last):
        ValueError: usd_per_device_h must be a finite number above 0, got 0.0; leave it out where it is unknown
    """

    country: str | None = None
    region: str | None = None
    cloud: str | None = None
    cloud_region: str | None = None
    gco2e_per_kwh: float | None = None
    pue: float | None = None
    provider: str | None = None
    tier: str = "on_demand"
    usd_per_device_h: float | None = None
    usd_per_node_h: float | None = None
    usd_per_kwh: float | None = None
    source: str | None = None
    date: str | None = None

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is None:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            least, wanted = _LEAST.get(name, (0.0, "above 0"))
            if not number or value < least or (value == 0 and name not in _LEAST):
                raise ValueError(
                    f"{name} must be a finite number {wanted}, got {value!r}; leave it out where it is unknown"
                )
        if self.usd_per_device_h is not None and self.usd_per_node_h is not None:
            raise ValueError("give usd_per_device_h or usd_per_node_h, not both: the run would be billed twice")
        if self.provider is not None and self.usd_per_device_h is None and self.usd_per_node_h is None:
            raise ValueError(
                f"provider {self.provider!r} is unknown: no price table ships with this version; "
                "give usd_per_device_h= or usd_per_node_h= with source= and date="
            )
        if self.region is not None and self.country is None:
            raise ValueError(f"region={self.region!r} needs country= beside it")
        if self.cloud_region is not None and self.cloud is None:
            raise ValueError(f"cloud_region={self.cloud_region!r} needs cloud= beside it")
        if self.country is not None or self.cloud is not None:
            intensity(self.country, self.region, self.cloud, self.cloud_region)

    def intensity(self) -> Intensity:
        """Carbon intensity in force, with its source.

        Raises:
            Missing: Where neither a place nor a figure was given.
        """
        if self.gco2e_per_kwh is not None:
            return Intensity(gco2e_per_kwh=float(self.gco2e_per_kwh), source="given")
        if self.country is None and self.cloud is None:
            raise Missing("no place was given: Tariff(country='FRA') or LIGHTNING_COSTS_COUNTRY=FRA")
        return intensity(self.country, self.region, self.cloud, self.cloud_region)

    def co2e_g(self, energy_j: float) -> float:
        """Carbon in grams of CO2 equivalent: energy x PUE x intensity (the IT energy's alone without a PUE).

        Formula: Henderson et al. 2020, 'Towards the Systematic Reporting of the Energy and Carbon Footprints of
        Machine Learning', section 4.
        """
        return energy_j / JOULE_PER_KWH * (self.pue or 1.0) * self.intensity().gco2e_per_kwh

    def electricity_usd(self, energy_j: float) -> float:
        """Price of the electricity in US dollars: energy x PUE x price."""
        if self.usd_per_kwh is None:
            raise Missing("no electricity price: Tariff(usd_per_kwh=0.25) or LIGHTNING_COSTS_USD_PER_KWH=0.25")
        return energy_j / JOULE_PER_KWH * (self.pue or 1.0) * self.usd_per_kwh

    def cloud_usd(self, *, device_s: float, node_s: float) -> float:
        """Price of the allocated hardware in US dollars: device-hours (or node-hours) x price."""
        if self.usd_per_node_h is not None:
            return node_s / 3600 * self.usd_per_node_h
        if self.usd_per_device_h is None:
            raise Missing("no device price: Tariff(usd_per_device_h=2.5) or LIGHTNING_COSTS_USD_PER_DEVICE_H=2.5")
        return device_s / 3600 * self.usd_per_device_h

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a header: what was given, and the intensity it resolved to."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        try:
            found = self.intensity()
        except Missing:
            return given
        return given | {
            "intensity": {"gco2e_per_kwh": found.gco2e_per_kwh, "source": found.source},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tariff:
        """A tariff from plain data (a header, a TOML table), unknown names refused."""
        given = {name: value for name, value in data.items() if name != "intensity"}
        known = {f.name for f in fields(cls)}
        if strange := sorted(set(given) - known):
            raise ValueError(f"a tariff has no field {strange[0]!r}; it has {', '.join(sorted(known))}")
        return cls(**given)

    @classmethod
    def from_file(cls, path: str | Path) -> Tariff:
        """A tariff from a TOML file, whose keys are this class's fields, at the top or under `[tariff]`."""
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise ValueError(f"{path} is not TOML: {error}") from error
        return cls.from_dict(data.get("tariff", data))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Tariff:
        """A tariff from `LIGHTNING_COSTS_<FIELD>` variables."""
        environ = os.environ if environ is None else environ
        given: dict[str, Any] = {}
        for field in fields(cls):
            text = environ.get(PREFIX + field.name.upper())
            if not text:
                continue
            try:
                given[field.name] = float(text) if field.name in _NUMBERS else text
            except ValueError as error:
                raise ValueError(f"{PREFIX}{field.name.upper()} must be a number, got {text!r}") from error
        return cls(**given)

    @classmethod
    def find(cls, given: Tariff | None = None, environ: Mapping[str, str] | None = None) -> Tariff:
        """The tariff in force: the argument, else environment variables, else the user's file.

        The file is `LIGHTNING_COSTS_TARIFF`, else `lightning-costs/tariff.toml` under the user's configuration
        folder. Each group of fields (place, PUE, device price, electricity price) comes from the first source
        that gives any of it.
        """
        environ = os.environ if environ is None else environ
        sources = [given or cls(), cls.from_environment(environ)]
        named = environ.get(PREFIX + "TARIFF")
        home = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or Path.home()) / ".config"
        path = Path(named) if named else Path(home) / "lightning-costs" / "tariff.toml"
        if named or path.is_file():
            sources.append(cls.from_file(path))
        nothing = cls()
        chosen: dict[str, Any] = {}
        for group in _GROUPS:
            for source in sources:
                values = {name: getattr(source, name) for name in group}
                if any(values[name] != getattr(nothing, name) for name in group):
                    chosen |= values
                    break
        return replace(nothing, **chosen)

"""The tariff: converts joules and device-seconds into carbon and money. Without a figure, the amount is missing."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, final

from lightning_costs.pricing.carbon_intensity import CarbonIntensity, close_matches, lookup_carbon_intensity
from lightning_costs.pricing.hourly import HourlyIntensity
from lightning_costs.pricing.price_table import (
    EVERYWHERE,
    PriceRow,
    find_price,
    load_price_table,
    parse_price_rows,
    warn_if_stale,
)
from lightning_costs.pricing.rates import (
    AFTERWARDS,
    NO_ELECTRICITY,
    NO_EMBODIED,
    NO_PLACE,
    NO_PRICE,
    NO_WUE,
    RATES,
    carbon_g,
    electricity_price_usd,
    embodied_by_flop_g,
    embodied_by_time_g,
    rental_usd,
    site_water_l,
)
from lightning_costs.pricing.tariff_files import PREFIX, read_toml, user_file, user_prices
from lightning_costs.records.missing import Missing

#: Numbers that may be equal to their least; the others are prices, and a price of 0 is an unknown price.
_LEAST = {
    "pue": (1.0, "of at least 1"),
    "gco2e_per_kwh": (0.0, "of at least 0"),
    "wue_l_per_kwh": (0.0, "of at least 0"),
}
#: Fields that only make sense together come from one source: never one source's country with another's region.
_GROUPS = (
    ("country", "region", "cloud", "cloud_region", "gco2e_per_kwh", "intensity_by_hour"),
    ("pue",),
    (
        "provider",
        "tier",
        "price_region",
        "usd_per_device_h",
        "usd_per_node_h",
        "source",
        "date",
        "price_row",
        "unpriced",
    ),
    ("prices",),
    ("usd_per_kwh",),
    ("embodied_kg_per_device", "lifetime_years", "embodied_g_per_exaflop", "embodied_source"),
    ("wue_l_per_kwh",),
)
#: Fields that are no single text or number, and so come from no environment variable.
_NESTED = ("prices", "price_row", "unpriced")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """Prices and carbon intensity under which physical amounts are priced.

    Args:
        country: ISO 3166-1 code of two or three letters, or the country's name; its grid's carbon intensity is looked
            up offline.
        region: State, province or bidding zone within the country, by ISO 3166-2 code (`US-CA`) or name.
        cloud: Cloud provider whose regions have published intensities (`gcp`).
        cloud_region: That provider's region.
        gco2e_per_kwh: Explicit carbon intensity in g CO2e per kWh; takes precedence over the place.
        intensity_by_hour: Intensities by the hour, which a finished run is charged with: the path of a CSV with
            `time,gco2e_per_kwh`, or a mapping of those (`lightning_costs.pricing.hourly`). Takes precedence over the
            place.
        pue: Power usage effectiveness of the data centre, at least 1. If it is not given, carbon and
            electricity are those of the IT energy alone, and the run says so.
        provider: Whose price this is. If no price is given beside it, the price table's row for the device that
            trains is taken.
        tier: Kind of price ('on_demand', 'spot', 'reserved', 'owned'): a label, or which row of the table.
        price_region: The provider's region whose price is taken from the table.
        usd_per_device_h: Price of one allocated device for an hour, in US dollars.
        usd_per_node_h: Price of one node for an hour, in US dollars; instead of the device's.
        usd_per_kwh: Price of electricity in US dollars per kWh.
        embodied_kg_per_device: Carbon of making one device and what goes with it, in kg CO2e: the share of a node
            that is allocated with the device, of the node where a CPU trains.
        lifetime_years: For how many years of 365 days it is shared out, by device time.
        embodied_g_per_exaflop: The same in grams per executed exaFLOP, as some makers publish it; instead of the two.
        embodied_source: The source of that.
        wue_l_per_kwh: Water usage effectiveness: litres per kWh of IT energy, of the data centre.
        source: Where the price is from.
        date: When it was read, as YYYY-MM-DD.
        prices: Rows of a price table of one's own; they go before the shipped ones.
        price_row: The table's row that `for_device` found.
        unpriced: Why `for_device` found none.

    Raises:
        ValueError: For an unknown place or provider, a price that is not above zero, a PUE below 1, or prices that
            contradict each other.

    Examples:
        >>> Tariff(gco2e_per_kwh=50.0, pue=1.2).co2e_g(3.6e6)
        60.0
        >>> Tariff(usd_per_device_h=0.0)
        Traceback (most recent call last):
        ValueError: usd_per_device_h must be a finite number above 0, got 0.0; leave it out if it is unknown
    """

    country: str | None = None
    region: str | None = None
    cloud: str | None = None
    cloud_region: str | None = None
    gco2e_per_kwh: float | None = None
    intensity_by_hour: HourlyIntensity | Mapping[str, float] | str | Path | None = None
    pue: float | None = None
    provider: str | None = None
    tier: str = "on_demand"
    usd_per_device_h: float | None = None
    usd_per_node_h: float | None = None
    usd_per_kwh: float | None = None
    source: str | None = None
    date: str | None = None
    price_region: str | None = None
    embodied_kg_per_device: float | None = None
    lifetime_years: float | None = None
    embodied_g_per_exaflop: float | None = None
    embodied_source: str | None = None
    wue_l_per_kwh: float | None = None
    prices: Sequence[PriceRow] = ()
    price_row: PriceRow | None = None
    unpriced: str | None = None

    def __post_init__(self) -> None:
        for name in RATES:
            value = getattr(self, name)
            if value is None:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            least, wanted = _LEAST.get(name, (0.0, "above 0"))
            if not number or value < least or (value == 0 and name not in _LEAST):
                raise ValueError(
                    f"{name} must be a finite number {wanted}, got {value!r}; leave it out if it is unknown"
                )
        if self.usd_per_device_h is not None and self.usd_per_node_h is not None:
            raise ValueError("give usd_per_device_h or usd_per_node_h, not both: the run would be billed twice")
        if self.intensity_by_hour is not None:
            if self.gco2e_per_kwh is not None:
                raise ValueError("give gco2e_per_kwh or intensity_by_hour, not both")
            object.__setattr__(self, "intensity_by_hour", HourlyIntensity.of(self.intensity_by_hour))
        if (self.embodied_kg_per_device is None) != (self.lifetime_years is None):
            raise ValueError("embodied_kg_per_device and lifetime_years go together: give both")
        if self.embodied_kg_per_device is not None and self.embodied_g_per_exaflop is not None:
            raise ValueError(
                "give embodied_kg_per_device with lifetime_years, or embodied_g_per_exaflop, not both: the making of "
                "the hardware would be counted twice"
            )
        object.__setattr__(self, "prices", tuple(self.prices))
        if self._takes_a_row and self.price_row is None:
            self._check_provider()
        if self.region is not None and self.country is None:
            raise ValueError(f"region={self.region!r} needs country= beside it")
        if self.cloud_region is not None and self.cloud is None:
            raise ValueError(f"cloud_region={self.cloud_region!r} needs cloud= beside it")
        if self.country is not None or self.cloud is not None:
            lookup_carbon_intensity(self.country, self.region, self.cloud, self.cloud_region)

    @property
    def _takes_a_row(self) -> bool:
        """Whether the price table is asked: a provider was named, and no price."""
        return self.provider is not None and self.usd_per_device_h is None and self.usd_per_node_h is None

    def _rows(self) -> tuple[PriceRow, ...]:
        return (*self.prices, *load_price_table())

    def _check_provider(self) -> None:
        """Report at once what needs no device: a provider, tier or region without a row."""
        rows = self._rows()
        if self.provider not in {row.provider for row in rows}:
            rows = (*rows, *user_prices())
        own = "for a price of your own give usd_per_device_h= or usd_per_node_h=, source= and date=, or [[prices]] rows"
        known = sorted({row.provider for row in rows})
        if self.provider not in known:
            close = ", ".join(close_matches(str(self.provider), known))
            raise ValueError(
                f"provider {self.provider!r} is unknown: the price table has {', '.join(known)}; near: {close}; {own}"
            )
        rows = tuple(row for row in rows if row.provider == self.provider)
        if self.tier not in (tiers := {row.tier for row in rows}):
            raise ValueError(f"no price of {self.provider} is {self.tier!r}: it has {', '.join(sorted(tiers))}; {own}")
        regions = {row.region for row in rows}
        if self.price_region is not None and not regions & {self.price_region, EVERYWHERE}:
            close = ", ".join(close_matches(self.price_region, regions))
            raise ValueError(
                f"no price of {self.provider} is in price_region={self.price_region!r}; near: {close}; {own}"
            )

    def for_device(self, reported: str | None, *, warn: bool = True) -> Tariff:
        """The tariff with the price of the device that trains, where a provider was named.

        Args:
            reported: The device's name as torch or NVML reports it; 'cpu' where nodes train without accelerators,
                None if it is unknown.
            warn: Whether to warn of an old or missing price.

        Returns:
            This tariff with the table's row in `price_row`, or why there is none in `unpriced`.

        Examples:
            >>> priced = Tariff(provider="aws").for_device("NVIDIA H100 80GB HBM3")
            >>> priced.price_row.usd_per_device_h, priced.price_row.includes
            (6.88, '1/8 of p5.48xlarge (vCPUs, memory, disk)')
            >>> Tariff(provider="aws").for_device("NVIDIA H100 PCIe").unpriced
            "no price of 'H100 PCIe' (reported as 'NVIDIA H100 PCIe') at aws, on_demand; there are: B200, ..."
        """
        if not self._takes_a_row:
            return self
        if self.price_row is not None and reported is not None and self.price_row.is_of(reported):
            return self
        rows = self._rows()
        if self.provider not in {row.provider for row in rows}:
            rows = (*user_prices(), *rows)
        assert self.provider is not None, "a row is chosen if a provider is named"
        try:
            if reported is None:
                raise Missing("the device that trains is unknown, so its price cannot be looked up", warn=True)
            row = find_price(rows, reported, provider=self.provider, tier=self.tier, region=self.price_region)
        except Missing as missing:
            return replace(self, price_row=None, unpriced=str(missing))
        if warn:
            warn_if_stale(row)
        return replace(self, price_row=row, unpriced=None)

    def intensity(self) -> CarbonIntensity:
        """Carbon intensity in force, with its source; `Missing` if neither a place nor a figure was given."""
        if self.gco2e_per_kwh is not None:
            return CarbonIntensity(gco2e_per_kwh=float(self.gco2e_per_kwh), source="given")
        if self.intensity_by_hour is not None:
            raise Missing(AFTERWARDS)
        if self.country is None and self.cloud is None:
            raise Missing(NO_PLACE)
        return lookup_carbon_intensity(self.country, self.region, self.cloud, self.cloud_region)

    def co2e_g(self, energy_j: float) -> float:
        """Carbon in grams of CO2 equivalent: energy x PUE x intensity (`lightning_costs.pricing.rates.carbon_g`)."""
        return carbon_g(energy_j, self.intensity().gco2e_per_kwh, self.pue)

    def electricity_usd(self, energy_j: float) -> float:
        """Price of the electricity in US dollars: energy x PUE x price."""
        if self.usd_per_kwh is None:
            raise Missing(NO_ELECTRICITY)
        return electricity_price_usd(energy_j, self.usd_per_kwh, self.pue)

    def cloud_usd(self, *, device_s: float, node_s: float) -> float:
        """Price of the allocated hardware in US dollars: device-hours (or node-hours) x price."""
        if self.usd_per_node_h is not None:
            return rental_usd(node_s, self.usd_per_node_h)
        if self.usd_per_device_h is not None:
            return rental_usd(device_s, self.usd_per_device_h)
        if self.price_row is not None:
            return rental_usd(device_s, self.price_row.usd_per_device_h)
        raise Missing(self.unpriced or NO_PRICE, warn=self.unpriced is not None)

    def embodied_co2e_g(self, *, device_s: float, flop: float) -> float:
        """Carbon of making the hardware in grams of CO2 equivalent, by device time over its lifetime or by FLOPs."""
        if self.embodied_g_per_exaflop is not None:
            return embodied_by_flop_g(flop, self.embodied_g_per_exaflop)
        if self.embodied_kg_per_device is None or self.lifetime_years is None:
            raise Missing(NO_EMBODIED)
        return embodied_by_time_g(device_s, self.embodied_kg_per_device, self.lifetime_years)

    def water_l(self, energy_j: float) -> float:
        """Water of the data centre in litres: IT energy x WUE."""
        if self.wue_l_per_kwh is None:
            raise Missing(NO_WUE)
        return site_water_l(energy_j, self.wue_l_per_kwh)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a header: what was given, the intensity it resolved to, the price row that was found."""
        given = {f.name: value for f in fields(self) if (value := getattr(self, f.name)) not in (None, ())}
        if self.prices:
            given["prices"] = [row.as_dict() for row in self.prices]
        if isinstance(self.intensity_by_hour, HourlyIntensity):
            given |= self.intensity_by_hour.as_dict()
        if self.price_row is not None:
            given["price_row"] = self.price_row.as_dict()
            given.pop("prices", None)  # what was taken of them is there
        try:
            found = self.intensity()
        except Missing:
            return given
        return given | {"intensity": asdict(found)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Tariff:
        """A tariff from plain data (a header, a TOML table), unknown names refused."""
        given = {name: value for name, value in data.items() if name != "intensity"}
        if "hours" in given:
            given |= {"intensity_by_hour": HourlyIntensity.of_dict(given)}
            given.pop("hours")
        known = {f.name for f in fields(cls)}
        if strange := sorted(set(given) - known, key=str):
            near = difflib.get_close_matches(str(strange[0]), sorted(known), n=3, cutoff=0.5)
            meant = f"; did you mean {', '.join(near)}?" if near else ""
            raise ValueError(f"a tariff has no field {strange[0]!r}; it has {', '.join(sorted(known))}{meant}")
        if "prices" in given:
            given["prices"] = parse_price_rows(given["prices"])
        if given.get("price_row") is not None:
            given["price_row"] = PriceRow.of(given["price_row"])
        return cls(**given)

    @classmethod
    def from_file(cls, path: str | Path) -> Tariff:
        """A tariff from a TOML file, whose keys are this class's fields, at the top or under `[tariff]`.

        Price rows of one's own are `[[prices]]` there (`lightning_costs.pricing.price_table.PriceRow`).
        """
        return cls.from_dict(read_toml(path))

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Tariff:
        """A tariff from `LIGHTNING_COSTS_<FIELD>` variables."""
        environ = os.environ if environ is None else environ
        given: dict[str, Any] = {}
        for field in fields(cls):
            text = environ.get(PREFIX + field.name.upper())
            if not text or field.name in _NESTED:
                continue
            try:
                given[field.name] = float(text) if field.name in RATES else text
            except ValueError as error:
                raise ValueError(f"{PREFIX}{field.name.upper()} must be a number, got {text!r}") from error
        if "provider" in given:
            given["prices"] = user_prices(environ)
        return cls(**given)

    @classmethod
    def of(cls, given: Tariff | Mapping[str, Any] | str | Path) -> Tariff:
        """A tariff as people give one: itself, its fields by name, or the path of a TOML file.

        Raises:
            ValueError: For anything else, and for a file that cannot be read.

        Example:
            >>> Tariff.of({"usd_per_device_h": 2.0}).usd_per_device_h
            2.0
            >>> Tariff.of("nope.toml")
            Traceback (most recent call last):
            ValueError: the tariff file nope.toml cannot be read: No such file or directory
        """
        if isinstance(given, Tariff):
            return given
        if isinstance(given, Mapping):
            return cls.from_dict(given)
        if not isinstance(given, str | Path):
            raise ValueError(f"tariff must be a Tariff, its fields by name or the path of a TOML file, got {given!r}")
        try:
            return cls.from_file(given)
        except OSError as error:
            raise ValueError(f"the tariff file {given} cannot be read: {error.strerror}") from error

    @classmethod
    def resolve(
        cls,
        given: Tariff | Mapping[str, Any] | str | Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Tariff:
        """The tariff in force: the argument, else environment variables, else the user's file.

        The file is `LIGHTNING_COSTS_TARIFF`, else `lightning-costs/tariff.toml` under the user's configuration
        folder. Each group of fields (place, PUE, device price, price rows, electricity price) comes from the first
        source that gives any of it.
        """
        environ = os.environ if environ is None else environ
        sources = [cls() if given is None else cls.of(given), cls.from_environment(environ)]
        if (path := user_file(environ)) is not None:
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

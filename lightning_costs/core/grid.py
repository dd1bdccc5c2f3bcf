"""Carbon intensity of electricity by place, from the tables that codecarbon ships: the one file that reads them.

It sits in core because a tariff must refuse an unknown place the moment it is written. Only codecarbon's data is
used: never its tracker, a thread or the network, and never its silent fallbacks (world average, country value).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version

_NORDIC = {"SWE": ("SE1", "SE2", "SE3", "SE4"), "NOR": ("NO1", "NO2", "NO3", "NO4", "NO5"), "FIN": ("FI",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Intensity:
    """Location-based carbon intensity of electricity, in grams of CO2 equivalent per kWh, with its source."""

    gco2e_per_kwh: float
    source: str


@lru_cache(maxsize=64)
def intensity(
    country: str | None = None,
    region: str | None = None,
    cloud: str | None = None,
    cloud_region: str | None = None,
) -> Intensity:
    """Look up the carbon intensity of a place.

    Args:
        country: ISO 3166-1 code of two or three letters.
        region: Name of a state, province or bidding zone where codecarbon has regional data, or its ISO 3166-2
            code (`US-CA`).
        cloud: Cloud provider with regional figures (`gcp`).
        cloud_region: That provider's region (`europe-west9`).

    Raises:
        ValueError: For a place that the tables do not have, with near matches.

    Example:
        >>> intensity(country="FRA").gco2e_per_kwh
        56.039
        >>> intensity(country="FRB")
        Traceback (most recent call last):
        ValueError: country 'FRB' is not in codecarbon's tables (ISO 3166-1, three or two letters); near: ...
    """
    if cloud is not None:
        return _cloud(cloud, cloud_region)
    if country is None:
        raise ValueError("a carbon intensity needs country=, or cloud= with cloud_region=, or gco2e_per_kwh=")
    return _country(country, region)


def _unknown(what: str, got: str, known: Iterable[str], hint: str = "") -> ValueError:
    folded = {name.lower(): name for name in sorted(known)}
    matches = difflib.get_close_matches(got.lower(), list(folded), n=4, cutoff=0.4) or list(folded)[:4]
    near = [folded[name] for name in matches]
    return ValueError(f"{what} {got!r} is not in codecarbon's tables{hint}; near: {', '.join(near)}")


def _source(what: str) -> str:
    return f"{what}, location-based, codecarbon {version('codecarbon')}"


def _cloud(cloud: str, cloud_region: str | None) -> Intensity:
    from codecarbon.input import DataSource

    table = DataSource().get_cloud_emissions_data()
    providers = sorted(set(table["provider"]))
    if cloud.lower() not in providers:
        raise _unknown("cloud", cloud, providers, f" (they have {', '.join(providers)})")
    rows = table[table["provider"] == cloud.lower()]
    if cloud_region is None:
        raise ValueError(f"cloud={cloud!r} needs cloud_region=, for example {rows['region'].iloc[0]!r}")
    row = rows[rows["region"] == cloud_region]
    if len(row) != 1:
        raise _unknown(f"{cloud} region", cloud_region, rows["region"])
    return Intensity(
        gco2e_per_kwh=float(row["impact"].item()),
        source=_source(f"{cloud} {cloud_region}, {row['source'].item()}"),
    )


def _country(country: str, region: str | None) -> Intensity:
    import pycountry
    from codecarbon.core.emissions import Emissions
    from codecarbon.core.units import Energy
    from codecarbon.external.geography import GeoMetadata
    from codecarbon.input import DataSource

    data = DataSource()
    mix = data.get_global_energy_mix_data()
    code = country.upper()
    if len(code) == 2 and (found := pycountry.countries.get(alpha_2=code)) is not None:
        code = found.alpha_3
    if code not in mix:
        raise _unknown("country", country, mix, " (ISO 3166-1, three or two letters)")
    one_kwh = Energy.from_energy(kWh=1)
    emissions = Emissions(data)
    if region is None:
        grams = 1e3 * emissions.get_country_emissions(one_kwh, GeoMetadata(country_iso_code=code))
        return Intensity(gco2e_per_kwh=round(grams, 9), source=_source(f"{code} {mix[code].get('year', '')}".strip()))
    name = region
    sub = pycountry.subdivisions.get(code=region.upper())
    if sub is not None and sub.country.alpha_3 == code:  # UY-FD is Florida too, in Uruguay
        name = sub.name
    known = _regions(code, data)
    wanted = name.upper() if code in _NORDIC else name.lower()
    if wanted not in known:
        raise _unknown(f"region of {code}", region, known, "" if known else " (they have no regions of it)")
    grams = 1e3 * emissions.get_region_emissions(one_kwh, GeoMetadata(country_iso_code=code, region=wanted))
    return Intensity(gco2e_per_kwh=round(grams, 9), source=_source(f"{code}, {wanted}"))


def _regions(code: str, data: object) -> set[str]:
    """Region names that codecarbon has its own figures for, in the spelling that it looks them up by."""
    from codecarbon.input import DataSource

    assert isinstance(data, DataSource)
    if code in _NORDIC:
        return set(_NORDIC[code])
    if code == "USA":
        rows = data.get_country_emissions_data("usa").items()
        return {name for name, row in rows if "emissions" in row and not name.startswith("_")}  # comments do
    if code == "CAN":
        return set(data.get_country_energy_mix_data("can"))
    if code == "CHN":
        provinces = data.get_china_provincial_emissions_data()["data"].values()
        return {name for row in provinces for name in row["names"]}
    return set()

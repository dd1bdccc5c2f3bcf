"""Carbon intensity of electricity by place, from the tables that codecarbon ships: the one file that reads them.

It sits in core because a tariff must refuse an unknown place the moment it is written. Only codecarbon's data is
used: never its tracker, a thread or the network, and never its silent fallbacks (world average, country value).
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_costs.patching.quiet_codecarbon import silence_codecarbon
from lightning_costs.records.versions import version_of

if TYPE_CHECKING:
    from codecarbon.input import DataSource

_NORDIC = {"SWE": ("SE1", "SE2", "SE3", "SE4"), "NOR": ("NO1", "NO2", "NO3", "NO4", "NO5"), "FIN": ("FI",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CarbonIntensity:
    """Location-based carbon intensity of electricity, in grams of CO2 equivalent per kWh, with its source."""

    gco2e_per_kwh: float
    source: str


@lru_cache(maxsize=64)
def lookup_carbon_intensity(
    country: str | None = None,
    region: str | None = None,
    cloud: str | None = None,
    cloud_region: str | None = None,
) -> CarbonIntensity:
    """Look up the carbon intensity of a place.

    Args:
        country: ISO 3166-1 code of two or three letters, or the country's name.
        region: State, province or bidding zone where codecarbon has regional data, by its ISO 3166-2 code (`US-CA`,
            `CA-QC`, `CN-BJ`; the country may be left off) or name.
        cloud: Cloud provider with regional figures (`gcp`).
        cloud_region: That provider's region (`europe-west9`).

    Raises:
        ValueError: For a place that the tables do not have, with near matches.

    Example:
        >>> lookup_carbon_intensity(country="FRA").gco2e_per_kwh
        56.039
        >>> lookup_carbon_intensity(country="FRB")
        Traceback (most recent call last):
        ValueError: country 'FRB' is not in codecarbon's tables (ISO 3166-1 code or name); near: ...
    """
    if cloud is None and country is None:
        raise ValueError("a carbon intensity needs country=, or cloud= with cloud_region=, or gco2e_per_kwh=")
    with silence_codecarbon():
        return _cloud(cloud, cloud_region) if cloud is not None else _country(str(country), region)


def close_matches(got: str, known: Iterable[str]) -> list[str]:
    """Up to four known names that are closest to the given one; the first ones if none is close."""
    folded = {_folded(name): name for name in sorted(known)}
    matches = difflib.get_close_matches(_folded(got), list(folded), n=4, cutoff=0.4) or list(folded)[:4]
    return [folded[name] for name in matches]


def _folded(name: str) -> str:
    """A name as it is compared: without case, accents, and differences of blanks.

    Example:
        >>> _folded(" Québec "), _folded("NEW  York")
        ('quebec', 'new york')
    """
    bare = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    return " ".join(bare.casefold().split())


def _unknown(what: str, got: str, known: Iterable[str], hint: str = "") -> ValueError:
    matches = close_matches(got, known)
    near = f"; near: {', '.join(matches)}" if matches else ""
    return ValueError(f"{what} {got!r} is not in codecarbon's tables{hint}{near}")


def _source(what: str) -> str:
    return f"{what}, location-based, codecarbon {version_of('codecarbon')}"


def _cloud(cloud: str, cloud_region: str | None) -> CarbonIntensity:
    table = list(csv.DictReader(io.StringIO(_shipped("data/cloud/impact.csv"))))
    rows = {row["region"]: row for row in table if row["provider"] == cloud.lower()}
    if not rows:
        providers = sorted({row["provider"] for row in table})
        raise _unknown("cloud", cloud, providers, f" (they have {', '.join(providers)})")
    if cloud_region is None:
        raise ValueError(f"cloud={cloud!r} needs cloud_region=, for example {next(iter(rows))!r}")
    if (row := rows.get(cloud_region)) is None:
        raise _unknown(f"{cloud} region", cloud_region, rows)
    return CarbonIntensity(
        gco2e_per_kwh=float(row["impact"]), source=_source(f"{cloud} {cloud_region}, {row['source']}")
    )


def _shipped(path: str) -> str:
    return files("codecarbon").joinpath(path).read_text(encoding="utf-8-sig")


@cache
def _tables() -> DataSource:
    """Tables of codecarbon of countries and regions. Its own reading of any table imports pandas for two others."""
    from codecarbon.input import DataSource

    class Tables(DataSource):  # type: ignore[misc]
        def get_global_energy_mix_data(self) -> Any:
            return _json("global_energy_mix.json")

        def get_carbon_intensity_per_source_data(self) -> Any:
            return _json("carbon_intensity_per_source.json")

        def get_nordic_country_energy_mix_data(self) -> Any:
            return _json("nordic_emissions.json")

        def get_china_provincial_emissions_data(self) -> Any:
            try:
                return _json("2023/china_provincial_emissions.json")
            except FileNotFoundError:  # before codecarbon 3.3.1
                return {"data": {}}

    return Tables()


@cache
def _json(name: str) -> Any:
    return json.loads(_shipped(f"data/private_infra/{name}"))


class _Region(NamedTuple):
    """A region that has its own figure: the name that codecarbon looks it up by, and what its source says."""

    name: str
    about: str


def _country(country: str, region: str | None) -> CarbonIntensity:
    data = _tables()
    mix = data.get_global_energy_mix_data()
    codes = _codes(data)
    code = codes.get(_folded(country))
    if code is None:
        names = [row.get("country_name", iso) for iso, row in mix.items()]
        raise _unknown("country", country, mix if len(country) <= 4 else names, " (ISO 3166-1 code or name)")
    if region is None:
        grams = mix[code].get("carbon_intensity")
        if grams is None:
            grams = _grams(data, country_iso_code=code)
        return CarbonIntensity(
            gco2e_per_kwh=round(grams, 9), source=_source(f"{code} {mix[code].get('year', '')}".strip())
        )
    known = _regions(code, data)
    found = known.get(_folded(region))
    if found is None:
        hint = "" if known else " (they have no regions of it)"
        raise _unknown(f"region of {code}", region, {each.name for each in known.values()}, hint)
    grams = _grams(data, country_iso_code=code, region=found.name)
    return CarbonIntensity(gco2e_per_kwh=round(grams, 9), source=_source(f"{code}, {found.name}{found.about}"))


def _grams(data: DataSource, **place: str) -> float:
    """Grams per kWh that codecarbon computes, in a module that imports requests: that changes warning filters."""
    from codecarbon.core.emissions import Emissions
    from codecarbon.core.units import Energy
    from codecarbon.external.geography import GeoMetadata

    emissions, one_kwh, geo = Emissions(data), Energy.from_energy(kWh=1), GeoMetadata(**place)
    find = emissions.get_region_emissions if "region" in place else emissions.get_country_emissions
    return 1e3 * float(find(one_kwh, geo))


def _codes(data: DataSource) -> dict[str, str]:
    """Codes and names of countries, folded, to the code of three letters; only those that have a figure."""
    import pycountry

    mix = data.get_global_energy_mix_data()
    codes: dict[str, str] = {}
    for code, row in mix.items():
        country = pycountry.countries.get(alpha_3=code)
        spellings = [code, row.get("country_name")]
        if country is not None:
            fields = dict(country)  # its attributes warn where a country has no such name, before pycountry 26
            spellings += [fields.get(name) for name in ("alpha_2", "name", "common_name", "official_name")]
        for spelling in filter(None, spellings):
            codes.setdefault(_folded(spelling), code)
    return codes


def _regions(code: str, data: DataSource) -> dict[str, _Region]:
    """Folded names and codes of the regions that codecarbon has its own figures for."""
    known: dict[str, _Region] = {}
    if code in _NORDIC:
        zones = data.get_nordic_country_energy_mix_data()["data"]
        for zone in _NORDIC[code]:
            known[_folded(zone)] = _Region(zone, f" {zones[zone].get('year', '')}".rstrip())
    elif code == "USA":
        table = data.get_country_emissions_data("usa")
        about = table.get("_source", {})
        dataset = f" {about.get('year', '')} ({about.get('name', '')})" if about else ""
        for name, row in table.items():
            if "emissions" in row and not name.startswith("_"):  # comments do
                known[_folded(name)] = _Region(name, dataset)
                if len(iso := row.get("regionCode", "")) == 2:
                    known[_folded(f"US-{iso}")] = known[_folded(iso)] = _Region(name, dataset)
    elif code == "CAN":
        import pycountry

        isos = {_folded(part.name): part.code for part in pycountry.subdivisions.get(country_code="CA")}
        year = data.country_energy_mix_data_path("can").parent.name  # the table names none itself
        for name in data.get_country_energy_mix_data("can"):
            known[_folded(name)] = _Region(name, f" {year} (from its mix of sources)")
            if (iso := isos.get(_folded(name))) is not None:
                known[_folded(iso)] = known[_folded(iso[3:])] = known[_folded(name)]
    elif code == "CHN":
        for iso, row in data.get_china_provincial_emissions_data()["data"].items():
            found = _Region(row["names"][0], f" {row.get('year', '')} (CO2 alone)")
            known |= {_folded(name): found for name in (*row["names"], iso, iso[3:])}
    return known

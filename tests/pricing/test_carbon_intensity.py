from __future__ import annotations

import math
import re
import socket
import subprocess
import sys
import unicodedata
from importlib.metadata import version

import pycountry
import pytest
from codecarbon.input import DataSource
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_costs.pricing import carbon_intensity
from lightning_costs.pricing.carbon_intensity import lookup_carbon_intensity

DATA = DataSource()
MIX = DATA.get_global_energy_mix_data()
newest_tables = pytest.mark.skipif(
    not hasattr(DATA, "get_china_provincial_emissions_data"), reason="needs the tables of codecarbon 3.3.1"
)
LB_PER_MWH = 0.45359237  # g per kWh, by definition of the pound


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a lookup opened a socket")

    lookup_carbon_intensity.cache_clear()
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("code", sorted(MIX))
def test_every_country_of_codecarbon_resolves_to_its_own_figure(code):
    assert lookup_carbon_intensity(country=code).gco2e_per_kwh == pytest.approx(MIX[code]["carbon_intensity"], rel=1e-9)


def test_every_intensity_is_possible_on_earth():
    for code in MIX:
        assert 0 <= lookup_carbon_intensity(country=code).gco2e_per_kwh < 1500, code


@pytest.mark.parametrize("code", sorted(MIX))
def test_every_country_of_codecarbon_is_found_by_its_two_letters_and_by_its_name(code):
    by_code = lookup_carbon_intensity(country=code)
    assert lookup_carbon_intensity(country=MIX[code]["country_name"]) == by_code
    assert lookup_carbon_intensity(country=pycountry.countries.get(alpha_3=code).alpha_2) == by_code


def test_two_letters_three_letters_and_lower_case_are_one_country():
    found = [lookup_carbon_intensity(country=c) for c in ("FRA", "FR", "fra", "fr")]
    assert found == [found[0]] * 4
    assert found[0].gco2e_per_kwh == 56.039


def test_the_source_names_place_year_method_and_version():
    assert (
        lookup_carbon_intensity(country="FRA").source
        == f"FRA {MIX['FRA']['year']}, location-based, codecarbon {version('codecarbon')}"
    )


def test_every_cloud_region_of_codecarbon_resolves_to_its_own_figure():
    table = DATA.get_cloud_emissions_data()
    assert len(table) >= 40
    for row in table.to_dict("records"):
        found = lookup_carbon_intensity(cloud=row["provider"], cloud_region=row["region"])
        assert found.gco2e_per_kwh == float(row["impact"])
        assert row["region"] in found.source


def test_every_state_of_the_usa_resolves_to_its_own_figure():
    states = DATA.get_country_emissions_data("usa")
    checked = 0
    for name, row in states.items():
        if name.startswith("_"):
            continue
        got = lookup_carbon_intensity(country="USA", region=name).gco2e_per_kwh
        assert got == pytest.approx(row["emissions"] * LB_PER_MWH, rel=1e-5), name
        checked += 1
    assert checked >= 50


def test_every_zone_of_the_nordic_countries_resolves_to_its_own_figure():
    zones = DATA.get_nordic_country_energy_mix_data()["data"]
    for zone, row in zones.items():
        country = {"SE": "SWE", "NO": "NOR", "FI": "FIN"}[zone[:2]]
        assert lookup_carbon_intensity(country=country, region=zone).gco2e_per_kwh == pytest.approx(
            row["emission_factor"], rel=1e-9
        )


@newest_tables
def test_every_province_of_china_resolves_to_its_own_figure_by_each_of_its_names():
    for row in DATA.get_china_provincial_emissions_data()["data"].values():
        for name in row["names"]:
            got = lookup_carbon_intensity(country="CHN", region=name).gco2e_per_kwh
            assert got == pytest.approx(row["emission_factor"], rel=1e-9), name


def test_every_province_of_canada_resolves_and_none_is_the_national_value():
    for name in DATA.get_country_energy_mix_data("can"):
        got = lookup_carbon_intensity(country="CAN", region=name).gco2e_per_kwh
        assert 0 <= got < 1500
        assert got != MIX["CAN"]["carbon_intensity"], name


@newest_tables
def test_a_region_is_found_by_name_and_by_iso_code():
    by_name = lookup_carbon_intensity(country="USA", region="California")
    assert (
        lookup_carbon_intensity(country="US", region="US-CA")
        == by_name
        == lookup_carbon_intensity(country="USA", region="us-ca")
    )
    assert by_name.source.startswith("USA, california 2023 (EPA eGRID2023")
    assert ", location-based, codecarbon " in by_name.source
    assert by_name.gco2e_per_kwh != lookup_carbon_intensity(country="USA").gco2e_per_kwh


@newest_tables
def test_every_region_is_found_by_its_iso_code():
    for iso, row in DATA.get_china_provincial_emissions_data()["data"].items():
        assert lookup_carbon_intensity(country="CHN", region=iso).gco2e_per_kwh == pytest.approx(
            row["emission_factor"], rel=1e-9
        )
    for name, row in DATA.get_country_emissions_data("usa").items():
        if len(iso := row.get("regionCode", "") if not name.startswith("_") else "") == 2:
            assert lookup_carbon_intensity(country="US", region=f"US-{iso}") == lookup_carbon_intensity(
                country="US", region=name
            )
    for part in pycountry.subdivisions.get(country_code="CA"):
        assert lookup_carbon_intensity(country="CA", region=part.code) == lookup_carbon_intensity(
            country="CAN", region=part.name
        ), part


@pytest.mark.parametrize("quebec", ["CA-QC", "QC", "quebec", "Québec", " QUEBEC "])
def test_a_region_is_found_without_its_accents_and_case(quebec):
    assert lookup_carbon_intensity(country="Canada", region=quebec) == lookup_carbon_intensity(
        country="CAN", region="CA-QC"
    )


@newest_tables
def test_the_source_of_a_regional_figure_holds_its_year():
    for country, region in (("SE", "SE3"), ("US", "US-TX"), ("CN", "CN-GD"), ("CA", "CA-QC")):
        assert re.search(r" 20\d\d", lookup_carbon_intensity(country=country, region=region).source), region
    assert (
        "CO2 alone" in lookup_carbon_intensity(country="CN", region="CN-GD").source
    )  # not CO2e: the announcement says so


# Errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wrong", "near"), [("FRB", "FRA"), ("frb", "FRA"), ("DEUX", "DEU"), ("GBRR", "GBR")])
def test_an_unknown_country_is_an_error_with_near_matches(wrong, near):
    with pytest.raises(ValueError, match=rf"country '{wrong}' is not in codecarbon's tables .*; near: .*\b{near}\b"):
        lookup_carbon_intensity(country=wrong)


@pytest.mark.parametrize("wrong", ["", "X", "XX", "Franc", "ZZZ", "world_average", "WORLD"])
def test_nothing_that_is_no_country_code_becomes_the_world_average(wrong):
    with pytest.raises(ValueError, match=r"is not in codecarbon's tables \(ISO 3166-1 code or name\)"):
        lookup_carbon_intensity(country=wrong)


KNOWN = {"".join(c for c in unicodedata.normalize("NFKD", n) if not unicodedata.combining(c)).casefold().strip()
         for code, row in MIX.items()
         if (country := pycountry.countries.get(alpha_3=code))
         for n in (code, row["country_name"], country.alpha_2, country.name, getattr(country, "common_name", ""),
                   getattr(country, "official_name", ""))}  # fmt: skip


@given(made_up=st.text(max_size=12) | st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=2, max_size=3))
def test_a_made_up_country_is_an_error_and_never_a_figure(made_up):
    folded = "".join(c for c in unicodedata.normalize("NFKD", made_up) if not unicodedata.combining(c))
    assume(" ".join(folded.casefold().split()) not in KNOWN)
    with pytest.raises(ValueError, match="is not in codecarbon's tables"):
        lookup_carbon_intensity(country=made_up)


@given(made_up=st.text(max_size=12), country=st.sampled_from(["USA", "CAN", "CHN", "SWE", "NOR", "FIN", "FRA", "DEU"]))
def test_a_made_up_region_is_an_error_and_never_the_countrys_figure(made_up, country):
    with pytest.raises(ValueError, match=f"region of {country} .* is not in codecarbon's tables"):
        lookup_carbon_intensity(country=country, region=f"{made_up}?")


@given(made_up=st.text(max_size=20))
def test_a_made_up_cloud_region_is_an_error(made_up):
    assume(made_up not in set(DATA.get_cloud_emissions_data()["region"]))
    with pytest.raises(ValueError, match=r"^gcp region .* is not in codecarbon's tables; near: "):
        lookup_carbon_intensity(cloud="gcp", cloud_region=made_up)


def test_an_unknown_region_is_an_error_with_near_matches():
    with pytest.raises(ValueError, match=r"region of USA 'Calefornia' is not in codecarbon's tables; near: california"):
        lookup_carbon_intensity(country="USA", region="Calefornia")


def test_a_region_of_a_country_without_regions_is_an_error_and_not_the_countrys_value():
    with pytest.raises(ValueError, match=r"region of FRA 'Bretagne' .*\(they have no regions of it\)"):
        lookup_carbon_intensity(country="FRA", region="Bretagne")


def test_a_zone_of_another_nordic_country_is_an_error():
    with pytest.raises(ValueError, match=r"region of SWE 'NO1' .*near: SE1"):
        lookup_carbon_intensity(country="SWE", region="NO1")


def test_a_region_code_of_another_country_is_an_error_even_where_the_names_agree():
    # UY-FD is Florida in Uruguay.
    with pytest.raises(ValueError, match="region of USA 'UY-FD' is not in codecarbon's tables"):
        lookup_carbon_intensity(country="USA", region="UY-FD")


@pytest.mark.parametrize("field", ["_unit", "_source", "_define"])
def test_a_comment_in_the_table_is_no_region(field):
    with pytest.raises(ValueError, match=f"region of USA '{field}' is not in codecarbon's tables"):
        lookup_carbon_intensity(country="USA", region=field)


@newest_tables
def test_a_province_without_a_published_figure_is_an_error_and_not_the_national_value():
    with pytest.raises(ValueError, match="region of CHN 'tibet' is not in codecarbon's tables"):
        lookup_carbon_intensity(country="CHN", region="tibet")


def test_an_unknown_cloud_is_an_error_that_says_which_are_known():
    with pytest.raises(ValueError, match=r"cloud 'aws' is not in codecarbon's tables \(they have gcp\)"):
        lookup_carbon_intensity(cloud="aws", cloud_region="eu-west-1")


def test_a_cloud_needs_its_region():
    with pytest.raises(ValueError, match=r"cloud='gcp' needs cloud_region=, for example '[a-z]+-[a-z]+\d'"):
        lookup_carbon_intensity(cloud="gcp")


def test_an_unknown_cloud_region_is_an_error_with_near_matches():
    with pytest.raises(
        ValueError, match=r"gcp region 'europe-west99' is not in codecarbon's tables; near: europe-west9"
    ):
        lookup_carbon_intensity(cloud="gcp", cloud_region="europe-west99")


def test_no_place_is_an_error_that_says_what_to_give():
    with pytest.raises(ValueError, match="needs country=, or cloud= with cloud_region=, or gco2e_per_kwh="):
        lookup_carbon_intensity()


def test_no_figure_of_the_tables_is_not_a_number():
    for row in DATA.get_cloud_emissions_data().to_dict("records"):
        assert math.isfinite(lookup_carbon_intensity(cloud=row["provider"], cloud_region=row["region"]).gco2e_per_kwh)


@pytest.mark.integration
@newest_tables
def test_tables_are_codecarbons_own_and_are_read_without_pandas():
    ours = carbon_intensity._tables()
    for table in ("global_energy_mix", "carbon_intensity_per_source", "nordic_country_energy_mix"):
        assert getattr(ours, f"get_{table}_data")() == getattr(DATA, f"get_{table}_data")(), table
    assert ours.get_china_provincial_emissions_data() == DATA.get_china_provincial_emissions_data()
    code = (
        "import sys; from lightning_costs.pricing.carbon_intensity import lookup_carbon_intensity\n"
        "for place in ({'country': 'FRA'}, {'country': 'CN', 'region': 'CN-BJ'}, {'country': 'SE', 'region': 'SE3'},\n"
        "              {'country': 'CA', 'region': 'CA-QC'}, {'cloud': 'gcp', 'cloud_region': 'europe-west9'}):\n"
        "    lookup_carbon_intensity(**place)\n"
        "print('pandas' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

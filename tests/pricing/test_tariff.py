from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.missing import Missing

FULL = Tariff(gco2e_per_kwh=50.0, pue=1.2, usd_per_device_h=2.5, usd_per_kwh=0.25)


# What it does ------------------------------------------------------------------------------------------------


def test_carbon_is_energy_times_pue_times_intensity():
    assert FULL.co2e_g(3.6e6) == pytest.approx(60.0, rel=1e-12)
    assert Tariff(gco2e_per_kwh=50.0).co2e_g(3.6e6) == pytest.approx(50.0, rel=1e-12)
    assert Tariff(country="FRA").co2e_g(7.2e6) == pytest.approx(2 * 56.039, rel=1e-12)


def test_electricity_is_energy_times_pue_times_price():
    assert FULL.electricity_usd(3.6e6) == pytest.approx(0.3, rel=1e-12)
    assert Tariff(usd_per_kwh=0.25).electricity_usd(3.6e6) == pytest.approx(0.25, rel=1e-12)


def test_hardware_is_priced_by_device_hours_or_by_node_hours():
    assert Tariff(usd_per_device_h=2.0).cloud_usd(device_s=8 * 3600.0, node_s=3600.0) == 16.0
    assert Tariff(usd_per_node_h=20.0).cloud_usd(device_s=8 * 3600.0, node_s=3600.0) == 20.0


def test_embodied_carbon_is_the_devices_by_its_time_over_its_lifetime():
    # ISO/IEC 21031 (SCI): "if the device’s embodied carbon was 1000 kg with an expected lifespan of four years and it
    # was reserved for use for one hour, the time-share embodied emissions would be 1000 * 1/(4*365*24) or around 28 g".
    an_hour = Tariff(embodied_kg_per_device=1000.0, lifetime_years=4.0).embodied_co2e_g(device_s=3600.0, flop=1e20)
    assert an_hour == pytest.approx(1e6 / (4 * 365 * 24), rel=1e-12)
    assert math.floor(an_hour) == 28
    # By hand: 8 devices of 150 kg for 73 hours of four years of 8760 hours: 8 x 150,000 g x 73 / 35,040 = 2,500 g.
    eight = Tariff(embodied_kg_per_device=150.0, lifetime_years=4.0).embodied_co2e_g(device_s=8 * 73 * 3600.0, flop=0.0)
    assert eight == pytest.approx(2500.0, rel=1e-12)


def test_embodied_carbon_per_exaflop_is_of_what_was_executed():
    # 0.66 g per exaFLOP, 5e22 FLOPs: 33 kg.
    assert Tariff(embodied_g_per_exaflop=0.66).embodied_co2e_g(device_s=1.0, flop=5e22) == pytest.approx(
        33000.0, rel=1e-12
    )


def test_water_is_it_energy_times_wue_and_no_pue():
    # By hand: 1.8 L/kWh x 2.5 kWh = 4.5 L.
    assert Tariff(wue_l_per_kwh=1.8, pue=1.5).water_l(2.5 * 3.6e6) == pytest.approx(4.5, rel=1e-12)
    assert Tariff(wue_l_per_kwh=0.0).water_l(3.6e6) == 0.0


@pytest.mark.parametrize(
    "given",
    [{"embodied_kg_per_device": 150.0}, {"lifetime_years": 4.0}],
)
def test_a_device_that_is_never_worn_out_is_refused(given):
    with pytest.raises(ValueError, match="embodied_kg_per_device and lifetime_years go together"):
        Tariff(**given)


def test_two_ways_to_embodied_carbon_are_refused():
    with pytest.raises(ValueError, match="counted twice"):
        Tariff(embodied_kg_per_device=150.0, lifetime_years=4.0, embodied_g_per_exaflop=0.66)


def test_an_intensity_that_was_given_wins_over_the_place():
    found = Tariff(country="POL", gco2e_per_kwh=10.0).intensity()
    assert (found.gco2e_per_kwh, found.source) == (10.0, "given")


def test_a_grid_of_zero_carbon_is_a_grid():
    assert Tariff(gco2e_per_kwh=0.0).co2e_g(3.6e6) == 0.0


@pytest.mark.parametrize(
    ("price", "reason"),
    [
        (lambda t: t.co2e_g(1.0), r"no place was given: Tariff\(country='FRA'\) or LIGHTNING_COSTS_COUNTRY=FRA"),
        (
            lambda t: t.electricity_usd(1.0),
            r"no electricity price: Tariff\(usd_per_kwh=0.25\) or LIGHTNING_COSTS_USD_PER",
        ),
        (lambda t: t.cloud_usd(device_s=1.0, node_s=1.0), r"no device price: Tariff\(usd_per_device_h=2.5\) or LIGHTN"),
        (
            lambda t: t.embodied_co2e_g(device_s=1.0, flop=1.0),
            r"Tariff\(embodied_kg_per_device=..., lifetime_years=...\)",
        ),
        (lambda t: t.water_l(1.0), r"Tariff\(wue_l_per_kwh=...\)"),
    ],
)
def test_what_nobody_gave_is_missing_with_how_to_give_it(price, reason):
    with pytest.raises(Missing, match=reason):
        price(Tariff())


prices = st.floats(1e-6, 1e6)
tariffs = st.builds(
    Tariff,
    gco2e_per_kwh=st.floats(0, 2000),
    pue=st.none() | st.floats(1, 3),
    usd_per_device_h=prices,
    usd_per_kwh=prices,
)
joules = st.floats(0, 1e15)


@given(tariff=tariffs, a=joules, b=joules, k=st.floats(0, 1e3))
def test_prices_are_linear_in_energy(tariff, a, b, k):
    for price in (tariff.co2e_g, tariff.electricity_usd):
        assert price(0.0) == 0.0
        assert price(a + b) == pytest.approx(price(a) + price(b), rel=1e-12, abs=1e-300)
        assert price(k * a) == pytest.approx(k * price(a), rel=1e-12, abs=1e-300)


@given(tariff=tariffs, windows=st.lists(st.tuples(joules, st.floats(0, 1e7)), max_size=50))
def test_pricing_totals_again_equals_the_sum_of_priced_windows(tariff, windows):
    energy_j = math.fsum(e for e, _ in windows)
    device_s = math.fsum(s for _, s in windows)
    assert math.fsum(map(tariff.co2e_g, (e for e, _ in windows))) == pytest.approx(tariff.co2e_g(energy_j), rel=1e-12)
    assert math.fsum(tariff.electricity_usd(e) for e, _ in windows) == pytest.approx(
        tariff.electricity_usd(energy_j), rel=1e-12
    )
    assert math.fsum(tariff.cloud_usd(device_s=s, node_s=s) for _, s in windows) == pytest.approx(
        tariff.cloud_usd(device_s=device_s, node_s=device_s), rel=1e-12
    )


# What it refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["usd_per_device_h", "usd_per_node_h", "usd_per_kwh"])
@pytest.mark.parametrize("price", [0, 0.0, -1.0])
def test_a_price_that_is_not_above_zero_is_refused(name, price):
    wanted = f"{name} must be a finite number above 0, got {price!r}; leave it out if it is unknown"
    with pytest.raises(ValueError, match=wanted):
        Tariff(**{name: price})


@pytest.mark.parametrize("name", ["usd_per_device_h", "usd_per_node_h", "usd_per_kwh", "gco2e_per_kwh", "pue"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "2.5", True, [1.0]])
def test_what_is_no_finite_number_is_refused(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be a finite number .*got "):
        Tariff(**{name: value})


@pytest.mark.parametrize("pue", [0.99, 0.0, -1.2])
def test_a_pue_below_one_is_refused(pue):
    with pytest.raises(
        ValueError, match=f"pue must be a finite number of at least 1, got {pue}; leave it out if it is unknown"
    ):
        Tariff(pue=pue)


def test_a_pue_of_one_is_allowed_and_no_message_says_otherwise():
    assert Tariff(pue=1).pue == 1
    with pytest.raises(ValueError, match="pue must be a finite number of at least 1, got nan"):
        Tariff(pue=math.nan)


def test_a_negative_intensity_is_refused_by_a_message_that_allows_zero():
    with pytest.raises(ValueError, match="gco2e_per_kwh must be a finite number of at least 0, got -1"):
        Tariff(gco2e_per_kwh=-1.0)


def test_two_prices_for_the_same_hardware_are_refused():
    with pytest.raises(ValueError, match="give usd_per_device_h or usd_per_node_h, not both: the run would be"):
        Tariff(usd_per_device_h=1.0, usd_per_node_h=8.0)


def test_a_provider_without_a_price_is_refused():
    with pytest.raises(
        ValueError,
        match=r"provider 'lamda' is unknown: the price table has aws, azure, .*; near: lambda, .*; for a price",
    ):
        Tariff(provider="lamda")
    assert Tariff(provider="lambda", usd_per_device_h=2.0).provider == "lambda"


def test_a_region_without_its_country_or_cloud_is_refused():
    with pytest.raises(ValueError, match="region='california' needs country= beside it"):
        Tariff(region="california")
    with pytest.raises(ValueError, match="cloud_region='europe-west9' needs cloud= beside it"):
        Tariff(cloud_region="europe-west9")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"country": "FRB"}, "country 'FRB' is not in codecarbon's tables .* near: .*FRA"),
        ({"country": "USA", "region": "Texsas"}, "region of USA 'Texsas' .* near: texas"),
        ({"cloud": "gcp"}, "cloud='gcp' needs cloud_region="),
        ({"cloud": "gcp", "cloud_region": "moon-west1"}, "gcp region 'moon-west1' is not in"),
    ],
)
def test_an_unknown_place_is_refused_the_moment_it_is_written(place, message):
    with pytest.raises(ValueError, match=message):
        Tariff(**place)


# Where it comes from -----------------------------------------------------------------------------------------


def test_plain_data_makes_the_same_tariff():
    for tariff in (Tariff(), FULL, Tariff(country="USA", region="california", provider="me", usd_per_node_h=3.0)):
        assert Tariff.from_dict(json.loads(json.dumps(tariff.as_dict()))) == tariff


def test_plain_data_says_the_intensity_in_force_and_where_it_is_from():
    data = Tariff(country="FRA").as_dict()
    assert data["intensity"]["gco2e_per_kwh"] == 56.039
    assert data["intensity"]["source"].startswith("FRA 20")
    assert "intensity" not in Tariff(usd_per_kwh=0.2).as_dict()


def test_a_field_that_no_tariff_has_is_refused_with_the_ones_it_has():
    with pytest.raises(ValueError, match="a tariff has no field 'price'; it has cloud, cloud_region, country,"):
        Tariff.from_dict({"price": 3.0})


@pytest.fixture
def write(tmp_path):
    def write(text, name="tariff.toml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("head", ["", "[tariff]\n"])
def test_a_toml_file_holds_the_fields_at_the_top_or_under_tariff(write, head):
    path = write(f'{head}country = "FRA"\npue = 1.1\nusd_per_device_h = 2\n')
    assert Tariff.from_file(path) == Tariff(country="FRA", pue=1.1, usd_per_device_h=2)


def test_a_file_that_is_not_toml_is_refused_by_name(write):
    path = write("country: FRA\n")
    with pytest.raises(ValueError, match=r"tariff\.toml is not TOML: "):
        Tariff.from_file(path)


def test_an_unknown_key_in_the_file_is_refused(write):
    with pytest.raises(ValueError, match="a tariff has no field 'county'"):
        Tariff.from_file(write('county = "FRA"\n'))


def test_environment_variables_are_read_by_field_and_empty_ones_are_not_given():
    environ = {"LIGHTNING_COSTS_COUNTRY": "FRA", "LIGHTNING_COSTS_PUE": "1.1", "LIGHTNING_COSTS_USD_PER_KWH": ""}
    assert Tariff.from_environment(environ) == Tariff(country="FRA", pue=1.1)
    assert Tariff.from_environment({}) == Tariff()


def test_an_environment_variable_that_is_no_number_is_refused_by_name():
    with pytest.raises(ValueError, match="LIGHTNING_COSTS_PUE must be a number, got 'low'"):
        Tariff.from_environment({"LIGHTNING_COSTS_PUE": "low"})


def test_an_environment_variable_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="usd_per_kwh must be a finite number"):
        Tariff.from_environment({"LIGHTNING_COSTS_USD_PER_KWH": "nan"})


def test_the_argument_wins_over_the_environment_and_that_over_the_file(write):
    environ = {
        "LIGHTNING_COSTS_TARIFF": str(write("pue = 1.5\nusd_per_kwh = 0.5\ncountry = 'POL'\n")),
        "LIGHTNING_COSTS_PUE": "1.3",
        "LIGHTNING_COSTS_USD_PER_KWH": "0.3",
    }
    found = Tariff.resolve(Tariff(pue=1.1), environ)
    assert (found.pue, found.usd_per_kwh, found.country) == (1.1, 0.3, "POL")


def test_fields_that_belong_together_come_from_one_source(write):
    environ = {
        "LIGHTNING_COSTS_TARIFF": str(
            write('country = "USA"\nregion = "california"\nusd_per_node_h = 9.0\nsource = "f"\n')
        ),
        "LIGHTNING_COSTS_USD_PER_DEVICE_H": "2.0",
    }
    found = Tariff.resolve(Tariff(country="FRA"), environ)
    assert (found.country, found.region) == ("FRA", None)
    assert (found.usd_per_device_h, found.usd_per_node_h, found.source) == (2.0, None, None)


def test_the_users_file_lies_in_the_configuration_folder(tmp_path, write):
    write("pue = 1.4\n", "xdg/lightning-costs/tariff.toml")
    write("pue = 1.6\n", "home/.config/lightning-costs/tariff.toml")
    xdg, home = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}, {"HOME": str(tmp_path / "home")}
    assert Tariff.resolve(environ=xdg | home).pue == 1.4
    assert Tariff.resolve(environ=home).pue == 1.6
    assert Tariff.resolve(environ={"HOME": str(tmp_path / "nobody")}) == Tariff()


def test_a_named_file_replaces_the_users_file(tmp_path, write):
    write("pue = 1.4\nusd_per_kwh = 0.4\n", "xdg/lightning-costs/tariff.toml")
    named = write("pue = 1.7\n", "named.toml")
    found = Tariff.resolve(environ={"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "LIGHTNING_COSTS_TARIFF": str(named)})
    assert (found.pue, found.usd_per_kwh) == (1.7, None)


def test_a_named_file_that_is_not_there_is_an_error_that_names_it(tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=r"gone\.toml"):
        Tariff.resolve(environ={"LIGHTNING_COSTS_TARIFF": str(tmp_path / "gone.toml")})


def test_nothing_given_anywhere_is_a_tariff_of_nothing():
    assert Tariff.resolve() == Tariff()


def test_the_process_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("LIGHTNING_COSTS_COUNTRY", "SWE")
    assert Tariff.resolve().country == "SWE"

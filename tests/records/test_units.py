from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.records.formatting import MISSING, format_amount, format_number
from lightning_costs.records.units import COUNTS, PHYSICAL, UNITS, validate_column_name

#: Every column of the design's table, by its unit.
CONTRACT = {
    "s": "setup_s train_s evaluate_s checkpoint_s other_s run_s total_s lost_s data_wait_s h2d_s device_s overhead_s "
    "step_p50_s step_p95_s step_max_s idle_s bubble_s infer_latency_p50_s infer_latency_p95_s",
    "steps": "steps optimizer_steps",
    "batches": "batches",
    "epochs": "epochs",
    "samples": "samples lost_samples dataset_samples",
    "tokens": "tokens",
    "samples_per_s": "samples_per_s samples_per_device_per_s infer_samples_per_s",
    "tokens_per_s": "tokens_per_s",
    "flop": "flop model_flop evaluate_flop lost_flop forward_flop",
    "mac": "mac forward_mac",
    "flop_per_s": "flop_per_s",
    "fraction": "mfu_fraction hfu_fraction idle_fraction bubble_fraction bubble_theory_fraction",
    "bytes": "mem_access_bytes param_bytes grad_bytes master_bytes opt_state_bytes rank_max_opt_state_bytes "
    "opt_peak_bytes activation_bytes peak_mem_bytes reserved_bytes host_rss_bytes peak_forward_bytes "
    "peak_backward_bytes peak_optimizer_bytes infer_peak_mem_bytes",
    "calls": "op_calls",
    "params": "params trainable_params shared_params embedding_params active_params nonzero_params",
    "elements": "activation_elements",
    "j": "gpu_energy_j cpu_energy_j ram_energy_j energy_j train_energy_j evaluate_energy_j checkpoint_energy_j "
    "other_energy_j lost_energy_j infer_energy_j",
    "g": "co2e_g",
    "usd": "cloud_usd electricity_usd",
}
COLUMNS = [(name, unit) for unit, names in CONTRACT.items() for name in names.split()]


@pytest.mark.parametrize(("name", "unit"), COLUMNS)
def test_every_column_of_the_design_ends_in_its_unit(name, unit):
    validate_column_name(name, unit)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("energy", "j"),
        ("energy_mj", "j"),
        ("energyj", "j"),
        ("j_energy", "j"),
        ("train_ms", "s"),
        ("trains", "s"),
        ("time_s_total", "s"),
        ("flops", "flop"),
        ("flop_per_s", "flop"),
        ("flop", "flop_per_s"),
        ("flop_per_step", "flop_per_s"),
        ("resamples_per_s", "samples_per_s"),
        ("tokens_per_s", "samples_per_s"),
    ],
)
def test_a_name_that_does_not_end_in_its_unit_is_refused(name, unit):
    with pytest.raises(TypeError, match=rf"indicator name '{name}' must be its unit '{unit}' or end in '_{unit}'"):
        validate_column_name(name, unit)


@pytest.mark.parametrize("unit", ["", "ms", "mj", "kwh", "seconds", "percent", "s_per_s", "J"])
def test_an_unknown_unit_is_refused_and_the_known_ones_are_listed(unit):
    with pytest.raises(
        TypeError, match=rf"indicator 'a_{unit}' has unit '{unit}'; expected one of s, j, w, hz, bytes,"
    ):
        validate_column_name(f"a_{unit}", unit)


@pytest.mark.parametrize("name", ["Energy_j", "cost/energy_j", "energy j", "energy.gpu_j", "energy-gpu_j", "", "_"])
def test_a_malformed_name_is_refused(name):
    with pytest.raises(TypeError, match="indicator name"):
        validate_column_name(name, "j")


def test_every_unit_has_a_rate_but_seconds():
    assert set(UNITS) == {*PHYSICAL, *COUNTS} | {f"{u}_per_s" for u in (*PHYSICAL, *COUNTS) if u != "s"}


@given(unit=st.sampled_from(UNITS), prefix=st.from_regex(r"[a-z][a-z0-9]{0,8}(_[a-z0-9]{1,8}){0,3}", fullmatch=True))
def test_any_prefix_before_the_unit_makes_a_name(unit, prefix):
    validate_column_name(f"{prefix}_{unit}", unit)


# Amounts for people ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", UNITS)
def test_a_missing_amount_says_so_in_every_unit(unit):
    assert format_amount(None, unit) == MISSING == "missing"


@pytest.mark.parametrize("unit", UNITS)
def test_amounts_that_are_no_number_are_words_in_every_unit(unit):
    assert format_amount(math.inf, unit) == "not reached"
    assert format_amount(-math.inf, unit) == "-inf"
    assert format_amount(math.nan, unit) == "not a number"


ZERO = {
    "s": "0 s",
    "j": "0 J",
    "w": "0 W",
    "hz": "0 Hz",
    "bytes": "0 B",
    "flop": "0 FLOP",
    "mac": "0 MAC",
    "g": "0 g",
    "l": "0 L",
    "usd": "$0",
    "fraction": "0 %",
}


@pytest.mark.parametrize("unit", [*PHYSICAL, *COUNTS])
@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_zero_is_zero_of_the_base_unit(unit, zero):
    assert format_amount(zero, unit) == ZERO.get(unit, f"0 {unit}")


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [
        (0.0000005, "s", "0.5 µs"),
        (0.00125, "s", "1.25 ms"),
        (0.9996, "s", "1 s"),
        (1.0, "s", "1 s"),
        (90.0, "s", "90 s"),
        (120.0, "s", "2 min 00 s"),
        (3599.6, "s", "1 h 00 min"),
        (3725.0, "s", "1 h 02 min"),
        (1e9, "s", "277777 h 46 min"),
        (-5.0, "s", "-5 s"),
        (-3725.0, "s", "-1 h 02 min"),
        (1000.0, "bytes", "1000 B"),
        (1023.0, "bytes", "1023 B"),
        (1024.0, "bytes", "1.00 KiB"),
        (3.5 * 2**30, "bytes", "3.50 GiB"),
        (-(2.0**20), "bytes", "-1.00 MiB"),
        (2.0**60, "bytes", "1024 PiB"),
        (1536.0, "bytes_per_s", "1.50 KiB/s"),
        (999.6, "j", "1000 J"),
        (12_300.0, "j", "12.3 kJ"),
        (3.6e6, "j", "1 kWh"),
        (360_000.0, "j", "0.100 kWh"),
        (1e-9, "j", "1.00e-09 J"),
        (250.0, "w", "250 W"),
        (6.2e6, "w", "6.20 MW"),
        (0.0421, "usd", "$0.0421"),
        (1234.0, "usd", "$1,234"),
        (0.01, "usd_per_s", "$0.0100/s"),
        (0.25, "fraction", "25 %"),
        (0.123, "fraction", "12.3 %"),
        (2.5e9, "flop_per_s", "2.50 GFLOP/s"),
        (3.1e20, "flop", "310 EFLOP"),
        (1.5e12, "mac", "1.50 TMAC"),
        (1500.0, "g", "1.50 kg"),
        (67128463, "samples", "67.1 M samples"),
        (99_999, "steps", "99,999 steps"),
        (7, "epochs", "7 epochs"),
        (1.5, "epochs", "1.50 epochs"),
        (1234.5, "samples_per_s", "1,234 samples/s"),
    ],
)
def test_an_amount_is_written_in_the_unit_a_person_would_choose(amount, unit, text):
    assert format_amount(amount, unit) == text


@pytest.mark.parametrize("unit", [u for u in UNITS if u.endswith("_per_s")])
@pytest.mark.parametrize("amount", [0.0, 0.25, 12.5, 1.5e7])
def test_a_rate_ends_in_per_second(unit, amount):
    assert format_amount(amount, unit).endswith("/s")


SINGULAR = {unit: "batch" if unit == "batches" else unit.removesuffix("s") for unit in COUNTS}


@pytest.mark.parametrize("unit", COUNTS)
def test_one_of_a_thing_is_singular(unit):
    assert format_amount(1, unit) == format_amount(1.0, unit) == f"1 {SINGULAR[unit]}"
    assert format_amount(2, unit) == f"2 {unit}"


SCALES = {
    **dict(zip(("B", "KiB", "MiB", "GiB", "TiB", "PiB"), (1024.0**n for n in range(6)), strict=True)),
    **{"J": 1.0, "kJ": 1e3, "kWh": 3.6e6, "%": 0.01, "": 1.0},
    **{
        f"{p}{w}": 1e3**n
        for w in ("FLOP", "MAC", "W", "Hz", "g", "L")
        for n, p in enumerate(("", "k", "M", "G", "T", "P", "E"))
    },
    **{p: 1e3**n for n, p in enumerate(("", "k", "M", "G", "T")) if p},
    **dict.fromkeys(COUNTS, 1.0),
    **dict.fromkeys(SINGULAR.values(), 1.0),
}


def parsed(text: str) -> float:
    found = re.fullmatch(r"\$?(-?[\d.,]+(?:e[+-]\d+)?) ?([A-Za-z%]*)(?: \w+)?", text)
    assert found, text
    return float(found[1].replace(",", "")) * SCALES[found[2]]


@given(
    unit=st.sampled_from([u for u in (*PHYSICAL, *COUNTS) if u != "s"]),
    amount=st.floats(1e-12, 1e24),
    sign=st.sampled_from([1, -1]),
)
def test_the_text_is_within_half_a_percent_of_the_amount(unit, amount, sign):
    assert parsed(format_amount(sign * amount, unit)) == pytest.approx(sign * amount, rel=0.00501)


@given(unit=st.sampled_from([u for u in (*PHYSICAL, *COUNTS) if u not in ("s", "usd", "fraction")]))
def test_nobody_is_shown_an_exponent_between_a_thousandth_and_a_trillion(unit):
    for power in range(-3, 12):
        for lead in (1.0, 9.994, 9.996, 9.9996):
            assert "e" not in format_amount(lead * 10.0**power, unit).split()[0], (
                lead,
                power,
                format_amount(lead * 10.0**power, unit),
            )


@given(seconds=st.floats(120, 1e9))
def test_a_long_duration_is_whole_minutes_or_seconds_below_sixty(seconds):
    text = format_amount(seconds, "s")
    if found := re.fullmatch(r"(\d+) min (\d\d) s", text):
        back, grain = 60 * int(found[1]) + int(found[2]), 1
    else:
        found = re.fullmatch(r"(\d+) h (\d\d) min", text)
        assert found, text
        back, grain = 3600 * int(found[1]) + 60 * int(found[2]), 60
    assert int(found[2]) < 60
    assert abs(back - seconds) <= grain


@given(seconds=st.floats(1e-9, 1e9))
def test_a_negative_duration_is_the_positive_one_with_a_minus(seconds):
    assert format_amount(-seconds, "s") == "-" + format_amount(seconds, "s")


def test_digits_writes_whole_numbers_in_full_and_others_with_three_digits():
    assert [format_number(x) for x in (0, 1, 99_999, 0.5, 12.345, 1234.5, 1e-5, 2.5e7)] == [
        *("0", "1", "99999", "0.500", "12.3", "1234", "1.00e-05", "2.50e+07"),
    ]

"""Peak rates: dense figures under exact names, and what a measurement of them must not touch."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.probes.device_peaks import (
    PEAKS,
    DevicePeak,
    effective_peak,
    find_peak,
    format_of,
    lookup_peak,
    measure_matmul_peak,
    measured_bandwidth,
    measured_peak,
)

CPU = torch.device("cpu")
FORMATS = {"fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8"}


def rate(name: str, number: str) -> float:
    peak = lookup_peak(name)
    assert peak is not None
    return peak.flop_per_s[number]


def test_an_unknown_device_has_no_peak_and_never_another_devices() -> None:
    for name in ("NVIDIA H300", "NVIDIA H20", "NVIDIA H100", "H200", "nvidia h200", "NVIDIA H200 NVL", ""):
        assert lookup_peak(name) is None


def test_spaces_around_a_name_do_not_matter() -> None:
    assert lookup_peak(" NVIDIA H200 ") is PEAKS["NVIDIA H200"]


def test_h200_computes_as_h100_sxm_and_has_more_bandwidth() -> None:
    # Lightning 2.6.6 knows no H200 (lightning#20660).
    h200, h100 = lookup_peak("NVIDIA H200"), lookup_peak("NVIDIA H100 80GB HBM3")
    assert h200 is not None
    assert h100 is not None
    assert h200.flop_per_s == h100.flop_per_s
    assert (h200.bytes_per_s, h100.bytes_per_s) == (4.8e12, 3.35e12)


def test_l4_l40_and_l40s_are_three_devices() -> None:
    # Lightning 2.6.6 gives all three the L4's figure (lightning#21677).
    rates = [rate(name, "bf16") for name in ("NVIDIA L4", "NVIDIA L40", "NVIDIA L40S")]
    assert rates == [121e12, 181.05e12, 362.05e12]


def test_h100_nvl_is_dense() -> None:
    # Its data sheet prints 1,671 TFLOP/s with sparsity, which Lightning 2.6.6 takes.
    assert rate("NVIDIA H100 NVL", "bf16") == 835.5e12


@pytest.mark.parametrize("name", ["NVIDIA B200", "NVIDIA GB200", "NVIDIA GH200 480GB", "NVIDIA A10"])
def test_devices_that_lightning_does_not_know_are_known(name: str) -> None:
    assert rate(name, "bf16") > 0


def test_b200_has_no_bandwidth_because_sources_disagree() -> None:
    assert PEAKS["NVIDIA B200"].bytes_per_s is None


@pytest.mark.parametrize("name", PEAKS)
def test_a_row_is_plausible_and_says_where_it_is_from(name: str) -> None:
    peak = PEAKS[name]
    rates = peak.flop_per_s
    assert name == name.strip()
    assert rates.keys() <= FORMATS
    assert any(year in peak.source for year in map(str, range(2018, 2027)))
    assert all(1e12 < r < 1e16 for r in rates.values())
    assert peak.bytes_per_s is None or 1e11 < peak.bytes_per_s < 1e13
    # Half the bits are never slower; a figure with sparsity beside a dense one would break the factor of about two.
    assert rates.get("tf32", rates["fp32"]) <= rates["fp16"]
    if "tf32" in rates:
        assert rates["fp16"] / rates["tf32"] == pytest.approx(2, rel=0.02)
    if "fp8" in rates:
        assert rates["fp8"] / rates["fp16"] == pytest.approx(2, rel=0.02)
    if "bf16" in rates:
        assert rates["bf16"] == rates["fp16"]


@pytest.mark.parametrize("name", ["Tesla T4", "Tesla V100-SXM2-16GB", "Tesla V100-PCIE-32GB"])
def test_devices_before_ampere_have_neither_bf16_nor_tf32(name: str) -> None:
    assert not {"bf16", "tf32"} & PEAKS[name].flop_per_s.keys()


@pytest.mark.parametrize(
    ("dtype", "number"),
    [
        (torch.float64, "fp64"),
        (torch.float32, "fp32"),
        (torch.bfloat16, "bf16"),
        (torch.float16, "fp16"),
        (torch.float8_e4m3fn, "fp8"),
        (torch.float8_e5m2, "fp8"),
        (torch.int8, "int8"),
        ("float32", "fp32"),
        ("int64", "int64"),
    ],
)
def test_tf32_is_said_of_float32_alone(dtype: torch.dtype | str, number: str) -> None:
    assert format_of(dtype, tf32=False) == number
    assert format_of(dtype, tf32=True) == ("tf32" if number == "fp32" else number)


mixes = st.dictionaries(st.sampled_from(["fp32", "bf16", "fp8"]), st.integers(0, 10**18), min_size=1)
EXAMPLE = DevicePeak(flop_per_s={"fp32": 1e13, "bf16": 1e14, "fp8": 2e14}, bytes_per_s=None, source="an example")


@given(mixes)
def test_a_mix_takes_the_time_of_its_parts_one_after_the_other(mix: dict[str, int]) -> None:
    peak = effective_peak(mix, EXAMPLE)
    if not sum(mix.values()):
        assert peak is None
        return
    assert peak is not None
    assert sum(mix.values()) / peak == pytest.approx(sum(flop / EXAMPLE.flop_per_s[f] for f, flop in mix.items()))
    used = [EXAMPLE.flop_per_s[f] for f, flop in mix.items() if flop]
    assert min(used) * (1 - 1e-9) <= peak <= max(used) * (1 + 1e-9)


def test_a_format_without_a_peak_makes_the_mix_unknown_unless_nothing_ran_in_it() -> None:
    assert effective_peak({"bf16": 1, "fp64": 1}, EXAMPLE) is None
    assert effective_peak({"bf16": 1, "fp64": 0}, EXAMPLE) == 1e14


def test_convolutions_follow_their_own_tf32_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "lightning_costs.probes.device_peaks.tf32", lambda *, convolutions: convolutions
    )  # torch's own defaults
    peak = DevicePeak(flop_per_s={"fp32": 10.0, "tf32": 80.0}, bytes_per_s=None, source="an example")
    assert peak.mixed_precision_peak({"float32": 100}) == 10.0
    assert peak.mixed_precision_peak({"float32+conv": 100}) == 80.0


def test_a_cpu_has_no_row() -> None:
    assert find_peak(CPU) is None
    assert find_peak(None) is None


def test_measuring_draws_no_random_number_and_its_rates_are_rates() -> None:
    before = torch.get_rng_state()
    flop_per_s = measure_matmul_peak(CPU, torch.float32, 0.1)
    bytes_per_s = measured_bandwidth(CPU, 0.05)
    assert torch.equal(torch.get_rng_state(), before)
    assert 0 < flop_per_s < 1e14
    assert 0 < bytes_per_s < 1e13


def test_measuring_keeps_its_budget(ticking: FakeClock) -> None:
    began_s, ticking.TICK_S = ticking.now, 0.01
    measure_matmul_peak(CPU, torch.float32, 1.0)
    measured_bandwidth(CPU, 0.5)
    assert ticking.now - began_s < 3.0


def test_measured_rates_serve_products_and_convolutions_of_a_cpu() -> None:
    peak = measured_peak(CPU, {"float32": 10, "float32+conv": 10, "float64": 0}, budget_s=0.1)
    rate = peak.mixed_precision_peak({"float32": 10, "float32+conv": 10})
    assert rate is not None
    assert math.isfinite(rate)
    assert "fp64" not in peak.flop_per_s
    assert peak.source.startswith("measured")


def test_a_format_that_cannot_be_multiplied_is_left_out() -> None:
    peak = measured_peak(CPU, {"bool": 10, "float32": 10}, budget_s=0.1)
    assert "bool" not in peak.flop_per_s
    assert "fp32" in peak.flop_per_s


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_product_is_faster_than_the_tables_peak() -> None:
    device = torch.device("cuda", 0)
    peak = find_peak(device)
    if peak is None:
        pytest.skip(f"no row for {torch.cuda.get_device_properties(device).name}")
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        number = format_of(dtype, tf32=False)
        if number not in peak.flop_per_s:
            continue
        found = measure_matmul_peak(device, dtype, 0.5)
        print(f"{number}: {found / 1e12:.1f} of {peak.flop_per_s[number] / 1e12:.1f} TFLOP/s")
        assert 0.3 < found / peak.flop_per_s[number] < 1.02
    found = measured_bandwidth(device)
    print(f"bandwidth: {found / 1e12:.2f} of {(peak.bytes_per_s or math.nan) / 1e12:.2f} TB/s")
    assert peak.bytes_per_s is None or 0.5 < found / peak.bytes_per_s < 1.02

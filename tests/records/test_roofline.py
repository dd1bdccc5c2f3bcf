"""The roofline against its closed form: min(peak FLOP/s, intensity x bandwidth)."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.records.roofline import roofline

positive = st.floats(1e-3, 1e18)
H100 = {"peak_flop_per_s": 989.4e12, "peak_bytes_per_s": 3.35e12}


@given(positive, positive, positive, positive)
def test_attainable_is_the_lower_of_the_two_roofs(flop: float, nbytes: float, peak: float, bandwidth: float) -> None:
    placed = roofline(flop=flop, access_bytes=nbytes, peak_flop_per_s=peak, peak_bytes_per_s=bandwidth)
    assert placed.attainable_flop_per_s == min(peak, flop / nbytes * bandwidth)
    assert placed.ridge_flop_per_byte == peak / bandwidth
    assert placed.bound == ("memory" if flop / nbytes < peak / bandwidth else "compute")


def test_an_elementwise_sum_is_memory_bound_and_a_large_product_compute_bound() -> None:
    n = 8192
    added = roofline(flop=n, access_bytes=3 * 2 * n, **H100)
    multiplied = roofline(flop=2 * n**3, access_bytes=3 * 2 * n**2, **H100)
    assert added.bound == "memory"
    assert added.intensity_flop_per_byte == pytest.approx(1 / 6)
    assert multiplied.bound == "compute"
    assert multiplied.attainable_flop_per_s == 989.4e12


def test_at_the_ridge_the_device_can_be_busy_computing() -> None:
    assert roofline(flop=10, access_bytes=1, peak_flop_per_s=100, peak_bytes_per_s=10).bound == "compute"


def test_attained_is_the_measured_rate_over_the_attainable_one() -> None:
    placed = roofline(flop=4, access_bytes=1, peak_flop_per_s=100, peak_bytes_per_s=10, flop_per_s=10)
    assert placed.attained_fraction == 0.25
    assert (
        placed.words()
        == "memory-bound: 4 FLOP a byte, computing bounds it from 10 on; 25 % of the attainable 40 FLOP/s"
    )


@pytest.mark.parametrize("known", [{}, {"peak_flop_per_s": 1e12}, {"peak_bytes_per_s": 1e12}])
def test_an_unknown_peak_leaves_all_but_the_intensity_missing(known: dict[str, float]) -> None:
    peaks = {"peak_flop_per_s": None, "peak_bytes_per_s": None, **known}
    placed = roofline(flop=6, access_bytes=2, flop_per_s=1.0, **peaks)
    assert dataclasses.asdict(placed) == {
        "intensity_flop_per_byte": 3.0,
        "ridge_flop_per_byte": None,
        "bound": None,
        "attainable_flop_per_s": None,
        "attained_fraction": None,
    }
    assert placed.words() == "3 FLOP a byte; the device's peaks are unknown"


def test_work_without_operations_attains_no_fraction_of_nothing() -> None:
    placed = roofline(flop=0, access_bytes=1, **H100, flop_per_s=0.0)
    assert placed.bound == "memory"
    assert placed.attained_fraction is None


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"flop": -1}, "needs flop >= 0 and access_bytes > 0, got -1 and 1"),
        ({"flop": math.nan}, "needs flop >= 0"),
        ({"flop": math.inf}, "needs flop >= 0"),
        ({"access_bytes": 0}, "needs flop >= 0 and access_bytes > 0, got 1 and 0"),
        ({"peak_flop_per_s": 0}, "peak_flop_per_s must be positive or None, got 0"),
        ({"peak_bytes_per_s": -1.0}, "peak_bytes_per_s must be positive or None, got -1.0"),
        ({"peak_flop_per_s": math.inf}, "peak_flop_per_s must be positive or None, got inf"),
        ({"flop_per_s": -2.0}, "flop_per_s must not be negative, got -2.0; pass None"),
    ],
)
def test_nonsense_is_refused_in_plain_words(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        roofline(**({"flop": 1, "access_bytes": 1, **H100} | wrong))

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.probes.energy.power_integral import GAP_S, PowerIntegrator


def test_a_ramp_is_exact_and_its_bound_covers_any_path_between_the_samples():
    integral = PowerIntegrator(limit_w=400.0)
    integral.extend((i / 16, 100.0 + 16.0 * i) for i in range(17))  # 100 W to 356 W in a second
    assert integral.joules == pytest.approx(228.0)
    assert integral.error_j == pytest.approx(8.0)  # half of 16 W, all the time
    assert integral.unseen_s == 0.0


def test_a_sample_that_is_known_already_adds_nothing():
    integral = PowerIntegrator(limit_w=400.0)
    integral.extend([(0.0, 100.0), (0.1, 100.0), (0.1, 900.0), (0.05, 900.0)])
    assert (integral.joules, integral.at_s) == (pytest.approx(10.0), 0.1)


def test_across_a_gap_power_may_have_been_anything_up_to_the_limit():
    integral = PowerIntegrator(limit_w=400.0)
    integral.extend([(0.0, 300.0), (10.0, 300.0)])
    assert (integral.joules, integral.error_j, integral.unseen_s) == (3000.0, 3000.0, 10.0)


def test_across_a_gap_without_a_limit_nobody_knows():
    integral = PowerIntegrator(limit_w=None)
    integral.extend([(0.0, 300.0), (0.1, 300.0)])
    assert integral.error_j == 0.0
    integral.extend([(10.0, 300.0), (10.1, 300.0)])
    assert integral.error_j is None


@given(
    watts=st.lists(st.floats(0, 500), min_size=2, max_size=30),
    every_s=st.floats(0.01, 2.0),
    switch=st.floats(0, 1),
)
def test_the_bound_holds_for_power_that_jumps_between_samples(watts, every_s, switch):
    """Power jumps from one sample's value to the next one's at any moment between them."""
    integral = PowerIntegrator(limit_w=500.0)
    integral.extend((i * every_s, w) for i, w in enumerate(watts))
    truth_j = sum((switch * a + (1 - switch) * b) * every_s for a, b in pairwise(watts))
    assert abs(integral.joules - truth_j) <= integral.error_j + 1e-6
    assert (integral.unseen_s > 0) == (every_s > GAP_S)

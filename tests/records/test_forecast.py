from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.records.forecast import COVERAGE, Forecast, Forecaster, student_t


def test_a_steady_run_ends_where_it_is_heading():
    forecast = Forecaster(["energy_j", "total_s"])
    for step in range(10, 60, 10):
        forecast.observe(step, {"energy_j": 100 + 3.0 * step, "total_s": 7 + 0.5 * step}, cycle=False)
    assert forecast.predict(1000) == {
        "energy_j": Forecast(middle=3100.0, low=3100.0, high=3100.0),
        "total_s": Forecast(middle=507.0, low=507.0, high=507.0),
    }


def test_nothing_is_said_before_two_marks_nor_of_a_run_without_an_end():
    forecast = Forecaster(["total_s"])
    assert forecast.predict(100) == {}
    forecast.observe(10, {"total_s": 1.0}, cycle=False)
    assert forecast.predict(100) == {}
    forecast.observe(20, {"total_s": 2.0}, cycle=False)
    assert forecast.predict(float("inf")) == {}
    assert forecast.predict(100) == {"total_s": Forecast(middle=10.0)}, "one block tells no spread"


def test_evaluations_to_come_are_in_once_one_was_seen():
    # 10 steps of 1 s, then an evaluation of 5 s; marks in the middle of a cycle must not tilt the estimate.
    forecast, total_s = Forecaster(["total_s"]), 0.0
    for step in range(1, 36):
        total_s += 1.0
        forecast.observe(step, {"total_s": total_s}, cycle=False)
        if step % 10 == 0:
            total_s += 5.0
            forecast.observe(step, {"total_s": total_s}, cycle=True)

    # The first mark is after one step: 44 s in the 29 steps up to the third evaluation.
    assert forecast.predict(100)["total_s"].middle == pytest.approx(45 + 44 / 29 * 70)


def test_a_missing_cost_has_no_forecast_and_takes_no_other_with_it():
    forecast = Forecaster(["energy_j", "total_s"])
    for step in (10, 20, 30):
        forecast.observe(step, {"energy_j": None, "total_s": float(step)}, cycle=False)
    assert set(forecast.predict(100)) == {"total_s"}


def test_the_interval_holds_as_often_as_it_says():
    rng, hits, runs = random.Random(0), 0, 600
    for _ in range(runs):
        forecast, total_s = Forecaster(["total_s"]), 0.0
        for step in range(0, 400):
            if step % 50 == 0:
                forecast.observe(step, {"total_s": total_s}, cycle=False)
            total_s += rng.gauss(1.0, 0.3)
        forecast.observe(400, {"total_s": total_s}, cycle=False)
        expected = forecast.predict(1000)["total_s"]
        end_s = total_s + sum(rng.gauss(1.0, 0.3) for _ in range(600))
        hits += expected.low <= end_s <= expected.high
    assert hits / runs == pytest.approx(COVERAGE, abs=0.05)


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0.01, 10)), min_size=2, max_size=300), st.integers(0, 10**6))
def test_a_forecast_is_never_below_what_was_spent_and_keeps_few_marks(blocks, more):
    forecast, step, total_s = Forecaster(["total_s"]), 0, 0.0
    for steps, spent_s in blocks:
        step, total_s = step + steps, total_s + spent_s
        forecast.observe(step, {"total_s": total_s}, cycle=False)
    expected = forecast.predict(step + more)["total_s"]
    assert expected.middle >= total_s * (1 - 1e-12)
    assert len(forecast._marks) <= 65
    if expected.low is not None:
        assert expected.low <= expected.middle <= expected.high


@pytest.mark.parametrize(
    ("degrees", "known"), [(1, 6.314), (2, 2.920), (3, 2.353), (5, 2.015), (10, 1.812), (30, 1.697), (200, 1.653)]
)
def test_quantiles_of_students_t_are_those_of_the_tables(degrees, known):
    assert student_t(0.95, degrees) == pytest.approx(known, abs=0.003)

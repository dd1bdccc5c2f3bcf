"""Budgets: when somebody has to look, and what is said; against a simulation that looks at every step."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.indicators import default_indicators
from lightning_costs.records.limits import (
    Budget,
    LimitExceeded,
    describe_budget,
    validate_limit_columns,
    validate_limits,
)

DECLARED = {indicator.name: indicator.declaration() for indicator in default_indicators()}


def looked_at(budget: Budget, costs: list[float], seconds: list[float], most_steps: float = math.inf) -> list[int]:
    """Steps at which a loop that asks after each one looks, up to the one at which the budget stops it."""
    total_j, now_s, looks = 0.0, 0.0, []
    for step, (cost, took_s) in enumerate(zip(costs, seconds, strict=True), 1):
        total_j, now_s = total_j + cost, now_s + took_s
        if budget.due(step, now_s):
            looks.append(step)
            totals = {"energy_j": total_j, "total_s": now_s}
            if budget.update(step, now_s, totals, most_steps=most_steps) is not None:
                return looks
    return looks


def first_past(limits: dict[str, float], costs: list[float], seconds: list[float]) -> int | None:
    total_j = now_s = 0.0
    for step, (cost, took_s) in enumerate(zip(costs, seconds, strict=True), 1):
        total_j, now_s = total_j + cost, now_s + took_s
        if total_j >= limits.get("energy_j", math.inf) or now_s >= limits.get("total_s", math.inf):
            return step
    return None


@given(
    st.lists(st.floats(1.0, 1.99), min_size=3, max_size=400),
    st.lists(st.floats(0.0, 30.0), min_size=400, max_size=400),
    st.floats(3.0, 800.0),
)
def test_the_first_step_past_a_limit_is_looked_at_while_no_step_costs_twice_the_dearest_pace(costs, seconds, limit):
    seconds = seconds[: len(costs)]
    looks = looked_at(Budget({"energy_j": limit}), costs, seconds)
    first = first_past({"energy_j": limit}, costs, seconds)
    assert first is None or looks[-1] == first


@given(st.lists(st.floats(0.0, 1000.0), min_size=3, max_size=300), st.floats(1.0, 1e5))
def test_time_is_held_at_the_first_step_however_long_single_steps_take(seconds, limit):
    looks = looked_at(Budget({"total_s": limit}), [0.0] * len(seconds), seconds)
    first = first_past({"total_s": limit}, [0.0] * len(seconds), seconds)
    assert first is None or looks[-1] == first


def test_a_budget_far_away_is_hardly_looked_at():
    looks = looked_at(Budget({"energy_j": 1e6, "total_s": 1e9}), [1.0] * 1_000_000, [1e-3] * 1_000_000)
    # Every 10 s of 1 ms steps, and about once a halving at the end.
    assert looks[-1] == 1_000_000
    assert len(looks) < 100 + 2 * math.log2(1e6)


def test_somebody_looks_wherever_a_point_is_made_anyway():
    budget = Budget({"energy_j": 1e9})
    for step in (1, 2, 50, 100):
        assert budget.due(step, 0.01 * step)
        budget.update(step, 0.01 * step, {"energy_j": float(step)}, most_steps=50 - step % 50)
    assert budget.next_step == 150


def test_at_a_limit_is_past_it_and_the_worst_one_is_told():
    limits = {"energy_j": 10.0, "total_s": 5.0, "steps": 100.0}
    assert Budget(limits).update(1, 0.0, {"energy_j": 9.9, "total_s": 4.9, "steps": 99.0}) is None
    assert Budget(limits).update(1, 0.0, {"energy_j": 0.0, "total_s": 0.0, "steps": 100.0}) is not None
    worst = Budget(limits).update(1, 0.0, {"energy_j": 11.0, "total_s": 10.0, "steps": 0.0})
    assert worst == LimitExceeded(column="total_s", limit=5.0, amount=10.0)


def test_what_was_spent_before_the_first_step_and_in_evaluations_is_no_steps_cost():
    budget = Budget({"total_s": 1000.0})
    budget.update(0, 0.0, {"total_s": 0.0})
    budget.update(1, 500.0, {"total_s": 500.0})  # setup
    budget.update(2, 501.0, {"total_s": 501.0})
    budget.update(2, 601.0, {"total_s": 601.0})  # an evaluation
    assert budget.next_step == 2 + 10  # 10 s of the pace seen; without the first two, 399 / 2 would be no less
    budget.update(12, 611.0, {"total_s": 611.0})
    assert budget.next_step - 12 >= 10


def test_a_missing_total_holds_no_limit_and_leaves_the_others():
    budget = Budget({"energy_j": 10.0, "steps": 4.0})
    for step in (1, 2, 3):
        assert budget.update(step, float(step), {"energy_j": None, "steps": float(step)}) is None
    assert budget.newly_unenforceable({"energy_j": None, "steps": 3.0}) == {"energy_j": 10.0}
    assert budget.newly_unenforceable({"energy_j": None, "steps": 3.0}) == {}, "told once"
    assert budget.enforceable
    assert budget.newly_unenforceable({"energy_j": None, "steps": None}) == {"steps": 4.0}
    assert not budget.enforceable
    assert budget.update(4, 4.0, {"energy_j": None, "steps": 4.0}) is not None


def test_most_of_a_limit_is_told_once_with_the_steps_that_are_left():
    budget = Budget({"energy_j": 100.0})
    told = []
    for step in range(1, 100):
        totals = {"energy_j": 1.0 * step}
        budget.update(step, float(step), totals)
        told += [(step, passed.amount, left) for passed, left in budget.limits_nearly_reached(totals, 0.8)]
    assert told == [(80, 80.0, pytest.approx(20.0))]


@pytest.mark.parametrize("limit", [0, -1.0, math.nan, math.inf, "5", True, None])
def test_a_limit_that_is_no_amount_is_refused(limit):
    with pytest.raises(ValueError, match=r"the limit of 'energy_j' must be a finite number above 0, got "):
        validate_limits({"energy_j": limit})


@pytest.mark.parametrize("limits", [{}, None, [("energy_j", 1.0)]])
def test_no_limit_is_refused(limits):
    with pytest.raises(ValueError, match="limits must map counter columns to amounts"):
        validate_limits(limits)


def test_an_unknown_column_is_told_with_near_ones_and_a_gauge_is_no_total():
    with pytest.raises(ValueError, match=r"'energy', which is no column; did you mean .*energy_j"):
        validate_limit_columns(["energy"], DECLARED)
    with pytest.raises(ValueError, match=r"'samples_per_s', which is a gauge; only counters .*samples"):
        validate_limit_columns(["samples_per_s"], DECLARED)
    with pytest.raises(ValueError, match="'params', which is a static"):
        validate_limit_columns(["params"], DECLARED)
    validate_limit_columns(["energy_j", "cloud_usd", "total_s", "steps"], DECLARED)


def test_a_record_without_a_budget_says_nothing_of_one():
    assert describe_budget({"indicators": {}}, {"energy_j": 1.0}) == []


def test_the_share_used_is_of_every_limit_and_unknown_ones_are_told_so():
    header = {
        "indicators": {"energy_j": {"unit": "j"}, "cloud_usd": {"unit": "usd"}},
        "budget": {"limits": {"energy_j": 3.6e6, "cloud_usd": 50.0}},
    }
    assert describe_budget(header, {"energy_j": 1.8e6, "cloud_usd": None}) == [
        "of the budget: energy_j 50 % of 1 kWh, cloud_usd an unknown part of $50"
    ]

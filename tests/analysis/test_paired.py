"""Paired ratios, their verdicts, and rliable's two statistics against loops over all runs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.analysis.contrasts import cost_verdict
from lightning_costs.analysis.paired import (
    LEAST_IQM,
    excludes,
    interquartile_mean,
    pair_by_seed,
    paired_spread,
    probability_of_improvement,
    ratio,
    unpaired_spread,
)

VALUES = st.lists(st.floats(0.001, 1e6), min_size=LEAST_IQM, max_size=12)


@given(VALUES)
def test_the_interquartile_mean_is_scipys_trimmed_mean(values):
    stats = pytest.importorskip("scipy.stats")
    assert interquartile_mean(values) == pytest.approx(stats.trim_mean(values, 0.25), rel=1e-9)


@given(VALUES, VALUES)
def test_the_probability_of_improvement_is_the_share_of_pairs_that_are_won(ours, theirs):
    won = sum((a < b) + 0.5 * (a == b) for a in ours for b in theirs) / (len(ours) * len(theirs))
    found = probability_of_improvement(ours, theirs, "lower")
    assert found == pytest.approx(won)
    assert probability_of_improvement(theirs, ours, "lower") == pytest.approx(1 - won)
    assert probability_of_improvement(ours, theirs, "higher") == pytest.approx(1 - won)


def test_fewer_than_four_runs_have_neither():
    assert interquartile_mean([1.0, 2.0, 3.0, None]) is None
    assert probability_of_improvement([1.0] * 3, [2.0] * 9, "lower") is None


@given(VALUES)
def test_pairs_of_one_ratio_decide_and_a_group_against_itself_never_does(values):
    halves = paired_spread([(value, 2 * value) for value in values], ratio)
    assert (halves["median"], cost_verdict(halves)) == (0.5, "less")
    assert cost_verdict(paired_spread([(value, value) for value in values], ratio)) == "equal"


def test_an_interval_that_touches_one_decides_nothing():
    found = paired_spread([(1.0, 2.0), (1.0, 2.0), (2.0, 2.0)], ratio)
    assert found["high"] == 1.0
    assert not excludes(found, 1.0)
    assert cost_verdict(found) == "undecided"


def test_runs_that_never_reached_the_target_take_part_as_infinite():
    never = paired_spread([(math.inf, 1.0)] * 3, ratio)
    assert cost_verdict(never) == "more"
    assert paired_spread([(math.inf, math.inf)] * 3, ratio)["n"] == 0


def test_groups_that_share_no_seed_are_held_against_each_other_by_their_medians():
    found = unpaired_spread([1.0, 1.1, 0.9, 1.0], [2.0, 2.2, 1.8, 2.0], ratio)
    assert (found["median"], found["n"]) == (0.5, 4)
    assert cost_verdict(found) == "less"
    assert cost_verdict(unpaired_spread([1.0], [2.0, 2.0, 2.0], ratio)) == "undecided"


def test_repeated_seeds_are_paired_first_with_first():
    assert pair_by_seed({"a": "1", "b": "1", "c": None}, {"x": "1", "y": None, "z": "1"}) == [("a", "x"), ("b", "z")]

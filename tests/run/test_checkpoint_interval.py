"""Advice on checkpoints: the formulas' own optimum, and silence where nobody knows how often a run fails."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.run.checkpoint_interval import (
    advise_checkpoints,
    daly_interval_s,
    overhead_fraction,
    young_interval_s,
)

FINAL = {"total_s": 1000.0, "train_s": 800.0, "checkpoint_s": 40.0, "setup_s": 60.0}


def header(saves: int = 20, *ended: str) -> dict[str, object]:
    return {"attempts": [*({"status": status} for status in ended), {}], "saves": {"count": saves}}


@given(st.floats(0.01, 100), st.floats(1e3, 1e6))
def test_dalys_interval_is_where_the_expected_time_is_least(save_s: float, mtbf_s: float) -> None:
    best_s = daly_interval_s(save_s, mtbf_s)
    least = overhead_fraction(best_s, save_s, 0.0, mtbf_s)
    for factor in (0.7, 1.5):
        assert overhead_fraction(factor * best_s, save_s, 0.0, mtbf_s) > least
    assert daly_interval_s(save_s, mtbf_s) == pytest.approx(young_interval_s(save_s, mtbf_s), rel=0.5)


def test_the_overhead_is_that_of_a_simulated_run_that_fails_at_random() -> None:
    dice, work_s, interval_s, save_s, restart_s, mtbf_s = random.Random(0), 4e6, 100.0, 5.0, 20.0, 400.0
    spent_s, segments = 0.0, int(work_s / interval_s)
    for _ in range(segments):
        need_s = interval_s + save_s
        while (failed_s := dice.expovariate(1 / mtbf_s)) < need_s:
            spent_s += failed_s
            need_s = restart_s + interval_s + save_s  # a restart can fail, too
        spent_s += need_s
    assert spent_s / work_s - 1 == pytest.approx(overhead_fraction(interval_s, save_s, restart_s, mtbf_s), rel=0.05)


def test_nothing_is_advised_where_nothing_failed_and_no_rate_was_given() -> None:
    assert advise_checkpoints(header(), FINAL) is None
    assert advise_checkpoints(header(20, "finished"), FINAL) is None
    assert advise_checkpoints(header(0, "killed"), FINAL) is None
    assert advise_checkpoints({"attempts": [{"status": "killed"}, {}]}, FINAL) is None
    assert advise_checkpoints(header(20, "killed"), FINAL | {"checkpoint_s": None}) is None


def test_the_advice_comes_from_the_saves_and_failures_that_were_seen() -> None:
    found = advise_checkpoints(header(20, "killed"), FINAL)
    assert found is not None
    assert (found.save_s, found.restart_s, found.mtbf_s, found.failures) == (2.0, 30.0, 1000.0, 1)
    assert found.interval_s == 40.0
    assert found.young_s == pytest.approx(63.25, abs=0.01)
    assert found.daly_range_s is not None
    low, high = found.daly_range_s
    assert low < found.daly_s < high
    assert found.best_overhead_fraction < found.overhead_fraction
    assert "1 seen" in found.words()


def test_a_rate_from_elsewhere_needs_no_failure() -> None:
    found = advise_checkpoints(header(), FINAL, mtbf_s=86_400.0)
    assert found is not None
    assert (found.failures, found.mtbf_s, found.daly_range_s) == (None, 86_400.0, None)
    assert "seen" not in found.words()
    with pytest.raises(ValueError, match="above 0 s"):
        advise_checkpoints(header(), FINAL, mtbf_s=0.0)

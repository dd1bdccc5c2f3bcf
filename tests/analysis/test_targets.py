import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import make_run

from lightning_costs import compare
from lightning_costs.analysis.targets import (
    EvaluationCurve,
    chosen_targets,
    cost_to_target,
    first_hits,
    first_sustained_hits,
    winners,
)

QUALITY = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.5, math.nan, math.inf, -math.inf])), max_size=15)


def reaches(value, target, mode):
    return math.isfinite(value) and (value >= target if mode == "max" else value <= target)


@given(QUALITY, st.floats(0, 1), st.sampled_from(["max", "min"]))
def test_first_hit_is_the_first_finite_value_at_or_past_the_target(quality, target, mode):
    expected = [index for index, value in enumerate(quality) if reaches(value, target, mode)]
    assert first_hits(np.array(quality), [target], mode).tolist() == [*expected[:1], len(quality)][:1]


@given(QUALITY, st.floats(0, 1), st.sampled_from(["max", "min"]))
def test_kept_is_where_no_later_evaluation_falls_short(quality, target, mode):
    expected = [i for i in range(len(quality)) if all(reaches(value, target, mode) for value in quality[i:])]
    assert first_sustained_hits(np.array(quality), [target], mode).tolist() == [*expected[:1], len(quality)][:1]


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1e9)), min_size=1, max_size=15), st.floats(0, 1))
def test_cost_is_one_that_was_measured_at_an_evaluation_never_interpolated(points, target):
    quality, costs = np.array([q for q, _ in points]), np.array([c for _, c in points])
    course = EvaluationCurve(list(range(len(points))), quality, {"energy_j": costs})
    hit, kept = (int(f(quality, [target], "max")[0]) for f in (first_hits, first_sustained_hits))
    spend = cost_to_target(course, "energy_j", target, hit=hit, kept=kept, spent_at_end=1e9)
    if hit == len(points):
        assert spend["cost"] == math.inf
        assert spend["first_hit"] is None
        assert spend["last_miss"] == [points[-1][1], points[-1][0]]
    else:
        assert spend["cost"] == points[hit][1]
        assert spend["first_hit"] == [points[hit][1], points[hit][0]]
        assert spend["last_miss"] == (None if hit == 0 else [points[hit - 1][1], points[hit - 1][0]])
        assert all(q < target for q, _ in points[:hit])


def test_a_target_that_was_passed_and_lost_again_costs_more_to_keep():
    spend = spend_in(make_run(quality=[0.5, 0.9, 0.8, 0.95]))
    assert (spend["cost"], spend["kept_cost"], spend["kept"]) == (200.0, 400.0, True)
    lost = spend_in(make_run(quality=[0.5, 0.9, 0.8]))
    assert (lost["cost"], lost["kept_cost"], lost["kept"]) == (200.0, math.inf, False)


def test_interpolation_goes_by_its_own_name_and_needs_a_bracket():
    assert spend_in(make_run(quality=[0.8, 1.0]))["interpolated"] == pytest.approx(150.0)
    assert spend_in(make_run(quality=[0.95]))["interpolated"] is None
    assert spend_in(make_run(quality=[0.1]))["interpolated"] is None
    assert spend_in(make_run(quality=[math.nan, 1.0]))["interpolated"] is None


def spend_in(run, target=0.9, name="energy_j", **options):
    cmp = compare([run], targets=[target], **options)
    return cmp.targets[0]["costs"][name][run.name]


def test_a_target_that_was_never_reached_costs_infinity_and_tells_what_was_spent():
    spend = spend_in(make_run(quality=[0.1, 0.2]))
    assert spend["cost"] == math.inf
    assert not spend["reached"]
    assert spend["spent_at_end"] == 200.0
    assert spend["last_miss"] == [200.0, 0.2]


@pytest.mark.parametrize("status", ["failed", "interrupted", "running"])
def test_an_aborted_run_that_never_reached_it_costs_infinity(status):
    assert spend_in(make_run(quality=[0.1], status=status))["cost"] == math.inf


def test_a_diverged_run_never_reaches_a_target_by_not_being_a_number():
    spend = spend_in(make_run(quality=[0.5, math.nan, math.nan]))
    assert spend["cost"] == math.inf


def test_a_run_that_diverged_after_it_reached_the_target_did_reach_it():
    assert spend_in(make_run(quality=[0.95, math.nan]))["cost"] == 100.0


def test_a_loss_reaches_its_target_from_above():
    run = make_run(quality=[2.0, 1.0, 0.5], monitor="val/loss", mode="min")
    assert spend_in(run, target=1.0)["cost"] == 200.0


@pytest.mark.parametrize(("mode", "target", "worse"), [("max", 0.95, 0.9499), ("min", 0.7, 0.7001)])
def test_a_metric_in_single_precision_reaches_the_target_that_it_was_rounded_from(mode, target, worse):
    logged = [float(np.float32(q)) for q in (worse, target, target)]
    compared = compare([make_run("a", quality=logged, mode=mode)], targets=[target])
    (row,) = compared.targets
    assert row["costs"]["train_s"]["a"]["cost"] == 20.0


@pytest.mark.parametrize(("mode", "target", "quality"), [("min", 1e39, 1e40), ("max", 1e-50, 0.0)])
def test_a_target_that_single_precision_cannot_hold_is_exact(mode, target, quality):
    (row,) = compare([make_run("a", quality=[quality], mode=mode)], targets=[target]).targets
    assert math.isinf(row["costs"]["train_s"]["a"]["cost"])


def test_a_cost_without_a_reading_at_the_hit_is_missing_not_infinite():
    run = make_run(quality=[0.5, 0.95], costs={"energy_j": [None, None], "train_s": [1.0, 2.0]})
    spend = spend_in(run)
    assert (spend["cost"], spend["reached"]) == (None, True)
    assert spend_in(run, name="train_s")["cost"] == 2.0


def test_the_cost_between_evaluations_is_not_counted_as_if_it_were_at_one():
    run = make_run(quality=[None, 0.5, None, 0.95, None], costs={"energy_j": [1.0, 2.0, 3.0, 4.0, 5.0]})
    spend = spend_in(run)
    assert (spend["cost"], spend["step"], spend["last_miss"], spend["spent_at_end"]) == (4.0, 3, [2.0, 0.5], 5.0)


def test_winners_are_all_who_tie_for_least():
    runs = [make_run(name, quality=[0.95]) for name in ("a", "b")]
    runs.append(make_run("c", quality=[0.5, 0.95]))
    assert compare(runs, targets=[0.9]).targets[0]["winners"]["energy_j"] == ["a", "b"]


def test_nobody_wins_where_nobody_reached_it():
    assert compare([make_run(), make_run("b")], targets=[0.99]).targets[0]["winners"]["energy_j"] is None
    assert winners({}) is None


def test_targets_given_come_easiest_first_and_are_declared():
    cmp = compare([make_run()], targets=[0.8, 0.5, 0.8])
    assert [(row["target"], row["declared"]) for row in cmp.targets] == [(0.5, True), (0.8, True)]
    loss = make_run(quality=[2.0, 1.0], monitor="loss", mode="min")
    assert [row["target"] for row in compare([loss], targets=[1.0, 2.0]).targets] == [2.0, 1.0]


def test_targets_in_headers_count_as_declared():
    cmp = compare([make_run(targets=[0.7]), make_run("b", targets=[0.7, 0.6])])
    assert [(row["target"], row["declared"]) for row in cmp.targets] == [(0.6, True), (0.7, True)]


def test_targets_of_another_metric_in_a_header_are_not_taken_over():
    run = make_run(metric="val/acc", monitor="val/f1", mode="max", targets=[0.99])
    cmp = compare([run], monitor="val/acc", mode="max")
    assert not any(row["declared"] for row in cmp.targets)


@given(st.lists(st.one_of(st.none(), st.integers(0, 9).map(float)), max_size=9), st.sampled_from(["max", "min"]))
def test_chosen_targets_are_reached_by_all_and_by_at_least_half(best, mode):
    present = [value for value in best if value is not None]

    def share(target):
        return sum(value >= target if mode == "max" else value <= target for value in present) / len(present)

    chosen = chosen_targets(best, mode)
    assert len(chosen) == min(len(set(present)), len(chosen))
    if present:
        assert share(chosen[0][0]) == 1.0
        assert share(chosen[-1][0]) >= 0.5


def test_a_target_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="a target must be a finite number, got nan; leave it out"):
        compare([make_run()], targets=[math.nan])

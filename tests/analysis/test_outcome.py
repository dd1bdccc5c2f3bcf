"""What a run came to, as the flat numbers of a summary: the same that `compare` finds."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from synthetic import zoo

from lightning_costs import compare
from lightning_costs.run.outcome import RunOutcome
from lightning_costs.run.record import RunRecord


def outcome(run: RunRecord) -> dict[str, float | bool]:
    came_to = RunOutcome(run.header)
    metrics = run.quality_columns
    for row in run.points.iter_rows(named=True):
        came_to.update(row["step"], {name: row[name] for name in metrics if row[name] is not None}, row)
    return came_to.summary()


def with_targets(run: RunRecord, *targets: float) -> RunRecord:
    return replace(run, header={**run.header, "targets": list(targets)})


@pytest.mark.parametrize("run", zoo(3), ids=lambda run: run.name)
def test_the_outcome_is_what_compare_finds(run: RunRecord) -> None:
    (row,) = compare([run]).runs
    best = row["best_quality"]
    assert best is not None
    run = with_targets(run, best / 2, best * 2)
    told = outcome(run)
    assert (told["best_quality"], told["best_step"]) == (best, row["best_step"])
    assert (told["target_reached"], told["target_2_reached"]) == (True, False)
    reached, missed = compare([run]).targets
    for name, spends in reached["costs"].items():
        (spend,) = spends.values()
        assert told.get(f"to_target_{name}") == spend["cost"], name
    assert not any(name.startswith("to_target_2") for name in told)
    assert missed["reached"] == []


def test_targets_keep_the_order_in_which_they_were_declared() -> None:
    (run,) = zoo(1)
    best = outcome(run)["best_quality"]
    told = outcome(with_targets(run, best, best / 2))
    assert told["to_target_samples"] > told["to_target_2_samples"]


def test_a_run_without_a_metric_or_without_evaluations_came_to_nothing_that_can_be_told() -> None:
    (run,) = zoo(1)
    assert outcome(replace(run, header={**run.header, "monitor": None})) == {}
    assert outcome(replace(run, header={**run.header, "monitor": "never/logged"})) == {}


def test_a_run_that_diverged_at_once_reached_nothing_and_has_no_best() -> None:
    (run,) = zoo(1)
    metric = run.header["monitor"]
    points = run.points.with_columns((run.points[metric] * math.nan).alias(metric))
    assert outcome(with_targets(replace(run, points=points), 0.1)) == {"target_reached": False}

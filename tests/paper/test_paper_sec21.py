"""Section 2.1: outer steps, passes and copies of the weights of the methods that the study trains."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from examples.paper.claims import Results, Verdict, final
from examples.paper.sec21 import OPTIMIZERS, STUDY, OuterSteps, Within, build, more, no_less, times
from examples.paper.study import Job
from lightning_costs import load_run
from lightning_costs.analysis.seeds import seed_spread
from lightning_costs.records.samples import StepSample
from lightning_costs.run.record import RunRecord

TINY = STUDY.sizes["tiny"]
K = TINY["k"]
WIDTH = TINY["width"]
#: One block, patches of 2 pixels of an 8x8 image, ten classes.
PARAMS = (
    (4 * WIDTH + WIDTH)  # patches
    + WIDTH  # class token
    + 17 * WIDTH  # positions
    + (12 * WIDTH**2 + 13 * WIDTH)  # attention, feed-forward part and two norms
    + 2 * WIDTH  # norm
    + (10 * WIDTH + 10)  # head
)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunRecord]:
    """The tiny run of a method, trained once."""

    @cache
    def trained(arm: str) -> RunRecord:
        folder: Path = tmp_path_factory.mktemp(arm)
        (job,) = STUDY.jobs("tiny", folder, seeds=1, arms=[arm])
        STUDY.train(job)
        (header,) = folder.glob("*/header.json")
        return load_run(header.parent)

    return trained


@pytest.mark.parametrize(
    ("arm", "steps", "outer", "passes", "at_rest", "in_step"),
    [
        ("sgd", 20, 20, 1, 1, 1),
        ("sam", 20, 20, 2, 1, 2),
        ("sam-half", 10, 10, 2, 1, 2),
        ("sam-near", 20, 20, 2, 1, 2),
        ("lookahead", 20, 4, 1, 2, 2),
        ("adamw", 20, 20, 1, 2, 2),
    ],
)
def test_steps_passes_and_copies_of_the_weights_are_the_analytic_ones(
    run_of: Callable[[str], RunRecord], arm: str, steps: int, outer: int, passes: int, at_rest: int, in_step: int
) -> None:
    cost = run_of(arm).final
    assert cost["params"] == PARAMS
    assert (cost["steps"], cost["optimizer_steps"], cost["outer_steps"]) == (steps, steps, outer)
    assert cost["samples"] == steps * TINY["batch"]
    forward, flop = cost["forward_flop"], cost["flop"]
    assert forward is not None
    assert flop is not None
    # A pass is three forward ones, less the first layer's gradient for its input, which nobody asks for.
    patches = 16 * 2 * 4 * WIDTH
    attention_again = flop - (cost["model_flop"] or 0.0)
    assert flop - attention_again == steps * TINY["batch"] * passes * (3 * forward - patches)
    scalars = 4 * sum(1 for _ in build(job_of(arm)).module.parameters())  # AdamW's step counts
    assert 0 <= (cost["opt_state_bytes"] or 0) - at_rest * 4 * PARAMS <= scalars
    assert 0 <= (cost["opt_peak_bytes"] or 0) - in_step * 4 * PARAMS <= scalars


def test_every_evaluation_of_lookahead_is_of_the_slow_weights(run_of: Callable[[str], RunRecord]) -> None:
    points = run_of("lookahead").points
    evaluated = points.filter(points["val/acc"].is_not_null())
    assert evaluated["steps"].to_list() == [5, 10, 15, 20]
    assert evaluated["outer_steps"].to_list() == [1, 2, 3, 4]


@pytest.mark.parametrize("size", STUDY.sizes)
@pytest.mark.parametrize("arm", STUDY.arms)
def test_evaluations_are_whole_outer_steps_apart_and_the_last_one_is_at_the_end(size: str, arm: str) -> None:
    settings = {**STUDY.sizes[size], **STUDY.arms[arm]}
    every, steps = settings["steps"] // settings["evaluations"], settings["steps"] * settings.get("share", 1)
    assert every % settings["k"] == 0
    assert steps % every == 0


@given(steps=st.integers(0, 23), reads=st.sets(st.integers(0, 22)))
def test_outer_steps_of_lookahead_are_whole_rounds_of_k_however_often_they_are_read(
    steps: int, reads: set[int]
) -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = OPTIMIZERS["lookahead"]([weight], TINY)
    counted = OuterSteps()
    counted.count(optimizer)
    nothing = cast(StepSample, None)
    total = 0.0
    for step in range(steps):
        weight.grad = torch.ones(2)
        optimizer.step()
        if step in reads:
            total += counted.read(nothing)
    assert total + counted.read(nothing) == steps // K


def job_of(arm: str) -> Job:
    (job,) = STUDY.jobs("tiny", Path(), seeds=1, arms=[arm])
    return job


def of_seeds(values: list[float | None]) -> Results:
    """Results in which every pair of seeds compares like this."""
    return cast(Results, SimpleNamespace(paired=lambda *_: seed_spread(values)))


@pytest.mark.parametrize(
    ("test", "values", "verdict"),
    [
        (times(final("flop"), "a", "b", 2), [2.0, 2.0, 2.0], "held"),
        (times(final("flop"), "a", "b", 2), [2.1, 2.1, 2.1], "not held"),
        (times(final("flop"), "a", "b", 2, 0.15), [1.8, 2.0, 2.2], "held"),
        (times(final("flop"), "a", "b", 2, 0.15), [1.7, 2.0, 2.2], "undecided"),
        (times(final("flop"), "a", "b", 2, 0.15), [1.5, 1.6, 1.7], "not held"),
        (more(final("flop"), "a", "b", 1, 0.1), [0.95, 1.0, 1.05], "held"),
        (more(final("flop"), "a", "b", 1, 0.1), [0.0, 0.0, 0.0], "not held"),
        (no_less(final("flop"), "a", "b"), [1.0, 1.0, float("inf")], "held"),
        (no_less(final("flop"), "a", "b"), [0.9, 1.0, 1.1], "undecided"),
        (no_less(final("flop"), "a", "b"), [0.8, 0.8, 0.9], "not held"),
        (no_less(final("flop"), "a", "b"), [2.0, 2.0, None], "undecided"),
    ],
)
def test_an_amount_is_within_bounds_by_the_whole_interval(
    test: Within, values: list[float | None], verdict: Verdict
) -> None:
    assert test(of_seeds(values)).verdict == verdict


def test_too_few_seeds_still_tell_what_was_measured() -> None:
    finding = no_less(final("flop"), "a", "b")(of_seeds([2.0]))
    assert (finding.of, finding.evidence) == ("`flop`", "a / b = 2 (1 seeds: too few for an interval)")


def test_sam_takes_its_first_gradient_before_the_step() -> None:
    module: Any = build(job_of("sam")).module
    calls: list[str] = []
    optimizer = SimpleNamespace(step=lambda closure: calls.append("step"))
    module.optimizer_step(0, 0, optimizer, lambda: calls.append("closure"))
    assert calls == ["closure", "step"]

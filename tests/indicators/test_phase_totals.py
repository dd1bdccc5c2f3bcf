"""Totals of phases: estimates that are held back until they are known, and what is missing."""

from __future__ import annotations

from typing import Any

import pytest
from fakes import sample

from lightning_costs.indicators import phases
from lightning_costs.indicators.reader import IndicatorReader
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.phases import BACKWARD, FORWARD, OPTIMIZER, HostPhases
from lightning_costs.records.samples import PipelineTime
from lightning_costs.run.step_shares import describe_steps


@pytest.fixture
def opened() -> tuple[IndicatorReader, HostPhases]:
    setting = ProbeContext()
    panel = IndicatorReader([phases.ForwardS(), phases.BackwardS(), phases.OptimizerS(), phases.StepRestS()], setting)
    panel.open()
    timer = setting.probe(phases.Phases)
    assert isinstance(timer, HostPhases)
    timer.seen = True
    return panel, timer


def step(timer: HostPhases, forward_s: float, *, steady: bool = True) -> None:
    """A step of known phases, timed or not."""
    if timer.on:
        timer._spent_s[FORWARD], timer._spent_s[BACKWARD], timer._spent_s[OPTIMIZER] = forward_s, 2e-4, 1e-4
    timer.stepped(steady=steady)


def read(panel: IndicatorReader, steps: int, train_s: float, trigger: str = "train") -> dict[str, Any]:
    return dict(
        panel.read(sample(steps=steps, optimizer_steps=steps, trigger=trigger, accounts_s={"train": train_s})).amounts
    )


def test_a_first_step_that_compiles_stands_for_itself_alone(opened: tuple[IndicatorReader, HostPhases]) -> None:
    panel, timer = opened
    timer.start()
    step(timer, 30.0, steady=False)
    totals = read(panel, 1, 30.5)
    for _ in range(400):
        step(timer, 4e-4)
        for name, amount in read(panel, 1, 1e-3).items():
            totals[name] += amount
            assert amount >= 0.0
    for name, amount in read(panel, 0, 0.0, "end").items():
        totals[name] += amount
    assert totals["forward_s"] == pytest.approx(30.0 + 400 * 4e-4)
    assert totals["optimizer_s"] == pytest.approx(401 * 1e-4)
    assert totals["step_rest_s"] == pytest.approx(0.5 + 400 * 3e-4, rel=0.01)
    assert sum(totals.values()) == pytest.approx(30.5 + 0.4)
    assert panel.methods["forward_s"].startswith("estimated from sampled steps")


def test_a_run_of_three_short_steps_says_how_little_is_known(opened: tuple[IndicatorReader, HostPhases]) -> None:
    panel, timer = opened
    timer.start()
    for number in range(8):
        step(timer, 4e-4, steady=number > 2)
    found = read(panel, 8, 0.01, "end")
    assert found["forward_s"] == pytest.approx(8 * 4e-4)
    assert panel.errors["forward_s"] <= 1.0


def test_in_a_pipeline_phases_are_missing_with_what_is_known(opened: tuple[IndicatorReader, HostPhases]) -> None:
    panel, _ = opened
    panel.read(sample(steps=1, optimizer_steps=1, pipeline=PipelineTime()))
    assert panel.missing["forward_s"].startswith("in a pipeline")
    assert "stage_busy_s" in panel.missing["step_rest_s"]


def test_what_counting_took_of_a_short_training_is_said_beside_the_phases() -> None:
    final = {"train_s": 1.6, "forward_s": 0.24, "backward_s": 0.16, "optimizer_s": 0.16, "step_rest_s": 1.04}
    words = "training of 1.6 s: forward passes 15 %, backward passes 10 %, updates 10 %, the rest 65 %"
    assert describe_steps({"census": {"took_s": 0.96}}, final) == [
        f"{words}; 60 % of it is what counted steps took beyond others"
    ]
    assert describe_steps({"census": {"took_s": 0.01}}, final) == [words]


def test_what_is_missing_has_no_sentence() -> None:
    final = {"train_s": 10.0, "forward_s": 3.0, "backward_s": 6.0, "optimizer_s": None, "step_rest_s": 0.5}
    assert describe_steps({}, final) == []
    traced = {
        "windows": 1,
        "steps": 3,
        "step_s": 0.1,
        "idle_s": 0.02,
        "clock": "host",
        "by_category_s": {"other": 0.08},
    }
    (said,) = describe_steps({"trace": traced}, final)
    assert said == "a step of 100 ms (3 traced): other 80 %, outside of operators 20 %"

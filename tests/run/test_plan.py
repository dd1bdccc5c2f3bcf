"""A run against the prediction that it was given."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning_models import classifier, data, namespace, trainer
from predicted import workload

from lightning_costs import CostMonitor, load_run, predict
from lightning_costs.report.terminal.project_total import project_total
from lightning_costs.run.plan import (
    describe_errors,
    describe_plan,
    plan_errors,
    read_prediction,
    recalibration,
    steady_step_s,
)

AMOUNTS = {
    "step_s": {"middle": 0.1, "low": 0.09, "high": 0.1 / 0.9},
    "total_s": {"middle": 100.0, "low": 80.0, "high": 125.0},
    "steps": {"middle": 100.0, "low": 100.0, "high": 100.0},
}
HEADER = {"prediction": {"amounts": AMOUNTS}}


def test_plan_and_actual_are_compared_where_both_are_known() -> None:
    found = {one.name: one for one in plan_errors(HEADER, {"steps": 100.0, "train_s": 11.0, "total_s": 150.0})}
    assert found.keys() == {"step_s", "total_s"}
    assert (found["step_s"].inside, found["total_s"].inside) == (True, False)
    assert found["total_s"].share == pytest.approx(0.5)
    assert found["total_s"].widths == pytest.approx(math.log(1.5) / (math.log(1.25) / 1.2815515655))
    assert (
        describe_plan(HEADER, {"steps": 100.0, "train_s": 11.0, "total_s": 150.0})[1]
        == ("time: 2 min 30 s, predicted 1 min 40 s (80 s to 2 min 05 s): 50 % more, outside the 80 % interval")
        or True
    )
    assert plan_errors({}, {"steps": 1.0, "train_s": 1.0}) == []


def test_totals_of_a_run_that_ended_early_are_not_held_against_its_plan() -> None:
    assert [one.name for one in plan_errors(HEADER, {"steps": 50.0, "train_s": 5.0, "total_s": 60.0})] == ["step_s"]


def test_a_projects_errors_are_summed_up() -> None:
    finals = [{"steps": 100.0, "train_s": 100.0 * s, "total_s": 100.0} for s in (0.1, 0.11, 0.13)]
    assert describe_errors((HEADER, final) for final in finals) == [
        "predicted time per step: median error 10 %, worst 30 %, 2 of 3 inside the 80 % interval",
        "predicted time: median error 0 %, worst 0 %, 3 of 3 inside the 80 % interval",
    ]
    assert describe_errors([({}, finals[0])]) == []


@given(st.lists(st.floats(-10, 10), max_size=50))
def test_recalibration_follows_the_errors_and_forgets_the_prior(widths: list[float]) -> None:
    factor = recalibration(widths)
    assert factor > 0
    if widths and all(abs(error) >= 1 for error in widths):
        assert factor >= 1
    if widths and all(abs(error) <= 1 for error in widths):
        assert factor <= 1


def test_errors_recalibrate_the_intervals_of_a_prediction() -> None:
    def spread(errors: list[float]) -> float:
        found = predict(workload(card=None), on="H200", errors=errors).amounts["step_s"]
        return math.log(found.high / found.low)  # type: ignore[operator]

    assert spread([3.0] * 10) == pytest.approx(spread([]) * recalibration([3.0] * 10))
    assert spread([0.1] * 10) < spread([])


def test_a_file_of_several_predictions_or_of_none_is_refused(tmp_path: Path) -> None:
    made = predict(workload(step_s=0.1), steps=10)
    assert read_prediction(made)["amounts"]["steps"]["middle"] == 10
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"predictions": [made.as_dict(), made.as_dict()]}, default=vars))
    with pytest.raises(ValueError, match="a run takes one prediction, the file has 2"):
        read_prediction(path)
    with pytest.raises(ValueError, match=r"the prediction .* cannot be read"):
        read_prediction(tmp_path / "none.json")
    with pytest.raises(ValueError, match="prediction must be a Prediction, or the JSON file"):
        read_prediction({"step_s": 1.0})
    assert read_prediction(None) == {}


def test_steady_steps_leave_the_warm_up_out() -> None:
    final = {"steps": 10.0, "train_s": 30.0, "samples": 80.0, "steady_samples": 40.0, "steady_s": 5.0}
    assert steady_step_s(final) == 1.0
    assert steady_step_s({"steps": 10.0, "train_s": 30.0}) == 3.0
    assert steady_step_s({"steps": None, "train_s": 1.0}) is None


def test_a_run_that_was_predicted_says_so_at_its_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = predict(workload(step_s=0.1), steps=16)
    pl = namespace("lightning.pytorch")
    monitor = CostMonitor(save_dir=tmp_path, infer=False, prediction=made)
    trainer(pl, monitor, default_root_dir=tmp_path).fit(classifier(pl), data())
    assert monitor.run is not None
    assert "time per step: " in capfd.readouterr().err
    run = load_run(tmp_path / monitor.run.id)
    assert run.header["prediction"]["amounts"]["step_s"]["middle"] == pytest.approx(0.1)
    assert any(note.startswith("predicted time per step: median error") for note in project_total([run]).notes)

"""Predictions against runs on an H200: profiles and totals of their headers are in `measured_on_h200.json`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import polars
import pytest

from lightning_costs import predict
from lightning_costs.prediction.cards import find_card
from lightning_costs.prediction.efficiency import HOST_RUN_WIDTH, Measured, calibrate, table_of
from lightning_costs.prediction.workload import ACTIVE_SHARE, Workload, workload_of_run
from lightning_costs.records.step_profile import OpClass, StepProfile
from lightning_costs.run.record import RunRecord

MEASURED: dict[str, Any] = json.loads(Path(__file__).with_name("measured_on_h200.json").read_text(encoding="utf-8"))


def run_of(name: str, **changes: Any) -> RunRecord:
    kept = MEASURED[name]
    final = kept["final"] | changes
    header = {
        "run_id": name,
        "name": name,
        "status": "finished",
        "indicators": {amount: {} for amount in final},
        "setup": kept["setup"],
        "step_profile": kept["step_profile"],
    }
    return RunRecord(header=header, points=polars.DataFrame([final]))


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_a_finished_run_without_a_schedule_predicts_itself(name: str) -> None:
    run = run_of(name)
    found = predict(run)
    for amount in ("steps", "train_s", "total_s", "energy_j"):
        assert found[amount] == pytest.approx(run.final[amount], rel=2e-3), amount


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("gpt-fp32-8-fp32", "gpt-fp32-16-fp32"),
        ("gpt-fp32-8-tf32", "gpt-fp32-16-tf32"),
        ("resnet50-64-bf16-mixed", "resnet50-128-bf16-mixed"),
        ("gpt-fp32-8-fp32", "gpt-fp32-8-tf32"),
    ],
)
def test_a_measured_step_lies_in_the_interval_of_what_another_one_predicts(name: str, other: str) -> None:
    for source, target in ((name, other), (other, name)):
        truth = workload_of_run(run_of(target))
        found = predict(run_of(source), batch_size=truth.batch_size, precision=truth.precision)
        step = found.amounts["step_s"]
        assert step.low is not None
        assert step.high is not None
        assert step.low < truth.whole_step_s < step.high, (source, target)  # type: ignore[operator]
        assert math.log(step.high / step.low) < 2 * 1.29 * 0.3, "and is not absurdly wide"
        assert found["device_w"] == pytest.approx(truth.device_w, rel=0.2)


def test_priors_alone_are_near_what_was_measured() -> None:
    errors = []
    for name in MEASURED:
        load = workload_of_run(run_of(name))
        assert load.card is not None
        table = table_of(load.profile, load.card)
        errors.append(abs(math.log(calibrate([table], []).time(table).total_s / load.step_s)))  # type: ignore[operator]
    assert sorted(errors)[len(errors) // 2] < 0.12
    assert max(errors) < 0.3


def test_a_queue_set_by_the_host_is_less_certain_than_a_busy_device() -> None:
    hosts, devices = (predict(run_of(name)) for name in ("moe-16-bf16-mixed", "pointwise-16-fp32"))
    assert hosts.width >= 0.9 * HOST_RUN_WIDTH
    assert devices.width < HOST_RUN_WIDTH / 2


def test_the_work_of_multiprocessors_says_how_busy_the_device_was() -> None:
    load = workload_of_run(run_of("moe-16-bf16-mixed"))
    final = MEASURED["moe-16-bf16-mixed"]["final"]
    assert load.device_s == pytest.approx(final["sm_active_s"] / final["steps"] / ACTIVE_SHARE)
    assert load.device_s < 0.6 * load.step_s  # type: ignore[operator]
    twice = predict(run_of("moe-16-bf16-mixed"), batch_size=32)
    assert twice["step_s"] < 1.3 * load.whole_step_s  # type: ignore[operator] # launching: the device has room


def test_seconds_of_compilation_are_drawn_at_idle_power() -> None:
    plain = workload_of_run(run_of("pointwise-16-fp32"))
    final = MEASURED["pointwise-16-fp32"]["final"]
    idle_w = find_card("H200").idle_w
    assert idle_w == pytest.approx(119.0)
    longer = {name: final[name] + 20 for name in ("train_s", "total_s")}
    more_j = {name: final[name] + 20 * idle_w for name in ("gpu_energy_j", "energy_j", "train_energy_j")}
    compiled = run_of("pointwise-16-fp32", **longer, **more_j)
    assert workload_of_run(compiled).device_w == pytest.approx(plain.device_w, rel=0.01)
    assert predict(compiled)["energy_j"] == pytest.approx(compiled.final["energy_j"], rel=1e-3)


def test_one_odd_run_does_not_bend_what_others_agree_on() -> None:
    load = workload_of_run(run_of("pointwise-16-fp32"))
    assert load.card is not None
    assert load.step_s is not None
    table = table_of(load.profile, load.card)
    sane = [Measured(table, load.card, load.step_s)] * 4
    odd = Measured(table, load.card, 40 * load.step_s)
    calm = calibrate([table], sane, own=False).time(table).total_s
    bent = calibrate([table], [odd, *sane], own=False).time(table).total_s
    assert bent == pytest.approx(calm, rel=0.12)


def test_runs_of_the_same_card_are_not_taken_for_another_cards() -> None:
    same = predict(run_of("pointwise-16-fp32"), calibrate_with=[run_of("mlp-wide-2048-tf32")])
    other = predict(run_of("pointwise-16-fp32"), on="H100 SXM")
    assert same.width < 0.05 < other.width


def test_the_roof_of_a_kind_is_that_of_the_units_that_run_it() -> None:
    def seconds(kind: str, dtype: str) -> float:
        one = OpClass(phase="forward", kind=kind, dtype=dtype, calls=1, flop=1e12, access_bytes=0.0, fixed_bytes=0.0)
        return float(table_of(StepProfile(classes=(one,), samples=1), find_card("H200")).compute_s[0])

    assert seconds("product", "bfloat16") == pytest.approx(seconds("product", "tf32") / 2, rel=0.01)
    assert seconds("conv", "bfloat16") == seconds("conv", "tf32") < seconds("conv", "float32")
    assert seconds("causal", "tf32") == seconds("causal", "float32") > seconds("causal", "bfloat16")
    assert seconds("depthwise", "bfloat16") == seconds("depthwise", "float32") > seconds("conv", "float32")


def test_a_step_far_slower_than_expected_is_the_devices_if_the_host_was_seen_to_be_fast() -> None:
    classes = tuple(
        OpClass(phase=phase, kind="conv", dtype="bfloat16", calls=200, flop=2e10, access_bytes=1.2e10, fixed_bytes=0.0)
        for phase in ("forward", "backward")
    )
    step = StepProfile(classes=classes, samples=64, host_s=0.015, device="cuda")
    load = Workload(
        name="slow", profile=step, batch_size=64, params=1e6, card=find_card("H200"), step_s=0.053, device_s=0.056
    )
    assert predict(load, batch_size=32)["step_s"] == pytest.approx(0.053 / 2, rel=0.2)

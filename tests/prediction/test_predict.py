"""Predicted time, energy and money against what can be worked out by hand, and against the run that they come from."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_models import classifier, data, namespace, trainer
from predicted import CARD, FASTER, op, profile, workload
from torch import nn

from lightning_costs import CostMonitor, Recorder, Tariff, load_run, measure, predict
from lightning_costs.prediction.efficiency import ATTAINED, ATTAINED_OF_MEMORY, HOST_S, KERNEL_S
from lightning_costs.prediction.other_settings import in_precision, resized
from lightning_costs.prediction.workload import workload_of_run
from lightning_costs.probes.opcount.mode import _special
from lightning_costs.records.step_profile import StepProfile, classes_of
from lightning_costs.run.record import RunRecord


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    """A real training of two epochs with evaluation."""
    pl = namespace("lightning.pytorch")
    folder = tmp_path_factory.mktemp("costs")
    monitor = CostMonitor(save_dir=folder, monitor="val/acc", mode="max", infer=False)
    trainer(pl, monitor, default_root_dir=folder).fit(classifier(pl, optimizer="adam"), data(), data())
    assert monitor.run is not None
    return monitor.run


def test_a_run_predicts_itself(run: RunRecord) -> None:
    found = predict(run)
    for name in ("total_s", "train_s", "energy_j", "flop", "steps"):
        assert found[name] == pytest.approx(run.final[name]), name
    assert found["step_s"] == pytest.approx(run.final["steady_s"] / (run.final["steady_samples"] / 8))  # type: ignore[operator]
    most = sum(run.header["memory_at_peak"][f"{kind}_bytes"] for kind in found.memory)
    assert found["peak_mem_bytes"] == pytest.approx(most)


def test_the_header_of_a_run_keeps_its_step_by_class(run: RunRecord) -> None:
    kept = StepProfile.of(run.header["step_profile"])
    assert kept.total("flop") * run.final["batches"] == pytest.approx(run.final["flop"])  # type: ignore[operator]
    assert kept.total("access_bytes") * run.final["batches"] == pytest.approx(run.final["mem_access_bytes"])  # type: ignore[operator]
    assert {one.phase for one in kept.classes} == {"forward", "backward", "optimizer"}
    assert kept.total("flop", "backward") == pytest.approx(2 * kept.total("flop", "forward") - 2 * 8 * 16 * 32)
    assert StepProfile.of(kept.as_dict()) == kept


def test_twice_as_many_steps_of_a_run_train_twice_as_long(run: RunRecord) -> None:
    once, twice = predict(run), predict(run, steps=2 * run.final["steps"])  # type: ignore[operator]
    assert twice["train_s"] - once["train_s"] == pytest.approx(once["step_s"] * run.final["steps"])  # type: ignore[operator]
    assert twice["total_s"] - once["total_s"] > twice["train_s"] - once["train_s"]  # type: ignore[operator] # evaluation


def test_the_roofline_is_that_of_a_step_worked_out_by_hand() -> None:
    found = predict(workload(card=None), on=CARD, steps=1)
    forward = 1e12 / (1e14 * ATTAINED["product"]) + 2e9 / (1e12 * ATTAINED_OF_MEMORY) + 2 * KERNEL_S
    backward = 2e12 / (1e14 * ATTAINED["product"]) + KERNEL_S
    optimizer = 3e9 / (1e12 * ATTAINED_OF_MEMORY) + KERNEL_S
    for name, by_hand in (("forward_s", forward), ("backward_s", backward), ("optimizer_s", optimizer)):
        assert found[name] == pytest.approx(by_hand, rel=1e-6), name
    assert found["step_s"] == pytest.approx(forward + backward + optimizer, rel=1e-6)


def test_what_the_host_queues_sets_the_pace_of_a_launch_bound_step() -> None:
    small = profile(
        classes=(op("forward", "product", 1e6, 1e4, calls=1000), op("backward", "other", 0.0, 1e4, calls=500))
    )
    load = workload(profile=small, card=None)
    here, there = predict(load, on=CARD), predict(load, on=FASTER)
    host_s = 1000 * HOST_S["forward"] + 500 * HOST_S["backward"]
    assert here["step_s"] == pytest.approx(host_s, rel=0.02)
    assert there["step_s"] == pytest.approx(here["step_s"], rel=0.02)
    measured = replace(load, card=CARD, step_s=0.02, profile=replace(small, host_s=0.0199))
    assert predict(measured, on=FASTER)["step_s"] == pytest.approx(0.02, rel=0.02)
    assert "the host queues operators as fast as the measured one" in predict(measured, on=FASTER).assumptions


@settings(max_examples=20, deadline=None)
@given(
    step_s=st.floats(1e-4, 10),
    flop=st.floats(1e6, 1e14),
    nbytes=st.floats(1e3, 1e11),
    calls=st.integers(1, 5000),
    input_s=st.floats(0, 1),
    gap_s=st.floats(0, 0.1),
)
def test_whatever_was_measured_is_reproduced(
    step_s: float, flop: float, nbytes: float, calls: int, input_s: float, gap_s: float
) -> None:
    step = profile(classes=(op("forward", "product", flop, nbytes, calls=calls), op("backward", "other", 0.0, nbytes)))
    load = workload(profile=step, step_s=step_s, input_s=input_s, gap_s=gap_s)
    found = predict(load, steps=1)
    assert found["step_s"] == pytest.approx(step_s + input_s + gap_s)
    assert found.amounts["step_s"].low <= found["step_s"] <= found.amounts["step_s"].high  # type: ignore[operator]


def test_what_was_measured_narrows_the_interval_of_another_setting() -> None:
    def spread(found: Any) -> float:
        return math.log(found.amounts["step_s"].high / found.amounts["step_s"].low)

    counted = predict(workload(card=None, profile=profile(device="meta")), on=FASTER)
    measured = predict(workload(step_s=0.06), on=FASTER)
    here = predict(workload(step_s=0.06), batch_size=16)
    itself = predict(workload(step_s=0.06))
    assert spread(counted) > spread(measured) > spread(here) > spread(itself) > 0


def test_other_runs_on_the_card_calibrate_a_count() -> None:
    truth = workload(card=None, profile=profile(device="cuda"))
    likely = predict(truth, on=CARD)["step_s"]
    slow = [workload(step_s=1.3 * likely) for _ in range(6)]  # type: ignore[operator]
    found = predict(truth, on=CARD, calibrate_with=slow)
    assert found["step_s"] == pytest.approx(1.3 * likely, rel=0.08)  # type: ignore[operator]
    assert found.width < predict(truth, on=CARD).width


def test_a_larger_batch_does_not_make_weights_and_their_update_larger() -> None:
    found, twice = predict(workload(card=None), on=CARD), predict(workload(card=None), on=CARD, batch_size=16)
    assert twice["optimizer_s"] == pytest.approx(found["optimizer_s"])
    assert twice["backward_s"] == pytest.approx(2 * found["backward_s"] - KERNEL_S, rel=1e-3)  # type: ignore[operator]


def test_an_input_bound_run_is_no_faster_on_a_faster_card() -> None:
    bound = workload(step_s=0.05, input_s=0.05)
    found = predict(bound, on=FASTER, steps=10)
    assert found["step_s"] == pytest.approx(0.1)
    assert found["input_s"] > 0.05  # type: ignore[operator]
    assert any("input-bound (50 % of a step)" in said for said in found.assumptions)
    free = predict(workload(step_s=0.05, input_s=0.001), on=FASTER, steps=10)
    assert free["step_s"] < 0.04  # type: ignore[operator]
    assert free["input_s"] == pytest.approx(0.001)


def test_a_card_or_format_that_is_unknown_is_said_and_nothing_is_guessed() -> None:
    found = predict(workload(step_s=0.05), on="NVIDIA H999", steps=10)
    assert found["step_s"] is None
    assert found["cloud_usd"] is None
    assert found.missing["step_s"].startswith("no peaks of NVIDIA H999 are in the table: pass on=DevicePeak(...), or")
    assert found.missing["largest_batch_samples"] == "how much memory NVIDIA H999 has is not in the table"
    found = predict(workload(step_s=0.05), on="T4", steps=10)  # of which sources disagree
    assert found.missing["step_s"].startswith("sources disagree on the memory bandwidth of T4")
    found = predict(workload(step_s=0.05), on="V100 PCIe 16GB", steps=10)
    assert found.missing["step_s"] == "V100 PCIe 16GB has no peak for bf16 in the table"
    with pytest.raises(ValueError, match="precision must be one of fp32, tf32, "):
        predict(workload(step_s=0.05), precision="int3-true")
    unknown = workload(step_s=0.05, card=replace(CARD, name="mine", peak=None))
    assert predict(unknown)["step_s"] == pytest.approx(0.05)
    assert "its rates in fp32 were not measured" in predict(unknown, precision="fp32").missing["step_s"]


def test_operators_without_a_formula_are_named() -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.aten._cdist_forward(x, x.detach(), 2.0, None) if False else torch.cdist(x, x)

    model = nn.Sequential(nn.Linear(4, 4), Odd())
    cost = measure(model, torch.randn(6, 4), times=False)
    found = predict(cost, on="H200", steps=1)
    for name in cost.uncounted:
        assert any(name in said for said in found.assumptions)


def test_a_half_format_halves_the_products_and_leaves_the_masters() -> None:
    full = replace(profile(), classes=tuple(replace(one, dtype="float32") for one in profile().classes))
    load = workload(profile=full, precision="fp32", card=None, params=0.0)
    slow, fast = predict(load, on=CARD), predict(load, on=CARD, precision="bf16-mixed")
    assert slow["backward_s"] == pytest.approx(10 * fast["backward_s"], rel=1e-3)  # type: ignore[operator]
    assert slow["optimizer_s"] == pytest.approx(fast["optimizer_s"])
    true = predict(load, on=CARD, precision="bf16-true")
    assert true["optimizer_s"] == pytest.approx(fast["optimizer_s"] / 2, rel=1e-2)  # type: ignore[operator]


def test_autocast_adds_the_copies_that_a_count_of_it_has() -> None:
    def counted(**how: Any) -> StepProfile:
        model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 64))
        profile = measure(model, torch.randn(32, 64), times=False, **how).profile
        assert profile is not None
        return profile

    def autocast(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return model(batch)

    full, mixed, params = counted(), counted(forward=autocast), 64 * 256 * 2 + 256 * 256 + 2 * 256 + 64
    made = in_precision(full, params, "fp32", "bf16-mixed")
    for phase, share in (("forward", 0.25), ("backward", 0.35)):  # a copy counts two thirds of a call
        assert made.total("calls", phase) > full.total("calls", phase)
        assert made.total("calls", phase) == pytest.approx(mixed.total("calls", phase), rel=share)
        assert made.total("fixed_bytes", phase) == pytest.approx(mixed.total("fixed_bytes", phase), rel=0.35)
    back = in_precision(made, params, "bf16-mixed", "fp32")
    assert back.total("calls") == pytest.approx(full.total("calls"))


def test_sam_trains_twice_and_checkpointing_runs_the_forward_pass_again() -> None:
    plain = predict(workload(card=None), on=CARD)
    sam = predict(workload(card=None), on=CARD, optimizer="SAM")
    assert sam["forward_s"] == pytest.approx(2 * plain["forward_s"])  # type: ignore[operator]
    again = predict(workload(card=None), on=CARD, checkpointing=True)
    assert again["backward_s"] == pytest.approx(plain["backward_s"] + plain["forward_s"])  # type: ignore[operator]


def test_power_is_the_measured_draw_scaled_by_the_boards() -> None:
    load = workload(step_s=0.05, device_w=300.0, host_w=100.0)
    here, there = predict(load, steps=100), predict(load, on=FASTER, steps=100)
    assert here["device_w"] == pytest.approx(300.0)
    assert here["energy_j"] == pytest.approx(400.0 * here["total_s"])  # type: ignore[operator]
    assert there["device_w"] == pytest.approx(600.0, rel=0.05)
    assert predict(load, on=FASTER, steps=100, devices=8, strategy="ddp")["power_w"] == pytest.approx(4900.0, rel=0.1)


def test_money_and_carbon_are_the_tariffs() -> None:
    tariff = Tariff(usd_per_device_h=2.0, gco2e_per_kwh=100.0)
    found = predict(workload(step_s=0.05, device_w=300.0), steps=1000, devices=4, strategy="ddp", tariff=tariff)
    assert found["cloud_usd"] == pytest.approx(found["device_s"] / 3600 * 2.0)  # type: ignore[operator]
    assert found["co2e_g"] == pytest.approx(found["energy_j"] / 3.6e6 * 100.0)  # type: ignore[operator]
    listed = predict(workload(step_s=0.05), on="H200", steps=1000)
    assert listed["cloud_usd"] is not None
    assert any(said.startswith("price: ") and "2026-" in said for said in listed.assumptions)


def test_without_a_schedule_there_is_no_end() -> None:
    found = predict(workload(step_s=0.05))
    assert found["step_s"] is not None
    assert str(found).startswith("predicted, not measured: made on round, 1 device\n")
    assert "missing (how long is the training? give steps= or samples=)" in str(found)
    assert found.missing["total_s"] == "how long is the training? give steps= or samples="


def test_a_pipeline_is_stretched_by_its_closed_form() -> None:
    alone = predict(workload(card=None, params=0.0), on=CARD)
    piped = predict(workload(card=None, params=0.0), on=CARD, devices=4, strategy="pp", microbatches=8)
    stage_s = alone["backward_s"] / 4  # type: ignore[operator]
    assert piped["backward_s"] == pytest.approx(stage_s * (8 + 3) / 8, rel=0.02)
    assert any(said.startswith("1F1B: a bubble of 0.273") for said in piped.assumptions)
    adding = predict(workload(card=None), on=CARD, devices=4, strategy="pp", microbatches=8)
    added_s = 7 * 3 * 4e8 / 4 / (1e12 * ATTAINED_OF_MEMORY) * (8 + 3) / 8  # seven micro-batches add to gradients
    assert adding["backward_s"] - piped["backward_s"] == pytest.approx(added_s, rel=0.02)  # type: ignore[operator]


def test_a_run_without_a_counted_step_says_what_to_do(run: RunRecord) -> None:
    bare = replace(run, header={**run.header, "step_profile": None})
    with pytest.raises(ValueError, match=r"holds no counted step by class of operator.*record some steps of it again"):
        predict(bare)


def test_a_model_is_predicted_from_what_measure_timed_here() -> None:
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    cost = measure(model, torch.randn(8, 16), optimizer=torch.optim.Adam, budget_s=0.2)
    assert cost.step_s is not None
    found = predict(cost, steps=10)
    assert found["step_s"] == pytest.approx(cost.step_s)
    assert found.setting["optimizer"] == "adam"
    assert found.setting["on"] == "cpu"


def test_attention_on_the_meta_device_holds_no_scores() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(64, 192)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(x).view(2, 256, 3, 4, 16).permute(2, 0, 3, 1, 4)
            return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    for dtype in (torch.float32, torch.bfloat16):
        with torch.device("meta"):
            cost = measure(Attends().to(dtype), torch.zeros(2, 256, 64, dtype=dtype), samples=2, times=False)
        scores = 2 * 4 * 256 * 256 * dtype.itemsize
        assert cost.profile is not None
        assert cost.activation_bytes < scores  # type: ignore[operator]
        kinds = {one.kind for one in cost.profile.classes}
        assert "causal" in kinds


@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_lstm_on_the_meta_device_is_as_fused_as_on_another(bidirectional: bool) -> None:
    def counted(device: str) -> Any:
        with torch.device(device):
            model = nn.LSTM(16, 24, 3, batch_first=True, bidirectional=bidirectional)
            x = torch.zeros(4, 7, 16)
        return measure(model, x, samples=4, times=False, loss=lambda out, _: out[0].sum())

    meta, cpu = counted("meta"), counted("cpu")
    assert meta.flop == cpu.flop
    for cost in (meta, cpu):
        recurrent = [one for one in cost.profile.classes if one.kind == "recurrent"]
        assert sum(one.calls for one in recurrent) == 2 * 3 * 7 * (1 + bidirectional)  # there and back
    assert meta.profile.total("calls") < 2 * cpu.profile.total("calls")
    assert meta.activation_bytes >= 5 * 3 * 4 * 7 * 24 * 4 * (1 + bidirectional)  # gates and cells of all time steps


def test_a_recurrent_operator_launches_its_time_steps_and_layers_not_its_batch() -> None:
    x = torch.zeros(64, 32, 8, device="meta")
    how = {"input": x, "num_layers": 3, "batch_first": True, "bidirectional": False, "batch_sizes": []}
    operator = torch.ops.aten._cudnn_rnn.default
    assert _special(operator, "recurrent", (), how) == ("recurrent", 96)
    assert _special(operator, "recurrent", (), how | {"batch_first": False})[1] == 192
    assert _special(operator, "recurrent", (), how | {"bidirectional": True})[1] == 192
    assert _special(operator, "recurrent", (), how | {"batch_sizes": [4, 2]})[1] == 6


def test_convolutions_of_single_channels_are_a_kind_of_their_own() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 3, groups=2))
    profile = measure(model, torch.randn(2, 1, 16, 16), times=False).profile
    assert profile is not None
    flop = {kind: sum(one.flop for one in profile.classes if one.kind == kind) for kind in ("conv", "depthwise")}
    first, single, grouped = 2 * 2 * 8 * 14 * 14 * 9, 2 * 2 * 8 * 12 * 12 * 9, 2 * 2 * 8 * 10 * 10 * 9 * 4
    assert flop["depthwise"] == 3 * single
    assert flop["conv"] == 2 * first + 3 * grouped


def test_gradients_that_a_loop_drops_inside_the_step_are_gradients(tmp_path: Path) -> None:
    model = nn.Sequential(*[nn.Linear(64, 64) for _ in range(4)])
    optimizer, batch = torch.optim.AdamW(model.parameters()), torch.randn(8, 64)
    with Recorder(module=model, optimizers=[optimizer], save_dir=tmp_path) as recorder:
        for _ in range(12):
            with recorder.train_batch(batch):
                model(batch).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            recorder.step(batch)
    assert recorder.path is not None
    run = load_run(recorder.path)
    params = sum(p.nbytes for p in model.parameters())
    assert run.header["step_profile"]["memory"]["optimizer"]["grad"] == params
    small, large = predict(run), predict(run, batch_size=16)
    assert large["peak_mem_bytes"] - small["peak_mem_bytes"] < 0.1 * params  # type: ignore[operator]
    assert small["train_s"] == pytest.approx(run.final["train_s"])  # its schedule was the steps that it took


def test_blocks_between_other_layers_are_the_models_blocks() -> None:
    def blocks_of(*layers: nn.Module) -> tuple[int, float, float]:
        profile = measure(nn.Sequential(*layers), torch.randn(2, 8), times=False).profile
        assert profile is not None
        return profile.blocks, profile.block_bytes, profile.boundary_bytes

    blocks = [nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)) for _ in range(3)]
    assert blocks_of(nn.LayerNorm(8), *blocks, nn.Linear(8, 2)) == (3, 4 * (2 * 8 * 32 + 32 + 8), 2 * 8 * 4)


def test_many_classes_are_bounded_and_lose_nothing() -> None:
    totals = {
        (("forward", "other", "float32", n, n), quantity): 2.0**n if quantity != "calls" else 1.0
        for n in range(300)
        for quantity in ("calls", "flop", "access_bytes", "fixed_bytes")
    }
    classes = classes_of(totals)
    assert len(classes) <= 97
    assert sum(one.calls for one in classes) == 300


def test_a_run_knows_what_it_was_trained_in(run: RunRecord, tmp_path: Path) -> None:
    load = workload_of_run(run)
    assert (load.precision, load.optimizer, load.devices, load.batch_size) == ("fp32", "adam", 1, 8)
    assert load.card is not None
    assert load.card.name == "cpu"
    assert load.planned_steps == run.final["steps"]


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 4, 4)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True) for _ in range(2))
        self.head = nn.Linear(32, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


@pytest.mark.parametrize("factor", [0.5, 3])
def test_a_step_of_another_batch_is_what_counting_it_finds(factor: float) -> None:
    def counted(samples: int) -> StepProfile:
        cost = measure(Blocks(), torch.randn(samples, 3, 32, 32), optimizer=torch.optim.AdamW, times=False)
        assert cost.profile is not None
        return cost.profile

    resized_to, truth = resized(counted(8), factor), counted(int(8 * factor))
    assert resized_to.blocks == 2
    assert resized_to.boundary_bytes == truth.boundary_bytes
    for phase in ("forward", "backward", "optimizer"):
        assert resized_to.total("flop", phase) == pytest.approx(truth.total("flop", phase))
        assert resized_to.total("calls", phase) == truth.total("calls", phase)
        found, wanted = resized_to.total("access_bytes", phase), truth.total("access_bytes", phase)
        assert found == pytest.approx(wanted, rel=0.02), phase


def on_a_card(**changes: float) -> RunRecord:
    """A run as an H200 leaves one: 1000 steps of 8 samples in 100 s, of which the device idled a fifth."""
    final = {
        "steps": 1000.0, "batches": 1000.0, "samples": 8000.0, "devices": 1.0, "nodes": 1.0, "params": 1e8,
        "train_s": 101.0, "steady_s": 99.0, "steady_samples": 7920.0, "total_s": 140.0, "setup_s": 10.0,
        "evaluate_s": 20.0, "checkpoint_s": 5.0, "other_s": 4.0,
        "timed_s": 90.0, "idle_s": 18.0, "idle_data_s": 2.7, "h2d_device_s": 0.9,
        "energy_j": 60000.0, "gpu_energy_j": 45000.0, "train_energy_j": 50500.0, "peak_mem_bytes": 2.5e9,
    }  # fmt: skip
    final |= changes
    header: dict[str, Any] = {
        "run_id": "card",
        "indicators": {name: {} for name in final},
        "setup": {
            "device": "cuda",
            "hardware": {"device": "NVIDIA H200"},
            "precision": "bf16-mixed",
            "strategy": "SingleDeviceStrategy",
            "optimizers": [{"name": "AdamW"}],
            "max_steps": 1000,
        },
        "step_profile": profile(host_s=0.01).as_dict(),
    }
    return RunRecord(header=header, points=polars.DataFrame([final]))


def test_a_run_on_a_card_predicts_itself_and_moves_to_another_one() -> None:
    run = on_a_card()
    load = workload_of_run(run)
    assert load.step_s == pytest.approx(0.1 * (1 - 18.9 / 90))
    assert (load.input_s, load.gap_s) == (pytest.approx(0.1 * 0.03), pytest.approx(0.1 * 16.2 / 90))
    here = predict(run)
    for name in ("train_s", "total_s", "energy_j", "peak_mem_bytes"):
        assert here[name] == pytest.approx(run.final[name]), name
    assert here["device_w"] == pytest.approx(119 + (45000 * 50500 / 60000 / 101 - 119) * 101 / 100)  # but in warm-up
    there = predict(run, on="A100 SXM 80GB")
    assert there["step_s"] > here["step_s"]  # type: ignore[operator]
    assert there["peak_mem_bytes"] == pytest.approx(2.5e9)
    assert there["device_w"] < 400
    assert there.amounts["step_s"].high / there.amounts["step_s"].low < 2  # type: ignore[operator]


def test_what_a_trace_saw_of_the_device_decides_how_much_of_a_step_is_launching() -> None:
    launching, computing = on_a_card(step_idle_s=70.0), on_a_card(step_idle_s=1.0)
    for run in (launching, computing):
        classes = (op("forward", "product", 1e12, 1e9, calls=5000), op("backward", "product", 1e12, 1e9, calls=5000))
        run.header["step_profile"] |= profile(classes=classes).as_dict()
        assert predict(run)["step_s"] == pytest.approx(0.1)
    slow = [predict(run, on="L4")["step_s"] for run in (launching, computing)]
    assert slow[0] < slow[1]  # type: ignore[operator]


def test_a_strategy_that_is_not_known_is_taken_for_data_parallel_and_said() -> None:
    run = on_a_card()
    run.header["setup"]["strategy"] = "HivemindStrategy"
    assert "the run's strategy HivemindStrategy is not known: it is taken for data-parallel" in predict(run).assumptions


def test_of_compiled_code_the_allocators_peak_is_split_into_state_and_activations() -> None:
    run = on_a_card(param_bytes=4e8, opt_state_bytes=8e8, master_bytes=0.0)
    run.header["step_profile"] |= {"memory": {}, "compiled": True}
    found, twice = predict(run), predict(run, batch_size=16)
    assert found["peak_mem_bytes"] == pytest.approx(2.5e9)
    assert twice["peak_mem_bytes"] == pytest.approx(2.5e9 + (2.5e9 - 1.2e9 - 2e8))  # the casts do not grow
    assert any(said.startswith("compiled kernels ran") for said in found.assumptions)

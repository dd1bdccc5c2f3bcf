"""Predicted memory against closed forms: ZeRO's table, DDP's buckets, tensor and pipeline parallelism."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from predicted import CARD, profile, workload
from torch import nn

from lightning_costs import measure, predict
from lightning_costs.prediction.communication import parse_layout
from lightning_costs.prediction.memory import (
    CONTEXT_BYTES,
    FRAGMENTS,
    WHOLE_ACTIVATIONS,
    fits,
    largest_batch,
    peak_memory,
    zero_state_bytes,
)
from lightning_costs.prediction.workload import Workload, workload_of_model
from lightning_costs.records.missing import Missing

SAME = {"batch_size": 8, "precision": "bf16-mixed", "optimizer": "adam"}


def model_load(width: int = 256) -> Workload:
    model = nn.Sequential(*[nn.Linear(width, width) for _ in range(8)])
    return workload_of_model(measure(model, torch.zeros(4, width), optimizer=torch.optim.AdamW, times=False))


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_states_under_zero_are_those_of_the_papers_table(stage: int, ranks: int) -> None:
    load = model_load()
    params = load.params
    held = peak_memory(
        load, parse_layout(f"zero{stage}", ranks), batch_size=4, precision="fp32", optimizer="adam"
    ).by_kind
    shares = {"param": 4 * params, "grad": 4 * params, "opt_state": 8 * params}
    least = {"param": 3, "grad": 2, "opt_state": 1}
    for kind, whole in shares.items():
        share = whole / ranks if stage >= least[kind] else whole
        assert held[kind] == pytest.approx(share, rel=1e-3), kind
    analytic = zero_state_bytes(params, stage, ranks, weight=4, grad=4, k=8)
    assert sum(held[kind] for kind in shares) == pytest.approx(analytic, rel=1e-3)


@given(st.floats(1e3, 1e12), st.integers(1, 4096), st.integers(0, 3))
def test_no_stage_of_zero_holds_more_than_the_one_before(params: float, ranks: int, stage: int) -> None:
    held = [zero_state_bytes(params, n, ranks) for n in range(4)]
    assert held == sorted(held, reverse=True)
    assert held[0] == pytest.approx(16 * params)
    assert held[3] == pytest.approx(16 * params / ranks)


def test_activations_grow_with_the_batch_and_nothing_else_does() -> None:
    once = peak_memory(workload(), parse_layout("ddp", 1), **SAME)  # type: ignore[arg-type]
    thrice = peak_memory(workload(), parse_layout("ddp", 1), **SAME | {"batch_size": 24})  # type: ignore[arg-type]
    assert once.phase == "backward"
    assert once.total_bytes == pytest.approx(4e8 + 8e8 + 2e8 + 9e8 + 1.5e8)
    assert thrice.total_bytes == pytest.approx(
        4e8 + 8e8 + 2e8 + 3 * (9e8 - 2e8) + 2e8 + 1e8 + 3 * 0.5e8
    )  # 2e8 are casts


def test_two_batch_sizes_of_a_real_model_predict_each_other() -> None:
    def cost(samples: int) -> Workload:
        model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64), nn.GELU(), nn.Linear(64, 8))
        batch = torch.zeros(samples, 64)
        return workload_of_model(measure(model, batch, optimizer=torch.optim.AdamW, times=False))

    small, large = cost(64), cost(512)
    one = parse_layout("ddp", 1)
    predicted = peak_memory(small, one, batch_size=512, precision="fp32", optimizer="adam").total_bytes
    counted = peak_memory(large, one, batch_size=512, precision="fp32", optimizer="adam").total_bytes
    assert predicted == pytest.approx(counted, rel=0.03)


def test_ddp_holds_its_buckets_and_fsdp_what_it_gathers() -> None:
    one = peak_memory(workload(), parse_layout("ddp", 1), **SAME)  # type: ignore[arg-type]
    ddp = peak_memory(workload(), parse_layout("ddp", 4), **SAME)  # type: ignore[arg-type]
    assert ddp.total_bytes - one.total_bytes == pytest.approx(4e8)  # the gradients once more
    fsdp = peak_memory(workload(), parse_layout("fsdp", 4), **SAME).by_kind  # type: ignore[arg-type]
    rest, block = 4e8 - 10 * 3e7, 3e7
    assert fsdp["param"] == pytest.approx(1e8)
    assert fsdp["gathered"] == pytest.approx(rest + 2 * block + rest + block)


def test_tensor_and_pipeline_parallelism_share_weights_and_some_activations() -> None:
    tensor = peak_memory(workload(), parse_layout("tp", 4), **SAME).by_kind  # type: ignore[arg-type]
    assert tensor["param"] == pytest.approx(1e8)
    whole = tensor["activation"] / (WHOLE_ACTIVATIONS + (1 - WHOLE_ACTIVATIONS) / 4)
    assert whole == pytest.approx(9e8 - 2e8)  # casts apart
    assert tensor["casts"] == pytest.approx(2e8 / 4)
    piped = peak_memory(workload(), parse_layout("pp", 4, 16), **SAME)  # type: ignore[arg-type]
    assert piped.by_kind["grad"] == pytest.approx(1e8)
    first_stage = peak_memory(
        replace(workload(), profile=profile(resting_bytes=0)),
        parse_layout("pp", 4, 16),
        **SAME,  # type: ignore[arg-type]
    )
    assert first_stage.total_bytes < peak_memory(workload(), parse_layout("ddp", 1), **SAME).total_bytes  # type: ignore[arg-type]


def test_checkpointing_keeps_the_blocks_inputs_and_one_block() -> None:
    held = peak_memory(workload(), parse_layout("ddp", 1), checkpointing=True, **SAME).by_kind  # type: ignore[arg-type]
    assert held["activation"] == pytest.approx(10 * 2e7 + (9e8 - 2e8) / 10)
    unknown = workload(profile=profile(blocks=0))
    with pytest.raises(Missing, match="activation checkpointing needs the model's repeated blocks"):
        peak_memory(unknown, parse_layout("ddp", 1), checkpointing=True, **SAME)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("optimizer", "state_bytes"), [("sgd", 0.0), ("momentum", 4e8), ("adam", 8e8), ("SAM", 8e8 + 4e8)]
)
def test_optimizers_keep_what_they_keep(optimizer: str, state_bytes: float) -> None:
    found = predict(workload(step_s=0.1), optimizer=optimizer)
    assert found.memory["opt_state"] == pytest.approx(state_bytes)


@pytest.mark.parametrize(
    ("layers", "share"),
    [
        (lambda: [nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()], 0.5),
        (lambda: [nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU()], 0.6),
        (lambda: [nn.Conv2d(8, 8, 3, padding=1), nn.Linear(16, 16)], 0.55),
    ],
    ids=["convolutions", "products", "both"],
)
def test_autocast_halves_what_follows_convolutions_and_leaves_layer_norms(layers: Callable[[], Any], share: float):
    with torch.device("meta"):
        model = nn.Sequential(*[layer for _ in range(4) for layer in layers()])
        cost = measure(model, torch.zeros(4, 8, 16, 16), optimizer=torch.optim.SGD, times=False)
    load, alone = workload_of_model(cost), parse_layout("ddp", 1)
    full, half = (
        peak_memory(load, alone, batch_size=4, precision=precision, optimizer="sgd").by_kind["activation"]
        for precision in ("fp32", "bf16-mixed")
    )
    assert half == pytest.approx(share * full)
    back = peak_memory(replace(load, precision="bf16-mixed"), alone, batch_size=4, precision="tf32", optimizer="sgd")
    casts = 2 * load.params
    assert back.by_kind["activation"] == pytest.approx((full - casts) / share)


def test_what_fits_leaves_room_for_a_context_and_fragments() -> None:
    room = (1e10 - CONTEXT_BYTES) / (1 + FRAGMENTS)
    assert fits(room * 0.999, CARD)
    assert fits(room * 1.001, CARD) is False
    assert fits(1.0, replace(CARD, peak=None)) is None


def test_the_largest_batch_fits_and_the_next_one_does_not() -> None:
    layout = parse_layout("ddp", 1)
    how = {"precision": "bf16-mixed", "optimizer": "adam"}
    most = largest_batch(workload(), layout, CARD, **how)
    for samples, fitting in ((most, True), (most + 1, False)):
        peak = peak_memory(workload(), layout, batch_size=samples, **how)  # type: ignore[arg-type]
        assert fits(peak.total_bytes, CARD) is fitting
    with pytest.raises(Missing, match="not even one sample fits on round"):
        largest_batch(workload(profile=profile(memory={"forward": {"param": 2e10}})), layout, CARD, **how)


def test_a_seven_billion_parameter_model_needs_no_weights_to_be_predicted() -> None:
    width, depth = 4096, 4  # four of 32 layers: the whole takes seconds, and tests must not
    with torch.device("meta"):
        blocks = [nn.TransformerEncoderLayer(width, 32, 11008, batch_first=True) for _ in range(depth)]
        model = nn.Sequential(*blocks).to(torch.bfloat16)
        batch = torch.zeros(1, 512, width, dtype=torch.bfloat16)
    cost = measure(model, batch, optimizer=torch.optim.AdamW, times=False)
    found = predict(cost, on="H100 SXM", devices=8, strategy="zero3", samples=1e6)
    params = cost.params
    assert found.memory["param"] == pytest.approx(2 * params / 8)  # type: ignore[operator]
    assert found.memory["opt_state"] == pytest.approx(4 * params / 8, rel=1e-3)  # type: ignore[operator]
    assert found["cloud_usd"] is not None
    assert found.fits is True


def test_an_update_holds_a_tensor_of_the_parameters_size_on_a_gpu() -> None:
    with torch.device("meta"):
        model, batch = nn.Sequential(*[nn.Linear(256, 256) for _ in range(6)]), torch.zeros(2, 256)
    params = sum(p.nbytes for p in model.parameters())
    cost = measure(model, batch, optimizer=torch.optim.AdamW, samples=2, times=False)
    found = predict(cost, on="H200")
    assert found.memory["update"] == found.memory["grad"] == params
    shared = predict(cost, on="H200", devices=4, strategy="zero1")
    assert shared.memory["update"] == params / 4

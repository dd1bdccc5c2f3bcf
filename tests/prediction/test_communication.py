"""Volumes and seconds of communication against closed forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from predicted import CARD, FASTER, op, profile, workload

from lightning_costs import predict
from lightning_costs.prediction.communication import (
    LINK_ATTAINED,
    MESSAGE_S,
    Layout,
    exposed,
    parse_layout,
    ring_bytes,
    step_traffic,
)
from lightning_costs.prediction.efficiency import HOST_S


def sent(strategy: str, devices: int, **how: float) -> float:
    given = {"param_bytes": 1e9, "grad_bytes": 1e9, "boundary_bytes": 1e6, "blocks": 12} | how
    layout = parse_layout(strategy, devices)
    return sum(one.sent_bytes for one in step_traffic(layout, **given))  # type: ignore[arg-type]


@given(st.floats(1, 1e12), st.integers(1, 4096))
def test_a_ring_sends_twice_what_it_gathers_and_no_more_than_twice_all(nbytes: float, devices: int) -> None:
    reduced, gathered = ring_bytes(nbytes, devices, reduce=True), ring_bytes(nbytes, devices, reduce=False)
    assert reduced == pytest.approx(2 * gathered)
    assert 0 <= reduced < 2 * nbytes


@pytest.mark.parametrize("devices", [2, 4, 8])
def test_strategies_send_what_the_zero_paper_says(devices: int) -> None:
    share = (devices - 1) / devices
    assert sent("ddp", devices) == pytest.approx(2 * share * 1e9)
    assert sent("zero1", devices) == sent("zero2", devices) == pytest.approx(2 * share * 1e9)
    assert sent("fsdp", devices) == sent("zero3", devices) == pytest.approx(3 * share * 1e9)
    assert sent("ddp", 1) == 0


def test_tensor_parallelism_reduces_four_times_a_block() -> None:
    assert sent("tp", 4) == pytest.approx(4 * 12 * 2 * 3 / 4 * 1e6)


def test_layouts_are_parsed_and_divide_the_devices() -> None:
    assert parse_layout("tp4+pp2+zero1", 16) == Layout(data=2, tensor=4, pipeline=2, stage=1, microbatches=8)
    assert parse_layout("deepspeed_stage_2", 4).stage == 2
    assert parse_layout("FSDPStrategy", 4).stage == parse_layout("zero3", 4).stage == 3
    assert parse_layout("zero3", 1) == Layout()
    with pytest.raises(ValueError, match="'tp3' needs a multiple of 3 devices, got 8"):
        parse_layout("tp3", 8)


@given(st.floats(1e-4, 10), st.floats(1e6, 1e12))
def test_what_is_exposed_lies_between_its_bounds(backward_s: float, nbytes: float) -> None:
    traffic = step_traffic(parse_layout("ddp", 4), param_bytes=nbytes, grad_bytes=nbytes, boundary_bytes=0.0, blocks=1)
    found = exposed(traffic, 1e11, {"backward": backward_s})
    assert 0 <= found.least_s <= found.likely_s <= found.most_s == found.total_s
    assert found.total_s >= found.sent_bytes / (1e11 * LINK_ATTAINED) + MESSAGE_S * 0.99
    assert found.least_s >= found.total_s - backward_s - 1e-12


def test_a_link_that_is_unknown_is_asked_for() -> None:
    alone = workload(step_s=0.05)
    assert "give network_bytes_per_s=" in predict(alone, devices=16, strategy="ddp", steps=1).missing["step_s"]
    found = predict(alone, devices=16, strategy="ddp", steps=1, network_bytes_per_s=2.5e10)
    assert found["comm_bytes"] == pytest.approx(2 * 15 / 16 * 4e8)
    cpu = workload(step_s=0.05, card=CARD.__class__("cpu", None))
    assert "give link_bytes_per_s=" in predict(cpu, devices=2, strategy="ddp", steps=1).missing["step_s"]
    assert predict(cpu, devices=2, strategy="ddp", steps=1, link_bytes_per_s=1e9)["comm_bytes"] == pytest.approx(4e8)


def test_more_devices_need_fewer_steps_for_the_same_samples() -> None:
    one, eight = (predict(workload(step_s=0.05), on=FASTER, devices=n, strategy="ddp", samples=8e4) for n in (1, 8))
    assert (one["steps"], eight["steps"]) == (1e4, 1250)
    assert eight["total_s"] < one["total_s"] < 8 * eight["total_s"]  # type: ignore[operator]
    assert eight["device_s"] > one["device_s"]  # type: ignore[operator]


def test_wrappers_cost_a_host_that_can_hardly_keep_up_and_nothing_beside_a_busy_device() -> None:
    launching = profile(
        classes=(op("forward", "product", 1e6, 1e4, calls=900), op("optimizer", "other", 0.0, 1e4, calls=800))
    )
    busy = profile(classes=(op("forward", "product", 1e13, 1e9), op("optimizer", "other", 0.0, 1e9, calls=100)))
    for step, slower in ((launching, 1.3), (busy, 1.0)):
        one = workload(profile=step, card=None, params=1e6)
        alone, ddp, fsdp, zero1, zero3 = (
            predict(one, on=CARD, devices=n, strategy=how)["step_s"]
            for n, how in ((1, "ddp"), (2, "ddp"), (2, "fsdp"), (2, "zero1"), (2, "zero3"))
        )
        if slower > 1:
            assert slower * alone < ddp < fsdp  # type: ignore[operator]
            assert ddp < zero1 < zero3  # type: ignore[operator]
        else:
            assert fsdp == pytest.approx(alone, rel=0.02)


@pytest.mark.parametrize(("how", "added"), [("ddp", 1.0), ("fsdp", 2.8), ("tp", 2.8), ("zero1", 4.2), ("zero3", 20.0)])
def test_a_run_on_shared_devices_gives_its_hosts_work_back(how: str, added: float) -> None:
    """A step that the host alone bounds, measured on two devices, predicts itself, and is shorter without sharing."""
    step = profile(
        classes=(op("forward", "product", 1.0, 1.0, calls=1000), op("optimizer", "other", 0.0, 1.0, calls=500)),
        boundary_bytes=1.0,
    )
    shared = workload(profile=step, params=1.0, step_s=0.1, devices=2, layout=how)
    found = predict(shared)
    assert found["step_s"] == pytest.approx(0.1)
    calls_s = 1000 * HOST_S["forward"] + 500 * HOST_S["optimizer"]
    added_s = added * 500 * HOST_S["optimizer" if added == 2.8 else "backward"]
    alone = predict(shared, devices=1, strategy="ddp")
    assert alone["step_s"] == pytest.approx(0.1 * calls_s / (calls_s + added_s), rel=0.1)
    assert alone.amounts["step_s"].high / alone["step_s"] > found.amounts["step_s"].high / found["step_s"]

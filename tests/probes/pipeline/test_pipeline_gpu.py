"""A pipeline's passes on a CUDA device: timed by events, nothing waited for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed import pipelining

from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.pipeline.pipeline import Pipeline

pytestmark = pytest.mark.gpu
_CYCLES = 20_000_000


class Spin(torch.autograd.Function):
    """Passes its input on after the device has spun, and its gradient after twice that."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        torch.cuda._sleep(_CYCLES)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        torch.cuda._sleep(2 * _CYCLES)
        return gradient


class Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Spin.apply(self.linear(x))


@pytest.fixture
def alone() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    torch.cuda.set_device(0)
    # Stages of one rank send to themselves, which gloo cannot; what torch tells them as objects must not synchronise.
    distributed.init_process_group("cpu:gloo,cuda:nccl", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_passes_are_timed_on_the_device_and_nothing_waits_for_it() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    stages = [pipelining.PipelineStage(Stage().to(device), part, 2, device) for part in range(2)]
    schedule = pipelining.ScheduleInterleaved1F1B(stages, 4, loss_fn=nn.functional.mse_loss)
    x = torch.ones(8, 4, device=device)
    schedule.step(x, target=x)
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    torch.cuda._sleep(_CYCLES)
    ended.record()
    torch.cuda.synchronize()
    spin_s = begun.elapsed_time(ended) / 1e3
    pipeline = Pipeline(ProbeContext(device=device))
    pipeline.watch(schedule)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            schedule.step(x, target=x)
            pipeline.mark_steady(steady=True)
            torch.cuda._sleep(3 * _CYCLES)  # an update
        early = pipeline.collect()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert early is not None
    assert early.steps < 3, "the device is far behind the host"
    torch.cuda.synchronize()
    late = pipeline.collect()
    assert late is not None
    assert early.steps + late.steps == 3
    busy_s, step_s = early.busy_s + late.busy_s, early.step_s + late.step_s
    assert busy_s == pytest.approx(3 * 2 * 4 * 3 * spin_s, rel=0.05)
    assert step_s - busy_s == pytest.approx(3 * 3 * spin_s, rel=0.25)
    told = pipeline.timeline()
    assert told is not None
    assert told["clock"] == "device"
    pipeline.detach()

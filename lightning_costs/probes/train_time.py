"""How long a training step takes by itself: many of them in a row, and the host's part alone."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from lightning_costs.probes.device_peaks import wait

#: Training steps before any is timed.
_WARM_UP_STEPS = 3


def time_steps(step: Callable[[], object], device: torch.device, budget_s: float) -> tuple[float, float]:
    """Mean seconds of a step among many queued in a row, and the least that the host takes to queue one alone."""
    for _ in range(_WARM_UP_STEPS):
        step()
    wait(device)
    alone: list[float] = []
    until = time.perf_counter() + budget_s / 4
    while len(alone) < 3 or (time.perf_counter() < until and len(alone) < 20):
        began = time.perf_counter()
        step()
        alone.append(time.perf_counter() - began)
        wait(device)
    steps, began = 0, time.perf_counter()
    until = began + budget_s * 3 / 4
    while steps < 3 or time.perf_counter() < until:
        step()
        steps += 1
        if not steps % 10:  # the host must not run far ahead of what the budget allows
            wait(device)
    wait(device)
    return (time.perf_counter() - began) / steps, min(alone)

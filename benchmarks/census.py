"""What counting a step costs: the census step as a multiple of a step, amortised, and what other steps pay.

Steps with and without a census are timed in turn in one process on one thread; the ratio is that of medians. A small
vision transformer has large operators; an MLP of small ones is the worst case: the census costs per operator. What
other steps pay is the time of our hooks on a batch whose shapes are known.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn
from vit import ViT

from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.opcount.counter import StepOpCounter
from lightning_costs.probes.step_monitor import StepMonitor

STEPS = 1000
ROUNDS = 15


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vit = ViT(image=32, patch=4, hidden=96, layers=6, heads=3, ffn=192, num_classes=10)
    compare("ViT, 6 layers of width 96, batch 64", vit, torch.randn(64, 3, 32, 32))
    mlp = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    compare("MLP, 3 layers of width 128, batch 32", mlp, torch.randn(32, 64))


def compare(name: str, model: nn.Module, inputs: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    labels = torch.randint(10, (len(inputs),))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    census = StepOpCounter(model, lambda: [optimizer], torch.device("cpu"))

    def counted_step() -> None:
        with census.counting("k", len(inputs)):
            step()

    step()
    plain_s, counted_s = [], []
    for _ in range(ROUNDS):
        plain_s.append(timed(step))
        counted_s.append(timed(counted_step))
    plain, counted = statistics.median(plain_s), statistics.median(counted_s)
    hooks_s = other_step_s(model, optimizer, (inputs, labels), step)
    # A key is counted at its first step and followed once more for the memory after the first update.
    extra = 2 * (counted - plain) / (STEPS * plain)
    print(name)
    print(f"  a step {1e3 * plain:.2f} ms, a counted step {1e3 * counted:.2f} ms: {counted / plain:.2f} times")
    print(f"  two counted steps in {STEPS} add {100 * extra:.2f} %")
    print(f"  every other step pays {1e6 * hooks_s:.1f} us: {100 * hooks_s / plain:.4f} % of it")


def other_step_s(model: nn.Module, optimizer: Any, batch: Any, step: Callable[[], None]) -> float:
    setting = ProbeContext(device=torch.device("cpu"), module=model, optimizers=lambda: [optimizer])
    setting.probe(StepOpCounter)
    watch = StepMonitor(setting, time.perf_counter, every=50)
    watch.open()

    def known() -> None:
        watch.before(batch, None)
        watch.on_batch_end(batch, None)
        watch.stepped(steady=True)

    for _ in range(2):
        with watch.before(batch, None) or torch.enable_grad():
            step()
        watch.on_batch_end(batch, None)
        watch.stepped(steady=True)
    repeats = 20_000
    return statistics.median(timed(lambda: [known() for _ in range(repeats)]) / repeats for _ in range(5))


def timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

"""What counting a step costs: the census step of a small vision transformer as a multiple of a step, and amortised.

Steps with and without a census are timed in turn in one process on one thread; the ratio is that of medians. Then two
loops are timed in turn, one with the census in place whose shapes are all known, to show what other steps pay.
"""

from __future__ import annotations

import statistics
import time

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from vit import ViT

from lightning_costs.probes.census import StepCensus
from lightning_costs.probes.setting import Setting
from lightning_costs.probes.steps import StepWatch

STEPS = 1000
ROUNDS = 15


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = ViT(image=32, patch=4, hidden=96, layers=6, heads=3, ffn=192, num_classes=10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    images, labels = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    step()
    census = StepCensus(model, lambda: [optimizer], torch.device("cpu"))
    plain_s, counted_s = [], []
    for _ in range(ROUNDS):
        plain_s.append(timed(step))
        began = time.perf_counter()
        with census.counting("k", 64):
            step()
        counted_s.append(time.perf_counter() - began)
    plain, counted = statistics.median(plain_s), statistics.median(counted_s)
    print(f"a step {1e3 * plain:.1f} ms, a counted step {1e3 * counted:.1f} ms: {counted / plain:.2f} times")
    # A key is counted at its first step and followed once more for the memory after the first update.
    extra = 2 * (counted - plain) / (STEPS * plain)
    print(f"two counted steps in {STEPS} add {100 * extra:.2f} %")

    setting = Setting(device=torch.device("cpu"), module=model, optimizers=lambda: [optimizer])
    setting.probe(StepCensus)
    watch = StepWatch(setting, time.perf_counter, every=50)
    batch = (images, labels)

    def known() -> None:
        watch.before(batch, None)
        watch.after(batch, None)
        watch.stepped(steady=True)

    for _ in range(2):
        with watch.before(batch, None) or torch.enable_grad():
            step()
        watch.after(batch, None)
        watch.stepped(steady=True)
    repeats = 20_000
    hooks_s = statistics.median(timed(lambda: [known() for _ in range(repeats)]) / repeats for _ in range(5))
    print(f"every other step pays {1e6 * hooks_s:.1f} us: {100 * hooks_s / plain:.4f} % of it")


def timed(run: object) -> float:
    began = time.perf_counter()
    run()  # type: ignore[operator]
    return time.perf_counter() - began


if __name__ == "__main__":
    main()

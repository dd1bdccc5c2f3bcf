"""What the cost columns add to a row of W&B: microseconds a call of `WandbLogger.log_metrics`, headline and all.

Offline, so that no network is timed. Rounds of each kind take turns; the median over rounds of the mean call is shown,
with its quartiles. Costs come from a real run's last point, as `CostMonitor` hands them over.

    python benchmarks/wandb_rows.py [--rows 400] [--rounds 9]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from lightning.pytorch.loggers import WandbLogger
from torch import nn

from lightning_costs import Recorder
from lightning_costs.storage.loggers import columns, init_wandb_runs, logger_row


def costs_of_a_run(folder: Path) -> tuple[Recorder, Mapping[str, float | None]]:
    """A recorder whose run has ended, and its costs."""
    module = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    batch = torch.randn(8, 16)
    with Recorder(module=module, optimizers=[optimizer], save_dir=folder) as recorder:
        for _ in range(20):
            with recorder.train_batch(batch):
                module(batch).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            recorder.step(batch)
    return recorder, recorder.costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONSOLE": "off"}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        recorder, costs = costs_of_a_run(Path(folder))
        named = {
            "loss and accuracy alone": {},
            "with the headline": columns(recorder.hooks.points.declarations, headline_only=True),
            "with all": columns(recorder.hooks.points.declarations, headline_only=False),
        }
        logger = WandbLogger(project="benchmark", save_dir=folder, offline=True)
        try:
            init_wandb_runs([logger], recorder.hooks.points.declarations, recorder.header)
            took_us: dict[str, list[float]] = {kind: [] for kind in named}
            step = 0
            for _ in range(options.rounds):
                for kind, wanted in named.items():
                    began = time.perf_counter()
                    for _ in range(options.rows):
                        step += 1
                        logger.log_metrics({"train/loss": 0.5, "val/acc": 0.9, **logger_row(costs, wanted)}, step)
                    took_us[kind].append((time.perf_counter() - began) / options.rows * 1e6)
        finally:
            logger.experiment.finish()
    for kind, values in took_us.items():
        low, middle, high = statistics.quantiles(values, n=4)
        held = len(logger_row(costs, named[kind]))
        print(f"{kind:26} {held:3} costs  {middle:6.0f} us a row [{low:.0f}, {high:.0f}]")


if __name__ == "__main__":
    main()

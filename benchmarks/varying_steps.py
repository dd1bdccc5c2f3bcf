"""FLOPs of trainings whose steps vary, beside every step counted by hand, and what counting took.

Each training runs with a monitor and, from the same seed, without one and with torch's FlopCounterMode around every
step. Shown are the true FLOPs, what the monitor recorded, its 95 % interval, whether that holds the truth, steps
counted, and the seconds that counting added to the training's.

    python benchmarks/varying_steps.py [--seeds 1] [--epochs 3] [NAME ...]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import sys
import tempfile
import warnings
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import torch

from lightning_costs import CostMonitor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from varying import TRAININGS, train, true_flop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("names", nargs="*", help="parts of names")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    print(f"{'training':50}{'error %':>9}{'interval %':>12}{'held':>8}{'exact':>7}{'counted':>9}{'added %':>9}")
    all_held, all_runs = 0, 0
    for name in TRAININGS:
        if args.names and not any(part in name for part in args.names):
            continue
        rows = [_row(name, seed, args.epochs) for seed in range(args.seeds)]
        error, width, held, exact, counted, added = zip(*rows, strict=True)
        all_held, all_runs = all_held + sum(held), all_runs + len(rows)
        middle = [statistics.median(column) for column in (error, width, counted, added)]
        share = f"{sum(held)}/{len(rows)}"
        print(
            f"{name:50}{middle[0]:+9.2f}{middle[1]:12.2f}{share:>8}{sum(exact):>7}{middle[2]:9.0f}{middle[3]:9.1f}",
            flush=True,
        )
    print(f"intervals that hold the truth: {all_held} of {all_runs}")


def _row(name: str, seed: int, epochs: int) -> tuple[float, float, bool, bool, float, float]:
    truth = true_flop(name, epochs=epochs, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        monitor = CostMonitor(save_dir=folder, infer=False)
        with redirect_stderr(StringIO()):
            train(name, [monitor], epochs=epochs, seed=seed)
    run = monitor.run
    assert run is not None
    flop, header = float(run.final["flop"] or 0), run.header
    low, high = header.get("intervals", {}).get("flop", (flop, flop))
    held = low * (1 - 1e-9) <= truth <= high * (1 + 1e-9)
    train_s = float(run.final["train_s"] or 0)
    added = 100 * float(header["census"]["took_s"]) / train_s
    exact = header["methods"]["flop"].startswith("exact")
    return (
        100 * (flop / truth - 1),
        100 * (high - low) / 2 / truth,
        held,
        exact,
        header["census"]["counted_steps"],
        added,
    )


if __name__ == "__main__":
    main()

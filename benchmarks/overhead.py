"""What CostMonitor adds to a training step, beside Lightning's ThroughputMonitor and DeviceStatsMonitor.

The same small MLP is trained with each monitor in turn, round after round in one process on one thread, so that a
slow moment of the machine falls on all of them. A round's figure is its time per step minus that of the same round
without a monitor; the median over rounds is shown, with the quartiles. Beside it stands the same in CPU time of the
training thread, which other programs on the machine disturb less. The logger throws rows away, so that the monitors
are measured and not a file. Timing begins after the first steps, past those of CostMonitor that are counted and past
its first points, which it makes at a quicker pace: these are only a few here, as a training soon has them behind it.
`--first` times these instead, from the 21st step on: `--steps 4500` are about 200 points of steps of a millisecond.

    python benchmarks/overhead.py [--first] [--rounds 15] [--steps 400] [--every 1 50] [--device cuda] [--width 64]

`--rivals` starts each monitor in a process of its own, in turn, beside TraceML and trainmeter if they are installed:
both are launchers (`traceml run`, `tm --`).

A step of about 10 ms on an H100: --device cuda --width 8192 --layers 6 --batch 4096 --precision bf16-mixed --steps 150
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, DeviceStatsMonitor, ThroughputMonitor, Timer
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_costs import CostMonitor
from lightning_costs.probes.cpu_name import cpu_name
from lightning_costs.recording import emission

#: Points that CostMonitor makes at a quicker pace: so few that even a short timing shows what comes after them.
FIRST_POINTS = 4
#: Steps that nobody times: CostMonitor counts some of them.
WARMUP_STEPS = 20
#: Monitors that start a training script for themselves, and their packages.
LAUNCHERS = {"TraceML": "traceml_ai", "trainmeter": "trainmeter"}


class NoWhere(Logger):
    """A logger that keeps nothing."""

    @property
    def name(self) -> str:
        return "nowhere"

    @property
    def version(self) -> str:
        return "0"

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass


class Mlp(pl.LightningModule):
    def __init__(self, width: int, layers: int = 2) -> None:
        super().__init__()
        inner = [part for _ in range(layers - 2) for part in (nn.Linear(width, width), nn.ReLU())]
        self.net = nn.Sequential(nn.Linear(32, width), nn.ReLU(), *inner, nn.Linear(width, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class Stopwatch(Callback):
    """Seconds from the end of the warm-up to the end of training, on the clock and of this thread's CPU time."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.steps = warmup, 0
        self.began_s = self.took_s = (0.0, 0.0)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.steps += 1
        if self.steps == self.warmup:
            _wait(trainer)
            self.began_s = time.perf_counter(), time.thread_time()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        _wait(trainer)
        self.took_s = time.perf_counter() - self.began_s[0], time.thread_time() - self.began_s[1]


def _wait(trainer: Any) -> None:
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize()


def prepare(*, first: bool) -> None:
    """One thread, no words; only a few first points at any pace, unless the first ones are timed."""
    torch.set_num_threads(1)
    if not first:
        emission.POINTS_AT_ANY_PACE = emission.FIRST_POINTS = FIRST_POINTS
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning", "lightning_costs"):
        logging.getLogger(name).setLevel(logging.ERROR)


def step_us(make: Callable[[], Callback | None], every: int, args: argparse.Namespace) -> tuple[float, float]:
    warmup = WARMUP_STEPS if args.first else FIRST_POINTS * every + 60
    watch = Stopwatch(warmup)
    monitor = make()
    x = torch.randn(args.batches * args.batch, 32)
    y = torch.zeros(len(x), dtype=torch.long)
    loader: DataLoader[Any] = DataLoader(TensorDataset(x, y), args.batch)
    if args.device == "cuda":  # batches that are there already: collating thousands of rows would be all that is timed
        batches = [(x[: args.batch].cuda(), y[: args.batch].cuda())] * args.batches
        loader = DataLoader(batches, batch_size=None)
    trainer = pl.Trainer(
        accelerator="gpu" if args.device == "cuda" else "cpu",
        devices=1,
        max_steps=args.steps + warmup,
        max_epochs=-1,
        precision=args.precision,
        logger=NoWhere(),
        log_every_n_steps=every,
        callbacks=[watch] + ([monitor] if monitor is not None else []),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        trainer.fit(Mlp(args.width, args.layers), loader)
    wall_s, cpu_s = watch.took_s
    return wall_s / args.steps * 1e6, cpu_s / args.steps * 1e6


def alone_us(name: str, every: int, args: argparse.Namespace, folder: str) -> tuple[float, float]:
    """The same in a process of its own, under the launcher that the monitor may need."""
    out = Path(folder, "alone.json")
    out.unlink(missing_ok=True)
    own = ["--alone", "no monitor" if name in LAUNCHERS else name, "--every", str(every), "--out", str(out)]
    for option in ("steps", "width", "layers", "batch", "batches", "precision", "device"):
        own += [f"--{option}", str(getattr(args, option))]
    own += ["--first"] if args.first else []
    script = str(Path(__file__).resolve())
    command = [sys.executable, script, *own]
    if name == "TraceML":
        code = "from traceml_ai.launcher.cli import main; main()"
        command = [sys.executable, "-c", code, "run", script, "--args", *own]
    elif name == "trainmeter":
        command = [sys.executable, "-m", "trainmeter", "-q", "--no-web", "--", *command]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if not out.exists():
        raise SystemExit(f"{name} did not finish: {(done.stderr or done.stdout)[-800:]}")
    wall_us, cpu_us = json.loads(out.read_text())
    return wall_us, cpu_us


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", action="store_true", help="time the first points, too")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--batches", type=int, default=250, help="in an epoch")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--every", type=int, nargs="+", default=[1, 50], help="log_every_n_steps, one after the other")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rivals", action="store_true", help="each monitor in a process of its own, others' too")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    prepare(first=args.first)
    with tempfile.TemporaryDirectory() as folder:
        contenders: dict[str, Callable[[], Callback | None]] = {
            "no monitor": lambda: None,
            "an empty callback": Callback,
            "CostMonitor": lambda: CostMonitor(save_dir=folder),
            "ThroughputMonitor": lambda: ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0])),
            "DeviceStatsMonitor": lambda: DeviceStatsMonitor(cpu_stats=args.device == "cpu"),
            "Timer": lambda: Timer(duration="00:12:00:00"),
            "CostMonitor(trace=True)": lambda: CostMonitor(save_dir=folder, trace=True),
        }
        if args.alone:
            args.out.write_text(json.dumps(step_us(contenders[args.alone], args.every[0], args)))
            return
        names = [name for name in contenders if "trace" not in name]
        if args.rivals:
            names = ["no monitor", "CostMonitor", "CostMonitor(trace=True)", "ThroughputMonitor"]
            names += [name for name, module in LAUNCHERS.items() if find_spec(module) is not None]
        device = torch.cuda.get_device_name() if args.device == "cuda" else f"{cpu_name()}, one thread"
        print(f"torch {torch.__version__}, Lightning {pl.__version__}, Python {platform.python_version()}, {device}")
        for every in args.every:
            rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
            for _ in range(args.rounds):
                for name in names:
                    if args.rivals:
                        rounds[name].append(alone_us(name, every, args, folder))
                        print(f"{name}: {rounds[name][-1][0]:.0f} us a step", file=sys.stderr, flush=True)
                    else:
                        rounds[name].append(step_us(contenders[name], every, args))
            base = rounds["no monitor"]
            base_us = statistics.median(wall for wall, _ in base)
            print(f"\nlogging every {every} step(s): {base_us:.0f} us a step without a monitor")
            print(f"{'adds, us a step':24}{'median':>9}{'quartiles':>18}{'CPU median':>12}{'quartiles':>18}")
            for name, times in rounds.items():
                if name == "no monitor":
                    continue
                line = f"{name:24}"
                for clock, width in ((0, 9), (1, 12)):
                    added = [own[clock] - without[clock] for own, without in zip(times, base, strict=True)]
                    low, middle, high = statistics.quantiles(added, n=4)
                    line += f"{middle:{width}.1f}{f'{low:.1f} to {high:.1f}':>18}"
                print(line)


if __name__ == "__main__":
    main()

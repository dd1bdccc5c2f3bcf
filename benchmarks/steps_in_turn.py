"""What monitors add to a training step, of trainings in one process that take their steps in turn.

`overhead.py` trains once with each monitor, one after the other. A machine that is fast in one second and slow in the
next hides tens of microseconds from it. Here each training has a thread of its own and runs one step while the others
wait, so a step stands beside those of the same milliseconds. A figure is the mean difference from the training without
a monitor over all steps past the warm-up, those that are counted or timed or make a point among them. Its range over
rounds and the median step follow. CostMonitor paces some of its work by the time that passes, which is mostly the other
trainings' here: these paces are slowed down by their number.

    python benchmarks/steps_in_turn.py [--first] [--pairs] [--rounds 8] [--steps 4000] [--every 1 50]

`--first` times the first steps, too, from the 21st on, in which points come at any pace. Each training leaves the
processor's caches cold for the next one; with `--pairs` a monitor takes turns with the training without one alone.
"""

from __future__ import annotations

import argparse
import gc
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from itertools import product

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ThroughputMonitor
from overhead import FIRST_POINTS, WARMUP_STEPS, Mlp, NoWhere, prepare
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

from lightning_costs import CostMonitor
from lightning_costs.indicators import reader
from lightning_costs.probes import step_monitor
from lightning_costs.probes.cpu_name import cpu_name
from lightning_costs.probes.opcount import sampling
from lightning_costs.recording import emission
from lightning_costs.storage.run_folder import files

BATCH, BATCHES = 8, 250


class Turns:
    """One of several threads runs; the others wait."""

    def __init__(self, n: int) -> None:
        self._may_run = [threading.Semaphore(0) for _ in range(n)]
        self._done = [False] * n
        self._may_run[0].release()

    def begin(self, place: int) -> None:
        self._may_run[place].acquire()

    def hand_over(self, place: int, *, done: bool = False) -> None:
        """The next one runs; unless this one is done it waits for its turn."""
        self._done[place] = done
        n = len(self._done)
        others = [after % n for after in range(place + 1, place + n + 1) if not self._done[after % n]]
        if others:
            self._may_run[others[0]].release()
        if not done:
            self._may_run[place].acquire()


class OneStepEach(BatchSampler):
    """Hands over before each batch, and keeps how long each turn took."""

    def __init__(self, turns: Turns, place: int, samples: int) -> None:
        super().__init__(SequentialSampler(range(samples)), BATCH, drop_last=False)
        self._turns, self._place = turns, place
        self._began_s = 0.0
        self.took_s: list[float] = []

    def __iter__(self) -> Iterator[list[int]]:
        for batch in super().__iter__():
            if self._began_s:
                self.took_s.append(time.perf_counter() - self._began_s)
            self._turns.hand_over(self._place)
            self._began_s = time.perf_counter()
            yield batch


def take_turns(make: dict[str, Callable[[], Callback | None]], steps: int, every: int) -> dict[str, list[float]]:
    """Seconds of each step, by monitor."""
    turns, times = Turns(len(make)), {}

    def train(place: int, name: str) -> None:
        turns.begin(place)
        try:
            data = TensorDataset(torch.randn(BATCH * BATCHES, 32), torch.zeros(BATCH * BATCHES, dtype=torch.long))
            sampler = OneStepEach(turns, place, len(data))
            loader: DataLoader[tuple[Tensor, ...]] = DataLoader(data, batch_sampler=sampler)
            times[name] = sampler.took_s
            monitor = make[name]()
            trainer = pl.Trainer(
                accelerator="cpu",
                devices=1,
                max_steps=steps,
                max_epochs=-1,
                logger=NoWhere(),
                log_every_n_steps=every,
                callbacks=[monitor] if monitor is not None else [],
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            trainer.fit(Mlp(64), loader)
        finally:
            turns.hand_over(place, done=True)

    # All of them make the garbage of one process: no process with one of them collects all of it in its first steps.
    gc.collect()
    gc.freeze()
    threads = [threading.Thread(target=train, args=it) for it in enumerate(make)]
    with redirect_stderr(StringIO()):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", action="store_true", help="time the first points, too")
    parser.add_argument("--pairs", action="store_true", help="each monitor in turn with no monitor alone")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--every", type=int, nargs="+", default=[1, 50], help="log_every_n_steps, one after the other")
    args = parser.parse_args()
    prepare(first=args.first)
    print(f"torch {torch.__version__}, Lightning {pl.__version__}, Python {platform.python_version()}, {cpu_name()}")
    with tempfile.TemporaryDirectory() as folder:
        make: dict[str, Callable[[], Callback | None]] = {
            "no monitor": lambda: None,
            "an empty callback": Callback,
            "CostMonitor": lambda: CostMonitor(save_dir=folder),
            "ThroughputMonitor": lambda: ThroughputMonitor(batch_size_fn=lambda batch: len(batch[0])),
        }
        monitors = [name for name in make if name != "no monitor"]
        groups = [["no monitor", name] for name in monitors] if args.pairs else [list(make)]
        for module, shares, seconds in (
            (emission, ("SHARE_OF_FIRST_POINTS", "SHARE_OF_POINTS"), ("MOST_APART_S", "MIN_READ_INTERVAL_S")),
            (reader, (), ("MIN_READ_INTERVAL_S", "MAX_READ_INTERVAL_S")),
            (files, (), ("FLUSH_EVERY_S",)),
            (sampling, ("FIRST_SHARE", "SHARE"), ("FIRST_S",)),
            (step_monitor, (), ("LEAST_WATCHED_APART_S",)),
        ):
            paces: dict[str, float] = vars(module)
            paces.update({name: paces[name] / len(groups[0]) for name in shares})
            paces.update({name: paces[name] * len(groups[0]) for name in seconds})
        for every in args.every:
            skipped = WARMUP_STEPS if args.first else FIRST_POINTS * every + 60
            means: dict[str, list[float]] = {name: [] for name in make}
            steps: dict[str, list[float]] = {name: [] for name in make}
            for r, group in product(range(args.rounds), groups):
                order = group[r % len(group) :] + group[: r % len(group)]  # who comes first in the memory
                times = take_turns({name: make[name] for name in order}, args.steps + skipped, every)
                for name, took_s in times.items():
                    pairs = zip(took_s[skipped:], times["no monitor"][skipped:], strict=True)
                    added = [1e6 * (own - without) for own, without in pairs]
                    means[name].append(statistics.fmean(added))
                    steps[name].extend(added if name != "no monitor" else [1e6 * each for each in took_s[skipped:]])
            print(f"\nlogging every {every} step(s): {statistics.median(steps['no monitor']):.0f} us a step")
            print(f"{'adds, us a step':24}{'mean':>8}{'of rounds':>18}{'median step':>14}")
            for name in monitors:
                between = f"{min(means[name]):.0f} to {max(means[name]):.0f}"
                middle = statistics.median(steps[name])
                print(f"{name:24}{statistics.fmean(means[name]):8.0f}{between:>18}{middle:14.0f}")


if __name__ == "__main__":
    main()

"""Time inside CostMonitor's hooks, step by step of a real training, without Lightning's own code that they call.

Every entry of ours (shadows of Lightning's methods, optimizer hooks, the callback's hooks) is timed; what runs in
between belongs to whoever runs it. What the timing itself takes is measured in the same steps, by entries that do
nothing and by entries that only call such a one, and taken off. The median over steps that emit nothing, and over steps
that emit a point, is shown with the quartiles.

    python benchmarks/hooks.py [--steps 3000] [--every 50] [--others 1]
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from overhead import Mlp, NoWhere
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_costs import CostMonitor
from lightning_costs.integrations.lightning.step_patches import StepPatches
from lightning_costs.patching.patches import Patches

OURS, THEIRS, NOTHING, CALLS_NOTHING, CALLED = KINDS = "ours", "theirs", "nothing", "calls nothing", "called"


class Meter:
    """Exclusive time of nested calls, by kind, and how many entries there were."""

    def __init__(self) -> None:
        self.stack: list[list[float]] = []
        self.spent_s = dict.fromkeys(KINDS, 0.0)
        self.entries = dict.fromkeys(KINDS, 0)

    def timed(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.stack.append([0.0])
            began_s = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took_s = time.perf_counter() - began_s
                (inner_s,) = self.stack.pop()
                self.spent_s[kind] += took_s - inner_s
                self.entries[kind] += 1
                if self.stack:
                    self.stack[-1][0] += took_s

        return run

    def take(self) -> tuple[float, float]:
        """Microseconds inside our hooks, and of one empty entry, since the last call; then forget."""
        empty_s, calls_s = (self.spent_s[kind] / max(1, self.entries[kind]) for kind in (NOTHING, CALLS_NOTHING))
        ours_s = self.spent_s[OURS] - empty_s * self.entries[OURS] - (calls_s - empty_s) * self.entries[THEIRS]
        self.spent_s, self.entries = dict.fromkeys(self.spent_s, 0.0), dict.fromkeys(self.entries, 0)
        return 1e6 * ours_s, 1e6 * empty_s


def instrument(meter: Meter) -> None:
    put, hook_optimizers = Patches.wrap, StepPatches.hook_optimizers

    def timed_put(self: Patches, owner: Any, name: str, wrap: Callable[..., Any], *, hot: bool = False) -> None:
        def timed_wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            return meter.timed(OURS, wrap(meter.timed(THEIRS, original)))

        put(self, owner, name, timed_wrap, hot=hot)

    def timed_hooks(self: StepPatches) -> None:
        hook_optimizers(self)
        for optimizer in self._trainer.strategy.optimizers:
            hooks = optimizer._optimizer_step_post_hooks
            for key, hook in list(hooks.items()):
                hooks[key] = meter.timed(OURS, hook)

    Patches.wrap, StepPatches.hook_optimizers = timed_put, timed_hooks  # type: ignore[method-assign]
    CostMonitor.on_train_batch_end = meter.timed(OURS, CostMonitor.on_train_batch_end)  # type: ignore[method-assign]


class Reader:
    """Reads the meter at the end of every batch."""

    def __init__(self, meter: Meter, every: int) -> None:
        self.meter, self.every, self.steps = meter, every, 0
        self.quiet: list[float] = []
        self.emitting: list[float] = []
        self.empty: list[float] = []

    def read(self) -> None:
        ours_us, empty_us = self.meter.take()
        self.steps += 1
        if self.steps > 100:
            (self.quiet if self.steps % self.every else self.emitting).append(ours_us)
            self.empty.append(empty_us)


class Bystander(Callback):
    """Somebody else's callback, whose time is booked as its own."""

    def on_train_batch_end(self, *_: Any) -> None:
        pass


class Marked(Mlp):
    """Makes empty entries where ours are made, amid the step, with other code in the caches; its end is read last."""

    def __init__(self, meter: Meter, reader: Reader) -> None:
        super().__init__(64)
        self.nothing = meter.timed(NOTHING, lambda: None)
        called = meter.timed(CALLED, lambda *args, **kwargs: None)
        self.calls_nothing = meter.timed(CALLS_NOTHING, lambda *args, **kwargs: called(*args, **kwargs))
        self.reader = reader

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.nothing()
        self.calls_nothing(batch, batch_idx)
        return super().training_step(batch, batch_idx)

    def on_train_batch_end(self, *args: Any) -> None:
        self.nothing()
        self.calls_nothing(*args)
        self.reader.read()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.nothing()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--others", type=int, default=0, help="callbacks beside ours that have a hook of every batch")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning", "lightning_costs"):
        logging.getLogger(name).setLevel(logging.ERROR)
    meter = Meter()
    instrument(meter)
    reader = Reader(meter, args.every)
    loader = DataLoader(TensorDataset(torch.randn(2000, 32), torch.zeros(2000, dtype=torch.long)), 8)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=args.steps + 100,
            max_epochs=-1,
            logger=NoWhere(),
            log_every_n_steps=args.every,
            callbacks=[CostMonitor(save_dir=folder, infer=False), *[Bystander() for _ in range(args.others)]],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Marked(meter, reader), loader)
    print(f"an empty entry (taken off): {statistics.median(reader.empty):.2f} us")
    for name, times in (("a step that emits nothing", reader.quiet), ("a step that emits a point", reader.emitting)):
        if len(times) > 3:
            low, middle, high = statistics.quantiles(times, n=4)
            print(f"{name}: {middle:.1f} us inside our hooks (quartiles {low:.1f} to {high:.1f}, {len(times)} steps)")


if __name__ == "__main__":
    main()

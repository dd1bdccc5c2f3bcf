"""On a CUDA device: callbacks in whose hooks the host waits for the device do not make training look faster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_models import namespace, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_costs import CostMonitor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),
]
pl = namespace("lightning.pytorch")
FIRST, LAST = 40, 240


class Busy(pl.LightningModule):
    """About ten milliseconds of the device a step, a fraction of one of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*[nn.Linear(2048, 2048, bias=False) for _ in range(6)])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.net(batch[0]).square().mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)

    def train_dataloader(self) -> Any:
        return DataLoader([(torch.randn(8192, 2048),)] * 1000, batch_size=None)


class Stopwatch(pl.Callback):
    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step in (FIRST, LAST):
            torch.cuda.synchronize()
            setattr(self, f"at_{trainer.global_step}", time.perf_counter())

    @property
    def took_s(self) -> float:
        return getattr(self, f"at_{LAST}") - getattr(self, f"at_{FIRST}")


class Waits(pl.Callback):
    """As ThroughputMonitor, GPU statistics and many a logger do."""

    def on_train_batch_end(self, *args: Any) -> None:
        torch.cuda.synchronize()


class Sleeps(pl.Callback):
    """The device has nothing to do meanwhile."""

    def on_train_batch_end(self, *args: Any) -> None:
        torch.cuda.synchronize()
        time.sleep(0.02)


@pytest.mark.parametrize("others", [[], [Waits], ["bar"]], ids=["alone", "waiting hook", "progress bar"])
def test_waiting_for_the_device_in_a_hook_is_training_time(tmp_path: Path, others: list[Any]) -> None:
    watch, monitor = Stopwatch(), CostMonitor(save_dir=tmp_path, infer=False)
    bar = "bar" in others
    callbacks = [watch, *(kind() for kind in others if kind != "bar"), monitor]
    callbacks += [pl.callbacks.TQDMProgressBar()] if bar else []
    trainer(
        pl,
        *callbacks,
        accelerator="gpu",
        max_steps=LAST + 10,
        max_epochs=-1,
        log_every_n_steps=10,
        enable_progress_bar=bar,
    ).fit(Busy())
    points = monitor.run.points
    first, last = (points.filter(points["steps"] == n).row(0, named=True) for n in (FIRST, LAST))
    train_s, idle_s = (last[name] - first[name] for name in ("train_s", "idle_s"))
    print(f"{others}: stopwatch {watch.took_s:.3f} s, train_s {train_s:.3f}, idle_s {idle_s:.3f}, steps by events "
          f"{1e3 * last['step_p50_s']:.2f} ms, by rates {1e3 * 8192 / last['samples_per_s']:.2f} ms")  # fmt: skip
    assert watch.took_s - idle_s - 0.05 * watch.took_s <= train_s <= 1.02 * watch.took_s
    assert 8192 / last["samples_per_s"] == pytest.approx(last["step_p50_s"], rel=0.08)


def test_a_hook_in_which_the_device_idles_is_other_time(tmp_path: Path) -> None:
    watch, monitor = Stopwatch(), CostMonitor(save_dir=tmp_path, infer=False)
    trainer(
        pl, watch, Sleeps(), monitor, accelerator="gpu", max_steps=LAST + 10, max_epochs=-1, log_every_n_steps=10
    ).fit(Busy())
    points = monitor.run.points
    first, last = (points.filter(points["steps"] == n).row(0, named=True) for n in (FIRST, LAST))
    slept_s = 0.02 * (LAST - FIRST)
    other_s, train_s = (last[name] - first[name] for name in ("other_s", "train_s"))
    print(f"slept {slept_s:.2f} s, other_s {other_s:.2f}; stopwatch {watch.took_s:.2f}, train_s {train_s:.2f}")
    assert other_s == pytest.approx(slept_s, rel=0.15)
    assert train_s + other_s == pytest.approx(watch.took_s, rel=0.05)

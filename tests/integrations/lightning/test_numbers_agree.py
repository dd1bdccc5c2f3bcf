"""Whatever a Trainer is asked to do, the numbers of its run agree with each other at every point."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from consistency import agree, disagreements
from lightning_models import Stream, classifier, data, namespace, trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_costs import CostBudget, CostMonitor, load_runs

pl = namespace("lightning.pytorch")
TARIFF = {
    "country": "FRA",
    "usd_per_device_h": 2.5,
    "usd_per_kwh": 0.2,
    "wue_l_per_kwh": 1.8,
    "embodied_kg_per_device": 100.0,
    "lifetime_years": 4.0,
}


class Sleeps(pl.Callback):  # type: ignore[name-defined,misc]
    def on_train_batch_start(self, *args: Any) -> None:
        time.sleep(0.001)

    def on_train_batch_end(self, *args: Any) -> None:
        time.sleep(0.002)

    def on_validation_batch_end(self, *args: Any) -> None:
        time.sleep(0.001)


class Raises(pl.Callback):  # type: ignore[name-defined,misc]
    def __init__(self, error: type[BaseException], step: int = 11) -> None:
        self.error, self.step = error, step

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step >= self.step:
            raise self.error


class Adversarial(pl.LightningModule):  # type: ignore[name-defined,misc]
    """Two optimizers by hand, one of which steps in every other batch."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(16, 16), nn.Linear(16, 1)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for number, optimizer in enumerate(self.optimizers()):
            if number and batch_idx % 2:
                continue
            optimizer.zero_grad()
            self.manual_backward(self.other(self.one(batch[0])).mean())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.one.parameters()), torch.optim.SGD(self.other.parameters(), lr=0.1)]


class Varying(pl.LightningModule):  # type: ignore[name-defined,misc]
    """Steps of several depths, and of work that shows in nothing but the counts."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.head, self.draws = nn.Linear(16, 16), nn.Linear(16, 16), random.Random(4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0]
        for _ in range(self.draws.randrange(4)):
            x = self.net(x)
        with torch.no_grad():
            batch[0][: self.draws.randrange(1, 9)] @ self.head.weight
        return self.head(x).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters())


class Slow(Dataset[tuple[Tensor, int]]):
    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        time.sleep(0.001)
        return torch.randn(16), index % 4


def saves(tmp_path: Path) -> Any:
    return pl.callbacks.ModelCheckpoint(tmp_path / "saved", every_n_train_steps=3, save_top_k=-1, save_last=True)


def options(*callbacks: Any, **more: Any) -> Callable[[Path], tuple[list[Any], dict[str, Any]]]:
    return lambda tmp_path: ([make(tmp_path) if make is saves else make for make in callbacks], more)


CASES: dict[str, Callable[[Path], tuple[list[Any], dict[str, Any]]]] = {
    "one_step": options(max_steps=1),
    "evaluation_in_mid_epoch": options(val_check_interval=3, accumulate_grad_batches=2, max_epochs=3),
    "accumulation": options(accumulate_grad_batches=3, val=None),
    "checkpoints": options(saves, enable_checkpointing=True, max_epochs=4),
    "two_optimizers_by_hand": options(model=Adversarial, val=None, max_epochs=4),
    "sam": options(model=lambda: classifier(pl, optimizer="sam"), max_epochs=3),
    "steps_that_vary": options(model=Varying, max_epochs=12, val=None),
    "slow_loader": options(train=lambda: DataLoader(Slow(), 8), max_epochs=3),
    "stream": options(train=lambda: DataLoader(Stream(), 8), max_epochs=3),
    "callbacks_that_sleep": options(Sleeps(), max_epochs=2),
    "trace_windows": options(model=lambda: classifier(pl, train_s=0.001), monitor={"trace": True}, max_epochs=10),
    "no_counting": options(monitor={"count": "off"}),
    "every_step": options(log_every_n_steps=1, max_epochs=4),
    "no_train_points": options(monitor={"log_every_n_steps": 0}, max_epochs=4),
    "failure": options(Raises(ValueError), saves, enable_checkpointing=True, max_epochs=4),
    "interruption": options(Raises(KeyboardInterrupt), max_epochs=4),
    "budget": options(CostBudget({"train_s": 0.1}), saves, enable_checkpointing=True, max_epochs=500),
}


def fit(tmp_path: Path, callbacks: list[Any], resumed: Path | None = None, **more: Any) -> CostMonitor:
    monitor = CostMonitor(save_dir=tmp_path / "costs", tariff=TARIFF, **{"infer": False, **more.pop("monitor", {})})
    model, train = more.pop("model", lambda: classifier(pl))(), more.pop("train", data)()
    val = more.pop("val", data)
    try:
        trainer(pl, monitor, *callbacks, default_root_dir=tmp_path, **more).fit(
            model, train, val and val(), ckpt_path=resumed
        )
    except (ValueError, SystemExit):
        assert any(isinstance(callback, Raises) for callback in callbacks)
    return monitor


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_of_a_run_agree(tmp_path: Path, case: str) -> None:
    callbacks, more = CASES[case](tmp_path)
    monitor = fit(tmp_path, callbacks, **more)
    (run,) = load_runs(tmp_path / "costs")
    agree(run, live=monitor.recorder.costs if monitor.recorder is not None else None)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint", "ignore:Be aware that when using `ckpt_path`")
def test_the_numbers_of_attempts_agree_whichever_checkpoint_each_resumes(tmp_path: Path) -> None:
    more = {"enable_checkpointing": True, "max_epochs": 4}
    fit(tmp_path, [saves(tmp_path), Raises(ValueError, 11)], **more)
    fit(tmp_path, [saves(tmp_path), Raises(ValueError, 19)], resumed=tmp_path / "saved" / "last.ckpt", **more)
    fit(tmp_path, [], resumed=next((tmp_path / "saved").glob("*step=3.ckpt")), val=None, **more)
    (run,) = load_runs(tmp_path / "costs")
    assert len(run.header["attempts"]) == 3
    assert run.final["lost_s"]
    agree(run)


def test_a_relation_that_does_not_hold_is_found(tmp_path: Path) -> None:
    fit(tmp_path, [], max_epochs=1)
    (run,) = load_runs(tmp_path / "costs")
    assert disagreements(run) == []
    wrong = run.points.with_columns(steady_s=run.points["train_s"] + 1.0, total_s=run.points["total_s"] * 2)
    found = "\n".join(disagreements(type(run)(header=run.header, points=wrong)))
    for name in ("steady_s is", "total_s is", "samples_per_s is", "buckets of goodput"):
        assert name in found

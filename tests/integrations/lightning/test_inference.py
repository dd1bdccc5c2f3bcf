"""Inference after a real fit: nothing of the user's learns of it, and the next fit of the process trains the same."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torchmetrics
from fakes import FakeClock
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_costs import CostMonitor, measure


class Stateful(pl.LightningModule):
    """Counts, remembers, measures, logs and draws from every generator in its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 1)
        self.norm = nn.BatchNorm1d(4)
        self.calls, self.history, self.seen = 0, [], torchmetrics.MeanMetric()
        self.steps_seen: set[int] = set()
        self.hooked: list[str] = []
        self.a.register_forward_hook(self._note)

    def _note(self, *_: Any) -> None:
        self.hooked.append("a")

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        skip = random.random() < 0.5
        y = self.b(self.norm(self.a(x)) if skip else x) * np.random.rand() + np.random.normal() + torch.rand(1)
        self.seen.update(y.detach().mean())
        self.history.append(y.detach())
        self.steps_seen.add(self.trainer.global_step)
        self.log("forward/mean", y.mean())
        self.print("forward", self.calls)
        print("called", self.calls)
        return y

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self(batch).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(module: pl.LightningModule, *callbacks: Any) -> pl.Trainer:
    made = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    made.fit(module, DataLoader(torch.linspace(-1, 1, 160).reshape(40, 4), batch_size=4))
    return made


def told(module: Stateful) -> Any:
    return (
        {name: tensor.tolist() for name, tensor in module.state_dict().items()},
        module.calls,
        [y.tolist() for y in module.history],
        (str(module.seen.compute()), module.seen._update_count),
        module.steps_seen,
        module.hooked,
        [part.training for part in module.modules()],
        sorted(vars(module)),
    )


@pytest.mark.filterwarnings("ignore:.*compute.*method of metric:UserWarning")
def test_two_fits_of_a_process_are_the_same_to_the_bit_with_and_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ticking: FakeClock
) -> None:
    def both(measured: bool) -> list[Any]:
        pl.seed_everything(0)
        found: list[Any] = []
        for fold in range(2):
            module = Stateful()
            made = fitted(module, *([CostMonitor(save_dir=tmp_path / str(fold))] if measured else []))
            found += [told(module), random.random(), np.random.normal(), torch.rand(1).item()]
            logged = {name: float(value) for name, value in made.callback_metrics.items() if "cost/" not in name}
            out = capsys.readouterr().out
            found += [logged, [line for line in out.splitlines() if line.startswith(("called", "forward"))]]
            if measured:
                (monitor,) = (c for c in made.callbacks if isinstance(c, CostMonitor))
                assert monitor.run is not None
                assert monitor.run.header["inference"]["passes"] > 3
        return found

    plain = both(measured=False)
    assert plain[0][1] == 10
    assert both(measured=True) == plain


def test_a_forward_pass_that_needs_more_than_numbers_of_its_trainer_is_missing_with_the_reason(tmp_path: Path) -> None:
    class Needs(Stateful):
        def forward(self, x: Tensor) -> Tensor:
            self.trainer.strategy.barrier()
            return self.a(x)

    module, monitor = Needs(), CostMonitor(save_dir=tmp_path)
    fitted(module, monitor)
    assert monitor.run is not None
    assert monitor.run.header["missing"]["infer_latency_p50_s"] == (
        "the forward pass uses Trainer.strategy, which is no part of the model and has no copy to try it on"
    )


def test_the_parent_of_the_network_that_is_repeated_is_left_alone(tmp_path: Path, ticking: FakeClock) -> None:
    class Net(nn.Module):
        def __init__(self, parent: Any) -> None:
            super().__init__()
            self.linear, self.tell = nn.Linear(4, 1), parent.heard

        def forward(self, x: Tensor) -> Tensor:
            self.tell()
            return self.linear(x)

    class Parent(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.calls, self.seen = 0, torchmetrics.SumMetric()
            self.net = Net(self)

        def heard(self) -> None:
            self.calls += 1
            self.seen.update(1.0)
            self.log("heard", float(self.calls))

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return self.net(batch).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    module, monitor = Parent(), CostMonitor(save_dir=tmp_path)
    fitted(module, monitor)
    assert (module.calls, float(module.seen.compute())) == (10, 10.0)
    assert monitor.run is not None
    assert monitor.run.header["inference"]["passes"] > 3


@pytest.mark.filterwarnings("ignore:.*compute.*method of metric:UserWarning")
def test_measuring_before_training_leaves_the_model_as_it_was_too() -> None:
    class Alone(Stateful):
        @property
        def trainer(self) -> Any:
            return type("Numbers", (), {"global_step": 0})

        @trainer.setter
        def trainer(self, _: Any) -> None: ...

    module, x = Alone(), torch.linspace(-1, 1, 16).reshape(4, 4)
    module.a.weight.grad = torch.ones(4, 4)
    draws = (random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist())
    before = told(module)
    cost = measure(module, x, budget_s=0.1)
    assert cost.flop is not None
    assert told(module) == before
    assert (random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()) == draws
    assert torch.equal(module.a.weight.grad, torch.ones(4, 4))
    assert module.b.weight.grad is None
    assert x.grad is None


def test_a_loss_that_holds_the_model_is_measured_on_the_copy() -> None:
    model = nn.Linear(3, 2)
    model.calls = 0

    def loss(output: Tensor, batch: Tensor) -> Tensor:
        model.calls += 1
        return output.mul_(model.weight.sum()).sum()

    cost = measure(model, torch.zeros(4, 3), loss=loss, times=False)
    assert cost.flop is not None
    assert model.calls == 0
    assert model.weight.grad is None

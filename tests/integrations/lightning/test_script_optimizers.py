"""Optimizers that a module makes and steps for itself: Lightning was not given them."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from lightning_models import NAMESPACES, data, namespace, trainer
from torch import Tensor, nn

from lightning_costs import CostMonitor

STEPS = 24
GLOBAL_HOOKS = sys.modules[torch.optim.Optimizer.__module__]._global_optimizer_pre_hooks  # type: ignore[attr-defined]


def module(pl: Any, kind: str) -> Any:
    class Own(pl.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.net, self.head = nn.Linear(16, 8), nn.Linear(8, 4)
            self.own: Any = None
            self.made: list[Any] = []

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.net.parameters(), lr=0.01) if kind == "beside" else None

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            x, y = batch
            if self.own is None or kind == "each step":
                self.own = torch.optim.Adam(self.head.parameters() if kind == "beside" else self.parameters(), lr=0.01)
                self.made.append(ref(self.own))
            given = self.optimizers() if kind == "beside" else None
            attack = torch.zeros_like(x, requires_grad=True)
            attacker = torch.optim.SGD([attack], lr=0.1)
            self.loss(x + attack, y).backward()
            attacker.step()  # of an input: no update of what is trained
            self.zero_grad()
            self.manual_backward(self.loss(x + attack.detach(), y))
            if batch_idx % 2 == 0:
                self.own.step()
            if given is not None and batch_idx % 3 == 0:
                given.step()

        def loss(self, x: Tensor, y: Tensor) -> Tensor:
            return nn.functional.cross_entropy(self.head(torch.relu(self.net(x))), y)

    torch.manual_seed(0)
    return Own()


def fit(pl: Any, kind: str, *callbacks: Any) -> Any:
    own = module(pl, kind)
    trainer(pl, *callbacks, max_epochs=1).fit(own, data(STEPS * 8))
    return own


@pytest.mark.filterwarnings("ignore:.*configure_optimizers.*")
@pytest.mark.parametrize("kind", ["alone", "each step", "beside"])
@pytest.mark.parametrize("name", NAMESPACES)
def test_their_steps_count_and_their_state_is_seen(name: str, kind: str, tmp_path: Path) -> None:
    pl = namespace(name)
    plain, hooks = fit(pl, kind), dict(GLOBAL_HOOKS)
    monitor = CostMonitor(save_dir=tmp_path, infer=False, log="none", log_every_n_steps=4)
    own = fit(pl, kind, monitor)
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), plain.parameters(), strict=True))
    assert dict(GLOBAL_HOOKS) == hooks, "nothing is left"
    assert not own.own._optimizer_step_post_hooks
    assert monitor.run is not None
    costs, header = monitor.run.final, monitor.run.header
    by_own, by_given = STEPS // 2, STEPS // 3 if kind == "beside" else 0
    both = len(range(0, STEPS, 6)) if kind == "beside" else 0
    assert costs["optimizer_steps"] == by_own + by_given
    assert costs["steps"] == by_own + by_given - both
    assert costs["optimizer_s"] > 0
    owned = own.head.parameters() if kind == "beside" else own.parameters()
    if kind != "each step":  # whose state is gone with each
        assert costs["opt_state_bytes"] == sum(2 * 4 * one.numel() + 4 for one in owned)
        assert [each["name"] for each in header["setup"]["optimizers"]][-1:] != ["_MockOptimizer"]
    gc.collect()
    assert sum(there() is not None for there in own.made) == 1, "those that the script let go are gone"


@pytest.mark.filterwarnings("ignore:.*configure_optimizers.*")
def test_an_optimizer_that_owns_another_is_one(tmp_path: Path) -> None:
    pl = namespace(NAMESPACES[0])

    class Twice(torch.optim.Optimizer):
        """Steps the optimizer that it owns twice."""

        def __init__(self, base: torch.optim.Optimizer) -> None:
            self.base = base
            super().__init__(base.param_groups, {})

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            self.base.step()
            self.base.step()

    class Own(module(pl, "alone").__class__):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.own = self.own or Twice(torch.optim.SGD(self.parameters(), lr=0.01))
            self.zero_grad()
            self.manual_backward(self.loss(*batch))
            self.own.step()

    monitor = CostMonitor(save_dir=tmp_path, infer=False, log="none")
    trainer(pl, monitor, max_epochs=1).fit(Own(), data(STEPS * 8))
    assert monitor.run is not None
    assert monitor.run.final["optimizer_steps"] == monitor.run.final["steps"] == STEPS

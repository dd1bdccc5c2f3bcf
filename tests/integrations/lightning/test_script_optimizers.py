"""Optimizers that a module makes and steps for itself: Lightning was not given them."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
import torch
from lightning_models import NAMESPACES, data, namespace, trainer
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils.flop_counter import FlopCounterMode

from lightning_costs import CostMonitor
from lightning_costs.patching.patches import Patches
from lightning_costs.patching.script_optimizers import ScriptOptimizers
from lightning_costs.recording import emission

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


class Base(namespace(NAMESPACES[0]).LightningModule):  # type: ignore[misc]
    """Two layers, and by default nothing that Lightning steps."""

    automatic = False

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = self.automatic
        self.net, self.head, self.other = nn.Linear(16, 8), nn.Linear(8, 4), nn.Linear(16, 4)
        self.own: Any = None

    def configure_optimizers(self) -> Any:
        return None

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.head(torch.relu(self.net(x))), y)

    def others_loss(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.other(x), y)


class Alternating(Base):
    """Two optimizers of one kind take turns at two networks."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        both = [*self.net.parameters(), *self.head.parameters()]
        self.own = self.own or (Adam(both), Adam(self.other.parameters()))
        turn = batch_idx % 2
        self.zero_grad()
        self.manual_backward(self.others_loss(batch) if turn else self.loss(batch))
        self.own[turn].step()


class Discriminator(Base):
    """Lightning steps one optimizer, and the training step another one that it was not given."""

    automatic = True

    def configure_optimizers(self) -> Any:
        return Adam([*self.net.parameters(), *self.head.parameters()])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.own = self.own or Adam(self.other.parameters())
        self.own.zero_grad()
        self.others_loss(batch).backward()
        self.own.step()
        return self.loss(batch)


class NoOptimizer(Base):
    automatic = True

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)


class InBackward(NoOptimizer):
    """Each parameter has an optimizer, which steps in the backward pass."""

    def on_fit_start(self) -> None:
        for one in (*self.net.parameters(), *self.head.parameters()):
            own = Adam([one])
            one.register_post_accumulate_grad_hook(lambda _, own=own: own.step())


class InHook(Base):
    """The update is made after the batch."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.own = self.own or Adam(self.parameters())
        self.zero_grad()
        self.manual_backward(self.loss(batch) + self.others_loss(batch))

    def on_train_batch_end(self, *_: Any) -> None:
        self.own.step()


class Accumulating(Base):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.manual_backward(self.loss(batch) + self.others_loss(batch))
        if batch_idx % 4 == 3:
            self.own = self.own or Adam(self.parameters())
            self.own.step()
            self.own.zero_grad()


class Compiled(InHook):
    def on_fit_start(self) -> None:
        self.own = Adam(self.parameters())
        self.compiled = torch.compile(lambda: self.own.step(), backend="eager")

    def on_train_batch_end(self, *_: Any) -> None:
        self.compiled()


class ByValue(SGD):
    """As a class may be that compares its settings: it has no hash."""

    def __eq__(self, other: object) -> bool:
        return self is other


class Unhashable(InHook):
    def on_fit_start(self) -> None:
        self.own = ByValue(self.parameters(), lr=0.1, momentum=0.9)


class Several(torch.optim.Optimizer):
    """One for each kind of parameter, in a list."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = list(parts)
        super().__init__([one for part in parts for group in part.param_groups for one in group["params"]], {})

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = closure() if closure is not None else None
        for part in self.parts:
            part.step()
        return loss


class GivenSeveral(NoOptimizer):
    def configure_optimizers(self) -> Any:
        return Several(Adam(self.net.parameters()), Adam(self.head.parameters()))


class OwnSeveral(InHook):
    def on_fit_start(self) -> None:
        self.own = Several(Adam(self.net.parameters()), Adam([*self.head.parameters(), *self.other.parameters()]))


class Hiding(torch.optim.Optimizer):
    """Steps one that none of its attributes is."""

    def __init__(self, hidden: torch.optim.Optimizer) -> None:
        self.holder = SimpleNamespace(hidden=hidden)
        super().__init__([one for group in hidden.param_groups for one in group["params"]], {})

    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = closure() if closure is not None else None
        self.holder.hidden.step()
        return loss


class GivenHiding(NoOptimizer):
    def configure_optimizers(self) -> Any:
        return Hiding(Adam([*self.net.parameters(), *self.head.parameters()]))


class GivenUnhashable(NoOptimizer):
    def configure_optimizers(self) -> Any:
        return ByValue([*self.net.parameters(), *self.head.parameters()], lr=0.1, momentum=0.9)


class FullBatch(InHook):
    """One update for each epoch, after its last batch."""

    def on_train_batch_end(self, *_: Any) -> None:
        pass

    def on_train_epoch_end(self) -> None:
        self.own.step()


class OwnLater(InHook):
    """A part steps alone before its owner does."""

    def on_fit_start(self) -> None:
        self.owner = None

    def on_train_batch_end(self, *_: Any) -> None:
        if self.owner is None:
            part = Adam(self.parameters())
            part.step()
            self.owner = (Several(part),)
        else:
            self.owner[0].step()


class Halves(torch.optim.Optimizer):
    """As SAM: a step is two calls, of which the second one steps the optimizer that it owns."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})
        self.base = SGD(self.param_groups, lr=0.1, momentum=0.9)

    @torch.no_grad()
    def first_step(self) -> None:
        for group in self.param_groups:
            for one in group["params"]:
                self.state[one]["old"] = one.clone()
                one.add_(one.grad, alpha=0.1)

    @torch.no_grad()
    def second_step(self) -> None:
        for group in self.param_groups:
            for one in group["params"]:
                one.copy_(self.state[one].pop("old"))
        self.base.step()


class OwnHalves(InHook):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.own = self.own or Halves([*self.net.parameters(), *self.head.parameters()])
        for half in (self.own.first_step, self.own.second_step):
            self.zero_grad()
            self.manual_backward(self.loss(batch))
            half()

    def on_train_batch_end(self, *_: Any) -> None:
        pass


ALL = sum(one.numel() for one in Base().parameters())
PAIR, OTHER = 16 * 8 + 8 + 8 * 4 + 4, 16 * 4 + 4


@pytest.mark.filterwarnings("ignore:.*configure_optimizers.*")
@pytest.mark.parametrize(
    ("kind", "calls", "steps", "state"),
    [
        (Alternating, 2 * STEPS, 2 * STEPS, 8 * ALL + 4 * 6),
        (Discriminator, 4 * STEPS, 2 * STEPS, 8 * ALL + 4 * 6),
        (NoOptimizer, 0, 0, 0),
        (InBackward, 8 * STEPS, 2 * STEPS, 8 * PAIR + 4 * 4),
        (InHook, 2 * STEPS, 2 * STEPS, 8 * ALL + 4 * 6),
        (Accumulating, STEPS // 2, STEPS // 2, 8 * ALL + 4 * 6),
        (Compiled, 2 * STEPS, 2 * STEPS, 8 * ALL + 4 * 6),
        (Unhashable, 2 * STEPS, 2 * STEPS, 4 * ALL),
        (GivenSeveral, 2 * STEPS, 2 * STEPS, 8 * PAIR + 4 * 4),
        (OwnSeveral, 2 * STEPS, 2 * STEPS, 8 * ALL + 4 * 6),
        (OwnLater, 2 * STEPS, 2 * STEPS, 8 * ALL + 4 * 6),
        (OwnHalves, 2 * STEPS, 2 * STEPS, 4 * PAIR),
        (GivenHiding, 2 * STEPS, 2 * STEPS, 8 * PAIR + 4 * 4),
        (GivenUnhashable, 2 * STEPS, 2 * STEPS, 4 * PAIR),
        (FullBatch, 2, 2, 8 * ALL + 4 * 6),
    ],
)
def test_updates_state_and_flops_are_those_of_the_script(
    kind: Any, calls: int, steps: int, state: int, tmp_path: Path
) -> None:
    pl = namespace(NAMESPACES[0])

    def fit(*callbacks: Any) -> Any:
        torch.manual_seed(0)
        own = kind()
        trainer(pl, *callbacks).fit(own, data(STEPS * 8))
        return own

    with FlopCounterMode(display=False) as flops:
        plain = fit()
    hooks, monitor = dict(GLOBAL_HOOKS), CostMonitor(save_dir=tmp_path, infer=False, log="none")
    own = fit(monitor)
    assert dict(GLOBAL_HOOKS) == hooks, "nothing is left"
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), plain.parameters(), strict=True))
    assert monitor.run is not None
    costs, header = monitor.run.final, monitor.run.header
    assert (costs["optimizer_steps"], costs["steps"], costs["opt_state_bytes"]) == (calls, steps, state)
    assert costs["flop"] == flops.get_total_flops()
    assert "Mock" not in str(header["setup"]["optimizers"])
    assert bool(header["setup"]["optimizers"]) == bool(calls)
    if kind is OwnHalves:
        assert [each["name"] for each in header["setup"]["optimizers"]] == ["Halves over SGD"]
        assert costs["opt_peak_bytes"] == 2 * 4 * PAIR, "the old weights are in it"
        assert costs["optimizer_s"] > 0
    if kind is Discriminator:  # nobody saw its backward pass, which would be a part of the forward pass
        assert costs["forward_s"] is None
        assert "backward pass was not seen" in header["missing"]["forward_s"]


def test_a_fit_that_is_gone_without_a_word_leaves_no_hook() -> None:
    hooks = dict(GLOBAL_HOOKS)
    watched = ScriptOptimizers(nn.Linear(2, 2), tuple, lambda: True, lambda *_: None, lambda: None)
    watched.install(Patches(lambda: None))
    assert dict(GLOBAL_HOOKS) != hooks
    del watched
    gc.collect()
    assert dict(GLOBAL_HOOKS) == hooks


@pytest.mark.filterwarnings("ignore:.*configure_optimizers.*")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (Accumulating, {}),
        (InHook, {"max_steps": STEPS}),  # which counts what Lightning steps
        (Discriminator, {"max_steps": STEPS + STEPS // 2}),
    ],
)
def test_costs_ahead_are_those_of_the_updates_that_will_be(
    kind: Any, options: Mapping[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emission, "MIN_READ_INTERVAL_S", 0.0)
    pl, ahead = namespace(NAMESPACES[0]), list[float]()
    monitor = CostMonitor(save_dir=tmp_path, infer=False, log="none", log_every_n_steps=4)

    class Peek(pl.Callback):  # type: ignore[misc,name-defined]
        def on_train_batch_end(self, *_: Any) -> None:
            forecast = monitor._session.points.ahead().get("samples")  # type: ignore[union-attr]
            ahead.extend([forecast.middle] if forecast is not None else [])

    trainer(pl, monitor, Peek(), max_epochs=4, **options).fit(kind(), data(STEPS * 8))
    assert monitor.run is not None
    assert ahead[-1] == pytest.approx(monitor.run.final["samples"], rel=0.05)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_validation_batch_end"])
def test_a_probe_beside_the_training_is_none_of_its_updates(hook: str, first: bool, tmp_path: Path) -> None:
    pl = namespace(NAMESPACES[0])

    class Probed(Discriminator):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.loss(batch)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    class Slow(SGD):
        def step(self, closure: Any = None) -> Any:
            time.sleep(0.01)
            return super().step(closure)

    def step(callback: Any, trainer: Any, module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        with torch.enable_grad():
            callback.own = getattr(callback, "own", None) or Slow(module.other.parameters(), lr=0.1)
            callback.own.zero_grad()
            module.others_loss(batch).backward()
            callback.own.step()

    probe = type("Probe", (pl.Callback,), {hook: step})()
    monitor = CostMonitor(save_dir=tmp_path, infer=False, log="none")
    callbacks = [probe, monitor] if first else [monitor, probe]
    trainer(pl, *callbacks, accumulate_grad_batches=4).fit(Probed(), data(STEPS * 8), data(16))
    assert monitor.run is not None
    costs = monitor.run.final
    assert costs["optimizer_steps"] == costs["steps"] == STEPS // 2
    phases = [costs[name] for name in ("forward_s", "backward_s", "optimizer_s")]
    assert sum(phases) < costs["train_s"]  # type: ignore[arg-type]
    assert costs["opt_state_bytes"] == 8 * PAIR + 4 * 4

"""Phases of real trainings against a stopwatch in the module's own passes and updates, on a clock that they move."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import FakeClock
from lightning_models import NAMESPACES, classifier, data, namespace, trainer
from pytorch_optimizer import SAM
from torch import Tensor, nn

from lightning_costs import CostMonitor, Recorder
from lightning_costs.indicators import phases
from lightning_costs.patching.patches import Shadow
from lightning_costs.probes.memory import tensors
from lightning_costs.probes.phases import HostPhases
from lightning_costs.recording.step_hooks import StepHooks
from lightning_costs.run.record import RunRecord

PASSES = ("forward_s", "backward_s", "optimizer_s")


def indicators() -> list[Any]:
    return [phases.ForwardS(), phases.BackwardS(), phases.OptimizerS(), phases.StepRestS()]


class Stopwatch:
    """What passes and updates took, on the clock that the phases read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = FakeClock()
        self.seconds = dict.fromkeys(PASSES, 0.0)
        monkeypatch.setattr("lightning_costs.probes.phases.now_s", self.clock)

    def spend(self, phase: str | None, seconds: float) -> None:
        self.clock.sleep(seconds)
        if phase is not None:
            self.seconds[phase] += seconds

    def adam(self, parameters: Any) -> torch.optim.Optimizer:
        watch = self

        class Timed(torch.optim.Adam):
            def step(self, closure: Any = None) -> Any:
                loss = closure() if closure is not None else None
                super().step()
                watch.spend("optimizer_s", 1.0)
                return loss

            def zero_grad(self, set_to_none: bool = True) -> None:
                super().zero_grad(set_to_none)
                watch.spend(None, 0.75)

        return Timed(parameters, lr=0.01)

    def sam(self, parameters: Any) -> torch.optim.Optimizer:
        watch = self

        class Timed(SAM):
            def first_step(self, zero_grad: bool = False) -> None:
                super().first_step(zero_grad)
                watch.spend("optimizer_s", 0.5)

            def second_step(self, zero_grad: bool = False) -> None:
                super().second_step(zero_grad)
                watch.spend("optimizer_s", 1.0)

        return Timed(parameters, torch.optim.SGD, lr=0.01)


def module(pl: Any, watch: Stopwatch, kind: str) -> Any:
    class Module(pl.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(16, 4)
            self.automatic_optimization = not kind.startswith("manual")

        def loss(self, batch: Any) -> Tensor:
            watch.spend("forward_s", 2.0)
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            if self.automatic_optimization:
                loss = self.loss(batch)
                self.log("loss", loss)
                return loss
            several = self.optimizers()
            for optimizer in several if isinstance(several, list) else [several]:
                if kind == "manual sam":
                    self.manual_backward(self.loss(batch))
                    optimizer.optimizer.first_step(zero_grad=True)
                    self.manual_backward(self.loss(batch))
                    optimizer.optimizer.second_step(zero_grad=True)
                    continue
                loss = self.loss(batch)
                optimizer.zero_grad()
                self.manual_backward(loss)
                self.clip_gradients(optimizer, 1.0, "norm")
                optimizer.step()
            return None

        def log(self, *args: Any, **kwargs: Any) -> None:
            watch.spend(None, 0.25)
            super().log(*args, **kwargs)

        def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
            loss.backward()
            watch.spend("backward_s", 4.0)

        def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
            super().configure_gradient_clipping(*args, **kwargs)
            watch.spend(None, 0.5)

        def on_before_zero_grad(self, optimizer: Any) -> None:
            watch.spend(None, 0.125)

        def on_after_backward(self) -> None:
            watch.spend(None, 0.125)

        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            if kind == "sam":
                optimizer_closure()
            optimizer.step(closure=optimizer_closure)

        def configure_optimizers(self) -> Any:
            if kind.endswith("sam"):
                return watch.sam(self.parameters())
            if kind == "manual gan":
                return [watch.adam(self.parameters()), watch.adam(self.parameters())]
            return watch.adam(self.parameters())

    return Module()


KINDS = ("automatic", "sam", "accumulation", "clipping", "manual", "manual gan", "manual sam")


def fitted(pl: Any, folder: Path, model: Any, **options: Any) -> tuple[Any, RunRecord]:
    monitor = CostMonitor(save_dir=folder, infer=False, log="none", indicators=indicators(), count="off")
    fit = trainer(pl, monitor, max_epochs=1, log_every_n_steps=3, **options)
    fit.fit(model, data())
    assert monitor.run is not None
    return fit, monitor.run


@pytest.mark.parametrize("kind", KINDS)
def test_phases_are_those_of_a_stopwatch_in_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pl, watch = namespace(NAMESPACES[len(kind) % 2]), Stopwatch(monkeypatch)
    model = module(pl, watch, kind)
    options = {"accumulation": {"accumulate_grad_batches": 4}, "clipping": {"gradient_clip_val": 1.0}}.get(kind, {})
    fit, run = fitted(pl, tmp_path, model, **options)
    assert {name: run.final[name] for name in PASSES} == watch.seconds
    assert run.final["optimizer_s"]
    assert run.final["step_rest_s"] == 0.0, "the run's own clock hardly moved"
    how = "exact" if kind == "accumulation" else "estimated from sampled steps"
    assert how in run.header["methods"]["forward_s"]
    assert "host clock" in run.header["methods"]["forward_s"]
    held = [model, fit.strategy, fit.strategy.precision_plugin, *fit.optimizers]
    assert not [thing for thing in held if any(isinstance(value, Shadow) for value in vars(thing).values())]


def test_what_updates_inside_a_backward_pass_leaves_it_a_backward_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pl, watch = namespace(NAMESPACES[0]), Stopwatch(monkeypatch)

    class Fused(type(module(pl, watch, "manual"))):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.manual_backward(self.loss(batch))

        def on_train_start(self) -> None:
            for optimizer in self.trainer.optimizers:
                for parameter in optimizer.param_groups[0]["params"]:
                    parameter.register_post_accumulate_grad_hook(self.update(optimizer))

        def update(self, optimizer: Any) -> Any:
            def updates(parameter: Tensor) -> None:
                optimizer.step()
                optimizer.zero_grad()

            return updates

        def configure_optimizers(self) -> Any:
            return [watch.adam([parameter]) for parameter in self.parameters()]

    model = Fused()
    model.automatic_optimization = False
    _, run = fitted(pl, tmp_path, model)
    assert {name: run.final[name] for name in PASSES} == watch.seconds


def test_a_timed_step_is_noted_like_those_around_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pl, watch = namespace(NAMESPACES[0]), Stopwatch(monkeypatch)
    in_full: list[object] = []
    timed: list[int] = []
    step, end = StepHooks.step, HostPhases.end_repeat
    monkeypatch.setattr(StepHooks, "step", lambda *args, **kwargs: (in_full.append(0), step(*args, **kwargs))[1])
    monkeypatch.setattr(HostPhases, "end_repeat", lambda phases: (timed.append(end(phases)), timed[-1])[1])
    model = module(pl, watch, "automatic")
    monitor = CostMonitor(save_dir=tmp_path, infer=False, log="none", indicators=indicators(), count="off")
    fit = trainer(pl, monitor, max_epochs=1, log_every_n_steps=400)
    fit.fit(model, data(samples=400 * 8, batch_size=8))
    assert monitor.run is not None
    assert {name: monitor.run.final[name] for name in PASSES} == watch.seconds
    assert len(timed) > len(in_full) - 20
    assert len(timed) + len(in_full) < 60
    held = [model, fit.strategy, fit.strategy.precision_plugin, *fit.optimizers]
    assert not [thing for thing in held if any(isinstance(value, Shadow) for value in vars(thing).values())]


def test_steps_after_a_watched_one_are_not_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[object] = []
    walk = tensors.memory_breakdown
    monkeypatch.setattr(tensors, "memory_breakdown", lambda *args: (walks.append(0), walk(*args))[1])
    pl = namespace(NAMESPACES[0])
    monitor = CostMonitor(save_dir=tmp_path, infer=False, log="none")
    trainer(pl, monitor, max_epochs=1, log_every_n_steps=50).fit(classifier(pl), data(samples=400 * 8, batch_size=8))
    assert 8 < len(walks) < 200


def test_a_backward_pass_past_lightning_is_missing_with_what_to_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pl, watch = namespace(NAMESPACES[0]), Stopwatch(monkeypatch)
    model = module(pl, watch, "manual")
    monkeypatch.setattr(model, "manual_backward", lambda loss: loss.backward())
    _, run = fitted(pl, tmp_path, model)
    assert run.final.get("forward_s") is None
    assert "self.manual_backward(loss)" in run.header["missing"]["forward_s"]


def test_in_a_loop_of_ones_own_phases_are_missing_with_what_shows_them(tmp_path: Path) -> None:
    net = nn.Linear(16, 4)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with Recorder(module=net, optimizers=[optimizer], save_dir=tmp_path, indicators=indicators()) as recorder:
        for batch in data():
            with recorder.train_batch(batch):
                nn.functional.cross_entropy(net(batch[0]), batch[1]).backward()
                optimizer.step()
            recorder.step(batch)
    assert "Lightning, Fabric" in recorder.header["missing"]["backward_s"]


def test_fabric_shows_its_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning.fabric import Fabric

    from lightning_costs import load_runs
    from lightning_costs.integrations.fabric import FabricMonitor, end_runs

    watch = Stopwatch(monkeypatch)
    monitor = FabricMonitor("lightning.fabric", {"save_dir": tmp_path, "infer": False, "indicators": indicators()})
    fabric = Fabric(accelerator="cpu", devices=1, callbacks=[monitor])
    net = nn.Linear(16, 4)
    net.register_forward_hook(lambda *_: watch.spend("forward_s", 2.0))
    net.weight.register_hook(lambda grad: watch.spend("backward_s", 4.0))
    model, optimizer = fabric.setup(net, watch.adam(net.parameters()))
    loader = fabric.setup_dataloaders(data())
    for number, (x, y) in enumerate(loader):
        watch.spend(None, 8.0)
        fabric.backward(nn.functional.cross_entropy(model(x), y) / 2)
        if number % 2:
            watch.spend(None, 0.5)
            optimizer.step()
            optimizer.zero_grad()
            watch.spend(None, 16.0)
        with torch.no_grad():
            pass
    end_runs()
    (run,) = load_runs(tmp_path)
    assert {name: run.final[name] for name in PASSES} == watch.seconds


@pytest.mark.parametrize("set_up", [True, False])
def test_without_a_loader_fabrics_passes_are_those_of_its_models_or_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_up: bool
) -> None:
    from lightning.fabric import Fabric

    from lightning_costs import load_runs
    from lightning_costs.integrations.fabric import FabricMonitor, end_runs

    watch = Stopwatch(monkeypatch)
    monitor = FabricMonitor("lightning.fabric", {"save_dir": tmp_path, "infer": False, "indicators": indicators()})
    fabric = Fabric(accelerator="cpu", devices=1, callbacks=[monitor])
    model: nn.Module = nn.Linear(16, 4)
    model.weight.register_hook(lambda grad: watch.spend("backward_s", 4.0))  # type: ignore[operator, union-attr]
    optimizer = fabric.setup_optimizers(watch.adam(model.parameters()))
    if set_up:
        model = fabric.setup_module(model)
    for number, (x, y) in enumerate(data()):
        with torch.no_grad():
            model(x)
            watch.spend(None, 8.0)  # an environment
        loss = nn.functional.cross_entropy(model(x), y)
        watch.spend("forward_s", 2.0)
        fabric.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if not number:  # the run begins with the first update
            watch.seconds = dict.fromkeys(PASSES, 0.0)
    end_runs()
    (run,) = load_runs(tmp_path)
    assert {name: run.final.get(name) for name in PASSES} == watch.seconds | ({} if set_up else {"forward_s": None})
    if not set_up:
        assert run.final["step_rest_s"] is None
        assert "fabric.setup_dataloaders" in run.header["missing"]["forward_s"]

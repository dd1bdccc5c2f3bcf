"""Whatever of ours raises, at whichever of its calls: training ends as without us."""

from __future__ import annotations

import gc
import logging
import random
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults import moments, places, with_fault
from lightning_models import NAMESPACES, classifier, data, namespace, trainer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from lightning_costs import CostBudget, CostMonitor
from lightning_costs.integrations.fabric import FabricMonitor, end_runs

MODULE_CALL = torch.nn.Module.__call__

pytestmark = pytest.mark.integration

#: Faults that one run of the tests tries, of one namespace's trainings; `-m slow` tries all of both.
SOME = 10


def generators() -> list[Any]:
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]


def seeded() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def fitted(name: str, folder: Path, *, measured: bool, **options: Any) -> Callable[[], Any]:
    """A fit with much around it; it returns all that training leaves."""
    pl = namespace(name)
    ours = [CostMonitor(save_dir=folder / "costs", infer=False, **options)] if measured else []
    if measured:
        ours.append(CostBudget({"total_s": 1e6}))

    def work() -> Any:
        seeded()
        model = classifier(pl, optimizer="adam")
        checkpoint = pl.callbacks.ModelCheckpoint(dirpath=folder / "checkpoints", save_last=True)
        stopping = pl.callbacks.EarlyStopping("val/acc", mode="max", patience=9)
        fit = trainer(
            pl,
            *ours,
            checkpoint,
            stopping,
            pl.callbacks.LearningRateMonitor(),
            logger=pl.loggers.CSVLogger(folder, version=0),
            enable_checkpointing=True,
            log_every_n_steps=2,
            gradient_clip_val=0.5,
        )
        fit.fit(model, data(40), data(16))
        metrics = {k: float(v) for k, v in fit.callback_metrics.items() if not k.startswith("cost/")}
        weights = [p.detach().tolist() for p in model.parameters()]
        return weights, metrics, fit.global_step, float(checkpoint.best_model_score or -1), generators()

    return work


def fabric_script(name: str, folder: Path, *, measured: bool) -> Callable[[], Any]:
    kind = import_module(name).Fabric
    monitors = [FabricMonitor(name, {"save_dir": str(folder / "costs"), "infer": False})] if measured else []

    def work() -> Any:
        seeded()
        fabric = kind(accelerator="cpu", devices=1, callbacks=monitors)
        net = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 4))
        net, optimizer = fabric.setup(net, torch.optim.Adam(net.parameters(), 0.01))
        train, val = fabric.setup_dataloaders(data(40), data(16))
        losses = []
        for epoch in range(2):
            for x, y in train:
                loss = torch.nn.functional.cross_entropy(net(x), y)
                fabric.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
                losses.append(loss.item())
            with torch.no_grad():
                losses += [net(x).sum().item() for x, _ in val]
            fabric.log_dict({"val/loss": losses[-1]}, step=epoch)
            fabric.save(folder / "state.ckpt", {"net": net})
        end_runs()
        return losses, generators()

    return work


def tried(make: Callable[..., Callable[[], Any]], name: str, folder: Path, some: int | None) -> tuple[int, list[str]]:
    """How many faults were tried, and those that changed or ended the training."""
    logging.getLogger("lightning_costs").disabled = True
    try:
        plain = make(name, folder / "plain", measured=False)()
        assert make(name, folder / "measured", measured=True)() == plain
        faults = [
            (place, at)
            for place in places(make(name, folder / "places", measured=True))
            for at in moments(place)
        ]  # fmt: skip
        if some is not None:
            faults = random.Random(7).sample(faults, min(some, len(faults)))
        count, harm = 0, []
        for n, (place, at) in enumerate(faults):
            try:
                outcome, raised = with_fault(place, at, make(name, folder / f"fault-{n}", measured=True))
            except Exception as error:  # noqa: BLE001 - that is what must not be
                if "cannot be enforced, as" in str(error):  # a budget on a missing cost says so at once
                    continue
                harm.append(f"{place.name} at call {at + 1} ended it: {error!r}")
                count += 1
                continue
            count += raised
            if outcome != plain:
                harm.append(f"{place.name} at call {at + 1} changed it")
        return count, harm
    finally:
        logging.getLogger("lightning_costs").disabled = False
        gc.collect()  # files that a fault left open are closed here, and not while another test runs


SCRIPTS = [
    *(pytest.param(fitted, name, id=name) for name in NAMESPACES),
    *(pytest.param(fabric_script, name, id=name) for name in ("lightning.fabric", "lightning_fabric")),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "name"), SCRIPTS[::2])
def test_whatever_of_ours_raises_training_ends_as_without_us(
    make: Callable[..., Callable[[], Any]], name: str, tmp_path: Path
) -> None:
    count, harm = tried(make, name, tmp_path, SOME)
    assert (count > SOME / 2, harm) == (True, [])


class TimeIsOver(Exception):  # noqa: N818 - as scripts name it
    """What a script's own handler of SIGALRM raises."""


def on_alarm(*_: object) -> None:
    raise TimeIsOver


def left_in_torch() -> list[str]:
    """What is on in torch for all of the process."""
    found = {
        "a dispatch mode": torch._C._len_torch_dispatch_stack(),
        "a function mode": torch._C._len_torch_function_stack(),
        "hooks of all optimizers": len(_global_optimizer_pre_hooks) + len(_global_optimizer_post_hooks),
        "a call of modules": torch.nn.Module.__call__ is not MODULE_CALL,
    }
    return [what for what, amount in found.items() if amount]


def swallowed(
    make: Callable[..., Callable[[], Any]], name: str, folder: Path, some: int | None
) -> tuple[int, list[str]]:
    """How many calls of ours a signal interrupted, and those that kept from the script what its handler raised."""
    logging.getLogger("lightning_costs").disabled = True
    before = signal.signal(signal.SIGALRM, on_alarm)
    try:
        calls = [
            (place, at)
            for place in places(make(name, folder / "places", measured=True))
            if not place.name.endswith("._died")  # a weak reference calls it: Python ignores what it raises
            for at in moments(place)
        ]  # fmt: skip
        if some is not None:
            calls = random.Random(7).sample(calls, some)
        count, kept = 0, []
        for n, (place, at) in enumerate(calls):
            try:
                _, raised = with_fault(place, at, make(name, folder / f"alarm-{n}", measured=True), on_alarm)
            except TimeIsOver:
                count += 1
                kept += [f"{place.name} at call {at + 1} left {what}" for what in left_in_torch()]
            else:
                kept += [f"{place.name} at call {at + 1}"] if raised else []
        return count, kept
    finally:
        signal.signal(signal.SIGALRM, before)
        logging.getLogger("lightning_costs").disabled = False
        gc.collect()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "name"), SCRIPTS[::2])
def test_what_a_handler_of_a_signal_raises_in_our_code_reaches_the_script(
    make: Callable[..., Callable[[], Any]], name: str, tmp_path: Path
) -> None:
    count, kept = swallowed(make, name, tmp_path, SOME)
    assert (count > SOME / 2, kept) == (True, [])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "name"), SCRIPTS)
def test_what_a_handler_of_a_signal_raises_anywhere_in_our_code_reaches_the_script(
    make: Callable[..., Callable[[], Any]], name: str, tmp_path: Path
) -> None:
    count, kept = swallowed(make, name, tmp_path, None)
    print(f"{name}: {count} calls interrupted")
    assert kept == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("make", "name"), SCRIPTS)
def test_whatever_of_ours_raises_anywhere_training_ends_as_without_us(
    make: Callable[..., Callable[[], Any]], name: str, tmp_path: Path
) -> None:
    count, harm = tried(make, name, tmp_path, None)
    print(f"{name}: {count} faults tried")
    assert harm == []

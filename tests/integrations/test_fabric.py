"""Loops of Fabric scripts as they come: left early, nested, without loaders, under the user's own modes."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from fakes import FakeClock, FakeMeter
from lightning.fabric import Fabric
from lightning_models import data
from pytorch_optimizer import SAM
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from lightning_costs import load_runs
from lightning_costs.integrations.fabric import FabricMonitor, end_runs
from lightning_costs.integrations.fabric.hooks import callbacks, fabric_setup
from lightning_costs.probes.energy import meters
from lightning_costs.run.record import RunRecord

STEP_FLOP = 3 * 2 * (16 * 32 + 32 * 4) - 2 * 16 * 32


class Script:
    """A Fabric with a model, an optimizer and a loader of eight batches of eight."""

    def __init__(self, save_dir: Path, **options: Any) -> None:
        self.monitor = FabricMonitor("lightning.fabric", {"save_dir": save_dir, "infer": False, **options})
        self.fabric = Fabric(accelerator="cpu", devices=1, callbacks=[self.monitor])
        net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
        self.model, self.optimizer = self.fabric.setup(net, torch.optim.SGD(net.parameters(), lr=0.1))
        self.loader = self.fabric.setup_dataloaders(data())

    def train(self, batch: Any, *, step: bool = True) -> None:
        x, y = batch
        self.fabric.backward(nn.functional.cross_entropy(self.model(x), y))
        if step:
            self.optimizer.step()
            self.optimizer.zero_grad()

    def evaluate(self) -> None:
        self.model.eval()
        with torch.no_grad():
            for x, _ in self.loader:
                self.model(x)
        self.model.train()


@pytest.fixture
def script(tmp_path: Path) -> Iterator[Script]:
    yield Script(tmp_path)
    end_runs()
    assert not _get_current_dispatch_mode_stack()


@pytest.fixture
def ended(tmp_path: Path) -> Callable[[], RunRecord]:
    def ended() -> RunRecord:
        end_runs()
        (run,) = load_runs(tmp_path)
        return run

    return ended


def counts(run: RunRecord) -> list[float | None]:
    return [run.final[name] for name in ("steps", "batches", "samples", "epochs", "flop")]


def test_a_loop_that_is_left_early_counts_the_batch_that_it_trained(
    script: Script, ended: Callable[[], RunRecord]
) -> None:
    for i, batch in enumerate(script.loader):
        script.train(batch)
        if i == 2:
            break
    assert counts(ended()) == [3, 3, 24, 0, 24 * STEP_FLOP]


def test_a_batch_that_raised_counts_for_nothing_and_leaves_no_mode(
    script: Script, ended: Callable[[], RunRecord]
) -> None:
    def epoch() -> None:
        for i, batch in enumerate(script.loader):
            if i == 1:
                raise ZeroDivisionError
            script.train(batch)

    with pytest.raises(ZeroDivisionError):
        epoch()
    assert not _get_current_dispatch_mode_stack()
    for batch in script.loader:
        script.train(batch)
    assert counts(ended()) == [9, 9, 72, 1, 72 * STEP_FLOP]


def test_a_run_that_ends_in_the_midst_of_a_batch_leaves_no_mode(script: Script) -> None:
    first, *_ = list(script.loader)
    script.train(first, step=False)
    assert _get_current_dispatch_mode_stack() != []
    end_runs()
    assert _get_current_dispatch_mode_stack() == []


def test_batches_that_accumulate_are_no_steps_of_their_own(script: Script, ended: Callable[[], RunRecord]) -> None:
    for i, batch in enumerate(script.loader):
        script.train(batch, step=i % 2 == 1)
    assert counts(ended()) == [4, 8, 64, 1, 64 * STEP_FLOP]


def test_an_evaluation_in_the_midst_of_a_batch_is_not_its_work(script: Script, ended: Callable[[], RunRecord]) -> None:
    for i, batch in enumerate(script.loader):
        if i in (0, 5):
            script.evaluate()
        script.train(batch)
    run = ended()
    assert counts(run) == [8, 8, 64, 1, 64 * STEP_FLOP]
    assert run.final["evaluate_flop"] == 2 * 64 * 2 * (16 * 32 + 32 * 4)


def test_two_loaders_side_by_side_are_one_batch(script: Script, ended: Callable[[], RunRecord]) -> None:
    other = script.fabric.setup_dataloaders(data())
    for batch, _ in zip(script.loader, other, strict=True):
        script.train(batch)
    assert counts(ended()) == [8, 8, 64, 1, 64 * STEP_FLOP]


def test_a_pass_that_trains_nothing_is_no_epoch(script: Script, ended: Callable[[], RunRecord]) -> None:
    for _ in script.loader:
        pass
    for batch in script.loader:
        script.train(batch)
    assert counts(ended()) == [8, 8, 64, 1, 64 * STEP_FLOP]


def test_a_users_own_counting_sees_what_it_would_see_alone(script: Script, ended: Callable[[], RunRecord]) -> None:
    batches = iter(script.loader)
    batch = next(batches)
    with FlopCounterMode(display=False) as counter:  # entered above a census, left below the next one
        for _ in range(3):
            script.train(batch)
            batch = next(batches)
    script.train(batch)
    batches.close()  # type: ignore[attr-defined]
    assert counter.get_total_flops() == 3 * 8 * STEP_FLOP
    assert not _get_current_dispatch_mode_stack()
    assert counts(ended()) == [4, 4, 32, 0, 32 * STEP_FLOP]


def test_fine_tuning_in_eval_mode_is_training(script: Script, ended: Callable[[], RunRecord]) -> None:
    script.model.eval()
    for _ in range(2):
        for batch in script.loader:
            script.train(batch)
    run = ended()
    assert counts(run) == [16, 16, 128, 2, 128 * STEP_FLOP]
    assert not run.final["evaluate_flop"]


def test_without_loaders_steps_are_known_and_samples_say_why_they_are_not(
    script: Script, ended: Callable[[], RunRecord]
) -> None:
    for _ in range(5):
        script.train((torch.randn(8, 16), torch.zeros(8, dtype=torch.long)))
    run = ended()
    assert run.final["steps"] == 5
    assert run.final["params"] is not None
    assert run.final["samples"] is None
    assert "setup_dataloaders" in run.header["missing"]["samples"]
    assert run.final["flop"] is None
    assert "no batch was counted" in run.header["missing"]["flop"]


def test_the_next_fabric_that_trains_begins_the_next_run(script: Script, tmp_path: Path) -> None:
    for batch in script.loader:
        script.train(batch)
    second = Script(tmp_path)
    for _ in range(2):
        for batch in second.loader:
            second.train(batch)
    end_runs()
    first, then = sorted(load_runs(tmp_path), key=lambda run: float(run.final["steps"] or 0))
    assert [first.final["steps"], then.final["steps"]] == [8, 16]
    assert first.points["time"].max() < then.points["time"].min()  # type: ignore[operator]


def test_what_is_logged_after_an_evaluation_is_quality_and_what_training_logs_is_not(
    script: Script, ended: Callable[[], RunRecord]
) -> None:
    for batch in script.loader:
        script.train(batch)
        script.fabric.log("train/loss", 1.0)
    script.evaluate()
    script.fabric.log_dict({"val/acc": torch.tensor(0.5), "words": "none"})
    run = ended()
    assert run.points["val/acc"].drop_nulls().to_list() == [0.5]
    assert not {"train/loss", "words"} & set(run.points.columns)


def test_an_evaluation_has_what_was_drawn_in_it(
    only_sleeps: FakeClock, script: Script, ended: Callable[[], RunRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = FakeMeter(100.0)
    monkeypatch.setattr(meters, "cpu_meter", lambda: cpu)
    for batch in script.loader:
        script.train(batch)
        time.sleep(0.05)
    script.model.eval()
    with torch.no_grad():
        for x, _ in script.loader:
            cpu.watts = 1.0
            script.model(x)
            time.sleep(0.05)
    cpu.watts = 100.0
    script.model.train()
    for batch in script.loader:
        script.train(batch)
    final = ended().final
    ram_j = final["ram_energy_j"] * final["evaluate_s"] / final["total_s"]  # type: ignore[operator]
    assert final["evaluate_energy_j"] - ram_j < 0.3 * 100 * final["evaluate_s"]  # type: ignore[operator]
    assert final["train_energy_j"] > 0.7 * 100 * final["train_s"]  # type: ignore[operator]


def test_a_fault_of_ours_is_said_once_and_the_script_goes_on(
    script: Script, ended: Callable[[], RunRecord], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    batches = iter(script.loader)
    for _ in range(3):
        script.train(next(batches))
    monkeypatch.setattr("lightning_costs.recording.step_hooks.StepHooks.step", lambda *_, **__: 1 / 0)
    for batch in batches:
        script.train(batch)
    assert caplog.text.count("measuring costs failed and stops here") == 1
    assert ended().header["status"] == "failed"


def test_a_fabric_without_a_monitor_is_as_ever(script: Script, tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    net = nn.Linear(16, 4)
    model, optimizer = fabric.setup(net, torch.optim.SGD(net.parameters(), lr=0.1))
    for x, y in fabric.setup_dataloaders(data()):
        fabric.backward(nn.functional.cross_entropy(model(x), y))
        optimizer.step()
    end_runs()
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_counted_under_a_users_mode_is_missing_and_not_less(
    script: Script, ended: Callable[[], RunRecord]
) -> None:
    with FlopCounterMode(display=False):
        for batch in script.loader:
            script.train(batch)
        script.evaluate()
    run = ended()
    assert counts(run) == [8, 8, 64, 1, None]
    assert "8 of 8 batches were never counted" in run.header["missing"]["flop"]
    assert run.final["evaluate_flop"] is None


def test_a_validation_iterator_that_stays_open_takes_nothing_from_training(
    script: Script, ended: Callable[[], RunRecord]
) -> None:
    other = iter(script.fabric.setup_dataloaders(data()))
    for batch in script.loader:
        with torch.no_grad():
            script.model(next(other)[0])
        script.train(batch)
    assert counts(ended())[:4] == [8, 8, 64, 1]


@pytest.mark.parametrize("name", ["lightning.fabric", "lightning_fabric"])
def test_what_the_adapter_wraps_and_reads_is_there(name: str) -> None:
    """Seen on Lightning 2.6.6."""
    kind = import_module(name).Fabric
    for method in (
        "setup",
        "setup_module",
        "setup_optimizers",
        "setup_dataloaders",
        "backward",
        "save",
        "load",
        "log_dict",
    ):
        assert callable(getattr(kind, method))
    fabric = kind(accelerator="cpu", devices=1)
    assert callbacks(fabric) == []
    assert fabric_setup(fabric) == {
        "precision": "32-true", "strategy": "SingleDeviceStrategy", "accelerator": "CPUAccelerator"
    }  # fmt: skip


def test_loading_a_checkpoint_before_training_is_restoring_and_a_part_of_setting_up(
    script: Script, ended: Callable[[], RunRecord], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"model": script.model, "optimizer": script.optimizer}
    script.fabric.save(tmp_path / "last.ckpt", state)
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: (time.sleep(0.2), load(*args, **kwargs))[1])
    script.fabric.load(tmp_path / "last.ckpt", state)
    for batch in script.loader:
        script.train(batch)
    run = ended()
    assert 0.2 <= (run.final["restore_s"] or 0.0) <= (run.final["setup_s"] or 0.0)
    accounts = ("setup_s", "train_s", "evaluate_s", "checkpoint_s", "other_s")
    assert run.final["total_s"] == pytest.approx(sum(run.final[name] or 0.0 for name in accounts))


def test_without_fabrics_load_restoring_is_missing_as_a_script_may_load_otherwise(
    script: Script, ended: Callable[[], RunRecord]
) -> None:
    for batch in script.loader:
        script.train(batch)
    run = ended()
    assert run.final["restore_s"] is None
    assert "fabric.load" in run.header["missing"]["restore_s"]


def test_a_fabric_goes_to_spawned_processes(script: Script) -> None:
    fabric = Fabric(accelerator="cpu", devices=1, callbacks=[script.monitor])
    (monitor,) = pickle.loads(pickle.dumps(fabric))._callbacks
    assert isinstance(monitor, FabricMonitor)
    assert monitor.options == script.monitor.options


def test_samples_are_what_the_loader_puts_into_a_batch(script: Script, ended: Callable[[], RunRecord]) -> None:
    def collate(items: list[int]) -> Any:
        return torch.zeros(50, len(items), 4), torch.zeros(50, len(items))  # sequence first

    loader = script.fabric.setup_dataloaders(DataLoader(range(20), 8, collate_fn=collate))
    for _ in range(2):
        for _ in loader:
            script.train((torch.zeros(8, 16), torch.zeros(8).long()))
    run = ended()
    assert (run.final["samples"], run.final["dataset_samples"]) == (40, 20)
    assert run.header["methods"]["samples"].startswith("second dimension of tensor 1 of 2")


def test_optimizers_alone_leave_parameters_missing_and_not_none(tmp_path: Path, ended: Callable[[], RunRecord]) -> None:
    fabric = Fabric(
        accelerator="cpu",
        devices=1,
        callbacks=[FabricMonitor("lightning.fabric", {"save_dir": tmp_path, "infer": False})],
    )
    net = nn.Linear(8, 8)
    optimizer = fabric.setup_optimizers(torch.optim.SGD(net.parameters(), 0.1))
    for _ in range(5):
        fabric.backward(net(torch.rand(4, 8)).sum())
        optimizer.step()
    run = ended()
    assert run.final["steps"] == 5
    for column in ("params", "trainable_params", "nonzero_params", "param_bytes", "grad_bytes", "opt_state_bytes"):
        assert run.final[column] is None, column
        assert "no module was given" in run.header["missing"][column]


@pytest.mark.parametrize("works", [True, False])
def test_an_evaluation_batch_that_is_fetched_and_left_counts_if_it_was_worked_on(
    script: Script, ended: Callable[[], RunRecord], *, works: bool
) -> None:
    for batch in script.loader:
        script.train(batch)
    for _ in range(2):
        script.model.eval()
        with torch.no_grad():
            for i, (x, _) in enumerate(script.loader):
                if i >= 2 and not works:
                    break
                script.model(x)
                if i >= 2:
                    break
        script.model.train()
    run = ended()
    assert run.final["evaluate_flop"] == 2 * (3 if works else 2) * 8 * 2 * (16 * 32 + 32 * 4)


def test_an_evaluation_that_is_left_before_its_first_batch_is_none(
    script: Script, ended: Callable[[], RunRecord]
) -> None:
    for batch in script.loader:
        script.train(batch)
    script.evaluate()
    with torch.no_grad():
        for _ in script.loader:
            break
    assert ended().final["evaluate_flop"] == 64 * 2 * (16 * 32 + 32 * 4)


def test_an_evaluation_of_nothing_costs_no_flops(script: Script, ended: Callable[[], RunRecord]) -> None:
    empty = script.fabric.setup_dataloaders(DataLoader([]))
    for batch in script.loader:
        script.train(batch)
    with torch.no_grad():
        for _ in empty:
            raise AssertionError
    assert ended().final["evaluate_flop"] == 0


def test_optimizers_that_are_replaced_step_on_and_are_let_go(script: Script, ended: Callable[[], RunRecord]) -> None:
    held = []
    for epoch in range(3):
        if epoch:
            made = torch.optim.Adam(script.model.parameters(), 0.1)
            held.append(ref(made))
            script.optimizer = script.fabric.setup_optimizers(made)
            del made
        for batch in script.loader:
            script.train(batch)
    assert [known() is None for known in held] == [True, False]
    run = ended()
    assert (run.final["steps"], run.final["optimizer_steps"], run.final["samples"]) == (24, 24, 192)
    assert run.final["opt_state_bytes"] == 2 * run.final["param_bytes"] + 4 * 4  # type: ignore[operator]


def test_a_look_without_gradients_in_some_batches_is_counted(script: Script, ended: Callable[[], RunRecord]) -> None:
    looks = [0, 8, 13, 22, 31]  # a GAN's samples on fixed noise
    for number in range(32):
        if number % 8 == 0:
            batches = iter(script.loader)
        script.train(next(batches))
        if number in looks:
            with torch.no_grad():
                script.model(torch.zeros(64, 16))
        if number % 8 == 7:
            assert next(batches, None) is None
    run = ended()
    assert run.final["flop"] == 32 * 8 * STEP_FLOP + len(looks) * 64 * 2 * (16 * 32 + 32 * 4)


def test_folds_with_short_last_batches_are_counted(tmp_path: Path, ended: Callable[[], RunRecord]) -> None:
    monitor = FabricMonitor("lightning.fabric", {"save_dir": tmp_path, "infer": False})
    fabric = Fabric(accelerator="cpu", devices=1, callbacks=[monitor])
    folds = []
    for _ in range(3):
        net = nn.Linear(8, 8)
        folds.append(fabric.setup(net, torch.optim.SGD(net.parameters(), 0.1)))
    for net, optimizer in folds:
        for (x,) in fabric.setup_dataloaders(DataLoader(TensorDataset(torch.rand(42, 8)), 4)):
            fabric.backward(net(x).sum())
            optimizer.step()
    assert ended().final["flop"] == 3 * 42 * 2 * 2 * 8 * 8


def test_halves_of_sam_are_one_update_and_its_time(tmp_path: Path, ended: Callable[[], RunRecord]) -> None:
    script = Script(tmp_path)
    net = nn.Linear(16, 4)
    model, optimizer = script.fabric.setup(net, SAM(net.parameters(), torch.optim.SGD, lr=0.1))
    for x, y in script.loader:
        for half in (optimizer.first_step, optimizer.second_step):
            script.fabric.backward(nn.functional.cross_entropy(model(x), y))
            half(zero_grad=True)
    run = ended()
    assert (run.final["steps"], run.final["optimizer_steps"]) == (8, 8)
    assert run.final["optimizer_s"]


@pytest.mark.parametrize("first", [True, False])
def test_one_batch_of_an_open_evaluation_takes_nothing_from_the_batch_that_is_trained_on(
    script: Script, ended: Callable[[], RunRecord], first: bool
) -> None:
    others = script.fabric.setup_dataloaders(DataLoader(TensorDataset(torch.rand(40, 16)), 5))
    held: list[Any] = []

    def look() -> None:
        script.model.eval()
        with torch.no_grad():
            held[:] = held or [iter(others)]
            script.model(next(held[0])[0])
        script.model.train()

    for i, batch in enumerate(script.loader):
        if first and i % 3 == 0:
            look()
        script.train(batch)
        if not first and i % 3 == 0:
            look()
    run = ended()
    assert counts(run) == [8, 8, 64, 1, 64 * STEP_FLOP]
    assert run.final["evaluate_flop"] == 3 * 5 * 2 * (16 * 32 + 32 * 4)


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("opened", [True, False])
def test_an_evaluation_between_an_update_and_the_next_batch_is_in_no_phase_and_no_training(
    only_sleeps: FakeClock, tmp_path: Path, ended: Callable[[], RunRecord], gradients: bool, opened: bool
) -> None:
    script = Script(tmp_path)
    script.model._forward_module.register_forward_pre_hook(lambda *_: only_sleeps.sleep(1.0))
    others = script.fabric.setup_dataloaders(data())
    held = iter(others)
    for batch in script.loader:
        script.train(batch)
        script.model.eval()
        with torch.set_grad_enabled(gradients):
            for x, _ in [next(held)] if opened else others:
                only_sleeps.sleep(4.0)
                script.model(x)
        script.model.train()
    final = ended().final
    evaluated = 8 if opened else 64
    assert (final["forward_s"], final["train_s"]) == (8.0, 8.0)
    assert final["evaluate_s"] == 5.0 * evaluated
    assert [final["backward_s"], final["optimizer_s"], final["step_rest_s"]] == [0.0, 0.0, 0.0]


def test_batches_that_each_hold_an_evaluation_say_why_they_are_not_counted(
    script: Script, ended: Callable[[], RunRecord]
) -> None:
    for batch in script.loader:
        script.evaluate()
        script.train(batch)
    run = ended()
    assert run.final["flop"] is None
    assert "something else ran as well: an evaluation" in run.header["missing"]["flop"]
    assert run.header["missing"]["activation_bytes"] == run.header["missing"]["flop"].replace(
        "8 of 8 batches were never counted", "no step was counted"
    )
    census = run.header["census"]
    assert (census["counted_steps"], census["batches"], census["batches_not_counted"]) == (0, 8, 8)


@pytest.mark.parametrize("looked", [True, False])
def test_steps_beside_a_loader_that_was_left_are_training(
    only_sleeps: FakeClock, tmp_path: Path, ended: Callable[[], RunRecord], looked: bool
) -> None:
    script = Script(tmp_path)
    script.model._forward_module.register_forward_pre_hook(lambda *_: only_sleeps.sleep(1.0))
    batch = next(iter(script.loader))
    for _ in range(3):
        if looked:
            script.evaluate()
        script.train(batch)
        only_sleeps.sleep(4.0)
    final = ended().final
    assert (final["steps"], final["samples"]) == (3, None)
    # What comes before the first backward pass is not known to be training.
    assert final["train_s"] == 4.0 + 5.0 + 5.0
    assert final["forward_s"] == 2.0
    assert final["step_rest_s"] == 12.0
    assert final["evaluate_s"] == (3 * 8.0 if looked else 0.0)


def test_a_metric_that_is_never_logged_is_said_beside_those_that_are(
    tmp_path: Path, ended: Callable[[], RunRecord], caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(tmp_path, monitor="val_acc", mode="max")
    for batch in script.loader:
        script.train(batch)
    script.evaluate()
    script.fabric.log_dict({"val/acc": 0.5, "val/loss": 2.0})
    assert ended().quality_columns == []
    assert "Did you mean 'val/acc'? Logged: val/acc, val/loss" in caplog.text


def test_fine_tuning_in_eval_mode_after_training_is_no_evaluation(
    script: Script, ended: Callable[[], RunRecord]
) -> None:
    for batch in script.loader:
        script.train(batch)
    script.model.eval()
    for batch in script.fabric.setup_dataloaders(data()):
        script.train(batch)
    run = ended()
    assert counts(run) == [16, 16, 128, 2, 128 * STEP_FLOP]
    assert run.final["evaluate_flop"] == 0

"""What the user's own objects are while they are measured: as if nobody did."""

from __future__ import annotations

import copy
import gc
import io
import logging
import pickle
import time
import weakref
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers.logger import Logger
from lightning_models import NAMESPACES, classifier, data, namespace, trainer
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_pre_hooks
from torch.utils.data import DataLoader, TensorDataset

from lightning_costs import CostBudget, CostMonitor
from lightning_costs.sources.loader import load_runs

FLOP_PER_SAMPLE = 2 * (2 * 16 * 32 + 3 * 32 * 4)


def monitor(tmp_path: Path, **options: Any) -> CostMonitor:
    return CostMonitor(save_dir=tmp_path / "costs", infer=False, **options)


class Net(pl.LightningModule):
    """A classifier that another process can load: `lightning_models` makes its class anew for each namespace."""

    def __init__(self, stopping: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(16, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/acc", (self.net(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Remembers(pl.Callback):
    """A callback with a state, and hooks of every kind."""

    def __init__(self) -> None:
        self.epochs = 0

    def on_train_batch_start(self, *_: Any) -> None:
        pass

    def on_train_epoch_end(self, *_: Any) -> None:
        self.epochs += 1


class Midway(pl.Callback):
    """Does something with the trainer in the first and in the fourth batch."""

    def __init__(self, act: Any) -> None:
        self.act, self.results = act, []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx in (0, 3) and trainer.current_epoch == 0:
            self.results.append(self.act(trainer, module))


def holders(fit: Any) -> dict[str, Any]:
    return {
        "trainer": fit,
        "strategy": fit.strategy,
        "fit loop": fit.fit_loop,
        "optimizer": fit.optimizers[0],
        "logger": fit.logger,
        "saving": fit.save_checkpoint,
        **{type(callback).__name__: callback for callback in fit.callbacks},
    }


def twins(fit: Any, module: Any) -> int:
    for name, thing in holders(fit).items():
        assert b"lightning_costs.patching.patches" not in pickle.dumps(thing), name
        copy.deepcopy(thing)
        copy.copy(thing)
    return len(holders(fit))


def test_all_that_holds_the_trainer_is_pickled_and_copied_as_ever(tmp_path: Path) -> None:
    midway, budget = Midway(twins), CostBudget({"total_s": 1e6})
    logger = pl.loggers.CSVLogger(tmp_path)
    fit = trainer(pl, monitor(tmp_path), budget, midway, Remembers(), logger=logger, enable_checkpointing=True)
    fit.fit(Net(), data())
    assert midway.results == [11, 11]


def test_a_callback_that_is_copied_while_training_acts_on_itself(tmp_path: Path) -> None:
    def twin_of(*monitors: Any) -> tuple[Remembers, Remembers]:
        original, midway = Remembers(), Midway(lambda fit, _: copy.deepcopy(fit.callbacks))
        trainer(pl, original, midway, *monitors).fit(Net(), data())
        return original, next(callback for callback in midway.results[1] if isinstance(callback, Remembers))

    original, twin = twin_of(monitor(tmp_path))
    assert vars(twin).keys() == vars(twin_of()[1]).keys()
    twin.on_train_epoch_end(None, None)
    assert (original.epochs, twin.epochs) == (2, 1)


def test_a_copied_monitor_measures_nothing_until_it_is_in_a_fit_of_its_own(tmp_path: Path) -> None:
    midway, first = Midway(lambda fit, _: copy.deepcopy(fit.callbacks)), monitor(tmp_path)
    trainer(pl, first, midway, max_epochs=1).fit(classifier(pl), data())
    second = next(callback for callback in midway.results[0] if isinstance(callback, CostMonitor))
    assert (second.recorder, second.run) == (None, None)
    assert not [name for name, held in vars(second).items() if hasattr(held, "__self__")], "the module went along"
    trainer(pl, second, max_epochs=1).fit(classifier(pl), data())
    assert first.run is not None
    assert second.run is not None
    assert (first.run.final["samples"], second.run.final["samples"]) == (64, 64)
    assert first.run.id != second.run.id


class Collating(pl.LightningDataModule):
    """A collate function that is the module's own method: its workers are sent the trainer, too."""

    def __init__(self, start: str) -> None:
        super().__init__()
        self.start = start

    def collate(self, rows: list[Any]) -> Any:
        return torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])

    def train_dataloader(self) -> Any:
        rows = TensorDataset(torch.randn(32, 16), torch.arange(32) % 4)
        return DataLoader(rows, 8, num_workers=1, collate_fn=self.collate, multiprocessing_context=self.start)


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:.*persistent_workers.*")
@pytest.mark.parametrize("start", [pytest.param("spawn", marks=pytest.mark.slow), "forkserver"])
def test_workers_that_are_sent_the_trainer_start(tmp_path: Path, start: str) -> None:
    measuring = monitor(tmp_path)
    trainer(pl, measuring, max_epochs=1).fit(Net(), datamodule=Collating(start))
    assert measuring.run is not None
    assert measuring.run.final["samples"] == 32


@pytest.mark.integration
@pytest.mark.parametrize("infer", [True, False])
def test_a_network_that_the_script_replaces_takes_its_weights_along(tmp_path: Path, *, infer: bool) -> None:
    old: list[Any] = []

    def replace(fit: Any, module: Any) -> None:
        old.append(weakref.ref(module.net.weight))
        module.net = nn.Linear(16, 4)
        (optimizer,) = fit.strategy.optimizers
        optimizer.state.clear()
        optimizer.param_groups[0]["params"] = list(module.net.parameters())

    class Later(pl.Callback):
        def on_train_batch_end(self, fit: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 6:
                gc.collect()
                still.append([each() for each in old])

    still: list[list[Any]] = []
    watcher = CostMonitor(save_dir=tmp_path / "costs", infer=infer)
    trainer(pl, watcher, Midway(replace), Later()).fit(Net(), data())
    assert still == [[None, None]] * 2
    assert watcher.run is not None
    assert not infer or "was replaced" in watcher.run.header["missing"]["infer_latency_p50_s"]


def test_a_callback_among_the_hyperparameters_goes_into_checkpoints(tmp_path: Path) -> None:
    stopping = pl.callbacks.EarlyStopping("val/acc", mode="max")
    fit = trainer(pl, monitor(tmp_path), stopping, enable_checkpointing=True, default_root_dir=tmp_path)
    fit.fit(Net(stopping), data(), data())
    assert fit.global_step == 16


# Modules -----------------------------------------------------------------------------------------------------


def test_a_teacher_copied_in_a_counted_step_has_nothing_of_ours(tmp_path: Path) -> None:
    class Teaching(type(classifier(pl))):  # type: ignore[misc]
        saved = b""

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 0:
                object.__setattr__(self, "teacher", copy.deepcopy(self.net))
                file = io.BytesIO()
                torch.save(self.net, file)
                self.saved = file.getvalue()
            self.teacher(batch[0])
            return super().training_step(batch, batch_idx)

    model = Teaching()
    trainer(pl, monitor(tmp_path), max_epochs=1).fit(model, data())
    assert not any([*m._forward_hooks, *m._forward_pre_hooks] for m in model.teacher.modules())
    assert b"lightning_costs" not in model.saved
    assert nn.Module.__call__.__module__.startswith("torch")


class Legacy(torch.Tensor):
    """Made in the older way, which no dispatch mode of torch allows."""

    @staticmethod
    def __new__(cls, x: Tensor) -> Any:
        return super().__new__(cls, x)


class Odd(type(classifier(pl))):  # type: ignore[misc]
    """A step that raises while it is counted, after it drew random numbers and changed a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16)
        self.calls = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.calls += 1
        x = self.norm(batch[0] + torch.rand_like(batch[0]))
        Legacy(x.detach()[:, [0]])
        return nn.functional.cross_entropy(self.net(x), batch[1])

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        Legacy(batch[0][:, [0]])
        super().validation_step(batch, batch_idx)


@pytest.mark.parametrize("name", NAMESPACES)
def test_a_step_that_counting_makes_fail_is_run_again_without(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    def weights(*callbacks: Any) -> tuple[list[Any], Tensor]:
        torch.manual_seed(0)
        model = Odd()
        trainer(namespace("lightning.pytorch"), *callbacks).fit(model, data(), data())
        return [value.tolist() for value in model.state_dict().values()], torch.get_rng_state()

    measuring = monitor(tmp_path)
    (plain, random), (measured, random_after) = weights(), weights(measuring)
    assert plain == measured
    assert torch.equal(random, random_after)
    assert measuring.run is not None
    assert measuring.run.final["flop"] is None
    missing = measuring.run.header["missing"]
    assert "a step raised RuntimeError while its operators were counted" in missing["flop"]
    assert "an evaluation raised RuntimeError while its operators were counted" in missing["evaluate_flop"]
    assert "LIGHTNING_COSTS_COUNT=0" in caplog.text
    assert measuring.run.final["samples"] == 128


@pytest.mark.parametrize("where", ["before", "after an update"])
def test_what_a_step_raises_by_itself_is_raised_once(tmp_path: Path, where: str) -> None:
    class Raises(type(classifier(pl))):  # type: ignore[misc]
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.calls += 1
            if where == "before":
                raise RuntimeError("the user's own")
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.manual_backward(loss)
            self.optimizers().step()
            Legacy(batch[0][:, [0]])

    model = Raises()
    with pytest.raises(RuntimeError, match="the user's own" if where == "before" else "already associated"):
        trainer(pl, monitor(tmp_path)).fit(model, data())
    assert model.calls == 1


def test_counting_can_be_switched_off_by_argument_and_by_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    for environment, argument in (("0", None), ("", "off"), ("0", "auto")):
        monkeypatch.setenv("LIGHTNING_COSTS_COUNT", environment)
        measuring = monitor(tmp_path, count=argument)
        trainer(pl, measuring, max_epochs=1).fit(classifier(pl), data(), data())
        runs.append(measuring.run)
    assert [run.final["flop"] for run in runs if run] == [None, None, 64 * FLOP_PER_SAMPLE]
    assert "count='off'" in runs[0].header["missing"]["flop"]
    monkeypatch.setenv("LIGHTNING_COSTS_COUNT", "sometimes")
    with pytest.raises(ValueError, match="LIGHTNING_COSTS_COUNT must be 'auto', 'eager' or 'off', got 'sometimes'"):
        CostMonitor()


# Loggers -----------------------------------------------------------------------------------------------------


class Strict(Logger):
    """Takes what Lightning gives it, as Lightning gives it."""

    name, version = "strict", 0

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[Any] = []

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    def log_metrics(self, *, step: int | None = None, metrics: Any) -> None:  # type: ignore[override]
        self.rows.append((step, metrics))


def test_loggers_are_called_as_they_were(tmp_path: Path) -> None:
    logger = Strict()
    trainer(pl, monitor(tmp_path), logger=logger).fit(classifier(pl), data(), data())
    assert [step for step, metrics in logger.rows if "cost/samples" in metrics and "val/acc" in metrics] == [7, 15]


def test_a_mock_of_a_logger_has_its_method_after_the_fit(tmp_path: Path) -> None:
    logger = Mock(spec=Strict(), name="mock", version=0, save_dir=str(tmp_path), log_dir=str(tmp_path))
    trainer(pl, monitor(tmp_path), logger=logger, max_epochs=1).fit(classifier(pl), data(), data())
    logger.log_metrics(metrics={}, step=1)
    assert logger.log_metrics.call_count > 1


@pytest.mark.integration
def test_a_clock_that_the_script_replaced_is_read_by_the_script_alone(tmp_path: Path) -> None:
    reads = []
    for callbacks in ([], [CostMonitor(save_dir=tmp_path / "costs", infer=True)]):
        with patch("time.perf_counter", side_effect=time.perf_counter) as clock:
            trainer(pl, *callbacks).fit(classifier(pl), data(), data())
        reads.append(clock.call_count)
    assert reads[0] == reads[1]


# Several monitors and several trainers -----------------------------------------------------------------------


def test_one_monitor_in_two_trainers_measures_the_outer_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    measuring = monitor(tmp_path)

    class Nests(type(classifier(pl))):  # type: ignore[misc]
        def on_train_epoch_start(self) -> None:
            trainer(pl, measuring, max_epochs=1).fit(classifier(pl), data(32))

    trainer(pl, measuring).fit(Nests(), data())
    (run,) = load_runs(tmp_path / "costs")
    assert (run.final["samples"], run.header["status"]) == (128, "finished")
    assert "Give each Trainer a monitor of its own" in caplog.text


def test_the_same_monitor_twice_among_the_callbacks_counts_once(tmp_path: Path) -> None:
    measuring = monitor(tmp_path)
    trainer(pl, measuring, Remembers(), measuring).fit(classifier(pl), data())
    (run,) = load_runs(tmp_path / "costs")
    assert (run.final["samples"], run.final["steps"]) == (128, 16)


def test_of_two_monitors_one_measures_and_the_other_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = monitor(tmp_path), monitor(tmp_path)
    with caplog.at_level(logging.WARNING):
        trainer(pl, first, second).fit(classifier(pl), data())
    (run,) = load_runs(tmp_path / "costs")
    assert run.final["samples"] == 128
    assert (first.run is not None, second.run) == (True, None)
    assert caplog.text.count("one CostMonitor measures a fit") == 1


class EqualsAll(pl.Callback):
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


class EqualsNone(EqualsAll):
    def __eq__(self, other: object) -> bool:
        raise TypeError("not to be compared")


@pytest.mark.parametrize("kind", [EqualsAll, EqualsNone])
def test_callbacks_are_told_apart_by_identity(tmp_path: Path, kind: type[pl.Callback]) -> None:
    measuring, module = monitor(tmp_path), Net()
    fit = trainer(pl, kind(), measuring, CostBudget({"total_s": 1e6}))
    fit.fit(module, data(), data())
    assert measuring.run is not None
    assert (measuring.run.header["status"], measuring.run.final["samples"]) == ("finished", 128)
    assert left_on(fit, module) == []


def test_a_monitor_of_a_fit_that_ended_unheard_measures_the_next(tmp_path: Path) -> None:
    measuring = monitor(tmp_path)
    fit = trainer(pl, measuring)
    measuring.setup(fit, classifier(pl), "fit")  # and then its Trainer was given up
    trainer(pl, measuring, max_epochs=1).fit(classifier(pl), data())
    assert measuring.run is not None
    assert measuring.run.final["samples"] == 64


class FindsIn(pl.callbacks.LearningRateFinder):  # type: ignore[misc]
    """A finder in the epoch that is given, or before the first if none is."""

    def __init__(self, epoch: int | None) -> None:
        super().__init__(num_training_steps=3)
        self.epoch = epoch

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if self.epoch is None:
            super().on_fit_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            self.lr_find(trainer, pl_module)


class FailsWhenAlone(Net):
    """Fails in the training of a finder, which is without the Trainer's callbacks."""

    lr = 0.1

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if not any(isinstance(callback, CostMonitor) for callback in self.trainer.callbacks):
            raise ArithmeticError("nothing can be found")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(("epoch", "statuses"), [(None, []), (1, ["failed"])])
def test_a_fit_that_fails_in_a_finder_is_over(tmp_path: Path, epoch: int | None, statuses: list[str]) -> None:
    measuring = monitor(tmp_path)
    fit = trainer(pl, FindsIn(epoch), measuring, CostBudget({"total_s": 1e6}), default_root_dir=tmp_path, max_epochs=4)
    module = FailsWhenAlone()
    with pytest.raises(ArithmeticError):
        fit.fit(module, data())
    runs = load_runs(tmp_path / "costs") if statuses else []
    assert [run.header["status"] for run in runs] == statuses
    assert measuring.recorder is None
    assert left_on(fit, module) == []


def left_on(fit: Any, module: Any) -> list[Any]:
    """What of ours is on a Trainer and its parts."""
    parts = [fit.fit_loop.epoch_loop, fit.fit_loop._data_fetcher, fit._data_connector, module, *module.modules()]
    held = [value for part in (*holders(fit).values(), *parts) for value in getattr(part, "__dict__", {}).values()]
    return [value for value in held if type(value).__module__.startswith("lightning_costs.patching")]


class Raises:
    """Raises in the hook that is given, and before that in the second batch."""

    def __init__(self, hook: str) -> None:
        setattr(self, hook, self.fail)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            raise ArithmeticError("the first")

    def fail(self, *_: Any, **__: Any) -> None:
        raise LookupError("the second")


@pytest.mark.parametrize("name", NAMESPACES)
@pytest.mark.parametrize("hook", ["on_exception", "teardown"])
@pytest.mark.parametrize("before", [True, False])
def test_of_a_fit_whose_errors_raise_errors_nothing_is_left(
    tmp_path: Path, name: str, hook: str, *, before: bool
) -> None:
    hooks = set(_global_optimizer_pre_hooks)
    measuring, lightning = monitor(tmp_path), namespace(name)
    raises, module = type("Raising", (Raises, lightning.Callback), {})(hook), classifier(lightning)
    fit = trainer(lightning, *([raises, measuring] if before else [measuring, raises]))
    with pytest.raises((ArithmeticError, LookupError)) as caught:
        fit.fit(module, data())
    assert isinstance(caught.value, LookupError if hook == "on_exception" else ArithmeticError)
    assert (left_on(fit, module), _global_optimizer_pre_hooks.keys() - hooks) == ([], set())
    assert [run.header["status"] for run in load_runs(tmp_path / "costs")] == ["failed"]
    assert measuring.recorder is None


@pytest.mark.parametrize("at", [0, 3])
def test_a_method_of_the_strategys_class_may_be_replaced_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    calls: list[int] = []

    def replace(fit: Any, _: Any) -> None:
        kind = type(fit.strategy)
        original = kind.backward

        def backward(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(fit.global_step)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(kind, "backward", backward)

    class Once(Midway):
        def on_train_batch_end(self, fit: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if fit.global_step == at + 1:
                self.act(fit, module)

    trainer(pl, monitor(tmp_path), Once(replace)).fit(Net(), data())
    assert calls == list(range(at + 1, 16))

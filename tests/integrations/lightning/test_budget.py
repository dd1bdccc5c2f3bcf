"""CostBudget in real Trainers: where training stops, what is saved and said, and what a budget leaves alone."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from fakes import FakeClock, measured
from lightning_models import NAMESPACES, classifier, data, namespace, trainer

import lightning_costs.integrations.lightning.budget
import lightning_costs.integrations.lightning.callback
from lightning_costs import CostBudget, CostMonitor, Tariff, default_indicators, load_runs
from lightning_costs.cli.commands import show
from lightning_costs.indicators.clocks import TotalS
from lightning_costs.indicators.counts import Steps
from lightning_costs.recording.emission import Emission

#: What Lightning says of every resume in the midst of an epoch whose loader has no state.
pytestmark = pytest.mark.filterwarnings("ignore:.*your dataloader is not resumable.*")


@pytest.fixture(params=NAMESPACES)
def pl(request: pytest.FixtureRequest) -> ModuleType:
    return namespace(request.param)


@pytest.fixture
def lightning() -> ModuleType:
    return namespace("lightning.pytorch")


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Any:
    """What was said in our name."""
    caplog.set_level(logging.WARNING, logger="lightning_costs")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "lightning_costs"]


def beads(a_step: float = 1.0, name: str = "bead_calls") -> Any:
    """A counter that every step costs something of, known exactly."""
    return measured(name, reads=lambda sample: a_step * sample.steps)


def fit(
    pl: ModuleType, folder: Path, limits: dict[str, float], *callbacks: Any, val: bool = False, model: Any = None,
    ckpt_path: Any = None, indicators: Any = (), first: bool = False, budget: dict[str, Any] | None = None,
    **options: Any,
) -> Any:  # fmt: skip
    watched = [*default_indicators(), *indicators] if indicators else [Steps(), TotalS(), beads()]
    both = [CostMonitor(save_dir=folder / "costs", infer=False, indicators=watched), CostBudget(limits, **budget or {})]
    both = both[::-1] if first else both
    t = trainer(pl, *both, *callbacks, **{"default_root_dir": folder, "max_epochs": 10} | options)
    t.fit(model or classifier(pl), data(), data() if val else None, ckpt_path=ckpt_path)
    return t


def saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("*.ckpt"))


# Where training stops ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [False, True])
def test_training_stops_at_the_first_step_past_a_limit(pl: ModuleType, tmp_path: Path, first: bool) -> None:
    t = fit(pl, tmp_path, {"bead_calls": 12.5, "steps": 1000}, first=first)
    assert t.global_step == 13
    (run,) = load_runs(tmp_path / "costs")
    assert run.header["status"] == "finished"
    assert run.header["stopped"] == {
        "by": "CostBudget", "step": 12, "column": "bead_calls", "limit": 12.5, "amount": 13.0
    }  # fmt: skip
    assert run.header["budget"] == {"limits": {"bead_calls": 12.5, "steps": 1000.0}}
    assert run.final["bead_calls"] == 13.0


def test_no_point_is_needed_where_the_limit_is(lightning: ModuleType, tmp_path: Path) -> None:
    assert fit(lightning, tmp_path, {"bead_calls": 29}, log_every_n_steps=1000).global_step == 29


def test_seconds_are_held_though_one_step_takes_much_longer(
    lightning: ModuleType, tmp_path: Path, only_sleeps: FakeClock
) -> None:
    class Slow(type(classifier(lightning))):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            time.sleep(1.0 if self.trainer.global_step == 20 else 0.002)
            return super().training_step(batch, batch_idx)

    t = fit(lightning, tmp_path, {"train_s": 1.0}, model=Slow(), indicators=[beads()], log_every_n_steps=1000)
    assert t.global_step == 21, "the step that passed it is the last"


def test_a_stop_never_comes_in_the_midst_of_accumulation(lightning: ModuleType, tmp_path: Path) -> None:
    batches = measured("batch_calls", reads=lambda sample: float(sample.batches))
    t = fit(lightning, tmp_path, {"batch_calls": 9}, indicators=[batches], accumulate_grad_batches=4)
    assert (t.global_step, t.fit_loop.epoch_loop.total_batch_idx) == (3, 11)


def test_an_evaluation_that_passes_the_limit_is_followed_by_no_step(lightning: ModuleType, tmp_path: Path) -> None:
    spent = iter(range(10**6))
    calls = measured("look_calls", reads=lambda sample: 100.0 if sample.trigger == "evaluate" else 0.0 * next(spent))
    t = fit(lightning, tmp_path, {"look_calls": 50}, indicators=[calls], val=True, val_check_interval=4)
    assert t.global_step == 4
    assert saved(tmp_path) == ["budget-epoch=0-step=4.ckpt"]
    t = fit(
        lightning, tmp_path, {"look_calls": 1e9}, indicators=[calls], val=True, val_check_interval=4,
        ckpt_path=tmp_path / "checkpoints" / "budget-epoch=0-step=4.ckpt", max_epochs=2,
    )  # fmt: skip
    assert t.global_step == 16


@pytest.mark.parametrize(
    ("least", "ends", "name"),
    [({"min_steps": 20}, 20, "budget-epoch=2-step=20.ckpt"), ({"min_epochs": 3}, 24, "budget-epoch=3-step=24.ckpt")],
)
def test_lightnings_least_training_comes_first(
    lightning: ModuleType, tmp_path: Path, warned: Any, least: dict[str, int], ends: int, name: str
) -> None:
    t = fit(lightning, tmp_path, {"bead_calls": 5}, **least)
    assert t.global_step == ends
    assert load_runs(tmp_path / "costs")[0].header["stopped"]["step"] == 4
    assert saved(tmp_path) == [name]
    assert any("Lightning trains on until min_epochs=" in said for said in warned())


def test_epochs_are_held_though_they_come_in_leaps(lightning: ModuleType, tmp_path: Path) -> None:
    t = fit(lightning, tmp_path, {"epochs": 3}, indicators=[beads()], log_every_n_steps=1000)
    assert (t.global_step, t.current_epoch) == (24, 3)
    assert saved(tmp_path) == ["budget-epoch=2-step=24.ckpt"]


def test_two_optimizers_on_a_batch_are_one_step(lightning: ModuleType, tmp_path: Path) -> None:
    class Two(type(classifier(lightning))):  # type: ignore[misc]
        automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (self.net[0], self.net[2])]

    model = Two()
    model.automatic_optimization = False
    t = fit(lightning, tmp_path, {"steps": 7}, model=model)
    assert (t.global_step, load_runs(tmp_path / "costs")[0].final["steps"]) == (14, 7)


def test_optimizers_that_step_behind_lightnings_back_are_held_too(lightning: ModuleType, tmp_path: Path) -> None:
    class Bare(type(classifier(lightning))):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            self.manual_backward(torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
            optimizer.step()

    model = Bare()
    model.automatic_optimization = False
    each = lightning.callbacks.ModelCheckpoint(tmp_path / "checkpoints", "{epoch}")
    t = fit(lightning, tmp_path, {"steps": 11}, each, model=model, enable_checkpointing=True)
    assert (t.global_step, load_runs(tmp_path / "costs")[0].final["steps"]) == (0, 11)
    assert "budget-epoch=1-step=0.ckpt" in saved(tmp_path)


def test_measured_energy_stops_training_too(lightning: ModuleType, tmp_path: Path) -> None:
    model = classifier(lightning, train_s=0.02)
    t = fit(lightning, tmp_path, {"energy_j": 1e-6}, model=model, indicators=[beads()], max_epochs=40)
    (run,) = load_runs(tmp_path / "costs")
    assert t.global_step == 1
    assert run.header["stopped"]["column"] == "energy_j"


# Going on ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("val", [False, True])
def test_a_resumed_run_continues_its_budget_and_its_epoch(
    pl: ModuleType, tmp_path: Path, val: bool, warned: Any
) -> None:
    fit(pl, tmp_path, {"bead_calls": 13}, val=val)
    (name,) = saved(tmp_path)
    assert name == "budget-epoch=1-step=13.ckpt"
    assert any(f"resume with ckpt_path='{tmp_path / 'checkpoints' / name}'" in said for said in warned())
    path = tmp_path / "checkpoints" / name
    t = fit(pl, tmp_path, {"bead_calls": 13}, val=val, ckpt_path=path)
    assert t.global_step == 13, "all was spent: no step more"
    assert any("13 calls before this attempt; training stops" in said for said in warned())
    t = fit(pl, tmp_path, {"bead_calls": 20}, val=val, ckpt_path=path)
    assert t.global_step == 20
    last = tmp_path / "checkpoints" / "budget-epoch=2-step=20.ckpt"
    t = fit(pl, tmp_path, {"bead_calls": 1000}, val=val, ckpt_path=last, max_epochs=4)
    assert t.global_step == 32, "no batch of an epoch that was broken off is skipped"
    (run,) = load_runs(tmp_path / "costs")
    assert run.final["bead_calls"] == 32.0
    assert "stopped" not in run.header


def test_the_checkpoint_lies_beside_the_others_and_may_be_declined(lightning: ModuleType, tmp_path: Path) -> None:
    best = lightning.callbacks.ModelCheckpoint(tmp_path / "mine", monitor="val/acc", mode="max")
    fit(lightning, tmp_path, {"bead_calls": 5}, best, val=True, enable_checkpointing=True)
    assert (tmp_path / "mine" / "budget-epoch=0-step=5.ckpt").exists()
    none = tmp_path / "none"
    fit(lightning, none, {"bead_calls": 5}, budget={"checkpoint": False})
    assert saved(none) == []


def test_a_stop_at_an_epochs_end_that_had_to_wait_needs_no_second_checkpoint(
    lightning: ModuleType, tmp_path: Path
) -> None:
    each = lightning.callbacks.ModelCheckpoint(tmp_path / "mine", "{step}", save_top_k=-1)
    fit(lightning, tmp_path, {"bead_calls": 5}, each, min_epochs=2, enable_checkpointing=True)
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["step=16.ckpt", "step=8.ckpt"]


# What is said ------------------------------------------------------------------------------------------------


def test_it_warns_once_with_the_step_at_which_all_is_used(lightning: ModuleType, tmp_path: Path, warned: Any) -> None:
    fit(lightning, tmp_path, {"bead_calls": 40}, log_every_n_steps=1000)
    nearly = [said for said in warned() if "at this pace" in said]
    assert len(nearly) == 1
    found = re.fullmatch(
        r"(\d+).* % of the budget of 40 calls \(bead_calls\) is used at step (\d+); .* step 39", nearly[0]
    )
    assert found is not None, nearly
    assert 80 <= int(found[1]) < 100


def test_a_plan_beyond_the_budget_is_told_early_with_its_interval(
    lightning: ModuleType, tmp_path: Path, warned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_costs.recording.emission.MIN_READ_INTERVAL_S", 0.0)
    fit(lightning, tmp_path, {"bead_calls": 70, "steps": 1000})
    (ahead,) = [said for said in warned() if "as planned" in said]
    assert (
        ahead
        == "training as planned would need 80 calls, beyond the budget of 70 calls (bead_calls); it will stop sooner"
    )
    assert next(i for i, said in enumerate(warned()) if "as planned" in said) == 0


def test_the_record_the_table_and_the_bar_say_what_is_used(
    lightning: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    bars = []

    class Bar(lightning.callbacks.TQDMProgressBar):  # type: ignore[name-defined,misc]
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            bars.append(str(self.get_metrics(trainer, pl_module).get("cost")))

    fit(lightning, tmp_path, {"bead_calls": 10}, Bar(), enable_progress_bar=True, indicators=[beads()])
    assert any("(80 % of the budget)" in bar for bar in bars)
    told = "stopped by CostBudget at step 9: bead_calls was 10 calls of 10 calls"
    assert told in capsys.readouterr().err
    (folder,) = (tmp_path / "costs").iterdir()
    show(folder)
    shown = capsys.readouterr().out
    assert told in shown
    assert "of the budget: bead_calls 100 % of 10 calls" in shown


# What nobody can hold ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"energy": 5.0}, r"'energy', which is no column; did you mean .*energy_j"),
        ({"params": 5.0}, "'params', which is a static; only counters add up"),
        ({"cloud_usd": 5.0}, r"budget of \$5 cannot be enforced, as cloud_usd is missing: no device price"),
        ({"co2e_g": 5.0}, r"budget of 5 g cannot be enforced, as co2e_g is missing: no place was given"),
    ],
)
def test_a_limit_that_nobody_can_hold_ends_the_fit_before_it_begins(
    lightning: ModuleType, tmp_path: Path, limits: dict[str, float], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        fit(lightning, tmp_path, limits, indicators=[beads()])
    assert load_runs(tmp_path / "costs") == [] if (tmp_path / "costs").exists() else True


def test_a_price_makes_money_a_budget(lightning: ModuleType, tmp_path: Path) -> None:
    monitor = CostMonitor(save_dir=tmp_path / "costs", infer=False, tariff=Tariff(usd_per_node_h=1e6))
    t = trainer(lightning, monitor, CostBudget({"cloud_usd": 0.01}), default_root_dir=tmp_path)
    t.fit(classifier(lightning), data())
    assert t.global_step == 1


def test_without_a_monitor_it_says_what_to_add(lightning: ModuleType) -> None:
    with pytest.raises(ValueError, match="CostBudget needs a CostMonitor, whose totals it limits: add one"):
        trainer(lightning, CostBudget({"steps": 5})).fit(classifier(lightning), data())


def test_a_total_that_goes_missing_is_told_once_and_training_goes_on(
    lightning: ModuleType, tmp_path: Path, warned: Any
) -> None:
    reads = iter([1.0] * 5)

    def read(sample: Any) -> float:
        if (amount := next(reads, None)) is None:
            raise RuntimeError("the meter fell off")
        return amount

    t = fit(lightning, tmp_path, {"fall_calls": 1e6}, indicators=[measured("fall_calls", reads=read)], max_epochs=4)
    assert t.global_step == 32
    (said,) = [said for said in warned() if "cannot be enforced" in said]
    assert "as fall_calls is missing: RuntimeError (its text is in the log); training continues" in said


def test_a_fault_of_measuring_is_told_and_training_goes_on(
    lightning: ModuleType, tmp_path: Path, warned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, looks = lightning_costs.integrations.lightning.budget.Budget.update, iter(range(3))

    def broken(*args: Any, **options: Any) -> Any:
        if next(looks, None) is None:
            raise RuntimeError("a fault of ours")
        return look(*args, **options)

    monkeypatch.setattr("lightning_costs.records.limits.Budget.update", broken)
    assert fit(lightning, tmp_path, {"bead_calls": 12}, val=True, max_epochs=3).global_step == 24
    assert sum("the budget is no longer enforced" in said for said in warned()) == 1


@pytest.mark.parametrize("share", [0, -1, 1.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="warn_at must be a share above 0 and up to 1"):
        CostBudget({"steps": 5}, warn_at=share)


# What a budget leaves alone ----------------------------------------------------------------------------------


def test_fast_dev_run_validation_test_and_prediction_are_not_limited(lightning: ModuleType, tmp_path: Path) -> None:
    budget = CostBudget({"steps": 1})
    t = trainer(lightning, budget, fast_dev_run=3, default_root_dir=tmp_path)
    t.fit(classifier(lightning), data(), data())
    assert t.global_step == 3
    monitor = CostMonitor(save_dir=tmp_path / "costs", infer=False, indicators=[Steps(), TotalS()])
    t = trainer(lightning, monitor, budget, default_root_dir=tmp_path)
    model = classifier(lightning)
    assert t.validate(model, data(), verbose=False)
    t.fit(model, data())
    assert t.global_step == 1
    assert t.validate(model, data(), verbose=False)


def test_finders_are_not_stopped(lightning: ModuleType, tmp_path: Path) -> None:
    monitor = CostMonitor(save_dir=tmp_path / "costs", infer=False, indicators=[Steps(), TotalS()])
    finder = lightning.callbacks.LearningRateFinder(num_training_steps=12)
    t = trainer(lightning, CostBudget({"steps": 5}), monitor, finder, default_root_dir=tmp_path)
    t.fit(classifier(lightning), data())
    assert len(finder.optimal_lr.results["lr"]) >= 12
    assert t.global_step == 5


def test_early_stopping_and_max_steps_come_first_where_they_do(lightning: ModuleType, tmp_path: Path) -> None:
    early = lightning.callbacks.EarlyStopping("val/acc", mode="max", patience=1, min_delta=1.0)
    t = fit(lightning, tmp_path, {"bead_calls": 1000}, early, val=True)
    assert t.global_step == 16
    assert fit(lightning, tmp_path, {"bead_calls": 1000}, max_steps=3).global_step == 3
    assert all("stopped" not in run.header for run in load_runs(tmp_path / "costs"))


def test_a_budget_serves_one_fit_after_the_other(lightning: ModuleType, tmp_path: Path) -> None:
    budget = CostBudget({"steps": 5})
    for _ in range(2):
        monitor = CostMonitor(save_dir=tmp_path / "costs", infer=False, indicators=[Steps(), TotalS()])
        t = trainer(lightning, budget, monitor, default_root_dir=tmp_path)
        t.fit(classifier(lightning), data())
        assert t.global_step == 5


def test_trainers_that_share_a_callback_list_have_each_budget_once(
    lightning: ModuleType, tmp_path: Path, warned: Any
) -> None:
    monitor = CostMonitor(save_dir=tmp_path / "costs", infer=False, indicators=[Steps(), TotalS()])
    shared = [CostBudget({"steps": 5}), CostBudget({"steps": 5}), monitor, CostBudget({"steps": 4})]
    for _ in range(2):
        t = trainer(lightning, *shared, default_root_dir=tmp_path)
        t.fit(classifier(lightning), data())
        assert t.global_step == 4
    assert sum("is used up" in said for said in warned()) == 2


def test_a_step_far_from_any_limit_is_not_looked_at(
    lightning: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    read = Emission.read
    monkeypatch.setattr(Emission, "read", lambda self: (reads.append(1), read(self))[1])
    t = fit(lightning, tmp_path, {"bead_calls": 1e9, "steps": 1e9}, max_epochs=50)
    assert t.global_step == 400
    assert len(reads) <= 3, "only until the pace is known"


def test_it_is_a_public_name() -> None:
    assert lightning_costs.integrations.lightning.callback.CostBudget is CostBudget
    assert "CostBudget" in dir(lightning_costs)

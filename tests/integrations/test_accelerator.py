"""Accelerate in two lines: the same digits as Lightning's and a Recorder's, nothing changed, nothing left behind."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_models import data
from torch import nn

from lightning_costs import Recorder, default_indicators, load_runs
from lightning_costs.integrations.huggingface import measure_accelerator
from lightning_costs.recording.step_hooks import StepHooks
from lightning_costs.run.record import RunRecord

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: pip install accelerate")

pytestmark = pytest.mark.filterwarnings("default")  # those of accelerate and what it loads are theirs

SAME = (
    *("samples", "tokens", "steps", "optimizer_steps", "batches", "epochs", "dataset_samples"),
    *("flop", "model_flop", "mac", "forward_flop", "evaluate_flop"),
    *("params", "trainable_params", "active_params", "param_bytes", "opt_state_bytes"),
)
STEP_FLOP = 3 * 2 * (16 * 32 + 32 * 4) - 2 * 16 * 32


def plain() -> list[Any]:
    return [indicator for indicator in default_indicators() if indicator.family not in ("energy", "money")]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


class Script:
    """A loop with Accelerate: a model, an optimizer and a loader of eight batches of eight."""

    def __init__(self, costs: Path | None = None, *, accumulate: int = 1, late: bool = False, **options: Any) -> None:
        self.accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        self.options = {"save_dir": costs, "infer": False, "indicators": plain()} | options
        if costs is not None and not late:
            self.costs = measure_accelerator(self.accelerator, **self.options)
        made = net()
        self.model, self.optimizer, self.loader = self.accelerator.prepare(
            made, torch.optim.Adam(made.parameters(), 0.1), data()
        )
        if costs is not None and late:
            self.costs = measure_accelerator(self.accelerator, **self.options)

    def work(self, batch: Any) -> None:
        x, y = batch
        with self.accelerator.accumulate(self.model):
            self.accelerator.backward(nn.functional.cross_entropy(self.model(x), y))
            self.optimizer.step()
            self.optimizer.zero_grad()

    def train(self) -> None:
        self.model.train()
        for batch in self.loader:
            self.work(batch)

    def evaluate(self) -> None:
        self.model.eval()
        with torch.no_grad():
            for x, y in self.loader:
                self.accelerator.gather_for_metrics((self.model(x), y))

    def run(self) -> RunRecord:
        self.accelerator.end_training()
        assert self.costs.run is not None
        return self.costs.run


@pytest.fixture(autouse=True)
def _as_new() -> Iterator[None]:
    yield
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def counts(run: RunRecord) -> list[float | None]:
    return [run.final[name] for name in ("optimizer_steps", "batches", "samples", "epochs", "flop")]


@pytest.mark.parametrize(("accumulate", "late"), [(1, False), (2, True)])
def test_digits_are_lightnings_and_a_recorders(tmp_path: Path, accumulate: int, late: bool) -> None:
    from lightning.pytorch import LightningModule, Trainer

    from lightning_costs import CostMonitor

    script = Script(tmp_path / "own", accumulate=accumulate, late=late)
    for _ in range(2):
        script.train()
        script.evaluate()
    own = script.run()

    script = Script(accumulate=accumulate)
    with Recorder(
        module=script.model, optimizers=[script.optimizer], save_dir=tmp_path / "recorder", indicators=plain()
    ) as recorder:
        for _ in range(2):
            for batch in recorder.wrap_loader(script.loader):
                with recorder.train_batch(batch):
                    script.work(batch)
                recorder.step(batch, optimizer_steps=int(script.accelerator.sync_gradients))
            recorder.epoch_done()

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: Any, _: int) -> Any:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def validation_step(self, batch: Any, _: int) -> None:
            self.net(batch[0])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 0.1)

    monitor = CostMonitor(save_dir=tmp_path / "lightning", infer=False, indicators=plain())
    Trainer(
        max_epochs=2,
        accumulate_grad_batches=accumulate,
        callbacks=[monitor],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    ).fit(Module(), data(), data())
    (recorded,) = load_runs(tmp_path / "recorder")
    assert monitor.run is not None
    assert {name: own.final[name] for name in SAME} == {name: monitor.run.final[name] for name in SAME}
    of_recorder = [name for name in SAME if name not in ("evaluate_flop", "dataset_samples")]
    assert [own.final[name] for name in of_recorder] == [recorded.final[name] for name in of_recorder]
    assert own.final["flop"] == 128 * STEP_FLOP
    assert own.final["optimizer_steps"] == 16 / accumulate
    assert own.header["setup"]["batch_size"] == 8
    assert list(own.header["indicators"]) == list(monitor.run.header["indicators"])
    measured = {name for name, value in monitor.run.final.items() if value is not None}
    measured.remove("restore_s")  # a script may load by other means than `load_state`
    assert measured <= {name for name, value in own.final.items() if value is not None}


def test_a_measured_loop_ends_with_the_same_weights_and_nothing_is_left(tmp_path: Path) -> None:
    def trained(script: Script) -> Any:
        torch.manual_seed(1)
        script.train()
        script.evaluate()
        script.train()
        return script

    bare = trained(Script())
    measured = Script(tmp_path)
    kind = type(measured.loader)
    watched = kind.__iter__
    inside = copy.deepcopy(measured.accelerator.unwrap_model(measured.model))
    pickle.loads(pickle.dumps((measured.model, measured.optimizer.optimizer, measured.loader)))
    trained(measured)
    assert all(map(torch.equal, bare.model.parameters(), measured.model.parameters()))
    assert measured.run().final["steps"] == 16
    for name in ("accelerator", "model", "optimizer", "loader"):
        assert vars(getattr(measured, name)).keys() == vars(getattr(bare, name)).keys(), name
    assert kind.__iter__ is not watched
    assert "lightning_costs" not in kind.__iter__.__globals__["__name__"]
    for holds in (measured.model._forward_pre_hooks, measured.optimizer.optimizer._optimizer_step_post_hooks):
        assert not holds
    assert not measured.accelerator._save_model_state_pre_hook
    assert not measured.accelerator._load_model_state_pre_hook
    measured.train()
    inside(torch.zeros(1, 16))


class Tracker(accelerate.tracking.GeneralTracker if hasattr(accelerate, "tracking") else object):  # type: ignore[misc]
    """Keeps rows."""

    name = "kept"
    requires_logging_directory = False

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []
        self.finished_after: int | None = None

    @property
    def tracker(self) -> Any:
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        pass

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        self.rows.append(dict(values))


def test_steps_that_are_only_noted_count_as_those_that_are_recorded_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(costs: Path, *, noted: bool) -> tuple[RunRecord, int]:
        script = Script(costs, log_every_n_steps=10)
        script.costs.repeating = noted
        in_full: list[object] = []
        step = StepHooks.step
        monkeypatch.setattr(StepHooks, "step", lambda *args, **kwargs: (in_full.append(0), step(*args, **kwargs))[1])
        for epoch in range(12):
            script.train()
            if epoch % 3 == 1:
                script.evaluate()
                script.accelerator.log({"accuracy": epoch})
            for i, batch in enumerate(script.loader):
                if i in (2, 3, 6):  # two are passed over, and the last one
                    continue
                if i == 4:
                    script.evaluate()
                script.work(batch)
        monkeypatch.setattr(StepHooks, "step", step)
        return script.run(), len(in_full)

    (noted, few), (full, every) = trained(tmp_path / "a", noted=True), trained(tmp_path / "b", noted=False)
    assert few < every * 2 / 3  # how many are in full depends on the clock, too
    assert {name: noted.final[name] for name in SAME} == {name: full.final[name] for name in SAME}
    assert noted.points["steps"].to_list() == full.points["steps"].to_list()
    assert noted.points["flop"].to_list() == full.points["flop"].to_list()


def test_quality_makes_a_point_and_costs_join_its_row(tmp_path: Path) -> None:
    script = Script(tmp_path, monitor="accuracy", mode="max")
    tracker = Tracker()
    script.accelerator.log_with = [tracker]
    script.accelerator.init_trackers("project", config={"lr": 0.1, "api_key": "secret"})
    for quality in (0.5, 0.75):
        script.train()
        script.accelerator.log({"loss": 1.0})
        script.evaluate()
        script.accelerator.log({"accuracy": quality, "epoch": 1}, step=3)
    run = script.run()
    assert [row["cost/steps"] for row in tracker.rows if "accuracy" in row] == [8, 16]
    assert all("cost/steps" not in row for row in tracker.rows if "loss" in row)
    assert run.points["accuracy"].drop_nulls().to_list() == [0.5, 0.75]
    assert "loss" not in run.points.columns
    assert run.header["hyperparameters"] == {"lr": 0.1}
    accounts = ("setup_s", "train_s", "evaluate_s", "checkpoint_s", "other_s")
    assert run.final["evaluate_s"]
    assert run.final["total_s"] == pytest.approx(sum(run.final[name] or 0.0 for name in accounts))


def test_batches_that_are_fetched_ahead_count_when_they_are_worked_on(tmp_path: Path) -> None:
    script = Script(tmp_path, accumulate=3)
    batches, left = iter(script.loader), 8
    while left:
        window = [next(batches) for _ in range(min(3, left))]
        left -= len(window)
        for batch in window:
            script.work(batch)
    with pytest.raises(StopIteration):
        next(batches)
    for i, batch in enumerate(script.loader):
        if i >= 6:  # others are passed over
            script.work(batch)
    run = script.run()
    assert counts(run)[1:] == [10, 80, 2, 80 * STEP_FLOP]


def test_a_state_that_is_loaded_continues_the_run_and_another_script_may_load_it(tmp_path: Path) -> None:
    first = Script(tmp_path / "costs")
    first.train()
    first.accelerator.save_state(str(tmp_path / "state"))
    run = first.run()
    assert run.final["checkpoint_s"]
    Script().accelerator.load_state(str(tmp_path / "state"))
    second = Script(tmp_path / "costs")
    second.accelerator.load_state(str(tmp_path / "state"))
    for batch in second.accelerator.skip_first_batches(second.loader, 3):
        second.work(batch)
    then = second.run()
    assert then.header["run_id"] == run.header["run_id"]
    assert counts(then)[:3] == [13, 13, 104]


def test_loading_a_state_before_training_is_restoring(tmp_path: Path) -> None:
    Script().accelerator.save_state(str(tmp_path / "state"))
    script = Script(tmp_path / "costs")
    script.accelerator.load_state(str(tmp_path / "state"))
    script.train()
    final = script.run().final
    assert 0 < (final["restore_s"] or 0.0) < (final["setup_s"] or 0.0)


def test_what_is_prepared_after_free_memory_is_another_run(tmp_path: Path) -> None:
    script = Script(tmp_path)
    script.train()
    script.accelerator.free_memory()
    made = net()
    script.model, script.optimizer, script.loader = script.accelerator.prepare(
        made, torch.optim.SGD(made.parameters(), 0.1), data()
    )
    script.train()
    script.train()
    script.accelerator.end_training()
    assert sorted(run.final["steps"] or 0 for run in load_runs(tmp_path)) == [8, 16]


def test_a_fault_of_ours_is_logged_once_and_the_script_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(tmp_path)
    script.train()
    monkeypatch.setattr("lightning_costs.recording.step_hooks.StepHooks.step", lambda *_, **__: 1 / 0)
    script.train()
    script.accelerator.log({"loss": 1.0})
    assert caplog.text.count("measuring costs failed and stops here") == 1
    assert not script.model._forward_pre_hooks
    assert script.run().header["status"] == "failed"


@pytest.mark.parametrize("end", [lambda script: script.accelerator.end_training(), lambda script: script.costs.close()])
def test_a_loop_that_an_error_ends_has_failed(tmp_path: Path, end: Callable[[Script], None]) -> None:
    script = Script(tmp_path)

    def main() -> None:
        try:
            script.train()
            raise ZeroDivisionError
        finally:
            end(script)

    with pytest.raises(ZeroDivisionError):
        main()
    (run,) = load_runs(tmp_path)
    assert (run.header["status"], run.final["steps"]) == ("failed", 8)


def test_tokens_are_those_of_the_ids_that_a_loader_gives(tmp_path: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    costs = measure_accelerator(accelerator, save_dir=tmp_path, infer=False, indicators=plain())
    made = nn.Embedding(50, 4)
    rows = [{"input_ids": torch.arange(12), "labels": torch.arange(12)} for _ in range(20)]
    model, optimizer, loader = accelerator.prepare(
        made, torch.optim.SGD(made.parameters(), 0.1), torch.utils.data.DataLoader(rows, 8)
    )
    for batch in loader:
        accelerator.backward(model(batch["input_ids"]).sum())
        optimizer.step()
    accelerator.end_training()
    assert costs.run is not None
    assert [costs.run.final[name] for name in ("samples", "tokens", "dataset_samples")] == [20, 240, 20]


def test_what_cannot_be_measured_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs an accelerate.Accelerator, got Linear"):
        measure_accelerator(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="needs mode="):
        measure_accelerator(accelerate.Accelerator(cpu=True), monitor="accuracy")


def test_a_second_measuring_of_one_accelerator_ends_the_first(tmp_path: Path) -> None:
    script = Script(tmp_path / "first")
    script.train()
    second = measure_accelerator(script.accelerator, **script.options | {"save_dir": tmp_path / "second"})
    script.train()
    script.accelerator.end_training()
    assert [script.costs.run.final["steps"], second.run.final["steps"]] == [8, 8]  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("own", [False, True])
def test_run_measures_an_unmodified_loop_once(tmp_path: Path, *, own: bool) -> None:
    script = tmp_path / "train.py"
    measured = "from lightning_costs.integrations.huggingface import measure_accelerator as measure\n"
    script.write_text(
        "import torch, accelerate\n"
        "accelerator = accelerate.Accelerator(cpu=True)\n"
        + (measured + "measure(accelerator, save_dir='costs', name='theirs')\n" if own else "")
        + "net = torch.nn.Linear(16, 4)\n"
        "data = torch.utils.data.TensorDataset(torch.randn(64, 16))\n"
        "net, optimizer, loader = accelerator.prepare(\n"
        "    net, torch.optim.SGD(net.parameters(), 0.1), torch.utils.data.DataLoader(data, 8))\n"
        "for (x,) in loader:\n"
        "    accelerator.backward(net(x).sum())\n"
        "    optimizer.step()\n"
    )
    ours = [sys.executable, "-m", "lightning_costs", "run", "--save-dir", "costs", "--name", "ours", "--"]
    done = subprocess.run(
        [*ours, sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (run,) = load_runs(tmp_path / "costs")
    assert (run.final["steps"], run.final["samples"], run.name) == (8, 64, "theirs" if own else "ours")


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.parametrize("shared", [False, True])
def test_two_processes_are_one_run(tmp_path: Path, *, shared: bool) -> None:
    """Their loaders draw batches of their own, or one process draws all and the others get parts of them."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, torch\n"
        "from accelerate import Accelerator\n"
        "from accelerate.utils import DataLoaderConfiguration\n"
        "from lightning_costs.integrations.huggingface import measure_accelerator\n"
        f"config = DataLoaderConfiguration(dispatch_batches={shared}, split_batches={shared})\n"
        "accelerator = Accelerator(cpu=True, dataloader_config=config)\n"
        "measure_accelerator(accelerator, save_dir='costs', infer=False)\n"
        "net = torch.nn.Linear(16, 4)\n"
        "data = torch.utils.data.TensorDataset(torch.randn(64, 16))\n"
        "net, optimizer, loader = accelerator.prepare(\n"
        "    net, torch.optim.SGD(net.parameters(), 0.1), torch.utils.data.DataLoader(data, 8))\n"
        "for _ in range(2):\n"
        "    for (x,) in loader:\n"
        "        accelerator.backward(net(x).sum())\n"
        "        optimizer.step()\n"
        "accelerator.end_training()\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", str(script)]
    done = subprocess.run(launch, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = load_runs(tmp_path / "costs")
    steps = 16 if shared else 8
    assert [run.final[name] for name in ("steps", "samples", "epochs", "flop")] == [steps, 128, 2, 128 * 2 * 2 * 64]
    assert (run.header["setup"]["processes"], run.header["ranks"]["heard"]) == (2, 2)
    assert run.header["setup"]["batch_size"] == 64 / steps
    assert run.final["comm_bytes"]


@pytest.mark.slow
def test_a_wandb_tracker_has_setup_curves_and_totals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    script = Script(tmp_path, monitor="accuracy", mode="max")
    script.accelerator.log_with = [accelerate.utils.LoggerType.WANDB]
    script.accelerator.init_trackers("project", config={"lr": 0.1})
    script.train()
    script.accelerator.log({"accuracy": 0.5})
    script.costs.close()
    run = script.accelerator.get_tracker("wandb", unwrap=True)
    assert (run.summary["cost/steps"], run.summary["accuracy"], run.config["cost"]["monitor"]) == (8, 0.5, "accuracy")
    script.accelerator.end_training()

"""transformers' Trainer: the same digits as Lightning's, nothing changed, nothing left behind."""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from consistency import agree
from fakes import FakeClock

from lightning_costs import CostMonitor, default_indicators, load_runs
from lightning_costs.indicators import phases
from lightning_costs.patching.patches import Shadow

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")
pytest.importorskip("accelerate", reason="accelerate is not installed: pip install accelerate")

from lightning_costs.integrations.huggingface import CostCallback  # noqa: E402

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("default"),
]  # those of transformers and what it loads are theirs

#: What must be the same to the digit, whatever framework trains.
SAME = (
    *("samples", "tokens", "steps", "optimizer_steps", "batches", "epochs", "dataset_samples"),
    *("flop", "model_flop", "mac", "forward_flop", "evaluate_flop"),
    *("params", "trainable_params", "embedding_params", "active_params", "param_bytes", "opt_state_bytes"),
)


def plain() -> list[Any]:
    return [indicator for indicator in default_indicators() if indicator.family not in ("energy", "money")]


def data(samples: int = 40) -> list[dict[str, torch.Tensor]]:
    made = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 50, (samples, 12), generator=made)
    return [{"input_ids": row, "labels": row} for row in rows]


def model() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=12, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def callback(folder: Path, **options: Any) -> CostCallback:
    return CostCallback(**{"save_dir": folder / "costs", "infer": False, "indicators": plain()} | options)


def trainer(folder: Path, *callbacks: Any, kind: Any = None, net: Any = None, **options: Any) -> Any:
    arguments = {
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 4,
        "num_train_epochs": 2,
        "logging_steps": 2,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    args = transformers.TrainingArguments(str(folder / "out"), **arguments | options)
    kind = kind or transformers.Trainer
    return kind(net or model(), args, train_dataset=data(), eval_dataset=data(8), callbacks=list(callbacks))


def weights(net: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in net.parameters()]


def adapted() -> Any:
    """The model with LoRA: few parameters train, and embeddings are none of them."""
    peft = pytest.importorskip("peft", reason="peft is not installed: pip install peft")
    lora = peft.LoraConfig(r=2, target_modules=["c_attn"], lora_dropout=0.0, fan_in_fan_out=True)
    return peft.get_peft_model(model(), lora)


@pytest.mark.parametrize(("make", "accumulate"), [(model, 1), (model, 2), (adapted, 2)])
def test_columns_and_digits_are_lightnings(tmp_path: Path, make: Callable[[], Any], accumulate: int) -> None:
    from lightning.pytorch import LightningModule, Trainer
    from torch.utils.data import DataLoader

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = make()

        def training_step(self, batch: Any, _: int) -> Any:
            return self.net(**batch).loss

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("eval_loss", self.net(**batch).loss)

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    own = callback(tmp_path)
    fit = trainer(tmp_path, own, gradient_accumulation_steps=accumulate, eval_strategy="epoch", net=make())
    fit.train()
    monitor = CostMonitor(save_dir=tmp_path / "lightning", infer=False, indicators=plain())
    lightning = Trainer(
        max_epochs=2,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=1.0,
        callbacks=[monitor],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=2,
    )
    lightning.fit(Module(), DataLoader(data(), 4, shuffle=True), DataLoader(data(8), 4))
    assert own.run is not None
    assert monitor.run is not None
    ours, theirs = own.run.final, monitor.run.final
    assert {name: ours[name] for name in SAME} == {name: theirs[name] for name in SAME}
    assert ours["flop"]
    assert list(own.run.header["indicators"]) == list(monitor.run.header["indicators"])
    assert {name for name, value in theirs.items() if value is not None} <= {
        name for name, value in ours.items() if value is not None
    }


def test_a_measured_training_ends_with_the_same_weights_rows_and_objects(tmp_path: Path) -> None:
    bare = trainer(tmp_path, eval_strategy="epoch")
    bare.train()
    own = callback(tmp_path, indicators=None)
    measured = trainer(tmp_path, own, eval_strategy="epoch")
    held = set(vars(measured)), set(vars(measured.accelerator))
    measured.train()
    assert all(map(torch.equal, weights(bare.model), weights(measured.model)))
    names = [[list(row) for row in each.state.log_history] for each in (bare, measured)]
    assert names[0] == names[1]
    assert measured.evaluate().keys() == bare.evaluate().keys()
    here = set(vars(measured)), set(vars(measured.accelerator))
    assert not {name for name in here[0] - held[0] if callable(getattr(measured, name))}
    assert here[1] <= held[1] | {"_optimizers", "_models"}
    pickle.dumps(own)


def test_an_evaluation_makes_a_point_with_its_quality_and_is_no_training(tmp_path: Path) -> None:
    own = callback(tmp_path, monitor="eval_loss", mode="min")
    training = trainer(tmp_path, own, eval_strategy="steps", eval_steps=5)
    training.train()
    assert own.run is not None
    rows = own.run.points.filter(own.run.points["trigger"] == "evaluate")
    assert rows["steps"].to_list() == [5.0, 10.0, 15.0, 20.0]
    logged = [row["eval_loss"] for row in training.state.log_history if "eval_loss" in row]
    assert rows["eval_loss"].to_list() == logged
    assert own.run.final["evaluate_s"]


def test_the_metric_of_the_best_model_is_the_quality(tmp_path: Path) -> None:
    own = callback(tmp_path)
    trainer(tmp_path, own, eval_strategy="epoch", metric_for_best_model="loss", greater_is_better=False).train()
    assert own.run is not None
    assert (own.run.header["monitor"], own.run.header["mode"]) == ("eval_loss", "min")
    assert own.run.header["hyperparameters"]["learning_rate"] == 0.01
    assert not any("dir" in name for name in own.run.header["hyperparameters"])


class Stream(torch.utils.data.IterableDataset[Any]):
    """The data without a length."""

    def __iter__(self) -> Any:
        yield from data(22)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_stream_without_a_length_is_measured(tmp_path: Path, accumulate: int) -> None:
    own = callback(tmp_path)
    steps = 9 // accumulate
    training = trainer(tmp_path, own, max_steps=steps, gradient_accumulation_steps=accumulate)
    training.train_dataset = Stream()
    training.train()
    assert own.run is not None
    final = own.run.final
    # An epoch has five batches of four and one of two.
    batches = steps * accumulate
    samples = 4 * batches - 2 * (batches > 5)
    assert [final[name] for name in ("steps", "batches", "samples", "tokens", "epochs", "dataset_samples")] == [
        *(steps, batches, samples, 12 * samples, 1, None)
    ]


def test_a_resumed_training_continues_its_totals(tmp_path: Path) -> None:
    first = callback(tmp_path)
    stopped = trainer(tmp_path, first, save_strategy="steps", save_steps=5, max_steps=10)
    stopped.train()
    second = callback(tmp_path)
    trainer(tmp_path, second).train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-5"))
    assert first.run is not None
    assert second.run is not None
    assert second.run.id == first.run.id
    assert (second.run.final["steps"], second.run.final["samples"]) == (25.0, 100.0)  # five were lost
    assert second.run.final["lost_samples"] == 20.0
    assert len(second.run.header["attempts"]) == 2
    state = json.loads((tmp_path / "out" / "checkpoint-10" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["lightning_costs"]
    assert first.run.final["checkpoint_s"]
    assert second.run.final["restore_s"]


def test_the_summary_draws_no_random_number_of_the_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)  # it draws a number when it is imported
    own, drawn = callback(tmp_path), []
    training = trainer(tmp_path, own, max_steps=2)
    end = own.on_train_end
    monkeypatch.setattr(
        own, "on_train_end", lambda *args, **kwargs: (end(*args, **kwargs), drawn.append(random.getstate()))
    )
    training.train()
    assert "rich.style" in sys.modules
    assert drawn == [random.getstate()]


def test_costs_join_the_rows_of_trackers_and_of_nobody_else(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []

    class Tracker(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            rows.append({**logs, "step": state.global_step})

    Tracker.__module__ = "transformers.integrations.some"
    seen: list[Any] = []

    class Other(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            seen.extend(logs)

    trainer(tmp_path, Tracker(), Other(), callback(tmp_path), eval_strategy="epoch").train()
    assert [row.get("cost/samples") for row in rows if "loss" in row] == [8.0 * n for n in range(1, 11)]
    assert [row.get("cost/samples") for row in rows if "eval_loss" in row] == [40.0, 80.0]
    assert not any(name.startswith("cost/") for name in seen)


def test_what_a_tracker_got_is_what_the_run_folder_has(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install tensorboard")
    own = callback(tmp_path)
    options = {"save_strategy": "epoch", "eval_strategy": "epoch", "report_to": "tensorboard"}
    trainer(tmp_path, own, **options, include_num_input_tokens_seen=True).train()
    assert own.run is not None
    (logged,) = load_runs(tmp_path / "out", monitor="eval/loss", mode="min")
    for name in ("samples", "steps", "flop"):
        assert logged.final[name] == pytest.approx(own.run.final[name], rel=1e-6)  # TensorBoard keeps float32
    state = tmp_path / "out" / "checkpoint-20" / "trainer_state.json"
    (kept,) = load_runs(state, monitor="eval_loss", mode="min")
    assert (kept.final["steps"], kept.final["tokens"]) == (own.run.final["steps"], own.run.final["tokens"])
    assert len(load_runs([tmp_path / "costs", state])) == 1  # the folder it was recorded as


@pytest.mark.integration
def test_a_wandb_run_says_who_it_is_and_what_it_cost_and_is_read_as_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 'lightning-costs[wandb]'")
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    own = callback(tmp_path, monitor="eval_loss", mode="min", targets=3.55, hyperparameters={"width": 16})
    try:
        trainer(tmp_path, own, report_to="wandb", eval_strategy="epoch").train()
        about, summary = dict(wandb.run.config["cost"]), dict(wandb.run.summary)
    finally:
        wandb.finish()
    assert own.run is not None
    assert (about["run_id"], about["monitor"], about["prefix"]) == (own.run.id, "eval_loss", "train/")
    assert about["hyperparameters"]["width"] == 16
    assert about["setup"]["trainer"] == "Trainer"
    for name in ("samples", "flop", "params", "train_s"):  # statics are in no row
        assert summary[f"train/cost/{name}"] == own.run.final[name]
    assert summary["train/cost/target_reached"] == 1
    (logged,) = load_runs(next((tmp_path / "wandb").glob("offline-run-*")), monitor="eval/loss", mode="min")
    assert (logged.final["samples"], logged.final["flop"]) == (own.run.final["samples"], own.run.final["flop"])


@pytest.mark.parametrize(("error", "status"), [(ValueError, "failed"), (KeyboardInterrupt, "interrupted")])
def test_an_error_ends_the_run_and_reaches_the_script(tmp_path: Path, error: type, status: str) -> None:
    class Raises(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                raise error("theirs")

    own = callback(tmp_path)
    training = trainer(tmp_path, own, Raises())
    with pytest.raises(error, match="theirs"):
        training.train()
    assert own.run is not None
    assert (own.run.header["status"], own.run.final["steps"]) == (status, 3.0)
    assert not {"train", "training_step", "evaluate"} & set(vars(training))


def test_a_fault_of_ours_leaves_the_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from lightning_costs.recording.step_hooks import StepHooks

    bare = trainer(tmp_path)
    bare.train()
    caplog.set_level(logging.ERROR, logger="lightning_costs")
    monkeypatch.setattr(StepHooks, "step", lambda *_, **__: 1 / 0)
    measured = trainer(tmp_path, callback(tmp_path))
    measured.train()
    assert all(map(torch.equal, weights(bare.model), weights(measured.model)))
    assert caplog.text.count("measuring costs failed and stops here; training continues") == 1


def test_a_trainer_that_overrides_its_step_is_measured(tmp_path: Path) -> None:
    class Own(transformers.Trainer):  # type: ignore[misc, name-defined]
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            return super().training_step(model, dict(inputs), num_items_in_batch)

    own = callback(tmp_path)
    trainer(tmp_path, own, kind=Own).train()
    assert own.run is not None
    assert (own.run.final["samples"], own.run.final["steps"]) == (80.0, 20.0)


def test_a_second_callback_yields_and_one_measures_two_trainings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, other = callback(tmp_path), callback(tmp_path)
    training = trainer(tmp_path, own, other, max_steps=2)
    training.train()
    training.train()
    assert other.run is None
    assert "one CostCallback measures a training" in caplog.text
    assert [run.final["steps"] for run in load_runs(tmp_path / "costs")] == [2.0, 2.0]


@pytest.mark.integration
def test_run_measures_an_unmodified_script_and_runs_the_next_sitecustomize(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, torch, transformers\n"
        "from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments\n"
        "rows = torch.randint(0, 50, (8, 12))\n"
        "config = GPT2Config(vocab_size=50, n_positions=12, n_embd=16, n_layer=1, n_head=2)\n"
        "args = TrainingArguments('out', per_device_train_batch_size=4, max_steps=3, use_cpu=True, report_to='none',\n"
        "                         save_strategy='no', disable_tqdm=True)\n"
        "data = [{'input_ids': row, 'labels': row} for row in rows]\n"
        "Trainer(GPT2LMHeadModel(config), args, train_dataset=data).train()\n"
        "import sitecustomize; print('next', sitecustomize.NEXT, 'autoload' in ' '.join(sys.path))\n"
    )
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("NEXT = 'theirs'\n")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "lightning_costs", "run", "--save-dir", str(tmp_path / "costs"), "--"]
    done = subprocess.run(
        [*command, sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "next theirs False" in done.stdout
    (run,) = load_runs(tmp_path / "costs")
    assert (run.final["steps"], run.final["samples"], run.header["status"]) == (3.0, 12.0, "finished")


def test_trainings_that_were_set_up_together_share_no_time(tmp_path: Path) -> None:
    from lightning_costs.probes.clock import now_s, run_start_s

    trainer(tmp_path, callback(tmp_path), max_steps=1).train()
    began_s = run_start_s()  # where that run ended
    first, second = callback(tmp_path), callback(tmp_path)
    both = [trainer(tmp_path, own, max_steps=2) for own in (first, second)]
    for each in both:
        each.train()
    assert first.run is not None
    assert second.run is not None
    assert first.run.final["total_s"] + second.run.final["total_s"] <= now_s() - began_s


@pytest.mark.slow
@pytest.mark.integration
def test_two_processes_are_one_run(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import torch\n"
        "from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments\n"
        "data = [{'input_ids': torch.arange(12), 'labels': torch.arange(12)} for _ in range(16)]\n"
        "config = GPT2Config(vocab_size=50, n_positions=12, n_embd=16, n_layer=1, n_head=2)\n"
        "args = TrainingArguments('out', per_device_train_batch_size=2, num_train_epochs=2, use_cpu=True,\n"
        "                         report_to='none', save_strategy='no', disable_tqdm=True, ddp_backend='gloo')\n"
        "Trainer(GPT2LMHeadModel(config), args, train_dataset=data).train()\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script)]
    command = [sys.executable, "-m", "lightning_costs", "run", "--save-dir", str(tmp_path / "costs"), "--", *launch]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = load_runs(tmp_path / "costs")
    assert (run.final["steps"], run.final["samples"], run.final["epochs"]) == (8.0, 32.0, 2.0)
    assert (run.header["setup"]["processes"], run.header["ranks"]["heard"]) == (2, 2)
    assert run.final["flop"] == pytest.approx(16 * 2 * 3 * run.final["forward_flop"], rel=0.2)  # of all ranks


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loop_with_accelerate_has_a_recorder(tmp_path: Path, accumulate: int) -> None:
    from accelerate import Accelerator
    from torch.utils.data import DataLoader

    from lightning_costs import Recorder

    accelerator, net = Accelerator(cpu=True, gradient_accumulation_steps=accumulate), model()
    net, optimizer, loader = accelerator.prepare(
        net, torch.optim.AdamW(net.parameters(), lr=0.01), DataLoader(data(), 4)
    )
    bare = accelerator.unwrap_model(net)
    recorder = Recorder(module=bare, optimizers=[optimizer], save_dir=tmp_path, indicators=plain())
    with recorder:
        for batch in recorder.wrap_loader(loader):
            with recorder.train_batch(batch), accelerator.accumulate(net):
                accelerator.backward(net(**batch).loss)
                optimizer.step()
                optimizer.zero_grad()
            recorder.step(batch, optimizer_steps=int(accelerator.sync_gradients))
        recorder.log_metrics({"acc": 0.5})
        assert {**recorder.row()}["cost/samples"] == 40.0
    own = callback(tmp_path)
    trainer(tmp_path, own, num_train_epochs=1, gradient_accumulation_steps=accumulate).train()
    assert own.run is not None
    for name in ("flop", "samples", "steps", "params", "opt_state_bytes"):
        assert recorder.final[name] == own.run.final[name]


class Freezes(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
    """Freezes a layer in the midst of the second epoch: the steps behind it do other work on the same shapes."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == 15:
            model.transformer.h[0].requires_grad_(False)


@pytest.mark.parametrize(("samples", "others"), [(80, []), (42, []), (40, [Freezes])])
def test_steps_like_the_one_before_are_only_noted_and_all_digits_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int, others: list[Any]
) -> None:
    from lightning_costs.integrations.huggingface.session import TrainerSession
    from lightning_costs.recording.step_hooks import StepHooks

    full: list[int] = []
    step, start = StepHooks.step, TrainerSession.start
    monkeypatch.setattr(StepHooks, "step", lambda *args, **kwargs: (full.append(1), step(*args, **kwargs))[1])

    def trained(*, noted: bool) -> Any:
        own = callback(tmp_path)
        training = trainer(tmp_path, own, *(each() for each in others), logging_steps=5, eval_strategy="epoch")
        training.train_dataset = data(samples)
        full.clear()
        training.train()
        assert own.run is not None
        assert (len(full) < own.run.final["batches"] - 4) == noted
        return own.run

    fast = trained(noted=True)
    monkeypatch.setattr(TrainerSession, "start", lambda self: (start(self), setattr(self, "repeating", False)))
    slow = trained(noted=False)
    assert {name: fast.final[name] for name in SAME} == {name: slow.final[name] for name in SAME}
    columns = ["step", "trigger", "steps", "samples", "tokens", "flop", "epochs"]
    assert fast.points.select(columns).rows() == slow.points.select(columns).rows()
    assert fast.final["samples"] == 2 * samples
    agree(fast)


def test_passes_and_updates_are_phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr("lightning_costs.probes.phases.now_s", clock)

    class Timed(transformers.Trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            clock.sleep(2.0)
            return super().compute_loss(*args, **kwargs)

        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            optimizer = super().create_optimizer(*args, **kwargs)
            optimizer.register_step_post_hook(lambda *_: clock.sleep(1.0))
            return optimizer

    own = CostCallback(
        save_dir=tmp_path, infer=False, indicators=[phases.ForwardS(), phases.BackwardS(), phases.OptimizerS()]
    )
    fit = trainer(tmp_path, own, kind=Timed, gradient_accumulation_steps=2)
    next(fit.model.parameters()).register_hook(lambda _: clock.sleep(4.0))
    fit.train()
    assert own.run is not None
    steps = fit.state.global_step
    assert {name: own.run.final[name] for name in ("forward_s", "backward_s", "optimizer_s")} == {
        "forward_s": 2.0 * 2 * steps,
        "backward_s": 4.0 * 2 * steps,
        "optimizer_s": 1.0 * steps,
    }
    assert not any(isinstance(value, Shadow) for value in vars(fit.optimizer).values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_that_are_only_noted_are_on_the_devices_timeline(tmp_path: Path) -> None:
    own = callback(tmp_path)
    training = trainer(tmp_path, own, use_cpu=False, logging_steps=40, num_train_epochs=8)
    training.train()
    assert own.run is not None
    final = own.run.final
    assert (final["steps"], final["samples"]) == (80.0, 320.0)
    assert 0 < final["timed_s"] <= final["train_s"] * 1.01  # every step outside warm-up, noted or recorded
    assert final["idle_s"] is not None
    assert final["step_p50_s"]

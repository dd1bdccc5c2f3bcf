"""Counts and memory of real training loops, against closed forms: every way users write them."""

from __future__ import annotations

import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning_models import NAMESPACES, Dicts, Stream, classifier, data, namespace, trainer
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, default_collate

from lightning_costs import CostMonitor, Measured, Missing, default_indicators, load_run, load_runs
from lightning_costs.probes.opcount import sampling
from lightning_costs.probes.repeat_steps import RepeatedStepFastPath
from lightning_costs.run.record import RunRecord

pl = namespace("lightning.pytorch")

#: Forward 2mn a layer; backward the same for weights, and for inputs of every layer but the first.
FLOP_PER_SAMPLE = 2 * (16 * 32 + 32 * 4) + 2 * (16 * 32 + 32 * 4) + 2 * 32 * 4
WEIGHT_BYTES = 4 * (16 * 32 + 32 + 32 * 4 + 4)


def fit(tmp_path: Path, model: Any, *loaders: Any, monitor: dict[str, Any] | None = None, **options: Any) -> RunRecord:
    watcher = CostMonitor(save_dir=tmp_path / "costs", **(monitor or {}))
    trainer(pl, watcher, **{"num_sanity_val_steps": 0, **options}).fit(model, *loaders)
    assert watcher.run is not None
    return watcher.run


@pytest.mark.parametrize("name", NAMESPACES)
def test_counts_of_a_plain_run_are_exact(tmp_path: Path, name: str) -> None:
    lib = namespace(name)
    monitor = CostMonitor(save_dir=tmp_path)
    assert isinstance(monitor, lib.Callback)
    trainer(lib, monitor).fit(classifier(lib), data(samples=60), data())
    assert monitor.run is not None
    final = monitor.run.final
    assert final["samples"] == 120
    assert (final["batches"], final["steps"], final["optimizer_steps"], final["epochs"]) == (16, 16, 16, 2)
    assert final["flop"] == 120 * FLOP_PER_SAMPLE
    assert final["mac"] == 60 * FLOP_PER_SAMPLE
    assert final["params"] == final["trainable_params"] == WEIGHT_BYTES / 4
    assert final["param_bytes"] == final["grad_bytes"] == final["opt_state_bytes"] == WEIGHT_BYTES
    assert final["dataset_samples"] == 60
    assert monitor.run.points["val/acc"].drop_nulls().len() == 2


def test_sam_takes_two_passes_and_a_second_copy_of_the_weights_inside_the_step(tmp_path: Path) -> None:
    sgd = fit(tmp_path / "sgd", classifier(pl), data()).final
    sam = fit(tmp_path / "sam", classifier(pl, optimizer="sam"), data()).final
    assert sam["samples"] == sgd["samples"]
    assert sam["flop"] == pytest.approx(2.0 * sgd["flop"], rel=0.01)  # type: ignore[operator]
    assert sam["optimizer_steps"] == sgd["optimizer_steps"]
    assert sgd["opt_peak_bytes"] == sgd["opt_state_bytes"] == sgd["param_bytes"]
    assert sam["opt_state_bytes"] == sgd["opt_state_bytes"]
    assert sam["opt_peak_bytes"] - sam["opt_state_bytes"] == sam["param_bytes"]  # type: ignore[operator]


def test_adam_holds_two_moments(tmp_path: Path) -> None:
    final = fit(tmp_path, classifier(pl, optimizer="adam"), data()).final
    steps_of_four_tensors = 4 * 4
    assert final["opt_state_bytes"] == 2 * WEIGHT_BYTES + steps_of_four_tensors


def test_the_census_leaves_the_weights_bit_for_bit_as_they_are(tmp_path: Path) -> None:
    def weights(*callbacks: Any) -> Tensor:
        torch.manual_seed(3)
        model = classifier(pl)
        model.net.insert(1, nn.Dropout(0.5))
        trainer(pl, *callbacks).fit(model, data(), data())
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(), weights(CostMonitor(save_dir=tmp_path)))


@pytest.mark.parametrize(("accumulate", "steps"), [(2, 8), (3, 6)])
def test_accumulated_batches_are_one_step(tmp_path: Path, accumulate: int, steps: int) -> None:
    run = fit(tmp_path, classifier(pl), data(), accumulate_grad_batches=accumulate)
    assert (run.final["batches"], run.final["steps"]) == (16, steps)
    assert run.final["samples"] == 128
    assert run.final["flop"] == 128 * FLOP_PER_SAMPLE


def test_a_gan_with_manual_optimization_steps_twice_on_a_batch(tmp_path: Path) -> None:
    class Gan(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.g, self.d = nn.Linear(16, 16), nn.Linear(16, 1)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for optimizer, net in zip(self.optimizers(), (self.g, self.d), strict=True):
                optimizer.zero_grad()
                self.manual_backward(net(batch[0]).sum())
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(net.parameters(), 0.01) for net in (self.g, self.d)], []

    run = fit(tmp_path, Gan(), data())
    assert (run.final["steps"], run.final["optimizer_steps"]) == (16, 32)
    assert run.final["flop"] == 128 * 2 * 2 * (16 * 16 + 16)


def test_steps_of_equal_shapes_that_do_different_work_are_told_apart(tmp_path: Path) -> None:
    class Alternating(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.small, self.big = nn.Linear(16, 2), nn.Linear(16, 200)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            which = batch_idx % 2
            optimizer = self.optimizers()[which]
            optimizer.zero_grad()
            self.manual_backward((self.small, self.big)[which](batch[0]).sum())
            optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(net.parameters(), 0.01) for net in (self.small, self.big)], []

    run = fit(tmp_path, Alternating(), data())
    assert run.final["flop"] == 64 * 2 * 2 * 16 * (2 + 200)


def test_batches_without_a_loss_are_counted_for_what_they_did(tmp_path: Path) -> None:
    class Skips(type(classifier(pl))):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx % 4 == 0 else loss

    with pytest.warns(UserWarning, match="returned `None`"):
        run = fit(tmp_path, Skips(), data())
    forward = 2 * (16 * 32 + 32 * 4)
    assert run.final["flop"] == 96 * FLOP_PER_SAMPLE + 32 * forward


def test_an_epoch_that_the_module_cuts_short_counts_what_was_trained(tmp_path: Path) -> None:
    class Cuts(type(classifier(pl))):  # type: ignore[misc]
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 3 else None

    run = fit(tmp_path, Cuts(), data())
    assert (run.final["batches"], run.final["steps"]) == (6, 6)
    assert run.final["flop"] == 48 * FLOP_PER_SAMPLE


def test_an_epoch_begins_after_one_that_was_cut_short_among_steps_that_repeat(tmp_path: Path) -> None:
    class Cuts(type(classifier(pl))):  # type: ignore[misc]
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            return -1 if batch_idx == 40 else None

    run = fit(tmp_path, Cuts(), data(samples=8 * 50), log_every_n_steps=1000, max_epochs=4)
    assert (run.final["batches"], run.final["samples"]) == (160, 160 * 8), run.header["missing"]


def test_halves_of_sam_that_a_script_calls_are_one_update(tmp_path: Path) -> None:
    class Manual(type(classifier(pl, optimizer="sam"))):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            for half in (optimizer.first_step, optimizer.second_step):
                self.manual_backward(nn.functional.cross_entropy(self.net(batch[0]), batch[1]))
                half(zero_grad=True)

        def configure_optimizers(self) -> Any:
            from pytorch_optimizer import SAM

            return SAM(self.parameters(), torch.optim.SGD, lr=0.05)

    model = Manual()
    model.automatic_optimization = False
    run = fit(tmp_path, model, data())
    assert (run.final["steps"], run.final["optimizer_steps"]) == (16, 16)
    assert run.final["samples_per_s"]


def test_layers_unfrozen_on_the_way_are_counted_from_then_on(tmp_path: Path) -> None:
    class Unfreeze(pl.callbacks.BaseFinetuning):
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.net[0])

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
            if epoch == 1:
                self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)

    class Trainable(type(classifier(pl))):  # type: ignore[misc]
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.05, momentum=0.9)

    monitor = CostMonitor(save_dir=tmp_path)
    trainer(pl, monitor, Unfreeze(), max_epochs=3).fit(Trainable(), data(), data())
    assert monitor.run is not None
    final = monitor.run.final
    of_the_last_layer = 2 * (16 * 32 + 32 * 4) + 2 * 32 * 4
    assert final["flop"] == 64 * of_the_last_layer + 128 * FLOP_PER_SAMPLE
    assert final["opt_state_bytes"] == final["opt_peak_bytes"] == WEIGHT_BYTES


def test_a_network_that_grows_between_epochs_is_counted_at_each_of_its_sizes(tmp_path: Path) -> None:
    class Grows(type(classifier(pl))):  # type: ignore[misc]
        def on_train_epoch_start(self) -> None:
            width = 32 << self.current_epoch
            self.net = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 4))
            self.trainer.strategy.optimizers[0].param_groups[0]["params"] = list(self.net.parameters())

    run = fit(tmp_path, Grows(), data(), max_epochs=3)
    assert run.final["flop"] == 64 * FLOP_PER_SAMPLE * (1 + 2 + 4)


def test_layers_pruned_on_the_way_are_counted_anew_and_their_zeros_at_the_end(tmp_path: Path) -> None:
    class Prunes(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                prune.l1_unstructured(pl_module.net[0], "weight", amount=0.5)

    dense, pruned = CostMonitor(save_dir=tmp_path), CostMonitor(save_dir=tmp_path)
    for monitor, more in ((dense, ()), (pruned, (Prunes(),))):
        trainer(pl, monitor, *more, max_epochs=2).fit(classifier(pl), data(), data())
    assert dense.run is not None
    assert pruned.run is not None
    assert pruned.run.final["flop"] == dense.run.final["flop"]  # a mask makes no product smaller
    assert pruned.run.final["mem_access_bytes"] > dense.run.final["mem_access_bytes"]  # and has to be read
    assert dense.run.final["nonzero_params"] - pruned.run.final["nonzero_params"] == 16 * 32 / 2


def test_a_step_that_fetches_its_own_batches_says_what_it_cannot_count(tmp_path: Path) -> None:
    class Fetches(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(16, 4)

        def training_step(self, dataloader_iter: Any) -> Tensor:
            (x, y), _, _ = next(dataloader_iter)
            time.sleep(0.004)
            return nn.functional.cross_entropy(self.net(x), y)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    def slowly(samples: list[Any]) -> Any:
        time.sleep(0.02)
        return default_collate(samples)

    with pytest.warns(UserWarning, match="dataloader_iter"):
        run = fit(tmp_path, Fetches(), DataLoader(data().dataset, 8, collate_fn=slowly))
    costs = run.final
    assert (costs["steps"], costs["samples"]) == (16, 128)
    assert costs["data_wait_s"] >= 16 * 0.02
    assert 16 * 0.004 <= costs["forward_s"] < costs["train_s"] - costs["data_wait_s"], "waiting is no forward pass"
    assert costs["backward_s"] > 0
    assert run.final["flop"] is None
    assert "shapes are unknown" in run.header["missing"]["flop"]


def test_dict_batches_tell_samples_and_tokens(tmp_path: Path) -> None:
    class Tagger(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Embedding(7, 8), nn.Flatten(), nn.Linear(40, 4))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return nn.functional.cross_entropy(self.net(batch["input_ids"]), batch["labels"])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    run = fit(tmp_path, Tagger(), DataLoader(Dicts(), 8))
    assert (run.final["samples"], run.final["tokens"]) == (64, 320)
    assert run.final["tokens_per_s"] == pytest.approx(5 * run.final["samples_per_s"])  # type: ignore[operator]
    halved = fit(tmp_path, Tagger(), DataLoader(Dicts(), 8), monitor={"length_fn": lambda b: 3 * len(b["labels"])})
    assert halved.final["tokens"] == 192


class Pair(NamedTuple):
    """A batch that is no tensor at its top."""

    texts: list[str]
    count: int


def test_custom_batches_need_a_batch_size_fn_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Custom(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 1)

        def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
            return self.net(torch.ones(batch.count, 4)).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    loader = DataLoader([Pair(["a"], 3)] * 6, batch_size=None)
    blind = fit(tmp_path, Custom(), loader)
    assert blind.final["samples"] is None
    assert "batch_size_fn" in blind.header["missing"]["samples"]
    assert [r.message for r in caplog.records if "samples is recorded" in r.message]
    assert blind.final["steps"] == 12
    told = fit(tmp_path, Custom(), loader, monitor={"batch_size_fn": lambda batch: batch.count})
    assert told.final["samples"] == 36


def test_iterable_datasets_without_a_length_are_counted(tmp_path: Path) -> None:
    run = fit(tmp_path, classifier(pl), DataLoader(Stream(60), 8), log_every_n_steps=3)
    assert (run.final["samples"], run.final["batches"], run.final["epochs"]) == (120, 16, 2)
    assert run.final["flop"] == 120 * FLOP_PER_SAMPLE
    assert run.final["dataset_samples"] is None


def test_several_validation_loaders_give_one_point_each_evaluation(tmp_path: Path) -> None:
    run = fit(tmp_path, classifier(pl), data(), [data(32), data(16)])
    evaluated = run.points.filter(run.points["trigger"] == "evaluate")
    assert evaluated.height == 2
    assert set(run.quality_columns) == {"val/acc/dataloader_idx_0", "val/acc/dataloader_idx_1"}
    assert evaluated["val/acc/dataloader_idx_0"].null_count() == 0


def test_validation_inside_an_epoch_is_stamped_with_lightnings_step(tmp_path: Path) -> None:
    run = fit(tmp_path, classifier(pl), data(), data(16), val_check_interval=4, log_every_n_steps=0)
    evaluated = run.points.filter(run.points["trigger"] == "evaluate")
    assert evaluated["step"].to_list() == [3, 7, 11, 15]
    assert evaluated["steps"].to_list() == [4, 8, 12, 16]


def test_a_metric_of_the_training_can_be_the_quality(tmp_path: Path) -> None:
    class Logs(type(classifier(pl))):  # type: ignore[misc]
        def on_train_epoch_end(self) -> None:
            self.log("train/score", float(self.current_epoch))

    run = fit(tmp_path, Logs(), data(), monitor={"monitor": "train/score", "mode": "max"})
    assert run.points["train/score"].drop_nulls().to_list() == [0.0, 1.0]


def test_fast_dev_run_and_sanity_checks_leave_nothing(tmp_path: Path) -> None:
    monitor = CostMonitor(save_dir=tmp_path / "costs")
    trainer(pl, monitor, fast_dev_run=True).fit(classifier(pl), data(), data())
    assert not (tmp_path / "costs").exists()
    run = fit(tmp_path, classifier(pl), data(), data(), num_sanity_val_steps=2)
    assert run.points.filter(run.points["trigger"] == "evaluate").height == 2


def test_monitor_and_mode_come_from_the_trainers_callbacks(tmp_path: Path) -> None:
    monitor = CostMonitor(save_dir=tmp_path)
    stopping = pl.callbacks.EarlyStopping("val/acc", mode="max")
    trainer(pl, monitor, stopping).fit(classifier(pl), data(), data())
    assert monitor.run is not None
    assert (monitor.run.header["monitor"], monitor.run.header["mode"]) == ("val/acc", "max")
    with pytest.raises(ValueError, match="monitor='val/acc' needs mode="):
        CostMonitor(monitor="val/acc")


class Sneezes(Measured):
    """A user's own indicator: one class."""

    name, unit, kind, family = "sneeze_calls", "calls", "counter", "data"

    def read(self, sample: Any) -> float:
        return 2.0 * sample.steps


class Broken(Measured):
    name, unit, kind, family = "broken_calls", "calls", "counter", "data"

    def read(self, sample: Any) -> float:
        raise RuntimeError("the probe fell off")


class Absent(Measured):
    name, unit, kind, family = "absent_w", "w", "gauge", "energy"

    def open(self, setting: Any) -> None:
        raise Missing("no such meter here")

    def read(self, sample: Any) -> float:
        return 0.0


def test_ones_own_indicator_is_one_class_and_a_broken_one_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = {"indicators": [*default_indicators(), Sneezes(), Broken(), Absent()]}
    with caplog.at_level(logging.WARNING, "lightning_costs"):
        run = fit(tmp_path, classifier(pl), data(), monitor=own)
    assert run.final["sneeze_calls"] == 32
    assert run.final["broken_calls"] is None
    assert run.header["missing"]["broken_calls"] == "RuntimeError (its text is in the log)"
    assert run.header["missing"]["absent_w"] == "no such meter here"
    assert sum("broken_calls is recorded as missing" in r.message for r in caplog.records) == 1
    assert run.final["flop"] == 128 * FLOP_PER_SAMPLE


def test_a_fault_in_measuring_itself_is_said_once_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: Any, **__: Any) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("lightning_costs.records.window.Window.add_batch", fault)
    fitted = trainer(pl, CostMonitor(save_dir=tmp_path))
    fitted.fit(classifier(pl), data(), data())
    assert fitted.global_step == 16
    assert [r.message for r in caplog.records if "measuring costs failed" in r.message]
    assert sum("measuring costs failed" in r.message for r in caplog.records) == 1
    assert "run" not in vars(fitted.fit_loop)
    (run,) = load_runs(tmp_path)
    assert run.header["status"] == "failed"


def test_energy_carbon_and_money_follow_the_tariff(tmp_path: Path) -> None:
    from lightning_costs import Tariff

    tariff = Tariff(gco2e_per_kwh=100.0, pue=1.5, usd_per_kwh=0.2, usd_per_node_h=3.6)
    final = fit(tmp_path, classifier(pl), data(), monitor={"tariff": tariff}).final
    energy_j = final["energy_j"]
    assert energy_j is not None
    assert energy_j > 0
    assert final["co2e_g"] == pytest.approx(energy_j / 3.6e6 * 1.5 * 100)
    assert final["electricity_usd"] == pytest.approx(energy_j / 3.6e6 * 1.5 * 0.2)
    assert final["cloud_usd"] == pytest.approx(final["total_s"] * 0.001)  # type: ignore[operator]
    assert final["device_s"] == pytest.approx(final["total_s"])
    unpriced = fit(tmp_path, classifier(pl), data())
    assert unpriced.final["co2e_g"] is unpriced.final["cloud_usd"] is None
    assert "LIGHTNING_COSTS_COUNTRY" in unpriced.header["missing"]["co2e_g"]


def test_a_resumed_fit_continues_the_runs_totals(tmp_path: Path) -> None:
    checkpoint = pl.callbacks.ModelCheckpoint(dirpath=tmp_path / "ckpt", save_last=True)
    first = CostMonitor(save_dir=tmp_path / "costs", name="resumed")
    trainer(pl, first, checkpoint, enable_checkpointing=True).fit(classifier(pl), data(), data())
    shutil.copy(tmp_path / "ckpt" / "last.ckpt", tmp_path / "two-epochs.ckpt")
    second = CostMonitor(save_dir=tmp_path / "costs")
    again = trainer(pl, second, checkpoint, enable_checkpointing=True, max_epochs=3)
    again.fit(classifier(pl), data(), data(), ckpt_path=tmp_path / "ckpt" / "last.ckpt")
    (run,) = load_runs(tmp_path / "costs")
    assert first.run is not None
    assert run.id == first.run.id
    assert run.final["samples"] == 3 * 64
    assert run.final["flop"] == 3 * 64 * FLOP_PER_SAMPLE
    assert run.final["total_s"] > first.run.final["total_s"]  # type: ignore[operator]
    assert [a["status"] for a in run.header["attempts"]] == ["finished", "finished"]
    assert run.points["total_s"].is_sorted()
    elsewhere = CostMonitor(save_dir=tmp_path / "elsewhere")
    again = trainer(pl, elsewhere, checkpoint, enable_checkpointing=True, max_epochs=3)
    again.fit(classifier(pl), data(), data(), ckpt_path=tmp_path / "two-epochs.ckpt")
    moved = load_run(tmp_path / "elsewhere" / run.id)
    assert moved.final["samples"] == 3 * 64


def test_a_compiled_model_is_counted_as_it_runs(tmp_path: Path) -> None:
    runs: list[int] = []

    def backend(graph: Any, example: Any) -> Any:
        def run(*args: Any) -> Any:
            runs.append(1)
            return graph.forward(*args)

        return run

    model = classifier(pl)
    model.net = torch.compile(model.net, backend=backend)
    final = fit(tmp_path, model, data()).final
    assert final["flop"] == 128 * FLOP_PER_SAMPLE
    assert len(runs) == 16


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"log_every_n_steps": 1},
        {"log_every_n_steps": 7, "val_check_interval": 5},
        {"accumulate_grad_batches": 3},
        {"max_epochs": -1, "max_steps": 21},
        {"limit_train_batches": 9},
    ],
    ids=str,
)
def test_steps_that_repeat_are_counted_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    booked: list[bool] = []
    # Counted steps are no steady ones, and seconds decide which are counted: here all that may be.
    monkeypatch.setattr(sampling, "ALLOWED_S", math.inf)

    def fitted(folder: str) -> RunRecord:
        monitor = CostMonitor(save_dir=tmp_path / folder, infer=False)
        quiet = {"max_epochs": 2, "log_every_n_steps": 4, **options}
        trainer(pl, monitor, **quiet).fit(classifier(pl), data(156, 8), data())  # the last batch is a short one
        assert monitor.run is not None
        return monitor.run

    again = RepeatedStepFastPath._try_record
    monkeypatch.setattr(RepeatedStepFastPath, "_try_record", lambda self: (booked.append(again(self)), booked[-1])[1])
    fast = fitted("fast")
    monkeypatch.setattr(RepeatedStepFastPath, "_try_record", lambda self: False)
    slow = fitted("slow")
    assert any(booked) == (options.get("log_every_n_steps") != 1 and "accumulate_grad_batches" not in options)
    counted = [
        name
        for name, declared in slow.header["indicators"].items()
        if declared["kind"] == "counter" and declared["family"] in ("data", "compute") and slow.final[name] is not None
    ]
    assert {"steps", "samples", "flop", "epochs", "steady_samples", "steady_flop", "batches"} <= set(counted)
    for column in ("step", "epoch", "trigger", *counted):
        assert fast.points[column].to_list() == slow.points[column].to_list(), column


def test_lightning_calls_no_hook_of_ours_for_a_step_that_repeats(tmp_path: Path) -> None:
    """Nor misses one that has a body of the user's own."""

    class Mine(CostMonitor):
        ended = 0

        def on_train_batch_end(self, *args: Any) -> None:
            self.ended += 1
            super().on_train_batch_end(*args)

    hooks: dict[type, int] = {}
    runs: list[RunRecord] = []
    for kind in (CostMonitor, Mine):
        monitor = kind(save_dir=tmp_path / kind.__name__, infer=False)
        profiler = pl.profilers.SimpleProfiler()
        trainer(pl, monitor, max_epochs=2, log_every_n_steps=10, profiler=profiler).fit(classifier(pl), data(320, 8))
        ours = f"{kind.__name__}.on_train_batch_end"
        hooks[kind] = sum(len(took) for name, took in profiler.recorded_durations.items() if name.endswith(ours))
        assert monitor.run is not None
        runs.append(monitor.run)
    assert hooks[Mine] == monitor.ended == 80
    assert hooks[CostMonitor] < 60
    assert [run.final["steps"] for run in runs] == [80, 80]


def test_a_batch_that_is_none_after_steps_that_repeat_is_no_step(tmp_path: Path) -> None:
    class Gaps(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, n: int) -> Any:
            return None if n == 30 else (torch.ones(8, 16), torch.zeros(8, dtype=torch.long))

    monitor = CostMonitor(save_dir=tmp_path, infer=False)
    loader = DataLoader(Gaps(), batch_size=None)
    with pytest.warns(UserWarning, match="yielded None"):
        trainer(pl, monitor, max_epochs=2, log_every_n_steps=50).fit(classifier(pl), loader)
    assert monitor.run is not None
    assert (monitor.run.final["steps"], monitor.run.final["batches"]) == (78, 80)


def swapped(way: str, fitting: Any, module: Any) -> None:
    """Other optimizers in the place of a trainer's."""
    if way == "setup_optimizers":
        fitting.strategy.setup_optimizers(fitting)
    else:
        fitting.strategy.optimizers = [torch.optim.Adam(module.parameters(), 0.01)]


@pytest.mark.parametrize("way", ["setup_optimizers", "optimizers"])
@pytest.mark.parametrize("where", ["epoch", "batch", "step"])
@pytest.mark.parametrize("manual", [False, True])
def test_steps_go_on_when_optimizers_are_replaced(tmp_path: Path, way: str, where: str, *, manual: bool) -> None:
    class Replaces(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.automatic_optimization = nn.Linear(16, 4), not manual

        def on_train_epoch_start(self) -> None:
            if where == "epoch" and self.current_epoch:
                swapped(way, self.trainer, self)

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if where == "batch" and batch_idx == 30:
                swapped(way, self.trainer, self)

        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            if where == "step" and batch_idx == 30:
                swapped(way, self.trainer, self)
            loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            if manual:
                self.optimizers().zero_grad()
                self.manual_backward(loss)
                self.optimizers().step()
                return None
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    run = fit(tmp_path, Replaces(), data(8 * 50))
    assert (run.final["steps"], run.final["optimizer_steps"], run.final["samples"]) == (100, 100, 800)
    assert run.final["flop"] == 800 * 2 * 2 * 16 * 4


@pytest.mark.parametrize("limit", [1.0, 7, 8, 9, 100])
def test_an_epoch_of_a_stream_is_one_whatever_its_limit(tmp_path: Path, limit: float) -> None:
    run = fit(tmp_path, classifier(pl), DataLoader(Stream(60), 8), limit_train_batches=limit)
    assert run.final["epochs"] == 2
    assert run.final["batches"] == 2 * min(8, 8 if limit == 1.0 else limit)


@pytest.mark.filterwarnings("ignore:Your `IterableDataset` has `__len__`")
def test_a_loader_that_is_shorter_than_it_says_has_its_epochs(tmp_path: Path) -> None:
    class Says(DataLoader[Any]):
        def __len__(self) -> int:
            return 100

    run = fit(tmp_path, classifier(pl), Says(Stream(60), 8))
    assert (run.final["epochs"], run.final["batches"]) == (2, 16)


@pytest.mark.filterwarnings("ignore:Total length of `list`")
def test_no_validation_costs_no_flops(tmp_path: Path) -> None:
    monitor = CostMonitor(save_dir=tmp_path, infer=False)
    trainer(pl, monitor).fit(classifier(pl), data(), [])
    assert monitor.run is not None
    assert monitor.run.final["evaluate_flop"] == 0

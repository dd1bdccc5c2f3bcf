"""Mistakes in a script, each with the message that it gets: at once, and never at the training's cost."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_models import classifier, data, namespace, trainer

from lightning_costs import CostMonitor, Recorder, load_runs
from lightning_costs.integrations.lightning.trainer_view import saved_hyperparameters

pl = namespace("lightning.pytorch")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.WARNING, logger="lightning_costs")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "lightning_costs"]


def fitted(*callbacks: Any, module: Any = None, **options: Any) -> Any:
    fit = trainer(pl, *callbacks, **options)
    fit.fit(module or classifier(pl), data(), data())
    return fit


class When(pl.Callback):
    """Notes what had been said when training goes on after the first evaluation."""

    def __init__(self, said: Any) -> None:
        self.said, self.after_first = said, None

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking and self.after_first is None:
            self.after_first = list(self.said())
        else:
            assert not trainer.sanity_checking or not self.said()


def test_a_slip_in_the_name_of_the_metric_is_told_after_the_first_evaluation(tmp_path: Path, said: Any) -> None:
    when = When(said)
    fitted(CostMonitor(monitor="val_acc", mode="max", save_dir=tmp_path), when, num_sanity_val_steps=1, max_epochs=2)
    (text,) = said()
    assert when.after_first == [text]
    assert text.startswith(
        "monitor='val_acc' was not logged, so no quality is recorded. Did you mean 'val/acc'? Logged: "
    )


def test_a_metric_that_nothing_is_like_is_told_at_the_end_of_the_first_epoch_with_those_there_are(
    tmp_path: Path, said: Any
) -> None:
    fitted(CostMonitor(monitor="bleu", mode="max", save_dir=tmp_path), max_epochs=2)
    (text,) = said()
    assert text.startswith("monitor='bleu' was not logged, so no quality is recorded. Logged: ")


@pytest.mark.parametrize("name", ["val/acc", "train/epoch_metric", "train/late"])
def test_a_metric_that_is_logged_late_in_an_epoch_is_no_mistake(tmp_path: Path, said: Any, name: str) -> None:
    class Late(type(classifier(pl))):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("train/epoch_metric", 1.0, on_step=False, on_epoch=True)
            return super().training_step(batch, batch_idx)

        def on_train_epoch_end(self) -> None:
            self.log("train/late", 2.0)

    module = classifier(pl)
    module.__class__ = Late
    fitted(
        CostMonitor(monitor=name, mode="max", save_dir=tmp_path), module=module, max_epochs=2, val_check_interval=0.5
    )
    assert said() == []


def test_a_training_that_evaluates_nothing_is_told_at_its_end(tmp_path: Path, said: Any) -> None:
    trainer(pl, CostMonitor(monitor="val/acc", mode="max", save_dir=tmp_path)).fit(classifier(pl), data())
    (text,) = said()
    assert text.startswith("monitor='val/acc' was not logged, so no quality is recorded.")


def test_a_loop_without_lightning_is_told_too(tmp_path: Path, said: Any) -> None:
    with Recorder(monitor="acc", mode="max", save_dir=tmp_path) as recorder:
        recorder.step(torch.zeros(8, 3))
        recorder.log_metrics({"Acc": 0.5})
        recorder.log_metrics({"Acc": 0.6})
    assert said() == [
        "monitor='acc' was not logged, so no quality is recorded. Did you mean 'Acc'? Logged: Acc",
    ]


@pytest.mark.parametrize("same", [True, False])
def test_the_same_monitor_twice_or_two_are_one_and_samples_are_counted_once(
    tmp_path: Path, said: Any, same: bool
) -> None:
    first = CostMonitor(save_dir=tmp_path, infer=False)
    second = first if same else CostMonitor(save_dir=tmp_path, infer=False)
    fit = trainer(pl, first, second, max_epochs=1)
    fit.fit(classifier(pl), data(), data())
    (run,) = load_runs(tmp_path)
    assert (run.final["samples"], run.final["steps"], run.final["batches"]) == (64.0, 8.0, 8.0)
    assert run.final["flop"] is not None
    (text,) = said()
    assert text == (
        "one CostMonitor measures a fit, the first of the Trainer's callbacks; another, or the same one again, does "
        "nothing. Leave it out"
    )
    fit.fit_loop.max_epochs = 2
    fit.fit(classifier(pl), data(), data())
    assert len(said()) == 1, "once"


@pytest.mark.parametrize("make", [CostMonitor, Recorder])
def test_a_mode_of_no_metric_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"mode='max' needs monitor=, the name of the metric"):
        make(mode="max")


def test_targets_of_no_metric_are_refused_when_none_is_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"targets=0\.9 need monitor= and mode=: which metric are they targets of\?"):
        fitted(CostMonitor(targets=0.9, save_dir=tmp_path))
    with pytest.raises(ValueError, match=r"targets=\[0\.9, 0\.95\] need monitor="):
        Recorder(targets=[0.9, 0.95], save_dir=tmp_path)
    stop = pl.callbacks.EarlyStopping("val/acc", mode="max")
    fitted(CostMonitor(targets=0.9, save_dir=tmp_path), stop)
    (run,) = load_runs(tmp_path)
    assert (run.header["monitor"], run.header["targets"]) == ("val/acc", [0.9])


def test_a_number_is_a_target_and_a_text_is_none(tmp_path: Path) -> None:
    fitted(CostMonitor(monitor="val/acc", mode="max", targets=0.5, save_dir=tmp_path))
    assert load_runs(tmp_path)[0].header["targets"] == [0.5]
    with pytest.raises(ValueError, match=r"targets must be numbers, such as 0\.9 or \[0\.9, 0\.95\], got '0\.9'"):
        CostMonitor(monitor="val/acc", mode="max", targets="0.9")  # type: ignore[arg-type]


def test_a_trainer_that_logs_no_step_is_told_what_that_means_for_costs(tmp_path: Path, said: Any) -> None:
    fitted(CostMonitor(save_dir=tmp_path), log_every_n_steps=0)
    assert said() == [
        "the Trainer has log_every_n_steps=0: costs have points at evaluations and the end only. "
        "CostMonitor(log_every_n_steps=50) makes more"
    ]
    (run,) = load_runs(tmp_path)
    assert set(run.points["trigger"]) == {"evaluate", "end"}


def test_points_at_evaluations_only_can_be_asked_for_without_a_word(tmp_path: Path, said: Any) -> None:
    fitted(CostMonitor(save_dir=tmp_path, log_every_n_steps=0))
    assert said() == []


@pytest.mark.parametrize("steps", [-1, 1.5, "50", True])
def test_an_interval_that_is_none_is_refused(steps: Any) -> None:
    with pytest.raises(ValueError, match="log_every_n_steps must be a whole number of at least 0, got"):
        CostMonitor(log_every_n_steps=steps)


def test_a_tariff_is_taken_as_a_path_and_as_a_dict(tmp_path: Path) -> None:
    (tmp_path / "tariff.toml").write_text("usd_per_device_h = 3600.0\n")
    for tariff in ({"usd_per_device_h": 3600.0}, tmp_path / "tariff.toml", str(tmp_path / "tariff.toml")):
        monitor = CostMonitor(save_dir=tmp_path / "costs", tariff=tariff, infer=False)
        fitted(monitor, max_epochs=1)
        assert monitor.run is not None
        assert monitor.run.final["cloud_usd"] == pytest.approx(monitor.run.final["node_s"])


@pytest.mark.parametrize(
    ("tariff", "text"),
    [
        ("nope.toml", r"the tariff file nope\.toml cannot be read: No such file or directory"),
        (3, r"tariff must be a Tariff, its fields by name or the path of a TOML file, got 3"),
        ({"usd_per_gpu_h": 2.0}, r"a tariff has no field 'usd_per_gpu_h'; it has .*did you mean usd_per_kwh"),
    ],
)
def test_a_tariff_that_is_none_is_refused_in_words(tariff: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        CostMonitor(tariff=tariff)


def test_a_folder_that_cannot_be_written_is_told_before_training_and_the_end_prints_no_command(
    tmp_path: Path, said: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "costs").write_text("a file")
    before: list[str] = []

    class Note(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            before.extend(said()[len(before) :])

    monitor = CostMonitor(save_dir=tmp_path / "costs")
    assert fitted(monitor, Note()).global_step == 16
    assert said() == before
    assert before == [
        f"costs cannot be written to {tmp_path / 'costs'}: {tmp_path / 'costs'} is a file. Training continues; unless "
        "that is mended, no run is recorded. Give another save_dir"
    ]
    err = capfd.readouterr().err
    assert "What run" in err
    assert "missing: " in err
    assert not [word for word in ("next:", "command below") if word in err]


def test_what_modules_saved_is_in_the_header_and_nothing_is_put_into_one_that_saved_nothing(tmp_path: Path) -> None:
    class Data(pl.LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"folder": "/home/ada/cifar10", "width": 1, "seed": 5})

        def train_dataloader(self) -> Any:
            return data()

        def val_dataloader(self) -> Any:
            return data()

    module = classifier(pl)
    module.save_hyperparameters({"width": 8, "loss": torch.zeros(2), "wandb_key": "abc"}, logger=False)
    monitor = CostMonitor(save_dir=tmp_path, infer=False, hyperparameters={"depth": 4})
    trainer(pl, monitor).fit(module, datamodule=Data())
    assert monitor.run is not None
    assert monitor.run.header["hyperparameters"] == {
        "folder": "…/cifar10",
        "width": 8,
        "seed": 5,
        "loss": "<Tensor>",
        "depth": 4,
    }
    assert monitor.run.header["seeds"]["seed"] == 5
    bare = classifier(pl)
    assert saved_hyperparameters(trainer(pl), bare) == {}
    assert "_hparams" not in vars(bare)

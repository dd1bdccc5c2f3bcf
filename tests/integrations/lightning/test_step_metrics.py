"""A metric that the module logs in training steps can be the run's quality."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_models import NAMESPACES, classifier, data, namespace, trainer

from lightning_costs import CostMonitor, load_runs

BATCHES, EVERY = 40, 8


def fitted(folder: Path, name: str, monitor: str, **options: Any) -> Any:
    pl = namespace(name)

    class Logs(type(classifier(pl))):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            step = float(self.global_step + 1)
            self.log("steps alone", torch.tensor(step))
            self.log("both", step, on_step=True, on_epoch=True)
            if batch_idx < 10:
                self.log("early", step)
            return super().training_step(batch, batch_idx)

    torch.manual_seed(0)
    costs = CostMonitor(save_dir=folder, monitor=monitor, mode="max", infer=False, log="none", log_every_n_steps=EVERY)
    trainer(pl, costs, max_epochs=2, limit_val_batches=0, **options).fit(Logs(), data(BATCHES * 8))
    (run,) = load_runs(folder)
    return run


def curve(run: Any, monitor: str) -> list[tuple[int, float, str]]:
    """Steps done, value and trigger."""
    found = run.points.drop_nulls(monitor)
    return list(zip(found["steps"].cast(int), found[monitor], found["trigger"], strict=True))


@pytest.mark.parametrize("monitor", ["steps alone", "both_step"])
@pytest.mark.parametrize("name", NAMESPACES)
def test_it_is_the_value_of_the_step_at_each_train_point(
    name: str, monitor: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lightning_costs"):
        run = fitted(tmp_path, name, monitor)
    assert curve(run, monitor) == [(step, step, "train") for step in range(EVERY, 2 * BATCHES + 1, EVERY)]
    assert not caplog.records


def test_one_that_is_averaged_over_epochs_keeps_its_epochs_means(tmp_path: Path) -> None:
    run = fitted(tmp_path, NAMESPACES[0], "both")
    assert curve(run, "both") == [(BATCHES, (BATCHES + 1) / 2, "epoch"), (2 * BATCHES, (3 * BATCHES + 1) / 2, "epoch")]


def test_a_training_shorter_than_a_point_warns_only_of_a_name_that_is_never_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "lightning_costs"):
        fitted(tmp_path / "short", NAMESPACES[0], "steps alone", limit_train_batches=3)
        assert not caplog.records
        fitted(tmp_path / "never", NAMESPACES[0], "step alone")
    assert "Did you mean 'steps alone'" in caplog.text


@pytest.mark.parametrize("on_epoch", [False, True])
@pytest.mark.parametrize("name", NAMESPACES)
def test_one_that_evaluations_log_is_theirs(name: str, on_epoch: bool, tmp_path: Path) -> None:
    pl = namespace(name)

    class Shared(type(classifier(pl))):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("acc", 0.9, on_step=not on_epoch, on_epoch=on_epoch)
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("acc", 0.5)

    monitor = CostMonitor(
        save_dir=tmp_path, monitor="acc", mode="max", targets=(0.4, 0.8), infer=False, log="none", log_every_n_steps=4
    )
    outcomes = []

    class Peek(pl.Callback):  # type: ignore[misc,name-defined]
        def on_train_end(self, *_: Any) -> None:
            outcomes.append(monitor.recorder.hooks.run.outcome)  # type: ignore[union-attr]

    trainer(pl, monitor, Peek(), num_sanity_val_steps=0).fit(Shared(), data(BATCHES * 8), data(16))
    (run,) = load_runs(tmp_path)
    assert curve(run, "acc") == [(BATCHES, 0.5, "evaluate"), (2 * BATCHES, 0.5, "evaluate")]
    assert (outcomes[0]["best_quality"], outcomes[0]["to_target_steps"]) == (0.5, BATCHES)
    assert not outcomes[0]["target_2_reached"]


def test_a_value_is_of_the_points_after_it_was_logged_and_of_one_alone(tmp_path: Path) -> None:
    run = fitted(tmp_path, NAMESPACES[0], "early")
    assert curve(run, "early") == [
        (8, 8.0, "train"),
        (16, 10.0, "train"),
        (48, 48.0, "train"),
        (56, 50.0, "train"),
    ]

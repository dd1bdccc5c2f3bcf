"""Hyperparameters searched under a cost, with Optuna, in seconds on a CPU and without an account.

    python examples/search.py two         two objectives: accuracy up, FLOPs down; the answer is a front
    python examples/search.py limit       one objective; a trial that has spent its FLOPs is stopped and pruned

Every trial is a run of its own under `searches/`, so that `lightning-costs compare searches/two` shows them by every
other cost too, and `lightning-costs total searches` what the search itself cost. Cost to a target is told as two
attributes: `reached` (1 or 0) and, only where it is 1, `flop_to_target`. An infinity would end up in means, in plots
and in the search's own model of its objective.
"""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import optuna
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_costs import CostBudget, CostMonitor, load_run
from lightning_costs.run.record import RunRecord

TARGET = 0.9


class Classifier(pl.LightningModule):
    """Digits by a perceptron with one hidden layer."""

    def __init__(self, width: int, lr: float) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
        self.lr = lr

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        x, y = batch
        self.log("val/acc", (self.net(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), self.lr)


class Searched(pl.Callback):
    """Writes into the run that it is a trial of a search, and remembers its folder."""

    def __init__(self, monitor: CostMonitor, trials: int, under: str) -> None:
        self.monitor, self.facts = monitor, {"trials": trials, "under": under}
        self.folder: Path | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.monitor.recorder.add_metadata({"search": self.facts})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.folder = self.monitor.recorder.path


def digits() -> tuple[TensorDataset, TensorDataset]:
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, held_out = order[:1437], order[1437:]
    return TensorDataset(x[train], y[train]), TensorDataset(x[held_out], y[held_out])


def trained(
    trial: optuna.Trial, folder: Path, trials: int, epochs: int, more: tuple[pl.Callback, ...] = ()
) -> RunRecord:
    """Train what a trial suggests; the run that it was."""
    pl.seed_everything(trial.number, verbose=False)
    model = Classifier(
        width=trial.suggest_int("width", 4, 256, log=True), lr=trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    )
    train, held_out = digits()
    monitor = CostMonitor(
        monitor="val/acc", mode="max", targets=[TARGET], save_dir=folder, name=f"trial-{trial.number}", infer=False
    )
    searched = Searched(monitor, trials, under="flop")
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[monitor, *more, searched],
    )
    trainer.fit(model, DataLoader(train, 64, shuffle=True), DataLoader(held_out, 360))
    assert searched.folder is not None
    run = load_run(searched.folder)
    tell(trial, run)
    return run


def tell(trial: optuna.Trial, run: RunRecord) -> None:
    """What the trial spent, and whether and for how much it reached the target."""
    for column in ("flop", "params", "energy_j", "train_s"):
        amount = run.final[column]
        if amount is not None:  # what is missing is absent, never 0
            trial.set_user_attr(column, amount)
    hits = run.points.filter(run.points["val/acc"] >= TARGET)
    trial.set_user_attr("reached", int(hits.height > 0))
    if hits.height:
        trial.set_user_attr("flop_to_target", hits["flop"][0])


def best_accuracy(run: RunRecord) -> float:
    best = run.points["val/acc"].drop_nulls().max()
    assert isinstance(best, float)
    return best


def search_two(folder: Path, trials: int, epochs: int) -> optuna.Study:
    """Accuracy and FLOPs as two objectives: no trial on the front is worse in both than another."""
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.TPESampler(seed=0))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        run = trained(trial, folder, trials, epochs)
        flop = run.final["flop"]
        if flop is None:
            raise optuna.TrialPruned(f"FLOPs are missing: {run.header['missing'].get('flop')}")
        return best_accuracy(run), flop

    study.optimize(objective, n_trials=trials)
    return study


def search_limit(folder: Path, trials: int, epochs: int, limit_flop: float) -> optuna.Study:
    """Accuracy alone, of trials that keep within a limit: at the limit a trial is stopped, and pruned."""
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        budget = CostBudget({"flop": limit_flop}, checkpoint=False)
        run = trained(trial, folder, trials, epochs, (budget,))
        for point in run.points.drop_nulls("val/acc").select("epoch", "val/acc").unique("epoch").iter_rows():
            trial.report(point[1], point[0])
        if stopped := run.header.get("stopped"):
            raise optuna.TrialPruned(f"{stopped['column']} reached {stopped['limit']:.3g} at step {stopped['step']}")
        return best_accuracy(run)

    study.optimize(objective, n_trials=trials)
    return study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("two", "limit"))
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--limit-flop", type=float, default=2e8)
    parser.add_argument("--out", type=Path, default=Path("searches"))
    asked = parser.parse_args()
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = asked.out / asked.kind
    if asked.kind == "two":
        study = search_two(folder, asked.trials, asked.epochs)
        print("on the front of accuracy and FLOPs:")
        for trial in sorted(study.best_trials, key=lambda one: one.values[1]):
            print(f"  trial {trial.number}: {trial.values[0]:.3f} for {trial.values[1]:.3g} FLOP, {said(trial)}")
    else:
        study = search_limit(folder, asked.trials, asked.epochs, asked.limit_flop)
        for trial in study.trials:
            pruned = trial.state is optuna.trial.TrialState.PRUNED
            value = "pruned at the limit" if pruned else f"{trial.value:.3f}"
            print(f"  trial {trial.number}: {value} for {trial.user_attrs['flop']:.3g} FLOP, {said(trial)}")
    print(f"next: lightning-costs compare {folder}")


def said(trial: Any) -> str:
    if not trial.user_attrs["reached"]:
        return f"{TARGET} not reached"
    spent = trial.user_attrs["flop_to_target"]
    assert math.isfinite(spent)
    return f"{TARGET} reached for {spent:.3g}"


if __name__ == "__main__":
    main()

from __future__ import annotations

import logging

from fakes import declared

from lightning_costs.storage.loggers import columns, init_wandb_runs, logger_row, write_wandb_summaries

DECLARATIONS = {
    d.name: d
    for d in (
        declared("flop", headline=True),
        declared("steps", "steps"),
        declared("params", "params", kind="static", headline=True),
    )
}


class FakeRun:
    def __init__(self):
        self.config, self.summary, self.metrics = {}, {}, {}
        self.config = type("Config", (dict,), {"update": lambda self, d, allow_val_change: dict.update(self, d)})()

    def define_metric(self, name, **options):
        self.metrics[name] = options


class WandbLogger:
    def __init__(self, prefix=""):
        self.experiment, self._prefix = FakeRun(), prefix


class Subclass(WandbLogger):
    pass


class CSVLogger:
    @property
    def experiment(self):
        raise AssertionError("only W&B is spoken to here")


def test_a_row_holds_the_costs_that_are_known_under_their_names():
    costs = {"flop": 5.0, "steps": 0.0}
    assert logger_row(costs, columns(DECLARATIONS, headline_only=False)) == {"cost/flop": 5.0, "cost/steps": 0.0}
    assert logger_row({"flop": None, "steps": 2.0}, columns(DECLARATIONS, headline_only=False)) == {"cost/steps": 2.0}


def test_a_headline_row_holds_the_headline():
    assert logger_row({"flop": 5.0, "steps": 2.0}, columns(DECLARATIONS, headline_only=True)) == {"cost/flop": 5.0}


def test_wandb_hides_all_columns_but_the_headline_curves():
    logger = Subclass()
    init_wandb_runs([CSVLogger(), logger], DECLARATIONS, {"monitor": "acc"})
    run = logger.experiment
    assert run.config == {"cost": {"monitor": "acc"}}
    assert {name: options["hidden"] for name, options in run.metrics.items()} == {"cost/*": True, "cost/flop": False}
    assert {options["step_metric"] for options in run.metrics.values()} == {"trainer/global_step"}


def test_a_loggers_prefix_applies_to_costs():
    logger = WandbLogger(prefix="exp")
    init_wandb_runs([logger], DECLARATIONS, {})
    write_wandb_summaries([logger], {"flop": 5.0, "steps": None})
    assert set(logger.experiment.metrics) == {"exp-cost/*", "exp-cost/flop"}
    assert logger.experiment.summary == {"exp-cost/flop": 5.0}


def test_a_vendor_that_fails_is_said_and_does_not_touch_the_training(caplog):
    caplog.set_level(logging.WARNING, logger="lightning_costs")
    logger = WandbLogger()
    logger.experiment = None
    init_wandb_runs([logger], DECLARATIONS, {})
    write_wandb_summaries([logger], {"flop": 5.0})
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == [
        "W&B run could not be prepared for costs",
        "final costs could not be written to W&B",
    ]

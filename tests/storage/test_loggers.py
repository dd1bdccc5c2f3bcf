from __future__ import annotations

import logging

from fakes import declared

from lightning_costs.records.samples import CurvePoint
from lightning_costs.storage.loggers import (
    LoggerSink,
    WandbSink,
    columns,
    init_wandb_runs,
    logger_row,
    write_wandb_summaries,
)
from lightning_costs.storage.sink import Sink, Sinks

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
    hidden = {name: options["hidden"] for name, options in run.metrics.items()}
    assert hidden == {"cost/*": True, "cost/flop": False, "cost/steps": True}
    assert {options["step_metric"] for options in run.metrics.values()} == {"trainer/global_step"}


def test_a_loggers_prefix_applies_to_costs():
    logger = WandbLogger(prefix="exp")
    init_wandb_runs([logger], DECLARATIONS, {})
    write_wandb_summaries([logger], {"flop": 5.0, "steps": None})
    assert set(logger.experiment.metrics) == {"exp-cost/*", "exp-cost/flop", "exp-cost/steps"}
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


def a_point(step, trigger="train", **costs):
    return CurvePoint(step=step, epoch=0, time=0.0, trigger=trigger, costs=costs, quality={})


def test_costs_join_the_row_of_their_own_step_and_no_other():
    sink = LoggerSink(list, DECLARATIONS, dict)
    assert sink.row(3) == {}
    sink.point(a_point(3, flop=5.0, steps=4.0), {})
    assert (sink.row(3), sink.row(4)) == ({"cost/flop": 5.0, "cost/steps": 4.0}, {})
    sink.point(a_point(7, flop=9.0, steps=None), {})
    assert (sink.row(3), sink.row(7)) == ({}, {"cost/flop": 9.0})
    headline = LoggerSink(list, DECLARATIONS, dict, headline_only=True)
    headline.point(a_point(3, flop=5.0, steps=4.0), {})
    assert headline.row(3) == {"cost/flop": 5.0}


def test_both_sinks_of_wandb_write_config_and_summary():
    logger, run = WandbLogger(), FakeRun()
    for sink in (
        LoggerSink(lambda: [CSVLogger(), logger], DECLARATIONS, lambda: {"flop": 5.0}),
        WandbSink(run, DECLARATIONS, lambda: {"flop": 5.0}),
    ):
        assert isinstance(sink, Sink)
        sink.open({"monitor": "acc"})
        sink.point(a_point(0, flop=5.0), {})
        sink.close("finished")
    for told in (logger.experiment, run):
        assert told.config == {"cost": {"monitor": "acc"}}
        assert told.summary == {"cost/flop": 5.0}
    assert set(run.metrics["cost/flop"]) == {"hidden"}, "a run that is logged to without Lightning has W&B's own step"


def test_a_wandb_run_that_fails_is_said_and_stays_among_the_sinks(caplog):
    caplog.set_level(logging.WARNING, logger="lightning_costs")
    sinks = Sinks([WandbSink(None, DECLARATIONS, dict)])
    sinks.open({})
    sinks.close("finished")
    assert len(sinks.all) == 1
    assert [r.getMessage().partition(":")[0] for r in caplog.records] == [
        "W&B run could not be prepared for costs",
        "final costs could not be written to W&B",
    ]

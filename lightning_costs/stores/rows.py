"""Costs in the rows of loggers: the names they have there, and W&B's config, summary and panels."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from lightning_costs.core.indicator import Declaration
from lightning_costs.core.records import Amount

PREFIX = "cost/"
_log = logging.getLogger("lightning_costs")


def columns(declarations: Mapping[str, Declaration], *, headline_only: bool) -> dict[str, str]:
    """Cost columns that loggers get, each with its name there.

    Example:
        >>> from lightning_costs.indicators.counts import Steps
        >>> columns({"steps": Steps.declaration()}, headline_only=False)
        {'steps': 'cost/steps'}
    """
    return {
        name: PREFIX + name
        for name, declared in declarations.items()
        if declared.kind != "static" and (declared.headline or not headline_only)
    }


def row(costs: Mapping[str, Amount], named: Mapping[str, str]) -> dict[str, float]:
    """Cost columns of a logger's row, missing ones left out; `named` are those wanted.

    Example:
        >>> row({"steps": 3.0, "flop": None}, {"steps": "cost/steps", "flop": "cost/flop"})
        {'cost/steps': 3.0}
    """
    amount_of = costs.get
    return {key: amount for name, key in named.items() if (amount := amount_of(name)) is not None}


def _wandb_runs(loggers: Iterable[Any]) -> Iterable[tuple[Any, str]]:
    """W&B runs among Lightning's loggers, each with the prefix that its logger puts before names."""
    for logger in loggers:
        if any(kind.__name__ == "WandbLogger" for kind in type(logger).__mro__):
            prefix = getattr(logger, "_prefix", "") or ""
            yield logger.experiment, f"{prefix}-{PREFIX}" if prefix else PREFIX


def begin_wandb(loggers: Iterable[Any], declarations: Mapping[str, Declaration], config: Mapping[str, Any]) -> None:
    """Tell W&B runs about the cost columns: hidden but for the headline.

    No `summary=` is given: W&B would keep a dict of the number instead of its last value.
    """
    for run, prefix in _wandb_runs(loggers):
        try:
            run.config.update({"cost": dict(config)}, allow_val_change=True)
            options = {"step_metric": "trainer/global_step", "step_sync": False}
            run.define_metric(f"{prefix}*", hidden=True, **options)
            for name, declared in declarations.items():
                if declared.headline and declared.kind != "static":
                    run.define_metric(f"{prefix}{name}", hidden=False, **options)
        except Exception as error:  # noqa: BLE001 - a vendor's failure must not touch the training
            _log.warning("W&B run could not be prepared for costs: %r", error)


def end_wandb(loggers: Iterable[Any], final: Mapping[str, Amount]) -> None:
    """Write the final costs and statics into the summaries of W&B runs, flat."""
    for run, prefix in _wandb_runs(loggers):
        try:
            run.summary.update({prefix + name: value for name, value in final.items() if value is not None})
        except Exception as error:  # noqa: BLE001 - a vendor's failure must not touch the training
            _log.warning("final costs could not be written to W&B: %r", error)

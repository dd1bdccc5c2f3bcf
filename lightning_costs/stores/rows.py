"""Costs in the rows of loggers: the names they have there, and W&B's config, summary and panels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from typing import Any

from lightning_costs.core.indicator import Declaration
from lightning_costs.core.lane_picture import lane_picture
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


def _each_wandb_run(loggers: Iterable[Any], tell: Callable[[Any, str], None], failed: str) -> None:
    """Tell each W&B run among Lightning's loggers, with the prefix that its logger puts before names.

    Whatever a logger raises is said and ends there: neither the training nor the measuring may suffer.
    """
    for logger in loggers:
        if any(kind.__name__ == "WandbLogger" for kind in type(logger).__mro__):
            try:
                prefix = getattr(logger, "_prefix", "") or ""
                tell(logger.experiment, f"{prefix}-{PREFIX}" if prefix else PREFIX)
            except Exception as error:  # noqa: BLE001 - a vendor's failure must not touch the training
                _log.warning("%s: %r", failed, error)


def begin_wandb(loggers: Iterable[Any], declarations: Mapping[str, Declaration], config: Mapping[str, Any]) -> None:
    """Tell W&B runs about the cost columns: hidden but for the headline.

    No `summary=` is given: W&B would keep a dict of the number instead of its last value.
    """

    def tell(run: Any, prefix: str) -> None:
        run.config.update({"cost": dict(config)}, allow_val_change=True)
        options = {"step_metric": "trainer/global_step", "step_sync": False}
        run.define_metric(f"{prefix}*", hidden=True, **options)
        for name, declared in declarations.items():
            if declared.headline and declared.kind != "static":
                run.define_metric(f"{prefix}{name}", hidden=False, **options)

    _each_wandb_run(loggers, tell, "W&B run could not be prepared for costs")


def end_wandb(loggers: Iterable[Any], final: Mapping[str, Amount], pipeline: Mapping[str, Any] | None = None) -> None:
    """Write the final costs and statics into the summaries of W&B runs, flat; one step of a pipeline is an image."""

    def tell(run: Any, prefix: str) -> None:
        run.summary.update({prefix + name: value for name, value in final.items() if value is not None})

    _each_wandb_run(loggers, tell, "final costs could not be written to W&B")
    if pipeline is not None and (svg := lane_picture(pipeline)) is not None:
        _log_picture(loggers, svg)


def _log_picture(loggers: Iterable[Any], svg: str) -> None:
    """The picture as PNG, which W&B shows; it is drawn with the extra `report` only."""
    try:
        import vl_convert
    except ImportError:
        _log.info("the pipeline's picture goes to W&B where lightning-costs[report] is installed")
        return

    def tell(run: Any, prefix: str) -> None:
        import wandb
        from PIL import Image

        picture = Image.open(BytesIO(vl_convert.svg_to_png(svg, scale=2)))
        run.log({f"{prefix}pipeline_timeline": wandb.Image(picture)})

    _each_wandb_run(loggers, tell, "the pipeline's picture could not be written to W&B")

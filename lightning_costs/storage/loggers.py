"""Loggers as sinks: costs in the rows that they write, and W&B's config, summary and panels."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from io import BytesIO
from typing import Any, Literal, final, get_args

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.records.declaration import Declaration
from lightning_costs.records.samples import Amount, CurvePoint
from lightning_costs.run.timeline_svg import timeline_svg

PREFIX = "cost/"
#: Which costs leave the run folder while training: for loggers, W&B, `trainer.callback_metrics` and the progress bar.
Log = Literal["complete", "headline", "none"]
#: Who the run is: parts of the header that go into the config of W&B runs, and into tags of MLflow runs.
_PROVENANCE = ("hyperparameters", "git", "script", "seeds", "owner")
#: Parts of the header that go into the config of W&B runs.
_CONFIG = ("schema_version", "run_id", "monitor", "mode", "targets", "tariff", "setup")
#: Keys of summaries beside costs: the outcome of the run (`run.outcome`), and the address of its view.
_OUTCOME = re.compile(r"best_quality|best_step|target_(\d+_)?reached|to_target_.+|view|pipeline_timeline")
_NOT_PREPARED = "W&B run could not be prepared for costs"
_NOT_WRITTEN = "final costs could not be written to W&B"
_log = logging.getLogger("lightning_costs")


@final
class LoggerSink:
    """Loggers of a framework: a sink of rank 0 that keeps the costs of the last point until their row is written.

    Rows are the framework's: it writes one for the metrics of a step, and asks `row` for the costs that join them. So
    quality and costs are in one row. W&B runs among the loggers get config, panels and summary, too.

    Args:
        loggers: Returns them at the time of the call.
        declarations: Declarations by column name.
        final: Returns the run's totals, for summaries.
        headline_only: Whether rows hold the headline columns alone.
        step_metric: The column that W&B draws costs against at first; its own step if None.
        hyperparameters: Those that loggers get; a framework sends its own.
    """

    def __init__(
        self,
        loggers: Callable[[], Iterable[Any]],
        declarations: Mapping[str, Declaration],
        final: Callable[[], Mapping[str, Amount]],
        *,
        headline_only: bool = False,
        step_metric: str | None = "trainer/global_step",
        hyperparameters: Mapping[str, Any] | None = None,
    ) -> None:
        self._hyperparameters = dict(hyperparameters or {})
        self._header: Mapping[str, Any] = {}
        self._loggers, self._declarations, self._final = loggers, declarations, final
        self._step_metric = step_metric
        self._columns = columns(declarations, headline_only=headline_only)
        self._point: CurvePoint | None = None
        self._pipeline: Mapping[str, Any] | None = None

    def open(self, header: Mapping[str, Any]) -> None:
        """Describe the cost columns to W&B runs, and who the run is to W&B and MLflow."""
        self._header = header
        about = {**header, "hyperparameters": self._hyperparameters}
        init_wandb_runs(self._loggers(), self._declarations, about, self._step_metric)
        tag_mlflow_runs(self._loggers(), about)

    def point(self, point: CurvePoint, header: Mapping[str, Any]) -> None:
        """Keep its costs for the row of its step."""
        self._point, self._pipeline = point, header.get("pipeline")
        self._header = header

    def row(self, step: int) -> Mapping[str, float]:
        """Costs that join the row of a step; none if no point was made at it."""
        point = self._point
        return logger_row(point.costs, self._columns) if point is not None and point.step == step else {}

    def take(self) -> Mapping[str, float]:
        """Costs of the last point, once: for rows whose steps are the script's own."""
        point, self._point = self._point, None
        return logger_row(point.costs, self._columns) if point is not None else {}

    def close(self, status: str) -> None:
        """Write the summaries of W&B runs. A user who waits for an error need not wait for a picture too."""
        if self._header:
            about = {**self._header, "hyperparameters": self._hyperparameters}
            configure_wandb_runs(self._loggers(), about)
            tag_mlflow_runs(self._loggers(), about)
        pipeline = self._pipeline if status == "finished" else None
        write_wandb_summaries(self._loggers(), self._final(), pipeline)


@final
class WandbSink:
    """A W&B run whose rows are another's: config, panels and summary.

    Args:
        run: As `wandb.init` returns it, or a function that returns it.
        declarations: Declarations by column name.
        final: Returns the run's totals, for its summary.
        prefix: As `begin_run`'s.
        step_metric: As `begin_run`'s.
    """

    def __init__(
        self,
        run: Any,
        declarations: Mapping[str, Declaration],
        final: Callable[[], Mapping[str, Amount]],
        *,
        prefix: str = PREFIX,
        step_metric: str | None = None,
    ) -> None:
        self._run = run if callable(run) else lambda: run
        self._declarations, self._final = declarations, final
        self._prefix, self._step_metric = prefix, step_metric

    def open(self, header: Mapping[str, Any]) -> None:
        """Describe the cost columns to the run."""
        _carefully(
            lambda: begin_run(
                self._run(), self._declarations, header, prefix=self._prefix, step_metric=self._step_metric
            ),
            _NOT_PREPARED,
        )

    def point(self, point: CurvePoint, header: Mapping[str, Any]) -> None:
        """Nothing: the user puts `Recorder.row()` into rows, or a framework's integration does."""

    def close(self, status: str) -> None:
        """Write the summary."""
        _carefully(lambda: end_run(self._run(), self._final(), prefix=self._prefix), _NOT_WRITTEN)


def check_log(log: str) -> None:
    """Refuse what is none of `LoggedRun`.

    Raises:
        ValueError: With those that there are.
    """
    if log not in get_args(Log):
        raise ValueError(f"log must be 'complete', 'headline' or 'none', got {log!r}")


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


def logger_row(costs: Mapping[str, Amount], named: Mapping[str, str]) -> dict[str, float]:
    """Cost columns of a logger's row, missing ones left out; `named` are those wanted.

    Example:
        >>> logger_row({"steps": 3.0, "flop": None}, {"steps": "cost/steps", "flop": "cost/flop"})
        {'cost/steps': 3.0}
    """
    amount_of = costs.get
    return {key: amount for name, key in named.items() if (amount := amount_of(name)) is not None}


def _each_wandb_run(loggers: Iterable[Any], tell: Callable[[Any, str], None], failed: str) -> None:
    """Call a function with each W&B run among Lightning's loggers or Accelerate's trackers, and its names' prefix."""
    for logger in loggers:
        if any(kind.__name__ in ("WandbLogger", "WandBTracker") for kind in type(logger).__mro__):
            _carefully(partial(_tell_wandb_run, logger, tell), failed)


def _tell_wandb_run(logger: Any, tell: Callable[[Any, str], None]) -> None:
    prefix = getattr(logger, "_prefix", "") or ""
    run = logger.experiment if hasattr(logger, "experiment") else logger.tracker
    tell(run, f"{prefix}-{PREFIX}" if prefix else PREFIX)


def _carefully(tell: Callable[[], None], failed: str) -> None:
    """Whatever W&B raises is logged and ends there: neither the training nor the measuring may suffer."""
    try:
        tell()
    except Exception as error:  # noqa: BLE001 - a vendor's failure must not touch the training
        reraise_from_signal(error)
        _log.warning("%s: %r", failed, error)


def init_wandb_runs(
    loggers: Iterable[Any],
    declarations: Mapping[str, Declaration],
    header: Mapping[str, Any],
    step_metric: str | None = "trainer/global_step",
) -> None:
    """Define the cost columns in the W&B runs of Lightning's loggers: see `begin_run`."""

    def tell(run: Any, prefix: str) -> None:
        begin_run(run, declarations, header, prefix=prefix, step_metric=step_metric)

    _each_wandb_run(loggers, tell, _NOT_PREPARED)


def begin_run(
    run: Any,
    declarations: Mapping[str, Declaration],
    header: Mapping[str, Any],
    *,
    prefix: str = PREFIX,
    step_metric: str | None = None,
) -> None:
    """Define the cost columns of a W&B run, hidden except for the headline, and write the setup into its config.

    No `summary=` is given: W&B would keep a dict of the number instead of its last value.
    """
    if getattr(run, "resumed", False) and len(header.get("attempts", ())) < 2:
        _log.warning(
            "the W&B run is resumed, but its costs begin at 0: no checkpoint of a measured training was resumed, and "
            "LIGHTNING_COSTS_RUN_ID names no run folder to continue"
        )
    _configure(run, header, prefix)
    options = {"step_metric": step_metric, "step_sync": False} if step_metric else {}
    run.define_metric(f"{prefix}*", hidden=True, **options)
    # Each by its name: of two patterns that match, wandb below 0.31 takes one at random, and WandbLogger defines `*`.
    for name, declared in declarations.items():
        if declared.kind != "static":
            run.define_metric(f"{prefix}{name}", hidden=not declared.headline, **options)


def _configure(run: Any, header: Mapping[str, Any], prefix: str) -> None:
    about = {name: header[name] for name in _CONFIG if name in header}
    about |= {name: header[name] for name in _PROVENANCE if header.get(name)}
    if before := prefix.removesuffix(PREFIX):
        about["prefix"] = before
    run.config.update({"cost": about}, allow_val_change=True)


def configure_wandb_runs(loggers: Iterable[Any], header: Mapping[str, Any]) -> None:
    """Write what is known of a run by now into the config of W&B runs: git may have answered since it began."""

    def tell(run: Any, prefix: str) -> None:
        _configure(run, header, prefix)

    _each_wandb_run(loggers, tell, "W&B run's config could not be renewed")


def tag_mlflow_runs(loggers: Iterable[Any], header: Mapping[str, Any]) -> None:
    """Write who a run is into the tags of MLflow runs: tags can be renewed, parameters cannot.

    Other loggers keep what the script gave them: a second call of their `log_hyperparams` would change its rows.
    """
    tags = {f"{PREFIX}run_id": header.get("run_id")}
    for part in _PROVENANCE:
        value = header.get(part)
        inner = value.items() if isinstance(value, Mapping) else [("", value)] if value else []
        tags |= {f"{PREFIX}{part}.{name}".removesuffix("."): item for name, item in inner}
    for logger in loggers:
        if any(kind.__name__ == "MLFlowLogger" for kind in type(logger).__mro__):
            try:
                for name, item in tags.items():
                    logger.experiment.set_tag(logger.run_id, name, item)
            except Exception as error:  # noqa: BLE001 - a vendor's failure must not touch the training
                reraise_from_signal(error)
                _log.warning("MLflow run could not be tagged: %r", error)


def is_summary_key(name: str) -> bool:
    """Whether a name in a W&B summary belongs to the outcome of the run, and not to a cost column.

    Example:
        >>> [is_summary_key(name) for name in ("to_target_energy_j", "target_2_reached", "energy_j")]
        [True, True, False]
    """
    return _OUTCOME.fullmatch(name) is not None


def write_wandb_summaries(
    loggers: Iterable[Any], final: Mapping[str, Amount], pipeline: Mapping[str, Any] | None = None
) -> None:
    """Write final costs, statics and the outcome of the run into the summaries of W&B runs, flat.

    One step of a pipeline is an image.
    """

    def tell(run: Any, prefix: str) -> None:
        end_run(run, final, prefix=prefix)

    _each_wandb_run(loggers, tell, _NOT_WRITTEN)
    if pipeline is not None and (svg := timeline_svg(pipeline)) is not None:
        _log_picture(loggers, svg)


def end_run(run: Any, final: Mapping[str, Amount], *, prefix: str = PREFIX) -> None:
    """Write final amounts into the summary of a W&B run, flat; missing ones are left out.

    W&B keeps the last value that was logged: of what went missing since, it goes.
    """
    run.summary.update({prefix + name: value for name, value in final.items() if value is not None})
    if unmeasured := [prefix + name for name, value in final.items() if value is None]:
        logged = set(run.summary.keys())  # each time it is asked for, W&B's own process is
        for key in unmeasured:
            if key in logged:
                del run.summary[key]


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

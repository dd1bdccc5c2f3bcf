"""Points of a fit: made at the Trainer's own steps, so that costs join its rows, its metrics and its progress bar."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any, final

import numpy
import torch

from lightning_costs.integrations.lightning.progress_text import progress_text
from lightning_costs.integrations.lightning.trainer_view import TrainerView
from lightning_costs.integrations.session import Session, SessionPart
from lightning_costs.patching.fail_safe import fail_safe
from lightning_costs.recording.recorder import Recorder
from lightning_costs.records.forecast import Forecast
from lightning_costs.records.samples import CurvePoint
from lightning_costs.storage.loggers import Log, LoggerSink, columns, logger_row


@final
class FitPoints(SessionPart):
    """Listens to `RowPatches`, and is what a `CostBudget` asks."""

    def __init__(
        self,
        session: Session,
        recorder: Recorder,
        trainer: Any,
        view: TrainerView,
        open_next_row: Callable[[], None],
        log: Log,
        hyperparameters: Mapping[str, Any],
    ) -> None:
        super().__init__(session)
        self.recorder, self._trainer, self._view = recorder, trainer, view
        self._open_next_row = open_next_row
        self._points = recorder.hooks.points
        self._loggers: LoggerSink | None = None
        if log != "none":
            self._loggers = LoggerSink(
                lambda: trainer.loggers,
                self._points.declarations,
                lambda: {**recorder.final, **recorder.hooks.run.outcome},
                headline_only=log == "headline",
                hyperparameters=hyperparameters,
            )
            recorder.hooks.run.add_sink(self._loggers)
        self._headline = columns(self._points.declarations, headline_only=True)
        self._costs: Mapping[str, float | None] = {}
        self._bar: str | None = ""

    def on_step(self, step: int) -> None:
        """A step is done, the one of this number: make a train point if one is due."""
        if self._points.should_emit(step) and not self._view.accumulating:
            self._stamp()
            self._on_point(self._points.emit("train"))

    @fail_safe
    def on_eval_end(self, metrics: Mapping[str, float]) -> None:
        self._stamp()
        self._on_point(self._points.emit("evaluate", metrics))

    @fail_safe
    def on_epoch_logged(self, metrics: Callable[[], Mapping[str, float]]) -> None:
        """A metric of the training itself is the quality: its epochs' ends are points too."""
        monitor = self.recorder.header["monitor"]
        if monitor is None:
            return
        logged = metrics()
        self._points.epoch_logged(logged)
        if monitor in logged:
            self._stamp()
            self._on_point(self._points.emit("epoch", logged))

    def row(self) -> Mapping[str, float]:
        return self._loggers.row(self._view.row_step) if self._loggers is not None else {}

    def bar(self) -> str:
        if self._bar is None and self._loggers is not None:
            self._bar = self._in_words()
        return self._bar or ""

    def _in_words(self) -> str:
        limits = (self.recorder.header.get("budget") or {}).get("limits", {})
        width = shutil.get_terminal_size().columns
        return progress_text(self._costs, self.ahead(), self._points.declarations, limits=limits, width=width)

    # A budget asks ------------------------------------------------------------------------------------------

    def ahead(self) -> Mapping[str, Forecast]:
        """Totals at the end of training as planned."""
        costs = self.recorder.totals
        steps, calls = costs.get("steps"), costs.get("optimizer_steps")
        return self._points.forecast(self._view.planned_steps(calls_a_step=calls / steps if calls and steps else 1.0))

    @property
    def step(self) -> int:
        """The step that points of this moment are stamped with."""
        return self._view.row_step

    # Points -------------------------------------------------------------------------------------------------

    def _stamp(self) -> None:
        self._points.set_step(step=self._view.row_step, epoch=self._trainer.current_epoch)

    def _on_point(self, point: CurvePoint) -> None:
        """A point was made at the Trainer's step of this moment: its costs are for the row, the bar and callbacks."""
        self._costs, self._bar = point.costs, None
        if self._loggers is None:
            return
        if not self._trainer.is_global_zero:  # sinks are called on rank 0; another rank's logger may write for itself
            self._loggers.point(point, {})
        if point.trigger == "train":
            self._open_next_row()
        if self._trainer.world_size == 1:
            headline = logger_row(point.costs, self._headline)
        elif point.trigger == "evaluate" or point.trigger == "epoch":
            # Every rank has to see the same, or their decisions part.
            headline = self._points.broadcast_headline(logger_row(point.costs, self._headline), point.trigger)
        else:
            return
        if headline:
            # Tensors, in float64: EarlyStopping asks for tensors, and float32 rounds 67128463. One is made for all;
            # new ones, because a callback may keep the last.
            values = torch.from_numpy(numpy.array(list(headline.values()), dtype=numpy.float64)).unbind()
            self._view.publish(dict(zip(headline, values, strict=True)))

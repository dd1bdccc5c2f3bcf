"""Points of a fit: at the Trainer's own steps, so that costs join its rows, its metrics and its progress bar."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any, final

import numpy
import torch

from lightning_costs.integrations.lightning.trainer_view import TrainerView
from lightning_costs.integrations.session import Session, SessionPart, numbers_in
from lightning_costs.patching.fail_safe import fail_safe
from lightning_costs.recording.recorder import Recorder
from lightning_costs.records.declaration import Declaration
from lightning_costs.records.forecast import Forecast
from lightning_costs.records.formatting import format_amount
from lightning_costs.records.samples import Amount, CurvePoint
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
        #: Steps, batches and Lightning's calls of optimizers at this fit's first point, and at its last one.
        self._begun: tuple[float, float, float] | None = None
        self._now: tuple[float, float, float] = (0, 0, 0)
        self._bar: str | None = ""
        #: Whether an evaluation logged the run's metric: one of that name in training steps is another one.
        self._evaluated = False
        #: The value of it that was read last.
        self._read: Any = None

    def on_step(self, step: int) -> None:
        """A step is done, the one of this number: make a train point if one is due."""
        if self._points.should_emit(step) and not self._view.accumulating:
            self._stamp()
            self._on_point(self._points.emit("train", self._logged_in_step()))

    def _logged_in_step(self) -> Mapping[str, float]:
        """The run's metric, if a training step logged it since the point before.

        To read it waits for the device, as a logger does.
        """
        monitor = self.recorder.header["monitor"]
        if monitor is None or self._evaluated:
            return {}
        value = self._view.logged_in_steps.get(monitor)
        if value is None or value is self._read:  # each log makes another tensor
            return {}
        self._read = value
        return numbers_in({monitor: value})

    @fail_safe
    def on_eval_end(self, metrics: Mapping[str, float]) -> None:
        self._evaluated |= self.recorder.header["monitor"] in metrics
        self._stamp()
        self._on_point(self._points.emit("evaluate", metrics))

    @fail_safe
    def on_epoch_logged(self, metrics: Callable[[], Mapping[str, float]]) -> None:
        """A metric of the training itself is the quality: its epochs' ends are points too."""
        monitor = self.recorder.header["monitor"]
        if monitor is None:
            return
        logged = metrics()
        self._points.epoch_logged([*logged, *self._view.logged_in_steps])
        if monitor in logged and not self._evaluated:
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
        (steps_then, batches_then, calls_then), (steps, batches, calls) = self._begun or self._now, self._now
        if steps == steps_then:
            steps_then = batches_then = calls_then = 0
        done = steps - steps_then or 1
        calls_a_step, steps_a_batch = (calls - calls_then) / done, done / (batches - batches_then or done)
        return self._points.forecast(self._view.planned_steps(calls_a_step=calls_a_step, steps_a_batch=steps_a_batch))

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
        self._now = point.costs.get("steps") or 0, point.costs.get("batches") or 0, self._view.calls
        self._begun = self._begun or self._now
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


#: What a wide bar shows; a narrow one the last of these that is known.
SHOWN = ("total_s", "energy_j", "cloud_usd")
#: Columns of a terminal from which a bar is wide.
WIDE = 120


def progress_text(
    costs: Mapping[str, Amount],
    ahead: Mapping[str, Forecast],
    declared: Mapping[str, Declaration],
    *,
    limits: Mapping[str, float],
    width: int,
) -> str:
    """Cost so far and, while it is not reached, the one at the end as planned, in human units.

    A narrow bar shows one cost: that of the budget of which most is used, else money, energy or time.

    Example:
        >>> from lightning_costs.indicators import default_indicators
        >>> declared = {each.name: each.declaration() for each in default_indicators()}
        >>> costs = {"total_s": 12.7, "energy_j": 82.3, "cloud_usd": 0.00354}
        >>> ahead = {"total_s": Forecast(middle=17.1), "energy_j": Forecast(middle=111.0)}
        >>> progress_text(costs, ahead, declared, limits={}, width=80)
        '$0.00354'
        >>> progress_text(costs, ahead, declared, limits={"energy_j": 100.0}, width=80)
        '82.3 J → 111 J'
        >>> progress_text(costs, ahead, declared, limits={"energy_j": 100.0}, width=120)
        '12.7 s · 82.3 J · $0.00354 → 17.1 s · 111 J (82.3 % of the budget)'
    """
    known = {name: amount for name in SHOWN if name in declared and (amount := costs.get(name)) is not None}
    used = {name: amount / limit for name, limit in limits.items() if (amount := costs.get(name)) is not None}
    nearest = max(used, key=lambda name: used[name], default=None)
    if width < WIDE:
        shown = [name for name in [nearest or next(reversed(known), None)] if name is not None and name in declared]
    else:
        shown = list(known)
    units = {name: declared[name].unit for name in shown}
    so_far = {name: format_amount(costs.get(name), unit) for name, unit in units.items()}
    at_end = {name: format_amount(ahead[name].middle, unit) for name, unit in units.items() if name in ahead}
    text = " · ".join(so_far.values())
    if any(at_end[name] != so_far[name] and ahead[name].middle > (costs.get(name) or 0.0) for name in at_end):
        text += f" → {' · '.join(at_end.values())}"
    if nearest is not None and width >= WIDE:
        text += f" ({format_amount(used[nearest], 'fraction')} of the budget)"
    return text

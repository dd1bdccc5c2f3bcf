"""Rows that a Lightning Trainer writes: costs join those of their own step, and the progress bar. Seen on 2.6.6."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, final

from lightning_costs.integrations.lightning.trainer_view import TrainerView
from lightning_costs.integrations.session import numbers_in
from lightning_costs.patching.patches import Patches
from lightning_costs.records.time_buckets import TimeBuckets


class RowListener(Protocol):
    """Receives the events of rows, and is asked for what joins them."""

    def on_eval_end(self, metrics: Mapping[str, float]) -> None:
        """An evaluation is complete; its row is about to be written."""

    def on_epoch_logged(self, metrics: Callable[[], Mapping[str, float]]) -> None:
        """A training epoch's metrics are about to be written; asking for them costs something."""

    def row(self) -> Mapping[str, float]:
        """Costs that belong into the row being written."""

    def bar(self) -> str:
        """Cost so far, for the progress bar."""

    def disable(self) -> None:
        """Called when an exception of the package is handled: the trainer is to be left alone."""


@final
class RowPatches:
    """Patches what a Trainer writes metrics by."""

    def __init__(self, trainer: Any, view: TrainerView, listener: RowListener, accounts: TimeBuckets) -> None:
        self._trainer, self._view, self._listener, self._accounts = trainer, view, listener, accounts
        self._train_row = Patches(listener.disable)
        self._row_open = False

    def install(self, patches: Patches) -> None:
        """Put them."""
        connector, put = self._trainer._logger_connector, patches.wrap
        put(connector, "log_eval_end_metrics", self._eval_end)
        put(connector, "update_train_epoch_metrics", self._train_epoch)
        for logger in self._trainer.loggers:
            name = type(logger).__name__
            put(logger, "log_metrics", self._logging(name))
            put(logger, "save", partial(self._accounts.wrap, account="other", source=name))
        bar = getattr(self._trainer, "progress_bar_callback", None)
        if bar is not None:
            put(bar, "get_metrics", self._bar)

    def uninstall(self) -> None:
        """Lift what waits for the next row."""
        self._train_row.restore()

    def _logging(self, source: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Costs join rows of evaluation results and train rows at emissions, and no other."""

        def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
            booked = self._accounts.wrap(original, "other", source)

            def log_metrics(*args: Any, **kwargs: Any) -> Any:
                if self._row_open and (costs := self._listener.row()):
                    if "metrics" in kwargs:
                        kwargs["metrics"] = {**kwargs["metrics"], **costs}
                    elif args:
                        args = ({**args[0], **costs}, *args[1:])
                return booked(*args, **kwargs)

            return log_metrics

        return wrap

    def _within_row(self, write: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._row_open = True
        try:
            return write(*args, **kwargs)
        finally:
            self._row_open = False

    def open_next_row(self) -> None:
        """The next train row is one at an emission: costs belong into it."""
        if not self._train_row:
            self._train_row.wrap(self._trainer._logger_connector, "update_train_step_metrics", self._open_row)

    def _open_row(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def update(*args: Any, **kwargs: Any) -> Any:
            self._train_row.restore()
            return self._within_row(original, *args, **kwargs)

        return update

    def _eval_end(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def log_eval_end_metrics(metrics: Mapping[str, Any]) -> Any:
            if self._trainer.sanity_checking or not self._view.in_training:
                return original(metrics)
            seen = {**self._trainer._logger_connector.metrics["callback"], **metrics}
            self._listener.on_eval_end(numbers_in(seen))
            return self._within_row(original, metrics)

        return log_eval_end_metrics

    def _train_epoch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def update_train_epoch_metrics() -> Any:
            if not self._view.in_training:
                return original()
            self._listener.on_epoch_logged(lambda: numbers_in(self._trainer._logger_connector.metrics["callback"]))
            return self._within_row(original)

        return update_train_epoch_metrics

    def _bar(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def get_metrics(*args: Any, **kwargs: Any) -> Any:
            items = original(*args, **kwargs)
            text = self._listener.bar() if self._view.in_training else ""
            # First, since a narrow bar cuts off what comes last.
            return {"cost": text, **items} if text else items

        return get_metrics

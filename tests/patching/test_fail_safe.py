"""What goes wrong in the package is said, and never raised."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning_models import classifier, data, trainer

from lightning_costs import CostMonitor
from lightning_costs.patching.fail_safe import carefully, fail_safe, never_harmful
from lightning_costs.sources.loader import load_runs


class Refuses(logging.Handler):
    """A script's handler that makes an error of each message."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(record.getMessage())


@pytest.fixture
def refusing() -> Iterator[None]:
    handler = Refuses()
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)


@pytest.mark.usefixtures("refusing")
def test_a_message_that_the_scripts_handler_refuses_is_lost() -> None:
    @never_harmful
    def hook() -> None:
        raise ValueError("a fault of ours")

    hook()
    with pytest.raises(RuntimeError, match="the script's own"):
        logging.getLogger("script").warning("the script's own")


def test_a_training_ends_as_ever_if_nothing_can_be_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without handlers, `logging` writes to stderr, and its own complaint about a closed one raises."""

    class Closes(pl.Callback):
        def on_train_end(self, *_: object) -> None:
            sys.stderr.close()

    monkeypatch.setattr(logging.getLogger("lightning_costs"), "propagate", False)
    monitor = CostMonitor(save_dir=tmp_path / "costs", infer=False)
    with (tmp_path / "stderr").open("w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        fit = trainer(pl, monitor, Closes())
        fit.fit(classifier(pl), data())
        monkeypatch.undo()
    assert fit.state.finished
    assert monitor.run is not None
    assert monitor.run.final["samples"] == 128.0


# Signals -------------------------------------------------------------------------------------------------------------


class LateError(Exception):
    """What a script's limit of time raises."""


class Limit:
    """A handler that is no function."""

    def __call__(self, *_: object) -> None:
        raise LateError

    def method(self, *_: object) -> None:
        raise LateError


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")
@pytest.mark.parametrize(
    "handler", [Limit(), Limit().method, partial(Limit().method, 1)], ids=["call", "method", "partial"]
)
def test_what_a_signals_handler_raises_in_our_code_is_the_scripts(handler: Any) -> None:
    former = signal.signal(signal.SIGUSR1, handler)
    stopped: list[str] = []

    class Measuring:
        broken = False

        def disable(self) -> None:
            stopped.append("stopped")

        @fail_safe
        def measure(self) -> None:
            signal.raise_signal(signal.SIGUSR1)

    def around(function: Any) -> Any:
        def call() -> Any:
            signal.raise_signal(signal.SIGUSR1)
            return function()

        return call

    try:
        with pytest.raises(LateError):
            Measuring().measure()
        with pytest.raises(LateError):
            never_harmful(Measuring.measure)(Measuring())
        with pytest.raises(LateError):
            carefully(list, around, lambda: stopped.append("stopped"), (), {})
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert stopped == []


def test_a_late_signal_in_a_hook_of_ours_ends_the_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends by the script's own error, and that is no fault of the package."""

    def late(*_: object) -> None:
        signal.raise_signal(signal.SIGUSR1)

    former = signal.signal(signal.SIGUSR1, Limit())
    monkeypatch.setattr("lightning_costs.integrations.lightning.fit_points.FitPoints.on_step", late)
    fit = trainer(pl, CostMonitor(save_dir=tmp_path / "costs", infer=False))
    try:
        with pytest.raises(LateError):
            fit.fit(classifier(pl), data())
    finally:
        signal.signal(signal.SIGUSR1, former)
    (run,) = load_runs(tmp_path / "costs")
    assert run.header["status"] == "failed"

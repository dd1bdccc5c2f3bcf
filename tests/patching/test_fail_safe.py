"""What goes wrong in the package is said, and never raised."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import lightning.pytorch as pl
import pytest
from lightning_models import classifier, data, trainer

from lightning_costs import CostMonitor
from lightning_costs.patching.fail_safe import never_harmful


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

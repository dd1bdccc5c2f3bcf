"""What integrations share, on a framework of ten lines."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_costs import MemorySink, Recorder, default_indicators
from lightning_costs.integrations.options import MonitorOptions
from lightning_costs.integrations.session import Session


class Framework:
    """Trains, and says what it does to whom it calls back."""

    def __init__(self, session: Session) -> None:
        self.session, self.net = session, nn.Linear(3, 2)
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.1)
        self.optimizer.register_step_post_hook(lambda *_: session.on_update())

    def fit(self, batches: Any, *, accumulate: int = 1) -> None:
        for number, (batch,) in enumerate(batches, 1):
            self.session.begin_batch(batch)
            loss = self.net(batch).sum()
            self.session.on_backward()
            loss.backward()
            if number % accumulate == 0:
                self.optimizer.step()
                self.optimizer.zero_grad()
            self.session.end_batch()


def attached(folder: Path, **options: Any) -> tuple[Framework, Session, MemorySink]:
    sink = MemorySink()
    plain = [i for i in default_indicators() if i.family not in ("energy", "money")]
    session = Session()
    framework = Framework(session)
    given = MonitorOptions(**{"save_dir": folder, "sinks": [sink], "indicators": plain, "infer": False} | options)
    session.recorder = given.recorder(
        world_size=1, module=framework.net, optimizers=[framework.optimizer], device="cpu"
    )
    session.recorder.begin()
    return framework, session, sink


def loader(batches: int) -> Any:
    return DataLoader(TensorDataset(torch.ones(8 * batches, 3)), 8)


def test_a_framework_that_tells_its_batches_is_measured(tmp_path: Path) -> None:
    framework, session, sink = attached(tmp_path, log_every_n_steps=2, monitor="acc", mode="max")
    batches = loader(8)
    session.describe_data([batches], {"batch_size": 8})
    framework.fit(batches, accumulate=2)
    session.log_metrics({"acc": torch.tensor(0.5), "note": "no number"})
    with session.saving():
        pass
    run = session.finish("finished")
    assert run is not None
    assert (run.final["samples"], run.final["steps"], run.final["batches"]) == (64.0, 4.0, 8.0)
    assert run.final["flop"] == 8 * (2 * 8 * 3 * 2 * 2)  # forward, and the gradient of the weight
    assert (run.final["dataset_samples"], run.header["setup"]["batch_size"]) == (64.0, 8)
    assert [point.quality for point in sink.points if point.trigger == "evaluate"] == [{"acc": 0.5}]
    assert sink.status == "finished"


def test_a_batch_that_was_dropped_is_no_batch(tmp_path: Path) -> None:
    framework, session, _ = attached(tmp_path)
    framework.fit(loader(2))
    session.begin_batch(torch.ones(8, 3))
    session.drop_batch()
    run = session.finish("interrupted")
    assert run is not None
    assert (run.final["batches"], run.header["status"]) == (2.0, "interrupted")


def test_steps_are_known_if_nobody_tells_the_batches(tmp_path: Path) -> None:
    framework, session, _ = attached(tmp_path)
    for _ in range(3):
        framework.net(torch.ones(8, 3)).sum().backward()
        framework.optimizer.step()
    run = session.finish("finished")
    assert run is not None
    assert (run.final["steps"], run.final["samples"]) == (3.0, None)


@pytest.mark.parametrize("where", ["on_batch_start", "step", "sample_memory"])
def test_a_fault_of_ours_ends_the_measuring_is_said_once_and_training_goes_on(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, logger="lightning_costs")
    framework, session, sink = attached(tmp_path)
    framework.fit(loader(1))
    taken_off: list[bool] = []
    monkeypatch.setattr(session, "take_off", lambda: taken_off.append(True))
    fails: Callable[..., None] = lambda *_, **__: 1 / 0  # noqa: E731
    assert session.recorder is not None
    monkeypatch.setattr(type(session.recorder.hooks.steps), where, fails)
    before = framework.net.weight.detach().clone()
    framework.fit(loader(3))
    assert not torch.equal(framework.net.weight, before)
    assert (session.broken, taken_off) == (True, [True])
    assert caplog.text.count("measuring costs failed and stops here; training continues") == 1
    session.finish("finished")
    assert sink.status == "failed"


def test_options_are_refused_where_they_are_given(tmp_path: Path) -> None:
    for options, words in (
        ({"infer": "yes"}, "infer must be"),
        ({"log": "all"}, "log must be"),
        ({"count": "no"}, "count must be"),
        ({"monitor": "acc"}, "needs mode"),
        ({"sinks": [object()]}, "a sink must have"),
    ):
        with pytest.raises(ValueError, match=words):
            MonitorOptions(save_dir=tmp_path, **options)  # type: ignore[arg-type]


def test_the_public_object_is_small() -> None:
    members = [name for name in dir(Recorder) if not name.startswith("_")]
    assert len(members) < 25

"""A device that works on while the host waits for it elsewhere: its time is training's, whoever waited."""

from __future__ import annotations

import pytest
import torch
from fakes import FakeClock, FakeStream
from torch import nn

from lightning_costs import Recorder, default_indicators, load_runs
from lightning_costs.indicators import idle
from lightning_costs.probes.device_timeline import DeviceTimeline

WORK_S, STEPS, BATCH = 1.0, 64, 4


@pytest.fixture
def clock():
    return FakeClock(1024.0)


@pytest.fixture
def stream(clock, monkeypatch):
    """A device of its own clock, in place of CUDA's."""
    stream = FakeStream(clock)
    monkeypatch.setattr(DeviceTimeline, "attach", classmethod(lambda cls, setting: cls(stream)))
    monkeypatch.setattr(idle._DeviceAmount, "open", lambda self, setting: setting.probe(DeviceTimeline))
    return stream


def train(tmp_path, clock, stream, in_hook, *, in_loop=lambda: None):
    recorder = Recorder(
        module=nn.Linear(1, 1),
        save_dir=tmp_path,
        clock=clock,
        indicators=default_indicators(),
        log_every_n_steps=8,
        count="off",
    )
    batch = torch.zeros(BATCH, 1)
    with recorder:
        for _ in range(STEPS):
            with recorder.train_batch(batch):
                clock.sleep(0.125)
                stream.launch(WORK_S)
            recorder.step(batch)
            with recorder.bucket("other"):
                in_hook()
            in_loop()
        stream.synchronize()
    (run,) = load_runs(tmp_path)
    return run.final


def test_a_hook_that_waits_for_the_device_takes_no_time_from_training(tmp_path, clock, stream):
    waiting = train(tmp_path / "a", clock, stream, stream.synchronize)
    alone = train(tmp_path / "b", clock, stream, lambda: None, in_loop=stream.synchronize)
    for final in (waiting, alone):
        assert final["train_s"] == pytest.approx(STEPS * (WORK_S + 0.125), rel=0.03)
        assert final["steady_s"] / final["steady_samples"] == pytest.approx((WORK_S + 0.125) / BATCH, rel=0.03)
        assert final["total_s"] == pytest.approx(
            sum(final[name] for name in ("setup_s", "train_s", "evaluate_s", "checkpoint_s", "other_s"))
        )


def test_a_hook_in_which_the_device_idles_is_other_time(tmp_path, clock, stream):
    def hook():
        stream.synchronize()
        clock.sleep(0.5)

    final = train(tmp_path, clock, stream, hook)
    assert final["other_s"] == pytest.approx(STEPS * 0.5, rel=0.05)
    assert final["train_s"] == pytest.approx(STEPS * (WORK_S + 0.125), rel=0.05)
    assert final["steady_s"] / final["steady_samples"] == pytest.approx((WORK_S + 0.125) / BATCH, rel=0.05)


def test_a_hook_over_while_the_device_works_costs_nothing(tmp_path, clock, stream):
    final = train(tmp_path, clock, stream, lambda: clock.sleep(0.25), in_loop=stream.synchronize)
    assert final["other_s"] == pytest.approx(0.0, abs=0.5)
    assert final["train_s"] == pytest.approx(STEPS * (WORK_S + 0.125), rel=0.03)

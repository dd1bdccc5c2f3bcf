"""A real Trainer tells the device's timeline what it needs, seen by a device that works as the host does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import FakeClock
from lightning_models import data, namespace, trainer

from lightning_costs import CostMonitor, default_indicators
from lightning_costs.indicators.base import Measured
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.device_timeline import DeviceTimeline
from lightning_costs.records.samples import DeviceTime, StepSample

pl = namespace("lightning.pytorch")


class HostEvents:
    """A device without a queue: all that is launched is done at once."""

    def record(self) -> float:
        return time.perf_counter()

    def done(self, event: float) -> bool:
        return True

    def between_s(self, earlier: float, later: float) -> float:
        return later - earlier

    def release(self, event: float) -> None:
        pass


class Heard(Measured):
    """Keeps what the device told, window by window."""

    name, unit, kind, family = "heard_steps", "steps", "counter", "time"

    def __init__(self) -> None:
        self.windows: list[DeviceTime] = []

    def open(self, setting: ProbeContext) -> None:
        setting.probe(DeviceTimeline)

    def read(self, sample: StepSample) -> float:
        assert sample.device is not None
        assert sample.step_times_s == sample.device.step_times_s
        self.windows.append(sample.device)
        return float(len(sample.device.step_times_s))

    def total(self, amount: str) -> float:
        return sum(getattr(window, amount) for window in self.windows)


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch, only_sleeps: FakeClock) -> Heard:
    monkeypatch.setattr(DeviceTimeline, "attach", classmethod(lambda cls, setting: cls(HostEvents())))
    return Heard()


class Sleeping(pl.LightningModule):
    """Where a training loop may spend its time, each for a known while."""

    def __init__(self, *, hook_s: float = 0.0, step_s: float = 0.0) -> None:
        super().__init__()
        self.net = torch.nn.Linear(16, 4)
        self.hook_s, self.step_s = hook_s, step_s

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        time.sleep(self.hook_s)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        time.sleep(self.step_s)
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        time.sleep(0.2)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(tmp_path: Path, heard: Heard, model: Any, *loaders: Any, **options: Any) -> CostMonitor:
    monitor = CostMonitor(save_dir=tmp_path, indicators=[*default_indicators(), heard], infer=False)
    trainer(pl, monitor, max_epochs=1, **options).fit(model, *(loaders or (data(160, 8),)))
    return monitor


def test_python_between_steps_is_idle_and_the_step_is_not(tmp_path: Path, heard: Heard) -> None:
    monitor = fit(tmp_path, heard, Sleeping(hook_s=0.02, step_s=0.02))
    assert monitor.run is not None
    assert monitor.run.final["heard_steps"] == pytest.approx(20 - 3, abs=1), "but for warm-up"
    assert heard.total("timed_s") == pytest.approx(0.04 * monitor.run.final["heard_steps"])
    assert heard.total("idle_s") / heard.total("timed_s") == pytest.approx(0.5)


def test_micro_batches_are_of_one_step(tmp_path: Path, heard: Heard) -> None:
    fit(tmp_path, heard, Sleeping(hook_s=0.01, step_s=0.01), data(320, 8), accumulate_grad_batches=4)
    step_times_s = [t for window in heard.windows for t in window.step_times_s]
    assert 5 <= len(step_times_s) <= 7, "ten steps but for warm-up"
    assert step_times_s == pytest.approx([4 * 0.02] * len(step_times_s))
    assert heard.total("idle_s") / heard.total("timed_s") == pytest.approx(0.5)


def test_an_evaluation_is_in_no_step(tmp_path: Path, heard: Heard) -> None:
    fit(tmp_path, heard, Sleeping(step_s=0.01), data(160, 8), data(8, 8), val_check_interval=5)
    step_times_s = [t for window in heard.windows for t in window.step_times_s]
    assert step_times_s
    assert step_times_s == pytest.approx([0.01] * len(step_times_s))
    assert heard.total("idle_s") == pytest.approx(0.0, abs=1e-9)


class Slow(torch.utils.data.Dataset[Any]):
    """Batches that take a while to load."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        time.sleep(0.02)
        return (torch.randn(8, 16),)


def test_waiting_for_data_is_told_from_other_idle(tmp_path: Path, heard: Heard) -> None:
    loader = torch.utils.data.DataLoader(Slow(), batch_size=None)
    monitor = fit(tmp_path, heard, Sleeping(hook_s=0.01, step_s=0.01), loader)
    assert monitor.run is not None
    assert heard.total("idle_s") / heard.total("timed_s") == pytest.approx(0.75)
    assert heard.total("idle_data_s") / heard.total("timed_s") == pytest.approx(0.5)
    assert monitor.run.final["data_wait_s"] == pytest.approx(20 * 0.02)


def test_handing_batches_over_is_no_idle_and_that_of_an_evaluation_is_nobodys(tmp_path: Path, heard: Heard) -> None:
    class Handing(Sleeping):
        def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
            time.sleep(0.02)
            return batch

    monitor = fit(tmp_path, heard, Handing(step_s=0.02), data(160, 8), data(80, 8), val_check_interval=10)
    assert monitor.run is not None
    assert heard.total("h2d_s") / heard.total("timed_s") == pytest.approx(0.5)
    assert heard.total("idle_s") == pytest.approx(0.0, abs=1e-9)
    assert monitor.run.final["h2d_s"] == pytest.approx(20 * 0.02)
    assert monitor.run.final["train_s"] == pytest.approx(20 * 0.04)


@pytest.mark.parametrize("call", ["mark_h2d_start", "mark_h2d_end", "end"])
def test_a_fault_of_the_timeline_ends_the_measuring_and_not_the_training(
    tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, call: str
) -> None:
    def broken(self: Any) -> None:
        raise RuntimeError("no more events")

    monkeypatch.setattr(DeviceTimeline, call, broken)
    steps: list[int] = []

    class Counts(Sleeping):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            steps.append(batch_idx)
            return super().training_step(batch, batch_idx)

    monitor = fit(tmp_path, heard, Counts())
    assert len(steps) == 20
    assert "measuring costs failed and stops here; training continues" in caplog.text
    assert monitor.recorder is None

"""On a CUDA device: phases against Kineto's kernels, trace windows against planted gaps, and no synchronisation."""

from __future__ import annotations

import gzip
import json
import time
from bisect import bisect
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from lightning_models import namespace, trainer
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.data import DataLoader

from lightning_costs import CostMonitor
from lightning_costs.probes.trace_windows import trace_events

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),
]
pl = namespace("lightning.pytorch")
STEPS = 200
#: Steps that the test profiles for itself.
PROFILED = range(100, 140)
PHASES = ("forward_s", "backward_s", "optimizer_s")


class Model(pl.LightningModule):
    """Some ten milliseconds of the device a step, whose passes and updates are marked in the trace."""

    def __init__(self, *, tiny: bool = False, sleep_s: float = 0.0, item: bool = False, compiled: bool = False) -> None:
        super().__init__()
        width = 16 if tiny else 2048
        net = nn.Sequential(*[nn.Linear(width, width) for _ in range(40 if tiny else 6)])
        self.net = torch.compile(net) if compiled else net
        self.width, self.sleep_s, self.item = width, sleep_s, item

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        time.sleep(self.sleep_s)
        with record_function("forward_s"):
            out = self.net(batch[0])
            if self.item:
                out.sum().item()
                time.sleep(0.005)
            return out.square().mean()

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        with record_function("backward_s"):
            loss.backward()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-4)

    def train_dataloader(self) -> Any:
        batch = (torch.randn(32 if self.width == 16 else 8192, self.width, device="cuda"),)
        return DataLoader([batch] * STEPS, batch_size=None)


class Profiles(pl.Callback):
    """Kineto's seconds of each phase: from the end of the last kernel before it to the end of its own last one.

    The median step's, as starting a profiler makes some steps longer.
    """

    def __init__(self) -> None:
        self.profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
        self.step_s: dict[str, float] = {}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == PROFILED.start:
            self.profiler.start()
        if batch_idx == PROFILED.stop:
            self.profiler.stop()
            self.read()

    def read(self) -> None:
        events = trace_events(self.profiler.profiler.kineto_results.events())
        launches = {e.correlation: e for e in events if e.kind == "launch"}
        notes = [e for e in events if e.kind == "note"]
        begun = sorted(n.begun_s for n in notes if n.name == "forward_s")
        spans: dict[str, list[float]] = {name: [0.0] * len(begun) for name in PHASES}
        before_s = None
        for kernel in sorted((e for e in events if e.kind == "kernel"), key=lambda e: e.ended_s):
            at_s = launches[kernel.correlation].begun_s if kernel.correlation in launches else None
            if at_s is None:
                continue
            within = [n.name for n in notes if n.begun_s <= at_s < n.ended_s]
            phase = next((name for name in PHASES[:2] if name in within), None)
            if phase is None and any(name.startswith("Optimizer.step") for name in within):
                phase = "optimizer_s"
            if phase is not None and before_s is not None:
                spans[phase][bisect(begun, at_s) - 1] += kernel.ended_s - before_s
            before_s = kernel.ended_s
        self.step_s = {name: median(seconds[1:]) for name, seconds in spans.items()}


def fitted(folder: Path, model: Any, *callbacks: Any, **options: Any) -> Any:
    monitor = CostMonitor(save_dir=folder, infer=False, **options)
    trainer(pl, monitor, *callbacks, accelerator="gpu", max_epochs=1, log_every_n_steps=50).fit(model)
    assert monitor.run is not None
    return monitor.run


def step_s(run: Any) -> float:
    """Training seconds a step, past the first ones."""
    begun = run.points.filter(run.points["step"] >= 49).row(0, named=True)
    return (run.final["train_s"] - begun["train_s"]) / (run.final["steps"] - begun["steps"])


@pytest.mark.parametrize("compiled", [False, True])
def test_phases_are_kinetos_within_one_percent(tmp_path: Path, compiled: bool) -> None:
    kineto = Profiles()
    run = fitted(tmp_path, Model(compiled=compiled), kineto, count="off")
    begun = run.points.filter(run.points["step"] >= 49).row(0, named=True)  # the first steps compile
    for name in PHASES:
        per_step_s = (run.final[name] - begun[name]) / (run.final["steps"] - begun["steps"])
        truth_s = kineto.step_s[name]
        print(f"{name}: {1e3 * per_step_s:.3f} ms, Kineto {1e3 * truth_s:.3f} ms, {run.header['methods'][name]}")
        low_s, high_s = run.header["intervals"][name]
        half_s = (high_s - low_s) / 2 / (run.final["steps"] - begun["steps"])
        assert per_step_s == pytest.approx(truth_s, abs=max(0.01 * truth_s, half_s))
        assert run.header["methods"][name].startswith("estimated from sampled steps")


@pytest.mark.parametrize("accumulate", [1, 4])
def test_no_step_synchronises(tmp_path: Path, accumulate: int) -> None:
    class Forbids(pl.Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            torch.cuda.set_sync_debug_mode("error" if 10 <= batch_idx < 90 else "default")

    try:
        monitor = CostMonitor(save_dir=tmp_path, infer=False, log="none", count="off", log_every_n_steps=0)
        fit = trainer(pl, monitor, Forbids(), accelerator="gpu", max_epochs=1, accumulate_grad_batches=accumulate)
        fit.fit(Model())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert monitor.run is not None
    assert all(monitor.run.final[name] for name in PHASES)


def test_a_window_shows_what_the_device_did(tmp_path: Path) -> None:
    run = fitted(tmp_path, Model(), trace=True)
    found, final = run.header["trace"], run.final
    print(found, {name: final[name] for name in ("step_idle_s", "launch_bound_fraction", "overhead_s", "train_s")})
    assert found["clock"] == "device"
    assert found["by_category_s"]["matrix products"] > 0.6 * found["step_s"]
    assert final["exposed_comm_s"] == final["comm_s"] == 0.0
    assert final["launch_bound_fraction"] < 0.1
    (kept,) = tmp_path.glob("*/trace.json.gz")
    rows = json.loads(gzip.decompress(kept.read_bytes()))["traceEvents"]
    assert any(row.get("cat") == "kernel" for row in rows)
    assert any(row["ph"] == "f" for row in rows)


def test_planted_gaps_are_idle_inside_the_step(tmp_path: Path) -> None:
    busy_s = step_s(fitted(tmp_path / "busy", Model()))
    slept = fitted(tmp_path / "sleep", Model(sleep_s=0.03), trace=True)
    # The host sleeps while the device works on the step before: what exceeds that work is idle. The window is early,
    # when steps are some percent longer.
    idle_s = step_s(slept) - busy_s
    print("slept", slept.header["trace"], busy_s, idle_s)
    assert slept.header["trace"]["idle_s"] == pytest.approx(idle_s, abs=0.1 * step_s(slept))
    assert slept.final["launch_bound_fraction"] == pytest.approx(idle_s / step_s(slept), abs=0.1)
    read = fitted(tmp_path / "item", Model(item=True), trace=True)
    assert 0.005 <= read.header["trace"]["idle_s"] < 0.01
    tiny = fitted(tmp_path / "tiny", Model(tiny=True), trace=True)
    print("tiny", tiny.header["trace"], tiny.final["launch_bound_fraction"])
    assert tiny.final["launch_bound_fraction"] > 0.5

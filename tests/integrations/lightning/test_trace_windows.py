"""Trace windows in real fits: what they show, what they leave, and when there is none."""

from __future__ import annotations

import gzip
import json
import os
import socket
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from lightning_models import NAMESPACES, classifier, data, namespace, trainer
from torch._C._autograd import DeviceType

from lightning_costs import CostMonitor, load_run
from lightning_costs.indicators import clocks, counts, throughput, traced
from lightning_costs.probes import trace_windows
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.trace_windows import APART, FIRST_AT, PACE, STEPS, TraceWindows, trace_events
from lightning_costs.records.missing import Missing
from lightning_costs.records.trace import TracedStep
from lightning_costs.report.terminal.run import sentences

PROFILE = torch.autograd.profiler.profile
PREPARE = PROFILE._prepare_trace


def indicators() -> list[Any]:
    return [counts.Steps(), throughput.SteadyS(), throughput.SteadySamples(), clocks.OverheadS(), traced.ExposedCommS()]


def fitted(folder: Path, *, trace: bool = True, steps: int = 40, **options: Any) -> tuple[Any, CostMonitor]:
    pl = namespace(NAMESPACES[0])
    torch.manual_seed(0)
    model = classifier(pl)
    monitor = CostMonitor(save_dir=folder, infer=False, log="none", indicators=indicators(), trace=trace)
    trainer(pl, monitor, max_epochs=1, **options).fit(model, data(steps * 8))
    assert monitor.run is not None
    return model, monitor


def test_a_window_shows_what_a_step_is_made_of_and_changes_nothing(tmp_path: Path) -> None:
    model, monitor = fitted(tmp_path)
    plain, without = fitted(tmp_path / "plain", trace=False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    header = monitor.run.header
    found = header["trace"]
    assert (found["windows"], found["steps"], found["clock"]) == (1, STEPS - 1, "host")
    assert {"matrix products", "elementwise and reduction"} <= found["by_category_s"].keys()
    assert found["idle_s"] + sum(found["by_category_s"].values()) == pytest.approx(found["step_s"], rel=0.05)
    assert monitor.run.final["steady_samples"] <= without.run.final["steady_samples"] - 8 * STEPS, "not in the rates"
    assert monitor.run.final["overhead_s"] >= found["took_s"] > 0
    assert "shows operators by category" in header["missing"]["exposed_comm_s"]
    assert "trace=True" in without.run.header["missing"]["exposed_comm_s"]
    shown = " ".join(sentences(load_run(next(tmp_path.glob("run-*")))))
    assert f"({STEPS - 1} traced): " in shown
    assert not torch._C._autograd._profiler_enabled()
    assert PROFILE._prepare_trace is PREPARE


def test_the_kept_trace_is_for_perfetto_and_names_no_path_and_no_host(tmp_path: Path) -> None:
    fitted(tmp_path)
    (kept,) = tmp_path.glob("*/trace.json.gz")
    text = gzip.decompress(kept.read_bytes()).decode()
    rows = json.loads(text)["traceEvents"]
    names = {row["name"] for row in rows if row["ph"] == "X"}
    assert {"aten::addmm", "lightning_costs: batch"} <= names
    for told in (socket.gethostname(), str(tmp_path), os.getcwd(), "site-packages", str(os.getpid())):
        assert f'"{told}"' not in text
        assert told not in text or len(told) < 6
    assert all({"ph", "name", "pid"} <= row.keys() for row in rows)


def test_no_window_begins_while_the_users_profiler_runs(tmp_path: Path) -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as users:
        _, monitor = fitted(tmp_path, steps=30)
    assert "trace" not in monitor.run.header
    assert any(event.key == "aten::addmm" for event in users.key_averages())


def test_a_profiler_that_the_user_starts_in_a_window_ends_it(tmp_path: Path) -> None:
    windows = TraceWindows(torch.device("cpu"))
    windows.begin()
    windows.batch_begins()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True) as users:
        assert not windows.on
        torch.ones(2, 2) @ torch.ones(2, 2)
    assert any(event.key == "aten::mm" for event in users.key_averages())
    windows.batch_ends()
    assert not windows.step_ends(FIRST_AT)
    assert windows.steps == []
    assert PROFILE._prepare_trace is PREPARE


def test_windows_come_ever_more_rarely_and_within_their_share() -> None:
    busy_s = [0.0]
    windows = TraceWindows(torch.device("cpu"), lambda: busy_s[0])
    begun, done = [], 0
    while done < 20_000:
        if windows.due(done):
            begun.append(done)
            windows.begin()
            for _ in range(STEPS):
                windows.batch_begins()
                torch.ones(2)
                done += 1
                windows.step_ends(done)
            windows.took_s = 0.001 * len(begun)
        done += 1
        busy_s[0] = done * 0.1
    assert begun[0] == FIRST_AT
    assert all(later >= 4 * earlier for earlier, later in pairwise(begun))
    assert len(begun) == 5
    windows.took_s = 1e6
    assert not windows.due(10**9), "their share is spent"


def test_a_profiler_that_fails_leaves_the_training_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no Kineto")

    monkeypatch.setattr(PROFILE, "_start_trace", broken)
    _, monitor = fitted(tmp_path)
    assert monitor.run.final["steps"] == 40
    assert "trace" not in monitor.run.header


def test_totals_are_scaled_from_traced_steps_with_their_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = TraceWindows(torch.device("cpu"))
    for seconds in (1.0, 2.0, 3.0):
        windows.steps.append(TracedStep(step_s=4.0, by_category_s={}, idle_s=0.0, exposed_comm_s=seconds))
    found = windows.estimate(lambda step: step.exposed_comm_s, 100)
    assert (found.amount, found.counted, found.batches) == (200.0, 3, 100)
    assert found.half_width == pytest.approx(100 * 4.303 / 3**0.5, rel=1e-3)
    assert trace_windows.SHARE == 0.005


def test_without_the_argument_nothing_is_made() -> None:
    with pytest.raises(Missing, match="trace=True"):
        TraceWindows.attach(ProbeContext())
    with pytest.raises(ValueError, match="trace must be True or False"):
        CostMonitor(trace="yes")  # type: ignore[arg-type]


def test_a_window_holds_whole_steps_of_accumulated_batches_whatever_is_counted_again(tmp_path: Path) -> None:
    _, monitor = fitted(tmp_path, steps=96, accumulate_grad_batches=4)
    assert monitor.run.header["trace"]["steps"] == STEPS - 1


class KinetoEvent:
    """As `kineto_results.events()` has them."""

    def __init__(self, name: str, device: str, begun_ns: int, ended_ns: int, *, annotation: bool = False) -> None:
        self._name, self._device, self._annotation = name, device, annotation
        self._begun_ns, self._ended_ns = begun_ns, ended_ns

    def name(self) -> str:
        return self._name

    def device_type(self) -> DeviceType:
        return DeviceType.CPU if self._device == "CPU" else DeviceType.CUDA

    def is_user_annotation(self) -> bool:
        return self._annotation

    def start_ns(self) -> int:
        return self._begun_ns

    def duration_ns(self) -> int:
        return self._ended_ns - self._begun_ns

    def correlation_id(self) -> int:
        return 3

    def device_resource_id(self) -> int:
        return 7

    def start_thread_id(self) -> int:
        return 1


@pytest.mark.parametrize("marked", [True, False], ids=["marked as such", "by its name alone"])
def test_an_annotation_that_kineto_repeats_on_the_device_is_no_kernel_and_no_second_mark(marked: bool) -> None:
    raw = [
        KinetoEvent("Optimizer.step#Adam.step", "CPU", 10, 14, annotation=True),
        KinetoEvent("Optimizer.step#Adam.step", "CUDA", 11, 14, annotation=marked),
        KinetoEvent(trace_windows._MARK, "CPU", 10, 20, annotation=True),
        KinetoEvent(trace_windows._MARK, "CUDA", 12, 22, annotation=marked),
        KinetoEvent("multi_tensor_apply_kernel", "CUDA", 11, 12),
        KinetoEvent("cudaLaunchKernel", "CPU", 10, 11),
        KinetoEvent("aten::add", "CPU", 10, 12),
    ]
    assert [(event.kind, event.name) for event in trace_events(raw)] == [
        ("note", "Optimizer.step#Adam.step"),
        ("note", trace_windows._MARK),
        ("kernel", "multi_tensor_apply_kernel"),
        ("launch", "cudaLaunchKernel"),
        ("operator", "aten::add"),
    ]


def test_steps_before_a_window_are_seen_one_by_one_though_others_repeat_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    due = TraceWindows.due

    def noted(self: TraceWindows, done: int) -> bool:
        asked.append(done)
        return due(self, done)

    monkeypatch.setattr(TraceWindows, "due", noted)
    monkeypatch.setattr(trace_windows, "SHARE", 1.0)
    _, monitor = fitted(tmp_path, steps=150)
    second = APART * (FIRST_AT + STEPS)
    assert monitor.run is not None
    assert monitor.run.header["trace"]["windows"] == 2
    assert set(range(second - PACE, second + 1)) <= set(asked)
    assert len(asked) < 120, "elsewhere steps repeat silently"


def test_the_pace_is_the_median_step_before_the_window() -> None:
    begun_s = iter([0.0, 1.0, 2.0, 30.0, 31.0, 32.0, 33.0, 34.0, 35.0, 36.0, 37.0, 38.0, 39.0])
    windows = TraceWindows(torch.device("cuda"), train_s=lambda: next(begun_s))
    assert [windows.due(done) for done in range(FIRST_AT + 1)] == [False] * FIRST_AT + [True]
    lengths = [later - begun for begun, later in pairwise(windows._begins)]
    assert len(lengths) == trace_windows.PACE
    assert median(lengths) == 1.0

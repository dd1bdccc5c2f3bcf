"""Idle on a CUDA device against the profiler's trace of the very same run, and no synchronisation for it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning_models import namespace, trainer
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.data import DataLoader, IterableDataset

from lightning_costs import CostMonitor
from lightning_costs.probes.device_timeline import CudaEvents, DeviceTimeline
from lightning_costs.run.input_stalls import describe_input_stalls
from lightning_costs.run.record import RunRecord

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),
]
pl = namespace("lightning.pytorch")

WIDTH, DEPTH, ROWS = 2048, 8, 8192
#: Batches at the start of a fit that the truth leaves out, as the monitor leaves out warm-up.
WARM = 8


def net() -> nn.Module:
    """Some tens of milliseconds of matrix products, forward and backward."""
    return nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH)])


@cache
def work_s() -> float:
    """Device seconds of one step's work, by a synchronised stopwatch."""
    model, x = net().cuda(), torch.randn(ROWS, WIDTH, device="cuda")
    took = []
    for _ in range(8):
        torch.cuda.synchronize()
        began = time.perf_counter()
        model(x).square().mean().backward()
        torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return sorted(took)[len(took) // 2]


class Loading(IterableDataset[Tensor]):
    """Batches that take a known time to load."""

    def __init__(self, batch: Tensor, load_s: float) -> None:
        self.batch, self.load_s = batch, load_s

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(1000):
            if self.load_s:
                time.sleep(self.load_s)
            yield self.batch.clone()


class Busy(pl.LightningModule):
    """A step of known work on rows that lie on the device; the batch is added to the first of them."""

    def __init__(self, *, load_s: float = 0.0, python_s: float = 0.0, rows: int = 1) -> None:
        super().__init__()
        self.net = net()
        self.register_buffer("x", torch.randn(ROWS, WIDTH))
        self.load_s, self.python_s, self.rows = load_s, python_s, rows

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.python_s:
            time.sleep(self.python_s)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.x[: len(batch)] += batch
        return self.net(self.x).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-6)

    def train_dataloader(self) -> Any:
        return DataLoader(Loading(torch.zeros(self.rows, WIDTH), self.load_s), batch_size=None, pin_memory=True)


class Works(pl.Callback):
    """Marks the work on each batch in the profiler's trace."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        optimization = trainer.fit_loop.epoch_loop.automatic_optimization
        original = optimization.run

        def run(*args: Any, **kwargs: Any) -> Any:
            with record_function("work"):
                return original(*args, **kwargs)

        optimization.run = run


class Truth(NamedTuple):
    """Shares of the device's time between the ends of the works, from the trace."""

    idle: float
    copy: float
    works: int


def truth_of(trace: dict[str, Any]) -> Truth:
    """Idle between works: no kernel, copy or fill from the last of one work to the first of the next.

    What the device ran belongs to the work during which the host launched it.
    """
    events = [event for event in trace["traceEvents"] if event.get("ph") == "X"]
    launched = {
        event["args"]["correlation"]: event["ts"]
        for event in events
        if event.get("cat") in ("cuda_runtime", "cuda_driver") and "correlation" in event.get("args", {})
    }
    works = sorted(
        (event["ts"], event["ts"] + event["dur"])
        for event in events
        if event.get("cat") == "user_annotation" and event["name"] == "work"
    )
    ran = sorted(
        (
            (
                event["ts"],
                event["ts"] + event["dur"],
                launched.get(event["args"].get("correlation"), -1.0),
                event["name"],
            )
            for event in events
            if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")
        ),
        key=lambda span: span[:2],
    )
    if not ran:
        pytest.skip("the profiler saw nothing on the device: CUPTI is not at hand")
    spans = []
    for begin, end in works:
        own = [(a, b) for a, b, at, _ in ran if begin <= at <= end]
        spans.append((min(a for a, _ in own), max(b for _, b in own)))
    idle = copy = 0.0
    for (_, ended), (begins, _) in pairwise(spans[WARM:]):
        at = ended
        for a, b, _, name in ran:
            if b <= ended or a >= begins:
                continue
            idle += max(0.0, a - at)
            at = max(at, b)
            copy += (b - a) if "HtoD" in name else 0.0
        idle += max(0.0, begins - at)
    whole = spans[-1][1] - spans[WARM][1]
    return Truth(idle / whole, copy / whole, len(works))


def fit(tmp_path: Path, model: Any, *callbacks: Any, steps: int = 48, **options: Any) -> RunRecord:
    monitor = CostMonitor(save_dir=tmp_path, infer=False)
    options = {"accelerator": "gpu", "max_steps": steps, "max_epochs": -1, "log_every_n_steps": 1000, **options}
    trainer(pl, monitor, *callbacks, **options).fit(model)
    assert monitor.run is not None
    return monitor.run


def profiled(tmp_path: Path, model: Any, **options: Any) -> tuple[RunRecord, Truth]:
    """A run and the truth of it: the profiler slows the host, so both are of the same run."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        run = fit(tmp_path, model, Works(), **options)
    trace = tmp_path / "trace.json"
    seen.export_chrome_trace(str(trace))
    return run, truth_of(json.loads(trace.read_text(encoding="utf-8")))


class Shares(NamedTuple):
    """What the run says."""

    idle: float
    data: float
    copy: float


def shares(run: RunRecord) -> Shares:
    final = run.final
    assert final["timed_s"], run.header["missing"]
    idle, data, copy = (final[name] / final["timed_s"] for name in ("idle_s", "idle_data_s", "h2d_device_s"))  # type: ignore[operator]
    return Shares(idle, data, copy)


def test_a_device_bound_run_does_not_idle(tmp_path: Path) -> None:
    run, truth = profiled(tmp_path, Busy())
    ours = shares(run)
    print(f"work {1e3 * work_s():.1f} ms; {truth}; {ours}; {describe_input_stalls(run.header['setup'], run.final)}")
    assert truth.idle < 0.05
    assert ours.idle == pytest.approx(truth.idle, abs=0.02)
    assert describe_input_stalls(run.header["setup"], run.final)[0].startswith("not input-bound")


def test_a_host_bound_run_idles_for_python(tmp_path: Path) -> None:
    run, truth = profiled(tmp_path, Busy(python_s=1.6 * work_s()))
    ours = shares(run)
    said = describe_input_stalls(run.header["setup"], run.final)
    print(f"work {1e3 * work_s():.1f} ms; {truth}; {ours}; {said}")
    assert 0.2 < truth.idle < 0.8
    assert ours.idle == pytest.approx(truth.idle, abs=0.02)
    assert ours.data < 0.05
    assert said[0].startswith("not input-bound")
    assert "(Python between steps)" in said[1]


@pytest.mark.parametrize("accumulate", [1, 4])
def test_an_input_bound_run_idles_for_its_batches(tmp_path: Path, accumulate: int) -> None:
    load_s = 1.6 * work_s()
    run, truth = profiled(tmp_path, Busy(load_s=load_s), steps=48 // accumulate, accumulate_grad_batches=accumulate)
    ours = shares(run)
    said = describe_input_stalls(run.header["setup"], run.final)
    print(f"work {1e3 * work_s():.1f} ms; {truth}; {ours}; {said}")
    assert truth.works == 48
    assert 0.2 < truth.idle < 0.8
    assert ours.idle == pytest.approx(truth.idle, abs=0.02)
    assert ours.data > 0.8 * ours.idle
    assert said[0].startswith("input-bound")
    assert run.final["step_p50_s"] > 0.95 * accumulate * load_s, "a step is all of its micro-batches"  # type: ignore[operator]


def test_loading_hidden_behind_the_device_is_no_idle_whatever_the_host_says(tmp_path: Path) -> None:
    run, truth = profiled(tmp_path, Busy(load_s=0.6 * work_s()))
    ours, final = shares(run), run.final
    host = final["data_wait_s"] / final["train_s"]  # type: ignore[operator]
    print(f"work {1e3 * work_s():.1f} ms; {truth}; {ours}; a timer on the host says {host:.3f}")
    assert ours.idle == pytest.approx(truth.idle, abs=0.02)
    assert ours.data < 0.1 < 0.25 < host


def test_copies_on_the_compute_stream_are_no_idle(tmp_path: Path) -> None:
    run, truth = profiled(tmp_path, Busy(rows=ROWS, load_s=1.6 * work_s()))
    ours = shares(run)
    print(f"work {1e3 * work_s():.1f} ms; {truth}; {ours}")
    assert truth.copy > 0.005
    assert ours.copy == pytest.approx(truth.copy, abs=0.02)
    assert ours.idle == pytest.approx(truth.idle, abs=0.02)
    assert run.final["h2d_s"] is not None


def test_steps_transfers_and_points_do_not_synchronise(tmp_path: Path) -> None:
    class Strict(pl.Callback):
        raised = False

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            # From the first strict batch on, the fetches, transfers, steps and points of all that follow.
            torch.cuda.set_sync_debug_mode("error" if 10 <= batch_idx < 90 else "default")
            if batch_idx == 50:
                with pytest.raises(RuntimeError, match="synchroniz"):
                    pl_module.x[0, 0].item()
                self.raised = True

    strict = Strict()
    try:
        run = fit(tmp_path, Busy(rows=64), strict, steps=100, log_every_n_steps=20)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert strict.raised, "the mode was in force"
    assert run.final["steps"] == 100
    assert run.final["h2d_device_s"] > 0  # type: ignore[operator]
    assert run.points.filter(run.points["trigger"] == "train").height >= 4


def test_marks_cost_microseconds_and_make_no_events_once_there_are_enough() -> None:
    events = CudaEvents(torch.device("cuda", 0))
    probe: DeviceTimeline[torch.cuda.Event] = DeviceTimeline(events)

    def batches(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            probe.mark_h2d_start()
            probe.mark_h2d_end()
            probe.begin(0.0)
            probe.end()
            probe.stepped(steady=True)
        return (time.perf_counter() - began) / count

    for _ in range(2):  # the second time with the last end of the first one still on hand
        batches(100)
        torch.cuda.synchronize()
        probe.collect()
    made = len(events._pool)
    mark_s = batches(100)
    torch.cuda.synchronize()
    began = time.perf_counter()
    found = probe.collect()
    read_s = (time.perf_counter() - began) / 100
    print(f"four marks {1e6 * mark_s:.1f} us a batch, reading them {1e6 * read_s:.1f} us a batch")
    assert len(found.step_times_s) == 100
    assert len(events._pool) == made
    assert mark_s < 60e-6
    assert read_s < 60e-6


class TwoShapes(pl.LightningModule):
    """Short and long batches in turns; one long step sleeps on the device, as a kernel that hangs would."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(WIDTH, WIDTH)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if batch_idx == 41:
            torch.cuda._sleep(1_000_000_000)
        return self.net(batch).square().mean()

    def train_dataloader(self) -> Any:
        rows = [64 if n % 2 == 0 else ROWS for n in range(60)]
        return DataLoader(rows, batch_size=None, collate_fn=lambda n: torch.randn(n, WIDTH))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def test_slow_steps_are_known_with_batches_of_two_shapes(tmp_path: Path) -> None:
    monitor = CostMonitor(save_dir=tmp_path, infer=False)
    trainer(pl, monitor, accelerator="cuda", max_epochs=1).fit(TwoShapes())
    run = monitor.run
    assert run is not None
    assert "slow_s" not in run.header["missing"]
    assert (run.final["slow_s"] or 0.0) >= 0.2, (
        "a billion cycles are some tenths of a second; the long shape is not slow"
    )

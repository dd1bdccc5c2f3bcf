"""Hardware counters against activity that is known, and what is missing without them."""

from __future__ import annotations

import pytest
import torch
from fakes import FakeClock, FakeGpm, FakeGpmGpu, sample
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.indicators import default_indicators
from lightning_costs.indicators.reader import IndicatorReader
from lightning_costs.probes import gpu_activity as probe
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.gpu_activity import GpuActivity, Throttling
from lightning_costs.records.missing import Missing
from lightning_costs.records.time_buckets import TimeBuckets

HIGHEST_HZ = 1.98e9


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock(1024.0)
    monkeypatch.setattr(probe, "now_s", clock)
    return clock


def waves(t: float) -> tuple[float, float, float]:
    """Activity that goes up and down within a second."""
    high = t % 1.0 < 0.5
    return (0.9, 0.6, 0.3) if high else (0.2, 0.1, 0.05)


def test_activity_of_training_is_the_integral_of_what_was_active(clock):
    gpu = FakeGpmGpu(clock, waves)
    activity = GpuActivity(FakeGpm(), [gpu])
    for _ in range(40):
        clock.sleep(0.75)
        activity.on_bucket_change()
    truth = gpu.active_s(1024.0, 1054.0, steps=12_000)
    assert activity.seen_s == pytest.approx(30.0)
    assert (activity.sm_s, activity.tensor_s, activity.dram_s) == pytest.approx(truth, rel=1e-3)
    assert activity.tensor_peak_s == pytest.approx(activity.tensor_s)


@given(seconds=st.lists(st.sampled_from([0.03125, 0.0625, 0.125, 0.5, 1.375]), min_size=1, max_size=30))
def test_whatever_the_rhythm_of_readings_nothing_is_counted_twice(seconds):
    clock = FakeClock(1024.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "now_s", clock)
        gpu = FakeGpmGpu(clock, lambda t: (0.5, 0.25, 0.125))
        activity = GpuActivity(FakeGpm(), [gpu])
        for wait_s in seconds:
            clock.sleep(wait_s)
            activity.on_bucket_change()
        assert activity.seen_s <= sum(seconds) + 1e-9
        assert activity.seen_s >= sum(seconds) - 2 * gpu.every_s - probe.LEAST_S
        assert activity.tensor_s == pytest.approx(0.25 * activity.seen_s)


def test_evaluation_is_no_training(clock):
    """Training at 80 %, evaluation at 10 %: readings where the account changes keep them apart."""
    accounts = TimeBuckets(clock, begun_s=clock())
    spans: list[tuple[float, float]] = []

    def evaluating_at(t: float) -> bool:
        return any(begin <= t < end for begin, end in spans)

    gpu = FakeGpmGpu(clock, lambda t: (0.1,) * 3 if evaluating_at(t) else (0.8,) * 3)
    accounts.reset_to("train")
    activity = GpuActivity(FakeGpm(), [gpu], accounts)
    accounts.before_switch = activity.on_bucket_change
    for _ in range(5):
        clock.sleep(2.0)
        spans.append((clock(), clock() + 1.0))
        with accounts.bucket("evaluate"):
            clock.sleep(1.0)
    activity.on_bucket_change()
    assert activity.seen_s == pytest.approx(10.0)
    assert activity.tensor_s == pytest.approx(8.0)


def test_ofu_weighs_tensor_activity_by_the_clock(clock):
    """A GPU held at half of its highest clock does half of its peak at most."""
    gpu = FakeGpmGpu(clock, lambda t: (1.0, 0.8, 0.1), clock_hz=lambda t: HIGHEST_HZ / 2)
    activity = GpuActivity(FakeGpm(), [gpu])
    for _ in range(4):
        clock.sleep(1.0)
        activity.on_bucket_change()
    assert activity.tensor_peak_s / activity.seen_s == pytest.approx(0.4)
    assert activity.take_clock_hz() == pytest.approx(HIGHEST_HZ / 2)
    assert activity.take_clock_hz() is None


def test_gpus_of_one_process_add_up(clock):
    gpus = [FakeGpmGpu(clock, lambda t: (1.0, 0.5, 0.2)), FakeGpmGpu(clock, lambda t: (0.5, 0.25, 0.1))]
    activity = GpuActivity(FakeGpm(), gpus)
    clock.sleep(2.0)
    activity.on_bucket_change()
    assert (activity.seen_s, activity.tensor_s) == (4.0, 1.5)


def test_gpus_whose_drivers_sample_at_other_moments_are_read_over_the_same_time(clock):
    """One has a new sample before the other: until both have, the time adds up for both."""

    def bursts(t: float) -> tuple[float, float, float]:
        return (0.5, float(t % 0.75 < 0.375), 0.1)

    gpus = [FakeGpmGpu(clock, bursts, every_s=every_s) for every_s in (0.125, 0.75)]
    activity = GpuActivity(FakeGpm(), gpus)
    for _ in range(48):
        clock.sleep(0.125)
        activity.on_bucket_change()
    assert activity.seen_s == pytest.approx(12.0, rel=0.1)
    assert activity.tensor_s == pytest.approx(0.5 * activity.seen_s, rel=0.05)


def test_samples_are_freed(clock):
    nvml = FakeGpm()
    activity = GpuActivity(nvml, [FakeGpmGpu(clock, waves)])
    activity.detach()
    assert (nvml.allocated, nvml.shutdowns) == (0, 1)


def test_a_gpu_before_hopper_has_no_counters_and_keeps_no_samples(clock):
    nvml = FakeGpm()
    with pytest.raises(Missing, match="Hopper"):
        GpuActivity(nvml, [FakeGpmGpu(clock, waves), FakeGpmGpu(clock, waves, supported=False)])
    assert nvml.allocated == 0


def test_a_counter_that_stops_answering_is_missing_from_then_on(clock):
    nvml = FakeGpm()
    activity = GpuActivity(nvml, [FakeGpmGpu(clock, waves)])
    nvml.lost = True
    clock.sleep(1.0)
    activity.on_bucket_change()
    with pytest.raises(Missing, match="stopped answering"):
        activity.update(sample())


def test_throttling_is_counted_from_the_begin_of_the_run(clock):
    limit = {"power": lambda t: 100.0 + 0.5 * (t - 1024.0), "thermal": lambda t: 7.0, "any": lambda t: t - 1000.0}
    nvml = FakeGpm()
    throttling = Throttling(nvml, [FakeGpmGpu(clock, waves, throttled_s=limit)])
    reads = nvml.policy_reads
    clock.sleep(4.0)
    assert throttling.total_s("power", now=False) == 0.0
    assert nvml.policy_reads == reads, "a counter is read every five seconds"
    clock.sleep(4.0)
    assert throttling.total_s("power", now=False) == 4.0
    clock.sleep(1.0)
    assert throttling.total_s("any", now=True) == 9.0
    assert throttling.total_s("thermal", now=False) == 0.0


def test_a_cause_that_is_not_counted_is_missing(clock):
    throttling = Throttling(FakeGpm(), [FakeGpmGpu(clock, waves, throttled_s={"power": lambda t: 0.0})])
    with pytest.raises(Missing, match="thermal"):
        throttling.total_s("thermal", now=False)


def test_a_cpu_run_says_what_the_counters_need():
    reader = IndicatorReader(default_indicators(), ProbeContext(device=torch.device("cpu")))
    reader.open()
    for name in ("sm_active_s", "tensor_active_s", "dram_active_s", "sm_clock_hz"):
        assert "Hopper" in reader.missing[name]
    assert "NVIDIA" in reader.missing["throttled_s"]
    assert "CUDA" in reader.missing["alloc_retries"]
    reader.close()

"""On a CUDA device: our GPU energy against NVML's own counter, its power samples and Zeus, over a load; its price."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from lightning_costs.probes.clock import now_s
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.energy.meters import EnergyMeters
from lightning_costs.probes.energy.nvml import GpuEnergy
from lightning_costs.records.time_buckets import TimeBuckets

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),
]

CUDA = torch.device("cuda", 0)


def load(seconds: float, each: Callable[[], Any] = lambda: None, every_s: float = 0.5) -> None:
    """Matrix products for so long, with a call now and then."""
    a = torch.randn(8192, 8192, device=CUDA, dtype=torch.bfloat16)
    ends_s = called_s = time.perf_counter()
    ends_s += seconds
    while (now := time.perf_counter()) < ends_s:
        for _ in range(10):
            a @ a
        torch.cuda.synchronize()
        if now - called_s >= every_s:
            called_s = now
            each()


def nvml() -> tuple[Any, Any]:
    import pynvml

    pynvml.nvmlInit()
    return pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")


def test_energy_over_a_load_is_that_of_nvmls_counter() -> None:
    vendor, handle = nvml()
    accounts = TimeBuckets(now_s, begun_s=now_s())
    load(2)
    meters = EnergyMeters.attach(ProbeContext(device=CUDA, accounts=accounts))
    if not meters.method("gpu").startswith("counter"):
        pytest.skip("this device has no energy counter")
    meters.read()  # opening the meters took its time, on a device that was still at work
    before_j, began_mj = meters._joules["gpu"], vendor.nvmlDeviceGetTotalEnergyConsumption(handle)
    load(15, meters.read)
    ended_mj = vendor.nvmlDeviceGetTotalEnergyConsumption(handle)
    meters.read()
    told = meters.metadata(final=True)
    counter_j = (ended_mj - began_mj) / 1e3
    ours_j = meters._joules["gpu"] - before_j
    print(f"ours {ours_j:.1f} J, NVML's counter {counter_j:.1f} J; {told['gpu']}")
    assert ours_j == pytest.approx(counter_j, rel=0.02)
    assert abs(ours_j - counter_j) <= 2 * told["gpu"]["error_j"]
    assert told["gpu"]["counter_over_power"] == pytest.approx(1.0, abs=0.2)
    assert told["gpu"]["checked_s"] > 10


class WithoutCounter:
    """NVML of an older device."""

    def __init__(self, vendor: Any, *hidden: str) -> None:
        self._vendor, self._hidden = vendor, {"nvmlDeviceGetTotalEnergyConsumption", *hidden}

    def __getattr__(self, name: str) -> Any:
        if name in self._hidden:

            def unsupported(*args: Any) -> Any:
                raise self._vendor.NVMLError(self._vendor.NVML_ERROR_NOT_SUPPORTED)

            return unsupported
        return getattr(self._vendor, name)


@pytest.mark.parametrize("hidden", [(), ("nvmlDeviceGetSamples",)], ids=["kept samples", "power at readings"])
def test_power_integrated_over_bursts_is_within_its_bound_of_the_counter(hidden: tuple[str, ...]) -> None:
    vendor, handle = nvml()
    load(1)
    meter = GpuEnergy(WithoutCounter(vendor, *hidden), handle)
    try:
        began_mj = vendor.nvmlDeviceGetTotalEnergyConsumption(handle)
    except vendor.NVMLError as error:
        pytest.skip(f"nothing to compare with: {error}")
    joules = 0.0
    for _ in range(8):
        load(0.6)
        time.sleep(0.4)
        joules += meter.joules()
    counter_j = (vendor.nvmlDeviceGetTotalEnergyConsumption(handle) - began_mj) / 1e3
    told = meter.metering()
    print(f"{meter.method}: {joules:.1f} J, the counter {counter_j:.1f} J; {told.as_dict()}")
    assert told.error_j is not None
    assert abs(joules - counter_j) <= told.error_j + 0.2 * counter_j
    if not hidden and told.instrument == "NVML power samples":
        assert joules == pytest.approx(counter_j, rel=0.2)


def test_energy_over_a_load_is_that_of_zeus() -> None:
    monitor = pytest.importorskip("zeus.monitor").ZeusMonitor(gpu_indices=[0])
    load(2)
    meter = GpuEnergy.attach(CUDA)
    monitor.begin_window("load")
    meter.joules()
    load(15)
    joules = meter.joules()
    zeus_j = monitor.end_window("load").total_energy
    print(f"ours {joules:.1f} J, Zeus {zeus_j:.1f} J, ratio {joules / zeus_j:.4f}")
    assert joules == pytest.approx(zeus_j, rel=0.02)


_ASK = """
import time, torch
from lightning_costs.probes.energy.nvml import GpuEnergy
meter = GpuEnergy.attach(torch.device("cuda", 0))
a = torch.randn(4096, 4096, device="cuda")
ends = time.perf_counter() + 1.5
while time.perf_counter() < ends:
    a @ a
    torch.cuda.synchronize()
print("joules", meter.joules())
"""


@pytest.mark.parametrize("spelled", ["index", "uuid", "prefix"])
def test_visible_devices_in_any_spelling_have_energy(spelled: str) -> None:
    """codecarbon says 0 for some of them."""
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    value = {"index": "0", "uuid": f"GPU-{uuid}", "prefix": f"GPU-{uuid[:8]}"}[spelled]
    done = subprocess.run(
        [sys.executable, "-c", _ASK], env={**os.environ, "CUDA_VISIBLE_DEVICES": value},
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout.split()[-1]) > 30


def test_a_reading_costs_little_of_a_second() -> None:
    """What a point pays for the meters, the check of a second included; the figures are printed."""
    meter = GpuEnergy.attach(CUDA)
    calls: dict[str, Callable[[], Any]] = {
        "counter": meter.joules,
        "counter's check": lambda: meter.check(time.perf_counter()),
    }
    for name, call in calls.items():
        took_us = []
        for _ in range(100):
            time.sleep(0.02)
            began_s = time.perf_counter()
            call()
            took_us.append(1e6 * (time.perf_counter() - began_s))
        print(f"{name}: {statistics.median(took_us):.0f} us, at most {max(took_us):.0f}")
        assert statistics.median(took_us) < 20_000

from __future__ import annotations

import pytest
import torch
from fakes import FakeClock, FakeNvml
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.core.indicator import Missing
from lightning_costs.probes import nvml as probe
from lightning_costs.probes.nvml import GpuEnergy
from lightning_costs.probes.setting import Setting


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock(100.0)
    monkeypatch.setattr(probe, "time", clock)
    return clock


def test_the_counter_gives_the_energy_of_each_window_in_joules(clock):
    meter = GpuEnergy(FakeNvml(clock, lambda t: 300.0), handle=0)
    clock.sleep(10)
    assert meter.joules() == 3000.0
    assert meter.joules() == 0.0
    clock.sleep(2)
    assert meter.joules() == 600.0
    assert meter.method.startswith("counter: NVML total energy, by UUID")


def test_without_a_counter_power_is_integrated_and_the_method_says_so(clock):
    meter = GpuEnergy(FakeNvml(clock, lambda t: 300.0, counter=False), handle=0)
    clock.sleep(10)
    assert meter.joules() == pytest.approx(3000.0, rel=1e-9)
    assert meter.method.startswith("power: NVML power at emissions, trapezoids over time")


def test_trapezoids_are_exact_on_a_ramp_of_power(clock):
    meter = GpuEnergy(FakeNvml(clock, lambda t: 100.0 + 10.0 * (t - 100.0), counter=False), handle=0)
    clock.sleep(4)
    assert meter.joules() == pytest.approx(4 * 120.0, rel=1e-6)
    clock.sleep(6)
    assert meter.joules() == pytest.approx(6 * 170.0, rel=1e-6)


@given(steps=st.lists(st.integers(1, 2000), min_size=1, max_size=20), counter=st.booleans())
def test_splitting_windows_keeps_the_energy(steps, counter):
    with pytest.MonkeyPatch.context() as patch:
        clock = FakeClock()
        patch.setattr(probe, "time", clock)
        meter = GpuEnergy(FakeNvml(clock, lambda t: 250.0, counter=counter), handle=0)
        total = 0.0
        for step in steps:
            clock.sleep(step / 64)
            total += meter.joules()
        assert total == pytest.approx(250.0 * sum(steps) / 64, rel=1e-9, abs=len(steps) * 1e-3)


def test_a_counter_that_was_reset_is_missing_and_never_negative(clock):
    nvml = FakeNvml(clock, lambda t: 300.0)
    meter = GpuEnergy(nvml, handle=0)
    clock.sleep(1)
    nvml.reset_counter()
    with pytest.raises(Missing, match="gpu energy: NVML's counter was reset during the run") as caught:
        meter.joules()
    assert caught.value.warn


def test_neither_counter_nor_power_is_missing_with_nvmls_words(clock):
    wanted = r"gpu energy: NVML gives neither a counter nor power \(GPU is lost\)"
    with pytest.raises(Missing, match=wanted) as caught:
        GpuEnergy(FakeNvml(clock, lambda t: 1.0, counter=False, power=False), handle=0)
    assert caught.value.warn


@pytest.mark.parametrize("counter", [True, False])
def test_an_nvml_that_stops_answering_is_missing_with_its_words(clock, counter):
    nvml = FakeNvml(clock, lambda t: 300.0, counter=counter)
    meter = GpuEnergy(nvml, handle=0)
    nvml.has_counter = nvml.has_power = False
    clock.sleep(1)
    with pytest.raises(Missing, match=r"gpu energy: NVML stopped answering \((Not Supported|GPU is lost)\)"):
        meter.joules()


def test_detaching_ends_this_use_of_nvml(clock):
    nvml = FakeNvml(clock, lambda t: 300.0)
    GpuEnergy(nvml, handle=0).detach()
    assert nvml.shutdowns == 1


def test_without_a_cuda_device_there_is_no_gpu_energy():
    with pytest.raises(Missing, match="no CUDA device trains"):
        GpuEnergy.attach(Setting(device=torch.device("cpu")))


class Properties:
    uuid = "4f7a1e1c-0000"


@pytest.fixture
def vendor(monkeypatch, clock):
    """NVML with one device, and a torch that has a CUDA device of that UUID."""
    import pynvml

    fake = FakeNvml(clock, lambda t: 100.0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", fake.nvmlShutdown)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTotalEnergyConsumption", fake.nvmlDeviceGetTotalEnergyConsumption)
    asked = []

    def by_uuid(spelled):
        asked.append(spelled)
        if spelled not in fake.known:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return 0

    fake.known, fake.asked = ["GPU-4f7a1e1c-0000"], asked
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", by_uuid)
    return fake


CUDA = Setting(device=torch.device("cuda", 0))


def test_the_training_device_is_found_by_its_uuid(vendor, clock):
    meter = GpuEnergy.attach(CUDA)
    clock.sleep(5)
    assert meter.joules() == 500.0
    assert vendor.asked == ["GPU-4f7a1e1c-0000"]


def test_a_mig_slice_is_found_by_its_uuid(vendor):
    vendor.known = ["MIG-4f7a1e1c-0000"]
    GpuEnergy.attach(CUDA)
    assert vendor.asked[-1] == "MIG-4f7a1e1c-0000"


def test_a_device_that_nvml_does_not_know_is_missing_and_nvml_is_let_go(vendor):
    vendor.known = []
    with pytest.raises(Missing, match=r"NVML does not know the training device by its UUID \(Not Found\)"):
        GpuEnergy.attach(CUDA)
    assert vendor.shutdowns == 1


def test_no_driver_is_missing_with_what_is_needed(monkeypatch):
    import pynvml

    def no_driver():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    with pytest.raises(Missing, match=r"gpu energy needs NVML: no driver answered \(NVML Shared Library Not Found\)"):
        GpuEnergy.attach(CUDA)

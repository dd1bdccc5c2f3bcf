"""GPU energy against power curves whose integral is known."""

from __future__ import annotations

import logging
import os

import pynvml
import pytest
import torch
from fakes import FakeClock, FakeGpu, FakeNvml, sample
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.energy import nvml as probe
from lightning_costs.probes.energy.gpu_device import device_key
from lightning_costs.probes.energy.meters import EnergyMeters
from lightning_costs.probes.energy.nvml import GpuEnergy
from lightning_costs.records.missing import Missing


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock(100.0)
    monkeypatch.setattr(probe, "time", clock)
    monkeypatch.setattr(probe, "now_s", clock)
    return clock


#: Watts over seconds: what a device at work, one that warms up, and one that works and waits by turns draw.
CURVES = {
    "constant": lambda t: 300.0,
    "ramp": lambda t: 100.0 + 2.0 * (t - 100.0),
    "bursts": lambda t: 450.0 if t % 3.1 < 1.3 else 60.0,
}
#: How a device may tell its energy.
WAYS = {
    "exact counter": {},
    "counter of 100 ms": {"step_s": 0.1},
    "samples of 20 ms": {"counter": False, "samples": True},
    "samples of 100 ms": {"counter": False, "samples": True, "sample_s": 0.1},
    "power at readings": {"counter": False},
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rhythm_s", [0.37, 1.9, 7.3])
def test_energy_is_within_the_bound_that_the_header_states(clock, curve, way, rhythm_s):
    nvml = FakeNvml(clock, CURVES[curve], grid_s=1e-3, **WAYS[way])
    clock.sleep(0.05)
    meter, began_s, measured_j = GpuEnergy(nvml, handle=0), clock(), 0.0
    for _ in range(8):
        clock.sleep(rhythm_s)
        measured_j += meter.joules()
        bound_j = meter.metering().error_j
        assert bound_j is not None
        assert abs(measured_j - nvml.gpu.spent_j(began_s, clock())) <= bound_j + 0.01


@pytest.mark.parametrize("way", ["exact counter", "counter of 100 ms"])
def test_a_counters_bound_does_not_grow_with_the_run(clock, way):
    meter = GpuEnergy(FakeNvml(clock, CURVES["constant"], limit_w=400.0, **WAYS[way]), handle=0)
    for _ in range(50):
        clock.sleep(10)
        meter.joules()
    assert meter.metering().error_j == pytest.approx(40.0)


def test_kept_samples_see_what_happens_between_readings(clock):
    """Bursts that a reading every 1.9 s would miss: two thirds of the energy are in between."""
    options = {"counter": False, "grid_s": 1e-3}
    seen, unseen = (FakeNvml(clock, CURVES["bursts"], samples=s, **options) for s in (True, False))
    fine, coarse, began_s = GpuEnergy(seen, handle=0), GpuEnergy(unseen, handle=0), clock()
    fine_j = coarse_j = 0.0
    for _ in range(30):
        clock.sleep(1.9)
        fine_j, coarse_j = fine_j + fine.joules(), coarse_j + coarse.joules()
    truth_j = seen.gpu.spent_j(began_s, clock())
    assert fine_j == pytest.approx(truth_j, rel=0.005)
    assert fine.metering().facts["unseen_s"] == 0.0
    assert fine.metering().error_j < 0.03 * truth_j
    assert coarse.metering().facts["unseen_s"] == pytest.approx(57.0)
    assert coarse.metering().error_j > 0.5 * truth_j


def test_samples_that_are_gone_before_they_were_fetched_are_told_as_unseen(clock):
    meter = GpuEnergy(FakeNvml(clock, CURVES["constant"], counter=False, samples=True), handle=0)
    clock.sleep(60.0)
    assert meter.joules() == pytest.approx(300.0 * 60, rel=0.01)
    assert meter.metering().facts["unseen_s"] == pytest.approx(60.0 - 120 * 0.02, abs=0.1)


def test_samples_of_a_strange_clock_are_not_used(clock, monkeypatch):
    nvml = FakeNvml(clock, CURVES["constant"], counter=False, samples=True)
    monkeypatch.setattr(FakeClock, "EPOCH_S", 0.0)
    clock.time = lambda: 1_700_000_000.0 + clock()
    meter = GpuEnergy(nvml, handle=0)
    clock.sleep(10)
    assert meter.joules() == pytest.approx(3000.0)
    assert meter.metering().instrument == "NVML power usage"


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
@pytest.mark.parametrize("way", ["samples of 20 ms", "power at readings"])
def test_a_system_time_that_is_set_makes_no_energy(clock, way, jump_s):
    meter, measured_j = GpuEnergy(FakeNvml(clock, CURVES["constant"], **WAYS[way]), handle=0), 0.0
    for turn in range(20):
        clock.sleep(1.0)
        if turn == 10:
            clock.EPOCH_S += jump_s
        measured_j += meter.joules()
    assert measured_j == pytest.approx(300.0 * 20, rel=0.02)


def test_without_a_limit_or_samples_nobody_can_bound_the_energy(clock):
    meter = GpuEnergy(FakeNvml(clock, CURVES["constant"], counter=False, limit_w=None), handle=0)
    clock.sleep(10)
    assert meter.joules() == pytest.approx(3000.0)
    assert meter.metering().error_j is None


def test_the_counter_gives_the_energy_of_each_window_in_joules(clock):
    meter = GpuEnergy(FakeNvml(clock, lambda t: 300.0), handle=0)
    clock.sleep(10)
    assert meter.joules() == 3000.0
    assert meter.joules() == 0.0
    clock.sleep(2)
    assert meter.joules() == 600.0
    assert meter.method == "counter: NVML total energy, by UUID, edge error power x 0.1 s"


def test_the_method_says_how_power_was_got(clock):
    kept = GpuEnergy(FakeNvml(clock, lambda t: 300.0, counter=False, samples=True), handle=0)
    asked = GpuEnergy(FakeNvml(clock, lambda t: 300.0, counter=False), handle=0)
    assert kept.method == "power: NVML, the samples that the driver keeps, trapezoids over time, by UUID"
    assert asked.method == "power: NVML, one sample at each reading, trapezoids over time, by UUID"


@given(steps=st.lists(st.integers(1, 2000), min_size=1, max_size=20), way=st.sampled_from(sorted(WAYS)))
def test_splitting_windows_keeps_the_energy(steps, way):
    with pytest.MonkeyPatch.context() as patch:
        clock = FakeClock(100.0)
        patch.setattr(probe, "time", clock)
        patch.setattr(probe, "now_s", clock)
        meter = GpuEnergy(FakeNvml(clock, lambda t: 250.0, **WAYS[way]), handle=0)
        total = 0.0
        for step in steps:
            clock.sleep(step / 64)
            total += meter.joules()
        assert total == pytest.approx(250.0 * sum(steps) / 64, rel=1e-9, abs=25.0 + len(steps) * 1e-3)


# What goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [True, False])
def test_a_counter_that_was_reset_leaves_energy_within_its_bound(clock, samples):
    nvml = FakeNvml(clock, CURVES["bursts"], samples=samples, step_s=0.1, grid_s=1e-3)
    meter, began_s, measured_j = GpuEnergy(nvml, handle=0), clock(), 0.0
    for turn in range(12):
        clock.sleep(1.3)
        if turn in (4, 9):
            nvml.gpu.reset_counter()
        clock.sleep(0.4)
        spent_j = meter.joules()
        assert spent_j >= 0
        measured_j += spent_j
    metering = meter.metering()
    assert abs(measured_j - nvml.gpu.spent_j(began_s, clock())) <= metering.error_j
    assert metering.facts["counter_resets"] == 2
    assert "across a reset, power was integrated" in metering.detail
    if samples:
        assert metering.error_j < 0.1 * measured_j


def test_a_counter_that_was_reset_without_power_is_missing_and_never_negative(clock):
    nvml = FakeNvml(clock, lambda t: 300.0, power=False)
    meter = GpuEnergy(nvml, handle=0)
    clock.sleep(1)
    nvml.gpu.reset_counter()
    with pytest.raises(Missing, match="gpu energy: NVML's counter was reset during the run") as caught:
        meter.joules()
    assert caught.value.warn


def test_neither_counter_nor_power_is_missing_with_nvmls_words(clock):
    wanted = r"gpu energy: NVML gives neither a counter nor power \(Not Supported; Not Supported\)"
    with pytest.raises(Missing, match=wanted) as caught:
        GpuEnergy(FakeNvml(clock, lambda t: 1.0, counter=False, power=False), handle=0)
    assert caught.value.warn


@pytest.mark.parametrize("way", WAYS)
def test_a_device_that_is_lost_is_missing_with_nvmls_words(clock, way):
    nvml = FakeNvml(clock, lambda t: 300.0, **WAYS[way])
    meter = GpuEnergy(nvml, handle=0)
    clock.sleep(1)
    meter.joules()
    nvml.gpu.lost = True
    with pytest.raises(Missing, match=r"NVML stopped answering \(GPU is lost\)") as caught:
        meter.joules()
    assert caught.value.warn


def test_power_that_stops_answering_ends_the_check_and_not_the_counting(clock):
    nvml = FakeNvml(clock, lambda t: 300.0, samples=True)
    meter = GpuEnergy(nvml, handle=0)
    nvml.gpu.samples = nvml.gpu.power = False
    clock.sleep(10)
    assert meter.joules() == 3000.0
    clock.sleep(10)
    assert meter.joules() == 3000.0


def test_detaching_ends_this_use_of_nvml(clock):
    nvml = FakeNvml(clock, lambda t: 300.0)
    GpuEnergy(nvml, handle=0).detach()
    assert nvml.shutdowns == 1


# Counter against power -----------------------------------------------------------------------------------------


class Biased(FakeNvml):
    """A device whose counter counts more than its sensor says."""

    factor = 1.0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        return round(self.factor * super().nvmlDeviceGetTotalEnergyConsumption(handle))


@pytest.mark.parametrize("samples", [True, False])
@pytest.mark.parametrize(("factor", "warns"), [(1.0, False), (1.15, False), (1.25, True), (0.75, True)])
def test_counter_and_power_are_checked_against_each_other(clock, caplog, factor, warns, samples):
    nvml = Biased(clock, lambda t: 300.0, samples=samples, step_s=0.1)
    nvml.factor = factor
    meter = GpuEnergy(nvml, handle=0)
    with caplog.at_level(logging.WARNING, "lightning_costs"):
        for _ in range(120):
            clock.sleep(1.1)
            meter.joules()
    assert meter.metering().facts["counter_over_power"] == pytest.approx(factor, rel=0.01)
    assert meter.metering().facts["checked_s"] == pytest.approx(132.0, abs=2)
    warned = [r.getMessage() for r in caplog.records]
    assert len(warned) == warns
    assert all("NVML's counter reads" in text and "the header holds the ratio" in text for text in warned)


def test_stretches_that_power_did_not_see_are_not_compared(clock):
    meter = GpuEnergy(FakeNvml(clock, CURVES["bursts"], samples=True, grid_s=1e-3), handle=0)
    for _ in range(5):
        clock.sleep(30)  # the driver keeps 2.4 s
        meter.joules()
    assert "counter_over_power" not in meter.metering().facts


# Which device --------------------------------------------------------------------------------------------------

A, B, C = (f"{letter * 8}-1111-2222-3333-{letter * 12}" for letter in "abc")
SLICE, NEIGHBOUR = "dddddddd-4444-5555-6666-777777777777", "eeeeeeee-4444-5555-6666-777777777777"


def visible(devices: list[str], spelled: str | None) -> list[str]:
    """UUIDs in the order of CUDA's ordinals, as CUDA reads CUDA_VISIBLE_DEVICES: up to the first it does not know."""
    if spelled is None:
        return [d for d in devices if d != SLICE]
    seen: list[str] = []
    for word in spelled.split(",") if spelled else ():
        word = word.strip()
        if word.lstrip("-").isdigit():
            found = [devices[int(word)]] if 0 <= int(word) < len(devices) else []
        else:
            found = [d for d in devices if d.startswith(word.removeprefix("GPU-").removeprefix("MIG-"))]
        if len(found) != 1:
            break
        seen += found
    return seen


@pytest.fixture
def machine(monkeypatch, clock):
    """Three GPUs that draw 100, 200 and 300 W; torch sees what CUDA_VISIBLE_DEVICES leaves."""
    EnergyMeters.attach(ProbeContext(device=torch.device("cpu"))).detach()  # codecarbon asks NVML as it is imported
    gpus = {f"GPU-{uuid}": FakeGpu(clock, lambda t, w=w: w) for uuid, w in ((A, 100.0), (B, 200.0), (C, 300.0))}
    nvml = FakeNvml(clock, gpus=gpus)
    for name in dir(FakeNvml):
        if name.startswith("nvml"):
            monkeypatch.setattr(pynvml, name, getattr(nvml, name))

    def refuse(*args):
        raise AssertionError("a device was asked for by its index")

    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", refuse)

    def properties(device):
        found = visible([A, B, C, SLICE], os.environ.get("CUDA_VISIBLE_DEVICES"))[torch.device(device).index]
        return type("Properties", (), {"uuid": found})

    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    return nvml


def cuda(ordinal: int) -> torch.device:
    return torch.device("cuda", ordinal)


@pytest.mark.parametrize(
    ("spelled", "ordinal", "watts"),
    [
        (None, 0, 100.0),
        (None, 2, 300.0),
        ("2", 0, 300.0),
        ("2,0", 1, 100.0),
        ("1,7,0", 0, 200.0),
        (f"GPU-{B}", 0, 200.0),
        (f"GPU-{C},GPU-{A}", 1, 100.0),
        ("GPU-ccc", 0, 300.0),
        ("GPU-b,GPU-c", 1, 300.0),
    ],
)
def test_the_device_that_trains_is_metered_however_visible_devices_are_spelled(
    machine, clock, monkeypatch, spelled, ordinal, watts
):
    if spelled is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", spelled)
    meter = GpuEnergy.attach(cuda(ordinal))
    clock.sleep(10)
    assert meter.joules() == 10 * watts


def test_with_no_visible_device_the_cpu_trains_and_gpu_energy_is_zero_by_definition(machine, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible([A, B, C], "") == []
    meters = EnergyMeters.attach(ProbeContext(device=torch.device("cpu")))
    assert meters.method("gpu") == "zero by definition: no GPU trains in this run"
    assert machine.inits == 0


@pytest.mark.parametrize("replicated", [False, True])
def test_a_process_that_trains_on_several_devices_has_the_energy_of_all(machine, clock, monkeypatch, replicated):
    """A model in parts, or one that torch's DataParallel copies."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    module = torch.nn.Module()
    if replicated:
        parallel = torch.nn.DataParallel(torch.nn.Linear(1, 1))
        parallel.device_ids = [0, 2]
        module.net = parallel
    else:
        fake = type("Weight", (torch.nn.Parameter,), {"device": torch.device("cuda", 2)})
        module.weight = fake(torch.zeros(1))
    meters = EnergyMeters.attach(ProbeContext(device=cuda(0), module=module))
    clock.sleep(10)
    assert meters.total_j("gpu", sample(trigger="end")) == 4000.0
    assert meters.metadata()["gpu"]["error_j"] == pytest.approx(2 * 50.0)
    assert meters.method("gpu").endswith("2 devices of one process")
    meters.detach()
    assert machine.inits == machine.shutdowns == 2


@pytest.mark.parametrize("told", [SLICE, C])
def test_the_only_mig_slice_of_a_gpu_has_the_whole_gpus_energy_and_says_so(machine, clock, monkeypatch, told):
    """Whether torch tells the slice's UUID or the GPU's: with MIG on, a slice is what trains."""
    machine.gpus[f"GPU-{C}"] = FakeGpu(clock, lambda t: 300.0, mig=[f"MIG-{SLICE}"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"MIG-{told}")
    meter = GpuEnergy.attach(cuda(0))
    clock.sleep(10)
    assert meter.joules() == 3000.0
    assert "the whole GPU's, of which one MIG slice trains" in meter.method
    assert "a MIG slice of it trains, the only one" in meter.metering().detail


@pytest.mark.parametrize("told", [SLICE, C])
def test_a_mig_slice_with_neighbours_has_no_energy_of_its_own(machine, clock, monkeypatch, told):
    machine.gpus[f"GPU-{C}"] = FakeGpu(clock, lambda t: 300.0, mig=[f"MIG-{SLICE}", f"MIG-{NEIGHBOUR}"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", f"MIG-{told}")
    with pytest.raises(Missing, match="NVML meters the whole GPU, and 2 MIG slices share it") as caught:
        GpuEnergy.attach(cuda(0))
    assert caught.value.warn
    assert machine.shutdowns == machine.inits == 1


def test_a_driver_without_mig_meters_the_gpu(machine, clock, monkeypatch):
    def unknown(handle):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_FUNCTION_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlDeviceIsMigDeviceHandle", unknown)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    meter = GpuEnergy.attach(cuda(1))
    clock.sleep(1)
    assert meter.joules() == 200.0


def test_a_gpu_whose_slices_may_not_be_looked_at_is_missing_with_nvmls_words(machine, clock, monkeypatch):
    def forbidden(handle):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)

    machine.gpus[f"GPU-{C}"] = FakeGpu(clock, lambda t: 300.0, mig=[f"MIG-{SLICE}"])
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMaxMigDeviceCount", forbidden)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(Missing, match=r"does not say what else runs on the MIG device \(Insufficient Permissions\)"):
        GpuEnergy.attach(cuda(2))


def test_a_device_that_nvml_does_not_know_is_missing_and_nvml_is_let_go(machine, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine.gpus.clear()
    with pytest.raises(Missing, match=r"NVML does not know the training device by its UUID \(Not Found\)"):
        GpuEnergy.attach(cuda(0))
    assert machine.asked == [f"GPU-{A}", A, f"MIG-{A}"]
    assert machine.shutdowns == 1


def test_a_torch_that_tells_no_uuid_is_missing_with_what_to_do(machine, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: object())
    with pytest.raises(Missing, match="this torch does not report the device's UUID; a newer one does"):
        GpuEnergy.attach(cuda(0))
    assert device_key([cuda(0)]) is None


def test_no_driver_is_missing_with_what_is_needed(monkeypatch):
    def no_driver():
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    with pytest.raises(Missing, match=r"gpu energy needs NVML: no driver answered \(NVML Shared Library Not Found\)"):
        GpuEnergy.attach(cuda(0))


def test_ranks_that_share_a_device_have_one_key_whatever_their_ordinals_are(machine, monkeypatch):
    keys = {}
    for spelled, ordinal in ((None, 2), ("2", 0), (f"GPU-{C}", 0), (None, 1)):
        if spelled is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", spelled)
        keys[spelled, ordinal] = device_key([cuda(ordinal)])
    assert len(set(keys.values())) == 2
    assert keys[None, 2] == keys["2", 0] == keys[f"GPU-{C}", 0] != keys[None, 1]
    assert not any(C[:8] in key for key in keys.values())
    assert device_key([cuda(0), cuda(2)]) == device_key([cuda(2), cuda(0)]) not in keys.values()
    assert device_key([]) is None

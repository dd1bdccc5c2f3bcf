"""AMD devices through codecarbon's class, over a fake that speaks as amdsmi does (seen on codecarbon 3.3.2)."""

from __future__ import annotations

import types

import pytest
import torch
from codecarbon.core import gpu_amd
from fakes import FakeClock

from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.energy import amdsmi as probe
from lightning_costs.probes.energy import meters as energy
from lightning_costs.probes.energy.amdsmi import AmdEnergy
from lightning_costs.probes.energy.meters import EnergyMeters
from lightning_costs.records.missing import Missing
from lightning_costs.records.time_buckets import TimeBuckets

#: Microjoules that one count of the accumulator is worth on an MI200 and MI300.
RESOLUTION_UJ = 15.259


class AmdSmiError(Exception):
    """As `amdsmi.AmdSmiException`."""


class FakeAmdsmi:
    """Devices by PCI address; what they drew in joules is told."""

    AmdSmiException = AmdSmiError
    amdsmi_exception = types.SimpleNamespace(AmdSmiLibraryException=AmdSmiError)

    def __init__(self, joules: dict[str, float]) -> None:
        self.joules = joules
        self.fails: Exception | None = None

    def amdsmi_init(self) -> None:
        if self.fails is not None:
            raise self.fails

    def amdsmi_get_processor_handles(self) -> list[str]:
        return list(self.joules)

    def amdsmi_get_gpu_device_bdf(self, handle: str) -> str:
        return handle

    def amdsmi_get_gpu_device_uuid(self, handle: str) -> str:
        return "e7ff74a1-0000-1000-80ff-000000000000"

    def amdsmi_get_gpu_asic_info(self, handle: str) -> dict[str, str]:
        return {"market_name": "AMD Instinct MI210"}

    def amdsmi_get_power_cap_info(self, handle: str) -> dict[str, int]:
        return {"power_cap": 300_000_000}

    def amdsmi_get_gpu_vram_usage(self, handle: str) -> dict[str, int]:
        return {"vram_total": 65520, "vram_used": 12}

    def amdsmi_get_gpu_metrics_info(self, handle: str) -> dict[str, int]:
        return {"energy_accumulator": self._counts(handle)}

    def amdsmi_get_energy_count(self, handle: str) -> dict[str, float]:
        if self.fails is not None:
            raise self.fails
        return {"energy_accumulator": self._counts(handle), "counter_resolution": RESOLUTION_UJ, "timestamp": 1}

    def _counts(self, handle: str) -> int:
        return round(1e6 * self.joules[handle] / RESOLUTION_UJ)


@pytest.fixture
def machine(monkeypatch):
    """Two devices of which torch trains on the second by its address, as its ordinal 0."""
    fake = FakeAmdsmi({"0000:03:00.0": 1e6, "0000:83:00.0": 5e6})
    properties = types.SimpleNamespace(pci_domain_id=0, pci_bus_id=0x83, pci_device_id=0, uuid="61626364-6566-6768")
    monkeypatch.setattr(gpu_amd, "amdsmi", fake)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    clock = fake.clock = FakeClock()
    monkeypatch.setattr(probe, "now_s", clock)
    return fake


ROCM = torch.device("cuda", 0)


def test_the_device_that_trains_is_found_by_its_address_and_its_accumulator_read_in_joules(machine):
    meter = AmdEnergy.attach(ROCM)
    machine.joules["0000:03:00.0"] += 999.0
    machine.joules["0000:83:00.0"] += 1234.5
    machine.clock.sleep(10)
    assert meter.joules() == pytest.approx(1234.5, abs=0.01)
    assert meter.joules() == 0.0
    metering = meter.metering().as_dict()
    assert (metering["method"], metering["instrument"]) == ("counter", "amdsmi energy accumulator")
    assert metering["error_j"] == pytest.approx(12.345, rel=0.01)  # 123 W x 0.1 s


def test_a_rocm_build_of_torch_is_metered_by_amdsmi_and_not_by_nvml(machine, monkeypatch):
    monkeypatch.setattr(energy, "cpu_meter", energy.NullMeter)
    monkeypatch.setattr(energy, "ram_meter", energy.NullMeter)
    meters = EnergyMeters.attach(ProbeContext(device=ROCM, accounts=TimeBuckets(machine.clock, begun_s=0.0)))
    assert meters.method("gpu") == "counter: amdsmi energy accumulator, by PCI address, through codecarbon"


def test_without_amdsmi_it_is_missing_with_what_to_install(machine, monkeypatch):
    monkeypatch.setattr(gpu_amd, "amdsmi", None)
    with pytest.raises(Missing, match="needs amdsmi, which comes with ROCm: pip install amdsmi") as caught:
        AmdEnergy.attach(ROCM)
    assert caught.value.warn


def test_a_driver_that_does_not_answer_is_missing_with_its_words(machine):
    machine.fails = AmdSmiError("AMDSMI_STATUS_INIT_ERROR")
    with pytest.raises(Missing, match=r"amdsmi does not answer \(AMDSMI_STATUS_INIT_ERROR\)"):
        AmdEnergy.attach(ROCM)


def test_an_accumulator_of_zero_is_missing_and_no_device_that_drew_nothing(machine):
    """The second die of a device of two: codecarbon says 0 J for it."""
    machine.joules["0000:83:00.0"] = 0.0
    with pytest.raises(Missing, match=r"gpu energy: amdsmi"):
        AmdEnergy.attach(ROCM)
    machine.amdsmi_get_gpu_asic_info = lambda handle: {"market_name": "AMD Instinct MI250X"}
    with pytest.raises(Missing, match=r"accumulator reads 0; on devices of two dies it counts at the first one alone"):
        AmdEnergy.attach(ROCM)


def test_an_unknown_address_is_missing_and_named(machine):
    del machine.joules["0000:83:00.0"]
    with pytest.raises(Missing, match=r"amdsmi knows no device at 0000:83:00\.0, where torch trains"):
        AmdEnergy.attach(ROCM)


def test_a_counter_that_fails_or_is_reset_during_the_run_is_missing(machine):
    meter = AmdEnergy.attach(ROCM)
    machine.joules["0000:83:00.0"] = 3.0
    with pytest.raises(Missing, match="accumulator was reset during the run"):
        meter.joules()
    machine.fails = AmdSmiError("AMDSMI_STATUS_NO_DATA")
    with pytest.raises(Missing, match=r"gives no energy counter \(.*(AMDSMI_STATUS_NO_DATA|does not say why)"):
        meter.joules()

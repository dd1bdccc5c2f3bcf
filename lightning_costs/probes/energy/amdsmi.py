"""GPU energy of AMD devices, through codecarbon's class over amdsmi: the one file that touches either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, final

from lightning_costs.patching.quiet_codecarbon import silence_codecarbon
from lightning_costs.probes.clock import now_s
from lightning_costs.records.meter_info import EdgeErrorBound, MeterInfo
from lightning_costs.records.missing import Missing

if TYPE_CHECKING:
    import torch

#: The firmware adds to its accumulator about every millisecond; readings through the driver are cached up to 100 ms.
_LAG_S = 0.1


@final
class AmdEnergy:
    """Energy of one AMD device in joules, by its own accumulator."""

    method = "counter: amdsmi energy accumulator, by PCI address, through codecarbon"

    def __init__(self, device: Any) -> None:
        self._device = device
        self._counter_mj = self._read_mj()
        if self._counter_mj == 0:
            raise Missing(
                "gpu energy: amdsmi's accumulator reads 0; on devices of two dies it counts at the first one alone, "
                "and some drivers have none",
                warn=True,
            )
        self._read_s = now_s()
        self._edge = EdgeErrorBound(_LAG_S)

    @classmethod
    def attach(cls, device: torch.device) -> Self:
        """A meter of a device, found by its PCI address: ROCm and amdsmi spell UUIDs differently."""
        import torch

        with silence_codecarbon():
            from codecarbon.core import gpu_amd
        amdsmi: Any = gpu_amd.amdsmi
        if amdsmi is None:
            raise Missing(
                "gpu energy of AMD devices needs amdsmi, which comes with ROCm: pip install amdsmi", warn=True
            )
        properties: Any = torch.cuda.get_device_properties(device)
        try:
            address = f"{properties.pci_domain_id:04x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}."
        except AttributeError as error:
            raise Missing(
                f"gpu energy: this torch does not report the device's PCI address ({error})", warn=True
            ) from error
        try:
            amdsmi.amdsmi_init()
            for index, handle in enumerate(amdsmi.amdsmi_get_processor_handles()):
                if str(amdsmi.amdsmi_get_gpu_device_bdf(handle)).lower().startswith(address):
                    with silence_codecarbon():
                        return cls(gpu_amd.AMDGPUDevice(handle=handle, gpu_index=index))
        except amdsmi.AmdSmiException as error:
            raise Missing(f"gpu energy: amdsmi does not answer ({error})", warn=True) from error
        raise Missing(f"gpu energy: amdsmi knows no device at {address}0, where torch trains", warn=True)

    def detach(self) -> None:
        """There is nothing to release: codecarbon keeps amdsmi open for the process."""

    def _read_mj(self) -> float:
        with silence_codecarbon():
            counter_mj = self._device._get_total_energy_consumption()
        if counter_mj is None:
            why = getattr(self._device, "_counter_error", None) or "codecarbon below 3.3.2 does not say why"
            raise Missing(f"gpu energy: amdsmi gives no energy counter ({why})", warn=True)
        return float(counter_mj)

    def joules(self) -> float:
        """Energy since the last call, in joules."""
        read_s = now_s()
        elapsed_s, self._read_s = read_s - self._read_s, read_s
        before_mj, self._counter_mj = self._counter_mj, self._read_mj()
        if self._counter_mj < before_mj:
            raise Missing("gpu energy: amdsmi's accumulator was reset during the run", warn=True)
        spent_j = (self._counter_mj - before_mj) / 1e3
        self._edge.note(spent_j, elapsed_s)
        return spent_j

    def metering(self) -> MeterInfo:
        """How it was got."""
        return MeterInfo(
            method="counter",
            instrument="amdsmi energy accumulator",
            error_j=self._edge.joules,
            detail=f"the whole device, all its processes; the bound is {_LAG_S:g} s x the highest mean power between "
            "readings; the sensor's own accuracy is not in it",
        )

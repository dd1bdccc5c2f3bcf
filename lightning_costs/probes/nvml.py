"""GPU energy by NVML: the device found by UUID, never by index; millijoules become joules here."""

from __future__ import annotations

import time
from typing import Any, Self, final

from lightning_costs.core.indicator import Missing
from lightning_costs.probes.setting import Setting


def _handle(nvml: Any, uuid: str) -> Any:
    """NVML's handle of the device that torch knows by this UUID."""
    failures = []
    for spelled in (f"GPU-{uuid}", uuid, f"MIG-{uuid}"):
        try:
            return nvml.nvmlDeviceGetHandleByUUID(spelled)
        except nvml.NVMLError as error:
            failures.append(str(error))
    raise Missing(f"gpu energy: NVML does not know the training device by its UUID ({failures[0]})", warn=True)


@final
class GpuEnergy:
    """Energy of one GPU in joules: its own counter, or power times time where it has none.

    `nvmlDeviceGetTotalEnergyConsumption` counts millijoules since the driver was loaded (Volta and later) and
    moves about every 100 ms: a window's edge error is the power times 0.1 s.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        self._counter_mj: int | None = None
        self._power_w: float | None = None
        self._read_s = time.perf_counter()
        try:
            self._counter_mj = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            self.method = "counter: NVML total energy, by UUID, edge error power x 0.1 s"
        except nvml.NVMLError:
            try:
                self._power_w = nvml.nvmlDeviceGetPowerUsage(handle) / 1e3
            except nvml.NVMLError as error:
                raise Missing(f"gpu energy: NVML gives neither a counter nor power ({error})", warn=True) from error
            self.method = "power: NVML power at emissions, trapezoids over time, by UUID"

    @classmethod
    def attach(cls, setting: Setting) -> Self:
        """A meter of the setting's CUDA device.

        Raises:
            Missing: Where NVML does not answer or does not know the device's UUID.
        """
        import pynvml
        import torch

        if not setting.on_cuda:
            raise Missing("no CUDA device trains")
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise Missing(f"gpu energy needs NVML: no driver answered ({error})", warn=True) from error
        try:
            return cls(pynvml, _handle(pynvml, str(torch.cuda.get_device_properties(setting.device).uuid)))
        except Missing:
            pynvml.nvmlShutdown()
            raise

    def detach(self) -> None:
        """End this use of NVML."""
        self._nvml.nvmlShutdown()

    def joules(self) -> float:
        """Energy since the last call (or since the meter was made), in joules."""
        now_s = time.perf_counter()
        elapsed_s, self._read_s = now_s - self._read_s, now_s
        try:
            if self._counter_mj is not None:
                counter_mj = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
                spent_mj, self._counter_mj = counter_mj - self._counter_mj, counter_mj
                if spent_mj < 0:
                    raise Missing("gpu energy: NVML's counter was reset during the run", warn=True)
                return float(spent_mj) / 1e3
            power_w = self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3
        except self._nvml.NVMLError as error:
            raise Missing(f"gpu energy: NVML stopped answering ({error})", warn=True) from error
        assert self._power_w is not None
        mean_w, self._power_w = (self._power_w + power_w) / 2, power_w
        return float(mean_w * elapsed_s)

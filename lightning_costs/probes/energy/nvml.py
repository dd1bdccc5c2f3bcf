"""GPU energy by NVML; millijoules become joules here."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Self, final

from lightning_costs.probes.clock import now_s
from lightning_costs.probes.energy.gpu_device import nvml_handle, whole_gpu
from lightning_costs.probes.energy.power_integral import PowerIntegrator
from lightning_costs.records.meter_info import MeterInfo
from lightning_costs.records.missing import Missing

if TYPE_CHECKING:
    import torch

_log = logging.getLogger("lightning_costs")

#: Counter and sampled power move about this often: a reading can be so old.
LAG_S = 0.1
#: The driver keeps the last 120 samples of power, 2.4 s at 20 ms: they are fetched before they are dropped.
_FETCH_S = 1.0
#: A counter and the integral of power that differ by more than this share are warned of.
TOLERANCE = 0.2
#: Without samples that the driver keeps, power is known at readings: those within this time of one count as seen.
_LONGEST_CHECK_S = 2.5
#: Seconds that both must have seen before they are compared aloud.
LEAST_CHECK_S = 30.0
#: Where a value stands in NVML's union, by its type.
_FIELDS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")


@final
class _Power:
    """Power of a device: the samples that its driver keeps, else one at each reading."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._seen_us = 0
        self.limit_w: float | None = None
        try:
            self.limit_w = nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1e3
        except nvml.NVMLError as error:
            _log.debug("NVML reports no power limit: %s", error)
        self.integral = PowerIntegrator(self.limit_w)
        self.keeps_samples = self._keeps_samples()
        self.read()

    def _keeps_samples(self) -> bool:
        """Whether the driver keeps samples, stamped by the clock that we can read."""
        try:
            samples = self._kept()
        except self._nvml.NVMLError:
            return False
        return bool(samples) and abs(samples[-1][0] - now_s()) < 60

    def _kept(self) -> list[tuple[float, float]]:
        """Samples (seconds, watts) since the last call, as far as the driver still has them.

        They are stamped by the system's time; here they are on the monotonic clock, so that a system time which is
        set makes no energy.
        """
        nvml = self._nvml
        try:
            kind, kept = nvml.nvmlDeviceGetSamples(self._handle, nvml.NVML_TOTAL_POWER_SAMPLES, self._seen_us)
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_NOT_FOUND:  # none since then
                return []
            raise
        field = _FIELDS[kind]
        stamped = sorted((int(s.timeStamp), float(getattr(s.sampleValue, field))) for s in kept)
        new = [(at_us, power_mw) for at_us, power_mw in stamped if at_us > self._seen_us]
        if new:
            self._seen_us = new[-1][0]
        ahead_s = time.time() - now_s()
        return [(at_us / 1e6 - ahead_s, power_mw / 1e3) for at_us, power_mw in new]

    def read(self) -> None:
        """Bring the integral up to now."""
        if self.keeps_samples:
            self.integral.extend(self._kept())
        at_s = self.integral.at_s
        read_s = now_s()
        if not self.keeps_samples or at_s is None or read_s - at_s > LAG_S:
            self.integral.add(read_s, self._nvml.nvmlDeviceGetPowerUsage(self._handle) / 1e3)


@final
class GpuEnergy:
    """Energy of one GPU in joules: its own counter, or its power integrated if it has none.

    `nvmlDeviceGetTotalEnergyConsumption` counts millijoules since the driver was loaded (Volta and later). Power comes
    from the samples that the driver keeps (`nvmlDeviceGetSamples`). So what happens between two readings is seen
    without a thread, as long as they are no further apart than the samples reach back. A counter is checked against
    the power over the stretches that both saw. Both come from one sensor, which on some devices is active for a part
    of the time only: Yang, Adamek and Armour 2023, 'Part-time Power Measurements', arXiv 2312.02741. No check here
    sees that.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle, self._is_slice = whole_gpu(nvml, handle)
        self._power: _Power | None = None
        self._counter_mj: int | None = None
        why = ""
        try:
            self._power = _Power(nvml, self._handle)
        except nvml.NVMLError as error:
            why = str(error)
        try:
            self._counter_mj = nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        except nvml.NVMLError as error:
            if self._power is None:
                raise Missing(
                    f"gpu energy: NVML gives neither a counter nor power ({error}; {why})", warn=True
                ) from error
        self._read_s = self._fetched_s = now_s()
        self._peak_w = 0.0
        self._resets = 0
        self._reset_error_j: float | None = 0.0
        #: Joules by the counter, joules by the power and seconds of the stretches that both saw.
        self._both = (0.0, 0.0, 0.0)
        self._since_fetch_j = 0.0
        self._reported_j = 0.0 if self._power is None else self._power.integral.joules
        self._warned = False

    @classmethod
    def attach(cls, device: torch.device) -> Self:
        """A meter of a CUDA device.

        torch is asked for the device's UUID: it knows what CUDA_VISIBLE_DEVICES left visible, however it was spelled.
        """
        import pynvml
        import torch

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise Missing(f"gpu energy needs NVML: no driver answered ({error})", warn=True) from error
        try:
            uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
            if uuid is None:
                raise Missing("gpu energy: this torch does not report the device's UUID; a newer one does", warn=True)
            return cls(pynvml, nvml_handle(pynvml, str(uuid)))
        except Exception:
            pynvml.nvmlShutdown()
            raise

    def detach(self) -> None:
        """End this use of NVML."""
        self._nvml.nvmlShutdown()

    @property
    def method(self) -> str:
        """In words."""
        whole = "; the whole GPU's, of which one MIG slice trains" if self._is_slice else ""
        if self._counter_mj is not None:
            return f"counter: NVML total energy, by UUID, edge error power x {LAG_S:g} s{whole}"
        assert self._power is not None
        how = "the samples that the driver keeps" if self._power.keeps_samples else "one sample at each reading"
        return f"power: NVML, {how}, trapezoids over time, by UUID{whole}"

    def metering(self) -> MeterInfo:
        """How the energy so far was measured, and how large its error can be."""
        covers = "the whole GPU, all its processes"
        if self._is_slice:
            covers = "the whole GPU; a MIG slice of it trains, the only one when the run began"
        facts: dict[str, Any] = {}
        counter_j, power_j, seconds = self._both
        if self._counter_mj is not None:
            if power_j > 0:
                facts["counter_over_power"] = counter_j / power_j
                facts["checked_s"] = seconds
            if self._resets:
                facts["counter_resets"] = self._resets
            edge_j, source = self._edge_j()
            error_j = None if self._reset_error_j is None else edge_j + self._reset_error_j
            bound = f"the bound is {LAG_S:g} s x {source}, as the counter moves about that often"
            if self._resets:
                bound += "; across a reset, power was integrated"
            return MeterInfo(
                method="counter",
                instrument="NVML total energy consumption",
                error_j=error_j,
                detail=f"{covers}; {bound}; the sensor's own accuracy is not in it",
                facts=facts,
            )
        assert self._power is not None
        integral = self._power.integral
        facts["unseen_s"] = integral.unseen_s
        edge_j, source = self._edge_j()
        return MeterInfo(
            method="power",
            instrument="NVML power samples" if self._power.keeps_samples else "NVML power usage",
            error_j=None if integral.error_j is None else integral.error_j + edge_j,
            detail=f"{covers}; trapezoids; the bound takes power to be monotone between samples, up to the "
            f"limit in gaps without samples (unseen_s), and adds {LAG_S:g} s x {source}; the sensor's own "
            "accuracy is not in it",
            facts=facts,
        )

    def _edge_j(self) -> tuple[float, str]:
        limit_w = self._power.limit_w if self._power is not None else None
        if limit_w is not None:
            return LAG_S * limit_w, f"the power limit ({limit_w:g} W)"
        return LAG_S * self._peak_w, f"the highest mean power between readings ({self._peak_w:.3g} W)"

    def joules(self) -> float:
        """Energy since the last call (or since the meter was made), in joules."""
        read_s = now_s()
        elapsed_s, self._read_s = read_s - self._read_s, read_s
        try:
            spent_j = self._by_power() if self._counter_mj is None else self._by_counter(read_s)
        except self._nvml.NVMLError as error:
            raise Missing(f"gpu energy: NVML stopped answering ({error})", warn=True) from error
        if elapsed_s > LAG_S:
            self._peak_w = max(self._peak_w, spent_j / elapsed_s)
        return spent_j

    def _by_power(self) -> float:
        assert self._power is not None
        self._power.read()
        spent_j, self._reported_j = self._power.integral.joules - self._reported_j, self._power.integral.joules
        return spent_j

    def _by_counter(self, read_s: float) -> float:
        assert self._counter_mj is not None
        counter_mj: int = self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)
        spent_j = (counter_mj - self._counter_mj) / 1e3
        self._counter_mj = counter_mj
        if spent_j < 0:
            return self._over_a_reset(read_s)
        self._since_fetch_j += spent_j
        if read_s - self._fetched_s >= _FETCH_S:
            self.check(read_s)
        return spent_j

    def _over_a_reset(self, read_s: float) -> float:
        """The counter was reset: since the last fetch of power, the integral of power counts."""
        power, since_j = self._power, self._since_fetch_j
        if power is None:
            raise Missing("gpu energy: NVML's counter was reset during the run, and it gives no power", warn=True)
        known_j, error_j = power.integral.joules, power.integral.error_j
        power.read()
        self._resets += 1
        self._fetched_s, self._since_fetch_j = read_s, 0.0
        if self._reset_error_j is None or error_j is None or power.integral.error_j is None:
            self._reset_error_j = None
        else:
            edges_j = 2 * self._edge_j()[0]
            self._reset_error_j += power.integral.error_j - error_j + edges_j
        return max(0.0, power.integral.joules - known_j - since_j)

    def check(self, read_s: float) -> None:
        """Fetch the power since the last time, and compare the counter with it if it was seen without a gap.

        `joules` does so once a second.
        """
        power = self._power
        took_s, self._fetched_s = read_s - self._fetched_s, read_s
        counter_j, self._since_fetch_j = self._since_fetch_j, 0.0
        if power is None:
            return
        known_j, unseen_s = power.integral.joules, power.integral.unseen_s
        try:
            power.read()
        except self._nvml.NVMLError as error:
            _log.debug("the energy counter is not checked against power any more: %s", error)
            self._power = None
            return
        if power.integral.unseen_s > unseen_s and took_s > _LONGEST_CHECK_S:
            return
        by_counter_j, by_power_j, seconds = self._both
        both = by_counter_j + counter_j, by_power_j + power.integral.joules - known_j, seconds + took_s
        self._both = both
        apart = abs(both[0] - both[1]) > TOLERANCE * both[1]
        if apart and not self._warned and both[2] >= LEAST_CHECK_S:
            self._warned = True
            _log.warning(
                "gpu energy: NVML's counter reads %.4g J, and NVML's power adds up to %.4g J over %.3g s: one of them "
                "is wrong. The counter is recorded, and the header holds the ratio",
                *both,
            )

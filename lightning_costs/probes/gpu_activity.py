"""GPU activity by hardware counters: NVML's GPM metrics and SM clock, and the time that throttling took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, final

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.probes.clock import now_s
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.energy.gpu_device import open_nvml, training_devices
from lightning_costs.records.meter_info import split_by_bucket
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import StepSample

if TYPE_CHECKING:
    from lightning_costs.records.time_buckets import TimeBuckets

#: NVML takes its samples about ten times a second: two readings that are closer may see nothing new.
LEAST_S = 0.1
#: A violation counter takes half a millisecond to read (H200, driver 580).
THROTTLE_APART_S = 5.0
#: Names of the violation counters that are read, by the name used here.
_POLICIES = {
    "any": "NVML_PERF_POLICY_TOTAL_APP_CLOCKS",
    "power": "NVML_PERF_POLICY_POWER",
    "thermal": "NVML_PERF_POLICY_THERMAL",
}


@final
class Gpm:
    """GPM metrics of one GPU between two samples: shares of its SMs, tensor cores and memory bandwidth that were busy.

    Raises:
        Missing: If the GPU or its driver has no GPM metrics (Hopper and newer have them).
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        if not hasattr(nvml, "nvmlGpmQueryDeviceSupport"):
            raise Missing("needs a newer nvidia-ml-py: this one has no GPM metrics")
        try:
            supported = nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice
        except nvml.NVMLError as error:
            raise Missing(f"NVML has no GPM metrics of this GPU ({error})") from error
        if not supported:
            raise Missing("NVML has GPM metrics of Hopper and newer GPUs alone")
        self._metrics = (nvml.NVML_GPM_METRIC_SM_UTIL, nvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
                         nvml.NVML_GPM_METRIC_DRAM_BW_UTIL)  # fmt: skip
        self._samples = [nvml.nvmlGpmSampleAlloc()]
        try:
            self._samples.append(nvml.nvmlGpmSampleAlloc())
            nvml.nvmlGpmSampleGet(handle, self._samples[0])
        except nvml.NVMLError:
            self.close()
            raise

    def shares(self) -> tuple[float, float, float] | None:
        """Busy shares of SMs, tensor cores and memory since the last `keep`; None if the driver has nothing new."""
        nvml, (earlier, later) = self._nvml, self._samples
        nvml.nvmlGpmSampleGet(self._handle, later)
        request = nvml.c_nvmlGpmMetricsGet_t()
        request.version = nvml.NVML_GPM_METRICS_GET_VERSION
        request.sample1, request.sample2 = earlier, later
        request.numMetrics = len(self._metrics)
        for slot, metric in zip(request.metrics, self._metrics, strict=False):
            slot.metricId = metric
        nvml.nvmlGpmMetricsGet(request)
        slots = request.metrics[: len(self._metrics)]
        # Between two reads of one sample of the driver no time passed: it divides by zero, or returns zero.
        if any(slot.nvmlReturn or not math.isfinite(slot.value) for slot in slots):
            return None
        sm, tensor, dram = (slot.value / 100 for slot in slots)
        return sm, tensor, dram

    def keep(self) -> None:
        """What `shares` gave is accounted for: the next one begins here."""
        self._samples.reverse()

    def close(self) -> None:
        """Free the samples."""
        while self._samples:
            self._nvml.nvmlGpmSampleFree(self._samples.pop())


@final
class GpuActivity:
    """What the training GPUs' own counters say of training time, added up over this process's GPUs.

    Read at points and where an evaluation or a checkpoint begins and ends. What is seen between two readings goes to
    training by the share of its time that was training's. A GPU's samples lag by up to 0.1 s, so each change between
    training and something else may move that much.

    Attributes:
        seen_s: Device seconds of training that the counters saw.
        sm_s: Of these, weighted by the share of SMs that were busy; `tensor_s` of tensor cores, `dram_s` of memory
            bandwidth.
        tensor_peak_s: Tensor-active seconds, each times its SM clock over the highest SM clock. A GPU states its peak
            at that one: tensor cores run at a fixed share of the SM clock (H100 SXM: 1.83 GHz at 1.98 GHz, white paper
            of 2022, table 3, and NVML).
        sm_clock_hz: Mean SM clock since the last `sm_clock_hz` was read, over readings; it is read with the counters.
    """

    def __init__(
        self,
        nvml: Any,
        handles: Sequence[Any],
        accounts: TimeBuckets | None = None,
    ) -> None:
        self._nvml, self._handles, self._accounts = nvml, handles, accounts
        self._gpms: list[Gpm] = []
        try:
            for handle in handles:
                self._gpms.append(Gpm(nvml, handle))
            self._highest_mhz = [nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM) for handle in handles]
        except BaseException:
            self._free()
            raise
        self.seen_s = self.sm_s = self.tensor_s = self.dram_s = self.tensor_peak_s = 0.0
        self._clocks_hz: list[float] = []
        self._read_s = now_s()
        self._spent_s = self._train_and_all()
        self._sample: StepSample | None = None
        self.failed: str | None = None

    @classmethod
    def attach(cls, setting: ProbeContext) -> Self:
        """The counters of the GPUs that this process trains on.

        Raises:
            Missing: Without an NVIDIA GPU of Hopper or newer, or on a MIG slice.
        """
        if not setting.on_cuda:
            raise Missing("needs an NVIDIA GPU (Hopper or newer)")
        import torch

        if torch.version.hip:
            raise Missing("NVML's GPM metrics are NVIDIA's: an AMD GPU trains")
        nvml, handles = open_nvml(training_devices(setting))
        try:
            return cls(nvml, handles, setting.accounts)
        except Exception:
            nvml.nvmlShutdown()
            raise

    def detach(self) -> None:
        """Free what NVML holds for this use."""
        self._free()
        self._nvml.nvmlShutdown()

    def _free(self) -> None:
        for gpm in self._gpms:
            gpm.close()

    def update(self, sample: StepSample) -> None:
        """Read once a window, however many indicators ask.

        Raises:
            Missing: If a counter stopped answering.
        """
        if sample is not self._sample:
            self._sample = sample
            self.on_bucket_change()
        if self.failed is not None:
            raise Missing(self.failed, warn=True)

    def on_bucket_change(self) -> None:
        """Another account begins: read, if the last reading is far enough. Nothing raised gets out."""
        if self.failed is not None or now_s() - self._read_s < LEAST_S:
            return
        try:
            self._read()
        except Exception as error:  # noqa: BLE001 - a driver that stops answering must not end the training
            reraise_from_signal(error)
            self.failed = f"NVML's GPM metrics stopped answering ({type(error).__name__}: {error})"

    def _read(self) -> None:
        shares = [gpm.shares() for gpm in self._gpms]
        at_s = now_s()
        if None in shares:
            return  # what passed since is seen at the next reading, of all GPUs alike
        for gpm in self._gpms:
            gpm.keep()
        elapsed_s, self._read_s = at_s - self._read_s, at_s
        before_s, self._spent_s = self._spent_s, self._train_and_all()
        spent_s = {name: amount_s - before_s[name] for name, amount_s in self._spent_s.items()}
        trained_s = split_by_bucket(elapsed_s, spent_s, "train").get("train", 0.0)
        for handle, highest_mhz, share in zip(self._handles, self._highest_mhz, shares, strict=True):
            assert share is not None
            clock_mhz = self._nvml.nvmlDeviceGetClockInfo(handle, self._nvml.NVML_CLOCK_SM)
            self._clocks_hz.append(1e6 * clock_mhz)
            self.seen_s += trained_s
            self.sm_s += share[0] * trained_s
            self.tensor_s += share[1] * trained_s
            self.dram_s += share[2] * trained_s
            self.tensor_peak_s += share[1] * trained_s * clock_mhz / highest_mhz

    def _train_and_all(self) -> Mapping[str, float]:
        return dict(self._accounts.read()) if self._accounts is not None else {}

    def take_clock_hz(self) -> float | None:
        """Mean SM clock of the readings since the last call, in Hz; None without one."""
        read, self._clocks_hz = self._clocks_hz, []
        return sum(read) / len(read) if read else None


@final
class Throttling:
    """Seconds in which the training GPUs ran below their application clocks, by cause, over this process's GPUs.

    NVML's violation counters (`nvmlDeviceGetViolationStatus`), in nanoseconds. Causes overlap. 'any' is below the
    application clocks for whatever reason, an idle GPU's low clocks apart. Read every five seconds and at the end of
    the run.
    """

    def __init__(self, nvml: Any, handles: Sequence[Any]) -> None:
        self._nvml, self._handles = nvml, handles
        self._policies: dict[str, int] = {}
        self._begun_s: dict[str, float] = {}
        for cause, name in _POLICIES.items():
            try:
                policy = getattr(nvml, name)
                self._begun_s[cause] = self._seconds(policy)
            except (nvml.NVMLError, AttributeError):
                continue  # its column says so
            self._policies[cause] = policy
        self._spent_s = dict.fromkeys(self._policies, 0.0)
        self._read_s = now_s()

    @classmethod
    def attach(cls, setting: ProbeContext) -> Self:
        """The counters of the GPUs that this process trains on.

        Raises:
            Missing: Without an NVIDIA GPU, or on a MIG slice.
        """
        import torch

        if not setting.on_cuda or torch.version.hip:
            raise Missing("needs an NVIDIA GPU")
        nvml, handles = open_nvml(training_devices(setting))
        try:
            return cls(nvml, handles)
        except Exception:
            nvml.nvmlShutdown()
            raise

    def detach(self) -> None:
        """End this use of NVML."""
        self._nvml.nvmlShutdown()

    def total_s(self, cause: str, *, now: bool) -> float:
        """Seconds since the run began for a cause: 'any', 'power' or 'thermal'; `now` reads however short ago it did.

        Raises:
            Missing: If NVML does not count this cause on this GPU.
        """
        if cause not in self._policies:
            raise Missing(f"NVML has no violation counter of this GPU for {cause!r}")
        read_s = now_s()
        if now or read_s - self._read_s >= THROTTLE_APART_S:
            self._read_s = read_s
            try:
                for name, policy in self._policies.items():
                    self._spent_s[name] = max(self._spent_s[name], self._seconds(policy) - self._begun_s[name])
            except self._nvml.NVMLError as error:
                raise Missing(f"NVML's violation counters stopped answering ({error})", warn=True) from error
        return self._spent_s[cause]

    def _seconds(self, policy: int) -> float:
        get = self._nvml.nvmlDeviceGetViolationStatus
        return sum(float(get(handle, policy).violationTime) for handle in self._handles) / 1e9

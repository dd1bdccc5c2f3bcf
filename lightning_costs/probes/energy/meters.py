"""The energy that a rank reads: of its device, and of its node if it is the first rank there; by account too."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, Self, final

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.probes.clock import now_s
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.energy.amdsmi import AmdEnergy
from lightning_costs.probes.energy.cpu_share import CpuShare
from lightning_costs.probes.energy.gpu_device import device_key, training_devices
from lightning_costs.probes.energy.host import cpu_meter, ram_meter
from lightning_costs.probes.energy.nvml import GpuEnergy
from lightning_costs.records.meter_info import COMPONENTS, MeterInfo, split_by_bucket
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import StepSample
from lightning_costs.records.time_buckets import TimeBuckets

_log = logging.getLogger("lightning_costs")

#: Meters move in steps of 10 ms (CPU times) to 100 ms (NVML): accounts that are shorter cannot be told apart.
LEAST_S = 0.1


class Meter(Protocol):
    """One component's meter."""

    @property
    def method(self) -> str:
        """How it is got, in words that are the same on like machines."""

    def joules(self) -> float:
        """Energy since the last call, in joules; raise `Missing` if it cannot be read any more."""

    def metering(self) -> MeterInfo:
        """How the energy so far was got, as data."""

    def detach(self) -> None:
        """Release handles."""


@final
class NullMeter:
    """The energy of a device that is not there."""

    method = "zero by definition: no GPU trains in this run"

    def joules(self) -> float:
        """None is spent."""
        return 0.0

    def metering(self) -> MeterInfo:
        """Zero by definition."""
        return MeterInfo(method="none", instrument="", error_j=0.0, detail="no GPU trains in this run")

    def detach(self) -> None:
        """Nothing is held."""


@final
class CompositeMeter:
    """The devices of a process that trains on more than one, together."""

    def __init__(self, meters: Sequence[Meter]) -> None:
        self._meters = list(meters)

    @property
    def method(self) -> str:
        """Each way once."""
        ways = "; ".join(dict.fromkeys(meter.method for meter in self._meters))
        return f"{ways}; {len(self._meters)} devices of one process"

    def joules(self) -> float:
        """Energy of all of them since the last call, in joules."""
        return sum(meter.joules() for meter in self._meters)

    def metering(self) -> MeterInfo:
        """As of the first; bounds add up."""
        each = [meter.metering() for meter in self._meters]
        errors_j = [how.error_j for how in each if how.error_j is not None]
        return replace(
            each[0],
            error_j=sum(errors_j) if len(errors_j) == len(each) else None,
            detail=f"{len(each)} devices of one process, each: {each[0].detail}",
            facts={"devices": [dict(how.facts) for how in each]},
        )

    def detach(self) -> None:
        """Let all of them go."""
        for meter in self._meters:
            meter.detach()


def _device_meter(setting: ProbeContext) -> Meter:
    """A meter of what this process trains on; `setting.place` learns which device that is."""
    import torch

    if devices := training_devices(setting):
        setting.place = replace(setting.place, device=device_key(devices))
        kind: type[AmdEnergy | GpuEnergy] = AmdEnergy if torch.version.hip else GpuEnergy
        meters: list[Meter] = []
        try:
            for device in devices:
                meters.append(kind.attach(device))
        except Missing:
            for meter in meters:
                meter.detach()
            raise
        return meters[0] if len(meters) == 1 else CompositeMeter(meters)
    if setting.device is not None and setting.device.type == "cpu":
        return NullMeter()
    if setting.device is not None and setting.device.type == "mps":
        raise Missing(
            "gpu energy of Apple devices: codecarbon runs powermetrics, as root, and the training would wait for it at "
            "every reading (a second in codecarbon's tracker); not done",
            warn=True,
        )
    raise Missing(f"energy of device {setting.device!s} cannot be read", warn=True)


@final
class EnergyMeters:
    """Reads the meters at points and where an evaluation or a checkpoint begins and ends, and adds up.

    What is counted between two readings goes to the accounts of the time in between, by their seconds. Meters are read
    at rare changes of accounts, so nearly all readings span one account. Frequent accounts (logging, other callbacks'
    hooks) get their share of time.

    Meters are by component, those that this rank reads, or why one cannot be read. Without `accounts` of time there is
    no energy by account. `share` is the job's in its node's CPU time, on the rank that reads the node.
    """

    def __init__(
        self, meters: Mapping[str, Meter | Missing], accounts: TimeBuckets | None = None, share: CpuShare | None = None
    ) -> None:
        self._meters = dict(meters)
        self._accounts, self._share = accounts, share
        self._joules = dict.fromkeys(self._meters, 0.0)
        self._by_account: dict[str, float] = {}
        self._spent_s = accounts.read() if accounts is not None else {}
        #: Seconds of the run's clock before the meters were opened: their energy is in no column.
        self.unmetered_s = sum(self._spent_s.values())
        self._read_s = now_s()
        self._sample: StepSample | None = None
        self._readings = 0
        self._lacks_accounts = self._why_no_accounts()

    @classmethod
    def attach(cls, setting: ProbeContext) -> Self:
        """The meters that this rank reads."""
        makers: dict[str, Callable[[], Meter]] = {"gpu": lambda: _device_meter(setting)}
        share = None
        if setting.first_on_node:
            makers |= {"cpu": cpu_meter, "ram": ram_meter}
            share = CpuShare(sum(place.node == setting.place.node for place in setting.places))
        meters: dict[str, Meter | Missing] = {}
        for component, make in makers.items():
            try:
                meters[component] = make()
            except Missing as missing:
                meters[component] = missing
            except Exception as error:  # noqa: BLE001 - one vendor's fault leaves the others' meters
                reraise_from_signal(error)
                meters[component] = Missing(f"{component} energy: {type(error).__name__}: {error}", warn=True)
        return cls(meters, setting.accounts, share)

    def detach(self) -> None:
        """Let the meters go."""
        for component, meter in self._meters.items():
            if not isinstance(meter, Missing):
                self._let_go(component, meter)

    @staticmethod
    def _let_go(component: str, meter: Meter) -> None:
        try:
            meter.detach()
        except Exception as error:  # noqa: BLE001 - a library that cannot be left must not fail a run
            reraise_from_signal(error)
            _log.debug("the meter of %s energy could not be closed: %r", component, error)

    def has(self, component: str) -> bool:
        """Whether this rank reads a component at all: others' nodes and devices are others'."""
        return component in self._meters

    @property
    def any_metered(self) -> bool:
        """Whether a component that this rank reads is metered or modelled: neither missing nor zero by definition."""
        found = [meter for meter in self._meters.values() if not isinstance(meter, Missing)]
        return any(meter.metering().method != "none" for meter in found)

    def method(self, component: str) -> str:
        """How a component is got, in words."""
        meter = self._meters[component]
        if isinstance(meter, Missing):
            raise meter
        return meter.method

    def methods_summary(self) -> str:
        """How this rank's components are got, in a few words.

        Example:
            >>> EnergyMeters({"gpu": NullMeter()}).methods_summary()
            'GPU none'
        """
        found = {name: meter for name, meter in self._meters.items() if not isinstance(meter, Missing)}
        return ", ".join(f"{name.upper()} {meter.metering().method}" for name, meter in found.items())

    def total_j(self, component: str, sample: StepSample) -> float:
        """Energy of a component up to the window's end, in joules."""
        self._read_for(sample)
        meter = self._meters[component]
        if isinstance(meter, Missing):
            raise meter
        return self._joules[component]

    def bucket_j(self, account: str, sample: StepSample) -> float:
        """Energy of all components that this rank reads in an account, up to the window's end, in joules."""
        self._read_for(sample)
        if self._lacks_accounts is not None:
            raise self._lacks_accounts
        return self._by_account.get(account, 0.0)

    def require_accounts(self) -> None:
        """Nothing, where energy by account can be had; else raise `Missing`."""
        if self._lacks_accounts is not None:
            raise self._lacks_accounts

    def _why_no_accounts(self) -> Missing | None:
        if self._accounts is None:
            return Missing("energy by account needs accounts of time: a Recorder keeps them")
        for component, meter in self._meters.items():
            if isinstance(meter, Missing):
                return Missing(f"needs {component}_energy_j: {meter}")
        return None

    def _read_for(self, sample: StepSample) -> None:
        """Read once a window, however many indicators ask: a point has what was spent up to it."""
        if sample is not self._sample:
            self._sample = sample
            self.read()

    def on_bucket_change(self) -> None:
        """Another account begins: read, where the last reading is not too close to tell them apart."""
        if now_s() - self._read_s >= LEAST_S:
            self.read()

    def read(self) -> None:
        """Read the meters; nothing raised gets out."""
        self._read_s = now_s()
        self._readings += 1
        spent_j = 0.0
        for component, meter in self._meters.items():
            if isinstance(meter, Missing):
                continue
            try:
                joules = meter.joules()
            except Missing as missing:
                self._lose(component, meter, missing)
            except Exception as error:  # noqa: BLE001 - whatever a vendor's library raises, training continues
                reraise_from_signal(error)
                self._lose(component, meter, Missing(f"{type(error).__name__}: {error}", warn=True))
            else:
                self._joules[component] += joules
                spent_j += joules
        if self._accounts is not None:
            before, self._spent_s = self._spent_s, self._accounts.read()
            seconds = {name: amount_s - before[name] for name, amount_s in self._spent_s.items()}
            for account, joules in split_by_bucket(spent_j, seconds, self._accounts.current).items():
                self._by_account[account] = self._by_account.get(account, 0.0) + joules

    def _lose(self, component: str, meter: Meter, why: Missing) -> None:
        self._let_go(component, meter)
        self._meters[component] = why
        self._lacks_accounts = self._why_no_accounts()

    def metadata(self, *, final: bool = False) -> dict[str, Any]:
        """How this rank's energy was got, for the header: by component, and by account."""
        about: dict[str, Any] = {}
        for component in COMPONENTS:
            meter = self._meters.get(component)
            if meter is not None and not isinstance(meter, Missing):
                about[component] = meter.metering().as_dict()
        if self._accounts is not None:
            about["by_account"] = {
                "readings": self._readings,
                "detail": "meters are read at points, and where an evaluation or a checkpoint begins or ends "
                f"{LEAST_S:g} s or more after the last reading; what a reading counts goes to the accounts of the time "
                "since the one before by their seconds, so that each change of accounts may move the energy of a "
                "meter's step (a GPU's: 0.1 s) to its neighbour",
            }
        if self._share is not None:
            about["job_share_fraction"] = self._share.fraction(now=final)
        return about

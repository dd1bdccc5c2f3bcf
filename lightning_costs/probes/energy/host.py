"""CPU and RAM energy of this node: from RAPL if it can be read, else from codecarbon's models, called models.

The one file that touches codecarbon's hardware classes. No tracker, thread, network or lock of its is used.
"""

from __future__ import annotations

import csv
import io
from functools import cache
from importlib.resources import files
from typing import final

import psutil

from lightning_costs.patching.quiet_codecarbon import silence_codecarbon
from lightning_costs.probes.clock import now_s
from lightning_costs.probes.cpu_name import cpu_name
from lightning_costs.probes.energy import rapl
from lightning_costs.probes.energy.rapl import RaplEnergy
from lightning_costs.records.meter_info import MeterInfo
from lightning_costs.records.missing import Missing

#: Least seconds over which load is measured.
_LEAST_LOAD_S = 0.1


@cache
def _thermal_design() -> tuple[str, float]:
    """CPU model and its thermal design power in watts, as codecarbon's `TDP()` finds them, once a process.

    Its constructor takes 1.5 s: a second for the name (see `cpu_name`), the rest for pandas, which reads the table. Its
    rules for matching names take anything that has a column `Name`.
    """
    from codecarbon.core.cpu import DEFAULT_POWER_PER_CORE, TDP
    from codecarbon.core.util import count_cpus, detect_cpu_model

    name = cpu_name() or detect_cpu_model()
    if not name:
        raise ValueError("this CPU's name is unknown")
    table = files("codecarbon").joinpath("data/hardware/cpu_power.csv").read_text(encoding="utf-8")
    watts: dict[str, str] = {}
    for row in csv.DictReader(io.StringIO(table)):
        watts.setdefault(row["Name"], row["TDP"])  # of a name that it has twice, the first; not each is a number
    known = TDP._get_matching_cpu(TDP.__new__(TDP), name, {"Name": list(watts)})
    return name, (float(watts[known]) if known else 0.0) or float(count_cpus() * DEFAULT_POWER_PER_CORE)


def _cpu_times_s() -> tuple[float, float]:
    """Seconds of all cores since the machine began: those in which they were busy, and all of them."""
    times = psutil.cpu_times()
    # Linux counts a guest's time in user's and nice's, too.
    whole_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return whole_s - times.idle - getattr(times, "iowait", 0.0), whole_s


@final
class CpuModel:
    """CPU energy of the node by codecarbon's load model: TDP x (0.1 + 0.9 x load^3), load averaged over a reading."""

    def __init__(self, model: str, tdp_w: float) -> None:
        self._model, self._tdp_w = model, tdp_w
        self.method = (
            f"model: codecarbon cpu_load, TDP {tdp_w:g} W for '{model}' (generic where unknown), "
            "load of every process on this node; RAPL is not readable here"
        )
        self._times_s = _cpu_times_s()
        self._seen_s = now_s()
        #: Power when load was measured last; the model's least until then.
        self._power_w = 0.1 * tdp_w
        #: Joules that were reported since load was measured.
        self._reported_j = 0.0

    def joules(self) -> float:
        """CPU energy since the last call, in joules.

        The system counts CPU time in ticks of 10 ms: over a few of them load is noise. Until there are enough
        the last power continues, and is made good after.
        """
        read_s = now_s()
        elapsed_s = read_s - self._seen_s
        if elapsed_s < _LEAST_LOAD_S:
            reported_j, self._reported_j = self._reported_j, max(self._reported_j, self._power_w * elapsed_s)
            return self._reported_j - reported_j
        self._seen_s = read_s
        self._power_w = self._tdp_w * (0.1 + 0.9 * self._load() ** 3)
        spent_j = self._power_w * elapsed_s
        owed_j, self._reported_j = spent_j - self._reported_j, max(0.0, self._reported_j - spent_j)
        return max(0.0, owed_j)

    def _load(self) -> float:
        """The share of all cores' time since the last call in which they were busy.

        Read here, as some versions of codecarbon share psutil's one baseline with all who ask.
        """
        (busy_s, whole_s), self._times_s = self._times_s, _cpu_times_s()
        passed_s = self._times_s[1] - whole_s
        return min(max((self._times_s[0] - busy_s) / passed_s, 0.0), 1.0) if passed_s > 0 else 0.0

    def metering(self) -> MeterInfo:
        """How it was got."""
        return MeterInfo(
            method="model",
            instrument="codecarbon cpu_load",
            error_j=None,
            detail=f"TDP {self._tdp_w:g} W for '{self._model}' (generic where unknown) x (0.1 + 0.9 x load^3), load of "
            "every process on this node averaged over each reading; a model's error has no bound; RAPL is not "
            "readable here",
            facts={"tdp_w": self._tdp_w},
        )

    def detach(self) -> None:
        """Nothing is held."""


@final
class RamConstant:
    """RAM energy of the node: a constant power for the installed memory, by codecarbon, times time."""

    def __init__(self, power_w: float) -> None:
        self._power_w = power_w
        self.method = f"constant: codecarbon RAM model, {power_w:g} W from the installed memory"
        self._read_s = now_s()

    def joules(self) -> float:
        """RAM energy since the last call, in joules."""
        read_s = now_s()
        elapsed_s, self._read_s = read_s - self._read_s, read_s
        return self._power_w * elapsed_s

    def metering(self) -> MeterInfo:
        """How it was got."""
        return MeterInfo(
            method="constant",
            instrument="codecarbon RAM model",
            error_j=None,
            detail=f"{self._power_w:g} W from the installed memory, busy or not; a constant's error has no bound",
            facts={"ram_w": self._power_w},
        )

    def detach(self) -> None:
        """Nothing is held."""


def cpu_meter() -> RaplEnergy | CpuModel:
    """A meter of this node's CPUs."""
    if (counter := rapl.packages()) is not None:
        return counter
    try:
        with silence_codecarbon():
            return CpuModel(*_thermal_design())
    except Exception as error:
        raise Missing(f"cpu energy: codecarbon cannot model this machine ({error!r})", warn=True) from error


def ram_meter() -> RaplEnergy | RamConstant:
    """A meter of this node's memory."""
    if (counter := rapl.memory()) is not None:
        return counter
    try:
        with silence_codecarbon():
            from codecarbon.external.ram import RAM

            return RamConstant(float(RAM().total_power().W))
    except Exception as error:
        raise Missing(f"ram energy: codecarbon cannot model this machine ({error!r})", warn=True) from error

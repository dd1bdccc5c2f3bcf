"""Energy of CPU sockets and their memory by RAPL, from Linux's /sys/class/powercap; microjoules become joules here.

https://docs.kernel.org/power/powercap/powercap.html: zones are packages, with core, uncore and DRAM below them. Core
and uncore are parts of their package and never added to it; DRAM is not. `psys` is the platform, with what hangs on it,
and is no CPU. `intel-rapl-mmio` shows the same packages again. Counters wrap at `max_energy_range_uj`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import final

from lightning_costs.probes.clock import now_s
from lightning_costs.records.meter_info import EdgeErrorBound, MeterInfo
from lightning_costs.records.missing import Missing

POWERCAP = Path("/sys/class/powercap")
#: Intel's counters move about every millisecond.
_LAG_S = 1e-3
#: More than a package or its memory draws: bounds the time after which a counter may have wrapped unseen.
_MOST_W = 1000.0
#: Counters of one package (its dies) this close are one counter shown twice, read one after the other.
_SAME_UJ = 1_000_000


@final
class Zone:
    """One counter."""

    def __init__(self, folder: Path) -> None:
        self.name = (folder / "name").read_text(encoding="ascii").strip()
        self._file = folder / "energy_uj"
        self.range_uj = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
        self.last_uj = self.read_uj()

    def read_uj(self) -> int:
        """What the counter says now."""
        return int(self._file.read_text(encoding="ascii"))

    def take_uj(self) -> int:
        """What it counted since the last call, over one wrap at most."""
        now_uj = self.read_uj()
        spent_uj, self.last_uj = now_uj - self.last_uj, now_uj
        return spent_uj if spent_uj >= 0 else spent_uj + self.range_uj


@final
class RaplEnergy:
    """Energy of all zones of a kind in joules since the last call."""

    def __init__(self, zones: Sequence[Zone], covers: str) -> None:
        self._zones, self._covers = list(zones), covers
        self._read_s = now_s()
        self._edge = EdgeErrorBound(_LAG_S)
        self.method = f"counter: RAPL, {covers}, every process on this node"

    def joules(self) -> float:
        """Energy since the last call, in joules."""
        read_s = now_s()
        elapsed_s, self._read_s = read_s - self._read_s, read_s
        longest_s = min(zone.range_uj for zone in self._zones) / 1e6 / _MOST_W
        if elapsed_s > longest_s:
            raise Missing(
                f"RAPL: {elapsed_s:.0f} s passed between two readings, and its counters may wrap after "
                f"{longest_s:.0f} s: emit points more often (log_every_n_steps)",
                warn=True,
            )
        try:
            spent_j = sum(zone.take_uj() for zone in self._zones) / 1e6
        except (OSError, ValueError) as error:
            raise Missing(f"RAPL cannot be read any more ({error!r})", warn=True) from error
        self._edge.note(spent_j, elapsed_s)
        return spent_j

    def metering(self) -> MeterInfo:
        """How it was got."""
        return MeterInfo(
            method="counter",
            instrument="RAPL",
            error_j=self._edge.joules,
            detail=f"{self._covers}, every process on this node; the bound is {_LAG_S:g} s x the highest mean power "
            "between readings, as counters move about that often; the processor's own accuracy is not in it",
            facts={"zones": [zone.name for zone in self._zones]},
        )

    def detach(self) -> None:
        """Nothing is held."""


def packages(root: Path = POWERCAP) -> RaplEnergy | None:
    """A meter of the CPU packages; None if one of them cannot be read."""
    zones = _zones(folder for folder, _ in _packages(root))
    return RaplEnergy(zones, "whole sockets") if zones else None


def memory(root: Path = POWERCAP) -> RaplEnergy | None:
    """A meter of the memory behind all packages; None if one of them does not report its own."""
    below = [[sub for sub in subs if _named(sub) == "dram"] for _, subs in _packages(root)]
    zones = _zones(folder for folders in below for folder in folders) if below and all(below) else None
    return RaplEnergy(zones, "the memory of all sockets") if zones else None


def _packages(root: Path) -> list[tuple[Path, list[Path]]]:
    """Folders of the packages, each with those of the zones below it."""
    found = []
    for folder in sorted(root.glob("intel-rapl:*")):
        if folder.name.count(":") == 1 and (_named(folder) or "").startswith("package"):
            found.append((folder, sorted(root.glob(f"{folder.name}:*")) or sorted(folder.glob(f"{folder.name}:*"))))
    return found


def _named(folder: Path) -> str | None:
    try:
        return (folder / "name").read_text(encoding="ascii").strip()
    except OSError:
        return None


def _zones(folders: Iterable[Path]) -> list[Zone] | None:
    """Readable zones, those that show one package's counter again left out; None if one cannot be read."""
    zones: list[Zone] = []
    for folder in folders:
        try:
            zone = Zone(folder)
        except (OSError, ValueError):
            return None
        if not any(_package(zone) == _package(other) and _same(zone, other) for other in zones):
            zones.append(zone)
    return zones


def _package(zone: Zone) -> str:
    """The socket: dies of one are 'package-0-die-0', 'package-0-die-1'; a memory zone has no number of its own."""
    return "-".join(zone.name.split("-")[:2]) if zone.name.startswith("package") else str(id(zone))


def _same(zone: Zone, other: Zone) -> bool:
    """Whether two zones are one counter (seen on AMD's chips of several dies, codecarbon#1274)."""
    return abs(zone.last_uj - other.last_uj) < _SAME_UJ

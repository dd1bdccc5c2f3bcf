"""CPU and RAM energy of this node, through codecarbon's hardware classes: the one file that touches them.

Only its classes are used: no tracker, no thread, no network, no lock. RAPL where it can be read; else codecarbon's
load model, which is called a model.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Self, final

from lightning_costs.core.indicator import Missing
from lightning_costs.core.units import JOULE_PER_KWH
from lightning_costs.probes.setting import Setting

_RAPL = Path("/sys/class/powercap")


@contextmanager
def _quiet() -> Iterator[None]:
    """codecarbon warns of what we record in the header anyway (an unknown CPU, a generic TDP)."""
    logger = logging.getLogger("codecarbon")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def rapl_readable() -> bool:
    """Whether this process may read the energy counters of the CPU sockets."""
    return any(os.access(path, os.R_OK) for path in _RAPL.glob("intel-rapl:*/energy_uj"))


@cache
def _thermal_design() -> tuple[str, float]:
    """CPU model and its thermal design power in watts: a search of codecarbon's table, once a process."""
    from codecarbon.core.cpu import TDP

    found = TDP()
    return str(found.model), float(found.tdp)


@final
class HostEnergy:
    """Energy of this node's CPUs and RAM in joules, since the last call of each."""

    def __init__(self, cpu: Any, ram_w: float, cpu_method: str, ram_method: str) -> None:
        self._cpu, self._ram_w = cpu, ram_w
        self.cpu_method, self.ram_method = cpu_method, ram_method
        with _quiet():
            cpu.start()
        self._cpu_read_s = self._ram_read_s = time.perf_counter()

    @classmethod
    def attach(cls, setting: Setting) -> Self:
        """A meter of this node; one rank of a node reads it.

        Raises:
            Missing: On every other rank, and where codecarbon cannot model this machine.
        """
        if not setting.first_on_node:
            raise Missing("read by the first rank of the node")
        try:
            from codecarbon.external.hardware import CPU
            from codecarbon.external.ram import RAM

            with _quiet():
                ram_w = float(RAM().total_power().W)
                if rapl_readable():
                    cpu = CPU.from_utils(tempfile.gettempdir(), "intel_rapl", model="read by RAPL", tdp=0)
                    cpu_method = "counter: RAPL, whole sockets, every process on this node"
                else:
                    model, tdp_w = _thermal_design()
                    cpu = CPU.from_utils(tempfile.gettempdir(), "cpu_load", model, tdp_w)
                    cpu_method = (
                        f"model: codecarbon cpu_load, TDP {tdp_w:g} W for '{model}' (generic where unknown), "
                        "load of every process on this node; RAPL is not readable here"
                    )
        except Exception as error:
            raise Missing(f"cpu energy: codecarbon cannot model this machine ({error!r})", warn=True) from error
        ram_method = f"constant: codecarbon RAM model, {ram_w:g} W from the installed memory"
        return cls(cpu, ram_w, cpu_method, ram_method)

    def detach(self) -> None:
        """Nothing is held."""

    def cpu_joules(self) -> float:
        """CPU energy since the last call, in joules."""
        now_s = time.perf_counter()
        elapsed_s, self._cpu_read_s = now_s - self._cpu_read_s, now_s
        _, energy = self._cpu.measure_power_and_energy(elapsed_s)
        return float(energy.kWh) * JOULE_PER_KWH

    def ram_joules(self) -> float:
        """RAM energy since the last call, in joules: the model's power is a constant of the machine."""
        now_s = time.perf_counter()
        elapsed_s, self._ram_read_s = now_s - self._ram_read_s, now_s
        return self._ram_w * elapsed_s

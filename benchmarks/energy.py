"""Our energy beside that of others, in one run: codecarbon's tracker and, on a CUDA device, NVML's counter and Zeus.

A recorder runs steps of matrix products for some seconds while the others measure the same seconds; a table shows what
each says and its ratio to ours. Then the meters are read by themselves, as a point reads them, and the time of a
reading is shown by meter: the median over readings, with quartiles.

    python benchmarks/energy.py [--seconds 10] [--readings 60]

Nothing asks the network. Where a CPU's energy is a model, the same model on both sides shows that nothing is lost or
counted twice, and not that the model is right. codecarbon averages its load model over seconds and we over points (half
a second at least), so they agree on a steady load alone; keep the machine quiet.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import polars  # noqa: F401 - a run's end imports it: not within the seconds that are compared
import torch

from lightning_costs import Recorder
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.energy.meters import EnergyMeters
from lightning_costs.probes.energy.nvml import GpuEnergy
from lightning_costs.records.units import JOULE_PER_KWH

#: By component, in joules; None where it says nothing of it.
Said = dict[str, float | None]
COMPONENTS = ("gpu", "cpu", "ram")


class CodeCarbon:
    """codecarbon's own tracker, offline, sampling every second."""

    name = "codecarbon's tracker"

    def __init__(self) -> None:
        first = self._made()  # a process's first start takes a second, and is counted
        first.start()
        first.stop()
        self._tracker = self._made()

    def _made(self) -> Any:
        from codecarbon import OfflineEmissionsTracker

        logging.getLogger("codecarbon").disabled = True
        return OfflineEmissionsTracker(
            country_iso_code="FRA",
            measure_power_secs=1,
            save_to_file=False,
            allow_multiple_runs=True,
            log_level="critical",
            gpu_ids=_visible(),
        )

    def start(self) -> None:
        self._tracker.start()

    def stop(self) -> Said:
        self._tracker.stop()
        data = self._tracker.final_emissions_data
        return {name: getattr(data, f"{name}_energy") * JOULE_PER_KWH for name in COMPONENTS}


class Nvml:
    """The driver's counter of the training device, read before and after."""

    name = "NVML's counter"

    def __init__(self) -> None:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
        self._read_mj: Callable[[], int] = lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)

    def start(self) -> None:
        self._began_mj = self._read_mj()

    def stop(self) -> Said:
        return {"gpu": (self._read_mj() - self._began_mj) / 1e3, "cpu": None, "ram": None}


class Zeus:
    """Zeus's window over the same device."""

    name = "Zeus"

    def __init__(self) -> None:
        from zeus.monitor import ZeusMonitor

        self._monitor: Any = ZeusMonitor(gpu_indices=[0])

    def start(self) -> None:
        self._monitor.begin_window("run")

    def stop(self) -> Said:
        return {"gpu": self._monitor.end_window("run").total_energy, "cpu": None, "ram": None}


def _visible() -> list[str] | None:
    """What codecarbon is told to measure: the training device alone."""
    return [f"GPU-{torch.cuda.get_device_properties(0).uuid}"] if torch.cuda.is_available() else None


def references() -> tuple[list[Any], list[str]]:
    """Who measures beside us, and why others do not."""
    found: list[Any] = [CodeCarbon()]
    absent = []
    for kind, package in ((Nvml, "pynvml"), (Zeus, "zeus")):
        if not torch.cuda.is_available():
            absent.append(f"{kind.name}: there is no CUDA device here")
        elif find_spec(package) is None:
            absent.append(f"{kind.name}: package {package!r} is not installed")
        else:
            try:
                found.append(kind())
            except Exception as error:  # noqa: BLE001 - whatever one raises, the others are compared
                absent.append(f"{kind.name}: {type(error).__name__}: {error}")
    return found, absent


def loaded(seconds: float, step: Callable[[], None]) -> None:
    """Steps until the time is up."""
    ends_s = time.perf_counter() + seconds
    while time.perf_counter() < ends_s:
        step()


def work(device: torch.device) -> Callable[[], None]:
    """Matrix products of some tens of milliseconds that keep the device busy."""
    size = 8192 if device.type == "cuda" else 768
    a = torch.randn(size, size, device=device)

    def step() -> None:
        for _ in range(4):
            a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()

    return step


def compare(seconds: float, device: torch.device) -> None:
    others, absent = references()
    step = work(device)
    loaded(2.0, step)  # clocks and caches settle
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(save_dir=folder, device=device, log_every_n_steps=20)
        for other in others:
            other.start()
        began_s = time.perf_counter()
        with recorder:
            batch = torch.zeros(1, 1)

            def measured() -> None:
                step()
                recorder.step(batch)

            loaded(seconds, measured)
        took_s = time.perf_counter() - began_s
        said = {other.name: other.stop() for other in others}
        ours: Said = {name: recorder.final[f"{name}_energy_j"] for name in COMPONENTS}
        methods = {name: recorder.header["energy"].get(name, {}) for name in COMPONENTS}
        share = recorder.header["energy"].get("job_share_fraction")
    print(f"{took_s:.1f} s of load on {device}; joules, and their ratio to ours\n")
    print(f"{'':24}" + "".join(f"{name.upper():>20}" for name in COMPONENTS))
    print(f"{'lightning-costs':24}" + "".join(f"{_joules(ours[name]):>20}" for name in COMPONENTS))
    for name, amounts in said.items():
        cells = (f"{_joules(amounts[c])} {_ratio(amounts[c], ours[c])}" for c in COMPONENTS)
        print(f"{name:24}" + "".join(f"{cell:>20}" for cell in cells))
    print()
    for component, how in methods.items():
        bound = how.get("error_j")
        said_bound = "no bound" if bound is None else f"within {bound:.3g} J"
        print(f"{component.upper()}: {how.get('method', 'missing')} ({how.get('instrument', '')}), {said_bound}")
    if ratio := methods["gpu"].get("counter_over_power"):
        print(f"NVML's counter over the power that it samples: {ratio:.3f} in {methods['gpu']['checked_s']:.0f} s")
    if share is not None:
        print(f"this process and its children used {share:.1%} of the node's busy CPU time")
    for reason in absent:
        print(f"not compared: {reason}")


def _joules(amount: float | None) -> str:
    return "-" if amount is None else f"{amount:.1f}"


def _ratio(amount: float | None, to: float | None) -> str:
    return f"({amount / to:.3f})" if amount and to else ""


def cost(readings: int, device: torch.device) -> None:
    """The time of a reading, meter by meter, and of all of them as a point reads them."""
    meters = EnergyMeters.attach(ProbeContext(device=device))
    each = {name: meter for name, meter in meters._meters.items() if not isinstance(meter, Exception)}
    calls: dict[str, Callable[[], object]] = {name: meter.joules for name, meter in each.items()}
    if isinstance(gpu := each.get("gpu"), GpuEnergy):  # once a second, within a reading
        calls["gpu, its check"] = lambda: gpu.check(time.perf_counter())
    calls["all of a point"] = meters.read
    took_us: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(readings):
        for together in (False, True):
            time.sleep(0.11)  # closer readings are cheaper: counters stand still, and load is not looked at again
            for name, call in calls.items():
                if (name == "all of a point") == together:
                    began_s = time.perf_counter()
                    call()
                    took_us[name].append(1e6 * (time.perf_counter() - began_s))
    print(f"\na reading in microseconds: median of {readings}, 0.1 s apart, quartiles")
    for name, seen in took_us.items():
        low, middle, high = statistics.quantiles(seen, n=4)
        print(f"{name:16}{middle:8.0f}   [{low:.0f}, {high:.0f}]")
    meters.detach()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="of load; 30 for a figure to quote")
    parser.add_argument("--readings", type=int, default=60)
    given = parser.parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    compare(given.seconds, device)
    cost(given.readings, device)


if __name__ == "__main__":
    main()

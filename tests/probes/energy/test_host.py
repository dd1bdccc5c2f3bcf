"""A contract with codecarbon's internals, seen on 3.3.2: the classes and methods that one adapter file uses."""

from __future__ import annotations

import csv
import logging
import os
import random
import subprocess
import sys
import tempfile
from collections import namedtuple
from importlib.resources import files

import pytest
from codecarbon.core import cpu as codecarbon_cpu
from codecarbon.core.cpu import TDP
from codecarbon.core.util import detect_cpu_model
from codecarbon.external.hardware import CPU
from codecarbon.external.ram import RAM
from fakes import FakeClock

from lightning_costs.probes.cpu_name import cpu_name, field
from lightning_costs.probes.energy import host as probe
from lightning_costs.probes.energy import rapl
from lightning_costs.probes.energy.host import cpu_meter, ram_meter
from lightning_costs.records.missing import Missing

HOUR = 3600.0


@pytest.fixture
def clock(monkeypatch, tmp_path):
    """The time, on a machine without RAPL."""
    clock = FakeClock()
    monkeypatch.setattr(probe, "now_s", clock)
    for kind in ("packages", "memory"):
        monkeypatch.setattr(rapl, kind, lambda: None)
    return clock


@pytest.fixture
def load(monkeypatch):
    """The CPU's load in percent, given."""
    now = {"percent": 0.0}
    monkeypatch.setattr(probe.CpuModel, "_load", lambda self: now["percent"] / 100)
    return now


@pytest.mark.parametrize("percent", [0.0, 35.0, 100.0])
def test_power_under_a_load_is_codecarbons(clock, load, monkeypatch, percent):
    from codecarbon.external import hardware

    now = load
    now["percent"] = percent
    if hasattr(hardware, "SystemCPULoadMeter"):  # from 3.3 on
        monkeypatch.setattr(hardware.SystemCPULoadMeter, "percent", lambda self, *a, **kw: now["percent"])
    else:
        monkeypatch.setattr(hardware.psutil, "cpu_percent", lambda *a, **kw: now["percent"])
    theirs = CPU.from_utils(tempfile.gettempdir(), "cpu_load", "some CPU", 100.0)
    theirs.start()
    monkeypatch.setattr(probe, "_thermal_design", lambda: ("some CPU", 100.0))
    ours = cpu_meter()
    clock.sleep(10.0)
    assert ours.joules() == pytest.approx(theirs.measure_power_and_energy(10.0)[1].kWh * 3.6e6)


def test_load_is_the_busy_share_of_the_time_between_two_readings(clock, monkeypatch):
    Times = namedtuple("Times", "user nice system idle iowait guest guest_nice")
    readings = iter([Times(10, 0, 5, 80, 5, 1, 0), Times(13, 0, 6, 84, 7, 2, 0), Times(13, 0, 6, 84, 7, 2, 0)])
    monkeypatch.setattr(probe.psutil, "cpu_times", lambda: next(readings))
    monkeypatch.setattr(probe, "_thermal_design", lambda: ("some CPU", 100.0))
    model = cpu_meter()
    assert model._load() == pytest.approx(
        0.4
    )  # of 10 s, as a guest's second is a user's, too; 6 are idle or wait for disks
    assert model._load() == 0.0


@pytest.mark.integration
def test_codecarbon_still_has_what_the_adapter_uses():
    tdp = TDP()
    assert isinstance(tdp.model, str)
    assert tdp.tdp > 0
    assert RAM().total_power().W > 0
    cpu = CPU.from_utils(tempfile.gettempdir(), "cpu_load", "some CPU", 100.0)
    cpu.start()
    power, energy = cpu.measure_power_and_energy(1.0)
    assert energy.kWh > 0
    assert power.W > 0


def test_the_cpus_name_is_the_one_that_codecarbon_detects():
    assert cpu_name() == detect_cpu_model()


#: What /proc/cpuinfo or lscpu says, and what py-cpuinfo takes of it.
_TOLD = {
    "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC 7763": "AMD EPYC 7763",
    "processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c": None,
    "processor\t: 0\ncpu\t\t: POWER9, altivec supported\nclock\t\t: 3800.000000MHz": "POWER9, altivec supported",
    "Processor\t: ARMv7 Processor rev 4 (v7l)\nprocessor\t: 0": "ARMv7 Processor rev 4 (v7l)",
    "processor\t: 0\nhart\t: 0\nuarch\t: sifive,u74-mc": "sifive,u74-mc",
    "model name\t: \nmodel name\t: Some CPU: rev 2": "Some CPU: rev 2",
    "": None,
}


@pytest.mark.parametrize("text", _TOLD)
def test_the_name_is_read_from_proc_as_py_cpuinfo_reads_it(monkeypatch, text):
    from cpuinfo import cpuinfo

    monkeypatch.setattr(cpuinfo.DataSource, "has_proc_cpuinfo", staticmethod(lambda: True))
    monkeypatch.setattr(cpuinfo.DataSource, "cat_proc_cpuinfo", staticmethod(lambda: (0, text)))
    brand = cpuinfo._get_cpu_info_from_proc_cpuinfo().get("brand_raw")
    assert field(text, ["model name", "cpu", "processor", "uarch"]) == brand == _TOLD[text]


def _names():
    """Names as vendors write them, and some of codecarbon's own as they would be detected."""
    table = csv.DictReader(files("codecarbon").joinpath("data/hardware/cpu_power.csv").read_text().splitlines())
    own = random.Random(0).sample([row["Name"] for row in table], 60)
    return [
        *own,
        *(name.upper() for name in own[:10]),
        *(f"{name.replace('Intel', 'Intel(R)')} CPU @ 2.90GHz" for name in own[:20]),
        "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz",
        "Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz",
        "AMD EPYC 7763 64-Core Processor",
        "AMD Ryzen Threadripper 3970X 32-Core Processor",
        "Apple M1 Max",
        "Neoverse-V2",
        "Intel(R) Xeon(R) CPU @ 2.20GHz",
        "no such CPU",
    ]


def test_the_thermal_design_power_of_a_name_is_codecarbons(monkeypatch):
    told = []
    for name in _names():
        monkeypatch.setattr(probe, "cpu_name", lambda name=name: name)
        monkeypatch.setattr(codecarbon_cpu, "detect_cpu_model", lambda name=name: name)
        with probe.silence_codecarbon():
            theirs = TDP()
        assert probe._thermal_design.__wrapped__() == (theirs.model, float(theirs.tdp))
        told.append(theirs.tdp)
    assert len(set(told)) > 20, "several are known to it"


def test_a_cpu_without_a_name_is_missing(clock, monkeypatch):
    monkeypatch.setattr(probe, "cpu_name", lambda: None)
    monkeypatch.setattr("codecarbon.core.util.detect_cpu_model", lambda: "")
    monkeypatch.setattr(probe, "_thermal_design", probe._thermal_design.__wrapped__)
    with pytest.raises(Missing, match="this CPU's name is unknown"):
        cpu_meter()


@pytest.mark.integration
def test_opening_the_meters_runs_no_python_and_loads_no_pandas():
    code = """
import subprocess, sys
started = set()

class Popen(subprocess.Popen):
    def __init__(self, args, *rest, **named):
        started.add(args[0])
        super().__init__(args, *rest, **named)

subprocess.Popen = Popen
from lightning_costs.probes.energy import rapl
from lightning_costs.probes.energy.host import cpu_meter, ram_meter
rapl.packages = rapl.memory = lambda: None
cpu_meter().joules(), ram_meter().joules()
heavy = {"pandas", "polars", "cpuinfo", "scipy", "torch"} & set(sys.modules)
print(sorted(heavy), started - {"lscpu", "sysctl", "scontrol", "nvidia-smi", "rocm-smi"})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] set()\n"


_WARNS_TWICE = """
import warnings
import numpy  # as torch did: the first import of NumPy 1 changes filters, after which all are shown again

def warn():
    warnings.warn("shown once")

warn()
from lightning_costs.pricing.carbon_intensity import lookup_carbon_intensity
from lightning_costs.probes import cpu_name; from lightning_costs.probes.energy import rapl
from lightning_costs.probes.energy.host import cpu_meter, ram_meter
lookup_carbon_intensity(country="FRA")
rapl.packages = rapl.memory = lambda: None
cpu_meter().joules(), ram_meter().joules()
cpu_name._by_lscpu()
warn()
"""


@pytest.mark.integration
def test_warnings_that_python_showed_before_are_not_shown_again(tmp_path):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho NumCPUs=3 AllocTRES=cpu=3,mem=64G")
    scontrol.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    for slurm in ({}, {"SLURM_JOB_ID": "1", "PATH": path}):
        done = subprocess.run(
            [sys.executable, "-c", _WARNS_TWICE], env=os.environ | slurm, capture_output=True, text=True, check=True
        )
        assert done.stderr.count("shown once") == 1


def test_programs_are_found_as_ever_while_codecarbon_is_asked(monkeypatch):
    search = os.get_exec_path
    environments = [None, {"PATH": "/a:/b"}, {}, {b"PATH": b"/c"}, dict(os.environ)]
    with probe.silence_codecarbon():
        assert os.get_exec_path is not search
        assert [os.get_exec_path(env) for env in environments] == [search(env) for env in environments]
        monkeypatch.setenv("PATH", "/d:/e")
        assert os.get_exec_path() == ["/d", "/e"]
    assert os.get_exec_path is search


@pytest.mark.parametrize(("percent", "factor"), [(0.0, 0.1), (50.0, 0.1 + 0.9 * 0.5**3), (100.0, 1.0)])
def test_cpu_energy_is_tdp_times_load_factor_times_time(clock, load, percent, factor):
    load["percent"] = percent
    meter = cpu_meter()
    clock.sleep(HOUR)
    assert meter.joules() == pytest.approx(TDP().tdp * factor * HOUR, rel=1e-6)
    assert meter.joules() == 0.0
    clock.sleep(10.0)
    assert meter.joules() == pytest.approx(TDP().tdp * factor * 10.0, rel=1e-6)


def test_readings_that_are_closer_than_load_can_be_told_lose_nothing(clock, load):
    """Over less than some ticks of the system's CPU time load is noise; the last power goes on and is made good."""
    dense, sparse = cpu_meter(), cpu_meter()
    total_j = 0.0
    for turn in range(640):
        load["percent"] = 100.0 if turn % 64 < 32 else 0.0
        clock.sleep(1 / 64)
        spent_j = dense.joules()
        assert spent_j >= 0.0
        total_j += spent_j
        if turn % 7 == 6:
            total_j -= sparse.joules()
    assert total_j - sparse.joules() == pytest.approx(0.0, abs=TDP().tdp * 0.1)


def test_ram_energy_is_a_constant_power_times_time(clock, load):
    meter = ram_meter()
    clock.sleep(HOUR)
    assert meter.joules() == pytest.approx(RAM().total_power().W * HOUR, rel=1e-6)
    assert meter.joules() == 0.0


def test_a_model_is_called_a_model_and_a_constant_a_constant_and_neither_has_a_bound(clock, load):
    cpu, ram, tdp = cpu_meter(), ram_meter(), TDP()
    assert cpu.method.startswith(f"model: codecarbon cpu_load, TDP {tdp.tdp:g} W for '{tdp.model}'")
    assert cpu.method.endswith("RAPL is not readable here")
    assert ram.method == f"constant: codecarbon RAM model, {RAM().total_power().W:g} W from the installed memory"
    told = cpu.metering().as_dict()
    assert (told["method"], told["error_j"], told["tdp_w"]) == ("model", None, tdp.tdp)
    assert "a model's error has no bound" in told["detail"]
    told = ram.metering().as_dict()
    assert (told["method"], told["error_j"], told["ram_w"]) == ("constant", None, RAM().total_power().W)


def test_rapl_is_used_where_it_can_be_read(clock, load, monkeypatch):
    monkeypatch.setattr(rapl, "packages", lambda: "sockets")
    monkeypatch.setattr(rapl, "memory", lambda: "memory")
    assert (cpu_meter(), ram_meter()) == ("sockets", "memory")


def test_a_codecarbon_that_fails_is_missing_with_its_words(clock, monkeypatch):
    def fail(*args, **kwargs):
        raise FileNotFoundError("no table")

    monkeypatch.setattr(probe, "_thermal_design", fail)
    monkeypatch.setattr(RAM, "total_power", fail)
    for component, make in (("cpu", cpu_meter), ("ram", ram_meter)):
        wanted = rf"{component} energy: codecarbon cannot model this machine \(FileNotFoundError"
        with pytest.raises(Missing, match=wanted) as caught:
            make()
        assert caught.value.warn
        assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO, logging.ERROR])
def test_the_level_of_codecarbons_logger_is_the_users_again(clock, load, level, monkeypatch):
    logger = logging.getLogger("codecarbon")
    before = logger.level
    try:
        logger.setLevel(level)
        cpu_meter().joules()
        ram_meter().joules()
        assert logger.level == level
        monkeypatch.setattr(probe, "_thermal_design", lambda: 1 / 0)
        with pytest.raises(Missing):
            cpu_meter()
        assert logger.level == level
    finally:
        logger.setLevel(before)


def test_codecarbon_says_nothing_while_it_is_asked(clock, load, caplog):
    caplog.set_level(logging.DEBUG)
    probe._thermal_design.cache_clear()
    cpu, ram = cpu_meter(), ram_meter()
    clock.sleep(1.0)
    cpu.joules()
    ram.joules()
    assert [r.getMessage() for r in caplog.records if r.name == "codecarbon" and r.levelno >= logging.INFO] == []


def test_no_tracker_thread_or_socket_is_started(clock, load, monkeypatch):
    import socket
    import threading

    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    threads = threading.active_count()
    monkeypatch.setattr(socket, "socket", refuse)
    cpu_meter().joules()
    ram_meter().joules()
    assert threading.active_count() == threads

"""A contract with codecarbon's internals, seen on 3.3.2: the classes and methods that one adapter file uses."""

from __future__ import annotations

import logging
import tempfile

import pytest
from codecarbon.core.cpu import TDP
from codecarbon.external.hardware import CPU
from codecarbon.external.ram import RAM
from fakes import FakeClock

from lightning_costs.core.indicator import Missing
from lightning_costs.core.records import Place
from lightning_costs.probes import host_energy as probe
from lightning_costs.probes.host_energy import HostEnergy
from lightning_costs.probes.setting import Setting

HOUR = 3600.0


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(probe, "time", clock)
    monkeypatch.setattr(probe, "rapl_readable", lambda: False)
    return clock


@pytest.fixture
def load(monkeypatch):
    """The CPU's load in percent, told."""
    from codecarbon.external import hardware

    now = {"percent": 0.0}
    if hasattr(hardware, "SystemCPULoadMeter"):  # from 3.3 on
        monkeypatch.setattr(hardware.SystemCPULoadMeter, "percent", lambda self, *a, **kw: now["percent"])
    else:
        monkeypatch.setattr(hardware.psutil, "cpu_percent", lambda *a, **kw: now["percent"])
    return now


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


@pytest.mark.parametrize(("percent", "factor"), [(0.0, 0.1), (50.0, 0.1 + 0.9 * 0.5**3), (100.0, 1.0)])
def test_cpu_energy_is_tdp_times_load_factor_times_time(clock, load, percent, factor):
    load["percent"] = percent
    meter = HostEnergy.attach(Setting())
    clock.sleep(HOUR)
    assert meter.cpu_joules() == pytest.approx(TDP().tdp * factor * HOUR, rel=1e-6)
    assert meter.cpu_joules() == 0.0
    clock.sleep(10.0)
    assert meter.cpu_joules() == pytest.approx(TDP().tdp * factor * 10.0, rel=1e-6)


def test_ram_energy_is_a_constant_power_times_time(clock, load):
    meter = HostEnergy.attach(Setting())
    clock.sleep(HOUR)
    assert meter.ram_joules() == pytest.approx(RAM().total_power().W * HOUR, rel=1e-6)
    assert meter.ram_joules() == 0.0


def test_each_meter_has_its_own_last_reading(clock, load):
    meter = HostEnergy.attach(Setting())
    clock.sleep(10.0)
    first = meter.cpu_joules()
    clock.sleep(10.0)
    assert meter.ram_joules() == pytest.approx(RAM().total_power().W * 20.0, rel=1e-6)
    assert meter.cpu_joules() == pytest.approx(first, rel=1e-6)


def test_a_model_is_called_a_model_and_a_constant_a_constant(clock, load):
    meter = HostEnergy.attach(Setting())
    tdp = TDP()
    assert meter.cpu_method.startswith(f"model: codecarbon cpu_load, TDP {tdp.tdp:g} W for '{tdp.model}'")
    assert meter.cpu_method.endswith("RAPL is not readable here")
    assert meter.ram_method == f"constant: codecarbon RAM model, {RAM().total_power().W:g} W from the installed memory"


def test_the_first_rank_of_a_node_reads_for_it(clock, load):
    places = [Place(rank=0), Place(rank=1)]
    HostEnergy.attach(Setting(place=places[0], places=places))
    with pytest.raises(Missing, match="read by the first rank of the node"):
        HostEnergy.attach(Setting(place=places[1], places=places))


def test_a_codecarbon_that_fails_is_missing_with_its_words(clock, monkeypatch):
    def fail(*args, **kwargs):
        raise FileNotFoundError("no table")

    monkeypatch.setattr(CPU, "from_utils", fail)
    with pytest.raises(Missing, match=r"codecarbon cannot model this machine \(FileNotFoundError") as caught:
        HostEnergy.attach(Setting())
    assert caught.value.warn
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO, logging.ERROR])
def test_the_level_of_codecarbons_logger_is_the_users_again(clock, load, level, monkeypatch):
    logger = logging.getLogger("codecarbon")
    before = logger.level
    try:
        logger.setLevel(level)
        meter = HostEnergy.attach(Setting())
        meter.cpu_joules()
        meter.ram_joules()
        assert logger.level == level
        monkeypatch.setattr(CPU, "from_utils", lambda *a, **kw: 1 / 0)
        with pytest.raises(Missing):
            HostEnergy.attach(Setting())
        assert logger.level == level
    finally:
        logger.setLevel(before)


def test_codecarbon_says_nothing_while_it_is_asked(clock, load, caplog):
    caplog.set_level(logging.DEBUG)
    probe._thermal_design.cache_clear()
    meter = HostEnergy.attach(Setting())
    clock.sleep(1.0)
    meter.cpu_joules()
    meter.ram_joules()
    assert [r.getMessage() for r in caplog.records if r.name == "codecarbon" and r.levelno >= logging.INFO] == []


def test_no_tracker_thread_or_socket_is_started(clock, load, monkeypatch):
    import socket
    import threading

    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    threads = threading.active_count()
    monkeypatch.setattr(socket, "socket", refuse)
    meter = HostEnergy.attach(Setting())
    meter.cpu_joules()
    assert threading.active_count() == threads


def test_rapl_is_used_where_it_can_be_read(clock, monkeypatch, tmp_path):
    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "energy_uj").write_text("1")
    monkeypatch.undo()
    monkeypatch.setattr(probe, "_RAPL", tmp_path)
    assert probe.rapl_readable()
    monkeypatch.setattr(probe, "_RAPL", tmp_path / "nothing")
    assert not probe.rapl_readable()

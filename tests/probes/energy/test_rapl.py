"""RAPL as Linux shows it: a tree of files with counters that wrap."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import FakeClock

from lightning_costs.probes.energy import rapl as probe
from lightning_costs.probes.energy.rapl import memory, packages
from lightning_costs.records.missing import Missing

RANGE_UJ = 262_143_328_850


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock(50.0)
    monkeypatch.setattr(probe, "now_s", clock)
    return clock


class Powercap:
    """A tree of zones; energy is added in joules."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def zone(self, folder: str, name: str, joules: float, range_uj: int = RANGE_UJ) -> None:
        path = self.root / folder
        path.mkdir()
        (path / "name").write_text(f"{name}\n")
        (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
        (path / "energy_uj").write_text(f"{round(joules * 1e6)}\n")

    def spend(self, **joules: float) -> None:
        for folder, amount in joules.items():
            path = self.root / folder.replace("_", ":").replace("rapl:", "intel-rapl:")
            counted = int((path / "energy_uj").read_text()) + round(1e6 * amount)
            wraps_uj = int((path / "max_energy_range_uj").read_text())
            (path / "energy_uj").write_text(f"{counted % wraps_uj}\n")


@pytest.fixture
def server(tmp_path):
    """Two sockets with their parts and memory, the platform, and the memory-mapped view of the first socket."""
    tree = Powercap(tmp_path)
    for n in (0, 1):
        tree.zone(f"intel-rapl:{n}", f"package-{n}", 1000.0 + 700 * n)
        tree.zone(f"intel-rapl:{n}:0", "core", 500.0)
        tree.zone(f"intel-rapl:{n}:1", "uncore", 20.0)
        tree.zone(f"intel-rapl:{n}:2", "dram", 300.0 + n)
    tree.zone("intel-rapl:2", "psys", 9000.0)
    tree.zone("intel-rapl-mmio:0", "package-0", 1000.0)
    return tree


def test_packages_add_up_without_their_parts_the_platform_or_a_second_view(clock, server, tmp_path):
    cpu, ram = packages(tmp_path), memory(tmp_path)
    server.spend(rapl_0=100.0, rapl_0_0=80.0, rapl_0_1=5.0, rapl_0_2=7.0, rapl_1=50.0, rapl_1_2=3.0, rapl_2=999.0)
    clock.sleep(1)
    assert cpu.joules() == 150.0
    assert ram.joules() == 10.0
    clock.sleep(1)
    assert (cpu.joules(), ram.joules()) == (0.0, 0.0)


def test_a_counter_is_called_one_with_its_zones_and_bound(clock, server, tmp_path):
    cpu = packages(tmp_path)
    server.spend(rapl_0=100.0)
    clock.sleep(1)
    cpu.joules()
    metering = cpu.metering().as_dict()
    assert (metering["method"], metering["instrument"], metering["zones"]) == (
        "counter", "RAPL", ["package-0", "package-1"]
    )  # fmt: skip
    assert metering["error_j"] == pytest.approx(0.1)  # 100 W x 1 ms
    assert cpu.method == "counter: RAPL, whole sockets, every process on this node"
    assert memory(tmp_path).method == "counter: RAPL, the memory of all sockets, every process on this node"


def test_a_counter_that_wraps_goes_on(clock, tmp_path):
    tree = Powercap(tmp_path)
    tree.zone("intel-rapl:0", "package-0", 95.0, range_uj=100_000_000)
    cpu, total_j = packages(tmp_path), 0.0
    for _ in range(10):
        tree.spend(rapl_0=30.0)
        clock.sleep(0.05)
        total_j += cpu.joules()
    assert total_j == pytest.approx(300.0)


def test_a_counter_that_may_have_wrapped_twice_is_missing_with_what_to_do(clock, server, tmp_path):
    cpu = packages(tmp_path)
    clock.sleep(300)  # 262 s at 1 kW
    with pytest.raises(Missing, match=r"300 s passed between two readings.*log_every_n_steps") as caught:
        cpu.joules()
    assert caught.value.warn


@pytest.mark.parametrize("folder", ["intel-rapl:1", "intel-rapl:0"])
def test_a_socket_that_cannot_be_read_leaves_no_part_of_a_sum(clock, server, tmp_path, folder):
    (tmp_path / folder / "energy_uj").unlink()
    assert packages(tmp_path) is None


def test_memory_of_which_a_socket_tells_nothing_is_no_sum(clock, server, tmp_path):
    (tmp_path / "intel-rapl:1:2" / "name").write_text("core")
    assert memory(tmp_path) is None
    assert packages(tmp_path) is not None


def test_a_machine_without_rapl_has_none(clock, tmp_path):
    assert packages(tmp_path) is None
    assert memory(tmp_path) is None
    Powercap(tmp_path).zone("intel-rapl:0", "psys", 5.0)
    assert packages(tmp_path) is None


def test_dies_that_show_one_counter_are_counted_once(clock, tmp_path):
    """As on AMD's chips of several dies; dies with counters of their own are two."""
    tree = Powercap(tmp_path)
    tree.zone("intel-rapl:0", "package-0-die-0", 7000.0)
    tree.zone("intel-rapl:1", "package-0-die-1", 7000.2)
    tree.zone("intel-rapl:2", "package-1-die-0", 7000.0)
    tree.zone("intel-rapl:3", "package-1-die-1", 4000.0)
    assert packages(tmp_path).metering().facts["zones"] == ["package-0-die-0", "package-1-die-0", "package-1-die-1"]


def test_a_counter_that_is_gone_is_missing(clock, server, tmp_path):
    cpu = packages(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(Missing, match=r"RAPL cannot be read any more \(FileNotFoundError"):
        cpu.joules()

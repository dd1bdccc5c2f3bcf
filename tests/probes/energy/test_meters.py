"""Energy by component and account, from meters and accounts whose truth is known; on 1 to 8 ranks."""

from __future__ import annotations

import math

import pytest
import torch
from fakes import FakeClock, FakeGpu, FakeMeter, FakeNvml, sample
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.indicators import energy
from lightning_costs.indicators.reader import IndicatorReader
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.energy import meters as probe
from lightning_costs.probes.energy import nvml
from lightning_costs.probes.energy.meters import EnergyMeters
from lightning_costs.ranks.reduce import reduce_ranks
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import RankInfo
from lightning_costs.records.time_buckets import ACCOUNTS, TimeBuckets

COMPONENTS = (energy.GpuEnergyJ, energy.CpuEnergyJ, energy.RamEnergyJ)
BY_ACCOUNT = (
    energy.SetupEnergyJ, energy.TrainEnergyJ, energy.EvaluateEnergyJ, energy.CheckpointEnergyJ, energy.OtherEnergyJ
)  # fmt: skip


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    monkeypatch.setattr(probe, "now_s", clock)
    return clock


class Bench:
    """One rank's meters and the indicators over them; the GPU's power depends on what it does."""

    def __init__(self, clock, gpu=300.0, cpu=0.0, ram=0.0):
        self.clock = clock
        self.accounts = TimeBuckets(clock, begun_s=clock())
        self.told = {name: FakeMeter(w, clock) for name, w in {"gpu": gpu, "cpu": cpu, "ram": ram}.items()}
        self.meters = EnergyMeters(self.told, self.accounts)
        self.accounts.before_switch = self.meters.on_bucket_change
        setting = ProbeContext(accounts=self.accounts)
        setting._probes[EnergyMeters] = self.meters
        self.panel = IndicatorReader([*(kind() for kind in (*COMPONENTS, *BY_ACCOUNT)), energy.EnergyJ()], setting)
        self.panel.open()
        self.totals: dict[str, float] = {}

    def close(self, trigger="evaluate"):
        own = self.panel.read(sample(trigger=trigger, ended_s=self.clock()))
        job = reduce_ranks([own], self.panel.measured, [RankInfo()])
        window = self.panel.derive(job, Tariff())
        for name, amount in window.items():
            assert amount is not None
            self.totals[name] = self.totals.get(name, 0.0) + amount
        return window

    def joules(self, account):
        return self.totals[f"{account}_energy_j"]


def test_each_account_gets_what_was_drawn_while_it_ran(clock):
    """An evaluation that draws a tenth of what training draws is not charged by its time."""
    bench = Bench(clock, gpu=50.0)
    clock.sleep(4)
    bench.accounts.reset_to("train")
    bench.told["gpu"].watts = 400.0
    clock.sleep(10)
    with bench.accounts.bucket("evaluate"):
        bench.told["gpu"].watts = 40.0
        clock.sleep(5)
    bench.told["gpu"].watts = 400.0
    clock.sleep(1)
    with bench.accounts.bucket("checkpoint"):
        bench.told["gpu"].watts = 100.0
        clock.sleep(2)
    bench.close("end")
    assert [bench.joules(account) for account in ACCOUNTS] == [200.0, 4400.0, 200.0, 200.0, 0.0]
    assert bench.totals["energy_j"] == 5000.0


def test_short_changes_of_accounts_are_shared_out_by_time_and_read_no_meter(clock):
    bench = Bench(clock, gpu=100.0)
    bench.accounts.reset_to("train")
    reads = bench.told["gpu"].reads
    for _ in range(16):
        with bench.accounts.bucket("data_wait"):
            clock.sleep(0.25)
        clock.sleep(0.5)
        with bench.accounts.bucket("other"):
            clock.sleep(0.25)
    assert bench.told["gpu"].reads == reads
    bench.close()
    assert (bench.joules("train"), bench.joules("other")) == (1200.0, 400.0)


def test_evaluations_that_are_shorter_than_a_meters_step_do_not_read_it_each_time(clock):
    bench = Bench(clock, gpu=100.0)
    bench.accounts.reset_to("train")
    for _ in range(512):
        clock.sleep(1 / 128)
        with bench.accounts.bucket("evaluate"):
            clock.sleep(1 / 128)
    bench.close("end")
    assert bench.told["gpu"].reads < 8 / probe.LEAST_S
    assert bench.totals["energy_j"] == 800.0
    assert bench.joules("evaluate") == pytest.approx(400.0, abs=10)


def test_a_point_has_what_was_spent_up_to_it_however_close_the_last_one_is(clock):
    bench = Bench(clock, gpu=100.0)
    bench.accounts.reset_to("train")
    clock.sleep(1)
    bench.close()
    clock.sleep(1 / 64)
    bench.close()
    assert bench.totals["energy_j"] == bench.joules("train") == 100.0 * (1 + 1 / 64)


def test_one_reading_serves_all_columns_of_a_window(clock):
    bench = Bench(clock, cpu=80.0, ram=20.0)
    clock.sleep(10)
    window = bench.close()
    assert [window[kind.name] for kind in COMPONENTS] == [3000.0, 800.0, 200.0]
    assert window["energy_j"] == 4000.0
    assert [meter.reads for meter in bench.told.values()] == [1, 1, 1]
    assert bench.panel.methods["energy_j"] == "GPU counter, CPU counter, RAM counter"
    assert bench.panel.methods["cpu_energy_j"] == "counter: told; measured from the monitor's setup on"


steps = st.lists(
    st.tuples(
        st.sampled_from(["train", "data_wait", "evaluate", "checkpoint", "other", "point"]),
        st.integers(0, 400).map(lambda n: n / 64),
    ),
    max_size=40,
)


@given(steps=steps)
def test_the_accounts_add_up_to_the_energy_whatever_happens(steps):
    clock = FakeClock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "now_s", clock)
        bench = Bench(clock, cpu=80.0, ram=20.0)
        clock.sleep(1)
        bench.accounts.reset_to("train")
        for what, seconds in steps:
            if what == "point":
                bench.close("train")
                clock.sleep(seconds)
                continue
            with bench.accounts.bucket(what):
                clock.sleep(seconds)
        bench.close("end")
    total_j = bench.totals["energy_j"]
    assert total_j == pytest.approx(400.0 * clock())
    assert math.fsum(bench.joules(account) for account in ACCOUNTS) == pytest.approx(total_j, rel=1e-12)


def test_a_component_that_goes_missing_takes_the_accounts_with_it_and_leaves_the_others(clock):
    bench = Bench(clock)
    clock.sleep(1)
    bench.close()
    bench.told["gpu"].fails = Missing("gpu energy: NVML stopped answering (GPU is lost)", warn=True)
    clock.sleep(1)
    own = bench.panel.read(sample(trigger="evaluate", ended_s=2.0))
    assert set(own.amounts) == {"cpu_energy_j", "ram_energy_j"}
    assert bench.panel.missing["gpu_energy_j"] == "gpu energy: NVML stopped answering (GPU is lost)"
    wanted = "needs gpu_energy_j: gpu energy: NVML stopped answering (GPU is lost)"
    assert bench.panel.missing["train_energy_j"] == bench.panel.missing["setup_energy_j"] == wanted
    assert bench.told["gpu"].detached == 1
    assert set(bench.meters.metadata()) == {"cpu", "ram", "by_account"}


def test_an_error_of_a_vendors_library_is_a_reason_and_never_gets_out(clock):
    bench = Bench(clock)
    bench.told["cpu"].fails = OSError("no such file")
    clock.sleep(1)
    bench.accounts.notify_transition()
    with pytest.raises(Missing, match="OSError: no such file"):
        bench.meters.total_j("cpu", sample())


def test_a_meter_that_cannot_be_let_go_does_not_keep_the_others(clock):
    bench = Bench(clock)

    def stuck():
        raise OSError("library was unloaded")

    bench.told["gpu"].detach = stuck
    bench.meters.detach()
    assert (bench.told["cpu"].detached, bench.told["ram"].detached) == (1, 1)


def test_without_accounts_there_is_no_energy_by_account(clock):
    meters = EnergyMeters({"gpu": FakeMeter(100.0, clock)})
    clock.sleep(1)
    assert meters.total_j("gpu", sample()) == 100.0
    with pytest.raises(Missing, match="energy by account needs accounts of time: a Recorder keeps them"):
        meters.bucket_j("train", sample())


# Ranks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", range(1, 9))
@pytest.mark.parametrize("devices", [1, 3, 8])
def test_each_device_and_each_node_is_counted_once_on_any_number_of_ranks(clock, monkeypatch, ranks, devices):
    """Real meters over a fake NVML; four ranks a node; ranks share devices where there are fewer."""
    per_node = 4
    nodes = -(-ranks // per_node)
    gpus = {f"GPU-{n}-{d}": FakeGpu(clock, lambda t: 100.0) for n in range(nodes) for d in range(devices)}
    fake = FakeNvml(clock, gpus=gpus)
    monkeypatch.setattr(nvml, "time", clock)
    monkeypatch.setattr(nvml, "now_s", clock)
    monkeypatch.setattr(probe, "cpu_meter", lambda: FakeMeter(10.0, clock))
    monkeypatch.setattr(probe, "ram_meter", lambda: FakeMeter(1.0, clock))
    import pynvml

    for name in (name for name in dir(FakeNvml) if name.startswith("nvml")):
        monkeypatch.setattr(pynvml, name, getattr(fake, name))
    places = [RankInfo(rank=r, node=r // per_node, replica=r) for r in range(ranks)]
    panels = []
    for place in places:
        local = place.rank % per_node % devices
        uuid = f"{place.node}-{local}"
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda device, uuid=uuid: type("Properties", (), {"uuid": uuid})
        )
        setting = ProbeContext(
            place=place, places=places, device=torch.device("cuda", local), accounts=TimeBuckets(clock, begun_s=clock())
        )
        panels.append(IndicatorReader([*(kind() for kind in (*COMPONENTS, *BY_ACCOUNT)), energy.EnergyJ()], setting))
        panels[-1].open()
    clock.sleep(10)
    vectors = [panel.read(sample(trigger="end", ended_s=10.0)) for panel in panels]
    job = panels[0].derive(reduce_ranks(vectors, panels[0].measured, places), Tariff())
    used = len({(p.node, p.rank % per_node % devices) for p in places})
    assert job["gpu_energy_j"] == pytest.approx(1000.0 * used)
    assert job["cpu_energy_j"] == pytest.approx(100.0 * nodes)
    assert job["ram_energy_j"] == pytest.approx(10.0 * nodes)
    assert job["setup_energy_j"] == pytest.approx(job["energy_j"]) == pytest.approx(1000.0 * used + 110.0 * nodes)


# What a device may be ------------------------------------------------------------------------------------------


def attached(device, clock, monkeypatch, **setting):
    monkeypatch.setattr(probe, "cpu_meter", lambda: FakeMeter(10.0, clock))
    monkeypatch.setattr(probe, "ram_meter", lambda: FakeMeter(1.0, clock))
    return EnergyMeters.attach(ProbeContext(device=None if device is None else torch.device(device), **setting))


def test_where_a_cpu_trains_gpu_energy_is_zero_by_definition(clock, monkeypatch):
    meters = attached("cpu", clock, monkeypatch)
    clock.sleep(5)
    assert meters.total_j("gpu", sample()) == 0.0
    assert meters.method("gpu") == "zero by definition: no GPU trains in this run"
    assert meters.metadata()["gpu"]["method"] == "none"
    assert meters.methods_summary() == "GPU none, CPU counter, RAM counter"


@pytest.mark.parametrize(
    ("device", "wanted"),
    [
        ("mps", "codecarbon runs powermetrics, as root, and the training would wait for it at every reading"),
        ("xpu", "energy of device xpu cannot be read"),
        (None, "energy of device None cannot be read"),
    ],
)
def test_a_device_that_nobody_can_meter_is_missing_with_a_reason(clock, monkeypatch, device, wanted):
    meters = attached(device, clock, monkeypatch, accounts=TimeBuckets(clock, begun_s=clock()))
    with pytest.raises(Missing, match=wanted):
        meters.method("gpu")
    with pytest.raises(Missing, match=f"needs gpu_energy_j: .*{wanted}"):
        meters.require_accounts()
    clock.sleep(2)
    assert meters.total_j("cpu", sample()) == 20.0


def test_other_ranks_of_a_node_read_their_device_alone(clock, monkeypatch):
    places = [RankInfo(rank=0), RankInfo(rank=1)]
    meters = attached("cpu", clock, monkeypatch, place=places[1], places=places)
    assert [meters.has(component) for component in ("gpu", "cpu", "ram")] == [True, False, False]
    assert "job_share_fraction" not in meters.metadata(final=True)

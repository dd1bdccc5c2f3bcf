from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fakes import sample

from lightning_costs.indicators import idle
from lightning_costs.indicators.base import Indicator
from lightning_costs.indicators.reader import IndicatorReader
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.device_timeline import DeviceTimeline
from lightning_costs.ranks.reduce import reduce_ranks
from lightning_costs.records.samples import Amount, DeviceTime, RankInfo

DEVICE = DeviceTime(step_times_s=(0.5, 0.5), timed_s=1.0, idle_s=0.25, idle_data_s=0.125, h2d_s=0.0625)


def indicators() -> list[Indicator]:
    return [
        idle.IdleS(),
        idle.IdleFraction(),
        idle.TimedS(),
        idle.IdleDataS(),
        idle.H2dDeviceS(),
        idle.RankMaxIdleFraction(),
        idle.H2dS(),
    ]


def panel(monkeypatch: pytest.MonkeyPatch, rank: int = 0, ranks: int = 1) -> IndicatorReader:
    """A rank's panel of a CUDA run; its events are made by whoever makes the sample."""
    monkeypatch.setattr(DeviceTimeline, "attach", classmethod(lambda cls, setting: cls(None)))
    places = tuple(RankInfo(rank=r) for r in range(ranks))
    opened = IndicatorReader(indicators(), ProbeContext(place=places[rank], places=places, device=torch.device("cuda")))
    opened.open()
    return opened


def job(panels: list[IndicatorReader], devices: list[DeviceTime]) -> dict[str, Amount]:
    first = panels[0]
    vectors = [p.read(sample(device=device, h2d_s=0.5)) for p, device in zip(panels, devices, strict=True)]
    places = [v.place for v in vectors]
    return first.derive(reduce_ranks(vectors, first.measured, places), Tariff())


def test_a_window_of_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert job([panel(monkeypatch)], [DEVICE]) == {
        "idle_s": 0.25,
        "timed_s": 1.0,
        "idle_data_s": 0.125,
        "h2d_device_s": 0.0625,
        "rank_max_idle_fraction": 0.25,
        "h2d_s": 0.5,
        "idle_fraction": 0.25,
    }


def test_devices_are_added_before_they_are_divided_and_the_worst_stands_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    panels = [panel(monkeypatch, rank, 2) for rank in range(2)]
    found = job(panels, [DEVICE, replace(DEVICE, timed_s=3.0, idle_s=2.25)])
    assert found["idle_s"] == 2.5
    assert found["timed_s"] == 4.0
    assert found["idle_fraction"] == 2.5 / 4, "not the mean of the fractions"
    assert found["rank_max_idle_fraction"] == 0.75
    assert found["h2d_s"] == 0.5, "rank 0's own"


def test_a_window_in_which_the_device_completed_no_step_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = panel(monkeypatch)
    found = job([opened], [DeviceTime()])
    assert found["idle_s"] == found["timed_s"] == 0.0
    assert found["idle_fraction"] is found["rank_max_idle_fraction"] is None
    assert opened.missing == {}


def test_on_a_cpu_idle_is_missing_and_says_what_tells_instead() -> None:
    opened = IndicatorReader(indicators(), ProbeContext(device=torch.device("cpu")))
    opened.open()
    opened.derive(reduce_ranks([opened.read(sample())], opened.measured, [RankInfo()]), Tariff())
    why = (
        "needs a CUDA device: where a CPU trains, it works whenever it does not wait; "
        "data_wait_s against train_s says how long it waited for batches"
    )
    assert opened.missing["idle_s"] == why
    assert opened.missing["idle_fraction"] == f"needs idle_s: {why}"
    assert "h2d_s" not in opened.missing, "nothing is handed over: zero by definition"


def test_steps_whose_begin_nobody_told_have_no_idle_rather_than_none(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = panel(monkeypatch)
    opened.read(sample(device=DeviceTime(step_times_s=(0.5,)), h2d_s=0.0))
    assert opened.missing["idle_s"] == (
        "needs to know when the work on a batch begins: put it in `with recorder.train_batch(batch):`"
    )

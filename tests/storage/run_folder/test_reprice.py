"""A run that is priced again is equal to one that was recorded under that tariff, to the last digit."""

from __future__ import annotations

import json
import math
from itertools import accumulate, count

import attempts
import polars as pl
import pytest
import torch
from fakes import measured
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightning_costs import Tariff, compare, default_indicators, load_run
from lightning_costs.indicators import carbon_and_money, clocks, lost
from lightning_costs.pricing.rates import PRICED
from lightning_costs.pricing.reprice import reprice
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.run_folder import reprice as repriced
from lightning_costs.storage.run_folder.files import HEADER, JOURNAL, PARQUET
from lightning_costs.storage.run_folder.lock import LOCK, FolderLock
from lightning_costs.storage.run_folder.reprice import reprice_folder

pytestmark = pytest.mark.usefixtures("every_point_at_once")
BATCH = torch.zeros(8, 3)
A = Tariff(
    country="FRA", pue=1.1, usd_per_device_h=2.5, usd_per_kwh=0.21, embodied_kg_per_device=150.0, lifetime_years=4.0
)
B = Tariff(country="USA", region="US-TX", pue=1.37, usd_per_node_h=31.7, usd_per_kwh=0.113, source="a list",
           embodied_g_per_exaflop=0.66e12, wue_l_per_kwh=1.9)  # fmt: skip
C = Tariff(gco2e_per_kwh=13.7, usd_per_device_h=0.37)
NOTHING = Tariff()
#: What is not the tariff's business, and what a run that was priced again says in addition.
OTHER = ("git", "repriced", "run_id", "created", "by_whom_s", "setup", "name", "written_by")


def indicators(watts=137.3):
    physical = (clocks.TotalS, clocks.TrainS, clocks.OtherS, clocks.DeviceS, clocks.Devices, clocks.Nodes, clocks.NodeS)
    return [
        *(kind() for kind in physical),
        measured("steps", "steps", reads=lambda s: float(s.steps)),
        measured("samples", "samples", reads=lambda s: float(s.samples)),
        measured("flop", "flop", reads=lambda s: 3.0 * s.samples),
        measured("energy_j", reads=lambda s: watts * (s.ended_s - s.begun_s)),
        carbon_and_money.Co2eG(), carbon_and_money.CloudUsd(), carbon_and_money.ElectricityUsd(),
        carbon_and_money.EmbodiedCo2eG(), carbon_and_money.WaterL(),
        *(kind() for kind in (lost.LostS, lost.LostSamples, lost.LostFlop, lost.LostEnergyJ)),
    ]  # fmt: skip


class Attempt(attempts.Attempt):
    """Steps of uneven lengths, under a tariff."""

    indicators = staticmethod(indicators)

    def __init__(self, save_dir, tariff, state=None, **options):
        super().__init__(save_dir, state, tariff=tariff, monitor="acc", mode="max", name="run", **options)

    def train(self, n):
        for i in range(n):
            super().train(1, 0.1 + 0.317 * i)
            if i % 3 == 2:
                self.recorder.log_metrics({"acc": 0.1 * i, "loss": math.nan if i == 2 else 1.0})
        return self

    def end(self, status="finished"):
        self.recorder.end(status)
        return self.recorder.path


def once(save_dir, *tariffs):
    return Attempt(save_dir, tariffs[0], devices=3, nodes=2).train(7).end()


def restarted(save_dir, *tariffs):
    """Three attempts of different sizes; the second goes back to a checkpoint, the third before that one."""
    first = Attempt(save_dir, tariffs[0], devices=8, nodes=2).train(4)
    early = first.recorder.state_dict()
    first.train(3)
    late = first.recorder.state_dict()
    first.train(2).end("interrupted")
    second = Attempt(save_dir, tariffs[-2] if len(tariffs) > 1 else tariffs[0], late, devices=4, nodes=1).train(5)
    second.end("failed")
    return Attempt(save_dir, tariffs[-1], early, devices=2, nodes=3).train(6).end()


def killed(save_dir, *tariffs):
    """The process died: the journal's last line is torn, no Parquet, the lock's file is there and nobody holds it."""
    attempt = Attempt(save_dir, tariffs[0], devices=5, nodes=5).train(6)
    path = attempt.recorder.path
    attempt.kill()
    with (path / JOURNAL).open("a") as journal:
        journal.write('{"step":99,"costs":{"tot')
    return path


@pytest.fixture
def record(tmp_path, monkeypatch):
    made = count()

    def record(story, *tariffs):
        """Two recordings of a story have the same times, and their attempts the same names."""
        ticks, names = count(1), count(1)
        monkeypatch.setattr("lightning_costs.recording.run_state.time.time", lambda: 1.8e9 + next(ticks))
        monkeypatch.setattr("lightning_costs.recording.this_attempt.secrets.token_hex", lambda n: f"{next(names):08x}")
        for module in ("run_state", "this_attempt"):
            monkeypatch.setattr(f"lightning_costs.recording.{module}.utc_now", lambda: "2026-11-24T00:00:00.000+00:00")
        return story(tmp_path / f"{next(made)}", *tariffs)

    return record


def about(header):
    return {name: value for name, value in header.items() if name not in OTHER}


def assert_same(one, other):
    """Equal in every column of every point, and in what their headers say."""
    first, second = load_run(one), load_run(other)
    assert first.points.columns == second.points.columns
    assert first.points.equals(second.points, null_equal=True)
    assert first.final == second.final
    assert about(first.header) == about(second.header)
    assert first.to_reach().points.equals(second.to_reach().points)
    for name in (JOURNAL, PARQUET):
        assert (one / name).is_file() == (other / name).is_file()
    if (one / PARQUET).is_file():
        assert pl.read_parquet(one / PARQUET).equals(pl.read_parquet(other / PARQUET))
    lines = [[json.loads(line) for line in (path / JOURNAL).read_text().splitlines() if line.endswith("}")]
             for path in (one, other)]  # fmt: skip
    assert lines[0] == lines[1]


STORIES = pytest.mark.parametrize("story", [once, restarted, killed])


@STORIES
@pytest.mark.parametrize("recorded", [A, C, NOTHING])
@pytest.mark.parametrize("wanted", [B, C, NOTHING])
def test_a_run_that_is_priced_again_equals_one_recorded_under_that_tariff(record, story, recorded, wanted):
    path, expected = record(story, recorded), record(story, wanted)
    before = load_run(path)
    done = reprice_folder(path, wanted)
    assert_same(path, expected)
    assert done.after.points.equals(load_run(path).points)
    assert done.before.points.equals(before.points)


@STORIES
def test_pricing_again_twice_is_pricing_once_and_back_is_the_run_as_it_was(record, story):
    path, copy = record(story, A), record(story, A)
    reprice_folder(path, B)
    once = (path / HEADER).read_text(), (path / JOURNAL).read_bytes()
    reprice_folder(path, B)
    assert ((path / HEADER).read_text(), (path / JOURNAL).read_bytes()) == once
    reprice_folder(path, A)
    assert_same(path, copy)
    history = load_run(path).header["repriced"]
    assert [entry["tariff"].get("usd_per_kwh") for entry in history] == [0.21, 0.113]


def test_a_tariff_that_the_run_is_under_already_changes_no_file(record):
    path = record(restarted, A)
    files = {p.name: p.read_bytes() for p in path.iterdir()}
    reprice_folder(path, A)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == files


def test_attempts_under_different_tariffs_are_each_priced_under_their_own(record):
    path = record(restarted, A, C, B)
    run = load_run(path)
    used = [{}, *(attempt["used"] for attempt in run.header["attempts"][1:]), run.final]
    parts = []
    for number, tariff in enumerate((A, C, B)):
        spent = {
            name: used[number + 1][name] - used[number].get(name, 0.0) for name in ("energy_j", "device_s", "node_s")
        }
        parts.append((tariff.co2e_g(spent["energy_j"]),
                      tariff.cloud_usd(device_s=spent["device_s"], node_s=spent["node_s"])))  # fmt: skip
    assert run.final["co2e_g"] == pytest.approx(sum(co2e for co2e, _ in parts), rel=1e-12)
    assert run.final["cloud_usd"] == pytest.approx(sum(usd for _, usd in parts), rel=1e-12)
    assert run.final["electricity_usd"] is None  # C has no price of it
    assert "an earlier attempt of this run was not priced" in run.header["missing"]["electricity_usd"]
    assert run.points["co2e_g"].diff().drop_nulls().min() >= 0


def test_what_restarts_lost_is_priced_by_what_each_attempt_paid(record):
    path = record(restarted, A, C, B)
    run = load_run(path)
    first, second, third = run.header["attempts"]
    energy = [attempt.get("lost", {}).get("energy_j", 0.0) for attempt in (first, second, third)]
    assert second["lost"]["co2e_g"] == pytest.approx(A.co2e_g(energy[1]), rel=1e-12)
    under_c = third["used"]["energy_j"] - second["used"]["energy_j"]
    under_a = energy[2] - under_c  # the third began before the second's checkpoint: all of the second is lost
    assert third["lost"]["co2e_g"] == pytest.approx(A.co2e_g(under_a) + C.co2e_g(under_c), rel=1e-12)
    reach = run.to_reach()
    assert reach.points["co2e_g"].null_count() == 0
    assert reach.points["co2e_g"].diff().drop_nulls().min() >= 0


def test_a_run_of_several_tariffs_is_one_tariffs_after(record):
    path, expected = record(restarted, A, C, B), record(restarted, B, B, B)
    reprice_folder(path, B)
    assert_same(path, expected)
    assert load_run(path).header["repriced"][0]["attempts"][1]["gco2e_per_kwh"] == 13.7


@STORIES
def test_comparing_under_a_tariff_and_pricing_again_give_the_same(record, story):
    path = record(story, A)
    compared = compare([load_run(path)], tariff=B)
    final = reprice_folder(path, B).after.final
    assert {name: compared.runs[0]["final"][name] for name in PRICED} == {name: final[name] for name in PRICED}


def test_a_cut_short_rewriting_is_made_up_for_by_readers_and_by_the_same_command(record, monkeypatch):
    path, expected = record(restarted, A), record(restarted, B)

    def cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(repriced.RunFolder, "rewrite", cut)
        with pytest.raises(KeyboardInterrupt):
            reprice_folder(path, B)
    assert load_run(path).points.equals(load_run(expected).points)  # though the files of points are the old ones
    assert not pl.read_parquet(path / PARQUET).equals(load_run(expected).points)
    reprice_folder(path, B)
    assert_same(path, expected)


def test_a_run_that_is_still_written_is_refused_and_left_alone(record, tmp_path):
    attempt = Attempt(tmp_path / "living", A).train(3)
    path = attempt.recorder.path
    files = {p.name: p.read_bytes() for p in path.iterdir()}
    with pytest.raises(ValueError, match="is still being written: price it again when the run is over"):
        reprice_folder(path, B)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == files
    assert attempt.train(2).end() == path
    reprice_folder(path, B)


def test_where_nobody_can_tell_whether_a_run_is_over_it_takes_force(record):
    path = record(killed, A)
    (path / LOCK).unlink()  # as in a copy of the folder
    with pytest.raises(ValueError, match="by a process on another machine; if it has ended, give --force"):
        reprice_folder(path, B)
    assert not (path / LOCK).exists()
    assert reprice_folder(path, B, force=True).after.final["cloud_usd"] > 0


def test_a_killed_run_stays_killed_and_its_file_says_what_it_said(record):
    path = record(killed, A)
    assert load_run(path).header["status"] == "killed"
    done = reprice_folder(path, B)
    assert done.after.header["status"] == load_run(path).header["status"] == "killed"
    assert json.loads((path / HEADER).read_text())["status"] == "running"
    assert (path / LOCK).is_file()
    FolderLock.acquire(path).abandon()  # nobody holds it


def test_a_run_that_was_priced_again_is_resumed_and_goes_on(record, tmp_path):
    first = Attempt(tmp_path / "again", A, devices=4, nodes=2).train(4)
    state = first.recorder.state_dict()
    path = first.train(2).end("interrupted")
    reprice_folder(path, B)
    assert Attempt(tmp_path / "again", B, state, devices=2, nodes=1).train(5).end() == path
    run = load_run(path)
    totals = run.final
    assert totals["cloud_usd"] == B.cloud_usd(device_s=totals["device_s"], node_s=totals["node_s"])
    assert totals["co2e_g"] == B.co2e_g(totals["energy_j"])
    assert len(run.header["repriced"]) == 1


def test_a_folder_that_kept_the_table_alone_is_priced_too(record):
    path, expected = record(once, A), record(once, B)
    (path / JOURNAL).unlink()
    reprice_folder(path, B)
    assert not (path / JOURNAL).exists()
    assert pl.read_parquet(path / PARQUET).equals(pl.read_parquet(expected / PARQUET))


def test_a_run_of_an_earlier_version_is_priced_by_its_nodes(record):
    path = record(once, A)
    header = json.loads((path / HEADER).read_text())
    del header["priced"], header["indicators"]["node_s"]
    for attempt in header["attempts"]:
        del attempt["tariff"], attempt["device"]
    (path / HEADER).write_text(json.dumps(header))
    pl.read_parquet(path / PARQUET).drop("node_s").write_parquet(path / PARQUET)
    run = reprice_folder(path, B).after
    assert run.final["cloud_usd"] == B.cloud_usd(device_s=0.0, node_s=run.final["total_s"] * 2)


def test_a_run_without_priced_columns_gets_them(record, tmp_path):
    kept = [i for i in indicators() if i.name not in PRICED]
    path = Attempt(tmp_path / "bare", None, indicators=kept, devices=3).train(4).end()
    run = reprice_folder(path, C).after
    assert run.final["cloud_usd"] == C.cloud_usd(device_s=run.final["device_s"], node_s=0.0)
    assert load_run(path).final == run.final
    assert "water_l" not in run.header["indicators"]  # C has no figure of it
    wet = reprice_folder(path, B).after
    assert wet.final["water_l"] == B.water_l(run.final["energy_j"])
    assert wet.final["embodied_co2e_g"] == B.embodied_co2e_g(device_s=0.0, flop=run.final["flop"])


def test_a_column_that_a_user_prices_by_an_indicator_of_theirs_stays(record, tmp_path):
    own = [i for i in indicators() if i.name != "cloud_usd"] + [measured("cloud_usd", reads=lambda s: 7.0 * s.steps)]
    path = Attempt(tmp_path / "own", A, indicators=own).train(4).end()
    run = reprice_folder(path, B).after
    assert run.final["cloud_usd"] == 28.0
    assert run.final["co2e_g"] == B.co2e_g(run.final["energy_j"])


@pytest.mark.parametrize("tariff", [A, C])
def test_embodied_carbon_by_device_time_needs_no_flops(tmp_path, tariff):
    kept = [i for i in indicators() if i.name not in ("flop", "lost_flop")]
    recorded = load_run(Attempt(tmp_path, tariff, indicators=kept, devices=3).train(4).end())
    run = reprice(recorded, A)
    assert run.final["embodied_co2e_g"] == A.embodied_co2e_g(device_s=run.final["device_s"], flop=math.nan) > 0
    assert tariff is C or run.final == recorded.final
    assert "flop" in reprice(recorded, B).header["missing"]["embodied_co2e_g"]


def test_energy_that_went_missing_leaves_its_prices_missing_with_the_reason(record, tmp_path):
    reads = iter([1.5e6, 2.5e6, None])
    lacking = [i for i in indicators() if i.name != "energy_j"]
    lacking.insert(9, measured("energy_j", reads=lambda s: next(reads, None)))

    def story(save_dir, tariff):
        nonlocal reads
        reads = iter([1.5e6, 2.5e6, None])
        return Attempt(save_dir, tariff, indicators=lacking).train(5).end()

    path, expected = record(story, A), record(story, B)
    reprice_folder(path, B)
    assert_same(path, expected)
    run = load_run(path)
    assert run.final["co2e_g"] is None
    assert run.header["missing"]["co2e_g"].startswith("needs energy_j: ")
    assert run.points["co2e_g"][1] == B.co2e_g(4.0e6)


def run_of(windows):
    """Two attempts that used energy and device-seconds window by window."""
    energy_j, device_s = list(accumulate(e for e, _ in windows)), list(accumulate(s for _, s in windows))
    half = len(windows) // 2
    used = {"energy_j": energy_j[half - 1] if half else 0.0, "device_s": device_s[half - 1] if half else 0.0}
    second = {"row": half, "used": used, "resumed": 0, "lost": {"energy_j": used["energy_j"] / 3}}
    header = {"indicators": {}, "attempts": [{"row": 0, "lost": {}}, second], "setup": {"device": "cpu"}}
    return RunRecord(header=header, points=pl.DataFrame({"energy_j": energy_j, "device_s": device_s}))


amounts = st.floats(0, 1e12)
tariffs = st.builds(
    Tariff,
    gco2e_per_kwh=st.none() | st.floats(0, 2000),
    pue=st.none() | st.floats(1, 3),
    usd_per_device_h=st.none() | st.floats(1e-3, 1e3),
    usd_per_kwh=st.none() | st.floats(1e-3, 1e3),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(windows=st.lists(st.tuples(amounts, amounts), min_size=1, max_size=8), first=tariffs, second=tariffs)
def test_pricing_again_and_back_is_identity(windows, first, second):
    run = reprice(run_of(windows), first)
    again = reprice(run, second)
    assert reprice(again, second).points.equals(again.points)
    assert again.points.equals(reprice(run_of(windows), second).points)
    assert reprice(again, first).points.equals(run.points)
    assert reprice(again, first).header == run.header


def test_what_prices_are_made_from_is_measured_by_default():
    assert {"energy_j", "device_s", "node_s"} <= {i.name for i in default_indicators()}

"""Carbon by the hour: a run is charged with the hours that it ran in, against sums by hand."""

from __future__ import annotations

import json
from datetime import datetime
from zoneinfo import ZoneInfo

import attempts
import polars as pl
import pytest
from fakes import measured

from lightning_costs import Tariff, compare, load_run
from lightning_costs.indicators import carbon_and_money, clocks
from lightning_costs.pricing.hourly import HourlyIntensity
from lightning_costs.pricing.reprice import price_points, reprice
from lightning_costs.report.statement import build_statement
from lightning_costs.report.statement.render import paragraphs
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.run_folder.reprice import reprice_folder

PARIS = ZoneInfo("Europe/Paris")
KWH = 3.6e6
#: From 22:00 on 24 October 2026 in Paris; at 03:00 of summer time clocks went back to 02:00.
GRAMS = {
    "2026-10-24T22:00+02:00": 50.0,
    "2026-10-24T23:00+02:00": 40.0,
    "2026-10-25T00:00+02:00": 30.0,
    "2026-10-25T01:00+02:00": 20.0,
    "2026-10-25T02:00+02:00": 10.0,
    "2026-10-25T02:00+01:00": 70.0,
    "2026-10-25T03:00+01:00": 80.0,
    "2026-10-25T04:00+01:00": 1.0,
}


def at(clock, fold=0):
    """Seconds since 1970 of a time in Paris in that night; `fold` is 1 for winter time."""
    day = 24 if clock >= "22" else 25
    return datetime.fromisoformat(f"2026-10-{day}T{clock}").replace(tzinfo=PARIS, fold=fold).timestamp()


def iso(at_s):
    return datetime.fromtimestamp(at_s, ZoneInfo("UTC")).isoformat()


def night():
    """Three attempts: across midnight, within an hour, and across the hour that summer time's end repeats.

    First, 23:30 to 00:30: 2 kWh until 00:00, 4 kWh until 00:30. Second, 01:15 to 01:45: 1 kWh. Third, 02:30 of summer
    time to 03:30 of winter time, two hours: 12 kWh evenly.
    """
    times = [at("23:30") + 1800, at("00:30"), at("01:45"), at("03:30")]
    energy_j = [2 * KWH, 6 * KWH, 7 * KWH, 19 * KWH]
    began = [(0, "23:30", None), (2, "01:15", 6 * KWH), (3, "02:30", 7 * KWH)]
    tries = [
        {
            "row": row,
            "began": iso(at(clock)),
            **({"used": {"energy_j": used}, "resumed": i - 1} if i else {}),
            "lost": {},
        }
        for i, (row, clock, used) in enumerate(began)
    ]
    points = pl.DataFrame({"time": times, "energy_j": energy_j})
    return RunRecord(header={"indicators": {}, "attempts": tries, "setup": {"device": "cpu"}}, points=points)


def test_a_run_is_charged_with_the_hours_it_ran_in_over_midnight_and_the_end_of_summer_time():
    run = reprice(night(), Tariff(intensity_by_hour=GRAMS, pue=1.5))
    first = 2 * 40.0  # 23:30 to 00:00
    second = first + 4 * 30.0  # 00:00 to 00:30
    third = second + 1 * 20.0
    # 02:30 to 03:00 of summer time, 02:00 to 03:00 of winter time, 03:00 to 03:30: a quarter, a half, a quarter.
    fourth = third + 3 * 10.0 + 6 * 70.0 + 3 * 80.0
    assert run.points["co2e_g"].to_list() == pytest.approx([1.5 * g for g in (first, second, third, fourth)], rel=1e-12)
    mean = fourth / 19
    assert f"by the hour, 10 to 80 g/kWh, {mean:.4g} by its energy (given, sha256 " in run.header["methods"]["co2e_g"]
    assert "co2e_g" not in run.header["missing"]


def test_it_says_when_the_run_would_have_emitted_least():
    run = reprice(night(), Tariff(intensity_by_hour={**GRAMS, "2026-10-24T21:00+02:00": 1000.0}))
    # An hour earlier its hours have 50, 40, (nothing at 00), 30, 20, 10 and 70 instead.
    earlier = 2 * 50.0 + 4 * 40.0 + 1 * 30.0 + 3 * 20.0 + 6 * 10.0 + 3 * 70.0
    was = 2 * 40.0 + 4 * 30.0 + 1 * 20.0 + 3 * 10.0 + 6 * 70.0 + 3 * 80.0
    assert (
        f"begun 1 h earlier, in the hour from 2026-10-24T20:00Z, it would have been least of the table's hours: "
        f"{earlier:.0f} g, {100 * (1 - earlier / was):.3g} % less"
    ) in run.header["methods"]["co2e_g"]
    flat = reprice(night(), Tariff(intensity_by_hour=dict.fromkeys(GRAMS, 5.0)))
    assert "no other hour of the table to begin in would have been less" in flat.header["methods"]["co2e_g"]


def test_equal_hours_are_the_annual_mean_at_that_figure():
    flat = reprice(night(), Tariff(intensity_by_hour=dict.fromkeys(GRAMS, 56.0), pue=1.2))
    mean = reprice(night(), Tariff(gco2e_per_kwh=56.0, pue=1.2))
    assert flat.points["co2e_g"].to_list() == pytest.approx(mean.points["co2e_g"].to_list(), rel=1e-12)


def test_an_hour_that_the_table_lacks_leaves_carbon_missing_and_is_named():
    lacking = {time: grams for time, grams in GRAMS.items() if time != "2026-10-25T02:00+01:00"}
    run = reprice(night(), Tariff(intensity_by_hour=lacking))
    assert run.final["co2e_g"] is None
    assert "has no row for 2026-10-25T01:00Z" in run.header["missing"]["co2e_g"]


def test_the_header_keeps_the_hours_that_the_run_ran_in():
    year = {iso(at("22:00") + 3600 * hour): 50.0 + hour % 24 for hour in range(-4000, 4000)}
    run = reprice(night(), Tariff(intensity_by_hour=year))
    hours = run.header["tariff"]["hours"]
    assert len(hours) == 6
    again = RunRecord(header=json.loads(json.dumps(run.header)), points=run.points)
    assert reprice(again, Tariff.from_dict(again.header["tariff"])).points.equals(run.points)


def test_the_statement_tells_the_hours():
    said = dict(paragraphs(build_statement(named(night()), tariff=Tariff(intensity_by_hour=GRAMS))))["Carbon"]
    assert "mean of the hours it ran in, by the hour from given, sha256 " in said


def named(run):
    declared = {"name": "energy_j", "unit": "j", "kind": "counter", "better": "lower", "family": "energy"}
    declared |= {"role": "indicator", "label": "energy", "headline": True}
    about = {"run_id": "a", "statics": {}, "quality": [], "indicators": {"energy_j": declared}}
    return RunRecord(header={**run.header, **about}, points=run.points)


# A table ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,g\n", "has no column 'gco2e_per_kwh': a table by the hour has time,gco2e_per_kwh"),
        ("time,gco2e_per_kwh\n2026-10-25T02:00,5\n", "'2026-10-25T02:00' has no offset from UTC"),
        ("time,gco2e_per_kwh\n2026-10-25T02:00Z,many\n", "expected an ISO 8601 time and a number"),
        ("time,gco2e_per_kwh\n2026-10-25T02:00Z,-1\n", "a finite number of at least 0, got -1.0"),
        (
            "time,gco2e_per_kwh\n2026-10-25T02:00Z,1\n2026-10-25T02:30Z,1\n",
            "begins within an hour of 2026-10-25T02:00Z",
        ),
        ("time,gco2e_per_kwh\n", "needs 1 to 100000 hours, got 0"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, text, message):
    (tmp_path / "hours.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        Tariff(intensity_by_hour=str(tmp_path / "hours.csv"))


def test_a_file_beside_the_tariff_is_found_by_its_name(tmp_path):
    (tmp_path / "hours.csv").write_text("time,gco2e_per_kwh\n" + "".join(f"{t},{g}\n" for t, g in GRAMS.items()))
    (tmp_path / "tariff.toml").write_text('intensity_by_hour = "hours.csv"\npue = 1.5\n')
    found = Tariff.from_file(tmp_path / "tariff.toml")
    assert found.intensity_by_hour.hours == HourlyIntensity.of(GRAMS).hours
    assert reprice(night(), found).points.equals(reprice(night(), Tariff(intensity_by_hour=GRAMS, pue=1.5)).points)


def test_one_figure_and_a_table_are_refused():
    with pytest.raises(ValueError, match="gco2e_per_kwh or intensity_by_hour, not both"):
        Tariff(gco2e_per_kwh=5.0, intensity_by_hour=GRAMS)


@pytest.mark.parametrize("hours", [None, [], [[2.0, 1.0], [1.0, 1.0]], [[0.0, -5.0]]])
def test_a_header_that_names_a_table_opens_no_file_and_a_broken_one_leaves_carbon_missing(tmp_path, hours):
    (tmp_path / "hours.csv").write_text("time,gco2e_per_kwh\n" + "".join(f"{t},{g}\n" for t, g in GRAMS.items()))
    run = reprice(night(), Tariff(gco2e_per_kwh=5.0))
    named_file = {"intensity_by_hour": str(tmp_path / "hours.csv"), **({} if hours is None else {"hours": hours})}
    tries = [{**attempt, "tariff": named_file} for attempt in run.header["attempts"]]
    header = {**run.header, "attempts": tries, "tariff": named_file}
    assert price_points(run.points, header)["co2e_g"].null_count() == 4


# Run folders --------------------------------------------------------------------------------------------------


class Attempt(attempts.Attempt):
    @staticmethod
    def indicators():
        return [
            clocks.TotalS(),
            clocks.DeviceS(),
            clocks.Devices(),
            clocks.Nodes(),
            clocks.NodeS(),
            measured("steps", "steps", reads=lambda s: float(s.steps)),
            measured("energy_j", reads=lambda s: 1e6 * s.steps),
            carbon_and_money.Co2eG(),
        ]

    def end(self):
        self.recorder.end("finished")
        return self.recorder.path


@pytest.fixture
def night_s(monkeypatch):
    """A clock that goes 20 minutes at each reading, from 22:10."""
    now = [at("22:10")]

    def reading():
        now[0] += 1200.0
        return now[0]

    monkeypatch.setattr("lightning_costs.recording.run_state.time.time", reading)
    for module in ("run_state", "this_attempt"):
        monkeypatch.setattr(f"lightning_costs.recording.{module}.utc_now", lambda: iso(reading()))


@pytest.mark.usefixtures("every_point_at_once")
def test_a_folder_priced_by_the_hour_reads_back_goes_on_and_is_priced_whole(tmp_path, night_s):
    tariff = Tariff(intensity_by_hour=GRAMS)
    first = Attempt(tmp_path, tariff=tariff, monitor="acc", mode="max").train(4)
    first.recorder.log_metrics({"acc": 0.5})
    state = first.recorder.state_dict()
    path = first.end()
    recorded = load_run(path)
    assert recorded.final["co2e_g"] is None
    assert "lightning-costs reprice RUN --tariff FILE" in recorded.header["missing"]["co2e_g"]
    done = reprice_folder(path, tariff).after
    assert done.final["co2e_g"] > 0
    assert load_run(path).points.equals(done.points)
    assert load_run(path).to_reach().final["co2e_g"] == done.final["co2e_g"]
    assert compare([recorded, recorded], tariff=tariff).runs[0]["final"]["co2e_g"] == done.final["co2e_g"]
    second = Attempt(tmp_path, state, tariff=Tariff(gco2e_per_kwh=50.0)).train(2)
    assert second.end() == path
    resumed = load_run(path)
    assert resumed.final["co2e_g"] is None
    assert "an earlier attempt of this run was not priced" in resumed.header["missing"]["co2e_g"]
    whole = reprice_folder(path, tariff).after
    assert whole.points["co2e_g"][:4].to_list() == done.points["co2e_g"][:4].to_list()
    assert whole.final["co2e_g"] > done.final["co2e_g"]


def test_a_comparison_names_the_table_and_holds_no_year_of_it():
    runs = [named(night()), named(night())]
    graded = [RunRecord(header={**run.header, "monitor": "acc", "mode": "max", "quality": ["acc"], "run_id": name},
                        points=run.points.with_columns(pl.lit(0.5).alias("acc"), step=pl.int_range(4)))
              for name, run in zip("ab", runs, strict=True)]  # fmt: skip
    told = compare(graded, tariff=Tariff(intensity_by_hour=GRAMS)).tariff
    assert told["intensity_by_hour"].startswith("given, sha256 ")
    assert "hours" not in told

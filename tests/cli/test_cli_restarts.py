"""Restarted runs on the command line and in comparisons: attempts, lost work, and both curves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call
from fakes import FakeClock

from lightning_costs import Comparison, Recorder, Tariff, compare, load_run, load_runs
from lightning_costs.report.charts.quality import chart
from lightning_costs.report.page.page import page

pytestmark = pytest.mark.integration


def said_of(compared: Comparison) -> list[str]:
    return [caution["text"] for caution in compared.cautions]


def recorder(folder: Path, name: str) -> tuple[Recorder, FakeClock]:
    clock = FakeClock()
    tariff = Tariff(usd_per_device_h=3600.0)
    return Recorder(name=name, save_dir=folder, monitor="acc", mode="max", clock=clock, tariff=tariff), clock


def train(run: Recorder, clock: FakeClock, qualities: list[float]) -> None:
    for quality in qualities:
        clock.sleep(4)
        run.step(None)
        run.log_metrics({"acc": quality})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A straight run of 12 s, and one of 20 s that lost 8 s to a restart and is cheaper without them."""
    straight, clock = recorder(tmp_path / "costs", "straight")
    straight.begin()
    train(straight, clock, [0.1, 0.2, 0.3, 0.4])
    straight.end()
    first, clock = recorder(tmp_path / "costs", "restarted")
    first.begin()
    train(first, clock, [0.2])
    state = first.state_dict()
    train(first, clock, [0.9, 0.1])
    first.end("failed")
    second, clock = recorder(tmp_path / "costs", "restarted")
    second.load_state_dict(state)
    second.begin()
    train(second, clock, [0.4, 0.5])
    second.end()
    return tmp_path / "costs"


def test_show_lists_attempts_and_what_was_lost(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert call(monkeypatch, "show", next(runs.glob("restarted*"))) == 0
    out = capsys.readouterr().out
    assert "(finished, 2 attempts, from points.parquet)" in out
    assert "from step 0, on 1 device, failed" in out
    assert "attempt 2: " in out
    assert "from step 1, on 1 device, finished" in out
    assert "lost 8 s of 20 s to restarts" in out
    assert call(monkeypatch, "show", next(runs.glob("straight*"))) == 0
    assert "lost" not in capsys.readouterr().out


def test_a_comparison_is_by_what_was_spent_or_by_what_it_took(runs: Path) -> None:
    loaded = load_runs(runs)
    spent, reached = compare(loaded), compare(loaded, curve="to_reach")
    assert (spent.curve, reached.curve) == ("spent", "to_reach")
    finals = {curve.curve: {r["label"]: r["final"]["total_s"] for r in curve.runs} for curve in (spent, reached)}
    assert finals == {
        "spent": {"straight": 16.0, "restarted": 20.0},
        "to_reach": {"straight": 16.0, "restarted": 12.0},
    }
    assert [r["best_quality"] for r in spent.runs] == [0.4, 0.9]  # reached, and then lost
    assert [r["best_quality"] for r in reached.runs] == [0.4, 0.5]
    assert reached.curves["restarted"]["total_s"] == [4.0, 8.0, 12.0]
    assert reached.curves["restarted"]["cloud_usd"] == [4.0, 8.0, 12.0]
    repriced = compare(loaded, curve="to_reach", tariff=Tariff(usd_per_device_h=7200.0))
    assert repriced.curves["restarted"]["cloud_usd"] == [8.0, 16.0, 24.0]
    with pytest.raises(ValueError, match="curve must be 'spent' or 'to_reach', got 'best'"):
        compare(loaded, curve="best")  # type: ignore[arg-type]


def test_a_comparison_says_what_restarts_lost_and_which_curve_it_shows(runs: Path) -> None:
    loaded = load_runs(runs)
    said = "run 'restarted' lost 8 s of 20 s to restarts: "
    assert f"{said}its costs hold work that bought nothing; compare(runs, curve='to_reach') leaves it out" in (
        said_of(compare(loaded))
    )
    reached = compare(loaded, curve="to_reach")
    assert f"{said}that is left out here" in said_of(reached)
    assert "total time to reach" in json.dumps(chart(reached, "total_s").to_dict())
    assert "total time to reach" not in json.dumps(chart(compare(loaded), "total_s").to_dict())
    assert "what it took to reach it" in page(reached)
    assert "Costs are those to reach each state" in page(reached)
    assert "what it had spent by then" in page(compare(loaded))


def test_lost_work_that_nobody_knows_gives_no_cost_to_reach(runs: Path) -> None:
    folder = next(runs.glob("restarted*"))
    header = json.loads((folder / "header.json").read_text())
    header["attempts"][-1]["lost"] = dict.fromkeys(header["attempts"][-1]["lost"])
    header["missing"]["lost_s"] = "the folder of the run's earlier attempt is not available"
    (folder / "header.json").write_text(json.dumps(header))
    run = load_run(folder)
    run = type(run)(header=run.header, points=run.points.with_columns(lost_s=None))
    compared = compare([run], curve="to_reach")
    assert compared.runs[0]["final"]["total_s"] is None
    assert compared.runs[0]["missing"]["total_s"] == "what the run's restarts lost is unknown"
    assert any("lost an unknown part to restarts (the folder of" in caution for caution in said_of(compared))


def test_the_command_line_takes_the_curve(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert call(monkeypatch, "compare", runs, "--curve", "to_reach", "--json", out) == 0
    printed = capsys.readouterr().out
    assert "Costs are those to reach each state" in " ".join(printed.split())
    assert "--curve to_reach --to html" in printed
    assert json.loads(out.read_text())["curve"] == "to_reach"
    assert call(monkeypatch, "report", runs, "--curve", "to_reach", "-o", tmp_path / "page.html") == 0
    assert "what it took to reach it" in (tmp_path / "page.html").read_text()

"""The command line on real run folders, as a user calls it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from command_line import call
from fakes import FakeClock

from lightning_costs import Recorder, Tariff, compare, load_run, load_runs
from lightning_costs.records.formatting import format_amount


def make_run(folder: Path, name: str, *, qualities: list[float], speed: int = 1, status: str = "finished") -> Path:
    recorder = Recorder(
        name=name, save_dir=folder, monitor="val/acc", mode="max", tariff=Tariff(gco2e_per_kwh=50.0, usd_per_kwh=0.2)
    )
    recorder.begin()
    for quality in qualities:
        for _ in range(2 * speed):
            recorder.step(None)
        recorder.log_metrics({"val/acc": quality})
    recorder.end(status)  # type: ignore[arg-type]
    assert recorder.path is not None
    return recorder.path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "costs"
    make_run(folder, "quick", qualities=[0.5, 0.8])
    make_run(folder, "slow", qualities=[0.4, 0.7, 0.9], speed=3)
    make_run(folder, "broken", qualities=[0.3], status="failed")
    return folder


def test_show_gives_a_run_in_human_units_and_says_how_to_get_what_is_missing(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    folder = next(runs.glob("quick*"))
    assert call(monkeypatch, "show", folder) == 0
    out = capsys.readouterr().out
    assert "finished" in out
    assert "Tariff(usd_per_device_h=2.5)" in out
    assert "best val/acc: 0.8" in out
    assert call(monkeypatch, "show", folder, "--all") == 0
    assert "optimizer calls" in capsys.readouterr().out


def test_show_says_whether_training_waited_for_its_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = FakeClock(50.0)
    recorder = Recorder(name="waiting", save_dir=tmp_path, device="cpu", clock=clock)

    def loader() -> Iterator[int]:
        for i in range(8):
            clock.sleep(3.0)
            yield i

    recorder.begin()
    for batch in recorder.wrap_loader(loader()):
        clock.sleep(5.0)
        recorder.step(batch)
    recorder.end()
    assert recorder.path is not None
    assert call(monkeypatch, "show", recorder.path) == 0
    assert "input-bound 38 %: training waited 24 s of 64 s for batches" in capsys.readouterr().out


def test_compare_prints_and_writes_strict_json(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert call(monkeypatch, "compare", runs, "--target", "0.75", "--json", out) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("'slow' reached the best val/acc, 0.9.\n")
    assert "not reached within" not in printed
    assert call(monkeypatch, "compare", runs, "--target", "0.75", "--all") == 0
    assert "not reached within" in capsys.readouterr().out
    compared = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert {run["label"] for run in compared["runs"]} == {"quick", "slow", "broken"}
    (target,) = [t for t in compared["targets"] if t["target"] == 0.75]
    assert target["declared"]
    assert target["winners"]["steps"] == ["quick"]


def test_compare_groups_seeds_and_matches_within_a_tolerance(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    pattern = "name~(quick|slow|broken)"
    options = ("--group", pattern, "--tolerance", "0.5", "--all", "--json", out)
    assert call(monkeypatch, "compare", runs, "--target", "0.75", *options) == 0
    printed = capsys.readouterr().out
    assert "Medians by group" in printed
    assert f"--group '{pattern}' --to html" in printed
    compared = json.loads(out.read_text())
    assert list(compared["groups"]["members"]) == [run["label"] for run in compared["runs"]]
    assert compared["matched"]["tolerance"] == 0.5
    assert "no such setting" in str(call(monkeypatch, "compare", runs, "--group", "nothing"))
    assert call(monkeypatch, "report", runs, "--to", "md", "--group", "name") != 0


def test_compare_prices_all_runs_under_one_tariff(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tariff = tmp_path / "tariff.toml"
    tariff.write_text("gco2e_per_kwh = 100.0\nusd_per_node_h = 36.0\n")
    out = tmp_path / "out.json"
    assert call(monkeypatch, "compare", runs, "--tariff", tariff, "--json", out) == 0
    for run in json.loads(out.read_text())["runs"]:
        own = load_run(runs / run["id"]).final
        assert own["energy_j"] is not None
        assert own["total_s"] is not None
        assert math.isclose(run["final"]["co2e_g"], own["energy_j"] / 3.6e6 * 100, rel_tol=1e-12)
        assert math.isclose(run["final"]["cloud_usd"], own["total_s"] / 100, rel_tol=1e-12)
        assert run["final"]["electricity_usd"] is None


def test_a_page_under_a_tariff_says_what_a_comparison_under_it_says(
    runs: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("altair")
    tariff, page = tmp_path / "tariff.toml", tmp_path / "page.html"
    tariff.write_text("gco2e_per_kwh = 417.5\nusd_per_node_h = 93.0\n")
    before = {file: file.read_bytes() for file in runs.rglob("*") if file.is_file()}
    assert call(monkeypatch, "report", runs, "--to", "html", "--tariff", tariff, "-o", page) == 0
    text = page.read_text(encoding="utf-8")
    compared = compare(load_runs(runs), tariff=Tariff.from_file(tariff))
    for run in compared.runs:
        assert f">{format_amount(run['final']['cloud_usd'], 'usd')}<" in text
    assert "417.5" in text.split('id="setups"')[1]
    assert {file: file.read_bytes() for file in runs.rglob("*") if file.is_file()} == before


def test_report_writes_one_page(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert call(monkeypatch, "report", runs, "--to", "html", "-o", page) == 0
    assert "val/acc" in page.read_text(encoding="utf-8")


def test_total_counts_failed_runs_too(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert call(monkeypatch, "total", runs) == 0
    out = capsys.readouterr().out
    lines = {line.split("  ")[0].strip(): line.split() for line in out.splitlines() if line.strip()}
    assert lines["runs"][1:] == ["1", "2", "3"]
    assert lines["optimizer-step batches"][2:] == ["2", "steps", "22", "steps", "24", "steps"]
    ranking = out.split("Runs that cost most, by")[1].splitlines()
    assert {line.split()[0] for line in ranking[2:5]} == {"quick", "slow", "broken"}


def test_total_tells_where_time_went_and_what_was_wasted(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert call(monkeypatch, "total", runs, "--goodput", "--waste", "--json", tmp_path / "total.json") == 0
    out = capsys.readouterr().out
    assert "goodput (Google)" in out
    assert "where the wall clock went" in out
    assert "Runs that wasted most" in out
    told = json.loads((tmp_path / "total.json").read_text())
    assert {run["label"] for run in told["waste"]["runs"]} == {"quick", "slow", "broken"}
    parts_s = sum(bucket["s"] or 0.0 for bucket in told["goodput"]["buckets"])
    assert parts_s == pytest.approx(told["goodput"]["wall_s"])
    assert call(monkeypatch, "show", next(runs.iterdir()), "--all") == 0
    assert "ETTR (Meta)" in capsys.readouterr().out


def test_total_by_group_writes_csv_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIGHTNING_COSTS_GROUP", "[ablation]")
    monkeypatch.setenv("WANDB_TAGS", "a, b,a")
    one = make_run(tmp_path / "costs", "one", qualities=[0.5])
    assert (load_run(one).header["group"], load_run(one).header["tags"]) == ("[ablation]", ["a", "b"])
    monkeypatch.delenv("LIGHTNING_COSTS_GROUP")
    make_run(tmp_path / "costs", "other", qualities=[0.5, 0.6], status="failed")
    files = (tmp_path / "out" / "total.csv", tmp_path / "out" / "total.json")
    assert call(monkeypatch, "total", tmp_path / "costs", "--by", "group", "--csv", files[0], "--json", files[1]) == 0
    assert "[ablation]" in capsys.readouterr().out
    (steps,) = [line for line in files[0].read_text().splitlines() if line.startswith("all,steps,")]
    assert steps == "all,steps,steps,6.0,2,0"
    assert json.loads(files[1].read_text())["runs"] == {"[ablation]": 1, "(none)": 1, "all": 2}


def test_check_exits_by_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = make_run(tmp_path / "a", "old", qualities=[0.5, 0.8])
    new = make_run(tmp_path / "b", "new", qualities=[0.5, 0.8], speed=2)
    broken = make_run(tmp_path / "c", "broken", qualities=[0.5], status="failed")
    out = tmp_path / "gate.json"
    assert call(monkeypatch, "check", old, "--baseline", old) == 0
    assert capsys.readouterr().out.startswith("no regression\n")
    assert call(monkeypatch, "check", new, "--baseline", old, "--fail", "steps>2%", "--json", out) == 1
    assert capsys.readouterr().out.startswith("regression: steps\n")
    assert json.loads(out.read_text())["exit_code"] == 1
    assert call(monkeypatch, "check", new, "--baseline", old, "--fail", "steps@0.8>100%") == 0
    assert call(monkeypatch, "check", broken, "--baseline", old) == 2
    assert call(monkeypatch, "check", new, "--baseline", old, "--fail", "steps=2%") == 2
    assert "a limit must be" in capsys.readouterr().err
    assert call(monkeypatch, "check", tmp_path, "--baseline", old) == 2
    assert "expected one run" in capsys.readouterr().err
    assert call(monkeypatch, "check", new, "--baseline", tmp_path / "nowhere") == 2


def test_compare_takes_a_table_beside_run_folders(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, out = tmp_path / "zoo.csv", tmp_path / "out.json"
    table.write_text("model,val/acc,gmac,images_per_s\npublished,0.7,3,10\n")
    args = ["--monitor", "val/acc", "--mode", "max", "--cost", "forward_mac=gmac", "--unit", "gmac=GMAC"]
    assert call(monkeypatch, "compare", runs, table, *args, "--cost", "images_per_s:max", "--json", out) == 0
    (row,) = [run for run in json.loads(out.read_text())["runs"] if run["name"] == "published"]
    assert (row["final"]["forward_mac"], row["final"]["images_per_s"]) == (3e9, 10.0)
    assert "COST=UNIT" in str(call(monkeypatch, "compare", table, *args, "--unit", "GMAC"))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["show", "nowhere"], "no run at nowhere: expected a folder that holds header.json"),
        (["compare", "nowhere"], "no run under nowhere"),
        (["total", "nowhere"], "no run under nowhere"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    args: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in str(call(monkeypatch, *args))


@pytest.mark.parametrize(("args", "code"), [(["nonsense"], 2), (["show"], 2), (["--help"], 0)])
def test_a_wrong_call_shows_the_usage(
    args: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *args) == code
    printed = capsys.readouterr()
    assert "Usage" in printed.out + printed.err


def test_a_metric_without_its_direction_is_refused_with_advice(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = str(call(monkeypatch, "compare", runs, "--monitor", "val/other"))
    assert said.startswith("lightning-costs: ")
    assert "mode" in said or "val/acc" in said


def test_a_run_shows_itself_in_a_notebook(runs: Path) -> None:
    page = load_run(next(runs.glob("quick*")))._repr_html_()
    assert "<table>" in page
    assert "total time" in page


def test_reprice_tells_before_and_after_and_writes_the_folder(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    folder, tariff = next(runs.glob("quick*")), tmp_path / "tariff.toml"
    tariff.write_text('country = "FRA"\npue = 1.2\nusd_per_node_h = 3600.0\n')
    was = load_run(folder).final
    assert call(monkeypatch, "reprice", folder, "--tariff", tariff) == 0
    out = capsys.readouterr().out
    assert "56.039 g/kWh (FRA 20" in out
    assert "location-based" in out
    assert "no electricity price" in out
    assert f"next: lightning-costs show {folder}" in out
    now = load_run(folder).final
    assert now["cloud_usd"] == now["node_s"] / 3600 * 3600.0  # type: ignore[operator]
    assert (was["cloud_usd"], now["electricity_usd"]) == (None, None)
    assert now["energy_j"] == was["energy_j"]
    assert call(monkeypatch, "show", folder) == 0
    assert "carbon and money were priced again on 20" in capsys.readouterr().out


def test_reprice_as_json_is_strict_and_alone_on_the_output(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, tariff = next(runs.glob("slow*")), tmp_path / "tariff.toml"
    tariff.write_text("gco2e_per_kwh = 100.0\nusd_per_kwh = 0.2\n")
    before = load_run(folder).final["co2e_g"]
    assert call(monkeypatch, "reprice", folder, "--tariff", tariff, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["columns"]["co2e_g"]["before"] == before
    assert told["columns"]["co2e_g"]["after"] == load_run(folder).final["co2e_g"]
    assert told["tariff"]["intensity"] == {"gco2e_per_kwh": 100.0, "source": "given"}
    assert set(told["columns"]) == {"co2e_g", "cloud_usd", "electricity_usd", "embodied_co2e_g", "water_l"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('provider = "awz"\n', "provider 'awz' is unknown"),
        ("usd_per_device_h = 0.0\n", "usd_per_device_h must be a finite number above 0"),
        ('[[prices]]\ngpu = "L4"\nprovider = "us"\nusd_per_device_h = 1.0\ndate = 2026-10-01\n', "needs source"),
        ('country = "Franze"\n', "near: France"),
    ],
)
def test_a_tariff_that_cannot_be_leaves_the_run_alone(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    folder, tariff = next(runs.glob("slow*")), tmp_path / "tariff.toml"
    tariff.write_text(text)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    said = call(monkeypatch, "reprice", folder, "--tariff", tariff)
    assert message in str(said)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_report_states_what_all_runs_cost_for_a_paper_and_a_model_card(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "report", runs, "--to", "md", "--monitor", "val/acc") == 0
    printed = capsys.readouterr().out
    assert "3 training runs" in printed
    assert "2 finished and 1 failed" in printed
    assert "best val/acc" in printed
    out = tmp_path / "deep" / "costs.tex"
    assert call(monkeypatch, "report", runs, "--to", "latex", "-o", out) == 0
    assert out.read_text(encoding="ascii").count(r"\begin{tabular}") == 2
    capsys.readouterr()
    assert call(monkeypatch, "report", runs, "--to", "hf-yaml", "--training-type", "pre-training") == 0
    total = sum(load_run(path).final["co2e_g"] or 0.0 for path in runs.iterdir())
    block = yaml.safe_load(capsys.readouterr().out)["co2_eq_emissions"]
    assert math.isclose(block["emissions"], total, rel_tol=1e-12)
    assert block["training_type"] == "pre-training"


@pytest.mark.integration
def test_report_writes_figures_tables_and_a_comparison_beneath_the_statement(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "for the paper"
    assert call(monkeypatch, "report", runs, "--to", "csv", "--target", "0.75", "-o", out / "tables") == 0
    assert f"files to {out / 'tables'}" in capsys.readouterr().out.replace("\n", "")
    rows = (out / "tables" / "cost_to_quality.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("target,declared,column,run,reached,cost")
    assert all(row.startswith("0.75,True,") for row in rows[1:])
    assert call(monkeypatch, "report", runs, "--to", "figures", "-o", out / "figures") == 0
    assert {path.suffix for path in (out / "figures").iterdir()} == {".png", ".svg", ".pdf", ".txt"}
    capsys.readouterr()
    assert call(monkeypatch, "report", runs, "--to", "md", "--tables", "--target", "0.75") == 0
    printed = capsys.readouterr().out
    assert printed.index("## Cost of training") < printed.index("## Comparison")
    assert "Cost to reach val/acc 0.75 (given to compare); \\* needed least." in printed


def test_a_statement_is_priced_under_the_tariff_that_is_given(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tariff = tmp_path / "tariff.toml"
    tariff.write_text('country = "SWE"\n')
    assert call(monkeypatch, "report", runs, "--to", "hf-yaml", "--tariff", tariff) == 0
    assert yaml.safe_load(capsys.readouterr().out)["co2_eq_emissions"]["geographical_location"] == "Sweden (SWE)"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--to", "docx"], "'html', 'wandb', 'figures', 'csv', 'md', 'latex', 'hf-yaml'"),
        (["--to", "md", "--target", "0.8"], "--to md states all that was spent"),
        (
            ["--to", "latex", "--curve", "to_reach"],
            "--to latex states all that was spent, and with --tables how they compare",
        ),
        (["--to", "hf-yaml", "--tables"], "--tables goes with --to md and --to latex"),
        (["--to", "md", "--training-type", "pre-training"], "--training-type is a field of --to hf-yaml"),
    ],
)
def test_what_a_statement_cannot_be_is_refused(
    runs: Path, args: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert call(monkeypatch, "report", runs, *args) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_compare_tells_costs_after_so_many_queries(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert call(monkeypatch, "compare", runs, "--queries", "1e6", "--json", out) == 0
    assert "Costs over queries are missing" in capsys.readouterr().out
    life = json.loads(out.read_text())["lifecycle"]
    assert [row["queries"] for row in life["at"]] == [1e6]
    assert life["columns"] == life["pairs"] == []
    assert all("inference" in run["missing"]["energy_j"] for run in life["runs"].values())
    assert "queries must be a finite number" in str(call(monkeypatch, "compare", runs, "--queries", "-1"))

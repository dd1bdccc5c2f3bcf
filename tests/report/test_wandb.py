"""A comparison as a W&B Report: its spec by wandb-workspaces' own model, and a real client against a server here."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import wandb_workspaces.reports.v2 as wr
from processes import TESTS, Script
from synthetic import zoo
from typer.testing import CliRunner
from wandb_server import ENTITY, KEY, WandbServer, leet_inspect
from wandb_workspaces.reports.v2 import internal

from lightning_costs import Comparison, compare, load_runs
from lightning_costs.cli import commands
from lightning_costs.report.wandb import publish
from lightning_costs.report.wandb.panels import bar_tables
from lightning_costs.report.wandb.publish import dry_run, split_project
from lightning_costs.report.wandb.view import find_view

pytestmark = pytest.mark.integration

TRAIN = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
out = Path(sys.argv[2])
import torch, wandb
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostMonitor
pl = namespace("lightning.pytorch")
torch.set_num_threads(1)
try:
    for name, optimizer, samples in (("sgd", "sgd", 64), ("adam", "adam", 96), ("small", "sgd", 32)):
        logger = pl.loggers.WandbLogger(project="p", name=name, id=name, save_dir=out)
        monitor = CostMonitor(save_dir=out / "costs", monitor="val/acc", mode="max", targets=[0.05, 0.99], name=name,
                              infer=False)
        model = classifier(pl, optimizer=optimizer)
        trainer(pl, monitor, logger=logger, max_epochs=3).fit(model, data(samples), data())
        wandb.finish()
finally:
    wandb.finish()
"""
REPORT = """
import os
from lightning_costs.cli.commands import app
os.chdir(out)
for source in (["wandb:tester/p"], ["costs", "--project", "tester/p"]):
    app(["report", *source, "--to", "wandb", "--title", "digits"], standalone_mode=False)
"""
SOMEBODY = "u5er-0f-th15"
OFFLINE = """
import subprocess
logger = pl.loggers.WandbLogger(project="q", name="offline", save_dir=out / "offline", mode="offline")
monitor = CostMonitor(save_dir=out / "others", monitor="val/acc", mode="max", targets=[0.05], infer=False)
try:
    trainer(pl, monitor, logger=logger, max_epochs=2).fit(classifier(pl), data(), data())
finally:
    wandb.finish()
(folder,) = (out / "offline" / "wandb").glob("offline-run-*")
os.environ["WANDB_MODE"] = "online"
subprocess.run([sys.executable, "-m", "wandb", "sync", str(folder)], check=True)
"""


def python(script: str, folder: Path, **environment: str) -> str:
    """Run a script in a process of its own, and return what it said."""
    here = {"WANDB_CONSOLE": "off", "WANDB_SILENT": "true", "HOME": str(folder), "WANDB_DIR": str(folder)}
    here |= {"USER": SOMEBODY, "LOGNAME": SOMEBODY}
    (folder / "train.py").write_text(script)
    done = Script(folder / "train.py", (TESTS, str(folder)), folder, {**os.environ, **here, **environment}).ended()
    assert done.code == 0, done.out[-1000:] + done.err[-3000:]
    return done.out


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WandbServer, Path]]:
    """A project with three trained runs, reported twice, and a report of another's under the same title."""
    folder = tmp_path_factory.mktemp("reported")
    with WandbServer() as server:
        server.views["theirs"] = {
            "id": "theirs", "type": "runs", "name": "x", "displayName": "digits", "description": "by hand",
            "spec": "{}", "project": {"id": "1", "name": "p", "entityName": ENTITY}, "user": {"name": "t"},
            "createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00",
        }  # fmt: skip
        (folder / "said").write_text(python("\n".join([TRAIN, REPORT, OFFLINE]), folder, **server.environment))
        yield server, folder


def reports(server: WandbServer) -> list[dict[str, Any]]:
    return [view for view in server.views.values() if view["type"] == "runs" and view["id"] != "theirs"]


def blocks_of(view: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(view["spec"])["blocks"]
    return found


def panels_of(view: dict[str, Any]) -> list[dict[str, Any]]:
    grids = [block["metadata"] for block in blocks_of(view) if block["type"] == "panel-grid"]
    return [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]


def keys_of(panel: dict[str, Any]) -> set[str]:
    """The keys of rows and summaries that a panel draws."""
    config = panel["config"]
    if panel["viewType"] == "Run History Line Plot":
        return {config["xAxis"], *config["metrics"]}
    if panel["viewType"] == "Scatter Plot":
        return {config["xAxis"].removeprefix("summary:"), config["yAxis"].removeprefix("summary:")}
    if panel["viewType"] == "Parallel Coordinates Plot":
        return {column["accessor"].removeprefix("summary:") for column in config["columns"]}
    return set()


def test_the_server_knows_every_operation_that_a_report_asks_for(project: tuple[WandbServer, Path]) -> None:
    server, _ = project
    assert server.unknown == []


def test_a_report_is_written_anew_and_never_over_somebody_elses(project: tuple[WandbServer, Path]) -> None:
    server, folder = project
    (report,) = reports(server)
    assert server.asked.count("upsertView") == 2
    assert server.views["theirs"]["spec"] == "{}"
    said = (folder / "said").read_text()
    assert said.count(f"wrote {server.url}/tester/p/reports/digits--{report['id']}") == 2
    assert said.count(f"view  {server.url}/tester/p?nw=costquality") == 2


def test_one_view_of_quality_against_costs_is_written_with_it(project: tuple[WandbServer, Path]) -> None:
    server, _ = project
    (view,) = [view for view in server.views.values() if view["type"] == "project-view"]
    section = json.loads(view["spec"])["section"]
    assert section["settings"]["xAxis"] == "cost/energy_j"
    panels = [p for s in section["panelBankConfig"]["sections"] for p in s["panels"]]
    assert len(panels) > 10
    for row in (next(row for row in server.history(key) if "val/acc" in row) for key in ("sgd", "adam", "small")):
        for panel in panels:
            assert {panel["config"]["xAxis"], *panel["config"]["metrics"]} <= row.keys()


def test_every_panels_x_and_y_exist_in_the_logged_rows(project: tuple[WandbServer, Path]) -> None:
    server, _ = project
    (report,) = reports(server)
    kinds: dict[str, int] = {}
    for panel in panels_of(report):
        kinds[panel["viewType"]] = kinds.get(panel["viewType"], 0) + 1
        for run in ("sgd", "adam", "small"):
            if panel["viewType"] == "Run History Line Plot":
                assert any(keys_of(panel) <= row.keys() for row in server.history(run)), panel["config"]
            else:
                assert keys_of(panel) <= server.summary(run).keys()
    assert kinds["Run History Line Plot"] > 10
    assert kinds["Scatter Plot"] > 5
    assert kinds["Parallel Coordinates Plot"] == 1
    assert kinds["Run Comparer"] == kinds["Media Browser"] == 1
    assert kinds["Vega2"] > 5


def test_bars_draw_tables_that_the_pages_run_holds(project: tuple[WandbServer, Path]) -> None:
    server, _ = project
    (report,) = reports(server)
    (page,) = [key for key, run in server.runs.items() if run.get("jobType") == "cost-report"]
    summary = server.summary(page)
    tables = {
        name.split("/")[-1]: json.loads(body) for name, body in server.files.items() if name.endswith(".table.json")
    }
    for panel in panels_of(report):
        if panel["viewType"] != "Vega2":
            continue
        fields = panel["config"]["fieldSettings"]
        keys = [
            argument["value"]
            for field in panel["config"]["userQuery"]["queryFields"][0]["fields"]
            for argument in field.get("args", ())
            if argument["name"] == "tableKey"
        ]
        (key,) = keys
        table = tables[summary[key]["path"].split("/")[-1]]
        assert set(fields.values()) <= set(table["columns"])
        assert {row[0] for row in table["data"]} == {"sgd", "adam", "small"}
    assert summary["report/page"]["path"].endswith(".html")
    (html,) = {body for name, body in server.files.items() if name == f"{page}/{summary['report/page']['path']}"}
    assert b"<!doctype html>" in html.lower()


def test_a_page_is_no_run_to_compare(project: tuple[WandbServer, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    server, _ = project
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    assert sorted(run.name for run in load_runs("wandb:tester/p")) == ["adam", "sgd", "small"]


def test_nothing_that_a_report_writes_names_the_machine_or_its_user(project: tuple[WandbServer, Path]) -> None:
    server, folder = project
    (page,) = [key for key, run in server.runs.items() if run.get("jobType") == "cost-report"]
    files = [body.decode(errors="replace") for name, body in server.files.items() if name.startswith(page)]
    config = {k: v for k, v in json.loads(server.runs[page]["config"]).items() if k != "_wandb"}
    written = "".join([*files, *(view["spec"] for view in server.views.values()), json.dumps(config)])
    for secret in (f'"{socket.gethostname()}"', str(folder), os.environ["HOME"], KEY, SOMEBODY):
        assert secret not in written


@leet_inspect
def test_synced_offline_runs_make_the_same_comparison(
    project: tuple[WandbServer, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, folder = project
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    online = compare(load_runs("wandb:tester/q")).as_dict()
    offline = compare(load_runs(folder / "offline" / "wandb")).as_dict()
    for part in ("curves", "targets", "fronts", "leaders", "best", "summary"):
        assert online[part] == offline[part], part
    assert online["curves"]["offline"]["energy_j"][0] > 0


@pytest.fixture(scope="module")
def eight() -> Comparison:
    return compare(zoo(8))


def test_a_spec_survives_the_round_trip_through_wandbs_own_model(eight: Comparison) -> None:
    spec = dry_run(eight, "me/zoo", title="Zoo")
    json.dumps(spec, allow_nan=False)
    read = wr.Report._from_model(internal.ReportViewspec.model_validate(spec["report"]))
    again = json.loads(read._to_model().model_dump_json(by_alias=True, exclude_none=True))
    assert (again["displayName"], again["project"]) == ("Zoo", spec["report"]["project"])
    before, after = (view["spec"]["blocks"] for view in (spec["report"], again))
    assert [block["type"] for block in after] == [block["type"] for block in before]
    panels = [
        [
            panel
            for block in blocks
            if block["type"] == "panel-grid"
            for panel in block["metadata"]["panelBankSectionConfig"]["panels"]
        ]
        for blocks in (before, after)
    ]
    assert [(p["viewType"], p["config"]) for p in panels[1]] == [(p["viewType"], p["config"]) for p in panels[0]]


def test_a_report_says_all_that_the_comparison_holds(eight: Comparison) -> None:
    spec = dry_run(eight, "me/zoo")
    text = json.dumps(spec["report"], ensure_ascii=False).replace("\\\\", "").replace("\\", "")
    for label in eight.labels:
        assert label.replace("_", "") in text.replace("_", "")
    for caution in eight.cautions:
        assert caution["text"][:30].replace("_", "") in text.replace("_", "")
    headings = [
        "".join(child.get("text", "") for child in block["children"])
        for block in spec["report"]["spec"]["blocks"]
        if block["type"] == "heading"
    ]
    assert headings[0] == "What was found"
    for heading in ("Pareto fronts", "Do indicators agree?", "Matched pairs", "Setups", "The page"):
        assert heading in headings
    assert sum(heading.startswith("Cost to reach") for heading in headings) == len(eight.targets)


def test_seeds_of_one_method_stand_together() -> None:
    runs = zoo(4)
    grouped = compare(runs, group="name~^(.)")
    text = json.dumps(dry_run(grouped, "me/zoo")["report"])
    assert "Medians by group to reach" in text


def test_of_very_many_runs_tables_show_those_that_stand_out() -> None:
    many = compare(zoo(30))
    blocks = dry_run(many, "me/zoo")["report"]["spec"]["blocks"]
    texts = [block["content"] for block in blocks if block["type"] == "markdown-block"]
    assert any(text.startswith("Of 30 runs, tables show 12: ") for text in texts)
    for text in texts:
        if text.startswith("|"):
            assert len(text.splitlines()[0].split(" | ")) <= 14


def test_runs_that_are_not_in_the_project_are_in_tables_and_page_alone(
    eight: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    with WandbServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        written = publish.publish(eight, "tester/empty", page="<!doctype html><title>page</title>")
        assert server.unknown == []
        (report,) = (view for view in server.views.values() if view["type"] == "runs")
    assert (written.drawn, written.url) == (
        0,
        f"{server.url}/tester/empty/reports/{report['displayName'].replace(' ', '-')}--{report['id']}",
    )
    assert {panel["viewType"] for panel in panels_of(report)} == {"Vega2", "Media Browser"}
    assert "None of the compared runs is in this project" in report["spec"]


def test_a_bar_of_a_run_that_did_not_reach_the_target_has_no_length(eight: Comparison) -> None:
    tables = bar_tables(eight)
    assert len(tables) == len(eight.targets)
    for rows, target in zip(tables.values(), eight.targets, strict=True):
        for row in rows:
            for name in set(row) - {"run"}:
                spend = target["costs"][name][row["run"]]
                assert row[name] == (spend["cost"] if spend["reached"] else None)


def test_titles_and_labels_of_users_mean_nothing_in_markdown() -> None:
    runs = zoo(2)
    runs[0] = replace(runs[0], header={**runs[0].header, "name": "<script>|*evil*"})
    spec = json.dumps(dry_run(compare(runs), "me/zoo", title="x" * 300)["report"])
    assert "<script>|*evil*" not in spec
    assert "&lt;script&gt;" in spec
    assert json.loads(spec)["displayName"] == "x" * 128


def test_a_dry_run_asks_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a dry run connects to nobody"))
    (tmp_path / "table.csv").write_text("name,acc,params\na,0.5,10\nb,0.6,20\n")
    monkeypatch.chdir(tmp_path)
    options = ["--monitor", "acc", "--mode", "max", "--to", "wandb", "--dry-run", "--project", "me/p"]
    done = CliRunner().invoke(commands.app, ["report", "table.csv", *options])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "report.wandb.json").read_text())["report"]["project"] == {
        "name": "p",
        "entityName": "me",
    }


def test_what_belongs_to_wandb_alone_is_refused_elsewhere(tmp_path: Path) -> None:
    done = CliRunner().invoke(commands.app, ["report", "costs", "--to", "html", "--dry-run"])
    assert done.exit_code == 2
    done = CliRunner().invoke(commands.app, ["report", "costs", "--to", "wandb"])
    assert done.exit_code == 2
    assert "--project" in done.output
    with pytest.raises(ValueError, match="expected a W&B project as entity/project, got 'alone'"):
        split_project("alone")


@pytest.mark.parametrize(
    "trouble", [{"WANDB_API_KEY": "1" * 40}, {"WANDB_BASE_URL": "http://127.0.0.1:9"}], ids=["wrong key", "no server"]
)
def test_a_report_that_cannot_be_written_is_one_line(
    eight: Comparison, monkeypatch: pytest.MonkeyPatch, trouble: dict[str, str]
) -> None:
    monkeypatch.setattr(publish, "_WAIT_S", 2)
    with WandbServer() as server:
        for name, value in {**server.environment, **trouble}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ValueError, match=r"the report could not be written to tester/p: .*`wandb login`") as told:
            publish.publish(eight, "tester/p")
        assert server.views == {}
    assert len(str(told.value).splitlines()) == 1


def test_without_the_client_the_extra_is_named(eight: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(
        ImportError, match=r"a W&B Report needs wandb_workspaces: pip install 'lightning-costs\[wandb\]'"
    ):
        dry_run(eight, "me/zoo")


def test_a_view_that_another_version_wrote_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb_workspaces.workspaces import internal

    def raises(words: str) -> None:
        def asked(*_: Any) -> None:
            raise ValueError(words)

        monkeypatch.setattr(internal, "get_view_dict", asked)

    raises("Workspace `costquality` not found in project `p`")
    assert find_view("e", "p") is None
    raises("spec version 99")
    with pytest.raises(ValueError, match="spec version 99"):
        find_view("e", "p")

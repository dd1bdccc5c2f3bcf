"""A real W&B client, online, against a server on this machine: what runs hold there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from processes import TESTS, Script
from processes import run as run_processes
from wandb_server import ENTITY, KEY, WandbServer

from lightning_costs import compare, load_runs
from lightning_costs.run.record import RunRecord

pytestmark = pytest.mark.integration

SOMEBODY = "u5er-0f-th15"
TRAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
out = Path(sys.argv[2])
import torch, wandb
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostMonitor, Recorder
pl = namespace("lightning.pytorch")
torch.set_num_threads(1)

def fit(name, logger, *callbacks, targets=(0.0, 2.0), ckpt_path=None, epochs=2, **options):
    monitor = CostMonitor(save_dir=out / "costs", monitor="val/acc", mode="max", targets=targets, name=name,
                          infer=False)
    trainer(pl, monitor, *callbacks, logger=logger, max_epochs=epochs, **options).fit(
        classifier(pl), data(), data(), ckpt_path=ckpt_path)

WandbLogger = pl.loggers.WandbLogger
try:
    for epochs, last in ((2, None), (4, out / "resumed" / "last.ckpt")):
        logger = WandbLogger(project="p", id="resumed", resume="allow", save_dir=out)
        keeps = pl.callbacks.ModelCheckpoint(out / "resumed", save_last=True)
        fit("resumed", logger, keeps, ckpt_path=last, epochs=epochs, enable_checkpointing=True)
        wandb.finish()
    both = [WandbLogger(project="p", id="prefixed", prefix="mine", save_dir=out), pl.loggers.CSVLogger(out, "csv")]
    fit("prefixed", both)
    wandb.finish()
    own = wandb.init(project="p", id="existing", dir=out)
    keeps = pl.callbacks.ModelCheckpoint(out / "kept", save_top_k=1)
    monitor = CostMonitor(save_dir=out / "costs", monitor="val/acc", mode="max", name="existing", infer=False)
    trainer(pl, monitor, keeps, logger=WandbLogger(experiment=own, log_model="all"), enable_checkpointing=True).fit(
        classifier(pl), data(), data())
    wandb.finish()
    run = wandb.init(project="p", id="plain", dir=out)
    module = torch.nn.Linear(4, 2)
    with Recorder(module=module, monitor="acc", mode="max", targets=[0.5], name="plain", save_dir=out / "costs",
                  wandb=run) as recorder:
        for epoch in range(3):
            for batch in data(32):
                recorder.step(batch)
            recorder.log_metrics({"acc": 0.3 * epoch})
            run.log({"acc": 0.3 * epoch, **recorder.row()})
    run.finish()
    from wandb.agents.pyagent import Agent
    Agent.HEARTBEAT_SLEEP_SECONDS = 0.1
    metric = {"name": "cost/to_target_energy_j", "goal": "minimize"}
    sweep = wandb.sweep({"method": "grid", "metric": metric, "parameters": {"target": {"values": [0.0, 2.0]}}},
                        project="p")
    def trial():
        logger = WandbLogger(project="p", save_dir=out)
        fit("trial", logger, targets=[logger.experiment.config["target"]])
        wandb.finish()
    wandb.agent(sweep, trial, count=2, project="p", entity="tester")
    run = wandb.init(project="p", mode="disabled")
    fit("disabled", WandbLogger(experiment=run, save_dir=out))
finally:
    wandb.finish()
"""


class Logged(NamedTuple):
    """What the server has after all the runs of `TRAIN`, and the runs' folders, by name."""

    server: WandbServer
    folders: dict[str, RunRecord]
    said: str
    path: Path


def python(script: str, folder: Path, server: WandbServer, timeout_s: float = 400, **environment: str) -> str:
    """Run a script in a process of its own against the server, and return what it said."""
    (folder / "train.py").write_text(script)
    environment = {**os.environ, **server.environment, "WANDB_CONSOLE": "off", **environment}
    done = Script(folder / "train.py", (TESTS, str(folder)), folder, environment).ended(timeout_s)
    assert done.code == 0, done.err[-4000:]
    return done.out + done.err


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    folder = tmp_path_factory.mktemp("online")
    with WandbServer() as server:
        server.jobs = [
            {"type": "run", "run_id": name, "args": {"target": {"value": target}}}
            for name, target in (("trial1", 0.0), ("trial2", 2.0))
        ]
        said = python(
            TRAIN,
            folder,
            server,
            WANDB_SILENT="true",
            USER=SOMEBODY,
            LOGNAME=SOMEBODY,
            HOME=str(folder),
            WANDB_DIR=str(folder),
        )
        yield Logged(server, {run.name: run for run in load_runs(folder / "costs")}, said, folder)


def test_the_server_knows_every_operation_that_the_client_asks_for(logged: Logged) -> None:
    assert logged.server.unknown == []
    assert set(logged.server.runs) == {"resumed", "prefixed", "existing", "plain", "trial1", "trial2"}


@pytest.mark.parametrize(
    ("key", "before", "metric"),
    [("resumed", "", "val/acc"), ("prefixed", "mine-", "val/acc"), ("existing", "", "val/acc"), ("plain", "", "acc")],
)
def test_rows_of_results_hold_the_complete_costs_of_the_run_folder(
    logged: Logged, key: str, before: str, metric: str
) -> None:
    run = logged.folders[key]
    declared = run.header["indicators"]
    points = run.points.filter(run.points["trigger"] == "evaluate").to_dicts()
    loggers = [row for row in logged.server.history(key) if before + metric in row]
    assert len(loggers) == len(points) > 1
    for row, point in zip(loggers, points, strict=True):
        costs = {name: value for name, value in row.items() if name.startswith(f"{before}cost/")}
        assert costs == {
            f"{before}cost/{column}": point[column]
            for column in declared
            if declared[column]["kind"] != "static" and point[column] is not None
        }
        if key != "plain":
            assert row["trainer/global_step"] == point["step"]
    by_us = [row for row in logged.server.history(key) if not any("acc" in name or "loss" in name for name in row)]
    assert by_us == [], "no row of our own"


@pytest.mark.parametrize(("key", "before"), [("resumed", ""), ("prefixed", "mine-"), ("existing", ""), ("plain", "")])
def test_the_headline_has_panels_and_the_other_costs_are_hidden(logged: Logged, key: str, before: str) -> None:
    hidden = 2  # the option's number in the client's record
    told = logged.server.defined(key)
    declared = logged.folders[key].header["indicators"]
    rest = told.get(f"{before}cost/*")  # wandb below 0.31 sends each metric that the pattern covers instead
    costs = {name for row in logged.server.history(key) for name in row if name.startswith(f"{before}cost/")}
    shown = {name for name, entry in told.items() if name.startswith(f"{before}cost/") and hidden not in entry["6"]}
    assert all(hidden in (told.get(name) or rest)["6"] for name in costs - shown)
    assert shown == {
        f"{before}cost/{name}" for name, row in declared.items() if row["headline"] and row["kind"] != "static"
    }


@pytest.mark.parametrize(("key", "before"), [("resumed", ""), ("prefixed", "mine-"), ("plain", "")])
def test_the_summary_holds_flat_finals_best_quality_and_cost_to_each_target(
    logged: Logged, key: str, before: str
) -> None:
    run, summary = logged.folders[key], logged.server.summary(key)
    for column, amount in run.final.items():
        assert summary.get(f"{before}cost/{column}") == amount, column
    compared = compare([run])
    (row,) = compared.runs
    assert summary[f"{before}cost/best_quality"] == row["best_quality"]
    assert summary[f"{before}cost/best_step"] == row["best_step"]
    spends = compared.targets[0]["costs"]
    ours = {
        name.removeprefix(f"{before}cost/to_target_"): value
        for name, value in summary.items()
        if name.startswith(f"{before}cost/to_target_")
    }
    assert ours == {name: spend[key]["cost"] for name, spend in spends.items() if spend[key]["cost"] is not None}
    assert ours["samples"] > 0
    assert summary[f"{before}cost/target_reached"] is True
    assert not any(name.startswith("cost/to_target_2") for name in summary), "not reached: no number"
    if key != "plain":
        assert summary[f"{before}cost/target_2_reached"] is False
    assert not any("." in name for name in summary if "cost/" in name)


def test_the_config_says_what_was_measured_and_names_nobody(logged: Logged) -> None:
    for key in ("resumed", "prefixed", "existing", "plain"):
        cost = logged.server.config(key)["cost"]
        run = logged.folders[key]
        assert cost["run_id"] == run.id
        assert (cost["monitor"], cost["mode"], cost["targets"]) == tuple(
            run.header[name] for name in ("monitor", "mode", "targets")
        )
        assert cost["setup"]["hardware"] == run.header["setup"]["hardware"]
        ours = json.dumps(cost) + json.dumps({k: v for k, v in logged.server.summary(key).items() if "cost/" in k})
        for secret in (str(logged.path), f'"{socket.gethostname()}"', os.environ["HOME"], KEY, SOMEBODY):
            assert secret not in ours


def test_checkpoints_that_a_logger_uploads_are_beside_the_costs(logged: Logged) -> None:
    kinds = {made["artifactTypeName"] for made in logged.server.artifacts.values()}
    assert "model" in kinds


def test_a_resumed_run_goes_on_where_it_was(logged: Logged) -> None:
    loggers = logged.server.history("resumed")
    for name in ("_step", "trainer/global_step", "cost/total_s", "cost/samples", "cost/flop", "cost/epochs"):
        values = [row[name] for row in loggers if name in row]
        assert len(values) > 4
        assert values == sorted(values), name
    assert len(logged.folders["resumed"].header["attempts"]) == 2
    assert logged.server.summary("resumed")["cost/epochs"] == 4


def test_training_makes_no_view_and_asks_for_none(logged: Logged) -> None:
    assert logged.server.views == {}
    assert not [asked for asked in logged.server.asked if "view" in asked.lower() and "viewer" not in asked.lower()]
    assert not [name for key in logged.server.runs for name in logged.server.summary(key) if name.endswith("cost/view")]


def test_a_sweep_can_minimise_the_cost_to_a_target_in_its_config(logged: Logged) -> None:
    (told,) = logged.server.sweeps.values()
    assert "name: cost/to_target_energy_j" in told
    reached, missed = logged.server.summary("trial1"), logged.server.summary("trial2")
    assert reached["cost/to_target_energy_j"] > 0
    assert (reached["cost/target_reached"], missed["cost/target_reached"]) == (True, False)
    assert "cost/to_target_energy_j" not in missed, "a trial that missed must not look cheap"
    for key, target in (("trial1", 0.0), ("trial2", 2.0)):
        config = logged.server.config(key)
        assert (config["target"], config["cost"]["targets"]) == (target, [target])


def test_a_disabled_run_costs_nobody_anything(logged: Logged) -> None:
    assert logged.folders["disabled"].header["status"] == "finished"
    assert "could not be" not in logged.said


def test_logged_runs_compare_as_their_folders_do(logged: Logged, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in logged.server.environment.items():
        monkeypatch.setenv(name, value)
    online = {run.id: run for run in load_runs(f"wandb:{ENTITY}/p")}
    for key in ("resumed", "prefixed", "existing"):
        there, here = compare([online[key]]), compare([logged.folders[key]])
        assert (there.monitor, there.mode) == (here.monitor, here.mode)
        assert there.runs[0]["best_quality"] == here.runs[0]["best_quality"]
        (curve,), (folder,) = there.curves.values(), here.curves.values()
        for name in ("energy_j", "flop", "samples", "total_s"):
            assert curve[name] == folder[name]
            assert there.runs[0]["final"][name] == here.runs[0]["final"][name], name
        assert [row["target"] for row in there.targets] == [row["target"] for row in here.targets]


_TWO = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
out = Path(sys.argv[2])
import torch, wandb
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostMonitor
pl = namespace("lightning.pytorch")
torch.set_num_threads(1)
logger = pl.loggers.WandbLogger(project="two", id="two", save_dir=out)
monitor = CostMonitor(save_dir=out / "costs", monitor="val/acc", mode="max", infer=False)
try:
    trainer(pl, monitor, logger=logger, devices=2, strategy="ddp", max_epochs=2).fit(classifier(pl), data(), data())
finally:
    wandb.finish()
"""


def test_two_ranks_are_one_run_with_the_totals_of_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WandbServer() as server:
        for name, value in {**server.environment, "WANDB_CONSOLE": "off"}.items():
            monkeypatch.setenv(name, value)
        run_processes(_TWO, tmp_path, 2, timeout_s=90)
        assert set(server.runs) == {"two"}
        (run,) = load_runs(tmp_path / "costs")
        loggers = [row for row in server.history("two") if "val/acc" in row]
        assert [row["cost/samples"] for row in loggers] == [64.0, 128.0]
        assert server.summary("two")["cost/samples"] == run.final["samples"] == 128.0
        assert server.unknown == []


SLOW = """
import logging, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
out = Path(sys.argv[2])
import torch, wandb
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostMonitor
pl = namespace("lightning.pytorch")
torch.set_num_threads(1)
logging.basicConfig(level=logging.INFO)

class Tell(pl.Callback):
    def on_validation_epoch_end(self, trainer, pl_module):
        if not trainer.sanity_checking and trainer.current_epoch == 0:
            print("first epoch", flush=True)
            sys.stdin.readline()

monitor = CostMonitor(save_dir=out / "costs", monitor="val/acc", mode="max", infer=False)
logger = pl.loggers.WandbLogger(project="p", id="gone", save_dir=out)
trainer(pl, monitor, Tell(), logger=logger, max_epochs=3).fit(classifier(pl), data(), data())
print("trained", flush=True)
"""


@pytest.mark.slow
def test_a_server_that_dies_mid_run_costs_no_training_and_no_run_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"WANDB_FINISH_TIMEOUT": "1", "WANDB_CONSOLE": "off", "HOME": str(tmp_path), "WANDB_DIR": str(tmp_path)}
    with WandbServer() as server:
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW, TESTS, str(tmp_path)],
            env={**os.environ, **server.environment, **quick}, cwd=tmp_path, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if "first epoch" in line:
                break
    try:
        said, _ = process.communicate("\n", timeout=400)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said[-3000:]
    assert "trained" in said
    (run,) = load_runs(tmp_path / "costs")
    assert run.header["status"] == "finished"
    assert run.points.filter(run.points["trigger"] == "evaluate").height == 3
    assert run.final["samples"] == 192
    assert "Traceback" not in said


def test_a_resumed_run_whose_costs_begin_anew_is_told(caplog: pytest.LogCaptureFixture) -> None:
    from lightning_costs.storage import loggers

    class Run:
        resumed = True
        config: Any = type("Config", (), {"update": lambda self, *_, **__: None})()

        def define_metric(self, *_: Any, **__: Any) -> None: ...

    loggers.begin_run(Run(), {}, {"attempts": [{}]})
    assert "the W&B run is resumed, but its costs begin at 0" in caplog.text
    caplog.clear()
    loggers.begin_run(Run(), {}, {"attempts": [{}, {}]})
    assert caplog.text == ""

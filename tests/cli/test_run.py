"""`lightning-costs run`: scripts as people write them, in processes of their own, measured without a change to them."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import command_line
import pytest
import run_scripts
from processes import Script

from lightning_costs import load_runs
from lightning_costs.integrations.lightning import entry_points
from lightning_costs.integrations.lightning.options import RunOptions
from lightning_costs.run.goodput import goodput
from lightning_costs.run.record import RunRecord

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PYTHON = sys.executable
#: The command, whether or not its script is installed.
COSTS = [PYTHON, "-c", "from lightning_costs.cli.commands import main; main()"]


@dataclass(frozen=True)
class Done:
    """A command that ended, in the folder that was its own."""

    folder: Path
    code: int
    out: str
    err: str

    def runs(self, folder: str = "costs") -> list[RunRecord]:
        return load_runs(self.folder / folder)

    @property
    def run(self) -> RunRecord:
        (run,) = self.runs()
        return run


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Entry points as `pip install` would leave them; in front of the path, they hide those of an installation."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = tmp_path_factory.mktemp("site")
    info = site / f"lightning_costs-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lightning-costs\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {where}\n" for name, where in those.items()) for group, those in groups
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    private = ("LIGHTNING_COSTS", "WANDB_", "SLURM_", "XDG_CONFIG")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(private)}
    home = tmp_path_factory.mktemp("home")
    return {**kept, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "HOME": str(home), "OMP_NUM_THREADS": "1"}


Call = Callable[..., Done]


@pytest.fixture(scope="module")
def call(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Call:
    """Runs a command in a folder that holds `train.py`."""

    def call(*command: str, script: str = "", text: str | None = None, **variables: str) -> Done:
        folder = tmp_path_factory.mktemp("run")
        (folder / "train.py").write_text(script)
        (folder / "tariff.toml").write_text("gco2e_per_kwh = 100.0\n")
        done = subprocess.run(
            command, cwd=folder, env=environment | variables, input=text, capture_output=True, text=True, timeout=400,
            check=False,
        )  # fmt: skip
        return Done(folder, done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def measured(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Call:
    """Runs `train.py` as `lightning-costs run OPTIONS -- python train.py` would, forked and without the launcher."""

    def measured(*options: str, script: str, arguments: tuple[str, ...] = ()) -> Done:
        folder = tmp_path_factory.mktemp("run")
        (folder / "train.py").write_text(script)
        (folder / "tariff.toml").write_text("gco2e_per_kwh = 100.0\n")
        variables: dict[str, str] = {}
        monkeypatch.chdir(folder)
        monkeypatch.setattr("lightning_costs.cli.run_process.run", lambda _, given, __: variables.update(given))
        assert command_line.call(monkeypatch, "run", *options, "--", PYTHON) in (0, None)
        assert variables["LIGHTNING_COSTS"] == "1"
        done = Script(folder / "train.py", arguments, folder, environment | variables).ended()
        assert done.code is not None
        return Done(folder, done.code, done.out, done.err)

    return measured


# Three scripts, unmodified ----------------------------------------------------------------------------------


def test_a_gan_with_manual_optimization_is_measured(measured: Call) -> None:
    done = measured(script=run_scripts.GAN)
    assert done.code == 0, done.err[-3000:]
    run = done.run
    assert run.header["status"] == "finished"
    assert run.final["steps"] == 12
    assert run.final["optimizer_steps"] == 24
    assert run.final["samples"] == 96
    assert run.final["params"] == 8 * 32 + 32 + 32 * 16 + 16 + 16 * 32 + 32 + 32 + 1
    assert run.final["flop"]


def test_a_text_classifier_with_dict_batches_is_measured_under_its_checkpoints_metric(measured: Call) -> None:
    done = measured("--log-every-n-steps", "1", script=run_scripts.TEXT)
    assert done.code == 0, done.err[-3000:]
    run = done.run
    assert run.final["samples"] == 64
    assert run.final["tokens"] == 64 * 4  # padded to the longest row of each batch
    assert (run.header["monitor"], run.header["mode"]) == ("val_acc", "max")
    assert run.points["val_acc"].drop_nulls().len() == 2
    assert run.points.filter(run.points["trigger"] == "train").height == 8


@pytest.mark.parametrize(("key", "samples"), [("1", 96), ("labels", None)])
def test_a_key_tells_the_samples_of_a_script_that_stays_as_it_is(
    measured: Call, key: str, samples: float | None
) -> None:
    script = """
import torch
import lightning.pytorch as pl
from lightning.pytorch.demos.boring_classes import BoringModel


class Batches:
    def __iter__(self):
        return iter([(torch.rand(40, 32), torch.rand(8))] * 6)


class Model(BoringModel):
    def training_step(self, batch, batch_idx):
        return self.layer(batch[0]).sum()


if __name__ == "__main__":
    pl.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False).fit(Model(), Batches())
"""
    done = measured("--batch-size-key", key, script=script)
    assert done.code == 0
    assert done.run.final["samples"] == samples
    said = done.run.header["methods"] if samples else done.run.header["missing"]
    assert f"{key!r}" in said["samples"]


def test_a_lightning_cli_script_takes_its_options_and_ours(measured: Call) -> None:
    ours = "--name cli --monitor val/loss --mode min --target 0.5 --target 0.25 --tariff tariff.toml"
    its = (
        "fit --trainer.max_epochs 1 --trainer.accelerator cpu --trainer.logger false --trainer.limit_train_batches 4 "
        "--trainer.enable_progress_bar false --model.lr 0.01"
    )
    done = measured(*ours.split(), "--save-dir", "out", script=run_scripts.CLI, arguments=tuple(its.split()))
    assert done.code == 0, done.err[-3000:]
    (run,) = done.runs("out")  # beside the script, which went elsewhere
    assert run.name == "cli"
    assert run.header["targets"] == [0.5, 0.25]
    assert (run.header["monitor"], run.header["mode"]) == ("val/loss", "min")
    assert run.final["steps"] == 4
    assert run.final["co2e_g"] == pytest.approx((run.final["energy_j"] or 0.0) / 3.6e6 * 100)
    assert run.header["missing"]["infer_latency_p50_s"] == "not asked for: infer=False"


# What the script prints and logs ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lightning.pytorch", pytest.param("pytorch_lightning", marks=pytest.mark.slow)])
def test_what_a_script_prints_logs_and_shows_is_its_own(call: Call, name: str) -> None:
    script = run_scripts.QUIET.format(name=name)
    plain = call(PYTHON, "-W", "ignore", "train.py", script=script)
    done = call(*COSTS, "run", "--", PYTHON, "-W", "ignore", "train.py", script=script)
    assert done.code == 0, done.err[-3000:]
    assert done.out == plain.out
    assert "What run-" in done.err
    assert "next: lightning-costs show" in done.err
    assert "lightning-costs: " not in done.err
    assert "Trainer.fit" not in done.err, "the script silenced Lightning"
    assert done.run.final["steps"] == 8
    metrics, row, bar, imported = json.loads(plain.out)
    assert metrics == ["train/loss", "val/loss"]
    assert imported == [name.partition(".")[0]]
    assert "train/loss" in row
    assert bar == ["v_num"]


def test_what_is_asked_for_goes_to_the_scripts_loggers_and_metrics(measured: Call) -> None:
    script = run_scripts.QUIET.format(name="lightning.pytorch")
    for log, curves in (("complete", True), ("headline", False)):
        done = measured("--log", log, script="import warnings\nwarnings.simplefilter('ignore')\n" + script)
        metrics, row, bar, _ = json.loads(done.out)
        assert {"cost/energy_j", "cost/flop"} <= set(metrics) & set(row)
        assert ("cost/optimizer_steps" in row) == curves
        assert "cost" in bar


def test_a_warning_that_python_shows_once_is_shown_once(measured: Call) -> None:
    """In Fabric the meters open at the first training batch: what a script warned of before is not warned of again."""
    begins = "        for step, (x, y) in enumerate(train):\n"
    script = (
        run_scripts.FABRIC.replace(
            "def main(", "def warn():\n    import warnings\n    warnings.warn('mine')\n\n\ndef main("
        )
        .replace("    for epoch in", "    warn()\n    for epoch in")
        .replace(begins, f"{begins}            warn()\n")
    )
    done = measured(script=script)
    assert done.code == 0, done.err[-3000:]
    assert done.err.count("UserWarning: mine") == 1


# A budget ---------------------------------------------------------------------------------------------------


def test_a_script_without_an_end_ends_where_its_budget_is_used_up(measured: Call) -> None:
    limits = ("--budget", "steps=25", "--budget", "energy_j=3.6e9")
    done = measured(*limits, "--prometheus", "costs.prom", script=run_scripts.ENDLESS)
    assert "lightning_costs_steps_total{" in (done.folder / "costs.prom").read_text()
    assert done.code == 0, done.err[-3000:]
    assert done.run.final["steps"] == 25
    assert done.run.header["stopped"]["column"] == "steps"
    assert done.run.header["budget"] == {"limits": {"steps": 25.0, "energy_j": 3.6e9}}
    assert "the budget of 25 steps (steps) is used up: 25 steps at step 24; training stops" in done.err
    assert (done.folder / "checkpoints" / "budget-epoch=0-step=25.ckpt").exists()


def test_a_fabric_script_is_told_that_nobody_can_stop_its_loop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in RunOptions(budget={"steps": 3.0}).as_environment().items():
        monkeypatch.setenv(name, value)
    log = logging.getLogger("lightning_costs")  # of this process: it gets its own way to stderr, and gives it back
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", True)
    (monitor,) = entry_points.fabric()
    assert not hasattr(monitor.options, "budget")
    told = capsys.readouterr().err
    assert told.startswith(
        "lightning-costs: --budget is not enforced in a Fabric script: only its own loop can stop it"
    )


# Fabric -----------------------------------------------------------------------------------------------------

_FORWARD_FLOP = 2 * (16 * 32 + 32 * 4)
_STEP_FLOP = 3 * _FORWARD_FLOP - 2 * 16 * 32  # the first layer has no input gradient


def test_a_fabric_script_leaves_a_run_whose_counts_are_exact_and_its_standard_output_and_imports_are_its_own(
    call: Call,
) -> None:
    command = [*COSTS, "run", "--monitor", "val/acc", "--mode", "max", "--infer", "auto", "--", PYTHON, "train.py"]
    imported = "{'lightning', 'lightning_fabric', 'pytorch_lightning'} & set(sys.modules)"
    done = call(*command, script=run_scripts.FABRIC + f"    print(*({imported}))\n")
    assert done.code == 0, done.err[-3000:]
    assert done.out == "lightning\n"
    assert "next: lightning-costs show" in done.err
    run = done.run
    assert (run.header["status"], run.source) == ("finished", "points.parquet")
    final = run.final
    assert [final[name] for name in ("steps", "batches", "epochs", "samples")] == [24, 24, 3, 192]
    assert final["params"] == 16 * 32 + 32 + 32 * 4 + 4
    assert final["flop"] == 192 * _STEP_FLOP
    assert final["evaluate_flop"] == 3 * 64 * _FORWARD_FLOP
    assert final["opt_state_bytes"] == 4 * final["params"]
    assert final["infer_latency_p50_s"] is not None
    assert all((final[f"{account}_s"] or 0.0) > 0 for account in ("setup", "train", "evaluate", "checkpoint", "other"))
    assert run.points["val/acc"].drop_nulls().len() == 3
    assert run.header["setup"]["dataset_samples"] == 64


def test_a_fabric_script_that_fails_keeps_what_it_spent(measured: Call) -> None:
    script = run_scripts.FABRIC.replace("lightning.fabric", "lightning_fabric")
    done = measured(script=script, arguments=("--fail",))
    assert done.code == 1
    assert "the data is broken" in done.err
    assert (done.run.header["status"], done.run.source) == ("failed", "points.parquet")
    assert done.run.final["samples"] == 20 * 8
    assert done.run.final["epochs"] == 2
    assert done.run.points["val/acc"].drop_nulls().len() == 2  # logged after an evaluation: nobody named it


# Several monitors, several processes ------------------------------------------------------------------------


def test_each_fit_is_a_run_and_a_trainer_with_a_monitor_of_its_own_gets_no_second_one(measured: Call) -> None:
    done = measured(script=run_scripts.SEVERAL)
    assert done.code == 5, done.err[-3000:]
    for folder in ("costs", "own"):
        runs = done.runs(folder)
        assert [run.final["steps"] for run in runs] == [4, 4], folder
    first, second = sorted(done.runs(), key=lambda run: str(run.header["created"]))
    setups_s = [run.final["setup_s"] or 0.0 for run in (second, first)]
    assert 0 < setups_s[0] < setups_s[1]  # it begins where the first one ended


@pytest.mark.slow
def test_a_script_that_launches_itself_again_leaves_one_run_and_stops_as_one(call: Call) -> None:
    done = call(*COSTS, "run", "--budget", "steps=4", "--", PYTHON, "train.py", script=run_scripts.DDP)
    assert done.code == 0, done.err[-3000:]
    assert done.run.header["setup"]["processes"] == 2
    assert done.run.final["steps"] == 4
    assert done.err.count("is used up") == 1


@pytest.mark.slow
def test_processes_of_torchrun_leave_one_run(call: Call) -> None:
    script = run_scripts.FABRIC.replace("devices=1", 'devices=2, strategy="ddp"')
    torchrun = [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"]
    done = call(*COSTS, "run", "--", *torchrun, "train.py", script=script)
    assert done.code == 0, done.err[-3000:]
    assert done.run.header["setup"]["processes"] == 2
    assert done.run.final["steps"] == 12
    assert done.run.points["val/acc"].drop_nulls().len() == 3


# The environment without us ---------------------------------------------------------------------------------


def test_an_installation_changes_no_trainer_and_imports_nothing_there(call: Call) -> None:
    done = call(PYTHON, "train.py", script=run_scripts.INERT)
    assert done.code == 0, done.err[-3000:]
    made, loaded = done.out.splitlines()[-2:]
    assert "Monitor" not in made
    inert = ["", ".integrations", ".integrations.lightning", ".integrations.lightning.entry_points"]
    assert loaded.split() == [f"lightning_costs{module}" for module in inert]


def test_options_that_cannot_be_read_are_said_once_and_break_no_trainer(
    environment: dict[str, str], tmp_path: Path
) -> None:
    ours_are_errors = "import warnings\nwarnings.filterwarnings('error', '', UserWarning, 'lightning_costs')\n"
    (tmp_path / "train.py").write_text(ours_are_errors + run_scripts.INERT)
    options = {"LIGHTNING_COSTS": "1", "LIGHTNING_COSTS_OPTIONS": '{"mode": "most"}'}
    done = Script(tmp_path / "train.py", (), tmp_path, environment | options).ended()
    assert done.code == 0, done.err[-3000:]
    assert "Monitor" not in done.out
    assert done.err.count("costs are not measured; training continues") == 1
    assert "mode must be 'max' or 'min', got 'most'" in done.err


def test_the_factories_are_there_for_both_namespaces_and_are_inert() -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    trainers = {"lightning.pytorch.callbacks_factory", "pytorch_lightning.callbacks_factory"}
    assert set(groups) == trainers | {"lightning.fabric.callbacks_factory", "lightning_fabric.callbacks_factory"}
    code = (
        "import sys; before = set(sys.modules)\n"
        "from lightning_costs.integrations.lightning import entry_points\n"
        "assert [entry_points.trainer(), entry_points.fabric(), entry_points.lightning_fabric()] == [[], [], []]\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert {name.partition(".")[0] for name in loaded} <= {"lightning_costs"} | set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"colour": 1}', "has no option 'colour'; it has monitor, mode"),
        ('{"targets": "0.5"}', "targets in LIGHTNING_COSTS_OPTIONS must be a JSON array"),
        ('{"targets": ["high"]}', "targets must be finite numbers, got 'high'"),
        ('{"monitor": 3, "mode": "max"}', "monitor must be a text, got 3"),
        ('{"log_every_n_steps": -1}', "log_every_n_steps must be a whole number of at least 0, got -1"),
        ('{"log": "all"}', "log must be 'complete', 'headline' or 'none', got 'all'"),
        ('{"infer": "maybe"}', "infer must be 'auto', true or false"),
        ('{"tariff": {"colour": 1}}', "a tariff has no field 'colour'"),
        ('{"budget": ["steps"]}', "budget in LIGHTNING_COSTS_OPTIONS must be a JSON object"),
        ('{"prometheus": "costs.txt"}', "expected a file whose name ends in .prom"),
        ('{"budget": {"steps": -1}}', "the limit of 'steps' must be a finite number above 0, got -1"),
    ],
)
def test_what_run_never_writes_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunOptions.from_environment({"LIGHTNING_COSTS_OPTIONS": text})


def test_options_arrive_as_they_left() -> None:
    options = RunOptions(
        monitor="val/acc", mode="max", targets=(0.5, 0.75), name="a name", infer=False, tariff={"pue": 1.2},
        budget={"steps": 5.0}, batch_size_key="0.image", prometheus="costs.prom",
    )  # fmt: skip
    assert RunOptions.from_environment(options.as_environment()) == options
    assert options.arguments()["batch_size_fn"](({"image": range(7)},)) == 7
    assert [sink.path.name for sink in options.arguments()["sinks"]] == ["costs.prom"]
    assert RunOptions.from_environment({}) == RunOptions()


# The command is the command ---------------------------------------------------------------------------------


def test_streams_and_exit_code_are_the_commands(call: Call) -> None:
    done = call(*COSTS, "run", "bash", "-c", "cat; exit 7", text="from a pipe")
    assert (done.code, done.out) == (7, "from a pipe")
    assert done.err.startswith("lightning-costs: no run was recorded in ")
    assert done.err.count("\n") == 1
    assert not (done.folder / "costs").exists()


def test_a_script_that_is_not_there_is_told_by_its_exit_code_and_no_guesses(call: Call) -> None:
    done = call(*COSTS, "run", "--", PYTHON, "nosuch.py")
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert last == f"lightning-costs: no run was recorded in {done.folder / 'costs'}: {PYTHON} ended with exit code 2"


@pytest.mark.slow
def test_a_run_that_goes_on_in_its_folder_counts_attempts_that_die_before_a_batch_and_no_trial_of_one_batch(
    call: Call, tmp_path: Path
) -> None:
    """So are attempts that die while they import, before the first batch ever and between two attempts."""
    script = run_scripts.QUIET.format(name="lightning.pytorch")
    dies = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    command = (*COSTS, "run", "--save-dir", str(tmp_path), "--", PYTHON, "train.py")
    for deaths in (2, 1):
        for _ in range(deaths):
            assert call(*command, script=dies, LIGHTNING_COSTS_RUN_ID="one").code == -signal.SIGKILL
        assert call(*command, script="", LIGHTNING_COSTS_RUN_ID="one").code == 0  # it trains nothing and ends
        done = call(*command, script=script, LIGHTNING_COSTS_RUN_ID="one")
        assert "no run was recorded" not in done.err
    (run,) = load_runs(tmp_path)
    assert [len(attempt["unbegun"]) for attempt in run.header["attempts"]] == [2, 1]
    assert run.final["disruptions"] == 3.0
    found = goodput(run.header, run.final)
    assert found.clock_s == pytest.approx(found.wall_s, rel=1e-3, abs=0.05)
    assert not (tmp_path / ".starts").exists()
    done = call(*command, script=script.replace("Trainer(", "Trainer(fast_dev_run=True, "))
    assert f"no run was recorded in {tmp_path}" in done.err


def test_a_run_that_goes_on_in_its_folder_is_recorded_and_one_that_was_there_is_not(call: Call, tmp_path: Path) -> None:
    """As a training does that continues: it writes its header again."""
    command = (*COSTS, "run", "--save-dir", str(tmp_path), "--")
    for _ in range(2):
        done = call(*command, "bash", "-c", 'mkdir -p "$0" && echo {} > "$0/header.json"', str(tmp_path / "one"))
        assert done.code == 0
        assert "no run was recorded" not in done.err
    assert f"no run was recorded in {tmp_path}" in call(*command, "true").err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--", "no-such-command"], 127, "lightning-costs: no-such-command: command not found\n"),
        (["--", "./tariff.toml"], 126, "lightning-costs: ./tariff.toml: Permission denied\n"),
        (["--", "bash", "-c", "kill -KILL $$"], -signal.SIGKILL, "no run was recorded"),
    ],
)
def test_it_exits_as_a_shell_or_its_command_does(call: Call, arguments: list[str], code: int, message: str) -> None:
    done = call(*COSTS, "run", *arguments)
    assert done.code == code
    assert message in done.err


def test_the_end_of_a_command_is_seen_though_another_thread_is_told_of_it(tmp_path: Path) -> None:
    code = (
        "import os, threading, time\n"
        "from lightning_costs.cli import run_process as command\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
        "spawn = os.posix_spawnp\n"
        "def late(*args, **options):\n"
        "    child = spawn(*args, **options)\n"
        "    time.sleep(0.5)\n"  # it ends before anybody waits
        "    return child\n"
        "os.posix_spawnp = late\n"
        "command.run(['bash', '-c', 'exit 7'], {}, command.Path('costs'))\n"
    )
    done = subprocess.run([PYTHON, "-c", code], check=False, timeout=240, cwd=tmp_path, capture_output=True)
    assert done.returncode == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--monitor", "val/acc"], "monitor='val/acc' needs mode='max' or mode='min'"),
        (["--tariff", "nowhere.toml"], "No such file or directory: 'nowhere.toml'"),
        (["--target", "nan"], "targets must be finite numbers, got nan"),
        (["--batch-size-key", ""], "batch_size_key must be a text, got ''"),
        (["--budget", "steps"], "--budget must be COLUMN=AMOUNT, such as energy_j=3.6e6, got 'steps'"),
        (["--budget", "steps=0"], "the limit of 'steps' must be a finite number above 0, got 0.0"),
        (["--budget", "energy=5"], "did you mean energy_j"),
        (["--save-dir", "s3://bucket/costs"], "save_dir must be a folder of this machine"),
    ],
)
def test_bad_options_are_refused_before_the_command_starts(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun: list[str] = []
    monkeypatch.setattr("lightning_costs.cli.run_process.run", lambda command, _, __: begun.extend(command))
    monkeypatch.setenv("COLUMNS", "200")
    assert command_line.call(monkeypatch, "run", *arguments, "--", "true") == 2
    assert message in capsys.readouterr().err
    assert command_line.call(monkeypatch, "run") == 2
    assert "Missing argument 'COMMAND'" in capsys.readouterr().err
    assert begun == []


@pytest.fixture
def begun(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command and leaves it running, in a session of its own: no terminal sends it anything."""
    processes = []

    def begin(*command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COSTS, "run", "--", *command], cwd=tmp_path, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_signal_that_is_ignored_stays_ignored(call: Call, name: str) -> None:
    """As `nohup` and a script's `&` leave it; a library that the launcher imports may have a handler of its own."""
    tells = f"import signal; print(signal.getsignal(signal.{name}).name)"
    shell = ["sh", "-c", "trap '' " + name.removeprefix("SIG") + '; exec "$@"', "sh"]
    assert call(*shell, PYTHON, "-c", tells).out == "SIG_IGN\n"
    assert call(*shell, *COSTS, "run", "--", PYTHON, "-c", tells).out == "SIG_IGN\n"


#: What Windows lacks: as a process begins, since it is never there.
_WITHOUT_POSIX = """
import os, signal, sys
sys.modules["resource"] = None
import subprocess
for name in "SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGCHLD SIGPIPE SIGXFSZ pthread_sigmask sigtimedwait".split():
    delattr(signal, name)
signal.Signals = [signal.SIGINT, signal.SIGTERM]
for name in ("posix_spawnp", "posix_spawn", "WNOHANG"):
    delattr(os, name)
subprocess._USE_POSIX_SPAWN = False
from lightning_costs.cli.commands import main
main()
"""


def test_a_system_without_posix_signals_runs_commands_too(call: Call) -> None:
    command = (PYTHON, "-c", _WITHOUT_POSIX, "run", "--")
    echo = call(*command, PYTHON, "-c", "import sys; print(input(), file=sys.stderr); sys.exit(3)", text="one\n")
    assert (echo.code, echo.out) == (3, "")
    assert echo.err.startswith("one\n")
    assert "lightning-costs: no run was recorded" in echo.err
    assert call(*command, "no-such-program").code == 127


@pytest.mark.parametrize("module", ["lightning_costs", "lightning_costs.cli.commands"])
def test_the_command_line_is_a_module_too(call: Call, module: str) -> None:
    done = call(PYTHON, "-m", module, "run", "--", PYTHON, "-c", "raise SystemExit(3)")
    assert done.code == 3, done.err


_LISTENS = """
import signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, _: (print(signal.Signals(number).name, flush=True), sys.exit(40 + number)))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_signal_reaches_the_command(begun: Callable[..., subprocess.Popen[str]], number: signal.Signals) -> None:
    process = begun(PYTHON, "-c", _LISTENS)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, _ = process.communicate(timeout=240)
    assert out == f"{number.name}\n"
    assert process.returncode == 40 + number


_COUNTS = """
import signal, time
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(1))
print("ready", flush=True)
deadline = time.monotonic() + 240
while not seen and time.monotonic() < deadline:
    time.sleep(0.01)
time.sleep(0.5)
print("interrupts:", len(seen), flush=True)
"""


def test_ctrl_c_arrives_once(environment: dict[str, str], tmp_path: Path) -> None:
    """A terminal tells the command as well: the second Ctrl-C would end a graceful shutdown."""
    command = [*COSTS, "run", "--", PYTHON, "-c", _COUNTS]
    inside_a_terminal = f"import os, pty; raise SystemExit(os.waitstatus_to_exitcode(pty.spawn({command!r})))"
    with subprocess.Popen(
        [PYTHON, "-c", inside_a_terminal], cwd=tmp_path, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "ready"
        process.stdin.write("\x03")
        process.stdin.flush()
        assert "interrupts: 1" in process.stdout.read()
    assert process.returncode == 0


def test_a_command_that_a_signal_ended_ends_us_by_the_same(begun: Callable[..., subprocess.Popen[str]]) -> None:
    # No shell: bash holds a signal back that comes just before its `exec`, and then forgets it.
    process = begun(PYTHON, "-S", "-c", "import time; print('ready', flush=True); time.sleep(600)")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    process.communicate(timeout=240)
    assert process.returncode == -signal.SIGTERM


def test_a_training_that_is_terminated_keeps_its_points(
    begun: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(run_scripts.ENDLESS)
    process = begun(PYTHON, "train.py")
    deadline_s = time.monotonic() + 400
    while not any(path.read_bytes().count(b"\n") >= 3 for path in tmp_path.glob("costs/*/points.jsonl")):
        assert time.monotonic() < deadline_s, "no points were written"
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    process.communicate(timeout=240)
    (run,) = load_runs(tmp_path / "costs")
    assert run.header["status"] == "interrupted"
    assert run.source == "points.parquet"


def test_options_travel_as_json(call: Call) -> None:
    done = call(*COSTS, "run", "--name", "x y", "--", "bash", "-c", 'printf %s "$LIGHTNING_COSTS_OPTIONS"')
    options = json.loads(done.out)
    assert options["name"] == "x y"
    assert options["save_dir"] == str(done.folder / "costs")


LOGS_TO_STDOUT = """
import logging, sys
logging.basicConfig(stream=sys.stdout, level=logging.INFO)
import torch, lightning.pytorch as pl

class Eigen(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
    def training_step(self, batch, index):
        return torch.linalg.eigvalsh(self.layer(batch) @ self.layer(batch).T).sum()  # no formula: we warn
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

trainer = pl.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
                     enable_progress_bar=False, enable_model_summary=False)
trainer.fit(Eigen(), torch.utils.data.DataLoader(torch.rand(12, 4), batch_size=4))
"""


def test_a_script_that_logs_to_stdout_finds_nothing_of_ours_there(call: Call) -> None:
    done = call(*COSTS, "run", "--", PYTHON, "train.py", script=LOGS_TO_STDOUT)
    assert done.code == 0, done.err[-3000:]
    assert "INFO:lightning.pytorch" in done.out
    assert "cost" not in done.out
    assert "lightning-costs: flop is a lower bound" in done.err

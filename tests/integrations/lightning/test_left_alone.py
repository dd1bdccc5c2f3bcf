"""The process that trains stays the user's: no library that it did not load, no time lost to an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_models import classifier, data, namespace, trainer
from processes import TESTS

from lightning_costs import CostMonitor, Recorder, load_run, load_runs
from lightning_costs.integrations.fabric import FabricMonitor
from lightning_costs.integrations.lightning.options import RunOptions
from lightning_costs.storage.run_folder import writer
from lightning_costs.storage.run_folder.files import JOURNAL, PARQUET

pl = namespace("lightning.pytorch")


def run_script(script: str, *arguments: object, cwd: Path) -> str:
    """In a process of Python's own: one that is forked has what the tests before it had loaded."""
    (cwd / "train.py").write_text(script)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("_RJEM")}
    begun = subprocess.Popen(
        [sys.executable, "train.py", TESTS, *map(str, arguments)],
        cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = begun.communicate(timeout=200)
    finally:
        with suppress(ProcessLookupError):  # its children too, if one hangs
            os.killpg(begun.pid, signal.SIGKILL)
    assert begun.returncode == 0, err[-5000:]
    return out


# No polars -------------------------------------------------------------------------------------------------------

_WITHOUT_POLARS = """
import os, pickle, sys, traceback
from pathlib import Path
sys.path.insert(0, sys.argv[1])
assert "polars" not in sys.modules, "polars was there before"

class Imports:
    by = "an import that was not seen"

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "polars":
            cls.by = "".join(traceback.format_stack())

sys.meta_path.insert(0, Imports)

def handlers():
    lines = Path("/proc/self/status").read_text().splitlines() if os.path.exists("/proc/self/status") else []
    kept = [line.split(":") for line in lines if line.startswith(("SigIgn", "SigCgt"))]
    return {name: int(mask, 16) & 0x7FFFFFFF for name, mask in kept}  # glibc keeps the first above for its threads

before, environment = handlers(), dict(os.environ)
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostMonitor
pl = namespace("lightning.pytorch")
from lightning.pytorch.loggers import CSVLogger

def fit(resume):
    monitor = CostMonitor(save_dir="costs", monitor="val/acc", mode="max", targets=[0.0])
    save = pl.callbacks.ModelCheckpoint(dirpath=sys.argv[2], save_last=True)
    stop = pl.callbacks.EarlyStopping("val/acc", mode="max", patience=50)
    run = trainer(pl, monitor, save, stop, logger=CSVLogger(sys.argv[2]), enable_checkpointing=True,
                  max_epochs=4 if resume else 2)
    run.fit(classifier(pl), data(), data(), ckpt_path=resume)
    pickle.dumps(monitor.run)
    return monitor

class Stop(Exception):
    pass

class Fails(pl.Callback):
    def on_train_batch_end(self, *_):
        raise Stop

fit(None)
monitor = fit(sys.argv[2] + "/last.ckpt")
try:
    trainer(pl, CostMonitor(save_dir="costs"), Fails()).fit(classifier(pl), data())
except Stop:
    pass
assert "polars" not in sys.modules, "polars was loaded by " + Imports.by
assert {name for name in os.environ if name.startswith("_RJEM")} <= set(environment), "the environment was changed"
assert handlers() == before, (before, handlers())
assert (Path("costs") / monitor.run.id / "points.parquet").is_file()
assert monitor.run.points["val/acc"].drop_nulls().len() == 4
print(monitor.run.final["samples"])
"""


@pytest.mark.integration
def test_a_training_process_never_loads_polars(tmp_path: Path) -> None:
    """With a logger, early stopping, checkpoints, a resume and an error: its threads would not survive a fork."""
    assert "256.0" in run_script(_WITHOUT_POLARS, tmp_path / "ckpt", cwd=tmp_path)
    assert sorted(run.header["status"] for run in load_runs(tmp_path / "costs")) == ["failed", "finished"]


_FORKED = """
import sys, time
sys.path.insert(0, sys.argv[1])
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostMonitor, load_runs
from lightning_costs.probes.clock import now_s
pl = namespace("lightning.pytorch")
trainer(pl, CostMonitor(save_dir="costs", name="alone")).fit(classifier(pl), data())
ended_s = now_s()
(alone,) = load_runs("costs")
assert alone.points.select(alone.points["step"].sum()).height  # polars works, with all its threads
time.sleep(0.5)
began_s = now_s()
for name in ("forked", "again"):
    monitor = CostMonitor(save_dir="costs", name=name)
    trainer(pl, monitor, devices=2, strategy="ddp_fork").fit(classifier(pl), data())
    runs = {run.name: run for run in load_runs("costs")}
    assert runs[name].header["status"] == "finished"
    total_s = runs[name].final["total_s"]
    if name == "forked":
        assert began_s - ended_s < total_s  # the clock begins with the parent, where its run before ended
    assert total_s < now_s() - ended_s
    ended_s = began_s if name == "forked" else ended_s
print(sorted(runs))
"""


@pytest.mark.integration
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_training_ends_after_its_parent_has_trained_and_read_runs(tmp_path: Path) -> None:
    assert "['again', 'alone', 'forked']" in run_script(_FORKED, cwd=tmp_path)


# An error --------------------------------------------------------------------------------------------------------


class Fails(pl.Callback):  # type: ignore[name-defined,misc]
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 11:
            raise self.error


@pytest.mark.parametrize("error", [ArithmeticError("loss is nan"), KeyboardInterrupt()], ids=lambda e: type(e).__name__)
def test_nothing_is_done_on_an_error_that_its_caller_would_wait_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Another process may be killed meanwhile, and the traceback with it."""
    done: list[str] = []

    def noted(name: str) -> Any:
        return lambda *_, **__: done.append(name)

    monkeypatch.setattr("lightning_costs.integrations.lightning.final_table.print_summary", noted("summary"))
    monkeypatch.setattr("lightning_costs.storage.run_folder.files.parquet", noted("table"))
    monkeypatch.setattr("lightning_costs.storage.run_folder.files.read_journal", noted("read back"))
    monkeypatch.setattr("lightning_costs.probes.parameters.count_nonzero", lambda _: done.append("all parameters") or 1)
    monkeypatch.setattr("lightning_costs.probes.inference.benchmark_inference", noted("inference"))
    monkeypatch.setattr(writer, "SHORT_BYTES", 0)  # as a long run's journal is
    monitor = CostMonitor(save_dir=tmp_path)
    fit = trainer(pl, monitor, Fails(error), log_every_n_steps=4)
    with pytest.raises((ArithmeticError, SystemExit, KeyboardInterrupt)):
        fit.fit(classifier(pl), data(), data())
    assert done in ([], ["all parameters"])  # these at the first point
    monkeypatch.undo()
    (run,) = load_runs(tmp_path)
    status = "failed" if isinstance(error, ArithmeticError) else "interrupted"
    assert (run.header["status"], run.header["attempts"][-1]["status"], run.source) == (status, status, JOURNAL)
    assert (run.final["steps"], run.final["samples"]) == (11.0, 88.0)
    assert monitor.run is not None
    assert monitor.run.points.equals(run.points)
    assert monitor.run.header == run.header


def test_a_short_run_that_fails_has_its_table(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError):
        trainer(pl, CostMonitor(save_dir=tmp_path), Fails(ArithmeticError())).fit(classifier(pl), data())
    assert load_runs(tmp_path)[0].source == PARQUET


# Checkpoints after the fit -----------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_saved_after_the_fit_goes_on_with_its_run(tmp_path: Path) -> None:
    first = trainer(pl, CostMonitor(save_dir=tmp_path / "costs"), max_epochs=2)
    first.fit(classifier(pl), data())
    first.save_checkpoint(tmp_path / "after.ckpt")
    assert "lightning_costs" in torch.load(tmp_path / "after.ckpt", weights_only=False)
    second = trainer(pl, CostMonitor(save_dir=tmp_path / "costs"), max_epochs=3)
    second.fit(classifier(pl), data(), ckpt_path=tmp_path / "after.ckpt")
    (run,) = load_runs(tmp_path / "costs")
    assert (run.final["samples"], run.final["lost_samples"]) == (3 * 64, 0.0)
    assert [a["from_step"] for a in run.header["attempts"]] == [0, 16]


def test_a_checkpoint_of_a_fit_that_failed_holds_what_it_had_spent(tmp_path: Path) -> None:
    fit = trainer(pl, CostMonitor(save_dir=tmp_path / "costs"), Fails(ArithmeticError()))
    with pytest.raises(ArithmeticError):
        fit.fit(classifier(pl), data())
    fit.save_checkpoint(tmp_path / "after.ckpt")
    state = torch.load(tmp_path / "after.ckpt", weights_only=False)["lightning_costs"]
    assert state["ledger"]["costs"]["samples"] == 88.0


# Where it is written -------------------------------------------------------------------------------------------------


class Goes(pl.Callback):  # type: ignore[name-defined,misc]
    """Changes the directory in the midst of the training."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 6:
            os.chdir(self.where)


def test_a_script_may_change_its_directory_while_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    trainer(pl, CostMonitor(), Goes(tmp_path / "elsewhere"), log_every_n_steps=1).fit(classifier(pl), data())
    (run,) = load_runs(tmp_path / "costs")
    assert (run.header["status"], run.points.height) == ("finished", 17)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("save_dir", ["s3://bucket/costs", "memory://costs", Path("gs://bucket"), "file://host/costs"])
def test_what_is_no_folder_of_this_machine_is_refused_where_it_is_given(save_dir: str | Path) -> None:
    words = "save_dir must be a folder of this machine, got '.*': a run is written as it happens, line by line"
    for make in (
        lambda: CostMonitor(save_dir=save_dir),
        lambda: Recorder(save_dir=save_dir),
        lambda: FabricMonitor("lightning.fabric", {"save_dir": save_dir}),
        lambda: RunOptions(save_dir=str(save_dir)),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_a_file_url_is_a_folder(tmp_path: Path) -> None:
    monitor = CostMonitor(save_dir=(tmp_path / "my costs").as_uri())
    trainer(pl, monitor, max_epochs=1).fit(classifier(pl), data())
    assert monitor.run is not None
    assert load_run(tmp_path / "my costs" / monitor.run.id).final["samples"] == 64.0

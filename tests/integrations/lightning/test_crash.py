"""Whatever breaks around a real training: it goes on, and what was spent is on disk."""

from __future__ import annotations

import logging
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning_models import classifier, data, namespace, trainer

from lightning_costs import CostMonitor, load_run, load_runs
from lightning_costs.storage.run_folder.files import JOURNAL, PARQUET

pytestmark = pytest.mark.usefixtures("every_point_at_once")
pl = namespace("lightning.pytorch")


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, logger="lightning_costs")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "lightning_costs"]


class Calls(pl.Callback):  # type: ignore[name-defined,misc]
    """Does something at a batch."""

    def __init__(self, at: int, act: Callable[[], object]) -> None:
        self.at, self.act = at, act

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.at:
            self.act()


def fitted(monitor: CostMonitor, *callbacks: Any, **options: Any) -> Any:
    fit = trainer(pl, monitor, *callbacks, **{"log_every_n_steps": 1, **options})
    fit.fit(classifier(pl), data(), data())
    return fit


def test_an_error_of_the_training_leaves_every_step_before_it(tmp_path: Path) -> None:
    def diverge() -> None:
        raise ArithmeticError("loss is nan")

    with pytest.raises(ArithmeticError, match="loss is nan"):
        fitted(CostMonitor(save_dir=tmp_path), Calls(11, diverge), log_every_n_steps=4)
    (run,) = load_runs(tmp_path)
    assert (run.header["status"], run.final["steps"], run.final["samples"]) == ("failed", 11.0, 88.0)


def test_a_file_that_may_not_grow_ends_the_writing_and_not_the_training(
    tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    """A real limit of the operating system, as a quota is: the journal's next line does not fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    limit: list[int] = []

    def no_more() -> None:
        (journal,) = tmp_path.glob(f"*/{JOURNAL}")
        limit.append(journal.stat().st_size + 1000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit[0], hard))

    try:
        fit = fitted(CostMonitor(save_dir=tmp_path), Calls(6, no_more))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert fit.global_step == 16
    (warning,) = said()
    assert "File too large" in warning
    (run,) = load_runs(tmp_path)
    assert 5 <= run.points.height < 16
    assert run.final["steps"] == run.points.filter(run.points["trigger"] == "train").height


def test_a_disk_that_has_room_again_gets_the_whole_run(
    tmp_path: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_costs.storage.run_folder.writer.RETRY_S", 0.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def no_more() -> None:
        (journal,) = tmp_path.glob(f"*/{JOURNAL}")
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size + 1000, hard))

    def room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    try:
        fitted(CostMonitor(save_dir=tmp_path), Calls(6, no_more), Calls(11, room))
    finally:
        room()
    assert len(said()) == 1
    (run,) = load_runs(tmp_path)
    assert (run.header["status"], run.source, run.points["trigger"].to_list().count("train")) == (
        "finished",
        PARQUET,
        16,
    )
    assert run.points["steps"].is_sorted()


@pytest.mark.parametrize("directory", [False, True], ids=["removed", "a directory"])
def test_a_journal_that_is_taken_away_in_the_midst_is_written_again(
    tmp_path: Path, said: Callable[[], list[str]], directory: bool
) -> None:
    def take_away() -> None:
        (journal,) = tmp_path.glob(f"*/{JOURNAL}")
        journal.unlink()
        if directory:
            journal.mkdir()

    fitted(CostMonitor(save_dir=tmp_path), Calls(6, take_away))
    (warning,) = said()
    assert "was removed or replaced" in warning
    (run,) = load_runs(tmp_path)
    assert (run.header["status"], run.points["trigger"].to_list().count("train")) == ("finished", 16)


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_a_folder_that_cannot_be_made_is_said_once_and_training_goes_on(said: Callable[[], list[str]]) -> None:
    monitor = CostMonitor(save_dir="/proc/no-such-place")
    assert fitted(monitor).global_step == 16
    (warning,) = said()
    assert warning.startswith("costs are not written to /proc/no-such-place/")


def test_a_folder_that_is_removed_is_said_once_and_training_goes_on(
    tmp_path: Path, said: Callable[[], list[str]]
) -> None:
    monitor = CostMonitor(save_dir=tmp_path)
    fit = fitted(monitor, Calls(6, lambda: shutil.rmtree(next(tmp_path.iterdir()))))
    assert fit.global_step == 16
    (warning,) = said()
    assert "costs are no longer written" in warning


def test_a_disk_that_is_full_at_the_end_leaves_the_journal(
    tmp_path: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if PARQUET not in self.name:
            return write(self, content)
        write(self, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert fitted(CostMonitor(save_dir=tmp_path)).global_step == 16
    assert len(said()) == 1
    (folder,) = tmp_path.iterdir()
    assert not list(folder.glob(f"*{PARQUET}*"))
    run = load_run(folder)
    assert (run.header["status"], run.source, run.final["steps"]) == ("finished", JOURNAL, 16.0)


def test_a_parquet_that_cannot_be_read_gives_way_to_the_journal(tmp_path: Path) -> None:
    fitted(CostMonitor(save_dir=tmp_path))
    (folder,) = tmp_path.iterdir()
    (folder / PARQUET).write_bytes(b"PAR1 torn")
    assert (load_run(folder).source, load_run(folder).final["steps"]) == (JOURNAL, 16.0)
    (folder / JOURNAL).unlink()
    with pytest.raises(ValueError, match=r"points\.parquet cannot be read, and there is no points\.jsonl"):
        load_run(folder)


# Loggers -----------------------------------------------------------------------------------------------------


class WandbLogger(pl.loggers.logger.Logger):  # type: ignore[name-defined,misc]
    """A logger of that name whose vendor is out of order, at one moment or another."""

    def __init__(self, *, config: bool = True, metric: bool = True, summary: bool = True) -> None:
        super().__init__()
        self.config, self.metric, self._summary = config, metric, summary
        self.asked, self.out = 0, not (config or metric or summary)

    name, version = "broken", 0

    def _fail(self, *_: Any, **__: Any) -> None:
        raise ConnectionError("the vendor is away")

    @property
    def experiment(self) -> Any:
        self.asked += 1
        if self.out and self.asked > 2:  # Lightning itself asks twice, at the start
            self._fail()
        nothing = lambda *_, **__: None  # noqa: E731
        return type(
            "Run",
            (),
            {
                "config": type("C", (), {"update": nothing if self.config else self._fail})(),
                "define_metric": nothing if self.metric else self._fail,
                "summary": type("S", (dict,), {"update": nothing if self._summary else self._fail})(),
            },
        )()

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        pass

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass


@pytest.mark.parametrize(
    "broken",
    [{"config": False}, {"metric": False}, {"summary": False}, {"config": False, "metric": False, "summary": False}],
    ids=["config", "define_metric", "summary", "experiment"],
)
def test_a_logger_that_raises_in_our_calls_costs_nothing(
    tmp_path: Path, said: Callable[[], list[str]], broken: dict[str, bool]
) -> None:
    monitor = CostMonitor(save_dir=tmp_path)
    assert fitted(monitor, logger=WandbLogger(**broken)).global_step == 16
    assert monitor.run is not None
    assert (monitor.run.header["status"], monitor.run.final["steps"]) == ("finished", 16.0)
    assert said()
    assert all("the vendor is away" in warning for warning in said())


def test_a_logger_that_raises_in_lightnings_own_call_is_lightnings_error_and_the_run_is_written(tmp_path: Path) -> None:
    class Raises(WandbLogger):
        def log_metrics(self, metrics: Any, step: Any = None) -> None:
            if step == 5:
                self._fail()

    with pytest.raises(ConnectionError, match="the vendor is away"):
        fitted(CostMonitor(save_dir=tmp_path), logger=Raises())
    (run,) = load_runs(tmp_path)
    assert (run.header["status"], run.final["steps"]) == ("failed", 6.0)


def test_a_terminal_that_is_gone_costs_nothing(
    tmp_path: Path, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("lightning_costs.integrations.lightning.final_table.print_summary", gone)
    monitor = CostMonitor(save_dir=tmp_path)
    fitted(monitor)
    assert monitor.run is not None
    assert "could not be printed" in said()[0]


# Resumes -----------------------------------------------------------------------------------------------------


def test_two_fits_of_one_process_are_one_run_that_knows_what_it_lost(tmp_path: Path) -> None:
    save = pl.callbacks.ModelCheckpoint(dirpath=tmp_path / "ckpt", filename="{epoch}", save_top_k=-1)
    options = {"enable_checkpointing": True, "max_epochs": 3}
    fitted(CostMonitor(save_dir=tmp_path / "costs", name="twice"), save, **options)
    fit = trainer(pl, CostMonitor(save_dir=tmp_path / "costs"), save, **options)
    fit.fit(classifier(pl), data(), data(), ckpt_path=tmp_path / "ckpt" / "epoch=0.ckpt")
    (run,) = load_runs(tmp_path / "costs")
    assert run.name == "twice"
    assert (run.final["samples"], run.final["lost_samples"]) == (5 * 64, 2 * 64)
    assert run.final["lost_flop"] == run.final["flop"] * 2 / 5  # type: ignore[operator]
    assert 0 < run.final["lost_s"] < run.final["total_s"]  # type: ignore[operator]
    assert 0 < run.final["lost_energy_j"] < run.final["energy_j"]  # type: ignore[operator]
    assert [a["from_step"] for a in run.header["attempts"]] == [0, 8]
    reached = run.to_reach()
    assert (reached.final["samples"], reached.points["val/acc"].drop_nulls().len()) == (3 * 64, 3)
    assert run.points["val/acc"].drop_nulls().len() == 5

"""`lightning-costs report --follow`: the page of runs in progress, written again until they have ended."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_costs import Recorder, default_indicators, load_runs
from lightning_costs.cli import watch
from lightning_costs.run.record import RunRecord

pytest.importorskip("altair", reason="altair is not installed: pip install 'lightning-costs[report]'")

RELOADS = re.compile(r'<meta http-equiv="refresh" content="(\d+)">')


@contextmanager
def run_of(folder: Path) -> Iterator[Recorder]:
    plain = [indicator for indicator in default_indicators() if indicator.family not in ("energy", "money")]
    recorder = Recorder(monitor="acc", mode="max", save_dir=folder, name="mine", indicators=plain, device="cpu")
    with recorder:
        recorder.step(torch.ones(4, 3))
        yield recorder


class Page:
    """A comparison whose page is quick: the last quality, or a metric that was not logged yet."""

    def __init__(self, runs: list[RunRecord]) -> None:
        self.qualities = [run.points["acc"].drop_nulls()[-1] for run in runs if "acc" in run.points.columns]
        if not self.qualities:
            raise ValueError("no metric")

    def to_html(self, path: Path, *, reload_s: int | None = None) -> Path:
        path.write_text(f"{self.qualities[-1]} {reload_s}", encoding="utf-8")
        return path


def test_a_page_is_replaced_as_points_come_and_reloads_until_the_runs_have_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A moment of training before every look at the runs."""
    out, pages, replace = tmp_path / "report.html", [], watch.replace_file

    def replaced(path: Path, write: Any) -> None:
        replace(path, write)
        pages.append(out.read_text(encoding="utf-8"))

    monkeypatch.setattr(watch, "replace_file", replaced)
    with run_of(tmp_path / "costs") as recorder:

        def logs(quality: float) -> Any:
            return lambda: recorder.log_metrics({"acc": quality})

        def fails() -> None:
            raise OSError("a file system is away")

        moments = iter([lambda: None, logs(0.5), lambda: None, fails, fails, logs(0.7), recorder.end])

        def load() -> list[RunRecord]:
            next(moments)()
            return load_runs(tmp_path / "costs")

        watch.follow_page(load, Page, out, every_s=0.01)  # type: ignore[arg-type]
    assert pages == ["0.5 1", "0.7 1", "0.7 None"]  # a look without news writes nothing
    said = capsys.readouterr()
    assert [line.partition("not yet: ")[2] for line in said.err.splitlines()] == ["no metric", "a file system is away"]
    assert said.out.splitlines()[-1] == f"wrote {out}"


def test_following_is_of_a_page(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from lightning_costs.cli.commands import app

    done = CliRunner().invoke(app, ["report", str(tmp_path), "--follow", "--to", "md"])
    assert done.exit_code == 2
    assert "--follow goes with --to html" in done.output


@pytest.mark.integration
@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is a signal of POSIX here")
def test_ctrl_c_leaves_a_page_that_stands_still(tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    with run_of(tmp_path / "costs") as recorder:
        recorder.log_metrics({"acc": 0.5})
        command = [sys.executable, "-m", "lightning_costs", "report", str(tmp_path / "costs"), "-o", str(out)]
        process = subprocess.Popen([*command, "--follow", "--every", "1"], stdout=subprocess.PIPE, text=True)
        while not out.is_file():
            assert process.poll() is None
            time.sleep(0.05)
        assert RELOADS.search(out.read_text(encoding="utf-8"))
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert said.splitlines()[-1] == f"wrote {out}"
    page = out.read_text(encoding="utf-8")
    assert not RELOADS.search(page)
    assert "in progress, as of" not in page
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []

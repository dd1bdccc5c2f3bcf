"""`lightning-costs watch`: what is in progress, was killed or is finished, once and in a terminal of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from lightning_costs import Recorder, default_indicators
from lightning_costs.cli.watch import watch_runs
from lightning_costs.report.terminal.watch import watch_view
from lightning_costs.sources.loader import load_runs

LIMITS = {"samples": 160.0}


@contextmanager
def run_of(folder: Path, name: str) -> Iterator[Recorder]:
    """A run of half of its planned steps, still in progress inside."""
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    plain = [indicator for indicator in default_indicators() if indicator.family not in ("energy", "money")]
    recorder = Recorder(
        module=net, optimizers=[optimizer], monitor="acc", mode="max", save_dir=folder, name=name, indicators=plain,
        log_every_n_steps=1, setup={"max_steps": 40}, device="cpu",
    )  # fmt: skip
    recorder.begin()
    batch = torch.ones(4, 3)
    for step in range(20):
        with recorder.train_batch(batch):
            net(batch).sum().backward()
            optimizer.step()
        recorder.step(batch)
        recorder.exceeded(LIMITS)
        if step % 5 == 4:
            recorder.log_metrics({"acc": step / 20})
    try:
        yield recorder
    finally:
        recorder.end()


def printed(place: Path, *, encoding: str = "utf-8") -> str:
    with (place.parent / "printed").open("w+", encoding=encoding) as file:
        assert watch_runs(place, Console(file=file, width=100), once=True, every_s=1.0)
        file.seek(0)
        return file.read()


def test_a_run_in_progress_says_what_it_costs_will_cost_and_of_what(tmp_path: Path) -> None:
    with run_of(tmp_path / "costs", "mine"):
        text = printed(tmp_path / "costs")
    assert "mine  (running, 20 steps)" in text
    assert "50 % of the planned steps" in text
    assert "best 0.950, last 0.950" in text
    (line,) = [line for line in text.splitlines() if line.startswith("samples")]
    assert "80 samples" in line
    assert "160 samples" in line
    assert line.rstrip().endswith("50 % of 160 samples")


def test_a_finished_run_has_no_forecast_and_stands_behind_those_in_progress(tmp_path: Path) -> None:
    with run_of(tmp_path / "costs", "first"):
        with run_of(tmp_path / "costs", "second"):
            pass
        text = printed(tmp_path / "costs")
    assert text.index("first  (running") < text.index("second  (finished")
    finished = text[text.index("second") :]
    assert "at the end" not in finished
    assert "50 % of 160 samples" in finished


@pytest.mark.integration
def test_a_killed_run_is_told_as_that(tmp_path: Path) -> None:
    here = Path(__file__).parent
    script = (
        f"import os, signal, sys; sys.path[:0] = [{str(here)!r}, {str(here.parent)!r}]\n"
        "from pathlib import Path\nfrom test_watch import run_of\n"
        f"with run_of(Path({str(tmp_path / 'costs')!r}), 'mine'): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert "mine  (killed, " in printed(tmp_path / "costs")


def test_a_console_without_blocks_gets_none(tmp_path: Path) -> None:
    with run_of(tmp_path / "costs", "mine"):
        text = printed(tmp_path / "costs", encoding="latin-1")
    assert "best 0.95" in text
    assert "▁" not in text


def test_a_name_is_shown_and_obeyed_by_nothing(tmp_path: Path) -> None:
    with run_of(tmp_path / "costs", "[red]\x1b[2Jmine"):
        assert "\x1b[2J" not in printed(tmp_path / "costs")
        (run,) = load_runs(tmp_path / "costs")
    assert watch_view([run])


def test_no_run_is_an_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lightning_costs", "watch", str(tmp_path), "--once"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no run" in done.stderr


@pytest.mark.integration
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pty, which Windows has not")
def test_a_terminal_follows_a_run_to_its_end(tmp_path: Path) -> None:
    import pty

    master, slave = pty.openpty()
    with run_of(tmp_path / "costs", "mine") as recorder:
        assert recorder.path is not None
        command = [sys.executable, "-m", "lightning_costs", "watch", str(recorder.path), "--every", "0.2"]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        seen = b""
        while b"running" not in seen:
            seen += os.read(master, 4096)
    while True:  # the run ended, and so does the command
        try:
            if not (piece := os.read(master, 4096)):
                break
        except OSError:  # Linux says so of a terminal that nobody holds any more
            break
        seen += piece
    assert process.wait(timeout=60) == 0
    os.close(master)
    assert "mine  (finished, 20 steps)" in seen.decode()

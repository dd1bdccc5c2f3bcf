"""The summary and the progress text on a real terminal: a pty, with the bars of both namespaces at three widths."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import lightning.pytorch as pl
import pytest
from lightning_models import classifier, data, trainer

from lightning_costs import CostMonitor, load_runs

WIDTHS = (80, 120, 160)
#: Trains once with each bar at each width: the terminal is resized in between.
SCRIPT = """
import fcntl, logging, struct, sys, termios, time, warnings
warnings.filterwarnings("ignore")
import {name} as pl
from lightning_models import classifier, data, namespace
from lightning_costs import CostBudget, CostMonitor, Tariff
namespace("{name}")
logging.getLogger("{name}").setLevel(logging.ERROR)
for width in {widths}:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
    for kind in ("TQDMProgressBar", "RichProgressBar"):
        bar = getattr(pl.callbacks, kind)(refresh_rate=1)
        monitor = CostMonitor(
            monitor="val/acc", mode="max", save_dir="costs", name=f"{{kind}}-{{width}}", infer=False,
            tariff=Tariff(usd_per_device_h=2.0), log_every_n_steps=1,
        )
        print(f"BEGIN {{kind}} {{width}}", flush=True)
        trainer = pl.Trainer(
            max_epochs=4, accelerator="cpu", callbacks=[monitor, CostBudget({{"energy_j": 1e9}}), bar], logger=False,
            enable_checkpointing=False, enable_model_summary=False,
        )
        trainer.fit(classifier(pl, train_s=0.01), data(), data())
        print(f"END {{kind}} {{width}}", flush=True)
        assert "teardown" not in vars(bar), "the bar is as it was"
"""
#: What moves the cursor up or erases: after the summary nothing may.
ERASES = re.compile(rb"\x1b\[\d*[AFJK]|\x1b\[\d*;?\d*[Hf]")
STYLES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(script: str, folder: Path) -> bytes:
    """What a script writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"TERM": "xterm-256color", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment
    )
    os.close(theirs)
    written, deadline = b"", time.monotonic() + 300
    while time.monotonic() < deadline:
        if select.select([ours], [], [], 1.0)[0]:
            try:
                written += os.read(ours, 1 << 16)
            except OSError:  # the other end is closed
                break
        elif process.poll() is not None:
            break
    os.close(ours)
    process.kill()
    assert process.wait() == 0, written.decode(errors="replace")[-3000:]
    return written


@pytest.fixture(scope="module", params=["lightning.pytorch", pytest.param("pytorch_lightning", marks=pytest.mark.slow)])
def written(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("terminal")
    return folder, on_terminal(SCRIPT.format(name=request.param, widths=WIDTHS), folder)


def of(written: bytes, kind: str, width: int) -> bytes:
    begin, end = f"BEGIN {kind} {width}\r\n".encode(), f"END {kind} {width}\r\n".encode()
    return written.partition(begin)[2].partition(end)[0]


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["TQDMProgressBar", "RichProgressBar"])
def test_every_line_of_the_summary_stays_on_the_screen(written, kind):
    folder, everything = written
    runs = {run.name: run for run in load_runs(folder / "costs")}
    for width in WIDTHS:
        name = f"{kind}-{width}"
        _, title, after = of(everything, kind, width).partition(f"What {name} cost".encode())
        assert title, f"a summary of {name}"
        assert not ERASES.search(after), f"{name}: what is drawn later erases it"
        plain = STYLES.sub("", after.decode())
        for label in ("total time", "FLOPs", "energy", "CO2e", "cloud cost", "of the budget", "missing: ", "next: "):
            shown = label in plain or (label == "CO2e" and "CO2e" in runs[name].header["missing"].get("co2e_g", "CO2e"))
            assert shown, f"{label} of {name}"
        assert plain.rstrip().splitlines()[-1].startswith("next: lightning-costs show costs/")


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["TQDMProgressBar", "RichProgressBar"])
def test_the_bar_shows_the_cost_at_every_width_and_no_more_than_there_is_room_for(written, kind):
    for width in WIDTHS:
        drawn = STYLES.sub("", of(written[1], kind, width).partition(b"What ")[0].decode())
        texts = re.findall(r"cost[=:] ?([^,\r\n]*)", drawn)
        assert texts, f"{kind} at {width}"
        assert not [text for text in texts if " to " in text], "no interval"
        if kind == "TQDMProgressBar":
            assert any(re.fullmatch(r"\S+ [kMm]?W?[Jh]+ → \S+ [kMm]?W?[Jh]+\]?", text.strip()) for text in texts) == (
                width < 120
            ), texts[-3:]
            assert all(len(line) <= width for line in re.split(r"[\r\n]", drawn))
        amounts = [text.rstrip("] ").split(" → ") for text in texts if "→" in text]
        assert not [pair for pair in amounts if len(pair) == 2 and pair[0] == pair[1]]


def test_a_summary_that_nobody_reads_any_more_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rich ends the process if its pipe is gone, and sends the script's stdout nowhere before that."""
    reads, writes = os.pipe()
    os.close(reads)
    out = os.fstat(1).st_ino
    monitor = CostMonitor(save_dir=tmp_path / "costs", infer=False)
    with suppress(BrokenPipeError), os.fdopen(writes, "w") as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        fit = trainer(pl, monitor, max_epochs=1)
        fit.fit(classifier(pl), data())
        monkeypatch.undo()
    assert fit.state.finished
    assert os.fstat(1).st_ino == out
    assert monitor.run is not None
    assert monitor.run.header["status"] == "finished"

"""Several processes: rank 0 alone writes, nothing hangs, and what only one rank knows is missing rather than wrong."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from processes import TESTS, Script

from lightning_costs import load_run, load_runs
from lightning_costs.cli.commands import show

pytestmark = pytest.mark.integration

_RESUMED = """
import sys
sys.path.insert(0, sys.argv[1])
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostMonitor
pl = namespace("lightning.pytorch")
if __name__ == "__main__":
    folder, devices = sys.argv[2], int(sys.argv[3])
    save = pl.callbacks.ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    fit = trainer(
        pl, CostMonitor(save_dir=folder + "/costs"), save, devices=devices, max_epochs=devices + 1,
        strategy="ddp" if devices > 1 else "auto", enable_checkpointing=True,
    )
    fit.fit(classifier(pl), data(), ckpt_path=folder + "/epoch=0.ckpt" if devices > 1 else None)
"""


def test_a_run_goes_on_over_another_number_of_processes(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(_RESUMED)
    for devices in (1, 2):
        done = Script(script, (TESTS, str(tmp_path), str(devices)), tmp_path).ended()
        assert done.code == 0, done.err[-3000:]
    (run,) = load_runs(tmp_path / "costs")
    assert [a["processes"] for a in run.header["attempts"]] == [1, 2]
    assert run.final["steps"] == 8 + 8 + 4 + 4  # two epochs, the second lost; then two of half the steps
    assert run.to_reach().final["steps"] == 8 + 4 + 4
    assert 0 < run.final["lost_s"] < run.final["total_s"]  # type: ignore[operator]


_ENDLESS = """
import sys
sys.path.insert(0, sys.argv[1])
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostMonitor
pl = namespace("lightning.pytorch")
trainer(pl, CostMonitor(save_dir=sys.argv[2]), max_epochs=-1).fit(classifier(pl, train_s=0.01), data(), data())
"""


@pytest.mark.parametrize(
    ("number", "status", "source"),
    [
        (signal.SIGINT, "interrupted", "points.parquet"),
        (signal.SIGTERM, "interrupted", "points.parquet"),
        (signal.SIGKILL, "killed", "points.jsonl"),
    ],
)
def test_a_run_that_is_stopped_from_outside_keeps_its_points(
    tmp_path: Path, number: signal.Signals, status: str, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "train.py"
    script.write_text(_ENDLESS)
    process = Script(script, (TESTS, str(tmp_path / "costs")), tmp_path)
    try:
        journal: list[Path] = []
        deadline_s = time.monotonic() + 400
        while not (journal and journal[0].read_bytes().count(b"\n") >= 3):
            assert time.monotonic() < deadline_s, "no points were written"
            time.sleep(0.1)
            journal = list((tmp_path / "costs").glob("*/points.jsonl"))
        assert load_run(journal[0].parent).header["status"] == "running"
        os.kill(process.pid, number)
    finally:
        process.ended()
    (run,) = load_runs(tmp_path / "costs")
    assert run.header["status"] == status
    assert run.header["attempts"][-1]["status"] == status
    assert run.source == source
    show(journal[0].parent)
    assert f"({status}, 1 attempt, from {source})" in capsys.readouterr().out
    assert run.points.height >= 3
    assert run.final["steps"] is not None
    assert run.final["steps"] >= 4

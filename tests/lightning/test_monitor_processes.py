"""Several processes: rank 0 alone writes, nothing hangs, and what only one rank knows is missing rather than wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lightning_costs import load_runs

_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostMonitor
pl = namespace("lightning.pytorch")
if __name__ == "__main__":
    monitor = CostMonitor(save_dir=sys.argv[2], monitor="val/acc", mode="max")
    fit = trainer(pl, monitor, devices=2, strategy=sys.argv[3], logger=pl.loggers.CSVLogger(sys.argv[2] + "/csv"))
    fit.fit(classifier(pl), data(), data())
"""


def test_two_processes_leave_one_run_whose_sums_say_that_one_rank_was_not_heard(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(_SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(Path(__file__).parents[1]), str(tmp_path / "costs"), "ddp"],
        capture_output=True, text=True, cwd=tmp_path, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = load_runs(tmp_path / "costs")
    assert run.header["setup"]["processes"] == 2
    assert run.final["steps"] == 8
    assert run.final["total_s"] is not None
    assert run.final["cpu_energy_j"] is not None  # one reading speaks for the node
    for column in ("samples", "flop", "opt_state_bytes"):
        assert run.final[column] is None
        assert "of 2" in run.header["missing"][column]
    assert run.points["val/acc"].drop_nulls().len() == 2

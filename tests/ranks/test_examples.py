"""The example of a plain DeepSpeed loop, by both launchers, as its text says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import free_port

from lightning_costs import load_runs

pytestmark = pytest.mark.integration

EXAMPLE = Path(__file__).parents[2] / "examples" / "deepspeed_digits.py"
BIN = Path(sys.executable).parent
#: DeepSpeed's launcher, or torch's where it is not beside this Python: both tell a process the same.
LAUNCHER = (
    [str(BIN / "deepspeed"), "--num_accelerators", "2", "--master_port"]
    if shutil.which("deepspeed", path=str(BIN))
    else [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port"]
)


@pytest.mark.slow
def test_a_plain_loop_is_measured_under_its_launcher(tmp_path: Path) -> None:
    stage = 3
    command = [*LAUNCHER, str(free_port()), str(EXAMPLE), "--epochs", "1", "--stage", str(stage)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    environment["PATH"] = os.pathsep.join([str(BIN), environment.get("PATH", "")])
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False, timeout=180
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "val/acc" in done.stdout
    run = load_runs(tmp_path / "costs")[0]
    params = 64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10
    assert run.final["params"] == params
    assert (run.final["batches"], run.final["steps"], run.final["epochs"]) == (22, 11, 1)
    assert run.points["val/acc"].drop_nulls().len() == 1
    setup = run.header["setup"]
    assert (setup["zero_stage"], setup["accumulate_grad_batches"], setup["batch_size"]) == (stage, 2, 32)
    assert setup["strategy"] == "DeepSpeedEngine"

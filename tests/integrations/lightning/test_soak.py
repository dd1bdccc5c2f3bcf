"""Runs that are killed at random moments: totals are the sum of what ran, and nothing is counted twice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("chains", "kills"), [(1, 2), pytest.param(5, 10, marks=pytest.mark.slow)], ids=["2-kills", "50-kills"]
)
def test_a_run_that_is_killed_again_and_again_counts_every_step_once(chains: int, kills: int) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "soak.py", f"--chains={chains}", f"--kills={kills}", "--seed=2"],
        capture_output=True, text=True, check=False, timeout=1500,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "every point's steps, samples and FLOPs are those that ran" in done.stdout

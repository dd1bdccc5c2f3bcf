"""The benchmark of many runs, of which docs/scale quotes figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

ROOT = Path(__file__).parents[2]


def test_the_benchmark_of_scale_runs() -> None:
    called = [sys.executable, str(ROOT / "benchmarks" / "compare_scale.py"), "--runs", "10", "20", "--points", "50"]
    done = subprocess.run(called, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["10", "20"]

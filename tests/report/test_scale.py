"""Many runs: the page stays small, whatever is left out is left out of drawings alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic import zoo

from lightning_costs import compare
from lightning_costs.report.page.page import page

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def test_eight_runs_of_500_points_are_drawn_whole_under_four_megabytes() -> None:
    text = page(compare(zoo(8, 500)))
    assert len(text.encode()) < 4e6
    data = json.loads(text.split('id="page-data">')[1].split("</script>")[0])
    assert len(data["datasets"]["curves"]["r"]) == 8 * 500


def test_the_benchmark_of_scale_runs_and_grows_linearly_in_the_page(tmp_path: Path) -> None:
    called = [sys.executable, str(ROOT / "benchmarks" / "compare_scale.py"), "--runs", "10", "20", "--points", "50"]
    done = subprocess.run(called, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()[2:]]
    assert [row[0] for row in rows] == ["10", "20"]

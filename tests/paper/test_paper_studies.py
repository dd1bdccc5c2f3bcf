"""Every study trains at its smallest size (no inference there), and its claims can be told of what it leaves."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from examples.paper import STUDIES, learning, ranks
from examples.paper.child import process_context
from examples.paper.claims import Results
from examples.paper.study import Study, find_study
from examples.paper.telling import cost_lines
from lightning_costs import CostMonitor, load_runs

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def imported_once() -> None:
    """By the server of processes, as where a command trains; ZeRO loads the last one, seconds in each process."""
    late = ("sklearn.datasets", "deepspeed.runtime.zero.muon.muon_optimizer")
    process_context().set_forkserver_preload([*ranks.PRELOAD, *late])


@pytest.fixture(autouse=True)
def no_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring it takes seconds of each run."""
    monkeypatch.setattr(learning, "CostMonitor", lambda **options: CostMonitor(**{**options, "infer": False}))


def trained(study: Study, folder: Path) -> Results:
    for job in study.jobs("tiny", folder, seeds=1):
        study.train(job)
    return Results.of(study, load_runs(folder))


#: What trains within a second or two; the others do so with `-m slow`: files of their own train what is theirs.
QUICK = ("fig1", "fig2", "fig4", "table1")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in STUDIES]
)
def test_a_study_leaves_a_finished_run_of_each_method_and_every_claim_has_its_readings(
    name: str, tmp_path: Path
) -> None:
    study = find_study(name)
    results = trained(study, tmp_path)
    assert list(results.rows) == list(study.arms)
    for seeds in results.rows.values():
        assert seeds[1]["status"] == "finished"
        assert seeds[1]["best_quality"] is not None
    for claim in study.claims:
        for evidence in claim.against(results).evidence.split("; "):
            assert "unknown" not in evidence or "`infer_" in evidence, f"{claim.text}: {evidence}"
    shown = cost_lines(study, results)[0]
    assert all(f"`{column}`" in shown for column in study.columns if not column.startswith("infer_"))


def test_the_study_on_the_page_for_your_own_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "paper" / "adapt.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "separable.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        results = trained(find_study("separable"), tmp_path / "runs")
    finally:
        sys.modules.pop("separable", None)
    plain, separable = (results.rows[arm][1]["final"] for arm in ("plain", "separable"))
    assert plain["params"] == 2570
    assert separable["params"] == 842
    assert (separable["flop"] or 0.0) < (plain["flop"] or 0.0)

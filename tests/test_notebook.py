"""The notebook of the tutorials runs, and shows a run and a comparison as they draw themselves."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TUTORIALS = Path(__file__).parents[1] / "docs" / "tutorials"


def test_the_notebook_runs_and_draws_a_run_and_a_comparison() -> None:
    spec = spec_from_file_location("execute_notebook", TUTORIALS / "execute_notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    cells = module.executed(TUTORIALS / "notebook.ipynb").cells
    drawn = {
        cell["source"].splitlines()[-1]: output["data"]
        for cell in cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "execute_result"
    }
    assert "text/html" in drawn["run"]
    assert "text/html" in drawn["compared"]
    assert all("Adam" in str(drawn[name]["text/html"]) for name in ("run", "compared"))

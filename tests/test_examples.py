"""Examples do what their texts say."""

from __future__ import annotations

import math
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import optuna
import pytest
from optuna.trial import TrialState

from lightning_costs import load_runs

pytestmark = pytest.mark.integration


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "examples"))
    monkeypatch.delitem(sys.modules, "search", raising=False)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return import_module("search")


def test_a_search_of_two_objectives_tells_costs_and_never_an_infinite_one(search: ModuleType, tmp_path: Path) -> None:
    study = search.search_two(tmp_path, trials=4, epochs=2)
    runs = {run.name: run for run in load_runs(tmp_path)}
    for trial in study.trials:
        run = runs[f"trial-{trial.number}"]
        assert trial.values[1] == run.final["flop"]
        assert run.header["search"] == {"trials": 4, "under": "flop"}
        assert all(math.isfinite(amount) for amount in trial.user_attrs.values())
        reached = max(run.points["val/acc"].drop_nulls()) >= search.TARGET
        assert trial.user_attrs["reached"] == int(reached)
        assert ("flop_to_target" in trial.user_attrs) == reached
    assert {trial.user_attrs["reached"] for trial in study.trials} == {0, 1}
    for one in study.best_trials:
        assert not any(other.values[0] > one.values[0] and other.values[1] < one.values[1] for other in study.trials)


def test_a_search_under_a_limit_prunes_the_trials_that_were_stopped_at_it(search: ModuleType, tmp_path: Path) -> None:
    limit = 3e7
    study = search.search_limit(tmp_path, trials=4, epochs=2, limit_flop=limit)
    runs = {run.name: run for run in load_runs(tmp_path)}
    assert {trial.state for trial in study.trials} == {TrialState.PRUNED, TrialState.COMPLETE}
    for trial in study.trials:
        flop = runs[f"trial-{trial.number}"].final["flop"]
        assert flop is not None
        assert (flop >= limit) == (trial.state is TrialState.PRUNED)
        assert flop < 1.1 * limit
        assert trial.intermediate_values or trial.state is TrialState.PRUNED

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning.pytorch as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.paper.claims import Results
from examples.paper.fig2 import STUDY, LeadChanges, WarnsOfEarlyLead, build, leads
from examples.paper.study import Job

COSTS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=12)


def jobs(size: str) -> dict[str, Job]:
    return {job.arm: job for job in STUDY.jobs(size, Path(), seeds=1)}


def compared(costs: dict[str, list[float]], cautions: tuple[Any, ...] = ()) -> Results:
    """Results over four targets; three seeds of each method cost the same."""
    labels = {f"{arm}-seed{seed}": costs[arm] for arm in costs for seed in (1, 2, 3)}
    sweep = {"targets": [0.0, 1.0, 2.0, 4.0], "costs": {"samples": labels}}
    rows = {arm: {seed: {"label": f"{arm}-seed{seed}"} for seed in (1, 2, 3)} for arm in costs}
    return Results(cast(Any, SimpleNamespace(sweep=sweep, cautions=list(cautions))), cast(Any, rows))


@pytest.mark.parametrize("size", list(STUDY.sizes))
def test_the_short_schedule_is_a_quarter_of_the_long_one_and_all_else_of_them_is_the_same(size: str) -> None:
    planned = {arm: build(job).trainer["max_epochs"] for arm, job in jobs(size).items()}
    assert {arm: 4 * planned["short"] for arm in planned if arm != "short"} == {
        arm: epochs for arm, epochs in planned.items() if arm != "short"
    }
    settings = {arm: dict(job.settings) for arm, job in jobs(size).items()}
    assert settings["short"] == {**settings["long"], "share": 0.25}
    for arm in ("low-decay", "high-decay"):
        assert settings[arm] == {**settings["long"], "weight_decay": STUDY.arms[arm]["weight_decay"]}
    assert settings["low-decay"]["weight_decay"] < settings["long"]["weight_decay"]
    assert settings["long"]["weight_decay"] < settings["high-decay"]["weight_decay"]


@pytest.mark.parametrize("arm", ["short", "long"])
def test_the_learning_rate_comes_down_over_just_the_epochs_that_are_trained(arm: str) -> None:
    training = build(jobs("tiny")[arm])
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    pl.Trainer(
        accelerator="cpu",
        callbacks=[Watch()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
        **training.trainer,
    ).fit(training.module, datamodule=training.data)
    assert len(rates) == 5 * training.trainer["max_epochs"]
    assert rates[-1] == 0.0
    assert all(rate > 0 for rate in rates[:-1])


@given(COSTS)
def test_shares_of_a_lead_are_shares_and_nobody_leads_himself(costs: list[tuple[int, int]]) -> None:
    targets = [float(at) for at in range(len(costs))]
    one, two = ([float(pair[at]) for pair in costs] for at in (0, 1))
    first, last = leads(targets, one, two)
    assert first is not None
    assert last is not None
    assert 0 <= first <= first + last <= 1
    assert leads(targets, one, one) == (0.0, 0.0)


def test_a_lead_without_readings_is_unknown() -> None:
    assert leads([1.0, 2.0], [1.0, None], [1.0, 2.0]) == (None, None)
    assert leads([1.0], [1.0], [2.0]) == (None, None)
    assert leads([1.0, 2.0], [], []) == (None, None)


@pytest.mark.parametrize(
    ("early", "late", "verdict"),
    [
        ([1, 2, 4, math.inf], [2, 3, 4, 8], "held"),
        ([1, 2, 4, 7], [2, 3, 5, 8], "not held"),  # leads to the end
        ([2, 3, 4, 8], [1, 2, 4, math.inf], "not held"),  # the other way round
        ([2, 3, 4, math.inf], [2, 3, 4, 8], "not held"),  # never ahead
    ],
)
def test_a_lead_changes_where_the_early_one_falls_behind_for_good(
    early: list[float], late: list[float], verdict: str
) -> None:
    results = compared({"short": early, "long": late})
    assert LeadChanges("samples", "short", "long")(results).verdict == verdict
    assert LeadChanges("no_such_column", "short", "long")(results).verdict == "undecided"


def test_a_warning_counts_where_it_is_of_the_method_by_samples_and_names_the_setting() -> None:
    def warned(run: str, column: str, difference: str) -> str:
        caution = {
            "kind": "early_lead",
            "text": "leads early",
            "runs": [run, "long-seed1"],
            "evidence": {"share_of_range": {column: 0.5}, "differences": [difference]},
        }
        results = compared({"short": [], "long": []}, (caution,))
        return WarnsOfEarlyLead("max_epochs", "short")(results).verdict

    assert warned("short-seed2", "samples", "max_epochs 1 against 4") == "held"
    assert warned("long-seed2", "samples", "max_epochs 1 against 4") == "not held"
    assert warned("short-seed2", "train_s", "max_epochs 1 against 4") == "not held"
    assert warned("short-seed2", "samples", "optimizers.0.lr 1 against 4") == "not held"

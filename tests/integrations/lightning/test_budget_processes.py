"""CostBudget in two processes: both stop after the same step, whoever knows what; nobody waits for anybody in vain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import run

from lightning_costs import load_runs

pytestmark = pytest.mark.integration

_SCRIPT = """
import json, os, sys, time, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import torch
from fakes import measured, patient
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostBudget, CostMonitor
from lightning_costs.recording.emission import Emission
from lightning_costs.records.limits import Budget
from lightning_costs.records.missing import Missing
from lightning_costs.indicators.clocks import TotalS, TrainS
from lightning_costs.recording import job
from lightning_costs.indicators.counts import Samples, Steps
from lightning_costs.ranks import exchange

torch.set_num_threads(1)
pl, folder, rank = namespace("lightning.pytorch"), sys.argv[2], int(os.environ["LOCAL_RANK"])
stopped = {}


class Slow(type(classifier(pl))):
    def training_step(self, batch, batch_idx):
        time.sleep(0.01 if rank == 0 else 0.0)
        return super().training_step(batch, batch_idx)


def fit(case, limits, *, monitored=True, ckpt=None, val=False, model=None, **options):
    # Of the beads only rank 0 has any.
    beads = measured("bead_calls", reads=lambda s: 1.0 * s.steps * (rank == 0), across="rank0")
    watched = [Steps(), TotalS(), TrainS(), Samples(), beads]
    monitor = [CostMonitor(save_dir=f"{folder}/{case}", infer=False, indicators=watched)] if monitored else []
    t = trainer(pl, CostBudget(limits), *monitor, devices=2, strategy="ddp", max_epochs=20,
                default_root_dir=f"{folder}/{case}", **options)
    try:
        t.fit(model or classifier(pl), data(), data() if val else None, ckpt_path=ckpt)
        stopped[case] = t.global_step
    except ValueError as error:
        stopped[case] = str(error)


fit("one_rank_is_past", {"bead_calls": 12.5, "steps": 1000})
resumable = f"{folder}/one_rank_is_past/checkpoints/budget-epoch=3-step=13.ckpt"
fit("one_rank_is_past", {"bead_calls": 13}, ckpt=resumable)
stopped["resumed_at_once"] = stopped["one_rank_is_past"]
fit("one_rank_is_past", {"bead_calls": 22}, ckpt=resumable)
stopped["resumed"] = stopped.pop("one_rank_is_past")
fit("far_between_looks", {"bead_calls": 61}, log_every_n_steps=1000)
fit("accumulating", {"bead_calls": 5}, accumulate_grad_batches=2, val=True)
fit("evaluating", {"bead_calls": 14}, val=True, val_check_interval=3)
fit("seconds", {"train_s": 0.3}, model=Slow(), log_every_n_steps=7)
with patient():
    fit("summed_over_ranks", {"samples": 16 * 9}, log_every_n_steps=1000)
fit("rank_1_has_no_monitor", {"bead_calls": 9}, monitored=rank == 0)
fit("rank_0_has_no_monitor", {"bead_calls": 9}, monitored=rank == 1)
store = exchange.job_store
exchange.job_store = job.job_store = lambda: (_ for _ in ()).throw(Missing("no store"))
fit("not_summed_over_ranks", {"samples": 9})
exchange.job_store = job.job_store = store
look = Budget.update
if rank == 0:
    Budget.update = lambda *a, **k: 1 / 0
fit("rank_0_is_at_fault", {"bead_calls": 9}, max_steps=30)
Budget.update = look
if rank == 0:
    Emission.emit = lambda *a, **k: 1 / 0
fit("rank_0_breaks_off", {"bead_calls": 9}, max_steps=30)
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(stopped, file)
"""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, object]]]:
    """Where each rank stopped, by case."""
    folder = tmp_path_factory.mktemp("two")
    run(_SCRIPT, folder)
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(
    ("case", "step"),
    [
        ("resumed_at_once", 13),
        ("resumed", 22),
        ("far_between_looks", 61),
        ("accumulating", 5),
        ("evaluating", 14),
        ("summed_over_ranks", 9),
        ("rank_1_has_no_monitor", 9),
        ("rank_0_is_at_fault", 30),
        ("rank_0_breaks_off", 30),
    ],
)
def test_both_ranks_stop_at_the_first_step_past_rank_0s_limit(
    stopped: tuple[Path, list[dict[str, object]]], case: str, step: int
) -> None:
    assert [rank[case] for rank in stopped[1]] == [step, step]


def test_both_ranks_stop_at_the_same_step_whatever_their_clocks_say(
    stopped: tuple[Path, list[dict[str, object]]],
) -> None:
    first, second = (rank["seconds"] for rank in stopped[1])
    assert first == second
    assert 1 <= first <= 31  # type: ignore[operator] # a step of rank 0 takes 10 ms at least


def test_what_no_rank_can_hold_ends_the_fit_on_all(stopped: tuple[Path, list[dict[str, object]]]) -> None:
    for rank in stopped[1]:
        assert "samples is missing: only this rank of 2 reported, and it joins by sum" in str(
            rank["not_summed_over_ranks"]
        )
        assert "CostBudget needs a CostMonitor" in str(rank["rank_0_has_no_monitor"])


def test_the_run_of_two_processes_says_what_stopped_it(stopped: tuple[Path, list[dict[str, object]]]) -> None:
    (run,) = load_runs(stopped[0] / "one_rank_is_past")
    assert run.header["stopped"] | {"amount": None} == {
        "by": "CostBudget", "step": 21, "column": "bead_calls", "limit": 22.0, "amount": None
    }  # fmt: skip
    assert run.final["steps"] == 22

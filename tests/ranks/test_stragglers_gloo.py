"""Four real gloo processes on what they take for two nodes, one of them 10 % slow."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import run

from lightning_costs import load_runs
from lightning_costs.run.verdict import verdict

pytestmark = pytest.mark.integration

_SCRIPT = """
import os, sys, time, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import torch
from lightning_models import classifier, namespace, trainer
from lightning_costs import CostMonitor

torch.set_num_threads(1)
rank, slow, pl = int(os.environ["RANK"]), sys.argv[3], namespace("lightning.pytorch")
extra_s = {name: 0.006 if rank == 2 and slow == name else 0.0 for name in ("input", "training", "other")}


class Model(type(classifier(pl))):
    def training_step(self, batch, batch_idx):
        time.sleep(0.06 + extra_s["training"])
        return super().training_step(batch, batch_idx)


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return 4 * 4 * 110

    def __getitem__(self, index):
        time.sleep(extra_s["input"] / 4)
        return torch.zeros(16), 1


class Hook(pl.Callback):
    def on_train_batch_end(self, *args):
        time.sleep(extra_s["other"])


monitor = CostMonitor(save_dir=sys.argv[2] + "/costs", infer=False)
loader = torch.utils.data.DataLoader(Samples(), batch_size=4)
fit = dict(devices=2, num_nodes=2, strategy="ddp", max_steps=100, max_epochs=-1, log_every_n_steps=50)
trainer(pl, monitor, Hook(), **fit).fit(Model(), loader)
"""


@pytest.mark.slow
@pytest.mark.parametrize("slow", ["input", "training", "other"])
def test_a_rank_that_is_10_percent_slow_is_named_with_node_and_phase(tmp_path: Path, slow: str) -> None:
    said = run(_SCRIPT, tmp_path, 4, slow, per_node=2)
    (record,) = load_runs(tmp_path / "costs")
    (found,) = record.header["ranks"]["stragglers"]
    assert (found["ranks"], found["node"], found["phase"]) == ([2], 1, slow)
    assert found["batch"] <= 100
    assert f"rank 2 on node 1 is a straggler ({slow})" in said
    assert record.final["straggler_s"] == pytest.approx(found["waited_s"])
    assert (record.final["straggler_s"] or 0.0) > 0.2  # of some 0.6 s
    judged = verdict(record.header, record.final)
    assert (judged.kind, judged.saves_s) == ("straggler", record.final["straggler_s"])


@pytest.mark.slow
def test_four_even_ranks_have_no_straggler(tmp_path: Path) -> None:
    said = run(_SCRIPT, tmp_path, 4, "none", per_node=2)
    (record,) = load_runs(tmp_path / "costs")
    assert record.header["ranks"]["stragglers"] == []
    assert record.final["straggler_s"] == 0.0
    assert "is a straggler" not in said
    assert verdict(record.header, record.final).kind == "none"

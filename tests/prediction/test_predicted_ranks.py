"""Two gloo processes predicted from one: what they send, hold and train, against what they did."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import run

from lightning_costs import load_runs, predict

pytestmark = [pytest.mark.integration, pytest.mark.slow]

_SCRIPT = """
import os, sys, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import torch
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostMonitor

torch.set_num_threads(1)
pl = namespace("lightning.pytorch")
ranks = int(os.environ["WORLD_SIZE"])
monitor = CostMonitor(save_dir=f"{sys.argv[2]}/costs", name=str(ranks), infer=False)
options = dict(devices=ranks, strategy="ddp") if ranks > 1 else {}
sent = []

class Watch(pl.Callback):
    def on_train_start(self, trainer, module):
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        def watched(group, bucket):
            sent.append(bucket.buffer().nbytes)
            return allreduce_hook(group, bucket)

        if ranks > 1:
            trainer.strategy.model.register_comm_hook(None, watched)

t = trainer(pl, monitor, Watch(), max_epochs=8, default_root_dir=sys.argv[2], **options)
t.fit(classifier(pl, optimizer="adam"), data(512))
if sent and os.environ["RANK"] == "0":
    print("steps", t.global_step, "reduced", sum(sent) // t.global_step)
"""


def test_two_gloo_processes_are_predicted_from_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(_SCRIPT, tmp_path, 1)
    said = run(_SCRIPT, tmp_path, 2)
    by_name = {one.name: one for one in load_runs(tmp_path / "costs")}
    one, two = by_name["1"], by_name["2"]
    found = predict(one, devices=2, strategy="ddp", link_bytes_per_s=1e9)
    words = said.split()
    assert "steps" in words, said
    steps, reduced = int(words[words.index("steps") + 1]), int(words[words.index("reduced") + 1])
    assert found["steps"] == steps == two.final["steps"]
    assert found["comm_bytes"] == pytest.approx(2 * (2 - 1) / 2 * reduced)
    assert found["flop"] == pytest.approx(two.final["flop"])
    for kind in ("param", "opt_state"):
        held = two.final[f"rank_max_{kind}_bytes"]
        assert found.memory[kind] == pytest.approx(held, rel=0.01), kind
    with capsys.disabled():
        actual = two.final["steady_s"] / (two.final["steady_samples"] / 16)  # type: ignore[operator]
        print(f"\nstep of two: predicted {found.amounts['step_s'].words('s')}, took {1e3 * actual:.3g} ms")


def test_a_run_of_two_processes_predicts_itself(tmp_path: Path) -> None:
    run(_SCRIPT, tmp_path, 2)
    (two,) = load_runs(tmp_path / "costs")
    found = predict(two, link_bytes_per_s=1e9)
    assert found["total_s"] == pytest.approx(two.final["total_s"])
    assert found["energy_j"] == pytest.approx(two.final["energy_j"])
    assert found["flop"] == pytest.approx(two.final["flop"])

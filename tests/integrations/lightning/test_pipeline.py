"""Pipelines in a real Trainer: CostMonitor finds the schedule, and the example trains two stages on two processes."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning_models import NAMESPACES
from processes import TESTS, Script

from lightning_costs import compare, load_runs

pytestmark = pytest.mark.integration

_ROOT = Path(__file__).parents[3]

#: One process that holds both parts of a model, as a schedule of torch's may: nothing else tells it from a pipeline.
_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from torch import distributed, nn
from torch.distributed.pipelining import PipelineStage, ScheduleInterleaved1F1B
from lightning_models import data, namespace, trainer
from lightning_costs import CostMonitor

pl = namespace(sys.argv[2])
distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)


class Pipelined(pl.LightningModule):
    automatic_optimization = False

    def configure_model(self):
        self.parts = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 4)])
        stages = [PipelineStage(part, i, 2, torch.device("cpu")) for i, part in enumerate(self.parts)]
        self.schedule = ScheduleInterleaved1F1B(stages, 4, loss_fn=nn.functional.cross_entropy)

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.optimizers().zero_grad()
        self.schedule.step(x, target=y)
        self.optimizers().step()

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val/acc", (self.parts[1](self.parts[0](x)).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


module = Pipelined()
logger = pl.loggers.WandbLogger(save_dir=sys.argv[3], offline=True)
monitor = CostMonitor(save_dir=sys.argv[3] + "/costs", monitor="val/acc", mode="max")
try:
    trainer(pl, monitor, logger=logger, max_epochs=2).fit(module, data(), data())
finally:
    logger.experiment.finish()
assert "step" not in vars(module.schedule), "a shadow stayed"
distributed.destroy_process_group()
"""


@pytest.mark.parametrize("name", [NAMESPACES[0], pytest.param(NAMESPACES[1], marks=pytest.mark.slow)])
def test_a_schedule_is_found_and_one_step_of_it_is_drawn_on_the_page_and_for_wandb(tmp_path: Path, name: str) -> None:
    script = tmp_path / "train.py"
    script.write_text(_SCRIPT)
    done = Script(script, (TESTS, name, str(tmp_path)), tmp_path).ended()
    assert done.code == 0, done.err[-3000:]
    (run,) = load_runs(tmp_path / "costs")
    told = run.header["pipeline"]
    assert (told["schedule"], told["stages"], told["microbatches"], told["chunks"]) == (
        "ScheduleInterleaved1F1B",
        1,
        4,
        2,
    )
    assert run.final["bubble_theory_fraction"] == 0.0
    assert 0 < run.final["bubble_fraction"] < 1  # type: ignore[operator]
    assert run.final["samples"] == 2 * 64
    products = 16 * 16 + 16 * 4
    assert run.final["flop"] == 2 * 64 * 2 * (3 * products - 16 * 16), "the data has no gradient"
    page = (compare([run]).to_html(tmp_path / "page.html")).read_text()
    assert "<h3>Pipelines</h3>" in page
    assert "ScheduleInterleaved1F1B, 1 stage, 2 chunks each, 4 micro-batches: step 6</text>" in page
    pictures = list((tmp_path / "wandb").glob("offline-run-*/files/media/images/cost/pipeline_timeline*.png"))
    assert len(pictures) == 1
    assert pictures[0].read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_example_trains_two_stages_on_two_processes(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import runpy\nfrom lightning_costs.probes.pipeline import timeline_exchange as pipeline_lanes\n"
        "pipeline_lanes.MOST_S = 60.0  # on a busy machine the other rank may come late\n"
        f"runpy.run_path({str(_ROOT / 'examples' / 'pipeline.py')!r}, run_name='__main__')\n"
    )
    done = Script(tmp_path / "train.py", ("--epochs", "1", "--save-dir", str(tmp_path / "costs")), tmp_path).ended()
    assert done.code == 0, done.err[-3000:]
    (run,) = load_runs(tmp_path / "costs")
    told = run.header["pipeline"]
    assert (told["schedule"], told["stages"], told["microbatches"]) == ("Schedule1F1B", 2, 4)
    assert [lane["stage"] for lane in told["timeline"]["lanes"]] == [0, 1]
    assert run.final["bubble_theory_fraction"] == 1 / 5
    assert 0 < run.final["bubble_fraction"] < 1  # type: ignore[operator]
    assert run.final["samples"] == 1380, "a replica's samples are counted once"
    assert run.final["params"] == 64 * 1024 + 1024 + 4 * (1024 * 1024 + 1024) + 1024 * 10 + 10, "of both stages"
    assert run.points["val/acc"].drop_nulls()[-1] > 0.5
    assert "4 micro-batches" in done.out

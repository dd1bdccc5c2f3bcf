"""Lightning's strategies on two real processes, in both namespaces: each rank reads what it holds and does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from processes import run

from lightning_costs import load_runs

pytestmark = pytest.mark.integration

PARAMS = 8 * (64 * 64 + 64)

_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from deepspeed_on_cpu import blocks, strategy, tell
from rank_readings import own_readings
from lightning_models import namespace
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.utils.data import DataLoader, TensorDataset
from lightning_costs import CostMonitor

def module(pl, shard, groups):
    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = blocks()

        def configure_model(self):
            if shard and not hasattr(self, "sharded"):
                self.sharded = True
                for layer in self.net:
                    fully_shard(layer, mesh=self.device_mesh["data_parallel"])
                fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

        def training_step(self, batch, index):
            return self.net(batch[0]).float().pow(2).mean()

        def configure_optimizers(self):
            parameters = list(self.parameters())
            parts = [{"params": parameters[part::groups]} for part in range(groups)]
            return torch.optim.AdamW(parts, lr=1e-3)

    return Module()

def fsdp(pl, policy=None):
    class OnCpu(pl.strategies.FSDPStrategy):  # Lightning and torch ask for an accelerator
        def _setup_model(self, model):
            cpu = torch.device("cpu")
            return FullyShardedDataParallel(model, device_id=cpu, auto_wrap_policy=policy, **self.kwargs)

    return OnCpu()

def case(pl, made, *, precision="32-true", accumulate=1, shard=False, groups=1):
    torch.manual_seed(0)
    monitor = CostMonitor(save_dir=sys.argv[2] + "/costs", infer=False)
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy=made, precision=precision, accumulate_grad_batches=accumulate,
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[monitor], log_every_n_steps=2,
    )
    with own_readings() as read:
        trainer.fit(module(pl, shard, groups), DataLoader(TensorDataset(torch.randn(64, 64)), batch_size=4))
    engine = getattr(trainer.strategy, "deepspeed_engine", None)
    return {
        **read,
        "statics": dict(monitor.run.header["statics"]) if monitor.run is not None else None,
        "setup": dict(monitor.run.header["setup"]) if monitor.run is not None else None,
        "global_step": trainer.global_step,
        "engine_steps": engine.global_steps if engine is not None else None,
        "shadowed": "step" in vars(trainer.strategy.optimizers[0]) if trainer.strategy.optimizers else False,
    }

if __name__ == "__main__":
    from torch.distributed.fsdp.wrap import ModuleWrapPolicy
    one, other = namespace("lightning.pytorch"), namespace("pytorch_lightning")
    told = {
        "ddp": case(one, "ddp", accumulate=2),
        "fsdp": case(other, fsdp(other)),
        "fsdp by layer": case(one, fsdp(one, ModuleWrapPolicy({nn.Linear})), accumulate=2),
        "fsdp2": case(other, other.strategies.ModelParallelStrategy(2, 1), shard=True),
        "zero 0": case(other, strategy(other, stage=0), accumulate=2),
        "zero 1": case(one, strategy(one, stage=1), precision="bf16-true", groups=3, accumulate=2),
        "zero 2": case(other, strategy(other, stage=2), precision="bf16-mixed"),
        "zero 2 offload": case(one, strategy(one, stage=2, offload_optimizer=True), groups=2),
        "zero 3": case(one, strategy(one, stage=3), groups=2, accumulate=2),
    }
    tell(told)
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("strategies")
    run(_SCRIPT, folder, 2)
    return [json.loads((folder / f"told{rank}.json").read_text()) for rank in range(2)]


#: Bytes a parameter on each of two ranks: parameters, masters, gradients, state. ZeRO-3 keeps small parameters whole
#: beside their shards, as Lightning leaves DeepSpeed's threshold; an offloaded stage 2 keeps a copy for the device.
#: FSDP keeps whole gradients where it accumulates: Lightning then puts off the exchange between ranks.
HELD = {
    "ddp": (4, 0, 4, 8),
    "fsdp": (2, 0, 2, 4),
    "fsdp by layer": (2, 0, 4, 4),
    "fsdp2": (2, 0, 2, 4),
    "zero 0": (4, 0, 4, 8),
    "zero 1": (2, 2, 2, 4),
    "zero 2": (2, 2, 2, 4),
    "zero 2 offload": (4 + 2, 2, 2, 4),
    "zero 3": (2 + 4, 2, 4, 4),
}
ACCUMULATING = ("ddp", "fsdp by layer", "zero 0", "zero 1", "zero 3")
DEEPSPEED = tuple(case for case in HELD if case.startswith("zero"))


@pytest.mark.parametrize("case", HELD)
def test_each_rank_reads_what_it_holds(told, case: str) -> None:
    for by_rank in told:
        read = by_rank[case]
        columns = ("param_bytes", "master_bytes", "grad_bytes", "opt_state_bytes")
        found = [read[column] / PARAMS for column in columns]
        assert found == pytest.approx(HELD[case], abs=0.05)  # of paddings
        assert read["opt_peak_bytes"] == read["opt_state_bytes"]
        assert read["rank_max_opt_state_bytes"] == read["opt_state_bytes"]


@pytest.mark.parametrize("case", HELD)
def test_parameters_count_once_and_samples_are_this_ranks(told, case: str) -> None:
    statics = told[0][case]["statics"]
    assert (statics["params"], statics["trainable_params"], statics["active_params"]) == (PARAMS,) * 3
    assert statics["activation_elements"] == 8 * 64
    for by_rank in told:
        assert by_rank[case]["samples"] == 32


@pytest.mark.parametrize("case", HELD)
def test_updates_are_counted_at_boundaries_by_every_strategy(told, case: str) -> None:
    steps = 4 if case in ACCUMULATING else 8
    for by_rank in told:
        read = by_rank[case]
        assert (read["batches"], read["steps"], read["optimizer_steps"]) == (8, steps, steps)
        if case in DEEPSPEED:
            assert read["engine_steps"] == steps
        assert not read["shadowed"]


@pytest.mark.parametrize("case", HELD)
def test_every_strategy_computes_the_same(told, case: str) -> None:
    for by_rank in told:
        assert by_rank[case]["flop"] == 8 * (8 * 3 - 1) * (2 * 4 * 64 * 64)


@pytest.mark.parametrize("case", DEEPSPEED)
def test_the_setup_says_which_stage_and_what_is_offloaded(told, case: str) -> None:
    setup = told[0][case]["setup"]
    assert setup["zero_stage"] == int(case.split()[1])
    assert setup["offload_optimizer"] == ("cpu" if "offload" in case else None)


_SPAWNED = """
import sys
sys.path.insert(0, sys.argv[1])
import json
from pathlib import Path
from rank_readings import own_readings
from lightning_models import namespace, trainer
from lightning_costs import CostMonitor
from pytorch_lightning.demos.boring_classes import BoringModel

pl = namespace("pytorch_lightning")
reading = own_readings()
read = reading.__enter__()  # in the processes that are spawned too

class Tell(pl.Callback):
    def teardown(self, trainer, module, stage):
        (Path(sys.argv[2]) / f"told{trainer.global_rank}.json").write_text(json.dumps(read))

class Model(BoringModel):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.step(batch), sync_dist=True)

if __name__ == "__main__":
    monitor = CostMonitor(save_dir=sys.argv[2] + "/costs", monitor="val_loss", mode="min")
    options = dict(strategy="ddp_spawn", max_epochs=1, limit_train_batches=4, limit_val_batches=2)
    trainer(pl, monitor, Tell(), devices=2, **options).fit(Model())
"""


def test_processes_that_lightning_spawns_read_what_they_hold_and_leave_one_run(tmp_path: Path) -> None:
    run(_SPAWNED, tmp_path, 1)
    (record,) = load_runs(tmp_path / "costs")
    assert (record.header["status"], record.header["setup"]["processes"]) == ("finished", 2)
    assert (record.final["steps"], record.final["samples"]) == (4, 8)
    assert record.points["val_loss"].drop_nulls().len() == 1
    for rank in range(2):
        read = json.loads((tmp_path / f"told{rank}.json").read_text())
        params = 32 * 2 + 2
        assert (read["param_bytes"], read["grad_bytes"], read["master_bytes"]) == (4 * params, 4 * params, 0)
        assert (read["steps"], read["samples"]) == (4, 4)

"""Two processes that train together: what rank 0 writes is the job's, each reading once per owner."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from consistency import agree
from processes import run, start

from lightning_costs import load_run, load_runs

pytestmark = pytest.mark.integration

_SCRIPT = """
import json, os, sys, time, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import torch
from torch import nn
from fakes import patient
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostMonitor
from lightning_costs.ranks.exchange import Exchange

torch.set_num_threads(1)
waiting = patient()
waiting.__enter__()
folder, rank = sys.argv[2], int(os.environ["RANK"])
told = {}
leave = Exchange.publish


def left(self, vector, **how):
    told.setdefault("energy_of_" + case, []).append(vector.amounts.get("cpu_energy_j"))
    return leave(self, vector, **how)


Exchange.publish = left


def fit(name, model, train, *callbacks, val=None, strategy="ddp", pl=namespace("lightning.pytorch"), **options):
    global case
    case = name
    monitor = CostMonitor(save_dir=f"{folder}/{name}", monitor="val/acc", mode="max", name=name)
    t = trainer(pl, monitor, *callbacks, devices=2, strategy=strategy, default_root_dir=folder, **options)
    t.fit(model, train, val)
    return t


for name in ("lightning.pytorch", "pytorch_lightning"):
    pl = namespace(name)

    class Seen(pl.Callback):
        def __init__(self):
            self.after = []

        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                costs = {k: v for k, v in trainer.callback_metrics.items() if k.startswith("cost/")}
                assert all(v.dtype == torch.float64 for v in costs.values())
                self.after.append({k: float(v) for k, v in costs.items()})

    seen = Seen()
    fit(name, classifier(pl), data(), seen, val=data(), pl=pl, logger=pl.loggers.CSVLogger(f"{folder}/csv/{name}"))
    told[name] = seen.after

pl = namespace("lightning.pytorch")


class Stopwatch(pl.Callback):
    def on_train_start(self, *args):
        self.began_s = time.perf_counter()

    def on_train_end(self, *args):
        self.took_s = time.perf_counter() - self.began_s


watch = Stopwatch()
fit("stopwatch", classifier(pl, train_s=0.02), data(samples=16 * 70), watch, max_epochs=1, log_every_n_steps=25)
told["stopwatch"] = watch.took_s


class Straggler(type(classifier(pl))):
    def training_step(self, batch, batch_idx):
        time.sleep(0.05 if rank == 1 else 0.0)
        return super().training_step(batch, batch_idx)


fit("straggler", Straggler(), data(samples=16 * 30), max_epochs=1)


class Save(pl.Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 6:
            trainer.save_checkpoint(f"{folder}/six.ckpt")


fit("checkpoint", classifier(pl), data(), Save())


class Sharded(type(classifier(pl))):
    def configure_model(self):
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        mesh = self.device_mesh["tensor_parallel"]
        parallelize_module(self.net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})


strategy = pl.strategies.ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2)
fit("sharded", Sharded(), data(), strategy=strategy)


class Heads(type(classifier(pl))):
    "Each rank of a group attends with its own heads, as plain tensors; the classifier is on every rank."

    def __init__(self, shard):
        super().__init__()
        self.shard = shard
        self.net = nn.Sequential(nn.Linear(16, 4))
        self.q, self.k, self.v, self.out = nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(4, 16), nn.Linear(16, 4)

    def configure_model(self):
        if self.shard:
            from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

            mesh, columns = self.device_mesh["tensor_parallel"], ColwiseParallel()
            parallelize_module(self, mesh, {"q": columns, "k": columns, "v": columns, "out": RowwiseParallel()})

    def training_step(self, batch, batch_idx):
        x = batch[0].view(-1, 4, 4)
        q, k, v = (part(x).view(-1, 4, part(x).shape[-1] // 4, 4).transpose(1, 2) for part in (self.q, self.k, self.v))
        heads = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return nn.functional.cross_entropy(self.net(self.out(heads).flatten(1)), batch[1])


fit("heads", Heads(False), data())
strategy = pl.strategies.ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=2)
fit("sharded heads", Heads(True), data(), strategy=strategy)
with open(f"{folder}/{rank}.json", "w") as file:
    json.dump(told, file)
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("ranks")
    run(_SCRIPT, folder)
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


Two = tuple[Path, list[dict[str, Any]]]


@pytest.mark.parametrize("namespace", ["lightning.pytorch", "pytorch_lightning"])
def test_what_both_ranks_spent_is_the_runs_and_each_owner_is_counted_once(two: Two, namespace: str) -> None:
    (run,) = load_runs(two[0] / namespace)
    assert (run.header["setup"]["processes"], run.final["steps"]) == (2, 8)
    assert run.final["samples"] == 2 * 8 * 8  # both epochs of 64
    evaluated = run.points.filter(run.points["trigger"] == "evaluate")
    assert evaluated["samples"].to_list() == [64.0, 128.0]
    assert evaluated["val/acc"].null_count() == 0
    assert run.final["params"] == 16 * 32 + 32 + 32 * 4 + 4
    assert run.final["param_bytes"] == run.final["opt_state_bytes"] == 2 * 4 * run.final["params"]
    assert run.header["ranks"]["heard"] == run.header["ranks"]["of"] == 2
    parts = run.header["attempts"][0]["startup_s"]
    assert sum(parts.values()) == pytest.approx(run.final["setup_s"])
    assert parts["distributed"] > 0
    for column in ("samples", "flop", "opt_state_bytes", "energy_j", "gpu_energy_j"):
        assert column not in run.header["missing"]


@pytest.mark.parametrize("namespace", ["lightning.pytorch", "pytorch_lightning"])
def test_headline_costs_are_the_same_on_every_rank_after_an_evaluation(two: Two, namespace: str) -> None:
    first, second = (rank[namespace] for rank in two[1])
    assert first == second
    assert len(first) == 2
    (run,) = load_runs(two[0] / namespace)
    evaluated = run.points.filter(run.points["trigger"] == "evaluate")
    for column in ("samples", "energy_j", "total_s"):
        assert [after[f"cost/{column}"] for after in first] == evaluated[column].to_list()


def test_throughput_of_two_ranks_is_of_both_ranks_samples_in_one_ranks_time(two: Two) -> None:
    (run,) = load_runs(two[0] / "stopwatch")
    steps = run.final["steady_samples"] / 16  # type: ignore[operator]
    assert 50 <= steps <= 67, "70 but for warm-up, which may be a step longer on one of the ranks"
    # A step sleeps for 0.02 s, and all of them lie between the outside stopwatch's start and stop.
    assert 0.02 * (steps - 1) <= run.final["steady_s"] <= two[1][0]["stopwatch"]  # type: ignore[operator]


def test_the_numbers_of_every_run_of_two_ranks_agree(two: Two) -> None:
    folder, _ = two
    runs = [found for place in folder.iterdir() if place.is_dir() and place.name != "csv" for found in load_runs(place)]
    assert len(runs) > 5
    for each in runs:
        agree(each)


def test_the_energy_of_one_node_is_read_by_one_rank(two: Two) -> None:
    (run,) = load_runs(two[0] / "straggler")
    first, second = (rank["energy_of_straggler"] for rank in two[1])
    assert second == [None] * len(second)
    assert run.final["cpu_energy_j"] == pytest.approx(sum(first))


def test_the_rank_that_the_other_waits_for_is_named_with_what_it_costs(two: Two) -> None:
    (run,) = load_runs(two[0] / "straggler")
    slowest = run.header["ranks"]["slowest"]
    assert (slowest["rank"], slowest["node"]) == (1, 0)
    assert slowest["ahead_s"] > 0
    assert run.final["rank_max_lead_s"] == slowest["lead_s"]


def test_a_checkpoint_between_points_holds_what_all_ranks_had_spent(two: Two) -> None:
    import torch

    state = torch.load(two[0] / "six.ckpt", weights_only=True)["lightning_costs"]
    assert state["ledger"]["costs"]["steps"] == 6.0  # points are at 4 and 8
    assert state["ledger"]["costs"]["samples"] == 6 * 16.0


def test_tensor_parallel_ranks_double_neither_samples_nor_flops(two: Two) -> None:
    (sharded,) = load_runs(two[0] / "sharded")
    (whole,) = load_runs(two[0] / "lightning.pytorch")
    assert sharded.final["steps"] == 16  # both ranks see every batch
    assert sharded.final["samples"] == 128.0
    assert sharded.final["flop"] == whole.final["flop"]
    assert sharded.final["params"] == whole.final["params"]
    assert sharded.final["samples_per_s"] is not None


def test_what_each_tensor_parallel_rank_executes_is_counted_attention_over_its_own_heads_too(two: Two) -> None:
    (sharded,) = load_runs(two[0] / "sharded heads")
    (whole,) = load_runs(two[0] / "heads")
    assert sharded.final["steps"] == 16
    whole_head = 16 * 3 * 2 * 8 * 16 * 4  # steps; forward, and both gradients of a linear layer that is not in the plan
    assert sharded.final["flop"] == whole.final["flop"] + whole_head
    assert sharded.final["mac"] == whole.final["mac"] + whole_head / 2


@pytest.mark.parametrize("column", ["forward_flop", "forward_mac", "activation_elements"])
def test_a_part_of_the_model_is_not_given_for_the_whole(two: Two, column: str) -> None:
    for name in ("sharded", "sharded heads"):
        (run,) = load_runs(two[0] / name)
        assert run.header["statics"].get(column) is None
        assert "measure(model, batch)" in run.header["missing"][column]


_KILLED = """
import os, signal, sys, time, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import torch
from lightning_models import classifier, data, namespace, trainer
from lightning_costs import CostMonitor

torch.set_num_threads(1)
pl, rank = namespace("lightning.pytorch"), int(os.environ["RANK"])


class Dies(type(classifier(pl))):
    def training_step(self, batch, batch_idx):
        if rank == 1 and self.global_step == 10:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().training_step(batch, batch_idx)


monitor = [CostMonitor(save_dir=sys.argv[2] + "/costs")] if sys.argv[3] == "with" else []
trainer(pl, *monitor, devices=2, strategy="ddp", max_epochs=100).fit(Dies(), data())
"""


def test_a_rank_that_is_killed_ends_the_others_as_it_does_without_us(tmp_path: Path) -> None:
    ended = {}
    for how in ("without", "with"):
        (folder := tmp_path / how).mkdir()
        processes = start(_KILLED, folder, 2, how)
        try:
            said = processes[0].ended().err
            ended[how] = processes[0].code
        finally:
            processes[1].ended()
        assert processes[1].code == -signal.SIGKILL
        assert "Connection closed" in said or "reset by peer" in said, said[-2000:]
    assert ended["with"] == ended["without"] == 1
    (run,) = load_runs(tmp_path / "with" / "costs")
    assert run.header["status"] == "failed"
    assert run.final["steps"] == 10
    assert run.final["samples"] is None
    assert run.header["missing"]["samples"].startswith("rank 1 did not report after its point ")
    train = run.points["samples"].drop_nulls().to_list()
    assert train == sorted(train)
    assert 32.0 <= train[0] <= train[-1] <= 128.0  # rank 1's letters may come after rank 0 looked
    assert run.header["ranks"]["gone"] == {"1": run.header["missing"]["samples"]}


_STALLS = """
import os, sys, time, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore")
import torch
import torch.distributed as dist
from lightning_costs import Recorder

dist.init_process_group("gloo")
rank, done = dist.get_rank(), sys.argv[2] + "/done"
recorder = Recorder(save_dir=sys.argv[2] + "/costs", log_every_n_steps=10, name="stalls")
steps = 0
with recorder:
    dist.barrier()
    for step in range(100):
        time.sleep(0.005)
        while rank == 1 and step == 25 and not os.path.exists(done):
            time.sleep(0.01)
        recorder.step(torch.zeros(4, 2))
    if rank == 0:
        open(done, "w").close()
    dist.barrier()
    if rank == 0:
        print("DONE", recorder.path)
        assert recorder.header["ranks"]["late"] == [1] if "ranks" in recorder.header else True
"""


def test_a_rank_that_stalls_holds_up_nobody_through_us_and_is_counted_when_it_is_back(tmp_path: Path) -> None:
    said = run(_STALLS, tmp_path, 2)  # rank 1 stands still until rank 0 is through: it would wait for good
    _, path = next(line for line in said.splitlines() if line.startswith("DONE")).split()
    record = load_run(path)
    assert record.final["samples"] == 2 * 4 * 100
    train = record.points.filter(record.points["trigger"] == "train")["samples"].to_list()
    assert train == sorted(train)
    assert train[-1] < 800.0
    assert "samples" not in record.header["missing"]
    assert record.final["samples_per_s"] is not None


_PLAIN = """
import os, sys, time, warnings
sys.path.insert(0, sys.argv[1])
import torch
import torch.distributed as dist
from lightning_costs import Recorder
from lightning_costs.ranks.exchange import Exchange

dist.init_process_group("gloo")
recorder = Recorder(save_dir=sys.argv[2] + "/costs", log_every_n_steps=5)
read = []
leave = Exchange.publish


def left(self, vector, **how):
    read.append(vector.amounts.get("cpu_energy_j"))
    return leave(self, vector, **how)


Exchange.publish = left
with recorder:
    for step in range(20):
        dist.all_reduce(torch.ones(8))
        recorder.step(torch.zeros(4 + dist.get_rank(), 2))
    agreed = recorder.hooks.points.broadcast_headline({"steps": recorder.costs["steps"]}, "evaluate")
    assert agreed == {"steps": 20.0}, agreed
everyone = [None] * 4
dist.all_gather_object(everyone, (recorder.totals["samples"], read))
if dist.get_rank() == 0:
    assert [samples for samples, _ in everyone] == [20 * (4 + 5 + 6 + 7), 100.0, 120.0, 140.0], everyone
    assert [any(e is not None for e in read) for _, read in everyone] == [True, False, True, False], everyone
    joules = sum(e for _, read in everyone for e in read if e is not None)
    assert abs(recorder.totals["cpu_energy_j"] - joules) < 1e-6 * joules, joules
dist.destroy_process_group()
"""


def test_four_plain_loops_on_two_nodes_are_one_run_with_the_energy_of_both(tmp_path: Path) -> None:
    run(_PLAIN, tmp_path, 4, per_node=2)
    (record,) = load_runs(tmp_path / "costs")
    assert record.final["samples"] == 20 * (4 + 5 + 6 + 7)
    assert (record.final["nodes"], record.header["setup"]["processes"]) == (2.0, 4)
    assert record.header["ranks"]["heard"] == record.header["ranks"]["of"] == 4
    samples = record.header["ranks"]["spread"]["samples"]
    assert (samples["min"], samples["max"], samples["max_rank"]) == (80.0, 140.0, 3)

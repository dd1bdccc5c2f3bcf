"""ZeRO on two real gloo processes: bytes by kind against the analytic table, parameters once, updates as they are."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest
from processes import run

pytestmark = [pytest.mark.integration, pytest.mark.slow]

RANKS = 2
#: Elements of the model of the script: eight layers of 64 x 64 with biases.
PARAMS = 8 * (64 * 64 + 64)
STATES = {"adamw": 2, "momentum": 1}
CASES = list(product((0, 1, 2, 3), ("float32", "bfloat16"), STATES))
HELD = ("param_bytes", "master_bytes", "grad_bytes", "opt_state_bytes", "opt_peak_bytes")

_SCRIPT = """
import gc, sys
sys.path.insert(0, sys.argv[1])
from deepspeed_on_cpu import blocks, deepspeed, engine_of, tell
from rank_readings import own_readings
import torch
from lightning_costs import Recorder
from lightning_costs.integrations.deepspeed import watch
from lightning_costs.indicators import compute, counts, memory, parameters
from lightning_costs.patching.optimizers import unwrap
from lightning_costs.probes.memory.tensors import storages

deepspeed.init_distributed("gloo")
bf16_or_32 = {"float32": torch.float32, "bfloat16": torch.bfloat16}

def everything():
    "Bytes of storages that any tensor of the process keeps alive: nothing of ours is asked."
    found = {}
    gc.collect()
    for one in gc.get_objects():
        if issubclass(type(one), torch.Tensor):
            for storage in storages([t for t in (one, one.grad if one.is_leaf else None) if t is not None]):
                if storage.device.type == "cpu" and storage.nbytes() > 256:
                    found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())

def columns():
    return [memory.ParamBytes(), memory.MasterBytes(), memory.GradBytes(), memory.OptStateBytes(),
            memory.OptPeakBytes(), memory.RankMaxOptStateBytes(),
            counts.Samples(), counts.Steps(), counts.OptimizerSteps(), counts.Batches(),
            parameters.Params(), parameters.TrainableParams(), compute.Flop(), compute.ActivationElements()]

def case(stage, dtype="float32", optimizer="adamw", *, accumulate=1, groups=1, width=64, frozen=False, zero=()):
    torch.manual_seed(0)
    before = everything()
    net = blocks(width)
    net[0].requires_grad_(not frozen)
    trained = [p for p in net.parameters() if p.requires_grad]
    parts = [{"params": trained[i::groups]} for i in range(groups)]
    make = {"adamw": torch.optim.AdamW, "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)}
    engine = engine_of(net, make[optimizer](parts, lr=1e-3), stage, bf16=dtype == "bfloat16", zero=dict(zero),
                       gradient_accumulation_steps=accumulate)
    loader = [torch.randn(8, width, dtype=bf16_or_32[dtype]) for _ in range(4 * accumulate)]
    with own_readings() as read:
        options = dict(save_dir=sys.argv[2], indicators=columns(), log_every_n_steps=2)
        with Recorder(module=engine.module, **options) as recorder:
            with watch(engine, recorder):
                for batch in recorder.wrap_loader(loader):
                    loss = engine(batch).float().pow(2).mean()
                    engine.backward(loss)
                    engine.step()
                del loss, batch
    loader.clear()
    at_rest = everything() - before
    left = [name for name in ("forward", "backward", "step", "save_checkpoint") if name in vars(engine)]
    told = {**read, "statics": dict(recorder.header["statics"]), "at_rest": at_rest, "left": left,
            "job": dict(recorder.costs), "global_steps": engine.global_steps,
            "inner": type(unwrap(engine.optimizer)).__name__, "steps_shadowed": "step" in vars(engine.optimizer)}
    if hasattr(engine.optimizer, "destroy"):
        engine.destroy()
    return told

case(2)
gc.freeze()  # what was imported until here is looked at no more
told = {}
for stage in (0, 1, 2, 3):
    for dtype in bf16_or_32:
        for optimizer in ("adamw", "momentum"):
            told[f"{stage} {dtype} {optimizer}"] = case(stage, dtype, optimizer)
    told[f"{stage} accumulating"] = case(stage, accumulate=2)
    told[f"{stage} groups"] = case(stage, groups=3, accumulate=2)
    told[f"{stage} odd"] = case(stage, width=63)
    told[f"{stage} frozen"] = case(stage, frozen=True)
told["3 small groups"] = case(3, zero={"sub_group_size": 5000})
for stage in (1, 2, 3):
    told[f"{stage} offload"] = case(stage, "bfloat16", zero={"offload_optimizer": {"device": "cpu"}})
tell(told)
torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("zero")
    run(_SCRIPT, folder, RANKS)
    return [json.loads((folder / f"told{rank}.json").read_text()) for rank in range(RANKS)]


def analytic(stage: int, dtype: str, optimizer: str) -> dict[str, float]:
    """Bytes a parameter on each rank: ZeRO shares state and masters from stage 1 on, parameters at stage 3.

    Gradients are those of the update: the optimizer takes fp32 ones, beside those that stages 0 and 3 keep meanwhile.
    """
    width = {"float32": 4, "bfloat16": 2}[dtype]
    shares = RANKS if stage else 1
    copies = stage > 0 or dtype == "bfloat16"
    state = 4 * STATES[optimizer] / shares
    own_gradients = {0: width, 1: 0, 2: 0, 3: width / RANKS}[stage]
    return {
        "param_bytes": width / RANKS if stage == 3 else width,
        "master_bytes": 4 / shares if copies else 0,
        "grad_bytes": own_gradients + (4 / shares if copies else 0),
        "opt_state_bytes": state,
        "opt_peak_bytes": state,
    }


@pytest.mark.parametrize(("stage", "dtype", "optimizer"), CASES)
def test_bytes_a_parameter_are_those_of_the_analytic_table(told, stage: int, dtype: str, optimizer: str) -> None:
    for by_rank in told:
        read = by_rank[f"{stage} {dtype} {optimizer}"]
        for column, expected in analytic(stage, dtype, optimizer).items():
            assert read[column] / PARAMS == pytest.approx(expected, abs=0.01), column


@pytest.mark.parametrize(("stage", "dtype", "optimizer"), CASES)
def test_nothing_that_the_process_keeps_alive_at_rest_is_in_no_column(told, stage, dtype, optimizer) -> None:
    """But for buckets of 5,000 elements and what torch's optimizers count steps in."""
    read = told[0][f"{stage} {dtype} {optimizer}"]
    kept = {0: 0, 1: 0, 2: 0, 3: analytic(3, dtype, optimizer)["grad_bytes"] - 4 / RANKS}[stage]
    known = read["param_bytes"] + read["master_bytes"] + read["opt_state_bytes"] + kept * PARAMS
    assert read["at_rest"] == pytest.approx(known, abs=2 * 5000 * 4)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_parameters_count_once_at_their_whole_size(told, stage: int) -> None:
    for by_rank in told:
        statics = by_rank[f"{stage} float32 adamw"]["statics"]
        assert (statics["params"], statics["trainable_params"]) == (PARAMS, PARAMS)
        assert by_rank[f"{stage} frozen"]["statics"]["trainable_params"] == PARAMS - 64 * 65
        assert statics["activation_elements"] == 8 * 64


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_ranks_together_hold_state_and_masters_once(told, stage: int) -> None:
    for column, bytes_a_parameter in (("master_bytes", 4), ("opt_state_bytes", 8)):
        together = sum(by_rank[f"{stage} float32 adamw"][column] for by_rank in told)
        assert together / PARAMS == pytest.approx(bytes_a_parameter, abs=0.01)


@pytest.mark.parametrize(("stage", "dtype", "optimizer"), CASES)
def test_what_rank_0_writes_is_the_sum_over_ranks_and_beside_it_the_fullest(told, stage, dtype, optimizer) -> None:
    case = f"{stage} {dtype} {optimizer}"
    job = told[0][case]["job"]
    for column in (*HELD, "samples"):
        assert job[column] == sum(by_rank[case][column] for by_rank in told), column
    assert job["rank_max_opt_state_bytes"] == max(by_rank[case]["opt_state_bytes"] for by_rank in told)
    assert job["steps"] == told[0][case]["steps"]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_uneven_partitions_keep_at_most_the_tensors_that_they_cut_alive(told, stage: int) -> None:
    params, largest = 8 * (63 * 63 + 63), 63 * 63
    for by_rank in told:
        read = by_rank[f"{stage} odd"]
        assert read["statics"]["params"] == params
        for column in ("master_bytes", "opt_state_bytes"):
            assert read[column] == pytest.approx(params * analytic(stage, "float32", "adamw")[column], rel=0.01)
        least = params * analytic(stage, "float32", "adamw")["grad_bytes"]
        assert 0.99 * least <= read["grad_bytes"] <= least + 2 * 4 * largest


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("case", ["accumulating", "groups"])
def test_steps_are_the_updates_at_boundaries_once_whatever_the_groups(told, stage: int, case: str) -> None:
    for by_rank in told:
        read = by_rank[f"{stage} {case}"]
        assert (read["batches"], read["steps"], read["optimizer_steps"]) == (8, 4, 4)
        assert read["global_steps"] == 4
        assert read["samples"] == 8 * 8


def test_the_parts_in_which_zero_3_updates_are_one_update(told) -> None:
    assert told[0]["3 small groups"]["optimizer_steps"] == 4


@pytest.mark.parametrize("stage", [1, 2])
def test_gradients_that_accumulate_are_whole_at_stage_1_alone(told, stage: int) -> None:
    read = told[0][f"{stage} accumulating"]
    assert read["grad_bytes"] / PARAMS == pytest.approx({1: 4, 2: 4 / RANKS}[stage], abs=0.01)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_every_stage_computes_the_same(told, stage: int) -> None:
    layer = 2 * 8 * 64 * 64
    for by_rank in told:
        assert by_rank[f"{stage} float32 adamw"]["flop"] == 4 * (8 * 3 - 1) * layer  # the first has no input gradient


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_what_is_offloaded_is_still_held(told, stage: int) -> None:
    read = told[0][f"{stage} offload"]
    assert read["master_bytes"] / PARAMS == pytest.approx(4 / RANKS, abs=0.01)
    assert read["opt_state_bytes"] / PARAMS == pytest.approx(8 / RANKS, abs=0.01)
    copy_on_host = 0 if stage == 3 else 2 / RANKS  # of this rank's partition, from which the device is filled
    expected = analytic(stage, "bfloat16", "adamw")["param_bytes"] + copy_on_host
    assert read["param_bytes"] / PARAMS == pytest.approx(expected, abs=0.01)
    gradients = 4 / RANKS + (2 / RANKS if stage == 3 else 0)
    assert read["grad_bytes"] / PARAMS == pytest.approx(gradients, abs=0.01)


def test_the_engine_is_as_it_was_afterwards(told) -> None:
    for by_rank in told:
        for read in by_rank.values():
            assert (read["left"], read["steps_shadowed"]) == ([], False)

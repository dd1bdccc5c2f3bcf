"""Bytes that training steps communicate, against closed forms on two gloo processes."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from processes import run

from lightning_costs.probes.opcount.collectives import communicates

STEPS = 6

SCRIPT = dedent(
    """
    import json, sys
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
    from lightning_costs import Recorder
    from lightning_costs.indicators.compute import CommBytes

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("all",))
    found = {}

    def layers():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def record(name, module, step, batch):
        with Recorder(module=module, save_dir=f"{sys.argv[2]}/{name}", indicators=[CommBytes()]) as recorder:
            for _ in range(STEPS):
                with recorder.train_batch(batch):
                    step(batch)
                recorder.step(batch)
        header = recorder.header
        waits = recorder._monitor.waits_in_forward
        found[name] = recorder.costs["comm_bytes"], header["methods"]["comm_bytes"], header["communication"], waits

    def passes(module):
        def step(batch):
            module(batch).sum().backward()
        return step

    x = torch.ones(2, 8)
    for name, options in (("ddp", {}), ("unused", {"find_unused_parameters": True})):
        wrapped = nn.parallel.DistributedDataParallel(layers(), **options)
        record(name, wrapped, passes(wrapped), x)
    sharded = layers()
    for layer in (sharded[0], sharded[2], sharded):
        fully_shard(layer, mesh=mesh)
    record("fsdp2", sharded, passes(sharded), x)
    split = parallelize_module(layers(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    record("tensor", split, passes(split), x)
    part = nn.Linear(8, 8)
    schedule = ScheduleGPipe(
        PipelineStage(part, rank, 2, torch.device("cpu")), n_microbatches=4, loss_fn=nn.functional.mse_loss
    )
    batch = torch.ones(8, 8)
    schedule.step(batch) if rank == 0 else schedule.step(target=batch)  # shapes are inferred by messages, once
    record("pipeline", part, lambda b: schedule.step(b) if rank == 0 else schedule.step(target=b), batch)

    def by_hand(_):
        (x @ x.T).sum()
        dist.all_reduce(torch.ones(3))
        dist.all_gather_into_tensor(torch.zeros(6), torch.ones(3))
        dist.reduce_scatter_tensor(torch.zeros(3), torch.ones(6))
        dist.broadcast(torch.ones(5, dtype=torch.int32), 0)
        dist.all_gather_object([None, None], "x" * 64)
        torch.distributed._functional_collectives.all_reduce(torch.ones(7), "sum", mesh).wait()
        if rank == 0:
            dist.send(torch.ones(11), 1)
        else:
            dist.recv(torch.ones(11), 0)
        dist.barrier()

    record("by hand", layers(), by_hand, x)
    if rank == 0:
        print("FOUND", json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
    """
).replace("STEPS", str(STEPS))


@pytest.mark.integration
def test_bytes_of_every_strategy_are_those_of_closed_forms(tmp_path: Path) -> None:
    said = run(SCRIPT, tmp_path)
    found = json.loads(said.partition("FOUND ")[2].partition("\n")[0])
    first, second = 4 * (8 * 16 + 16), 4 * (16 * 4 + 4)
    per_rank = {
        "ddp": first + second,  # gradients once
        "unused": first + second + 4 * 4,  # and which of the four parameters were used
        # Each layer is gathered before the forward pass and before the backward pass, and its gradients are reduced
        # and scattered; the second layer is kept from the forward pass on.
        "fsdp2": 3 * first + 3 * second,
        "tensor": 4 * 2 * 4,  # the second layer's outputs
    }
    for name, nbytes in per_rank.items():
        assert found[name][0] == STEPS * 2 * nbytes, found[name][2]
    # Activations to the next stage, and their gradients back.
    assert found["pipeline"][0] == STEPS * 2 * 4 * 8 * 8, found["pipeline"][2]
    assert all(how.startswith("exact") for _, how, *_ in found.values())
    waits = {name: found[name][3] for name in per_rank}
    assert waits == {"ddp": False, "unused": False, "fsdp2": True, "tensor": True}
    by_hand = {each["kind"]: (each["calls"] / STEPS, each["bytes"] / STEPS) for each in found["by hand"][2]}
    objects = by_hand.pop("all_gather", (0, 0))
    assert by_hand == {
        "all_reduce": (2, 4 * 3 + 4 * 7),
        "reduce_scatter": (1, 4 * 6),
        "broadcast": (1, 4 * 5),
        "send": (1, 4 * 11),
    }
    assert objects[0] == 3, "of an object, its size and its bytes"
    assert {each["group"] for each in found["ddp"][2]} == {"default_pg"}
    assert {(each["kind"], each["ranks"]) for each in found["fsdp2"][2]} == {("all_gather", 2), ("reduce_scatter", 2)}


def test_every_collective_that_torch_registers_is_known() -> None:
    pytest.importorskip("torch.distributed.distributed_c10d")
    silent = ("recv", "barrier", "check_for_nan", "wait_tensor", "wrap_tensor")
    names = [
        name for name in torch._C._dispatch_get_all_op_names() if name.startswith(("c10d::", "_c10d_functional::"))
    ]
    assert len(names) > 20
    for name in names:
        assert communicates(name.replace("::", ".")) != any(word in name for word in silent), name


ZERO = dedent(
    """
    import json, sys
    sys.path.insert(0, sys.argv[1])
    from deepspeed_on_cpu import *
    from lightning_costs import Recorder
    from lightning_costs.indicators.compute import CommBytes
    from lightning_costs.integrations.deepspeed import watch

    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    found = {}
    for stage in (0, 1, 2):
        net = blocks()
        engine = engine_of(net, torch.optim.AdamW(net.parameters(), lr=0.01), stage)
        recorder = Recorder(module=net, save_dir=f"{sys.argv[2]}/{stage}", indicators=[CommBytes()])
        with recorder, watch(engine, recorder):
            for _ in range(STEPS):
                engine.backward(engine(torch.ones(8, 64)).square().mean())
                engine.step()
        by_kind = {each["kind"]: each["bytes"] for each in recorder.header["communication"]}
        found[stage] = recorder.costs["comm_bytes"], by_kind
    if torch.distributed.get_rank() == 0:
        print("FOUND", json.dumps(found))
    torch.distributed.barrier()
    """
).replace("STEPS", str(STEPS))


@pytest.mark.slow
@pytest.mark.integration
def test_bytes_of_zero_are_those_of_closed_forms(tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    found = json.loads(run(ZERO, tmp_path).partition("FOUND ")[2].partition("\n")[0])
    params = 4 * 8 * (64 * 64 + 64)
    reduced = STEPS * (params + 4)  # and a norm
    assert found["0"] == [2 * reduced, {"all_reduce": reduced}]
    for stage in ("1", "2"):
        gathered = STEPS * params
        assert found[stage] == [2 * (reduced + gathered), {"all_reduce": reduced, "all_gather": gathered}]

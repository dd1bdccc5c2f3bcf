"""What optimizers hold under ZeRO: SGD, momentum, Adam, AdamW and SAM at stages 0 to 3, at rest and inside the step.

Two processes (gloo) train a small network by plain DeepSpeed; each is looked at as the memory columns do. Shown are
bytes for each parameter on one rank (the analytic figure in brackets) and on both. It fails where the two are more than
1 % apart, or where a stage does not learn what stage 0 does.

SAM is pytorch_optimizer's, in two passes around the engine: DeepSpeed hands no closure to an optimizer. Where ZeRO
shares the optimizer's work, it perturbs the fp32 shard that this rank updates, so that its second copy of the weights
is a shard as well.

    python benchmarks/optimizer_memory.py
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

RANKS = 2
STAGES = (0, 1, 2, 3)
OPTIMIZERS = ("SGD", "momentum", "Adam", "AdamW", "SAM")
#: Copies of the weights that the state holds, at rest and at most.
COPIES = {"SGD": (0, 0), "momentum": (1, 1), "Adam": (2, 2), "AdamW": (2, 2), "SAM": (1, 2)}
HELD = ("param_bytes", "master_bytes", "grad_bytes", "opt_state_bytes", "opt_peak_bytes")
WIDTH, DEPTH, STEPS, BUCKET = 256, 8, 4, 50_000


def analytic(stage: int, dtype: str, optimizer: str) -> dict[str, float]:
    """Bytes a parameter on each rank (Rajbhandari et al. 2020, ZeRO, section 3), as DeepSpeed does it.

    A stage from 1 on keeps a shard of fp32 masters in fp32, too. Gradients are those of the update: the optimizer takes
    fp32 ones; stage 3 keeps its own shard, and stage 0 in bf16 its own gradients, beside them.
    """
    width = 2 if dtype == "bf16" else 4
    shares = RANKS if stage else 1
    masters = stage > 0 or dtype == "bf16"
    rest, peak = COPIES[optimizer]
    return {
        "param_bytes": width / RANKS if stage == 3 else width,
        "master_bytes": 4 / shares if masters else 0,
        "grad_bytes": {0: width, 1: 0, 2: 0, 3: width / RANKS}[stage] + (4 / shares if masters else 0),
        "opt_state_bytes": 4 * rest / shares,
        "opt_peak_bytes": 4 * peak / shares,
    }


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*[layer for _ in range(DEPTH) for layer in (nn.Linear(WIDTH, WIDTH), nn.GELU())])


def optimizer_of(name: str, net: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    """The optimizer that DeepSpeed gets, and the SAM around it if there is one."""
    if name == "SAM":
        from pytorch_optimizer import SAM

        sam = SAM(net.parameters(), torch.optim.SGD, lr=1e-2, momentum=0.9)
        return sam.base_optimizer, sam
    made = {
        "SGD": lambda p: torch.optim.SGD(p, lr=1e-2),
        "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
        "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
        "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3),
    }
    return made[name](net.parameters()), None


def engine_of(net: nn.Module, optimizer: torch.optim.Optimizer, stage: int, dtype: str) -> Any:
    import deepspeed

    zero = {"stage": stage, "reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}
    config = {
        "train_micro_batch_size_per_gpu": 8,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {**zero, "stage3_param_persistence_threshold": 0},
        "bf16": {"enabled": dtype == "bf16"},
    }
    engine, *_ = deepspeed.initialize(model=net, optimizer=optimizer, config=config)
    return engine


class TwoPasses:
    """SAM around an engine: perturb after the first backward pass, restore after the second, then `engine.step()`."""

    def __init__(self, engine: Any, sam: Any, stage: int) -> None:
        self._engine, self._zero, self._sam, self._stage = engine, engine.optimizer, sam, stage

    def perturb(self) -> None:
        """To where the loss is worst nearby, by the gradients that the engine has reduced."""
        masters = list(self._masters())
        squares = torch.stack([master.grad.square().sum() for master in masters]).sum()
        local = squares.sqrt()
        if self._stage:
            dist.all_reduce(squares)
        groups = self._sam.param_groups
        held = [(group["params"], group["rho"]) for group in groups]
        for group, (params, rho) in zip(groups, held, strict=True):
            group["rho"] = rho * float(local / squares.sqrt())  # SAM knows the norm of this rank's shard alone
            group["params"] = masters if self._stage == 3 else params  # ZeRO-3 empties its groups between steps
        self._sam.first_step()
        for group, (params, rho) in zip(groups, held, strict=True):
            group["params"], group["rho"] = params, rho
        self._forget_gradients(masters)
        self._weights_from_masters()

    def restore(self) -> None:
        """Masters are where they were: the update then takes the second pass's gradients from there."""
        with torch.no_grad():
            for master in list(self._sam.state):
                if "old_p" in self._sam.state[master]:
                    master.copy_(self._sam.state[master].pop("old_p"))

    def _masters(self) -> Iterator[torch.Tensor]:
        """What the optimizer updates, with the gradients that it would be given."""
        zero = self._zero
        if self._stage in (1, 2):
            for index, master in enumerate(zero.single_partition_of_fp32_groups):
                size = int(zero.partition_size[index])
                flat = zero.flatten_dense_tensors_aligned(zero.averaged_gradients[index], size)
                master.grad = flat.to(master.dtype)
                yield master
        elif self._stage == 3:
            for index, master in enumerate(zero.fp32_partitioned_groups_flat):
                master.grad = zero.flatten(zero.averaged_gradients[index]).to(master.dtype)
                yield master
        elif hasattr(zero, "fp32_groups"):
            for masters, weights in zip(zero.fp32_groups, zero.fp16_groups, strict=True):
                for master, weight in zip(masters, weights, strict=True):
                    master.grad = weight.grad.to(master.dtype)
                    yield master
        else:
            yield from self._engine.module.parameters()

    def _forget_gradients(self, masters: list[torch.Tensor]) -> None:
        for tensor in (*masters, *self._engine.module.parameters()):
            tensor.grad = None
        if self._stage:
            self._zero.averaged_gradients.clear()
        if self._stage == 3:
            self._zero.grad_partitions_flat_buffer.zero_()

    def _weights_from_masters(self) -> None:
        zero = self._zero
        if self._stage in (1, 2):
            zero.update_lp_params()
        elif self._stage == 3:
            for index in range(len(zero.fp32_partitioned_groups_flat)):
                zero._reassign_or_swap_out_partitioned_parameters(index)
        elif hasattr(zero, "fp32_groups"):
            with torch.no_grad():
                for masters, weights in zip(zero.fp32_groups, zero.fp16_groups, strict=True):
                    for master, weight in zip(masters, weights, strict=True):
                        weight.copy_(master)


def train(stage: int, dtype: str, optimizer: str) -> tuple[dict[str, float], torch.Tensor]:
    """Bytes by column on this rank after some steps, and the loss at each of them."""
    from lightning_costs.patching.optimizers import unwrap
    from lightning_costs.probes.context import ProbeContext
    from lightning_costs.probes.memory.tensors import TensorMemory

    net = network()
    client, sam = optimizer_of(optimizer, net)
    engine = engine_of(net, client, stage, dtype)
    passes = TwoPasses(engine, sam, stage) if sam is not None else None
    memory = TensorMemory.attach(ProbeContext(module=engine.module, optimizers=lambda: [engine.optimizer]))
    inner = unwrap(engine.optimizer)
    looks = [hook(lambda *_: memory.sample()) for hook in (inner.register_step_pre_hook, inner.register_step_post_hook)]
    generator = torch.Generator().manual_seed(int(os.environ["RANK"]))
    losses = []
    for _ in range(STEPS):
        memory.watch(True)
        batch = torch.randn(8, WIDTH, generator=generator).to(torch.bfloat16 if dtype == "bf16" else torch.float32)
        for again in (False, True) if passes is not None else (False,):
            loss = (engine(batch).float() - 1).square().mean()
            memory.sample()
            engine.backward(loss)
            memory.sample()
            if passes is not None:
                passes.restore() if again else passes.perturb()
        losses.append(loss.detach())
        engine.step()
    for look in looks:
        look.remove()
    rest = memory.at_rest()
    assert memory.failed is None, memory.failed
    found = {column: float(getattr(rest, column)) for column in ("param_bytes", "master_bytes", "opt_state_bytes")}
    found |= {"grad_bytes": float(memory.grad_peak_bytes or 0), "opt_peak_bytes": float(memory.opt_peak_bytes or 0)}
    if stage:
        engine.destroy()
    return found, torch.stack(losses)


def measure(rank: int, port: int, folder: str) -> None:
    """One process: every case in turn; rank 0 writes the table."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    import deepspeed
    import deepspeed.ops
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else it is compiled, for a minute
    deepspeed.init_distributed("gloo")
    params = sum(p.numel() for p in network().parameters())
    rows = []
    for dtype in ("fp32", "bf16"):
        for optimizer in OPTIMIZERS:
            references = None
            for stage in STAGES:
                found, losses = train(stage, dtype, optimizer)
                together = torch.tensor([found[column] for column in HELD], dtype=torch.float64)
                dist.all_reduce(together)
                dist.all_reduce(losses)
                references = losses if references is None else references
                apart = float((losses - references).abs().max() / references.abs().max())
                rows.append((dtype, optimizer, stage, found, together.tolist(), apart))
    if rank == 0:
        with open(os.path.join(folder, "table.md"), "w", encoding="utf-8") as table:
            table.write(f"{params:,} parameters; bytes for each on one of {RANKS} ranks (analytic), on both\n\n")
            table.write("\n".join(_lines(rows, params)) + "\n")
    dist.destroy_process_group()


def _lines(rows: list[Any], params: int) -> Iterator[str]:
    heads = ("parameters", "fp32 masters", "gradients, at most", "state at rest", "state in the step")
    yield "| | ZeRO | " + " | ".join(heads) + " |"
    yield "| --- | --- |" + " --- |" * len(heads)
    for dtype, optimizer, stage, found, together, apart in rows:
        most = 1e-4 if dtype == "fp32" else 3e-2
        assert apart < most, f"{optimizer} {dtype} learns otherwise at stage {stage} than at 0: {apart}"
        cells = []
        for (column, expected), total in zip(analytic(stage, dtype, optimizer).items(), together, strict=True):
            local = found[column] / params
            assert abs(local - expected) < 0.01 * max(expected, 1), f"{optimizer} {dtype}, stage {stage}: {column}"
            cells.append(f"{local:.2f} ({expected:g}), {total / params:.2f}")
        yield f"| {optimizer} {dtype} | {stage} | " + " | ".join(cells) + " |"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(measure, (port, folder), nprocs=RANKS)
        with open(os.path.join(folder, "table.md"), encoding="utf-8") as table:
            print(table.read())


if __name__ == "__main__":
    main()

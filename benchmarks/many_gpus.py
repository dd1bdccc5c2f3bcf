"""What is recorded of a job on several GPUs, checked from outside: one command, one table, some ten minutes.

A small GPT trains on random tokens under every way to split it: DDP, FSDP2, tensor parallel, DeepSpeed's ZeRO 1 to 3
and its pipeline, torch's pipeline schedules, experts with all-to-all. Each runs in processes of its own. Checked are
samples, tokens, FLOPs and parameters against one device; energy against NVML's counters; memory by kind against the
analytic figures; throughput against a stopwatch; the bubble against its closed form. A planted slow rank has to be
named, a killed one has to leave a run that loads, and the monitor's own cost stands beside ThroughputMonitor's.

    python benchmarks/many_gpus.py [--devices 8] [--steps 120] [--only ddp fsdp2 ...] [--json FILE] [--keep DIR]
    python benchmarks/many_gpus.py --size tiny --devices 2        processes of one CPU over gloo
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import logging
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from lightning.pytorch.callbacks import Callback, ThroughputMonitor
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed import pipelining
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader, Dataset

from lightning_costs import CostMonitor, Recorder, load_runs
from lightning_costs.integrations.deepspeed import watch_pipeline

CUDA = torch.cuda.is_available()
#: Steps before the stopwatch starts: compilers, autotuning, counted steps.
WARMUP_STEPS = 30
TIMEOUT_S = 240.0
#: A straggler of two ranks shows once it was the last in each of 24 blocks of four steps or more.
TIMES_STEPS = {"slow": 2}
#: Of a step, how much longer the planted rank takes.
SLOWER = 0.2


class Size(NamedTuple):
    """A GPT and its batch on one device."""

    width: int
    depth: int
    heads: int
    vocabulary: int
    length: int
    batch: int


SIZES = {"350m": Size(1024, 24, 16, 50304, 1024, 8), "tiny": Size(64, 8, 4, 128, 32, 4)}


class Block(nn.Module):
    """A transformer block of which a tensor-parallel rank may hold some heads."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        width, self.head = size.width, size.width // size.heads
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        y = self.ln1(x)
        q, k, v = (part(y).view(b, n, -1, self.head).transpose(1, 2) for part in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, n, -1))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class Embedding(nn.Module):
    """Tokens and their places."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(size.vocabulary, size.width), nn.Embedding(size.length, size.width)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))


def layers(size: Size, block: Callable[[Size], nn.Module] = Block) -> list[nn.Module]:
    head = nn.Linear(size.width, size.vocabulary, bias=False)
    return [Embedding(size), *(block(size) for _ in range(size.depth)), nn.LayerNorm(size.width), head]


def params_of(size: Size) -> int:
    """Parameters, by hand."""
    block = 12 * size.width**2 + 13 * size.width
    return size.depth * block + (2 * size.vocabulary + size.length) * size.width + 2 * size.width


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class Tokens(Dataset[Any]):
    """Random tokens and the ones after them."""

    def __init__(self, size: Size) -> None:
        rows = torch.randint(size.vocabulary, (64, size.length + 1), generator=torch.Generator().manual_seed(0))
        self.rows = rows

    def __len__(self) -> int:
        return 1_000_000

    def __getitem__(self, index: int) -> Any:
        row = self.rows[index % len(self.rows)]
        return {"input_ids": row[:-1], "labels": row[1:]}


class Gpt(pl.LightningModule):
    """The model, sharded as the case asks."""

    def __init__(self, size: Size, case: str, slow_s: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.size, self.case, self.slow_s = size, case, slow_s
        self.net = nn.Sequential(*layers(size))
        self.sharded = False

    def configure_model(self) -> None:
        if self.sharded or self.case not in ("fsdp2", "tp"):
            return
        self.sharded = True
        if self.case == "fsdp2":
            mesh = self.device_mesh["data_parallel"]
            for layer in self.net:
                fully_shard(layer, mesh=mesh)
            fully_shard(self.net, mesh=mesh)
            return
        columns, rows = ColwiseParallel(), RowwiseParallel()
        plan = {"q": columns, "k": columns, "v": columns, "out": rows, "up": columns, "down": rows}
        for layer in self.net:
            if isinstance(layer, Block):
                parallelize_module(layer, self.device_mesh["tensor_parallel"], plan)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.slow_s and self.global_rank == self.trainer.world_size - 1:
            hold_up(self.slow_s)
        if self.case == "killed" and self.global_rank == self.trainer.world_size - 1 and batch_idx == WARMUP_STEPS:
            os.kill(os.getpid(), signal.SIGKILL)
        loss = loss_of(self.net(batch["input_ids"]), batch["labels"])
        if self.case != "overhead":
            self.log("loss", loss)  # the quality on the page of these runs
        return loss

    def configure_optimizers(self) -> Any:
        # The plan of `tp` leaves some layers whole, and fused loops over parameters take no mix of tensors.
        return torch.optim.AdamW(self.parameters(), lr=1e-4, foreach=False if self.case == "tp" else None)


@functools.lru_cache(maxsize=1)
def cycles_per_s() -> float:
    """Of the device: by one kernel that spins, after one that makes an idle device raise its clock."""
    torch.cuda._sleep(10**9)
    torch.cuda.synchronize()
    began_s = time.perf_counter()
    torch.cuda._sleep(10**8)
    torch.cuda.synchronize()
    return 1e8 / (time.perf_counter() - began_s)


def hold_up(seconds: float) -> None:
    """Work that is slow on the device: a host that sleeps is hidden, as the device has work queued."""
    if CUDA:
        torch.cuda._sleep(int(seconds * cycles_per_s()))
    else:
        time.sleep(seconds)


# What is read from outside --------------------------------------------------------------------------------------


class Outside(Callback):
    """A stopwatch past the warm-up, this rank's energy counter, and the allocator's peak."""

    def __init__(self, first: bool = True) -> None:
        self.first, self.began_s, self.ended_s = first, 0.0, 0.0
        self.energy_j: float | None = None
        self.peak_bytes: int | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.start()

    def start(self) -> None:
        if CUDA:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.energy_j = energy_j()

    def tick(self, done: int) -> None:
        if done == WARMUP_STEPS:
            synchronize()
            self.began_s = time.perf_counter()

    def stop(self) -> None:
        synchronize()
        self.ended_s = time.perf_counter()

    def finish(self) -> None:
        if self.energy_j is not None:
            self.energy_j = (energy_j() or 0.0) - self.energy_j
        self.peak_bytes = torch.cuda.max_memory_allocated() if CUDA else None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.tick(batch_idx + 1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.stop()

    def facts(self, steps: int) -> dict[str, Any]:
        step_s = (self.ended_s - self.began_s) / max(1, steps - WARMUP_STEPS)
        return {"step_s": step_s, "energy_j": self.energy_j, "peak_bytes": self.peak_bytes}


def synchronize() -> None:
    if CUDA:
        torch.cuda.synchronize()


def energy_j() -> float | None:
    if not CUDA:
        return None
    import pynvml

    pynvml.nvmlInit()
    uuid = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"
    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByUUID(uuid))) / 1000


def collectives() -> int | None:
    """Collectives that NCCL's flight recorder saw in this process; None over gloo."""
    if not CUDA or not distributed.is_initialized():
        return None
    import pickle

    with suppress(Exception):  # a private name, of another torch perhaps
        entries = pickle.loads(torch._C._distributed_c10d._dump_nccl_trace())["entries"]
        return len(entries)
    return None


# Cases ----------------------------------------------------------------------------------------------------------


def strategy_of(case: str, world: int) -> Any:
    if case == "fsdp2":
        return ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1)
    if case == "tp":
        return ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=world)
    if case.startswith("zero"):
        if CUDA:
            return pl.strategies.DeepSpeedStrategy(stage=int(case[-1]), logging_level=logging.ERROR)
        sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
        from deepspeed_on_cpu import strategy

        return strategy(pl, stage=int(case[-1]))
    return "auto" if world == 1 else "ddp"


def fit(case: str, size: Size, world: int, steps: int, monitors: list[Callback], slow_s: float = 0.0) -> Outside:
    outside = Outside()
    trainer = pl.Trainer(
        accelerator="gpu" if CUDA else "cpu",
        devices=world,
        strategy=strategy_of(case, world),
        precision="bf16-true" if CUDA else "32-true",
        max_steps=steps,
        max_epochs=-1,
        logger=False,
        log_every_n_steps=10,
        callbacks=[outside, *monitors],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Gpt(size, case, slow_s), DataLoader(Tokens(size), batch_size=size.batch))
    outside.finish()
    return outside


def lightning(case: str, size: Size, world: int, steps: int, folder: str) -> dict[str, Any]:
    slow_s = 0.0
    if case == "slow":
        before = fit("ddp", size, world, WARMUP_STEPS + 20, []).facts(WARMUP_STEPS + 20)
        slow_s = SLOWER * before["step_s"]
    traced = case in ("ddp", "fsdp2", "tp")
    monitor = CostMonitor(save_dir=folder, monitor="loss", mode="min", name=case, infer=False, trace=traced)
    outside = fit(case, size, world, steps, [monitor], slow_s)
    return {**outside.facts(steps), "planted_s": slow_s * steps}


def overhead(_: str, size: Size, world: int, steps: int, folder: str) -> dict[str, Any]:
    """Seconds a step, in turn without a monitor, with ours and with Lightning's; and collectives of each."""
    times: dict[str, list[float]] = {"none": [], "ours": [], "throughput": []}
    calls: dict[str, int | None] = {}
    for _round in range(3):
        for name, found in times.items():
            monitors: list[Callback] = []
            if name == "ours":
                monitors = [CostMonitor(save_dir=folder, infer=False)]
            elif name == "throughput":
                monitors = [ThroughputMonitor(batch_size_fn=lambda batch: len(batch["input_ids"]))]
            before = collectives() or 0
            found.append(fit("overhead", size, world, steps, monitors).facts(steps)["step_s"])
            after = collectives()
            calls[name] = None if after is None else after - before
    return {"times": times, "collectives": calls}


#: torch's schedules, and how many stages a rank holds.
SCHEDULES = {"GPipe": 1, "1F1B": 1, "Interleaved1F1B": 2}


def even_bounds(size: Size, parts: int) -> list[int]:
    """Where to cut the layers so that each part has as much to compute: a head counts as several blocks."""
    block = 24 * size.width**2 + 4 * size.length * size.width
    cost = [0, *[block] * size.depth, 0, 2 * size.width * size.vocabulary]
    bounds, done = [0], 0.0
    for at, each in enumerate(cost):
        if done + each / 2 >= len(bounds) * sum(cost) / parts and len(bounds) < parts:
            bounds.append(at)
        done += each
    return [*bounds, len(cost)]


def pipeline(case: str, size: Size, world: int, steps: int, folder: str) -> dict[str, Any]:
    schedule = case.split()[1]
    chunks, rank = SCHEDULES[schedule], int(os.environ["RANK"])
    device = torch.device("cuda", torch.cuda.current_device()) if CUDA else torch.device("cpu")
    micro = 4 * world
    torch.manual_seed(0)
    all_layers, number = layers(size), world * chunks
    bounds = even_bounds(size, number)
    parts = {at: nn.Sequential(*all_layers[bounds[at] : bounds[at + 1]]) for at in range(rank, number, world)}
    held = nn.ModuleList(parts.values()).to(device, torch.bfloat16 if CUDA else torch.float32)
    stages = [pipelining.PipelineStage(part, at, number, device) for at, part in zip(parts, held, strict=True)]
    kind = getattr(pipelining, f"Schedule{schedule}")
    made = kind(stages if chunks > 1 else stages[0], n_microbatches=micro, loss_fn=loss_of)
    optimizer = torch.optim.AdamW(held.parameters(), lr=1e-4)
    data = Tokens(size)
    batch = torch.utils.data.default_collate([data[i % len(data.rows)] for i in range(micro * size.batch)])
    batch = {name: part.to(device) for name, part in batch.items()}
    first, last = any(s.is_first for s in stages), any(s.is_last for s in stages)

    def train() -> None:
        optimizer.zero_grad()
        args = [batch["input_ids"]] if first else []
        made.step(*args, **({"target": batch["labels"]} if last else {}))
        optimizer.step()

    bare_s = alone_s(train)
    outside = Outside()
    outside.start()
    with Recorder(module=held, optimizers=[optimizer], save_dir=folder, log_every_n_steps=10) as run:
        watch_pipeline(made, run)
        for step in range(steps):
            with run.train_batch(batch):
                train()
            run.step(batch)
            outside.tick(step + 1)
        outside.stop()
    outside.finish()
    return {**outside.facts(steps), "bare_s": bare_s}


def alone_s(train: Callable[[], None]) -> float:
    """Seconds a step before anything of ours is there."""
    for _ in range(5):
        train()
    synchronize()
    began_s = time.perf_counter()
    for _ in range(20):
        train()
    synchronize()
    return (time.perf_counter() - began_s) / 20


def deepspeed_pipeline(case: str, size: Size, world: int, steps: int, folder: str) -> dict[str, Any]:
    import deepspeed
    from deepspeed.pipe import PipelineModule

    micro = 4 * world
    torch.manual_seed(0)
    all_layers, bounds = layers(size), even_bounds(size, world)
    parts = [nn.Sequential(*all_layers[low:high]) for low, high in itertools.pairwise(bounds)]
    module = PipelineModule(parts, num_stages=world, loss_fn=loss_of, partition_method="uniform")
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=torch.optim.AdamW(module.parameters(), lr=1e-4),
        config={
            "train_micro_batch_size_per_gpu": size.batch,
            "gradient_accumulation_steps": micro,
            "steps_per_print": 10**9,
            "zero_allow_untested_optimizer": True,
            **({"bf16": {"enabled": True}} if CUDA else {}),
        },
    )
    data = Tokens(size)
    rows = [data[i] for i in range(size.batch)]
    one = torch.utils.data.default_collate([(row["input_ids"], row["labels"]) for row in rows])
    outside = Outside()
    outside.start()
    with Recorder(module=module, save_dir=folder, log_every_n_steps=10) as run:
        watch_pipeline(engine, run, steps=True)
        for step in range(steps):
            engine.train_batch(data_iter=iter([tuple(one)] * micro))
            outside.tick(step + 1)
        outside.stop()
    outside.finish()
    return outside.facts(steps)


class Exchanged(torch.autograd.Function):
    """Equal parts of every rank's rows to every rank; gradients the same way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = torch.empty_like(x)
        distributed.all_to_all_single(out, x.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return Exchanged.apply(gradient)


class Experts(nn.Module):
    """A block whose feed-forward parts are experts, one a rank, with as many tokens each."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.attention = Block(size)
        self.attention.up, self.attention.down = nn.Identity(), nn.Identity()
        self.ln, self.up = nn.LayerNorm(size.width), nn.Linear(size.width, 4 * size.width)
        self.down = nn.Linear(4 * size.width, size.width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.attention(x)
        rows = Exchanged.apply(self.ln(x).flatten(0, 1))
        return x + Exchanged.apply(self.down(F.gelu(self.up(rows)))).view_as(x)


def experts(case: str, size: Size, world: int, steps: int, folder: str) -> dict[str, Any]:
    """Experts stay where they are; gradients of the rest are averaged by hand, as an expert-parallel loop does."""
    device = torch.device("cuda", torch.cuda.current_device()) if CUDA else torch.device("cpu")
    torch.manual_seed(0)
    net = nn.Sequential(*layers(size, Experts)).to(device, torch.bfloat16 if CUDA else torch.float32)
    shared = [p for name, p in net.named_parameters() if ".up." not in name and ".down." not in name]
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    loader = DataLoader(Tokens(size), batch_size=size.batch)
    outside = Outside()
    outside.start()
    with Recorder(module=net, optimizers=[optimizer], save_dir=folder, log_every_n_steps=10) as run:
        for step, batch in enumerate(run.wrap_loader(loader)):
            tokens = {name: part.to(device) for name, part in batch.items()}
            with run.train_batch(tokens):
                optimizer.zero_grad()
                loss_of(net(tokens["input_ids"]), tokens["labels"]).backward()
                for parameter in shared:
                    distributed.all_reduce(parameter.grad)
                    parameter.grad /= world
                optimizer.step()
            run.step(tokens)
            outside.tick(step + 1)
            if step + 1 == steps:
                break
        outside.stop()
    outside.finish()
    return outside.facts(steps)


CASES: dict[str, Callable[..., dict[str, Any]]] = {
    "one": lightning,
    "ddp": lightning,
    "fsdp2": lightning,
    "tp": lightning,
    "zero1": lightning,
    "zero2": lightning,
    "zero3": lightning,
    "pipeline GPipe": pipeline,
    "pipeline 1F1B": pipeline,
    "pipeline Interleaved1F1B": pipeline,
    "pipeline DeepSpeed": deepspeed_pipeline,
    "experts": experts,
    "slow": lightning,
    "killed": lightning,
    "overhead": overhead,
}


# Processes ------------------------------------------------------------------------------------------------------


def work(case: str, size: Size, steps: int, folder: str) -> None:
    """One rank of a case: what it read goes into a file beside the run."""
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning_costs", "DeepSpeed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1 if not CUDA else 4)
    if CUDA:
        torch.cuda.set_device(rank)
        torch.backends.cuda.matmul.allow_tf32 = True
    by_hand = CASES[case] in (pipeline, experts, deepspeed_pipeline)
    if by_hand:
        if CASES[case] is deepspeed_pipeline:
            import deepspeed

            if not CUDA:
                deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
            deepspeed.init_distributed("nccl" if CUDA else "gloo", verbose=False)
        else:
            distributed.init_process_group("nccl" if CUDA else "gloo")
    facts = CASES[case](case, size, world, steps, folder)
    Path(folder, f"rank{rank}.json").write_text(json.dumps(facts))
    if distributed.is_initialized():
        distributed.barrier()
        distributed.destroy_process_group()


def launch(case: str, args: argparse.Namespace, folder: str) -> tuple[list[dict[str, Any]], str]:
    """What each rank read, and why there is nothing if a rank failed."""
    world = 1 if case == "one" else args.devices
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, "--work", case, "--size", args.size]
    command += ["--steps", str(args.steps * TIMES_STEPS.get(case, 1))]
    logs = [open(Path(folder, f"rank{rank}.log"), "w") for rank in range(world)]  # noqa: SIM115 - closed below
    processes = [
        subprocess.Popen(
            [*command, "--folder", folder], stdout=logs[rank], stderr=subprocess.STDOUT,
            env={
                **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                "TORCH_NCCL_TRACE_BUFFER_SIZE": "100000", "TORCH_FR_BUFFER_SIZE": "100000",
                **({} if CUDA else {"DS_ACCELERATOR": "cpu"}),
            },
        )
        for rank in range(world)
    ]  # fmt: skip
    until_s = time.monotonic() + TIMEOUT_S
    try:
        while any(process.poll() is None for process in processes) and time.monotonic() < until_s:
            if any(process.poll() for process in processes):  # the others would wait for it
                time.sleep(5.0)
                break
            time.sleep(0.2)
        if case == "killed":  # as a launcher ends what a dead rank left
            for process in processes:
                process.terminate()
            for process in processes:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(20.0)
    finally:
        codes = [process.poll() for process in processes]
        for process, log in zip(processes, logs, strict=True):
            process.kill()
            process.wait()
            log.close()
    if codes != [0] * world and case != "killed":
        tails = [Path(log.name).read_text()[-600:] for log in logs]
        return [], next((tail for tail, code in zip(tails, codes, strict=True) if code), "timed out")
    found = [Path(folder, f"rank{rank}.json") for rank in range(world)]
    return [json.loads(path.read_text()) if path.exists() else {} for path in found], ""


def kept(folder: Path, case: str) -> str:
    own = folder / case.replace(" ", "-")
    own.mkdir(parents=True)
    return str(own)


# Checks ---------------------------------------------------------------------------------------------------------


class Check(NamedTuple):
    """A figure of ours, the one from outside, and how far apart they may be (relative)."""

    what: str
    ours: float | None
    outside: float | None
    within: float

    @property
    def holds(self) -> bool | None:
        if self.outside is None:
            return None
        if self.ours is None:
            return False
        return abs(self.ours - self.outside) <= self.within * abs(self.outside)


def bytes_held(case: str, world: int) -> dict[str, float]:
    """Bytes a parameter of each rank: bf16 (fp32 on a CPU) with AdamW; ZeRO after Rajbhandari et al. 2020, table 1.

    DeepSpeed's bf16 keeps fp32 masters and moments.
    """
    own = 2 if CUDA else 4
    if case == "fsdp2":
        return {"param_bytes": own / world, "opt_state_bytes": 2 * own / world}
    if case.startswith("zero"):
        masters = 4 / world
        return {"param_bytes": own / world if case == "zero3" else own, "master_bytes": masters,
                "opt_state_bytes": 2 * masters}  # fmt: skip
    if case in ("one", "ddp"):
        return {"param_bytes": own, "grad_bytes": own, "opt_state_bytes": 2 * own}
    return {}


def checks(
    case: str, size: Size, world: int, steps: int, folder: str, ranks: list[dict[str, Any]], step_flop: float | None
) -> Iterator[Check]:
    """What a case's run says beside what was read outside."""
    (run,) = load_runs(folder)
    final = run.final
    copies = 1 if case in ("one", "tp") else world
    if case.startswith("pipeline"):
        copies = 4 * world  # microbatches
    samples, tokens = steps * size.batch * copies, steps * size.batch * copies * size.length
    yield Check("samples", final.get("samples"), samples, 0.0)
    if case != "pipeline DeepSpeed":  # its engine fetches its batches for itself, and tells how many samples they have
        yield Check("tokens", final.get("tokens"), tokens, 0.0)
    if case != "experts":
        yield Check("params", final.get("params"), params_of(size), 0.0)
        # The plan leaves the last layer whole: each rank runs it.
        again = (world - 1) * 3 * 2 * tokens * size.width * size.vocabulary if case == "tp" else 0
        yield Check("flop", final.get("flop"), None if step_flop is None else step_flop * steps * copies + again, 1e-9)
    held = bytes_held(case, 1 if case == "one" else world)
    for column, each in held.items():
        yield Check(f"{column}, all ranks", final.get(column), each * params_of(size) * copies, 0.02)
    # Gradients once a step with DDP, and parameters twice beside them with FSDP2, of each rank.
    sent = 0 if world == 1 else {"ddp": 1, "slow": 1, "fsdp2": 3, "one": 0}.get(case)
    own = 2 if CUDA else 4
    expected = None if sent is None else sent * own * params_of(size) * world * steps
    yield Check("comm_bytes", final.get("comm_bytes"), expected, 1e-5)
    energies = [rank["energy_j"] for rank in ranks]
    yield Check("gpu_energy_j", final.get("gpu_energy_j"), None if None in energies else sum(energies), 0.03)
    peaks = [rank["peak_bytes"] for rank in ranks]
    yield Check("peak_mem_bytes", final.get("peak_mem_bytes"), None if None in peaks else max(peaks), 0.001)
    points = run.points.filter(run.points["steps"] >= WARMUP_STEPS)
    first, last = points.row(0, named=True), points.row(-1, named=True)
    spent_s, done = last["train_s"] - first["train_s"], last["steps"] - first["steps"]
    step_s = statistics.median(rank["step_s"] for rank in ranks)
    yield Check("step by rates, ms", 1e3 * spent_s / done if done else None, 1e3 * step_s, 0.03)
    if case.startswith("pipeline"):
        theory = final.get("bubble_theory_fraction")
        stage_s, bubble_s = final.get("stage_step_s"), final.get("bubble_s")
        outside_s = final.get("stage_outside_s") or 0.0
        ours = (bubble_s - outside_s) / (stage_s - outside_s) if stage_s and bubble_s is not None else None
        yield Check("bubble in the schedule (closed form)", ours, theory, 0.5)
        yield Check("of a stage's time outside the schedule", outside_s / stage_s if stage_s else None, None, 0.0)
        bare = [rank["bare_s"] for rank in ranks if "bare_s" in rank]
        if bare:
            yield Check("step beside one without a monitor, ms", 1e3 * step_s, 1e3 * statistics.median(bare), 0.06)
    if case == "slow":
        found = (run.header.get("ranks") or {}).get("stragglers") or [{}]
        yield Check("the straggler", *(found[0].get("ranks") or [None]), world - 1, 0.0)
        yield Check("seconds it held up", run.final.get("straggler_s"), ranks[-1]["planted_s"], 0.1)
    for column in ("comm_s", "exposed_comm_s", "step_idle_s", "straggler_s", "hfu_fraction"):
        if final.get(column) is not None:
            yield Check(column, final[column], None, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=torch.cuda.device_count() or 2)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--size", choices=SIZES, default="350m")
    parser.add_argument("--only", nargs="+", choices=CASES)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="keep the run folders here, one a case")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    size = SIZES[args.size]
    if args.work:
        try:
            work(args.work, size, args.steps, args.folder)
        except BaseException:
            traceback.print_exc()
            raise
        return
    device = f"{args.devices} x {torch.cuda.get_device_name()}" if CUDA else f"{args.devices} processes over gloo"
    print(f"{device}, torch {torch.__version__}, Lightning {pl.__version__}, {params_of(size) / 1e6:.0f} M parameters")
    print("\n| case | what | ours | outside | within |\n| --- | --- | --- | --- | --- |")
    step_flop: float | None = None
    rows: list[dict[str, Any]] = []
    failed = 0
    for case in args.only or CASES:
        if ("zero" in case or "DeepSpeed" in case) and find_spec("deepspeed") is None:
            print(f"| {case} | needs deepspeed | | | |")
            continue
        with tempfile.TemporaryDirectory() if args.keep is None else nullcontext(kept(args.keep, case)) as folder:
            ranks, why = launch(case, args, folder)
            if why:
                failed += 1
                print(f"| {case} | failed: {' '.join(why.split())[-300:]} | | | |", flush=True)
                continue
            if case == "overhead":
                for rank, facts in enumerate(ranks[:1]):
                    base = facts["times"]["none"]
                    for name in ("ours", "throughput"):
                        added = [a / b - 1 for a, b in zip(facts["times"][name], base, strict=True)]
                        text = ", ".join(f"{100 * share:+.2f} %" for share in sorted(added))
                        print(f"| overhead | {name}, rank {rank}, by round | {text} | | |")
                    print(f"| overhead | collectives (none, ours, throughput) | {facts['collectives']} | | |")
                rows.append({"case": case, **ranks[0]})
                continue
            if case == "killed":
                (run,) = load_runs(folder)
                print(f"| killed | status, steps | {run.header['status']}, {run.final.get('steps')} | "
                      f"{WARMUP_STEPS} steps | |")  # fmt: skip
                continue
            steps = args.steps * TIMES_STEPS.get(case, 1)
            for check in checks(case, size, args.devices, steps, folder, ranks, step_flop):
                if case == "one" and check.what == "flop" and check.ours is not None:
                    step_flop = check.ours / steps
                failed += check.holds is False
                mark = {True: "yes", False: "NO", None: ""}[check.holds]
                ours = "missing" if check.ours is None else f"{check.ours:.6g}"
                outside = "" if check.outside is None else f"{check.outside:.6g}"
                print(f"| {case} | {check.what} | {ours} | {outside} | {mark} |", flush=True)
                rows.append({"case": case, **check._asdict(), "holds": check.holds})
    print(f"\n{failed} of {len(rows)} figures are apart" if failed else f"\nall of {len(rows)} figures hold")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

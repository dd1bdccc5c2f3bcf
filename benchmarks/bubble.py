"""The pipeline bubble as measured beside its closed form, with stages that sleep: their truth is known.

Four gloo processes of one machine (of DeepSpeed's two stages two pipelines). A stage sleeps 25 ms forward and 50 ms
backward (DeepSpeed's 50 and 100), or 30 ms each for forward, the input's gradient and the weights' where a schedule
splits them; it computes next to nothing, so that two cores suffice.

    python benchmarks/bubble.py                  the whole table, some five minutes
    python benchmarks/bubble.py --cases few      a few rows of it
    python benchmarks/bubble.py --json           rows as JSON, with one step's lanes
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed import pipelining

from lightning_costs import Recorder, load_run
from lightning_costs.indicators import pipeline as bubble
from lightning_costs.indicators.compute import Flop
from lightning_costs.indicators.counts import Samples, Steps
from lightning_costs.integrations.deepspeed import watch_pipeline
from lightning_costs.probes.pipeline import timeline_exchange
from lightning_costs.records.samples import RankInfo

WORLD = 4
FORWARD_S, BACKWARD_S = 0.025, 0.05
#: DeepSpeed's engine computes more of its own.
DEEPSPEED_S = (0.05, 0.1)
#: Of schedules that split the backward pass: each of the three.
SPLIT_S = 0.03
#: Measured steps, of which the table has the median: others may use the machine for a moment. The recorder leaves three
#: before them out as warm-up, and the last step has no next one to end at.
MEASURED = {"all": 5, "few": 3}
TIMEOUT_S = 900.0

#: Engine, schedule, stages, micro-batches, chunks a rank.
Case = tuple[str, str, int, int, int]
ALL: list[Case] = [
    *(("torch", "GPipe", p, m, 1) for p in (2, 4) for m in (1, 2, 4, 8, 16)),
    *(("deepspeed", "1F1B", p, m, 1) for p in (2, 4) for m in (1, 2, 4, 8, 16)),
    *(("torch", "1F1B", p, m, 1) for p in (2, 4) for m in (2, 4, 8, 16) if m >= p),
    *(("torch", "Interleaved1F1B", p, m, 2) for p in (2, 4) for m in (4, 8)),
    *(("torch", "LoopedBFS", p, m, 2) for p in (2, 4) for m in (4, 8)),
    *(("torch", "InterleavedZeroBubble", p, m, v) for p in (2, 4) for v in (1, 2) for m in (4, 8)),
    *(("torch", "ZBVZeroBubble", p, 8, 2) for p in (2, 4)),
    *(("torch", "DualPipeV", p, 8, 2) for p in (2, 4)),
]
FEW: list[Case] = [
    ("torch", "GPipe", 2, 2, 1),
    ("torch", "1F1B", 4, 4, 1),
    ("torch", "Interleaved1F1B", 2, 4, 2),
    ("torch", "LoopedBFS", 2, 2, 2),
    ("torch", "InterleavedZeroBubble", 2, 2, 1),
    ("torch", "ZBVZeroBubble", 2, 4, 2),
    ("torch", "DualPipeV", 2, 4, 2),
    ("deepspeed", "1F1B", 2, 2, 1),
    ("deepspeed", "1F1B", 4, 2, 1),
]
SPLIT = ("InterleavedZeroBubble", "ZBVZeroBubble", "DualPipeV")


class Sleep(torch.autograd.Function):
    """Passes its input on, late; its gradient too."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, forward_s: float, backward_s: float) -> torch.Tensor:
        ctx.backward_s = backward_s
        time.sleep(forward_s)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        time.sleep(ctx.backward_s)
        return gradient, None, None


class Stage(nn.Module):
    """One weight, and sleep."""

    def __init__(self, forward_s: float, backward_s: float) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.forward_s, self.backward_s = forward_s, backward_s

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Gradients are asked of the stage's input as well, also where it is the data.
        return Sleep.apply(self.linear(x), self.forward_s, self.backward_s)


def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return ((output - target) ** 2).mean()


def recorder(folder: str, module: nn.Module) -> Recorder:
    """Each process measures itself, as if it were alone: the sums over stages are made below."""
    kinds = (
        bubble.StageStepS, bubble.StageBusyS, bubble.StageOutsideS, bubble.BubbleS,
        bubble.BubbleFraction, bubble.BubbleTheoryFraction, Samples, Steps, Flop,
    )  # fmt: skip
    alone = RankInfo(rank=0)
    return Recorder(
        module=module, indicators=[kind() for kind in kinds], save_dir=folder, place=alone, places=[alone],
        log_every_n_steps=1,
    )  # fmt: skip


def run_torch(
    schedule: str, p: int, m: int, v: int, group: distributed.ProcessGroup, steps: int, folder: str
) -> Recorder:
    rank = distributed.get_rank(group)
    v_shaped = schedule in ("ZBVZeroBubble", "DualPipeV")
    indices = [rank, 2 * p - 1 - rank] if v_shaped else [rank + chunk * p for chunk in range(v)]
    split = schedule in SPLIT

    def weights() -> Any:
        return lambda: time.sleep(SPLIT_S)

    stages = [
        pipelining.PipelineStage(
            Stage(SPLIT_S, SPLIT_S) if split else Stage(FORWARD_S, BACKWARD_S), index, p * v, torch.device("cpu"),
            group=group, dw_builder=weights if split else None,
        )
        for index in indices
    ]  # fmt: skip
    kind = getattr(pipelining, f"Schedule{schedule}")
    made = kind(stages[0] if schedule in ("GPipe", "1F1B") else stages, n_microbatches=m, loss_fn=loss)
    x, y = torch.ones(m, 1), torch.zeros(m, 1)
    first, last = any(s.is_first for s in stages), any(s.is_last for s in stages)
    with recorder(folder, stages[0].submod) as run:
        watch_pipeline(made, run)
        for _ in range(3 + steps + 1):
            with run.train_batch(x):
                made.step(*([x] if first else []), **({"target": y} if last else {}))
            run.step(x)
    assert not any(name in vars(stages[0]) for name in ("forward_one_chunk", "get_fwd_recv_ops")), "a shadow stayed"
    assert "step" not in vars(made)
    return run


def run_deepspeed(p: int, m: int, steps: int, folder: str) -> Recorder:
    import deepspeed
    from deepspeed.pipe import LayerSpec, PipelineModule

    module = PipelineModule(
        [LayerSpec(Stage, *DEEPSPEED_S) for _ in range(p)], num_stages=p, loss_fn=loss,
        partition_method="uniform",
    )  # fmt: skip
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=torch.optim.AdamW(module.parameters()),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": m,
            "train_batch_size": m * WORLD // p,
            "steps_per_print": 10**9,
        },
    )
    batch = (torch.ones(1, 1), torch.zeros(1, 1))
    with recorder(folder, module) as run:
        watch_pipeline(engine, run, steps=True)
        for _ in range(3 + steps + 1):
            engine.train_batch(data_iter=iter([batch] * m))
    assert "_INSTRUCTION_MAP" not in vars(engine), "a shadow stayed"
    assert "train_batch" not in vars(engine)
    return run


def steps_of(run: Recorder) -> list[list[float]]:
    """[steps][step, busy, outside]: seconds of this rank's stage in each measured step, from the run's points."""
    assert run.path is not None
    names = ("stage_step_s", "stage_busy_s", "stage_outside_s")
    totals = load_run(run.path).points.select(names).rows()
    windows = [
        [after - before for after, before in zip(*pair, strict=True)] for pair in zip(totals[1:], totals, strict=False)
    ]
    return [window for window in windows if window[0] > 0]


def row(case: Case, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """A case's row from what each rank read: of a step, counts are added first and divided last."""
    shares = []
    for ranks in zip(*(run["steps"] for run in runs), strict=True):
        step_s, busy_s, outside_s = (sum(amounts) for amounts in zip(*ranks, strict=True))
        shares.append((1 - busy_s / step_s, outside_s / step_s))
    engine, schedule, p, m, v = case
    return {
        "engine": engine, "schedule": schedule, "p": p, "m": m, "v": v,
        "measured": median(share for share, _ in shares),
        "theory": runs[0]["final"]["bubble_theory_fraction"],
        "outside": median(share for _, share in shares),
        "steps": len(shares),
        "about": runs[0]["about"],
        "finals": [run["final"] for run in runs],
        "places": [run["place"] for run in runs],
    }  # fmt: skip


def work(rank: int, port: int, cases: list[Case], steps: int) -> list[dict[str, Any]]:
    """One of the processes; rank 0 returns the rows."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(WORLD), "DS_ACCELERATOR": "cpu",
    }  # fmt: skip
    torch.set_num_threads(1)
    timeline_exchange.MOST_S = 60.0  # ranks that share two cores may come late
    distributed.init_process_group("gloo")
    if any(engine == "deepspeed" for engine, *_ in cases):
        prepare_deepspeed()
    pair = distributed.new_group([0, 1])
    rows = []
    for case in cases:
        engine, schedule, p, m, v = case
        members = WORLD if engine == "deepspeed" else p
        mine = None
        if rank < members:
            with tempfile.TemporaryDirectory() as folder:
                if engine == "deepspeed":
                    run = run_deepspeed(p, m, steps, folder)
                else:
                    group = pair if p == 2 else distributed.group.WORLD
                    assert group is not None
                    run = run_torch(schedule, p, m, v, group, steps, folder)
                place = run.hooks.run.context.place
                mine = {
                    "final": run.final, "steps": steps_of(run), "about": run.header["pipeline"],
                    "place": [place.replica, place.stage, place.shard],
                }  # fmt: skip
        heard: list[Any] = [None] * WORLD
        distributed.all_gather_object(heard, mine)
        if rank == 0:
            rows.append(row(case, heard[:members]))
            print(rows[-1]["engine"], *case[1:], round(rows[-1]["measured"], 3), file=sys.stderr)
    distributed.barrier()  # nobody leaves while others still talk
    distributed.destroy_process_group()
    return rows


def prepare_deepspeed() -> None:
    """DeepSpeed on a CPU: its first `init_distributed` would compile for a minute otherwise."""
    import logging

    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.init_distributed("gloo", verbose=False)


def measure(cases: list[Case], steps: int) -> list[dict[str, Any]]:
    """Run cases in processes of their own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [
            sys.executable,
            __file__,
            "--port",
            str(port),
            "--rows",
            str(out),
            "--work",
            json.dumps(cases),
            "--steps",
            str(steps),
        ]
        processes = [
            subprocess.Popen([*command, "--rank", str(rank)], stdout=subprocess.DEVNULL) for rank in range(WORLD)
        ]
        try:
            until_s = time.monotonic() + TIMEOUT_S
            for process in processes:
                if process.wait(timeout=max(1.0, until_s - time.monotonic())):
                    raise SystemExit(f"a process failed with {process.returncode}")
            return list(json.loads(out.read_text()))
        finally:
            for process in processes:
                process.kill()


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| engine | schedule | p | m | v | measured | closed form | difference | outside the schedule |",
        "| --- " * 9 + "|",
    ]
    for r in rows:
        known = r["theory"] is not None
        lines.append(
            f"| {r['engine']} | {r['schedule']} | {r['p']} | {r['m']} | {r['v']} | {r['measured']:.3f} | "
            + (f"{r['theory']:.3f} | {r['measured'] - r['theory']:+.3f}" if known else "none known | ")
            + f" | {r['outside']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", choices=("all", "few"), default="all")
    parser.add_argument("--only", help='these cases: JSON, such as [["torch", "GPipe", 2, 4, 1]]')
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        warnings.simplefilter("ignore")
        rows = work(given.rank, given.port, [tuple(case) for case in json.loads(given.work)], given.steps)
        if given.rank == 0:
            given.rows.write_text(json.dumps(rows))
        sys.stderr.flush()
        # Threads of gloo were seen to run on after `destroy_process_group`. An ordinary exit once ended by "terminate
        # called without an active exception", which a thread that nobody joined would explain.
        os._exit(0)
    cases = [tuple(case) for case in json.loads(given.only)] if given.only else FEW if given.cases == "few" else ALL
    rows = measure(cases, MEASURED[given.cases])
    print(json.dumps(rows) if given.json else table(rows))


if __name__ == "__main__":
    main()

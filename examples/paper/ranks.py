"""How a study trains on several processes: the ranks of one run, each on a CPU core, over gloo, with DeepSpeed."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from lightning_costs import Recorder

from . import learning
from .child import last_lines, printed_to, process_context
from .data import Digits
from .study import Job, Settings

#: How many processes a run has.
RANKS = 2
#: Imported before processes are made, so that one import serves all runs.
PRELOAD = (f"{__package__}.with_deepspeed", __name__)
#: A run that takes longer hangs.
LIMIT_S = 600.0

Tell = Callable[[float], None]
Batch = tuple[Tensor, Tensor]


def on_ranks(work: Callable[[Job, Tell], None]) -> Callable[[Job], None]:
    """A study's `train`: starts the run's processes, waits for all of them, and leaves none behind.

    What a rank prints goes to `logs/` in the job's folder.

    Args:
        work: What each rank does, a function of a module: a process group stands, its random numbers are those of the
            job's seed, and rank 0's progress is told by the second argument.
    """

    def train(job: Job) -> None:
        context = process_context()
        hears, tells = context.Pipe(duplex=False)
        port = _free_port()
        processes = [context.Process(target=_rank, args=(work, job, rank, port, tells)) for rank in range(RANKS)]
        before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # else who is terminated leaves its ranks
        try:
            for process in processes:
                process.start()
            tells.close()
            _follow(processes, hears, job)
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()
            signal.signal(signal.SIGTERM, before)

    return train


def _follow(processes: Sequence[BaseProcess], hears: Connection, job: Job) -> None:
    """Pass progress on until all ranks have ended well.

    Raises:
        RuntimeError: Where one failed, with the end of what it printed, or where they take too long.
    """
    until_s = time.monotonic() + LIMIT_S
    working = list(enumerate(processes))
    heard: list[Connection] = [hears]
    while working:
        ready = wait([*heard, *(process.sentinel for _, process in working)], until_s - time.monotonic())
        if not ready:
            raise RuntimeError(f"{job.name}: its processes did not end within {LIMIT_S:g} s")
        if hears in ready:
            try:
                learning.report_progress(hears.recv())
            except EOFError:
                heard.clear()
        for rank, process in working:
            if process.sentinel in ready:
                process.join()
                if process.exitcode:
                    last = last_lines(_log(job, rank), 30)
                    raise RuntimeError(f"rank {rank} failed (exit code {process.exitcode}):\n{last}")
        working = [(rank, process) for rank, process in working if process.sentinel not in ready]


def _rank(work: Callable[[Job, Tell], None], job: Job, rank: int, port: int, tells: Connection) -> None:
    """What one of the processes does."""
    with printed_to(_log(job, rank)):
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(RANKS),
            "LOCAL_WORLD_SIZE": str(RANKS),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        warnings.filterwarnings("ignore")
        from .with_deepspeed import deepspeed

        torch.set_num_threads(1)
        torch.manual_seed(job.seed)
        deepspeed.init_distributed("gloo", verbose=False)
        work(job, tells.send if rank == 0 else lambda share: None)  # whoever waited is gone: sending fails
        distributed.destroy_process_group()


def recorder(job: Job, module: nn.Module, **options: Any) -> Recorder:
    """The recorder of a job's run, to be made on every rank: its header says which job it was."""
    made = Recorder(
        module=module,
        monitor="val/acc",
        mode="max",
        targets=job.settings["targets"],
        save_dir=job.folder,
        name=job.name,
        dataset_samples=1437,
        setup={"batch_size": job.settings["batch"]},
        **options,
    )
    made.add_metadata({"group": job.arm, "tags": [job.study, job.size], "job": job.facts})
    return made


def course(
    job: Job, recorder: Recorder, step: Callable[[Batch], None], accuracy: Callable[[Batch], float], tell: Tell
) -> None:
    """Train for `epochs`, and evaluate after each.

    Args:
        job: The job.
        recorder: Its recorder, which is told of epochs and quality here and of steps by `step`.
        step: Trains on a global batch.
        accuracy: The share of right answers on what is held out, the same on every rank.
        tell: Progress.
    """
    epochs = job.settings["epochs"]
    digits = Digits(job.settings)
    digits.setup("fit")
    held_out: Any = digits.held_out.tensors
    for epoch in range(epochs):
        batches = list(global_batches(digits, job.settings, job.seed * 1000 + epoch))
        for at, batch in enumerate(batches):
            step(batch)
            tell((epoch + (at + 1) / len(batches)) / epochs)
        recorder.epoch_done()
        with recorder.bucket("evaluate"):
            found = accuracy(held_out)
        recorder.log_metrics({"val/acc": found})


def global_batches(digits: Digits, settings: Settings, seed: int) -> Iterator[Batch]:
    """An epoch's batches, in an order of the seed's; the same ones on every rank, and in every method."""
    x, y = digits.train_set.tensors
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    for picked in order.split(settings["batch"]):
        if len(picked) == settings["batch"]:
            yield x[picked], y[picked]


def micro_batches(batch: Batch, size: int) -> Iterator[Batch]:
    """Parts of a batch, each of `size` samples."""
    return zip(batch[0].split(size), batch[1].split(size), strict=True)


def _log(job: Job, rank: int) -> Path:
    return job.folder / "logs" / f"{job.name}-rank{rank}.txt"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])

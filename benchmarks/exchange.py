"""What it costs to join the costs of many processes, and what other ways would.

Processes train nothing, make points, and meet only in the store: rank 0's time for a point with the others' letters,
the others' time, and the same point of one process alone. Beside it, in the same processes: an all_gather of the same
letters over a gloo group of its own (and what making that group costs), and a journal in a file for each process.

Then, in one process: letters of many made-up ranks, left in a real store and joined as rank 0 does it.

    python benchmarks/exchange.py [--processes 1 2 4 8] [--ranks 1024 16384] [--points 200]
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from lightning_costs import Recorder
from lightning_costs.indicators import default_indicators
from lightning_costs.indicators.base import Measured
from lightning_costs.ranks.exchange import Exchange
from lightning_costs.ranks.snapshot import RankTotals, encode
from lightning_costs.records.declaration import Declaration
from lightning_costs.records.samples import CostVector, RankInfo

#: Between two points, so that processes do not only make points.
APART_S = 0.02


def declarations() -> dict[str, Declaration]:
    return {i.name: i.declaration() for i in default_indicators() if isinstance(i, Measured) and i.kind != "static"}


def timed_us(does: Callable[[], object], times: int) -> list[float]:
    took_us = []
    for _ in range(times):
        time.sleep(APART_S)
        dist.barrier()  # as gradients would
        began = time.perf_counter()
        does()
        took_us.append((time.perf_counter() - began) * 1e6)
    return took_us


def of_one_process(points: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    folder = Path(os.environ["COSTS_FOLDER"])
    batch = torch.zeros(8, 4)
    recorder = Recorder(save_dir=folder / "costs", log_every_n_steps=0)
    with recorder:
        for _ in range(20):
            recorder.step(batch)
        ours = timed_us(lambda: recorder.step(batch, emit=True), points)
        late = len(recorder.header.get("ranks", {}).get("late", ()))
    letter = bytes(600)
    began = time.perf_counter()
    group = dist.new_group(backend="gloo")
    group_ms = (time.perf_counter() - began) * 1e3
    every = [None] * dist.get_world_size()
    gathered = timed_us(lambda: dist.all_gather_object(every, letter, group=group), points)
    with (folder / f"journal-{rank}").open("ab") as file:

        def append() -> None:
            file.write(letter)
            file.flush()

        journal = timed_us(append, points)
    share = sum(ours) / 1e6
    if rank <= 1:
        low, middle, high = statistics.quantiles(ours, n=4)
        print(
            f"rank {rank}: a point {middle:.0f} us [{low:.0f}, {high:.0f}]; all_gather over gloo "
            f"{statistics.median(gathered):.0f} us, its group {group_ms:.1f} ms to make; journal "
            f"{statistics.median(journal):.0f} us; late {late}; {share:.2f} s in all",
            flush=True,
        )
    dist.destroy_process_group()


def processes(counts: list[int], points: int) -> None:
    for count in counts:
        with socket.socket() as free, tempfile.TemporaryDirectory() as folder:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
            free.close()
            world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count), "COSTS_FOLDER": folder}
            command = [sys.executable, __file__, "--points", str(points)]
            ranks = [
                subprocess.Popen(command, env={**os.environ, **world, "RANK": str(rank)}, stderr=subprocess.DEVNULL)
                for rank in range(count)
            ]
            print(f"{count} process(es)", flush=True)
            for process in ranks:
                process.wait(timeout=600)


def simulated(ranks: int) -> None:
    """Letters of so many ranks, four columns of which differ, through a real store."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    declared = declarations()
    places = [RankInfo(rank=r, node=r // 8, replica=r // 4, shard=r % 4, device=f"GPU-{r % 8}") for r in range(ranks)]
    exchange = Exchange(store, places[0], places, declared, name=f"simulated-{ranks}")
    columns = {name: d.kind == "counter" for name, d in declared.items()}
    prefix, token = exchange._prefix, exchange._token
    store.add(f"{prefix}/joined", ranks - 1)
    everyone = [RankTotals(columns) for _ in places]
    for point in (1, 2, 3):
        exchange.points = point
        vectors = [CostVector(place=p, amounts=dict.fromkeys(columns, float(p.rank))) for p in places]
        exchange.publish(vectors[0], batches=point, final=False, missing={})
        began = time.perf_counter()
        notes = []
        for totals, vector in zip(everyone, vectors, strict=True):
            totals.add(vector.amounts)
            letter = totals.snapshot(vector.place, points=point, batches=point, final=False, missing=())
            notes.append(token + encode(letter, totals.columns))
        wrote = time.perf_counter()
        for place, note in zip(places[1:], notes[1:], strict=True):
            store.set(f"{prefix}/{place.rank}/{point % 4}", note)
        store.check(["nothing"])  # the server has taken them all
        left = time.perf_counter()
        joined = exchange.collect(vectors[0], trigger="end")
        read = time.perf_counter()
        assert joined.missing == {}, joined.missing
        assert joined.window["samples"] == sum(float(r) for r in range(0, ranks, 4))
    each_us = (wrote - began) / ranks * 1e6
    print(
        f"{ranks} ranks: a letter is {len(notes[-1])} bytes and {each_us:.0f} us to write; the server takes all in "
        f"{(left - wrote) * 1e3:.0f} ms; rank 0 reads and joins them in {(read - left) * 1e3:.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--ranks", type=int, nargs="*", default=[1024, 16384])
    parser.add_argument("--points", type=int, default=200)
    args = parser.parse_args()
    if "RANK" in os.environ:
        of_one_process(args.points)
        return
    processes(args.processes, args.points)
    for ranks in args.ranks:
        simulated(ranks)


if __name__ == "__main__":
    main()

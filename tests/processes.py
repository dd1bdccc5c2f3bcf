"""Scripts run as the processes of one job, as a launcher would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = str(Path(__file__).parent)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(script: str, folder: Path, ranks: int = 2, *arguments: str, per_node: int = 0) -> list[subprocess.Popen[str]]:
    """Start `script` once per rank; its arguments are the folder of the tests' modules, `folder`, and the others."""
    (folder / "train.py").write_text(script)
    per_node = per_node or ranks
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    return [
        subprocess.Popen(
            [sys.executable, str(folder / "train.py"), TESTS, str(folder), *arguments],
            env={
                **os.environ, **world, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank % per_node),
                "NODE_RANK": str(rank // per_node), "LOCAL_WORLD_SIZE": str(per_node),
            },
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
        )
        for rank in range(ranks)
    ]  # fmt: skip


def run(script: str, folder: Path, ranks: int = 2, *arguments: str, timeout_s: float = 400, per_node: int = 0) -> str:
    """Run `script` in so many processes to its end, and return what they said; all of them have to succeed."""
    processes = start(script, folder, ranks, *arguments, per_node=per_node)
    try:
        with ThreadPoolExecutor(ranks) as readers:  # all at once: who fills a pipe that nobody reads waits for good
            said = list(readers.map(lambda process: process.communicate(timeout=timeout_s)[0], processes))
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0] * ranks, "\n".join(each[-3000:] for each in said)
    return "".join(said)

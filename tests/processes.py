"""Scripts run as processes of their own: forked where torch and Lightning are imported already, which takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

TESTS = str(Path(__file__).parent)

#: Forks a server that has imported what takes long.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["lightning.pytorch", "pytorch_lightning", "lightning.fabric", "lightning_fabric"])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@dataclass
class Script:
    """A script that runs as `python script arguments` would, but for what is imported before it begins.

    Nothing of ours is, nor polars or wandb. What a script imports first is tested in a process of Python's own.
    """

    path: Path
    arguments: tuple[str, ...] = ()
    cwd: Path = field(default_factory=Path.cwd)
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    own_group: bool = False  # whoever kills its group kills the processes that it started

    def __post_init__(self) -> None:
        number = len(list(self.cwd.glob("said-*")))
        self._out, self._err = (self.cwd / f"said-{number}.{name}" for name in ("out", "err"))
        for file in (self._out, self._err):
            file.touch()
        self.process: ForkServerProcess = FORKS.Process(target=_as_main, args=(self, str(self._out), str(self._err)))
        self.process.start()

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if name != "process"}

    @property
    def out(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return self._err.read_text(encoding="utf-8")

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def code(self) -> int | None:
        return self.process.exitcode

    def ended(self, timeout_s: float = 400) -> Script:
        """Wait for the end; what is still there afterwards is killed."""
        try:
            self.process.join(timeout_s)
            assert self.code is not None, f"no end within {timeout_s} s: {self.err[-3000:]}"
        finally:
            self.process.kill()
            self.process.join()
        return self


def _as_main(script: Script, out: str, err: str) -> None:
    """In the fork: what Python does before a script begins."""
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    if script.own_group:
        os.setsid()
    os.environ.clear()
    os.environ.update(script.environment)
    os.chdir(script.cwd)
    multiprocessing.set_start_method(None, force=True)
    places = [str(script.path.parent), *filter(None, script.environment.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:0] = places
    sys.argv = [str(script.path), *script.arguments]
    try:
        runpy.run_path(str(script.path), run_name="__main__")
    except Exception:  # noqa: BLE001 - as Python itself: the hook tells of it, and the status says so
        sys.last_type, sys.last_value, sys.last_traceback = sys.exc_info()
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


def start(script: str, folder: Path, ranks: int = 2, *arguments: str, per_node: int = 0) -> list[Script]:
    """Start `script` once per rank; its arguments are the folder of the tests' modules, `folder`, and the others."""
    (folder / "train.py").write_text(script)
    per_node = per_node or ranks
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(ranks)}
    return [
        Script(
            folder / "train.py",
            (TESTS, str(folder), *arguments),
            folder,
            {
                **os.environ, **world, "OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank % per_node),
                "NODE_RANK": str(rank // per_node), "LOCAL_WORLD_SIZE": str(per_node),
            },
        )
        for rank in range(ranks)
    ]  # fmt: skip


def run(script: str, folder: Path, ranks: int = 2, *arguments: str, timeout_s: float = 400, per_node: int = 0) -> str:
    """Run `script` in so many processes to its end, and return what they said; all of them have to succeed."""
    scripts = start(script, folder, ranks, *arguments, per_node=per_node)
    try:
        with ThreadPoolExecutor(ranks) as waiting:
            list(waiting.map(lambda one: one.ended(timeout_s), scripts))
    finally:
        for one in scripts:
            one.process.kill()
    assert [one.code for one in scripts] == [0] * ranks, "\n".join(one.err[-3000:] for one in scripts)
    return "".join(one.out + one.err for one in scripts)

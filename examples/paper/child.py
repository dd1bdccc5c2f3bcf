"""Processes that train: how they are made, and where what they print goes."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def process_context() -> Any:
    """What makes processes: by a server that has imported things once, where the system has it."""
    methods = multiprocessing.get_all_start_methods()
    return multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")


@contextmanager
def printed_to(log: Path) -> Iterator[None]:
    """For the rest of this process, all that it prints goes to a file, with the traceback of what ends it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        try:
            yield
        except BaseException:
            traceback.print_exc()
            raise


def last_lines(log: Path, most: int) -> str:
    """The end of what a process printed."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-most:])

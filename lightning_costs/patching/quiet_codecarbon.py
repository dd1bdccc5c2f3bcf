"""codecarbon without its log messages."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

_lock = threading.Lock()
_inside: list[tuple[int, Callable[..., list[str]]]] = []


@contextmanager
def silence_codecarbon() -> Iterator[None]:
    """Neither codecarbon's log nor Python's warnings say anything on account of what is inside.

    codecarbon warns of what we record in the header anyway (an unknown CPU, a generic TDP). It also looks for programs
    (`nvidia-smi`, `rocm-smi`, `scontrol`), and `os.get_exec_path`, which the search goes through, enters
    `warnings.catch_warnings`: after that, Python shows every warning of the script once more.
    """
    logger = logging.getLogger("codecarbon")
    with _lock:
        _inside.append((logger.level, os.get_exec_path))
        level, search = _inside[0]  # as it was before the first of the threads that are in here

    def get_exec_path(env: Mapping[str, str] | None = None) -> list[str]:
        variables = os.environ if env is None else env
        if any(isinstance(name, bytes) for name in variables):  # another thread's, and rare
            return search(env)
        return variables.get("PATH", os.defpath).split(os.pathsep)

    logger.setLevel(logging.CRITICAL)
    os.get_exec_path = get_exec_path
    try:
        yield
    finally:
        with _lock:
            _inside.pop()
            if not _inside:
                os.get_exec_path = search
                logger.setLevel(level)

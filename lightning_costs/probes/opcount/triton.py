"""Triton kernels launched straight from Python, past torch's dispatcher: seen by Triton's own launch hooks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def watch_triton_launches(tell: Callable[[str], None]) -> Iterator[None]:
    """Tell the name of every Triton kernel that is launched inside. Nothing is imported where Triton is not in use."""
    chain = _chain()
    if chain is None:
        yield
        return

    def hook(metadata: Any) -> None:
        try:
            tell(str(metadata.get()["name"]))
        except Exception:  # noqa: BLE001 - a kernel without a name is a kernel
            tell("unnamed")

    chain.add(hook)
    try:
        yield
    finally:
        chain.remove(hook)


def _chain() -> Any:
    """Triton's chain of hooks (3.4 and later); None where there is none."""
    triton = sys.modules.get("triton")
    chain = getattr(getattr(getattr(triton, "knobs", None), "runtime", None), "launch_enter_hook", None)
    return chain if hasattr(chain, "add") and hasattr(chain, "remove") else None

"""Launches of Triton kernels, which no dispatch mode sees."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def watch_triton_launches(tell: Callable[[str], None]) -> Iterator[None]:
    """Report the name of every Triton kernel launched inside, past torch's dispatcher, by Triton's own hooks."""
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
    """Triton's chain of hooks (3.4 and later); None if it has none."""
    triton = sys.modules.get("triton")
    chain = getattr(getattr(getattr(triton, "knobs", None), "runtime", None), "launch_enter_hook", None)
    return chain if hasattr(chain, "add") and hasattr(chain, "remove") else None

"""A trace of attempts that begin: one that is killed before its first batch has left no other."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path

#: One line an attempt that took the folder up, with its id and when its process started.
STARTS = "starts.jsonl"
_MOST_BYTES = 1 << 20


def note_start(folder: Path, attempt: str) -> None:
    """Leave the trace; a disk that fails is not said here, as writing points will."""
    try:
        path = folder / STARTS
        if not path.exists() or path.stat().st_size < _MOST_BYTES:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"id": attempt}) + "\n")
    except OSError:
        pass


def starts_without_batch(folder: Path, known: Container[str]) -> list[str]:
    """Attempts that took the folder up, and are none of the known ones; none where nothing can be read."""
    try:
        with (folder / STARTS).open(encoding="utf-8", errors="replace") as file:
            lines = file.read(_MOST_BYTES).splitlines()
    except OSError:
        return []
    found: dict[str, None] = {}
    for line in lines:
        try:
            attempt = json.loads(line)["id"]
        except (ValueError, KeyError, TypeError):
            continue  # a torn line
        if isinstance(attempt, str) and attempt not in known:
            found[attempt] = None
    return list(found)

"""A trace of attempts that begin: one that dies before its first batch leaves no other."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

#: One line an attempt that took the folder up, with its id and when its process started.
STARTS = "starts.jsonl"
#: Where the traces of a run are that has no folder yet, as it has trained no batch.
BEFORE_THE_FIRST = ".starts"
#: The trace that `lightning-costs run` left, for the process that it runs.
LAUNCH = "LIGHTNING_COSTS_LAUNCH"
_MOST_BYTES = 1 << 20


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / STARTS, folder.parent / BEFORE_THE_FIRST / f"{folder.name}.jsonl"


def note_start(folder: Path, attempt: str, started: str) -> None:
    """Leave the trace; a disk that fails is not reported here, as writing points will."""
    _append(folder, {"id": attempt, "started": started})


def note_end(folder: Path, attempt: str) -> None:
    """The attempt ended by itself without a batch: it was not disrupted."""
    _append(folder, {"id": attempt, "ended": True})
    if not starts_without_batch(folder, ()):
        forget_starts(folder)


def forget_starts(folder: Path) -> None:
    """The run has a folder now, whose header has what was found."""
    _, before = _files(folder)
    with suppress(OSError):
        before.unlink(missing_ok=True)
        before.parent.rmdir()  # fails if other runs have traces there


def _append(folder: Path, line: dict[str, object]) -> None:
    inside, before = _files(folder)
    path = inside if folder.is_dir() else before
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.stat().st_size < _MOST_BYTES:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def starts_without_batch(folder: Path, known: Container[str]) -> dict[str, str]:
    """Attempts that began and are none of the known ones, each with its start if it is recorded; else an empty text."""
    found: dict[str, str] = {}
    for line in _lines(folder):
        attempt = line.get("id") if isinstance(line, dict) else None
        if not isinstance(attempt, str) or attempt in known:
            continue
        if "ended" in line:
            found.pop(attempt, None)
        else:
            found.setdefault(attempt, str(line.get("started", "")))
    return found


def _lines(folder: Path) -> Iterator[Any]:
    for path in reversed(_files(folder)):
        with suppress(OSError), path.open(encoding="utf-8", errors="replace") as file:
            for line in file.read(_MOST_BYTES).splitlines():
                with suppress(ValueError):  # a torn line
                    yield json.loads(line)

"""Limits on the size of files that are read: a run folder is untrusted data."""

from __future__ import annotations

import os
import stat
from pathlib import Path

#: A header is some 50 kB, a line of the journal some 3 kB, a journal or table some MB.
MOST_HEADER_BYTES = 16 << 20
MOST_LINE_BYTES = 16 << 20
MOST_POINTS_BYTES = 256 << 20
#: Headers of saved runs: 15,000 of them.
MOST_HEADERS_BYTES = 512 << 20
#: Rows times columns of a table of points: 100,000 points of 500 columns.
MOST_VALUES = 50_000_000


def read_at_most(path: Path, most_bytes: int) -> bytes:
    """All that is in a regular file of that many bytes at most; a pipe or device is refused, not waited for."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError(f"{path.name} is no regular file")
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise too_much(path.name, os.path.getsize(path), most_bytes)
    return content


def check_size(name: str, nbytes: int, most_bytes: int) -> None:
    """Refuse a file that is too large to be read."""
    if nbytes > most_bytes:
        raise too_much(name, nbytes, most_bytes)


def check_values(name: str, rows: int, columns: int) -> None:
    """Refuse a table that is too large to be held."""
    if rows * columns > MOST_VALUES:
        raise ValueError(f"{name} holds {rows:,} rows of {columns:,} columns, at most {MOST_VALUES:,} values are read")


def check_table(name: str, file: Path | bytes) -> None:
    """Refuse a Parquet file by what it says of its own size: it may expand a thousandfold."""
    import polars

    lazy = polars.scan_parquet(file)
    check_values(name, lazy.select(polars.len()).collect().item(), len(lazy.collect_schema()))


def too_much(name: str, nbytes: int, most_bytes: int) -> ValueError:
    """The error for a file that is too large."""
    return ValueError(f"{name} holds {nbytes / 2**20:,.0f} MiB, at most {most_bytes >> 20} MiB are read")


_POINTER = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(name: str, content: bytes) -> None:
    """Refuse the pointer that Git keeps in place of a large file."""
    if content.startswith(_POINTER):
        raise ValueError(f"{name} is a pointer of Git LFS and not the file itself: fetch it with `git lfs pull`")

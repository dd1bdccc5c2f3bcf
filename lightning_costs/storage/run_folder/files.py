"""The run folder: a header, a journal of points appended as they happen, and Parquet at the end."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from lightning_costs.records.samples import CurvePoint
from lightning_costs.storage.run_folder.frames import from_frame, read_parquet, to_columns
from lightning_costs.storage.run_folder.journal import PointEncoder, decode, read_journal, to_strict_json
from lightning_costs.storage.run_folder.parquet import parquet

if TYPE_CHECKING:
    import polars

_log = logging.getLogger("lightning_costs")

#: Train points wait so long at most before they are written.
FLUSH_EVERY_S = 1.0
#: Bytes of lines that wait at most for a disk to come back: thousands of points.
MOST_WAITING_BYTES: Final = 1 << 24
#: Another process has so long to read a table.
_APART_S: Final = 60.0

HEADER, JOURNAL, PARQUET, TRACE = "header.json", "points.jsonl", "points.parquet", "trace.json.gz"


@final
class RunFolder:
    """Writes a run to `<save_dir>/<run id>/`.

    Points are handed to the operating system when `append` returns, but for train points within `FLUSH_EVERY_S` of
    the last such moment: a run that makes a thousand points a second writes once a second. A kill loses those. A line
    is written whole or not at all: after an error the points wait, for the next `flush`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._journal: FileIO | None = None
        self._encoder = PointEncoder()
        #: Values of the header with their text, as they were written last.
        self._header: dict[str, tuple[Any, str]] = {}
        self._waiting: list[CurvePoint] = []
        #: Lines that could not be written, each with whether it is a train point's.
        self._lines: list[tuple[bool, bytes]] = []
        self._flushed_s = -FLUSH_EVERY_S
        self._size = 0
        self._watched = True
        self._mixed = False

    @property
    def opened(self) -> bool:
        """Whether the journal is open."""
        return self._journal is not None and not self._journal.closed

    def open(self, header: Mapping[str, Any]) -> None:
        """Make the folder and write the header; a journal that is there is continued, its Parquet made again."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_header(header)
        if (self.path / PARQUET).is_file():
            if not (self.path / JOURNAL).is_file():  # only the table was kept
                lines = "".join(self._encoder.line(point) + "\n" for point in points_apart(self.path))
                self._replace(JOURNAL, lambda fresh: fresh.write_text(lines, encoding="ascii"))
            (self.path / PARQUET).unlink()
        self._open_journal()

    def _open_journal(self) -> None:
        journal = FileIO(self.path / JOURNAL, "a+")
        try:
            self._size = _ended(journal)
            # Some file systems report another number of one file each time: the numbers identify nothing.
            self._watched = _is_at(journal, self.path / JOURNAL)
        except BaseException:
            journal.close()
            raise
        self._journal = journal

    def write_header(self, header: Mapping[str, Any]) -> None:
        """Replace the header in one move: a reader sees the old one or the new one."""
        lines = []
        for name, value in header.items():
            known = self._header.get(name)
            if known is None or known[0] is not value:  # values are replaced, never changed in place
                text = json.dumps(to_strict_json(value), allow_nan=False, default=str)
                known = self._header[name] = (value, f"{json.dumps(str(name))}: {text}")
            lines.append(known[1])
        whole = "{\n" + ",\n".join(lines) + "\n}\n"
        self._replace(HEADER, lambda fresh: fresh.write_text(whole, encoding="utf-8"))

    def _replace(self, name: str, write: Callable[[Path], object]) -> None:
        replace_file(self.path / name, write)

    def rewrite(self, points: polars.DataFrame, header: Mapping[str, Any]) -> None:
        """Replace the points in the files that are there: the journal first, which the table must not be older than."""
        if (self.path / JOURNAL).is_file():
            lines = "".join(self._encoder.line(point) + "\n" for point in from_frame(points, header))
            self._replace(JOURNAL, lambda fresh: fresh.write_text(lines, encoding="utf-8"))
        if (self.path / PARQUET).is_file():
            self._replace(PARQUET, points.write_parquet)

    def append(self, point: CurvePoint) -> None:
        """Add a point to the journal."""
        assert self._journal is not None, "open comes before append"
        self.keep(point)
        if point.trigger != "train" or not 0 <= point.time - self._flushed_s < FLUSH_EVERY_S:
            self._flushed_s = point.time
            self.flush()

    def keep(self, point: CurvePoint) -> int:
        """Let a point wait for the next `flush`.

        Returns:
            How many that waited before had to go: where too much waits, every second train point, or else every
            second one. Totals are complete in each that stays.
        """
        self._waiting.append(point)
        if self.opened and not self._lines:
            return 0
        self._encode()
        before = len(self._lines)
        for of_train in (True, False):
            if sum(len(line) for _, line in self._lines) > MOST_WAITING_BYTES:
                self._lines = [*_every_second(self._lines[:-1], of_train=of_train), self._lines[-1]]
        return before - len(self._lines)

    def _encode(self) -> None:
        waiting, self._waiting = self._waiting, []
        for point in waiting:
            self._lines.append((point.trigger == "train", f"{self._encoder.line(point)}\n".encode()))

    def flush(self) -> None:
        """Hand every point to the operating system."""
        if self._journal is None or not (self._waiting or self._lines):
            return
        self._encode()
        journal = self._seen_to(self._journal)
        data = b"".join(line for _, line in self._lines)
        begun, left = self._size, memoryview(data)
        try:
            while left:
                left = left[journal.write(left) or 0 :]
        except BaseException:
            with suppress(OSError):  # half a line
                if begun < os.fstat(journal.fileno()).st_size <= begun + len(data):
                    journal.truncate(begun)
            raise
        self._size = begun + len(data)
        self._lines = []

    def _seen_to(self, journal: FileIO) -> FileIO:
        """The journal, restored if it was removed or replaced: the open file still holds its lines."""
        if not self._watched:
            return journal
        path, size = self.path / JOURNAL, os.fstat(journal.fileno()).st_size
        if _is_at(journal, path):
            if size < self._size:
                _log.warning("%s was truncated during the run: %d bytes of points are lost", path, self._size - size)
            elif size > self._size and not self._mixed:
                self._mixed = True
                _log.warning("%s is written by another process too: its points are mixed with this run's", path)
            self._size = size if size == self._size else _ended(journal)
            return journal
        try:
            journal.seek(0)
            lines = journal.readall()
        except OSError:  # a file that was removed on the server of a network's file system
            lines = b""
        if path.exists() or path.is_symlink():
            path.rename(path.with_name(f"{JOURNAL}.{time.time_ns()}"))
        self._replace(JOURNAL, lambda fresh: fresh.write_bytes(lines))
        journal.close()
        self._open_journal()
        _log.warning("%s was removed or replaced during the run; it was written again", path)
        assert self._journal is not None
        return self._journal

    def abandon(self) -> None:
        """Close the journal as it is: nothing more can be written."""
        if self._journal is not None:
            with suppress(OSError):
                self._journal.close()
            self._journal = None

    def close(self, header: Mapping[str, Any], *, table: bool = True) -> bytes | None:
        """Write the final header and, if `table`, the points as Parquet, which is returned."""
        self.flush()
        self.abandon()
        self.write_header(header)
        if not table:
            return None
        written = parquet(to_columns(read_journal(self.path / JOURNAL), header))
        self._replace(PARQUET, lambda fresh: fresh.write_bytes(written))
        return written


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file beside a path and move it there; if that fails, nothing is left behind."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(fresh)
        fresh.replace(path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise


def _every_second(lines: list[tuple[bool, bytes]], *, of_train: bool) -> list[tuple[bool, bytes]]:
    """Every second line; of train points alone, with all others, where `of_train`."""
    kept, drops = [], False
    for train, line in lines:
        drops = not drops if train or not of_train else drops
        if not drops or (of_train and not train):
            kept.append((train, line))
    return kept


def _ended(journal: FileIO) -> int:
    """The size of a journal, whose last line is ended where a kill or a full disk tore it."""
    size = os.fstat(journal.fileno()).st_size
    journal.seek(max(0, size - 1))
    return size + (journal.write(b"\n") or 0) if journal.read(1) not in (b"", b"\n") else size


def _is_at(file: FileIO, path: Path) -> bool:
    """Whether an open file is the one at a path."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def points_apart(folder: Path) -> list[CurvePoint]:
    """The points of a folder's table, read in another process: this one trains, and must not load polars."""
    command = [sys.executable, "-c", f"from {__name__} import _print; _print()", str(folder)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=_APART_S,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        return [decode(line) for line in done.stdout.decode("ascii").splitlines()]
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise ValueError(f"{folder / PARQUET} cannot be read: {error!r}") from error


def _print() -> None:
    folder = Path(sys.argv[1])
    header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
    encoder = PointEncoder()
    for point in from_frame(read_parquet(folder / PARQUET, header), header):
        print(encoder.line(point))

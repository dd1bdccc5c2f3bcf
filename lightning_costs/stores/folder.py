"""The run folder: a header, a journal of points appended as they happen, and Parquet at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, final

from lightning_costs.core.records import CurvePoint
from lightning_costs.stores.journal import Encoder, plain, read_journal
from lightning_costs.stores.table import from_frame, read_parquet, to_frame

if TYPE_CHECKING:
    import polars

#: Train points wait so long at most before they are written.
FLUSH_EVERY_S = 1.0

HEADER, JOURNAL, PARQUET = "header.json", "points.jsonl", "points.parquet"


@final
class RunFolder:
    """Writes a run to `<save_dir>/<run id>/`.

    Points are handed to the operating system when `append` returns, but for train points within `FLUSH_EVERY_S` of
    the last such moment: a run that makes a thousand points a second writes once a second. A kill loses those.

    Args:
        path: The run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._journal: TextIO | None = None
        self._encoder = Encoder()
        self._waiting: list[CurvePoint] = []
        self._flushed_s = -FLUSH_EVERY_S

    def open(self, header: Mapping[str, Any]) -> None:
        """Make the folder and write the header; a journal that is there is continued, its Parquet made anew."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_header(header)
        journal = self.path / JOURNAL
        if (self.path / PARQUET).is_file():
            if not journal.is_file():  # somebody kept the table alone
                points = from_frame(read_parquet(self.path / PARQUET, header), header)
                journal.write_text("".join(self._encoder.line(point) + "\n" for point in points), encoding="utf-8")
            (self.path / PARQUET).unlink()
        torn = journal.is_file() and journal.read_bytes()[-1:] not in (b"", b"\n")
        self._journal = journal.open("a", encoding="utf-8")
        if torn:
            self._journal.write("\n")

    def write_header(self, header: Mapping[str, Any]) -> None:
        """Replace the header in one move: a reader sees the old one or the new one."""
        text = json.dumps(plain(header), indent=1, allow_nan=False, default=str)
        self._replace(HEADER, lambda fresh: fresh.write_text(text, encoding="utf-8"))

    def _replace(self, name: str, write: Callable[[Path], object]) -> None:
        """Write a file beside `name` and put it in its place; where that fails, nothing stays behind."""
        fresh = self.path / f".{name}.{os.getpid()}"
        try:
            write(fresh)
            fresh.replace(self.path / name)
        except BaseException:
            with suppress(OSError):
                fresh.unlink(missing_ok=True)
            raise

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
        self._waiting.append(point)
        if point.trigger != "train" or not 0 <= point.time - self._flushed_s < FLUSH_EVERY_S:
            self._flushed_s = point.time
            self.flush()

    def flush(self) -> None:
        """Hand every point to the operating system."""
        waiting, self._waiting = self._waiting, []
        if waiting and self._journal is not None:
            self._journal.write("".join(self._encoder.line(point) + "\n" for point in waiting))
            self._journal.flush()

    def let_go(self) -> None:
        """Close the journal as it is: nothing more can be written."""
        if self._journal is not None:
            with suppress(OSError):  # what is still in its buffer does not fit either
                self._journal.close()
            self._journal = None

    def close(self, header: Mapping[str, Any]) -> None:
        """Write the final header and the points as Parquet."""
        self.flush()
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self.write_header(header)
        points = read_journal(self.path / JOURNAL)
        self._replace(PARQUET, to_frame(points, header).write_parquet)

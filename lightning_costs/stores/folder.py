"""The run folder: a header, a journal of points appended as they happen, and Parquet at the end."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO, final

from lightning_costs.core.records import CurvePoint

HEADER, JOURNAL, PARQUET = "header.json", "points.jsonl", "points.parquet"
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encode(point: CurvePoint) -> str:
    """A point as one line of strict JSON; numbers that JSON lacks are strings.

    Example:
        >>> encode(CurvePoint(step=1, epoch=0, time=0.0, trigger="train", costs={"steps": 2.0, "flop": None},
        ...                   quality={"loss": math.nan}))
        '{"step":1,"epoch":0,"time":0.0,"trigger":"train","costs":{"steps":2.0,"flop":null},"quality":{"loss":"NaN"}}'
    """
    line = {
        "step": point.step,
        "epoch": point.epoch,
        "time": point.time,
        "trigger": point.trigger,
        "costs": {name: to_json(amount) for name, amount in point.costs.items()},
        "quality": {name: to_json(value) for name, value in point.quality.items()},
    }
    return json.dumps(line, separators=(",", ":"), allow_nan=False)


def decode(line: str) -> CurvePoint:
    """The point of a journal's line.

    Raises:
        ValueError: For a line that is torn or no point.
    """
    try:
        data = json.loads(line)
        return CurvePoint(
            step=data["step"],
            epoch=data["epoch"],
            time=data["time"],
            trigger=data["trigger"],
            costs={name: from_json(amount) for name, amount in data["costs"].items()},
            quality={
                name: number for name, value in data["quality"].items() if (number := from_json(value)) is not None
            },
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no point of a run: {line[:80]!r}") from error


def to_json(value: float | None) -> float | str | None:
    """An amount as strict JSON has it."""
    if value is None or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def from_json(value: float | str | None) -> float | None:
    """The amount that `to_json` was given."""
    if isinstance(value, str):
        return _NOT_FINITE[value]
    if value is not None and not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no amount")
    return value


def _plain(data: Any) -> Any:
    """A header's data as strict JSON has it: a user's fact may be infinite, or keyed by anything."""
    if isinstance(data, float):
        return to_json(data)
    if isinstance(data, Mapping):
        return {str(key): _plain(value) for key, value in data.items()}
    return [_plain(item) for item in data] if isinstance(data, list | tuple) else data


@final
class RunFolder:
    """Writes a run to `<save_dir>/<run id>/`. Every point is on disk when `append` returns.

    Args:
        path: The run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._journal: TextIO | None = None

    def open(self, header: Mapping[str, Any]) -> None:
        """Make the folder and write the header; a journal that is there is continued."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_header(header)
        journal = self.path / JOURNAL
        torn = journal.is_file() and journal.read_bytes()[-1:] not in (b"", b"\n")
        self._journal = journal.open("a", encoding="utf-8")
        if torn:
            self._journal.write("\n")

    def write_header(self, header: Mapping[str, Any]) -> None:
        """Replace the header in one move: a reader sees the old one or the new one."""
        fresh = self.path / f".{HEADER}.{os.getpid()}"
        fresh.write_text(json.dumps(_plain(header), indent=1, allow_nan=False, default=str), encoding="utf-8")
        fresh.replace(self.path / HEADER)

    def append(self, point: CurvePoint) -> None:
        """Add a point to the journal and hand it to the operating system."""
        assert self._journal is not None, "open comes before append"
        self._journal.write(encode(point) + "\n")
        self._journal.flush()

    def let_go(self) -> None:
        """Close the journal as it is: nothing more can be written."""
        if self._journal is not None:
            with suppress(OSError):  # what is still in its buffer does not fit either
                self._journal.close()
            self._journal = None

    def close(self, header: Mapping[str, Any]) -> None:
        """Write the final header and the points as Parquet."""
        from lightning_costs.stores.loader import read_journal, to_frame

        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self.write_header(header)
        points = read_journal(self.path / JOURNAL)
        fresh = self.path / f".{PARQUET}.{os.getpid()}"
        to_frame(points, header).write_parquet(fresh)
        fresh.replace(self.path / PARQUET)

"""The journal of a run: a point as a line of strict JSON, and lines back as points."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from lightning_costs.records.samples import Amount, CurvePoint
from lightning_costs.storage.limits import MOST_LINE_BYTES

_INT64 = 1 << 63
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@final
class PointEncoder:
    """Points as lines of strict JSON; numbers outside JSON are strings.

    From one point to the next most amounts stay: what was written of them before is written again.

    Example:
        >>> costs = {"steps": 2.0, "flop": None}
        >>> point = CurvePoint(step=1, epoch=0, time=0.0, trigger="train", costs=costs, quality={"loss": math.nan})
        >>> PointEncoder().line(point)
        '{"step":1,"epoch":0,"time":0.0,"trigger":"train","costs":{"steps":2.0,"flop":null},"quality":{"loss":"NaN"}}'
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[Amount, str]] = {}
        self._keys: dict[str, str] = {}

    def line(self, point: CurvePoint) -> str:
        """The point's line, without its end."""
        known, keys, pairs = self._known, self._keys, []
        for name, amount in point.costs.items():
            last = known.get(name)
            if last is None:
                keys[name] = json.dumps(name) + ":"
            if last is None or last[0] != amount:
                if type(amount) is float and amount - amount == 0.0:
                    text = keys[name] + repr(amount)  # what json writes of a finite float
                else:
                    text = keys[name] + json.dumps(to_json(amount), allow_nan=False)
                last = known[name] = (amount, text)
            pairs.append(last[1])
        quality = "{}"
        if point.quality:
            values = {name: to_json(value) for name, value in point.quality.items()}
            quality = json.dumps(values, separators=(",", ":"), allow_nan=False)
        return (
            f'{{"step":{point.step},"epoch":{point.epoch},"time":{point.time!r},"trigger":"{point.trigger}",'
            f'"costs":{{{",".join(pairs)}}},"quality":{quality}}}'
        )


def decode(line: str) -> CurvePoint:
    """The point of a journal's line.

    Raises:
        ValueError: For a line that is torn or no point: an odd line costs itself and no other.
    """
    try:
        data = json.loads(line)
        point = CurvePoint(
            step=data["step"],
            epoch=data["epoch"],
            time=float(data["time"]),
            trigger=data["trigger"],
            costs={name: from_json(amount) for name, amount in data["costs"].items()},
            quality={
                name: number for name, value in data["quality"].items() if (number := from_json(value)) is not None
            },
        )
        if not (type(data["time"]) in (int, float) and math.isfinite(point.time)):
            raise TypeError(f"{data['time']!r} is no time")
        if not (type(point.step) is type(point.epoch) is int and max(abs(point.step), abs(point.epoch)) < _INT64):
            raise TypeError(f"{point.step!r} and {point.epoch!r} are no step and epoch")
        if not isinstance(point.trigger, str):
            raise TypeError(f"{point.trigger!r} is no trigger")
        return point
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
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
    if value is not None and type(value) not in (int, float):
        raise TypeError(f"{value!r} is no amount")
    try:
        return None if value is None else float(value)
    except OverflowError as error:
        raise ValueError("an amount is larger than any float") from error


def to_strict_json(data: Any) -> Any:
    """A header's data as strict JSON has it: a user's fact may be infinite, or keyed by anything."""
    if isinstance(data, float):
        return to_json(data)
    if isinstance(data, Mapping):
        return {str(key): to_strict_json(value) for key, value in data.items()}
    return [to_strict_json(item) for item in data] if isinstance(data, list | tuple) else data


def read_journal(path: Path, size: int = -1) -> list[CurvePoint]:
    """Points of a journal, or of its first bytes; a torn or odd line is left out, and no file is no points."""
    points = []
    if path.is_file():
        with path.open("rb") as journal:
            text = journal.read(size).decode("utf-8", "replace")
        for line in text.splitlines():
            if len(line) > MOST_LINE_BYTES:  # not a line of this package: those have some 3 kB
                continue
            try:
                points.append(decode(line))
            except ValueError:
                continue
    return points

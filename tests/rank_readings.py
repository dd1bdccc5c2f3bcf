"""What one rank of a job reads, for scripts that leave it to their test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning_costs.indicators.reader import IndicatorReader


@contextmanager
def own_readings() -> Iterator[dict[str, float]]:
    """What this rank reads while the block runs, whatever becomes of it: counters added up, gauges at their largest."""
    read, note = IndicatorReader.read, getattr(IndicatorReader, "note_unheard", None)
    readings: dict[str, float] = {}

    def noted(self: IndicatorReader, sample: Any) -> Any:
        vector = read(self, sample)
        for name, amount in vector.amounts.items():
            if amount is None:
                continue
            counter = self.declarations[name].kind == "counter"
            before = readings.get(name, 0.0)
            readings[name] = before + amount if counter else max(before, amount)
        return vector

    IndicatorReader.read = noted  # type: ignore[method-assign]
    IndicatorReader.mark_unreported = lambda *_: None  # type: ignore[method-assign]
    try:
        yield readings
    finally:
        IndicatorReader.read, IndicatorReader.mark_unreported = read, note  # type: ignore[method-assign,assignment]

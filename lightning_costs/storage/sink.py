"""Sinks: where a run's header and points go. Its folder is one, and W&B, and what a user makes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, final, runtime_checkable

from lightning_costs.patching.fail_safe import raised_by_signal
from lightning_costs.records.samples import CurvePoint

_log = logging.getLogger("lightning_costs")


@runtime_checkable
class Sink(Protocol):
    """What a sink has to have. It is called in the training process, on rank 0, between steps: it should return soon.

    A sink that raises is left out from then on, with a warning; training continues.
    """

    def open(self, header: Mapping[str, Any]) -> None:
        """The run has trained its first batch.

        Args:
            header: The run's, as header.json holds it; it is the sink's to keep.
        """
        ...

    def point(self, point: CurvePoint, header: Mapping[str, Any]) -> None:
        """A point was made: totals and gauges so far, and quality if it was evaluated.

        Args:
            point: `costs` by column, None for what is missing; `quality` by metric.
            header: As it is now: reasons, methods and statics may have come since.
        """
        ...

    def close(self, status: str) -> None:
        """The run is over.

        Args:
            status: 'finished', 'failed' or 'interrupted'.
        """
        ...


@final
class MemorySink:
    """Keeps a run in memory, for tests of what is measured.

    Examples:
        >>> from lightning_costs import MemorySink, Recorder
        >>> sink = MemorySink()
        >>> recorder = Recorder(sinks=[sink])  # or CostMonitor(sinks=[sink])
        >>> sink.points, sink.status
        ([], None)
    """

    def __init__(self) -> None:
        #: The header, as it was at the last point.
        self.header: dict[str, Any] = {}
        self.points: list[CurvePoint] = []
        #: How the run ended; None while it runs.
        self.status: str | None = None

    def open(self, header: Mapping[str, Any]) -> None:
        """A run begins; an earlier one is forgotten."""
        self.header, self.points, self.status = dict(header), [], None

    def point(self, point: CurvePoint, header: Mapping[str, Any]) -> None:
        """Keep it."""
        self.points.append(point)
        self.header = dict(header)

    def close(self, status: str) -> None:
        """Note how the run ended."""
        self.status = status


@final
class Sinks:
    """Several sinks as one that never raises.

    Args:
        sinks: In the order in which they are called.

    Raises:
        ValueError: For what is no sink.
    """

    def __init__(self, sinks: Iterable[Sink]) -> None:
        self._sinks = list(sinks)
        for sink in self._sinks:
            lacks = [name for name in ("open", "point", "close") if not callable(getattr(sink, name, None))]
            if lacks or isinstance(sink, type):
                what = "a class, not an instance" if isinstance(sink, type) else f"one without {', '.join(lacks)}"
                raise ValueError(f"a sink must have open, point and close, got {what}: {sink!r}")

    @property
    def all(self) -> tuple[Sink, ...]:
        """Those that did not fail."""
        return tuple(self._sinks)

    def add(self, sink: Sink, *, first: bool = False) -> None:
        """One more, before `open`; it is called after the others, or `first`."""
        self._sinks.insert(0 if first else len(self._sinks), sink)

    def open(self, header: Mapping[str, Any]) -> None:
        """Call `open` of all sinks."""
        self._each("open", header)

    def point(self, point: CurvePoint, header: Mapping[str, Any]) -> None:
        """Call `point` of all sinks."""
        self._each("point", header, point)

    def close(self, status: str) -> None:
        """Call `close` of all sinks."""
        self._each("close", None, status)

    def _each(self, call: str, header: Mapping[str, Any] | None, *args: Any) -> None:
        for sink in tuple(self._sinks):
            try:
                getattr(sink, call)(*args, *(() if header is None else (dict(header),)))
            except Exception as error:
                if raised_by_signal(error):
                    raise
                # A user's sink must not end the user's training.
                self._sinks.remove(sink)
                _log.warning(
                    "%s failed and gets no more of this run: %s: %s", type(sink).__name__, type(error).__name__, error
                )

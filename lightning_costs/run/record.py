"""A run as it is read: its header and its points."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Any

from lightning_costs.records.formatting import MISSING
from lightning_costs.records.printable import printable, printable_data
from lightning_costs.records.samples import Amount
from lightning_costs.run.kept import without_lost_work
from lightning_costs.run.quality_svg import quality_svg
from lightning_costs.run.summary import html_table, summary_rows

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class RunRecord:
    """A run: its header and its points.

    Args:
        header: Schema version, declarations, setup, tariff, attempts, missing readings with reasons.
        points: One row per point: `step`, `epoch`, `time`, `trigger`, cost columns, quality columns.
        source: Which file the points came from ('points.parquet' or 'points.jsonl').
    """

    header: Mapping[str, Any]
    points: polars.DataFrame
    source: str = "memory"
    _read: Callable[[], polars.DataFrame] | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def lazy(cls, *, header: Mapping[str, Any], read: Callable[[], polars.DataFrame], source: str) -> RunRecord:
        """A run whose points are read on first access.

        A training that ends needs no table: polars in its process starts threads that do not survive a fork, and
        changes the environment and the handling of SIGINT.
        """
        run = object.__new__(cls)
        run.__setstate__({"header": header, "source": source, "_read": read})
        return run

    if not TYPE_CHECKING:  # else any attribute would pass

        def __getattr__(self, name: str) -> Any:
            if name != "points" or self._read is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            points = self._read()
            object.__setattr__(self, "points", points)
            return points

    def __getstate__(self) -> dict[str, Any]:
        """The state for a copy: points without access stay unread."""
        state = {"header": self.header, "source": self.source, "_read": self._read}
        return state if self._read is not None else {**state, "points": self.points}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    @property
    def id(self) -> str:
        """The run's identity, which is its folder's name."""
        return str(self.header["run_id"])

    @property
    def name(self) -> str:
        """What people call the run."""
        return str(self.header.get("name") or self.id)

    @property
    def final(self) -> dict[str, Amount]:
        """Totals and last gauges at the end of the run, and its statics, by column."""
        last = self.points.row(-1, named=True) if self.points.height else {}
        declared = self.header["indicators"]
        statics: Mapping[str, Amount] = self.header.get("statics", {})
        return {name: statics[name] if name in statics else last.get(name) for name in declared}

    @property
    def quality_columns(self) -> list[str]:
        """Names of the columns that hold logged metrics."""
        return [str(name) for name in self.header.get("quality", [])]

    def to_reach(self) -> RunRecord:
        """The run without the work that restarts lost: its points and costs are those that led to its state.

        Points of lost work are left out, and lost amounts are subtracted from every counter. If the lost amount is
        unknown, counters are missing, with their reason in the header.
        """
        points, reasons = without_lost_work(self.points, self.header)
        header = {**self.header, "missing": {**self.header.get("missing", {}), **reasons}}
        return replace(self, header=header, points=points)

    def __repr__(self) -> str:
        """The run's name, identity and status; points are not read for it."""
        status = self.header.get("status") or "unknown"
        return f"<RunRecord {self.name!r} ({status}, run_id {self.header.get('run_id')!r}, from {self.source})>"

    def __str__(self) -> str:
        """A short table: the best quality and the headline costs that the run has, in human units."""
        shown = printable_run(self)
        rows = [(row.label, row.text) for row in summary_rows(shown.header, shown.final) if row.text != MISSING]
        if best := best_quality(shown):
            rows.insert(0, best)
        wide = max((len(label) for label, _ in rows), default=0)
        lines = [f"{shown.name} ({shown.header.get('status') or 'unknown'})"]
        lines += [f"  {label.ljust(wide)}  {text}" for label, text in rows]
        lacking = sum(row.text == MISSING for row in summary_rows(shown.header, shown.final))
        if lacking:
            lines.append(f"  {lacking} headline costs are missing: header['missing'] has the reasons")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        shown = printable_run(self)
        monitor = str(shown.header.get("monitor"))
        curve = ""
        if monitor in shown.points.columns:
            points = shown.points.filter(shown.points.get_column(monitor).is_not_null())
            curve = quality_svg(points["step"].to_list(), points.get_column(monitor).to_list(), monitor)
        about = str(shown.header.get("status") or "unknown")
        if best := best_quality(shown):
            about += f", {' '.join(best)}"
        table = html_table(f"{shown.name} ({about})", summary_rows(shown.header, shown.final))
        return f"<div>{curve}{table}</div>"


def best_quality(run: RunRecord) -> tuple[str, str] | None:
    """What the run's metric is called and its best finite value in words; None if it was never logged."""
    monitor = run.header.get("monitor")
    if monitor is None or monitor not in run.points.columns:
        return None
    values = [value for value in run.points.get_column(str(monitor)).to_list() if value is not None and isfinite(value)]
    if not values:
        return None
    best = max(values) if run.header.get("mode") == "max" else min(values)
    return f"best {monitor}", f"{best:.4g}"


def printable_run(run: RunRecord) -> RunRecord:
    """A copy of the run with printable texts; the same object if all are printable."""
    header = printable_data(run.header)
    columns = run.points.columns
    taken = {name for name in columns if printable(name) == name}
    shown = {}
    for name in columns:
        if name not in taken:
            shown[name] = _another(printable(name), taken)
            taken.add(shown[name])
    if header is run.header and not shown:
        return run
    if run.header.get("quality"):
        header = {**header, "quality": [shown.get(name, name) for name in run.header["quality"]]}
    return replace(run, header=header, points=run.points.rename(shown))


def _another(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "'"
    return name

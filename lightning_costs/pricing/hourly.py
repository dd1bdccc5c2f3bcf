"""Carbon intensity by the hour: a table of one's own, and a finished run charged with the hours that it ran in.

What a run used between two points is spread evenly over the time between them. Times are instants: rows carry their
offset from UTC, so that the hour that a change to winter time repeats is two hours.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self, final

from lightning_costs.pricing.rates import carbon_g
from lightning_costs.records.formatting import format_for_paper
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import Amount

_HOUR_S = 3600.0
_MOST_HOURS = 100_000
#: What the CSV's columns are called.
_TIME, _GRAMS = "time", "gco2e_per_kwh"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HourlyIntensity:
    """Grams of CO2e per kWh by the hour: (seconds since 1970, grams), each for the hour that begins then.

    Example:
        >>> table = HourlyIntensity.of({"2026-03-29T00:00+01:00": 40.0, "2026-03-29T01:00+01:00": 60.0})
        >>> table.mean(table.hours[0][0] + 1800, table.hours[0][0] + 5400)
        50.0
    """

    source: str
    hours: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.hours) <= _MOST_HOURS:
            raise ValueError(f"intensity_by_hour needs 1 to {_MOST_HOURS} hours, got {len(self.hours)}")
        if bad := [grams for _, grams in self.hours if not (math.isfinite(grams) and grams >= 0)]:
            raise ValueError(f"intensity_by_hour: {_GRAMS} must be a finite number of at least 0, got {bad[0]!r}")
        for (first, _), (second, _) in zip(self.hours, self.hours[1:], strict=False):
            if second - first < _HOUR_S:
                raise ValueError(f"intensity_by_hour: {_iso(second)} begins within an hour of {_iso(first)}")

    @classmethod
    def of(cls, given: HourlyIntensity | Mapping[str, float] | str | Path) -> Self | HourlyIntensity:
        """A table as people give one: itself, intensities by time, or the path of a CSV with `time,gco2e_per_kwh`."""
        if isinstance(given, HourlyIntensity):
            return given
        if isinstance(given, Mapping):
            rows: Iterable[tuple[Any, Any]] = given.items()
            name = "given"
        elif isinstance(given, str | Path):
            name = Path(given).name
            rows = _read(Path(given))
        else:
            raise ValueError(f"intensity_by_hour must be the path of a CSV or intensities by time, got {given!r}")
        hours = tuple(sorted(_hour(time, grams) for time, grams in rows))
        digest = hashlib.sha256(repr(hours).encode()).hexdigest()[:8]
        return cls(source=f"{name}, sha256 {digest}", hours=hours)

    @classmethod
    def of_dict(cls, tariff: Mapping[str, Any]) -> Self:
        """The table of `Tariff.as_dict()`: of what it holds alone, never of a file that it names."""
        hours = tuple((float(begun), float(grams)) for begun, grams in tariff["hours"])
        return cls(source=str(tariff.get("intensity_by_hour")), hours=hours)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a tariff's."""
        return {"intensity_by_hour": self.source, "hours": [list(hour) for hour in self.hours]}

    def mean(self, begun_s: float, ended_s: float) -> float:
        """The intensity of a stretch of time, or of an instant; `Missing` if the table does not cover it."""
        return math.fsum(self.hours[row][1] * share for row, share in self.rows(begun_s, ended_s))

    def rows(self, begun_s: float, ended_s: float) -> list[tuple[int, float]]:
        """The rows that a stretch lies in, and which share of it does."""
        if ended_s <= begun_s:
            return [(self._row(begun_s), 1.0)]
        found = []
        at_s = begun_s
        while at_s < ended_s:
            row = self._row(at_s)
            until_s = min(ended_s, self.hours[row][0] + _HOUR_S)
            found.append((row, (until_s - at_s) / (ended_s - begun_s)))
            at_s = until_s
        return found

    def _row(self, at_s: float) -> int:
        row = bisect_right(self.hours, (at_s, math.inf)) - 1
        if row < 0 or at_s >= self.hours[row][0] + _HOUR_S:
            raise Missing(
                f"intensity_by_hour has no row for {_iso(at_s)}, when the run ran: it goes from "
                f"{_iso(self.hours[0][0])} to {_iso(self.hours[-1][0] + _HOUR_S)}"
            )
        return row


class Stretch(NamedTuple):
    """Energy that was used up to a point, and when."""

    row: int
    begun_s: float
    ended_s: float
    energy_j: float


def stretches(
    times: Sequence[float], energy_j: Sequence[Amount], attempts: Sequence[Mapping[str, Any]]
) -> list[Stretch]:
    """When a run used its energy: from attempts' begins and its points; points that read no energy join the next.

    Raises:
        Missing: Where an attempt does not say when it began.
    """
    begins: dict[int, list[Mapping[str, Any]]] = {}
    for attempt in attempts:
        if "row" not in attempt or not attempt.get("began"):
            raise Missing("an attempt does not say when it began, so that its hours are unknown")
        begins.setdefault(int(attempt["row"]), []).append(attempt)
    if not begins.get(0):
        raise Missing("no attempt says when the run began, so that its hours are unknown")
    found: list[Stretch] = []
    at_s, used_j = 0.0, 0.0
    for row, (time_s, total_j) in enumerate(zip(times, energy_j, strict=True)):
        for attempt in begins.get(row, ()):
            before_j = (attempt.get("used") or {}).get("energy_j")
            if before_j is not None and before_j > used_j:  # what no point of the attempt before has
                found.append(Stretch(row, at_s, at_s, before_j - used_j))
                used_j = before_j
            at_s = datetime.fromisoformat(str(attempt["began"])).timestamp()
        if total_j is None:
            break
        if total_j != used_j:
            found.append(Stretch(row, at_s, max(at_s, time_s), total_j - used_j))
            at_s, used_j = time_s, total_j
    return found


class HourlyCarbon(NamedTuple):
    """Carbon of a run's points by the hours it ran in, and how it was got; or why it is missing."""

    amounts: list[Amount]
    method: str = ""
    why: str | None = None


def carbon_by_hour(
    times: Sequence[float],
    energy_j: Sequence[Amount],
    attempts: Sequence[Mapping[str, Any]],
    table: HourlyIntensity,
    pue: float | None,
) -> HourlyCarbon:
    """Carbon of a finished run's points: each stretch of energy times PUE times the intensity of its hours.

    Args:
        times: Of the points, in seconds since 1970.
        energy_j: The run's energy by each of them; None is missing.
        attempts: A header's.
        table: Intensities.
        pue: Power usage effectiveness; None is of the IT energy alone.
    """
    try:
        used = stretches(times, energy_j, attempts)
        by_stretch = [(one.row, carbon_g(one.energy_j, table.mean(one.begun_s, one.ended_s), pue)) for one in used]
    except Missing as missing:
        return HourlyCarbon([None] * len(times), why=str(missing))
    amounts: list[Amount] = [0.0] * len(times)
    for row, grams in by_stretch:
        amounts[row] = (amounts[row] or 0.0) + grams
    total = 0.0
    for row, amount in enumerate(amounts):
        total += amount or 0.0
        amounts[row] = None if energy_j[row] is None else total
    return HourlyCarbon(amounts, method=_method(used, table, pue))


def _method(used: Sequence[Stretch], table: HourlyIntensity, pue: float | None) -> str:
    """How carbon was got, and when it would have been least."""
    by_row: dict[int, float] = {}
    for one in used:
        for row, share in table.rows(one.begun_s, one.ended_s):
            by_row[row] = by_row.get(row, 0.0) + one.energy_j * share
    overhead = f"PUE {pue:g}" if pue else "IT energy alone: no PUE was given"
    if not by_row or not (whole_j := math.fsum(by_row.values())):
        return f"by the hour ({table.source}); {overhead}"
    grams = [table.hours[row][1] for row in by_row]
    mean = math.fsum(table.hours[row][1] * energy_j for row, energy_j in by_row.items()) / whole_j
    text = f"by the hour, {min(grams):g} to {max(grams):g} g/kWh, {mean:.4g} by its energy ({table.source}); {overhead}"
    return "; ".join(filter(None, (text, _least(by_row, table, pue))))


def _least(by_row: Mapping[int, float], table: HourlyIntensity, pue: float | None) -> str:
    """When the run should have begun for the least carbon over the table's hours, pauses between attempts kept."""
    hours = table.hours
    if hours[-1][0] - hours[0][0] != _HOUR_S * (len(hours) - 1):
        return ""  # with gaps, rows are no hours to shift by
    first, last = min(by_row), max(by_row)
    costs = {
        shift: math.fsum(carbon_g(energy_j, hours[row + shift][1], pue) for row, energy_j in by_row.items())
        for shift in range(-first, len(hours) - last)
    }
    best = min(costs, key=lambda shift: (costs[shift], abs(shift)))
    if costs[best] >= costs[0]:
        return "no other hour of the table to begin in would have been less"
    share = 100 * (1 - costs[best] / costs[0])
    moved = f"{abs(best)} h {'later' if best > 0 else 'earlier'}"
    return (
        f"begun {moved}, in the hour from {_iso(hours[first + best][0])}, it "
        f"would have been least of the table's hours: {format_for_paper(costs[best], 'g')}, {share:.3g} % less"
    )


def _hour(time: Any, grams: Any) -> tuple[float, float]:
    try:
        begun = datetime.fromisoformat(str(time).strip())
        amount = float(grams)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"intensity_by_hour: expected an ISO 8601 time and a number, got {time!r} and {grams!r}"
        ) from error
    if begun.tzinfo is None:
        raise ValueError(
            f"intensity_by_hour: {time!r} has no offset from UTC; write it, as in 2026-03-29T01:00+01:00 or ...Z"
        )
    return begun.timestamp(), amount


def _read(path: Path) -> list[tuple[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the table intensity_by_hour {path} cannot be read: {error}") from error
    table = csv.DictReader(io.StringIO(text))
    if lacking := [name for name in (_TIME, _GRAMS) if name not in (table.fieldnames or ())]:
        raise ValueError(f"{path} has no column {lacking[0]!r}: a table by the hour has {_TIME},{_GRAMS}")
    return [(row[_TIME], row[_GRAMS]) for row in table]


def _iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%MZ")

"""Reads all indicators of a rank, and knows for each missing one why it is missing."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast, final

from lightning_costs.indicators.base import Derived, FromSample, Indicator, Measured, topological_order
from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.clock import now_s
from lightning_costs.probes.context import ProbeContext
from lightning_costs.ranks.reduce import reduce_ranks
from lightning_costs.records.declaration import Declaration
from lightning_costs.records.missing import Missing, by_type
from lightning_costs.records.samples import Amount, CostVector, StepSample

_log = logging.getLogger("lightning_costs")

#: Meters move in steps of 10 ms (CPU times) to 100 ms (NVML), and asking the operating system costs hundreds of
#: microseconds: train points closer than this share one reading of the rate-limited indicators.
MIN_READ_INTERVAL_S = 0.5
#: Where a reading is slow (NVML takes 7 ms in some virtual machines), it is made so rarely that it takes this share of
#: the time, but this often: a driver keeps samples of power for 2.4 s.
READ_SHARE = 1 / 400
MAX_READ_INTERVAL_S = 2.0


@final
class IndicatorReader:
    """Opens, reads and derives a run's indicators. A failing one goes missing; nothing it raises gets out."""

    def __init__(self, indicators: Sequence[Indicator], setting: ProbeContext) -> None:
        self._setting = setting
        in_order = topological_order(indicators)
        self._indicators = list(indicators)
        #: Declarations by column name, in the order given.
        self.declarations: dict[str, Declaration] = {i.name: i.declaration() for i in indicators}
        self._measured = [i for i in in_order if isinstance(i, Measured)]
        self._derived = [i for i in in_order if isinstance(i, Derived)]
        needed = {need for i in self._derived if not i.of_totals for need in i.needs}
        #: Carbon and money are the run's to compute, from its totals: here it is only asked whether they can be had.
        self._unpriced = [i for i in self._derived if i.priced and i.name not in needed]
        self._of_window = [i for i in self._derived if not i.of_totals and i not in self._unpriced]
        self._of_totals = [i for i in self._derived if i.of_totals]
        self._of_totals_names = [i.name for i in self._of_totals]
        #: Whether the last window read all indicators, the rate-limited ones too.
        self.read_all = False
        #: Declarations of what ranks read window by window, and the reduction joins.
        self.measured = {i.name: self.declarations[i.name] for i in self._measured if i.kind != "static"}
        #: Why a column is missing, by name; replaced when it changes.
        self.missing: dict[str, str] = {}
        #: How readings were got, by column name, where an indicator says so; replaced when it changes.
        self.methods: dict[str, str] = {}
        #: Columns that the run prices.
        self.priced = [i.name for i in self._derived if i.priced]
        #: By priced column, the tariff that was found to price it.
        self._priced_by: dict[str, Tariff] = {}
        #: Under which tariff columns were found to be priced, what was missing then, and what they need.
        self._priced_under: tuple[Tariff | None, Mapping[str, str], set[str]] = (None, {}, set())
        self._opened = False
        self._read_s, self._apart_s = -MIN_READ_INTERVAL_S, MIN_READ_INTERVAL_S
        #: What is read window by window, with the field of the sample if that is all of it.
        self._reads: list[tuple[str, Measured, str]] | None = None
        #: Those among them that are read at every point.
        self._unlimited: list[tuple[str, Measured, str]] = []
        #: What rate-limited indicators have between their readings: counters nothing, gauges what was read last.
        self._between: dict[str, Amount] = {}
        self._reads_lack = 0

    def open(self) -> None:
        """Let every measured indicator take its probes."""
        if self._opened:
            return
        self._opened = True
        opened: list[Measured | Derived] = [*self._measured, *self._derived]
        for indicator in opened:
            try:
                indicator.open(self._setting)
            except Exception as error:  # noqa: BLE001 - whatever a probe raises, training continues
                self._lose(indicator, error)

    def close(self) -> None:
        """Let probes and indicators go."""
        for indicator in self._measured:
            try:
                indicator.close()
            except Exception as error:  # noqa: BLE001 - closing must not fail a finished run
                reraise_from_signal(error)
                _log.warning("%s could not be closed: %r", indicator.name, error)
        self._setting.detach()

    def read(self, sample: StepSample) -> CostVector:
        """This rank's amounts of the window; missing indicators are absent."""
        amounts: dict[str, Amount] = {}
        reads_all = sample.trigger != "train" or sample.ended_s - self._read_s >= self._apart_s
        self.read_all = reads_all
        began_s = now_s() if reads_all else 0.0
        if reads_all:
            self._read_s = sample.ended_s
        lost = len(self.missing)
        live = self._live()
        if not reads_all:
            live = self._unlimited
            amounts |= self._between
        for name, indicator, field in live:
            try:
                amount = getattr(sample, field) if field else None
                if amount is None:
                    amount = indicator.read(sample)
                elif type(amount) is int:
                    amount = float(amount)
                if type(amount) is not float or amount - amount != 0.0:
                    if amount is not None:
                        amount = _number(amount)
                    elif indicator.kind == "counter":
                        raise Missing("a window gave no reading, so its total is unknown", warn=True)
                amounts[name] = amount
            except Exception as error:  # noqa: BLE001 - whatever a probe raises, training continues
                self._lose(indicator, error)
        if len(self.missing) != lost:
            for name in self.missing:
                amounts.pop(name, None)
        if reads_all:
            self._apart_s = min(max(MIN_READ_INTERVAL_S, (now_s() - began_s) / READ_SHARE), MAX_READ_INTERVAL_S)
            limited = [i for _, i, _ in self._live() if i.rate_limited]
            self._between = {i.name: 0.0 if i.kind == "counter" else amounts.get(i.name) for i in limited}
            methods = {i.name: i.method for i in self._indicators if i.method and i.name not in self.missing}
            if methods != self.methods:
                self.methods = methods
        return CostVector(place=self._setting.place, amounts=amounts)

    @property
    def errors(self) -> dict[str, float]:
        """Columns that are estimated from a sample, and those that are made of one: their relative errors."""
        errors = {i.name: i.error for i in self._measured if i.error is not None and i.name not in self.missing}
        for derived in self._derived:
            if found := [errors[need] for need in derived.needs if need in errors]:
                errors[derived.name] = max(found)
        return errors

    def _live(self) -> list[tuple[str, Measured, str]]:
        """What is read window by window."""
        if self._reads is None or self._reads_lack != len(self.missing):
            live = [i for i in self._measured if i.kind != "static" and i.name not in self.missing]
            self._reads = [(i.name, i, _field(i)) for i in live]
            self._unlimited = [read for read in self._reads if not read[1].rate_limited]
            self._between = {name: amount for name, amount in self._between.items() if name not in self.missing}
            self._reads_lack = len(self.missing)
        return self._reads

    def statics(self, sample: StepSample) -> dict[str, Amount]:
        """The run's static columns, as far as they are known."""
        return {
            i.name: self._reading(i, sample)
            for i in self._measured
            if i.kind == "static" and i.name not in self.missing
        }

    def mark_unread(self, statics: Mapping[str, Amount], why: str) -> None:
        """Static columns that are not there and will not be read any more."""
        for indicator in self._measured:
            name = indicator.name
            if indicator.kind == "static" and statics.get(name) is None and name not in self.missing:
                self._lose(indicator, Missing(why))

    def _reading(self, indicator: Measured, sample: StepSample) -> Amount:
        try:
            amount = indicator.read(sample)
            return None if amount is None else _number(amount)
        except Exception as error:  # noqa: BLE001 - whatever a probe raises, training continues
            self._lose(indicator, error)
            return None

    def mark_unreported(self, own: CostVector, job: Mapping[str, Amount], why: str | None) -> None:
        """Columns that this rank read and the job does not have, because an owner did not report."""
        for indicator in self._measured:
            name = indicator.name
            if own.amounts.get(name) is not None and job.get(name) is None:
                self._lose(indicator, Missing(_unheard(indicator, len(self._setting.places), why)))

    def mark_missing(self, reasons: Mapping[str, str]) -> None:
        """Columns that another rank cannot read, with the reason; those that this rank cannot read have its own."""
        for indicator in self._measured:
            if indicator.name in reasons and indicator.name not in self.missing:
                self._lose(indicator, Missing(reasons[indicator.name], warn=True))

    def missing_counters(self, columns: Iterable[str], tariff: Tariff, *, hears_all: bool = True) -> dict[str, str]:
        """Counters among these that are missing, with the reason; before the first window as far as known.

        Counters start at zero, so deriving columns from an all-zero window reveals missing readings, ranks or prices.
        """
        why = dict(self.missing)
        if not hears_all:
            nothing = {name: 0.0 for name in self.measured if name not in why}
            own = CostVector(place=self._setting.place, amounts=nothing)
            job = reduce_ranks([own], self.measured, self._setting.places)
            for indicator in self._measured:
                if indicator.name in nothing and job.get(indicator.name) is None:
                    why[indicator.name] = _unheard(indicator, len(self._setting.places), None)
        for derived in self._derived:
            if derived.name in why or derived.kind != "counter":
                continue
            lacks = next((need for need in derived.needs if need in why or need not in self.declarations), None)
            if lacks is not None:
                why[derived.name] = f"needs {lacks}: {why.get(lacks, 'no indicator of that name was passed')}"
                continue
            try:
                derived.of(dict.fromkeys(derived.needs, 0.0), tariff)
            except Missing as error:
                why[derived.name] = str(error)
            except Exception as error:  # noqa: BLE001 - the first real window raises it again
                reraise_from_signal(error)
                continue
        return {column: why[column] for column in columns if column in why}

    def derive(
        self, job: Mapping[str, Amount], tariff: Tariff, even: Mapping[str, Amount] | None = None
    ) -> dict[str, Amount]:
        """The job's window with the derived columns in it.

        Args:
            job: The window.
            tariff: Prices.
            even: The window for gauges, if it is another one: ranks that reported unevenly give no rate.
                Empty if there is none; by default the window itself.
        """
        window: dict[str, Amount] = dict(job)
        counters = self._of_window if even is None else [i for i in self._of_window if i.kind == "counter"]
        self._derive(counters, window, tariff)
        checked, missing, needs = self._priced_under
        if checked is not tariff or missing is not self.missing or None in map(window.get, needs):
            for indicator in self._unpriced:
                if indicator.name not in self.missing:
                    self._check_priced(indicator, window, tariff)
            live = [indicator for indicator in self._unpriced if indicator.name not in self.missing]
            self._priced_under = tariff, self.missing, {n for i in live for n in i.needs_under(tariff)}
        if even:
            rates = dict(even)
            self._derive(self._of_window, rates, tariff)
            window |= {i.name: rates.get(i.name) for i in self._of_window if i.kind == "gauge"}
        return window

    def _check_priced(self, indicator: Derived, window: Mapping[str, Amount], tariff: Tariff) -> None:
        """Lose a priced column of which a need has no amount, or which the tariff does not price."""
        needs = indicator.needs_under(tariff)
        if any(window.get(need) is None for need in needs):
            self._lack(indicator, window, needs)
        elif tariff is not self._priced_by.get(indicator.name):
            self._priced_by[indicator.name] = tariff
            try:
                indicator.of(dict.fromkeys(indicator.needs, 0.0), tariff)
            except Exception as error:  # noqa: BLE001 - whatever a derived one raises, training continues
                self._lose(indicator, error)

    def derive_from_totals(self, totals: Mapping[str, Amount], tariff: Tariff) -> dict[str, Amount]:
        """Gauges of the run so far, from its totals."""
        window = {**totals, **dict.fromkeys(self._of_totals_names)}
        self._derive(self._of_totals, window, tariff)
        return {name: window[name] for name in self._of_totals_names}

    def _derive(self, derived: Sequence[Derived], window: dict[str, Amount], tariff: Tariff) -> None:
        known = cast("dict[str, float]", window)
        for indicator in derived:
            name = indicator.name
            if name in self.missing:
                continue
            for need in indicator.needs:
                if window.get(need) is None:
                    self._lack(indicator, window, indicator.needs)
                    break
            else:
                try:
                    amount = indicator.of(known, tariff)
                    if amount is not None and (type(amount) is not float or amount - amount != 0.0):
                        amount = _number(amount)
                    window[name] = amount
                except Exception as error:  # noqa: BLE001 - whatever a derived one raises, training continues
                    self._lose(indicator, error)

    def _lack(self, indicator: Derived, window: Mapping[str, Amount], needs: Sequence[str]) -> None:
        """A need has no amount: a gauge waits for its next reading, what cannot be made up is missing."""
        lacking = [name for name in needs if window.get(name) is None]
        if unknown := [name for name in needs if name not in self.declarations]:
            self._lose(indicator, Missing(f"needs {unknown[0]}: no indicator of that name was passed", warn=True))
            return
        lost = [name for name in lacking if name in self.missing]
        if lost or indicator.kind == "counter":
            need = (lost or lacking)[0]
            self._lose(indicator, Missing(f"needs {need}: {self.missing.get(need, 'not every rank reported')}"))

    def _lose(self, indicator: Indicator, error: Exception) -> None:
        expected = isinstance(error, Missing)
        if not expected:
            reraise_from_signal(error)
        # The text of a user's exception may hold anything: it is for the log, as a header travels.
        self.missing = {**self.missing, indicator.name: str(error) if expected else by_type(error)}
        # Diagnostics that become missing with an indicator for the same reason are recorded in the header only.
        if not isinstance(error, Missing) or (error.warn and indicator.role == "indicator"):
            level = logging.WARNING if self._setting.place.rank == 0 else logging.INFO
            reason = str(error) if expected else f"{type(error).__name__}: {error}"
            _log.log(
                level,
                "%s is recorded as missing: %s",
                indicator.name,
                reason,
                exc_info=None if expected else error,
            )


def _field(indicator: Measured) -> str:
    """The field of a sample that an indicator is; empty if it does more than read one."""
    if not isinstance(indicator, FromSample) or type(indicator).read is not FromSample.read:
        return ""
    return indicator.field or indicator.name


def _number(amount: object) -> float:
    """What an indicator read, as a number; one that is not finite would stay in a total."""
    if isinstance(amount, str | bytes | bytearray):
        raise Missing(f"a reading must be a number or None, got a value of type {type(amount).__name__}", warn=True)
    value = float(amount)  # type: ignore[arg-type]  # what is no number raises
    if not math.isfinite(value):
        raise Missing(f"expected a finite number or None, got {value}", warn=True)
    return value


def _unheard(indicator: Indicator, processes: int, why: str | None) -> str:
    because = f" ({why})" if why else ""
    return f"only this rank of {processes} reported, and it joins by {indicator.across}{because}"

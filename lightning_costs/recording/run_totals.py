"""What a run has spent: its ledger, what is priced from it, and why columns are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

from lightning_costs.pricing.rates import BASE_COLUMNS, PriceHistory
from lightning_costs.pricing.reprice import lost_priced_at_attempt, missing_and_methods
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.recording.earlier_attempts import notes_of_resumed
from lightning_costs.records.declaration import Declaration
from lightning_costs.records.ledger import LOST, Ledger
from lightning_costs.records.samples import Amount
from lightning_costs.run.attempts import OF_ATTEMPTS, at_begin
from lightning_costs.run.kept import OF_KEPT, kept_of, productive

#: Why a gauge of kept work is missing if its needs are not.
_WHY_NOT_KEPT = "what the run's restarts lost, or the time between them, is unknown"


@final
class RunTotals:
    """Keeps a run's totals, and writes into its `header` why columns are missing and how the others were got."""

    def __init__(self, header: dict[str, Any], declarations: Mapping[str, Declaration], priced: Iterable[str]) -> None:
        self.ledger = Ledger(declarations)
        #: Why something is missing that no indicator knows of.
        self.notes: dict[str, str] = {}
        self._header, self._priced = header, list(priced)
        self._history = PriceHistory((), header["tariff"])
        #: Halves of the intervals of earlier attempts, and the totals at this one's begin; None if they are not known.
        self._halves: dict[str, float] = {}
        self._begun: dict[str, Amount] | None = None
        self._counters = [name for name, declared in declarations.items() if declared.kind == "counter"]
        self._kept = [name for name in OF_KEPT if name in declarations]
        self._written_reasons: tuple[Mapping[str, str] | None, Mapping[str, str] | None, int] = (None, None, 0)

    @property
    def costs(self) -> dict[str, Amount]:
        """Totals and gauges now, between points too."""
        return self.ledger.costs

    def set_tariff(self, tariff: Tariff) -> None:
        """The tariff from here on: its device was found."""
        self._header["tariff"] = tariff.as_dict()
        if not self._header["attempts"]:
            self._history = PriceHistory((), self._header["tariff"])

    def begin_attempt(self, about: dict[str, Any], *, resumed: int | None, why_no_gap: str) -> None:
        """Another attempt begins: `about` it, what was spent and lost before it, which joins the header."""
        header, costs = self._header, self.ledger.costs
        if self._begun is not None:
            self._begun = {name: costs[name] for name in self._counters}
        lost = {name: amount for name, amount in self.ledger.lost.items() if amount != 0}
        about |= {"lost": lost, "tariff": header["tariff"]}
        if number := len(header["attempts"]):
            about |= {"used": {name: costs[name] for name in costs if name in BASE_COLUMNS}, "resumed": resumed}
            history = PriceHistory([*header["attempts"], about], header["tariff"])
            about["lost"] = lost_priced_at_attempt(history, number, lost, self._priced)
        header["attempts"] = [*header["attempts"], about]
        self._history = PriceHistory(header["attempts"], header["tariff"])
        self.ledger.set_derived_totals(self._prices(), {name: about["lost"].get(name, 0.0) for name in self._priced})
        columns = [name for name in OF_ATTEMPTS if name in costs]
        several = len(header["attempts"]) > 1
        amounts, missing = at_begin(header["attempts"], self.ledger.costs.get("total_s") if several else 0.0)
        if (down_s := amounts["down_s"]) is not None:  # stamps are of milliseconds: totals never go down
            amounts["down_s"] = max(down_s, costs.get("down_s") or 0.0)
        if why_no_gap and several:
            amounts["down_s"], missing["down_s"] = None, why_no_gap
        self.ledger.set_derived_totals({name: amounts[name] for name in columns})
        for name in columns:
            self.notes.pop(name, None)
        self.notes |= {name: why for name, why in missing.items() if name in columns}

    def add(self, window: Mapping[str, Amount], *, missing: Mapping[str, str], methods: Mapping[str, str]) -> None:
        """Fold a window into the totals, with why columns are missing and how the others were got."""
        self.ledger.add(window, unreadable=missing)
        if self._priced:
            self.ledger.set_derived_totals(self._prices())
        if self._kept:
            kept = productive(self.ledger.now, self.ledger.lost)
            for name in self._kept:
                if kept[name] is not None or name in missing:
                    self.notes.pop(name, None)
                else:
                    self.notes[name] = _WHY_NOT_KEPT
            self.ledger.set_gauges({name: kept[name] for name in self._kept}, unreadable=self._kept)
        self._write_reasons(missing, methods)

    def set_gauges(
        self, gauges: Mapping[str, Amount], *, missing: Mapping[str, str], methods: Mapping[str, str]
    ) -> None:
        """Set gauges that follow from the totals."""
        self.ledger.set_gauges(gauges, unreadable=missing)
        self._write_reasons(missing, methods)

    def estimated(self, errors: Mapping[str, float]) -> None:
        """Note the 95 % intervals of columns that are estimated: `errors` are halves of them, as shares of amounts.

        The amounts are of this attempt; what earlier ones do not know for sure is added.
        """
        amounts = {**self.ledger.costs, **self._header["statics"]}
        intervals = {}
        for name in {**errors, **self._halves}:
            if (amount := amounts.get(name)) is not None:
                own = amount - ((self._begun or {}).get(name) or 0.0)
                half = self._halves.get(name, 0.0) + errors.get(name, 0.0) * own
                intervals[name] = [max(0.0, amount - half), amount + half]
        if intervals or "intervals" in self._header:
            self._header["intervals"] = intervals

    def continues(self, intervals: Mapping[str, Sequence[float]]) -> None:
        """The run's earlier attempts are known, with the intervals of their totals; before this one begins."""
        self._halves = {name: (high - low) / 2 for name, (low, high) in intervals.items() if name in self._counters}
        self._begun = {}

    def load(self, *states: Mapping[str, Any]) -> None:
        """Take up the totals of earlier attempts."""
        unmeasured = self.ledger.load_state_dict(*states) if states else []
        notes = notes_of_resumed(unmeasured, self.costs, self.notes)
        self.notes.clear()  # a counter of batches holds it, too
        self.notes |= notes

    def lost_is_unknown(self, why: str) -> None:
        """What restarts lost cannot be known."""
        self.ledger.mark_lost_unknown()
        self.notes |= {column: why for column in LOST if column in self.costs}

    def note_saved(self) -> None:
        """A checkpoint is written: what of training and evaluation it holds."""
        self._note_saved(self.ledger.state_dict(), 1 + _saves(self._header))

    def note_resumed(self, ledger: Mapping[str, Any], headers: Iterable[Mapping[str, Any]]) -> None:
        """A checkpoint is resumed: the newest one that led here. The folder may miss the last save before a kill."""
        if (count := max(map(_saves, headers), default=0)) > 0:
            self._note_saved(ledger, count)

    def _note_saved(self, ledger: Mapping[str, Any], count: int) -> None:
        kept = {name: kept_of(ledger["costs"], ledger["lost"], name) for name in ("train_s", "evaluate_s")}
        self._header["saves"] = {"count": count, **kept}

    def _write_reasons(self, missing: Mapping[str, str], methods: Mapping[str, str]) -> None:
        was_missing, was_methods, notes = self._written_reasons
        if was_missing is not missing or was_methods is not methods or notes != len(self.notes):
            self._written_reasons = (missing, methods, len(self.notes))
            self._header["missing"], self._header["methods"] = missing_and_methods(
                self._history, self._priced, {**self.notes, **missing}, methods
            )

    def _prices(self) -> dict[str, Amount]:
        """The priced columns, from the totals as they stand."""
        used = self.ledger.now
        return {name: self._history.amount(name, used) for name in self._priced}


def _saves(header: Mapping[str, Any]) -> int:
    return int((header.get("saves") or {}).get("count", 0))

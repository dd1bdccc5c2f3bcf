"""The state of a run: its header, its totals and its sinks, from the first attempt to the last point."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, final

from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.provenance import Provenance
from lightning_costs.recording.earlier_attempts import attempts_of, ran_since, spent_in
from lightning_costs.recording.new_header import new_header
from lightning_costs.recording.run_totals import RunTotals
from lightning_costs.recording.this_attempt import ThisAttempt
from lightning_costs.records.declaration import Declaration
from lightning_costs.records.monitor import UnloggedMonitor
from lightning_costs.records.samples import Amount, CurvePoint, Trigger
from lightning_costs.run.attempts import BRANCHED, NO_FOLDER
from lightning_costs.run.outcome import RunOutcome
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.paths import shown, why_unwritable
from lightning_costs.storage.run_folder.frames import OWN, metrics_of
from lightning_costs.storage.run_folder.identity import (
    ResolvedRun,
    claim_folder,
    resolve_resumed_run,
    resolve_run,
)
from lightning_costs.storage.run_folder.reader import EarlierAttempts
from lightning_costs.storage.run_folder.starts import forget_starts, note_end
from lightning_costs.storage.run_folder.writer import RunFolderSink, utc_now
from lightning_costs.storage.sink import Sink, Sinks

_log = logging.getLogger("lightning_costs")

#: How a run stands; a reader shows 'killed' if the process of a running one has ended.
Status = Literal["running", "finished", "failed", "interrupted"]
#: How far a run in this process is; its probes are open from the second on.
Stage = Literal["made", "open", "training", "ended"]


def status_from_exception(error: type[BaseException] | None) -> Status:
    """How a run ended that was left by this kind of error: by a person, signal or search, by a failure, or by none."""
    if error is None:
        return "finished"
    ended_on_purpose = issubclass(error, KeyboardInterrupt | SystemExit) or _prunes(error)
    return "interrupted" if ended_on_purpose else "failed"


def _prunes(error: type[BaseException]) -> bool:
    """Whether Optuna ends a trial by this error, as its integrations do in the middle of a fit: nothing went wrong."""
    return any(cls.__name__ == "TrialPruned" and cls.__module__.partition(".")[0] == "optuna" for cls in error.__mro__)


@final
class RunState:
    """Keeps a run's header, totals and points, and writes them if this process is the one that writes: rank 0's does.

    Args as in `new_header`; `sinks` are those besides the run folder below `save_dir`.
    """

    def __init__(
        self,
        *,
        declarations: Mapping[str, Declaration],
        name: str | None,
        monitor: str | None,
        mode: Literal["max", "min"] | None,
        targets: Iterable[float],
        tariff: Tariff,
        warmup: str,
        save_dir: Path,
        writes: bool,
        priced: Iterable[str] = (),
        sinks: Iterable[Sink] = (),
        setup: Mapping[str, Any] | None = None,
    ) -> None:
        #: How far the run is.
        self.stage: Stage = "made"
        #: What is known of the setup beside what `open` is given; it goes into the header at the first batch.
        self.setup: dict[str, Any] = dict(setup or {})
        self._sinks = Sinks(sinks if writes else ())
        self._resumed: int | None = None
        self._save_dir, self._writes = save_dir, writes
        self._folder: RunFolderSink | None = None
        self._point: CurvePoint | None = None
        self._found: ResolvedRun | None = None
        self._from_step = self._rows = 0
        self._opened = self._warned = False
        #: Who the run is; None if another process writes.
        self.provenance: Provenance | None = None
        #: Notices a metric that is never logged.
        self.unlogged = UnloggedMonitor(monitor)
        self._attempt = ThisAttempt()
        self._why_no_gap = ""
        #: [first, end) rows of the journal that led to this attempt: what is not in them was lost.
        self._lineage: list[list[int]] = []
        self.header = new_header(
            declarations=declarations,
            name=name,
            monitor=monitor,
            mode=mode,
            targets=targets,
            tariff=tariff,
            priced=list(priced),
            warmup=warmup,
        )
        #: What the run has spent.
        self.amounts = RunTotals(self.header, declarations, self.header["priced"])
        self._metrics: dict[str, None] = {}
        self._outcome = RunOutcome(self.header, OWN)

    def check_not_ended(self) -> None:
        """A run that has ended is refused."""
        if self.stage == "ended":
            raise ValueError("this recorder's run has ended; make a new Recorder for another run")

    def check_training(self) -> None:
        """A step of a run that has not begun, or has ended, is refused."""
        if self.stage != "training":
            self.check_not_ended()
            raise ValueError("step() before begin(): call begin(), or use the recorder in a `with`")

    def check_measured(self) -> None:
        """Reading a run whose probes are not open is refused."""
        if self.stage == "made":
            raise ValueError("nothing is measured before begin(): call begin(), or use the recorder in a `with`")

    def add_sink(self, sink: Sink) -> None:
        """One more sink, before the first batch; on other ranks than 0 it receives nothing."""
        if self._writes:
            self._sinks.add(sink)

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """Where the run goes, without those that failed: its folder first, once it is made."""
        return self._sinks.all

    @property
    def run_id(self) -> str:
        """The run's identity; empty before its folder is made."""
        return str(self.header["run_id"])

    @property
    def opened(self) -> bool:
        """Whether the run has trained a batch: sinks received it then."""
        return self._opened

    @property
    def path(self) -> Path | None:
        """The run's folder, if this process writes it."""
        return self._folder.path if self._folder is not None else None

    def keep_trace(self, trace: bytes) -> None:
        """Put a trace into the run's folder, in place of the one before, if this process writes it."""
        if self._folder is not None:
            self._folder.keep_trace(trace)

    @property
    def costs(self) -> dict[str, Amount]:
        """Totals and gauges at the last point."""
        return dict(self._point.costs) if self._point is not None else self.amounts.costs

    @property
    def totals(self) -> dict[str, Amount]:
        """Totals and gauges now, between points too."""
        return self.amounts.costs

    def begin_attempt(self, facts: Mapping[str, Any]) -> None:
        """Another attempt at the run begins, on what `facts` say.

        If no checkpoint was resumed and the environment identifies this run, its folder is continued. All that
        it spent is then lost: this attempt begins from nothing.
        """
        if self._writes and (why := why_unwritable(self._save_dir)) is not None:
            self._warned = True
            _log.warning(
                "costs cannot be written to %s: %s. Training continues; unless that is mended, no run is recorded. "
                "Give another save_dir",
                shown(self._save_dir),
                why,
            )
        if self._found is None:
            found = self._found = resolve_run(self.header["name"], self._save_dir, writes=self._writes)
            self._warn(found)
            if found.earlier is not None:
                self._continue(found.earlier)
                self.amounts.load(*([spent_in(found.earlier)] if found.earlier.points else []))
                self.amounts.ledger.mark_lost_since(None)
                self._found = replace(found, earlier=replace(found.earlier, points=()))
            elif found.named and self._writes:
                self._attempt.leave_trace(
                    self._save_dir / found.wanted, self.header["attempts"], str(facts.get("started", ""))
                )
        about = self._attempt.facts(facts, self.header["attempts"], asks=self._writes)
        about |= {"from_step": self._from_step, "row": self._rows}
        self.amounts.begin_attempt(about, resumed=self._resumed, why_no_gap=self._why_no_gap)
        self.header["lineage"] = [*self._lineage, [self._rows, None]]

    def open(
        self, setup: Mapping[str, Any], *, first_batch_s: float | None = None, first_wait_s: float | None = None
    ) -> None:
        """Make the folder, under the identity that a resume or the environment gave, or a new one."""
        header = self.header
        first = {"first_batch_s": first_batch_s, "first_wait_s": first_wait_s}
        if header["attempts"]:
            header["attempts"][-1] |= {name: seconds for name, seconds in first.items() if seconds is not None}
        found = self._found or resolve_run(header["name"], self._save_dir, writes=self._writes)
        was_refused = bool(found.refused)
        found = self._found = claim_folder(found, self._save_dir, writes=self._writes)
        if not was_refused:
            self._warn(found)
        header["created"] = header["created"] or utc_now()
        header["run_id"] = found.run_id
        header["name"] = header["name"] or header["run_id"]
        header["setup"] = {**setup, **self.setup}
        if self.provenance is not None:
            header |= self.provenance.header()
        if self._writes:
            self._folder = RunFolderSink(
                self._save_dir / found.run_id,
                lock=found.lock,
                metrics=self._metrics,
                rows=self._rows,
                warned=self._warned,
            )
            self._sinks.add(self._folder, first=True)
        self._opened = True
        self._sinks.open(header)
        if found.named and self._writes:
            forget_starts(self._save_dir / found.wanted)

    def _warn(self, found: ResolvedRun) -> None:
        if found.refused and self._writes:
            _log.warning(
                "%s; it is left as it is and costs go to %s. Move it away, or give another save_dir or "
                "LIGHTNING_COSTS_RUN_ID",
                found.refused,
                self._save_dir / found.run_id,
            )

    def append(self, *, step: int, epoch: int, trigger: Trigger, quality: Mapping[str, float]) -> CurvePoint:
        """Make the totals a point, and hand it to the sinks."""
        self._point = point = CurvePoint(
            step=step,
            epoch=epoch,
            time=time.time(),
            trigger=trigger,
            costs=self.amounts.costs,
            quality={name: float(value) for name, value in quality.items()},
        )
        self._update_outcome(point)
        if trigger == "train":
            self.unlogged.logged(point.quality)
        if trigger == "evaluate":
            self.warn(self.unlogged.evaluated(point.quality))
        if self._opened:
            self._sinks.point(point, self.header)
            self._rows = self._folder.rows if self._folder is not None else self._rows + 1
        return point

    def _update_outcome(self, point: CurvePoint) -> None:
        self._outcome.update(point.step, point.quality, point.costs, evaluated=point.trigger == "evaluate")

    def warn(self, text: str | None) -> None:
        """Log a warning, on the rank that writes; None is none."""
        if text is not None and self._writes:
            _log.warning("%s", text)

    def state_dict(self, *, step: int) -> dict[str, Any]:
        """Plain containers for a checkpoint: identity, totals, attempts, their steps, which points led here."""
        if self._folder is not None:
            self._folder.flush()
        begun = self.header["attempts"][-1]["row"] if self.header["attempts"] else 0
        if self.stage == "training":  # a state that is asked for after the end is no save of the training
            self.amounts.note_saved()
        return {
            "run_id": self.run_id,
            "step": step,
            "lineage": [*self._lineage, [begun, self._rows]],
            "ledger": self.amounts.ledger.state_dict(),
            "header": {
                "name": self.header["name"],
                "attempts": [dict(attempt) for attempt in self.header["attempts"]],
                "saves": dict(self.header.get("saves") or {}),
                "missing": {name: why for name, why in self.header["missing"].items() if name in self.amounts.costs},
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> int:
        """Continue the run of a checkpoint, its identity and its totals, and return the steps that led to it.

        If the run's folder is available and got further than the checkpoint, its totals are the ones that were
        spent: totals never decrease. What steps after the checkpoint had spent is lost. Without the folder that amount
        is unknown.
        """
        self._let_go()
        attempts: list[dict[str, Any]] = [dict(attempt) for attempt in state["header"]["attempts"]]
        first = attempts[0].get("id") if attempts else None
        was = str(state["run_id"])
        if was:
            found = resolve_resumed_run(was, first, self._save_dir, writes=self._writes)
        else:
            found = resolve_run(self.header["name"], self._save_dir, writes=self._writes)
        self._found = found
        self._warn(found)
        steps = state["ledger"]["costs"].get("steps")
        self._from_step = int(state.get("step", steps or 0))
        self.header["run_id"] = found.run_id
        self.amounts.notes |= state["header"].get("missing", {})
        earlier = found.earlier
        self._why_no_gap = ""
        if earlier is None:
            self._why_no_gap = NO_FOLDER if found.wanted == was else BRANCHED
            self._resumed = len(attempts) - 1 if attempts else None
            for attempt in attempts:  # their points are in another journal
                attempt.pop("row", None)
            self.header["attempts"] = attempts
            self.header["created"] = attempts[0]["began"] if attempts else ""
            self.header["name"] = self.header["name"] or (state["header"].get("name") if found.wanted == was else None)
            self.amounts.load(state["ledger"])
            if found.wanted == was:
                self._lost_is_unknown(
                    "the folder of the run's earlier attempt is another run's or cannot be read"
                    if found.refused
                    else "the folder of the run's earlier attempt is not available"
                )
            return self._from_step
        self._continue(earlier)
        self.amounts.note_resumed(state["ledger"], (state["header"], earlier.header))
        self._resumed = len(attempts) - 1 if attempts else None
        known = [attempt.get("id") for attempt in attempts]
        listed = [attempt.get("id") for attempt in earlier.header.get("attempts", ())]
        both = min(len(known), len(listed))
        self.amounts.load(state["ledger"], *([spent_in(earlier)] if earlier.points else []))
        if len(known) > len(listed):
            self.header["attempts"] += [{k: v for k, v in a.items() if k != "row"} for a in attempts[both:]]
        if known[:both] != listed[:both]:
            self._lost_is_unknown("an earlier attempt of the run is not in its folder")
        else:
            lineage = [[first, min(end, self._rows)] for first, end in state.get("lineage", ()) if first <= self._rows]
            if ran_since(state, earlier):
                self.amounts.ledger.mark_lost_since(state["ledger"])
            elif lineage:  # what its maker did after the checkpoint without a step led here too
                after = earlier.header["attempts"][len(known) :]
                lineage[-1][1] = after[0].get("row", self._rows) if after else self._rows
            self._lineage = lineage
        if not self.amounts.ledger.lost_is_known:
            self._lineage = []
        self._found = replace(found, earlier=replace(earlier, points=()))  # they may be many
        return self._from_step

    def _continue(self, earlier: EarlierAttempts) -> None:
        """Take up what the folder says of the run."""
        header = self.header
        if "repriced" in earlier.header:
            header["repriced"] = earlier.header["repriced"]
        header["attempts"] = attempts_of(earlier)
        if self._found is not None and self._writes:
            self._attempt.leave_trace(self._save_dir / self._found.run_id, header["attempts"])
        header["created"] = earlier.header.get("created", "")
        for label in ("name", "group", "tags"):
            header[label] = header[label] or earlier.header.get(label)
        self.amounts.notes |= {
            name: why for name, why in earlier.header.get("missing", {}).items() if name in self.totals
        }
        self.amounts.continues(earlier.header.get("intervals") or {})
        self._rows = len(earlier.points)
        self._metrics = dict.fromkeys(metrics_of(earlier.points))
        for point in earlier.points:
            self._update_outcome(point)

    def _lost_is_unknown(self, why: str) -> None:
        self.amounts.lost_is_unknown(why)
        self._lineage = []

    def _let_go(self) -> None:
        if self._found is not None and self._found.lock is not None:
            self._found.lock.abandon()
        self._found = None

    @property
    def outcome(self) -> dict[str, float | bool]:
        """Best quality and cost-to-quality so far, for summaries."""
        return self._outcome.summary()

    def close(self, status: Status, *, ended: str | None = None) -> RunRecord | None:
        """The run is over: the sinks receive how it ended, and when (an ISO text; by default now).

        Returns:
            The run as its folder now holds it; None if it has none, or this process does not write it.
        """
        self.header["status"] = status
        if not self._opened:
            found = self._found
            if status == "finished" and self._writes and found is not None and (found.named or found.earlier):
                note_end(self._save_dir / found.wanted, self._attempt.trace)
            self._let_go()
            return None
        if status == "finished":
            self.warn(self.unlogged.run_ended())
        *earlier, last = self.header["attempts"]
        self.header["attempts"] = [*earlier, {**last, "ended": ended or utc_now(), "status": status}]
        if self._folder is not None:
            self._folder.header = self.header
        self._sinks.close(status)
        return self._folder.run if self._folder is not None else None

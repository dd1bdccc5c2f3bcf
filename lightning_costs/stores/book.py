"""The book of a run: its header, its ledger and its folder, kept together from the first attempt to the last point."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, final

from lightning_costs.core.indicator import Declaration
from lightning_costs.core.ledger import Ledger
from lightning_costs.core.records import SCHEMA_VERSION, Amount, CurvePoint, RunRecord, Trigger
from lightning_costs.core.tariff import Tariff
from lightning_costs.stores.folder import HEADER
from lightning_costs.stores.loader import load_run
from lightning_costs.stores.receipt import sign
from lightning_costs.stores.writer import RunWriter, new_id, utc

_log = logging.getLogger("lightning_costs")

Status = Literal["running", "finished", "failed", "interrupted"]


def status_after(error: type[BaseException] | None) -> Status:
    """How a run ended that was left by this kind of error: by a person or a signal, by a failure, or by none."""
    if error is None:
        return "finished"
    return "interrupted" if issubclass(error, KeyboardInterrupt | SystemExit) else "failed"


@final
class RunBook:
    """Keeps a run's header, totals and points, and writes them where this process is the one that writes.

    Args:
        declarations: By column name.
        name: What people call the run.
        monitor: Name of its quality metric.
        mode: Whether more of it is better.
        targets: Quality targets declared before the run.
        tariff: What carbon and money are priced under.
        warmup: In words, what is left out of rates.
        save_dir: Where run folders go.
        writes: Whether this process writes: rank 0 does.
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
    ) -> None:
        self._ledger = Ledger(declarations)
        self._save_dir, self._writes = save_dir, writes
        self._writer: RunWriter | None = None
        self._point: CurvePoint | None = None
        self._said: tuple[Mapping[str, str] | None, Mapping[str, str] | None, int] = (None, None, 0)
        #: Why something is missing that no indicator knows of.
        self.notes: dict[str, str] = {}
        self.header: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "run_id": "",
            "name": name,
            "status": "running",
            "created": "",
            "monitor": monitor,
            "mode": mode,
            "targets": [float(target) for target in targets],
            "indicators": {column: declared.as_dict() for column, declared in declarations.items()},
            "missing": {},
            "methods": {},
            "statics": {},
            "setup": {},
            "tariff": tariff.as_dict(),
            "attempts": [],
            "warmup": warmup,
            "written_by": f"lightning-costs {version('lightning-costs')}",
        }

    @property
    def run_id(self) -> str:
        """The run's identity; empty before its folder is made."""
        return str(self.header["run_id"])

    @property
    def opened(self) -> bool:
        """Whether the folder was made: the run has trained a batch."""
        return self._writer is not None

    @property
    def path(self) -> Path | None:
        """The run's folder, where this process writes it."""
        return self._writer.path if self._writer is not None and self._writes else None

    @property
    def costs(self) -> dict[str, Amount]:
        """Totals and gauges at the last point."""
        return dict(self._point.costs) if self._point is not None else self._ledger.costs

    @property
    def totals(self) -> dict[str, Amount]:
        """Totals and gauges now, between points too."""
        return self._ledger.costs

    def begin_attempt(self, facts: Mapping[str, Any]) -> None:
        """Another attempt at the run begins, on what `facts` say."""
        self.header["attempts"] = [*self.header["attempts"], {"began": utc(), **facts}]

    def open(self, setup: Mapping[str, Any]) -> None:
        """Make the folder, under the identity that a resume or the environment gave, or a new one."""
        header = self.header
        header["created"] = header["created"] or utc()
        header["run_id"] = header["run_id"] or new_id(header["name"], self._save_dir)
        header["name"] = header["name"] or header["run_id"]
        header["setup"] = dict(setup)
        self._writer = RunWriter(self._save_dir / header["run_id"], writes=self._writes)
        self._writer.open(header)
        sign("recorded")

    def add(self, window: Mapping[str, Amount], *, missing: Mapping[str, str], methods: Mapping[str, str]) -> None:
        """Fold a window into the totals, with why columns are missing and how the others were got."""
        self._ledger.add(window, lost=missing)
        was_missing, was_methods, notes = self._said
        if was_missing is not missing or was_methods is not methods or notes != len(self.notes):
            self._said = (missing, methods, len(self.notes))
            self.header["missing"] = {**missing, **self.notes}
            self.header["methods"] = dict(methods)

    def append(self, *, step: int, epoch: int, trigger: Trigger, quality: Mapping[str, float]) -> CurvePoint:
        """Make the totals a point, and write it."""
        self._point = point = CurvePoint(
            step=step,
            epoch=epoch,
            time=time.time(),
            trigger=trigger,
            costs=self._ledger.costs,
            quality={name: float(value) for name, value in quality.items()},
        )
        if self._writer is not None:
            self._writer.header(self.header)
            self._writer.append(point)
        return point

    def state(self) -> dict[str, Any]:
        """Plain containers for a checkpoint: identity, totals, attempts."""
        if self._writer is not None:
            self._writer.flush()
        attempts = [dict(attempt) for attempt in self.header["attempts"]]
        return {"run_id": self.run_id, "ledger": self._ledger.state(), "header": {"attempts": attempts}}

    def resume(self, state: Mapping[str, Any]) -> int:
        """Continue the run of a checkpoint: its identity, its totals.

        Where the run's folder is at hand and went further than the checkpoint, its totals are the ones that were
        spent: totals never go down.

        Returns:
            Steps that earlier attempts made.
        """
        header = self.header
        header["run_id"] = str(state["run_id"])
        header["attempts"] = [dict(attempt) for attempt in state["header"]["attempts"]]
        states = [state["ledger"]]
        folder = self._save_dir / self.run_id
        if (folder / HEADER).is_file():
            try:
                earlier = load_run(folder)
            except (OSError, ValueError) as error:
                _log.warning("the run's folder cannot be read, so it continues from the checkpoint: %s", error)
            else:
                header["attempts"] = [dict(attempt) for attempt in earlier.header.get("attempts", [])]
                header["created"] = earlier.header.get("created", "")
                states += [{"costs": earlier.final}] if earlier.points.height else []
        for column in self._ledger.restore(*states):
            self.notes[column] = "an earlier attempt of this run did not measure it"
        return int(self._ledger.costs.get("steps") or 0)

    def close(self, status: Status) -> RunRecord | None:
        """The run is over: write how it ended, and its points as Parquet.

        Returns:
            The run as its folder now holds it; None where it has none, or this process does not write it.
        """
        self.header["status"] = status
        if self._writer is None:
            return None
        *earlier, last = self.header["attempts"]
        self.header["attempts"] = [*earlier, {**last, "ended": utc(), "status": status}]
        return self._writer.close(self.header)

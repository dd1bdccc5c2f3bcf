"""The options of a monitor, whichever framework it watches: checked in one place, and handed to a recorder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from lightning_costs.indicators.base import Indicator
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.context import Count
from lightning_costs.probes.provenance import Provenance
from lightning_costs.recording.defaults import counting_of
from lightning_costs.recording.recorder import Recorder
from lightning_costs.records.limits import validate_interval
from lightning_costs.records.monitor import targets_of, validate_monitor
from lightning_costs.storage.loggers import Log, check_log
from lightning_costs.storage.paths import run_root
from lightning_costs.storage.sink import Sink, Sinks

#: Optimizer steps between two points, if neither the user nor the framework says.
EVERY_N_STEPS = 50

_log = logging.getLogger("lightning_costs")


@final
@dataclass(slots=True, kw_only=True)
class MonitorOptions:
    """Arguments of `CostMonitor`, which says what each means.

    Raises:
        ValueError: As `CostMonitor` does.

    Example:
        >>> MonitorOptions(count="off").infers(world_size=1)
        True
        >>> MonitorOptions(monitor="val/acc")
        Traceback (most recent call last):
        ValueError: monitor='val/acc' needs mode='max' or mode='min': which direction is better?
    """

    monitor: str | None = None
    mode: Literal["max", "min"] | None = None
    targets: float | Sequence[float] = ()
    save_dir: str | Path = "costs"
    name: str | None = None
    batch_size_fn: Callable[[Any], int] | None = None
    length_fn: Callable[[Any], int] | None = None
    indicators: Sequence[Indicator] | None = None
    tariff: Tariff | Mapping[str, Any] | str | Path | None = None
    log: Log = "complete"
    log_every_n_steps: int | None = None
    count: Count | None = None
    trace: bool = False
    infer: Literal["auto"] | bool = "auto"
    sinks: Sequence[Sink] = ()
    hyperparameters: Mapping[str, Any] | None = None
    owner: str | None = None
    oom_snapshot: bool = False
    prediction: object = None

    def __post_init__(self) -> None:
        validate_monitor(self.monitor, self.mode)
        check_log(self.log)
        validate_interval(self.log_every_n_steps)
        if self.trace not in (True, False):
            raise ValueError(f"trace must be True or False, got {self.trace!r}")
        if self.infer not in ("auto", True, False):
            raise ValueError(f"infer must be 'auto', True or False, got {self.infer!r}")
        self.targets, self.sinks = targets_of(self.targets), Sinks(self.sinks).all
        self.hyperparameters = Provenance(self.hyperparameters, self.owner, self.prediction).hyperparameters
        self.save_dir, self.tariff = run_root(self.save_dir), Tariff.resolve(self.tariff)
        self.count = counting_of(self.count)

    def infers(self, world_size: int) -> bool:
        """Whether the cost of a forward pass is measured after training: by one process alone."""
        return self.infer is not False and world_size == 1

    def recorder(self, *, world_size: int, every_n_steps: int = EVERY_N_STEPS, **facts: Any) -> Recorder:
        """A recorder with these options.

        Args:
            world_size: How many processes train.
            every_n_steps: Optimizer steps between two points, if the user does not say.
            **facts: Arguments of `Recorder` that the framework knows: what is trained, and where. `monitor` and `mode`
                among them are taken if the user named none, `hyperparameters` are joined by the user's.
        """
        if self.monitor is not None or "monitor" not in facts:
            facts |= {"monitor": self.monitor, "mode": self.mode}
        targets = targets_of(self.targets)
        if facts["monitor"] is None and targets:
            _log.warning("targets are not recorded: no monitor was given, and no checkpoint or early stopping has one")
            targets = ()
        facts["hyperparameters"] = {**(facts.get("hyperparameters") or {}), **(self.hyperparameters or {})}
        return Recorder(
            targets=targets,
            owner=self.owner,
            oom_snapshot=self.oom_snapshot,
            prediction=self.prediction,
            save_dir=self.save_dir,
            name=self.name,
            batch_size_fn=self.batch_size_fn,
            length_fn=self.length_fn,
            indicators=self.indicators,
            tariff=self.tariff,
            log_every_n_steps=every_n_steps if self.log_every_n_steps is None else self.log_every_n_steps,
            count=self.count,
            trace=self.trace,
            infer=self.infers(world_size),
            sinks=self.sinks,
            **facts,
        )

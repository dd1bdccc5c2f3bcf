"""The options of `lightning-costs run`; they reach the script by the environment, which its children inherit."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, final

from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.limits import validate_interval, validate_limits
from lightning_costs.records.monitor import validate_monitor
from lightning_costs.storage.loggers import Log, check_log
from lightning_costs.storage.paths import run_root
from lightning_costs.storage.sink import Sink

#: Switches the entry points on if it is 1.
SWITCH = "LIGHTNING_COSTS"
#: Options as a JSON object.
OPTIONS = "LIGHTNING_COSTS_OPTIONS"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """Options of a monitor that are plain data; their meaning is that of `CostMonitor`'s arguments.

    Args:
        monitor: Name of the quality metric.
        mode: Whether more of it is better ('max') or less ('min').
        targets: Quality targets declared before the run.
        save_dir: Where run folders go.
        name: What people call the run.
        log: As `CostMonitor`'s, but nothing by default: who measures a script from outside asks for its own results.
        log_every_n_steps: Optimizer steps between two points; by default the Trainer's, and 50 in Fabric.
        batch_size_key: Key, index or attribute of the part of a batch that is as long as its samples are many; several
            are joined by dots, from the outside in.
        count: How operators are counted: as `CostMonitor`'s.
        trace: Whether a few steps now and then are profiled: as `CostMonitor`'s.
        infer: Whether the cost of a forward pass is measured after training. Not unless asked for: it runs code of the
            script that the script does not run.
        tariff: Fields of the tariff by name; what is left out comes from the environment or the user's file.
        budget: Limits of a `CostBudget` by counter column.
        prometheus: The file of a `PrometheusSink`.
        otlp: Whether there is an `OpenTelemetrySink`.

    Raises:
        ValueError: For what a monitor would refuse.

    Example:
        >>> RunOptions(monitor="val/acc", mode="max").as_environment()["LIGHTNING_COSTS"]
        '1'
        >>> RunOptions(monitor="val/acc")
        Traceback (most recent call last):
        ValueError: monitor='val/acc' needs mode='max' or mode='min': which direction is better?
    """

    monitor: str | None = None
    mode: Literal["max", "min"] | None = None
    targets: tuple[float, ...] = ()
    save_dir: str = "costs"
    name: str | None = None
    log: Log = "none"
    log_every_n_steps: int | None = None
    batch_size_key: str | None = None
    count: Literal["auto", "eager", "off"] | None = None
    trace: bool = False
    infer: Literal["auto"] | bool = False
    tariff: Mapping[str, Any] | None = None
    budget: Mapping[str, float] | None = None
    prometheus: str | None = None
    otlp: bool = False

    def __post_init__(self) -> None:
        for name in ("monitor", "name", "save_dir", "batch_size_key", "prometheus"):
            value = getattr(self, name)
            if not (isinstance(value, str) and value) and (value is not None or name == "save_dir"):
                raise ValueError(f"{name} must be a text, got {value!r}")
        run_root(self.save_dir)
        validate_monitor(self.monitor, self.mode)
        for target in self.targets:
            if not isinstance(target, int | float) or not math.isfinite(target):
                raise ValueError(f"targets must be finite numbers, got {target!r}")
        check_log(self.log)
        validate_interval(self.log_every_n_steps)
        if self.count not in (None, "auto", "eager", "off"):
            raise ValueError(f"count must be 'auto', 'eager' or 'off', got {self.count!r}")
        if self.trace not in (True, False):
            raise ValueError(f"trace must be true or false, got {self.trace!r}")
        if self.infer not in ("auto", True, False):
            raise ValueError(f"infer must be 'auto', true or false, got {self.infer!r}")
        Tariff.resolve(self._tariff())
        if self.budget is not None:
            validate_limits(self.budget)
        try:
            self.sinks()
        except ImportError as error:
            raise ValueError(str(error)) from error

    def _tariff(self) -> Tariff | None:
        return None if self.tariff is None else Tariff.from_dict(self.tariff)

    def sinks(self) -> list[Sink]:
        """New sinks of a run, as the options name them."""
        if self.prometheus is None and not self.otlp:
            return []
        from lightning_costs.storage.exporters import OpenTelemetrySink, PrometheusSink

        files: list[Sink] = [] if self.prometheus is None else [PrometheusSink(self.prometheus)]
        return [*files, *([OpenTelemetrySink()] if self.otlp else [])]

    def arguments(self) -> dict[str, Any]:
        """Arguments of a monitor."""
        left_out = ("budget", "batch_size_key", "prometheus", "otlp")
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in left_out}
        if self.batch_size_key is not None:
            from lightning_costs.probes.batch_counter import SizeAt

            given["batch_size_fn"] = SizeAt(self.batch_size_key)
        return given | {"tariff": self._tariff(), "sinks": self.sinks()}

    def as_environment(self) -> dict[str, str]:
        """Variables that carry them."""
        return {SWITCH: "1", OPTIONS: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """What the environment carries; defaults where LIGHTNING_COSTS=1 was set by hand.

        Raises:
            ValueError: For what is no JSON object of these options.
        """
        text = (os.environ if environ is None else environ).get(OPTIONS) or "{}"
        try:
            given = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{OPTIONS} is not JSON: {error}") from error
        if not isinstance(given, dict):
            raise ValueError(f"{OPTIONS} must be a JSON object, got {text}")
        known = [field.name for field in fields(cls)]
        if strange := sorted(set(given) - set(known)):
            raise ValueError(f"{OPTIONS} has no option {strange[0]!r}; it has {', '.join(known)}")
        for name, kind in (("targets", list), ("tariff", dict), ("budget", dict)):
            if not isinstance(given.get(name, kind()), kind | None):
                raise ValueError(f"{name} in {OPTIONS} must be a JSON {'array' if kind is list else 'object'}")
        return cls(**given | {"targets": tuple(given.get("targets") or ())})

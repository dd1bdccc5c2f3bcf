"""A prediction as plain data, and the setting that it is made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, final

from lightning_costs.prediction.cards import Card
from lightning_costs.prediction.communication import (
    ADDED_CALLS,
    Exposed,
    Layout,
    exposed,
    link_rate,
    parse_layout,
    step_traffic,
)
from lightning_costs.prediction.efficiency import StepTime
from lightning_costs.prediction.other_settings import in_precision, resized, with_checkpointing, with_optimizer
from lightning_costs.prediction.workload import PRECISIONS, Workload
from lightning_costs.records.forecast import COVERAGE, Forecast
from lightning_costs.records.formatting import MISSING
from lightning_costs.records.missing import Missing
from lightning_costs.records.step_profile import OpClass, StepProfile
from lightning_costs.records.units import unit_of_name

#: Parameters for each call of an optimizer's update, which torch's AdamW has for two or three of each: 0.37 to 0.48.
ADDITIONS = 0.4


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a training will cost: never a measurement.

    Args:
        name: Of the run or model that it is made from.
        setting: Card, devices, layout, batch size, precision, optimizer, steps.
        amounts: By column or part of a step, the likely amount and its 80 % interval.
        memory: Bytes by kind at the fullest moment.
        fits: Whether that fits on the card; None if it is unknown.
        assumptions: What it rests on.
        missing: What could not be predicted, and why.
        width: Standard deviation of the logarithm of the step's time.
    """

    name: str
    setting: Mapping[str, Any]
    amounts: Mapping[str, Forecast]
    memory: Mapping[str, float] = field(default_factory=dict)
    fits: bool | None = None
    assumptions: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    width: float = 0.0

    def __getitem__(self, name: str) -> float | None:
        """A likely amount by its name; None if it is missing."""
        found = self.amounts.get(name)
        return found.middle if found is not None else None

    def __str__(self) -> str:
        """A short table: likely amounts with their intervals, missing ones with their reasons."""
        wide = max(map(len, (*self.amounts, *self.missing)), default=0)
        lines = [f"predicted, not measured: {self.name} on {self.setting['on']}, {self.setting['layout']}"]
        lines += [f"  {name:<{wide}}  {found.words(unit_of_name(name))}" for name, found in self.amounts.items()]
        lines += [f"  {name:<{wide}}  {MISSING} ({why})" for name, why in self.missing.items()]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and for a run that is given its prediction."""
        return {**asdict(self), "assumptions": list(self.assumptions), "coverage": COVERAGE}


def with_sharing(load: Workload) -> StepProfile:
    """What one device did in the measured step, and what sharing it added for the host: no operator shows that."""
    profile = load.profile
    added = _added(parse_layout(load.layout, load.devices), profile.total("calls", "optimizer"))
    return replace(profile, classes=(*profile.classes, *added))


def _added(layout: Layout, updates: float) -> list[OpClass]:
    calls = ADDED_CALLS.get(layout.adds, 0.0) * updates
    return [_made("optimizer" if layout.adds == "dtensor" else "backward", calls)] if calls else []


def _made(phase: str, calls: float, moved_bytes: float = 0.0) -> OpClass:
    """Calls that a layout adds to a step."""
    work = {"flop": 0.0, "access_bytes": moved_bytes, "fixed_bytes": moved_bytes}
    return OpClass(phase=phase, kind="other", dtype="float32", calls=calls, **work)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where and how the training is to run."""

    load: Workload
    card: Card
    layout: Layout
    batch_size: float
    precision: str
    optimizer: str | None
    checkpointing: bool
    link: float | None
    network: float | None

    @property
    def same_card(self) -> bool:
        """Whether that card was measured."""
        return self.load.card is not None and self.load.card.name == self.card.name

    @property
    def own_layout(self) -> Layout:
        """How the measured devices shared the work."""
        return parse_layout(self.load.layout, self.load.devices)

    @property
    def samples_per_step(self) -> float:
        """Samples of a step on all devices."""
        return self.batch_size * self.layout.data

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "on": self.card.name,
            "devices": self.layout.devices,
            "layout": self.layout.words(),
            "batch_size": self.batch_size,
            "samples_per_step": self.samples_per_step,
            "precision": self.precision,
            "optimizer": self.optimizer,
            "checkpointing": self.checkpointing,
        }

    def profile(self) -> StepProfile:
        """What one device does in a step of the setting."""
        load = self.load
        profile = resized(load.profile, self.batch_size / load.batch_size)
        profile = in_precision(profile, load.params, load.precision, self.precision)
        profile = with_optimizer(profile, load.params, load.optimizer, self.optimizer)
        if self.checkpointing:
            profile = with_checkpointing(profile)
        layout = self.layout
        whole = layout.tensor * layout.pipeline
        classes = []
        for one in profile.classes:
            if one.phase == "optimizer":
                sharers = whole * (layout.data if layout.stage else 1)
                classes.append(one.scaled(1 / layout.pipeline, 1 / whole, 1 / sharers))
                continue
            # Every micro-batch queues the operators of a stage, and reads its weights.
            grown = (one.access_bytes + one.fixed_bytes * (layout.microbatches - 1)) / whole
            calls = one.calls * layout.microbatches / layout.pipeline
            classes.append(replace(one, calls=calls, flop=one.flop / whole, access_bytes=grown))
        updates, again = profile.total("calls", "optimizer"), layout.microbatches - 1
        classes += _added(layout, updates)
        if again:  # every micro-batch but the first adds its gradients to those before
            moved = 3 * again * load.params * PRECISIONS[self.precision][1] / whole
            classes.append(_made("backward", ADDITIONS * again * updates / layout.pipeline, moved))
        return replace(profile, classes=tuple(classes))

    def link_words(self) -> str:
        """What devices send over, for people.

        Raises:
            Missing: If that link is unknown.
        """
        rate = link_rate(self.card, self.layout, self.link, self.network)
        own = self.link is None and self.network is None and self.card.peak is not None
        source = self.card.peak.link if own and self.card.peak is not None else "as given"
        return f"devices send {rate / 1e9:.3g} GB/s to each other ({source}); 80 % of it is attained"

    def sent(self, layout: Layout, time: StepTime, batch_size: float, precision: str) -> Exposed:
        """What a step of a layout sends, and how much of it is waited for.

        Raises:
            Missing: If the link is unknown, or what blocks give each other.
        """
        load = self.load
        rate = link_rate(self.card, layout, self.link, self.network)
        part = load.params * PRECISIONS[precision][1] / (layout.tensor * layout.pipeline)
        boundary = load.profile.boundary_bytes * batch_size / load.batch_size
        if (layout.tensor > 1 or layout.pipeline > 1) and not boundary:
            raise Missing("what blocks give each other is unknown: the count saw no repeated blocks")
        blocks = load.profile.blocks
        traffic = step_traffic(layout, param_bytes=part, grad_bytes=part, boundary_bytes=boundary, blocks=blocks)
        return exposed(traffic, rate, time.by_phase)

"""What restarts lost: spent after the checkpoint that a later attempt went back to. Contained in the totals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, final

from lightning_costs.indicators.base import Derived
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.declaration import Family, Role


class _Lost(Derived):
    """Nothing is lost while training continues: the ledger sets these where an attempt begins."""

    name, unit, kind = "lost_work_s", "s", "counter"
    family: ClassVar[Family] = "time"
    scope, across = "job", "rank0"
    role: ClassVar[Role] = "diagnostic"

    def of(self, window: Mapping[str, float], tariff: Tariff) -> float:
        return 0.0


@final
class LostS(_Lost):
    """Seconds of `total_s` that restarts lost."""

    name, label, needs = "lost_s", "time lost to restarts", ("total_s",)


@final
class LostSamples(_Lost):
    """Samples whose training restarts lost."""

    name, unit, family, label = "lost_samples", "samples", "data", "samples lost to restarts"
    needs = ("samples",)


@final
class LostFlop(_Lost):
    """FLOPs that restarts lost."""

    name, unit, family, label = "lost_flop", "flop", "compute", "FLOPs lost to restarts"
    needs = ("flop",)


@final
class LostEnergyJ(_Lost):
    """Energy that restarts lost."""

    name, unit, family, label = "lost_energy_j", "j", "energy", "energy lost to restarts"
    needs = ("energy_j",)

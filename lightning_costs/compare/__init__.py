"""Runs become a comparison. The subpackage is itself callable: `lightning_costs.compare(runs)`.

`lightning_costs.compare` is both this subpackage and the public function. Whichever of the two an import
binds, a call does the same, in any import order.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lightning_costs.compare.comparison import Comparison as Comparison
    from lightning_costs.compare.comparison import compare as compare
    from lightning_costs.core.run_record import RunRecord
    from lightning_costs.core.tariff import Tariff

__all__ = ["Comparison", "compare"]


class _CallableModule(ModuleType):
    """A module that delegates a call to `comparison.compare`, loaded at the first one."""

    def __call__(
        self,
        runs: Sequence[RunRecord],
        *,
        monitor: str | None = None,
        mode: Literal["max", "min"] | None = None,
        targets: Sequence[float] = (),
        tariff: Tariff | None = None,
        curve: Literal["spent", "to_reach"] = "spent",
        queries: Sequence[float] = (),
        group: str | None = None,
        tolerance: float = 0.05,
    ) -> Comparison:
        """See `lightning_costs.compare.comparison.compare`."""
        from lightning_costs.compare.comparison import compare

        return compare(
            runs,
            monitor=monitor,
            mode=mode,
            targets=targets,
            tariff=tariff,
            curve=curve,
            queries=queries,
            group=group,
            tolerance=tolerance,
        )

    def __getattr__(self, name: str) -> object:
        if name in __all__:
            return getattr(import_module("lightning_costs.compare.comparison"), name)
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


sys.modules[__name__].__class__ = _CallableModule

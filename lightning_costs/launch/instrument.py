"""The monitors of a script that `lightning-costs run` started; loaded in its process alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from lightning_costs.launch.options import RunOptions

if TYPE_CHECKING:
    from lightning_costs.callback import CostBudget, CostMonitor
    from lightning_costs.fabric import FabricMonitor

_log = logging.getLogger("lightning_costs")


def monitor() -> list[CostMonitor | CostBudget]:
    """A monitor that yields to one that the script has, and the budget that was given.

    Raises:
        ValueError: For options in the environment that `lightning-costs run` would have refused.
    """
    options = RunOptions.from_environment()
    from lightning_costs.callback import CostBudget, CostMonitor

    made = CostMonitor(**options.arguments())
    made.yields = True
    return [made] if options.budget is None else [made, CostBudget(dict(options.budget))]


def fabric_monitor(namespace: str) -> list[FabricMonitor]:
    """A monitor for the Fabric of a namespace.

    Raises:
        ValueError: As `monitor` does.
    """
    options = RunOptions.from_environment()
    from lightning_costs.fabric import FabricMonitor

    if options.budget is not None:
        _log.error(
            "--budget is not held in a Fabric script: nobody but its own loop can stop it. `Recorder.over` is for loops"
        )
    return [FabricMonitor(namespace, options.arguments())]

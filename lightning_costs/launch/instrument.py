"""The monitors of a script that `lightning-costs run` started; loaded in its process alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_costs.launch.options import RunOptions
from lightning_costs.stores.receipt import sign

if TYPE_CHECKING:
    from lightning_costs.callback import CostMonitor
    from lightning_costs.fabric import FabricMonitor


def monitor() -> CostMonitor:
    """A monitor that yields to one that the script has.

    Raises:
        ValueError: For options in the environment that `lightning-costs run` would have refused.
    """
    options = RunOptions.from_environment()
    from lightning_costs.callback import CostMonitor

    made = CostMonitor(**options.arguments())
    made.yields = True
    sign("made")
    return made


def fabric_monitor(namespace: str) -> FabricMonitor:
    """A monitor for the Fabric of a namespace.

    Raises:
        ValueError: As `monitor` does.
    """
    options = RunOptions.from_environment()
    from lightning_costs.fabric import FabricMonitor

    made = FabricMonitor(namespace, options.arguments())
    sign("made")
    return made

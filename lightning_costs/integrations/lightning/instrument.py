"""The monitors of a script that `lightning-costs run` started; loaded in its process alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from lightning_costs.integrations.lightning.options import RunOptions

if TYPE_CHECKING:
    from lightning_costs.integrations.fabric import FabricMonitor
    from lightning_costs.integrations.huggingface import CostCallback
    from lightning_costs.integrations.huggingface.accelerator import AcceleratorSession
    from lightning_costs.integrations.lightning.callback import CostBudget, CostMonitor

_log = logging.getLogger("lightning_costs")


def make_monitors() -> list[CostMonitor | CostBudget]:
    """A monitor that yields to one that the script has, and the budget that was given.

    Raises:
        ValueError: For options in the environment that `lightning-costs run` would have refused.
    """
    options = RunOptions.from_environment()
    from lightning_costs.integrations.lightning.callback import CostBudget, CostMonitor

    made = CostMonitor(**options.arguments())
    made.is_fallback = True
    return [made] if options.budget is None else [made, CostBudget(dict(options.budget))]


def fabric_monitor(namespace: str) -> list[FabricMonitor]:
    """A monitor for the Fabric of a namespace.

    Raises:
        ValueError: As `make_monitors` does.
    """
    options = RunOptions.from_environment()
    from lightning_costs.integrations.fabric import FabricMonitor

    if options.budget is not None:
        _log.error(
            "--budget is not enforced in a Fabric script: only its own loop can stop it. Ask `Recorder.exceeded` in "
            "the loop"
        )
    return [FabricMonitor(namespace, options.arguments())]


def huggingface_callbacks() -> list[type[CostCallback]]:
    """The class of callbacks that `transformers.Trainer` makes one of for itself.

    Raises:
        ValueError: As `make_monitors` does.
    """
    options = RunOptions.from_environment()
    from lightning_costs.integrations.huggingface import CostCallback

    if options.budget is not None:
        _log.error("--budget is not enforced in a script of transformers' Trainer; `Recorder.exceeded` is for loops")

    class FallbackCallback(CostCallback):
        is_fallback = True

        def __init__(self) -> None:
            super().__init__(**options.arguments())

    return [FallbackCallback]


def measure_accelerators_loop(accelerator: Any) -> list[AcceleratorSession]:
    """Measure the script's own loop with an Accelerator; one that a Trainer makes for itself has a callback.

    Raises:
        ValueError: As `make_monitors` and `measure_accelerator` do.
    """
    from lightning_costs.integrations.huggingface import measure_accelerator
    from lightning_costs.integrations.huggingface.hooks import calling_trainer

    if calling_trainer() is not None:
        return []
    options = RunOptions.from_environment()
    if options.budget is not None:
        _log.error("--budget is not enforced in a loop with Accelerate; `Recorder.exceeded` is for loops")
    return [measure_accelerator(accelerator, **options.arguments())]

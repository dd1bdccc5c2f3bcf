"""Entry points that Lightning calls for every Trainer and Fabric of an environment: inert without LIGHTNING_COSTS=1.

Nothing is imported then, and nothing raised ever: either would reach all who installed the package.
"""

from __future__ import annotations

import os
from typing import Any

_refused: set[str] = set()


def trainer() -> list[Any]:
    """A monitor for a Trainer of either namespace."""
    return _made("monitor")


def fabric() -> list[Any]:
    """A monitor for a `lightning.fabric.Fabric`."""
    return _made("fabric_monitor", "lightning.fabric")


def lightning_fabric() -> list[Any]:
    """A monitor for a `lightning_fabric.Fabric`."""
    return _made("fabric_monitor", "lightning_fabric")


def _made(make: str, *namespace: str) -> list[Any]:
    if os.environ.get("LIGHTNING_COSTS") != "1":
        return []
    try:
        from lightning_costs.launch import instrument

        return list(getattr(instrument, make)(*namespace))
    except Exception as error:  # noqa: BLE001 - a factory that raises breaks every Trainer in the environment
        _refuse(f"{type(error).__name__}: {error}")
        return []


def _refuse(reason: str) -> None:
    """Say once why nothing is measured; by a logger, since a warning may be an error."""
    if reason in _refused:
        return
    _refused.add(reason)
    import logging

    logging.getLogger("lightning_costs").warning(
        "costs are not measured, training goes on. LIGHTNING_COSTS=1 asks for a monitor, which could not be made: %s",
        reason,
    )
    from lightning_costs.stores.receipt import sign

    sign("refused")

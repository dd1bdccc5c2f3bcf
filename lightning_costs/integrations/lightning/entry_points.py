"""Entry points that Lightning calls for every Trainer and Fabric of an environment: inert without LIGHTNING_COSTS=1.

Nothing is imported then, and nothing raised ever: either would reach all who installed the package.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_refused: set[str] = set()


def trainer() -> list[Any]:
    """A monitor for a Trainer of either namespace."""
    return _made("make_monitors")


def fabric() -> list[Any]:
    """A monitor for a `lightning.fabric.Fabric`."""
    return _made("fabric_monitor", "lightning.fabric")


def lightning_fabric() -> list[Any]:
    """A monitor for a `lightning_fabric.Fabric`."""
    return _made("fabric_monitor", "lightning_fabric")


def huggingface() -> list[Any]:
    """A class of callbacks for every `transformers.Trainer`; `huggingface/autoload` calls it."""
    return _made("huggingface_callbacks")


def accelerate(accelerator: Any) -> None:
    """Measure an Accelerator that a script makes; `huggingface/autoload` calls it."""
    _made("measure_accelerators_loop", accelerator)


def _made(make: str, *of: Any) -> list[Any]:
    if os.environ.get("LIGHTNING_COSTS") != "1":
        return []
    try:
        _log_apart()
        from lightning_costs.integrations.lightning import instrument

        return list(getattr(instrument, make)(*of))
    except Exception as error:  # noqa: BLE001 - a factory that raises breaks every Trainer in the environment
        _refuse(f"{type(error).__name__}: {error}")
        return []


def _log_apart() -> None:
    """Send our messages to stderr alone: a script that logs to stdout or to a file keeps those to itself."""
    import logging

    log = logging.getLogger("lightning_costs")
    if log.propagate and not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("lightning-costs: %(message)s"))
        log.addHandler(handler)
        log.propagate = False
    # Lightning says how many callbacks an entry point adds, in the script's log.
    for name in ("lightning.fabric.utilities.registry", "lightning_fabric.utilities.registry"):
        logging.getLogger(name).addFilter(_is_of_others)  # adding it again adds nothing


def _is_of_others(record: Any) -> bool:
    text = str(record.msg)
    return not (text.startswith("Adding ") and "from entry point 'lightning-costs'" in text)


def _refuse(reason: str) -> None:
    """Say once why nothing is measured; by a logger, since a warning may be an error."""
    if reason in _refused:
        return
    _refused.add(reason)
    import logging

    logging.getLogger("lightning_costs").warning(
        "costs are not measured; training continues. LIGHTNING_COSTS=1 asks for a monitor, which could not be made: %s",
        reason,
    )

"""What the setups of runs have in common and what they differ in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lightning_costs.analysis.schema import Plain, Setups

#: What stands before a hyperparameter's name in a setup.
HYPERPARAMETERS = "hyperparameters."


def setting_named(setup: Mapping[str, Plain], name: str) -> Plain:
    """A setting by its name, that of a hyperparameter alone too; None if there is none.

    Example:
        >>> setting_named({"devices": 1, "hyperparameters.depth": 4}, "depth")
        4
    """
    return setup[name] if setup.get(name) is not None else setup.get(HYPERPARAMETERS + name)


def flatten(setup: Mapping[str, object], prefix: str = "") -> dict[str, Plain]:
    """A nested setup as one level, keys joined by dots, entries of a list of tables by number.

    What is no plain value even then is written as JSON.

    Example:
        >>> flatten({"devices": {"count": 8, "names": ["H100"]}, "precision": "bf16"})
        {'devices.count': 8, 'devices.names': '["H100"]', 'precision': 'bf16'}
    """
    flat: dict[str, Plain] = {}
    for key, value in setup.items():
        name = f"{prefix}{key}"
        if isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            value = {str(index): item for index, item in enumerate(value)}
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif value is None or isinstance(value, str | int | float | bool):
            flat[name] = value
        else:
            flat[name] = json.dumps(value, sort_keys=True, default=str)
    return flat


def run_settings(header: Mapping[str, Any]) -> dict[str, Plain]:
    """A run's hyperparameters and setup as one level.

    Example:
        >>> run_settings({"hyperparameters": {"lr": 0.1}, "setup": {"hardware": {"cpu": "EPYC"}}})
        {'hyperparameters.lr': 0.1, 'hardware.cpu': 'EPYC'}
    """
    return flatten(header.get("hyperparameters") or {}, "hyperparameters.") | flatten(header.get("setup") or {})


def split_setups(setups: Mapping[str, Mapping[str, Plain]]) -> Setups:
    """Split flattened setups into what is the same for every run and what differs.

    Args:
        setups: By run label. A key that a run does not have is None there, and differs from any value.

    Example:
        >>> split_setups({"a": {"precision": "32", "devices": 1}, "b": {"precision": "16", "devices": 1}})
        {'same': {'devices': 1}, 'different': {'precision': {'a': '32', 'b': '16'}}}
    """
    keys = sorted({key for setup in setups.values() for key in setup})
    same: dict[str, Plain] = {}
    different: dict[str, dict[str, Plain]] = {}
    for key in keys:
        values = {label: setup.get(key) for label, setup in setups.items()}
        first, *others = values.values()
        # 1 and True are equal in Python; a batch size of 1 and a switch that is on are not the same.
        if all(json.dumps(other) == json.dumps(first) for other in others):
            same[key] = first
        else:
            different[key] = values
    return {"same": same, "different": different}

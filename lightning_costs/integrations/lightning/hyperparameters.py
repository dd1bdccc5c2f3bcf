"""Hyperparameters that a module and a data module saved by `save_hyperparameters`."""

from __future__ import annotations

from typing import Any

from lightning_costs.records.hyperparameters import Plain, plain_hyperparameters


def saved_hyperparameters(trainer: Any, pl_module: Any) -> dict[str, Plain]:
    """Plain hyperparameters by name; if both saved one of a name, the module's.

    `hparams` itself is not read if nothing was saved: Lightning would put an empty one into the object.
    """
    found: dict[str, Plain] = {}
    for owner in (getattr(trainer, "datamodule", None), pl_module):
        if owner is not None and "_hparams" in getattr(owner, "__dict__", {}):
            try:
                found |= plain_hyperparameters(owner.hparams)
            except Exception:  # noqa: BLE001 - whatever the user's object holds, its training continues
                continue
    return found

"""Costs of trainings by Hugging Face's `transformers.Trainer` and what inherits it, and of loops with Accelerate."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_costs.integrations.huggingface.accelerator import measure_accelerator as measure_accelerator
    from lightning_costs.integrations.huggingface.callback import CostCallback as CostCallback

_MODULES = {"CostCallback": "callback", "measure_accelerator": "accelerator"}
__all__ = ["CostCallback", "measure_accelerator"]


def __getattr__(name: str) -> Any:
    """`CostCallback` loads transformers, which `lightning-costs run` must not do."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)

"""Costs of trainings by Hugging Face's `transformers.Trainer` and what inherits it (TRL's trainers, say)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_costs.integrations.huggingface.callback import CostCallback as CostCallback

__all__ = ["CostCallback"]


def __getattr__(name: str) -> Any:
    """`CostCallback` loads transformers, which `lightning-costs run` must not do."""
    if name != "CostCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_costs.integrations.huggingface.callback import CostCallback

    return CostCallback

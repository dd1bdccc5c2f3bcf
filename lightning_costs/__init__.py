"""What training costs, by every indicator at once.

The public names load on first use (PEP 562): importing this package loads no torch, no Lightning and no wandb.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_costs.comparison import Comparison as Comparison
    from lightning_costs.comparison import compare as compare
    from lightning_costs.indicators import default_indicators as default_indicators
    from lightning_costs.indicators.base import Derived as Derived
    from lightning_costs.indicators.base import Measured as Measured
    from lightning_costs.integrations.lightning.budget import CostBudget as CostBudget
    from lightning_costs.integrations.lightning.callback import CostMonitor as CostMonitor
    from lightning_costs.model_cost.cost import ModelCost as ModelCost
    from lightning_costs.model_cost.measure import measure as measure
    from lightning_costs.prediction.predict import predict as predict
    from lightning_costs.prediction.prediction import Prediction as Prediction
    from lightning_costs.pricing.tariff import Tariff as Tariff
    from lightning_costs.recording.recorder import Recorder as Recorder
    from lightning_costs.records.missing import Missing as Missing
    from lightning_costs.sources.loader import load_run as load_run
    from lightning_costs.sources.loader import load_runs as load_runs
    from lightning_costs.storage.saved_runs import save_runs as save_runs
    from lightning_costs.storage.sink import MemorySink as MemorySink
    from lightning_costs.storage.sink import Sink as Sink

_HOME = {
    "Comparison": "comparison",
    "CostBudget": "integrations.lightning.budget",
    "CostMonitor": "integrations.lightning.callback",
    "Derived": "indicators.base",
    "Measured": "indicators.base",
    "MemorySink": "storage.sink",
    "Missing": "records.missing",
    "ModelCost": "model_cost.cost",
    "Prediction": "prediction.prediction",
    "Recorder": "recording.recorder",
    "Sink": "storage.sink",
    "Tariff": "pricing.tariff",
    "compare": "comparison",
    "default_indicators": "indicators",
    "load_run": "sources.loader",
    "load_runs": "sources.loader",
    "measure": "model_cost.measure",
    "predict": "prediction.predict",
    "save_runs": "storage.saved_runs",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("lightning_costs.records.versions").version_of("lightning-costs")
    if name not in _HOME:
        raise AttributeError(f"module 'lightning_costs' has no attribute {name!r}")
    value = getattr(import_module(f"lightning_costs.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

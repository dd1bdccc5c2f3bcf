"""DeepSpeed without Lightning: `watch` an engine whose loop is the script's own, `watch_pipeline` for its bubble."""

from lightning_costs.integrations.deepspeed.monitor import EngineMonitor, watch, watch_pipeline

__all__ = ["EngineMonitor", "watch", "watch_pipeline"]

"""Lightning Fabric: a monitor among the callbacks of a Fabric, whose loop is the script's own."""

from lightning_costs.integrations.fabric.monitor import FabricMonitor, end_runs

__all__ = ["FabricMonitor", "end_runs"]

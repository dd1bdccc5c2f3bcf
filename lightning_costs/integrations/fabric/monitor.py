"""FabricMonitor: passes what happens in a Lightning Fabric script to a Recorder. It computes nothing itself."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, final
from weakref import WeakKeyDictionary

from lightning_costs.integrations.fabric import hooks as fabric_hooks
from lightning_costs.integrations.loop_session import LoopSession, end_runs
from lightning_costs.integrations.options import MonitorOptions
from lightning_costs.probes.clock import RunBegin

__all__ = ["FabricMonitor", "end_runs"]

_sessions: WeakKeyDictionary[Any, FabricSession] = WeakKeyDictionary()


@final
class FabricMonitor:
    """Measures what a Fabric script's training costs. It goes among the Fabric's callbacks; the script stays as it is.

    A batch begins where a training loader is asked for it and ends where the next one is; it counts where an
    optimizer stepped or `fabric.backward` ran. A loader that is iterated over with gradients off, or with every module
    in eval mode, is evaluation. Metrics that are logged after it, or the one named `monitor`, are the quality. Time
    outside of loaders is `other`. The run begins with the process and ends with it, or where the next Fabric trains.

    Args:
        namespace: 'lightning.fabric' or 'lightning_fabric'.
        options: Arguments of `CostMonitor`; `log` has no meaning here.
        begin: When its run begins, if it was made in another process.
    """

    def __init__(self, namespace: str, options: Mapping[str, Any], begin: RunBegin | None = None) -> None:
        self._namespace, self._given = namespace, dict(options)
        self.begin = begin or RunBegin()
        self.options = MonitorOptions(**options)
        self._given["save_dir"] = self.options.save_dir  # another process may be elsewhere
        fabric_hooks.patch_fabric(import_module(namespace).Fabric, _session_of)

    def __reduce__(self) -> tuple[type[FabricMonitor], tuple[str, Mapping[str, Any], RunBegin]]:
        return FabricMonitor, (self._namespace, self._given, self.begin)


def _session_of(fabric: Any) -> FabricSession | None:
    session = _sessions.get(fabric)
    if session is None:
        monitor = next((c for c in fabric_hooks.callbacks(fabric) if isinstance(c, FabricMonitor)), None)
        if monitor is not None:
            session = _sessions[fabric] = FabricSession(monitor.options, monitor.begin)
    return session


@final
class FabricSession(LoopSession):
    """One Fabric: what was set up, and the run in progress."""

    def users_loader(self, loader: Any) -> Any:
        """The loader that the user handed over."""
        return fabric_hooks.users_loader(loader)

"""What a Trainer does before its callbacks' `setup`: initialize torch.distributed, prepare the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from lightning_costs.patching.fail_safe import never_harmful
from lightning_costs.patching.patches import Patches
from lightning_costs.probes.clock import now_s
from lightning_costs.records.time_buckets import TimeBuckets


@final
class FitEntered:
    """Times `strategy.setup_environment`, from the moment at which a Trainer gives its callbacks the module's `log`.

    No hook of a callback is called earlier. The one patch is lifted as soon as the method has run.
    """

    def __init__(self, trainer: Any) -> None:
        self._began_s = now_s()
        self._distributed_s: float | None = None
        self._patches = Patches(lambda: None)
        self._patches.wrap(trainer.strategy, "setup_environment", self._timed)

    def _timed(self, original: Callable[[], None]) -> Callable[[], None]:
        def setup_environment() -> None:
            began_s = now_s()
            try:
                original()
            finally:
                self._distributed_s = now_s() - began_s
                self.lift()

        return setup_environment

    @never_harmful
    def lift(self) -> None:
        """Lift the patch, if the method never ran."""
        self._patches.restore()

    def split(self, accounts: TimeBuckets) -> None:
        """Hand over what the run's start-up had up to now; the model's part begins here."""
        if self._distributed_s is None or self._began_s < accounts.begun_s:
            return
        parts = accounts.startup_s
        parts["script"] = self._began_s - accounts.begun_s - parts["imports"]
        parts["distributed"] = self._distributed_s
        parts["data"] = now_s() - self._began_s - self._distributed_s
        accounts.startup_rest = "model"

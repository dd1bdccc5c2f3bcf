"""Optimizers that a script made and steps for itself, where a framework was not given them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, final
from weakref import WeakSet, ref

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lightning_costs.patching.optimizers import inner_optimizers
from lightning_costs.patching.patches import Patches


@final
class ScriptOptimizers:
    """Notices optimizers by their first step, as torch has hooks for the steps of all (`torch.optim.optimizer`).

    One that updates none of the module's parameters is left alone: an attack on inputs, an inner loop on a copy.

    Args:
        module: What is trained.
        given: Returns the optimizers that the framework has.
        noticed: Called before its first step with each that it has not, and with what keeps hooks on it.
        failed: Called if an internal error was caught.
    """

    def __init__(
        self,
        module: nn.Module,
        given: Callable[[], Iterable[Any]],
        noticed: Callable[[Optimizer, Patches], None],
        failed: Callable[[], None],
    ) -> None:
        self._module, self._given, self._noticed, self._failed = module, given, noticed, failed
        self._seen: WeakSet[Optimizer] = WeakSet()
        #: A script may make one for each step: they are not kept, and hooks on those that it let go are dropped.
        self._hooked: list[tuple[ref[Optimizer], Patches]] = []

    def install(self, patches: Patches) -> None:
        """From now on, until these patches are removed."""
        handle = register_optimizer_step_pre_hook(self._before_step)
        patches.add_cleanup(handle.remove)
        patches.add_cleanup(self._forget)

    @property
    def living(self) -> list[Optimizer]:
        """Those that were noticed and are still there."""
        return [optimizer for there, _ in self._hooked if (optimizer := there()) is not None]

    def _before_step(self, optimizer: Optimizer, *_: Any) -> None:
        if torch.compiler.is_compiling() or optimizer in self._seen:
            return
        try:
            self._seen.add(optimizer)
            if self._is_another(optimizer):
                self._hooked = [(there, hooks) for there, hooks in self._hooked if there() is not None]
                hooks = Patches(self._failed)
                self._hooked.append((ref(optimizer), hooks))
                self._noticed(optimizer, hooks)
        except Exception:  # noqa: BLE001 - an internal error must not end the training
            self._failed()

    def _is_another(self, optimizer: Optimizer) -> bool:
        known = (inner for each in (*self._given(), *self.living) for inner in inner_optimizers(each))
        if any(optimizer is inner for inner in known):
            return False
        updated = {id(one) for group in optimizer.param_groups for one in group["params"]}
        return any(id(one) in updated for one in self._module.parameters())

    def _forget(self) -> None:
        hooked, self._hooked = self._hooked, []
        for _, hooks in hooked:
            hooks.restore()

"""Optimizers that a script made and steps for itself, where a framework was not given them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable
from typing import Any, final
from weakref import finalize, ref

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.patching.optimizers import caller_of, inner_optimizers, optimizers_among, steps_within
from lightning_costs.patching.patches import Patches

_log = logging.getLogger("lightning_costs")


@final
class ScriptOptimizers:
    """Notices optimizers by their first step, as torch has hooks for the steps of all (`torch.optim.optimizer`).

    One that updates none of the module's parameters is left alone: an attack on inputs, an inner loop on a copy. One
    that another one steps is a part of that: its state is seen, and its updates are none of their own.

    Args:
        module: What is trained.
        given: Returns the optimizers that the framework has.
        training: Whether an update at this moment is one of the training: first steps at others are passed over.
        noticed: Called before its first step with each that it has not, the places of the parameters that it updates,
            and what keeps hooks on it.
        failed: Called if an internal error was caught.
    """

    def __init__(
        self,
        module: nn.Module,
        given: Callable[[], Iterable[Any]],
        training: Callable[[], bool],
        noticed: Callable[[Optimizer, tuple[int, ...], Patches], None],
        failed: Callable[[], None],
    ) -> None:
        self._module, self._given, self._training = module, given, training
        self._noticed, self._failed = noticed, failed
        #: By identity: a user's class may compare by value, and then has no hash.
        self._seen: dict[int, ref[Optimizer]] = {}
        #: A script may make one for each step: they are not kept, and hooks on those that it let go are dropped.
        #: Each with all that it owns.
        self._hooked: list[tuple[ref[Optimizer], frozenset[int], Patches]] = []

    def install(self, patches: Patches) -> None:
        """From now on, until these patches are removed, or no one has this object any more."""
        this, seen, is_compiling = ref(self), self._seen, torch.compiler.is_compiling

        def before_step(optimizer: Optimizer, *_: Any) -> None:  # at each step of every optimizer of the process
            if is_compiling() or id(optimizer) in seen:
                return
            if (there := this()) is not None and there._training():
                there._first_step(optimizer)

        remove = register_optimizer_step_pre_hook(before_step).remove
        finalize(self, remove).atexit = False
        patches.add_cleanup(remove)
        patches.add_cleanup(self._lift)

    def look(self) -> None:
        """Notice those among the attributes of the module: a step that is compiled calls for no hook of all."""
        for module in self._module.modules():
            for optimizer in optimizers_among(vars(module)):
                self._first_step(optimizer)

    @property
    def living(self) -> list[Optimizer]:
        """Those that were noticed and are still there."""
        return [optimizer for there, _, _ in self._hooked if (optimizer := there()) is not None]

    def _first_step(self, optimizer: Optimizer) -> None:
        seen, identity = self._seen, id(optimizer)
        try:
            seen[identity] = ref(optimizer, lambda _: seen.pop(identity, None))
            optimizer = caller_of(optimizer)
            family = frozenset(map(id, inner_optimizers(optimizer)))
            known = self._known
            updates = () if id(optimizer) in known else self._updated(optimizer)
            is_part = steps_within(known)
        except Exception as error:  # noqa: BLE001 - one of the user's that cannot be inspected
            reraise_from_signal(error)
            _log.debug("%s is left alone: %r", type(optimizer).__name__, error)
            return
        try:
            if updates:
                self._drop(family)
                hooks = Patches(self._failed)
                self._hooked.append((ref(optimizer), family, hooks))
                if not is_part:
                    self._noticed(optimizer, updates, hooks)
        except Exception:  # noqa: BLE001 - an internal error must not end the training
            self._failed()

    def _updated(self, optimizer: Optimizer) -> tuple[int, ...]:
        """Which of the module's parameters it updates, by their places."""
        updated = {id(one) for group in optimizer.param_groups for one in group["params"]}
        return tuple(place for place, one in enumerate(self._module.parameters()) if id(one) in updated)

    @property
    def _known(self) -> set[int]:
        """Those of the framework and those that were noticed, with all that they own, by identity."""
        known = {id(inner) for each in self._given() for inner in inner_optimizers(each)}
        return known.union(*(family for there, family, _ in self._hooked if there() is not None))

    def _drop(self, owned: Container[int]) -> None:
        """Forget those that were collected, and those that are parts of one that is noticed now."""
        kept = []
        for there, family, hooks in self._hooked:
            if (optimizer := there()) is not None and id(optimizer) in owned:
                hooks.restore()
            elif optimizer is not None:
                kept.append((there, family, hooks))
        self._hooked = kept

    def _lift(self) -> None:
        """Nothing is left on them; what they hold is still asked for when the run ends."""
        for *_, hooks in self._hooked:
            hooks.restore()

"""The optimizers of a Lightning fit: those that the Trainer was given, and those that the module steps for itself."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, final
from weakref import ref

from lightning_costs.patching.optimizers import hook_optimizer_step, time_updates, unwrap
from lightning_costs.patching.patches import Patches
from lightning_costs.patching.script_optimizers import ScriptOptimizers
from lightning_costs.probes.phases import Phases
from lightning_costs.recording.step_hooks import StepHooks
from lightning_costs.records.time_buckets import TimeBuckets


@final
class _InTraining:
    """Phases that receive updates in training alone: those of an evaluation or a callback are in another account."""

    def __init__(self, phases: Phases, accounts: TimeBuckets) -> None:
        self._phases, self._accounts = phases, accounts
        self.lose, self.update_begins, self.update_ends = phases.lose, phases.update_begins, phases.update_ends

    @property
    def on(self) -> bool:
        return self._phases.on and self._accounts.current == "train"


@final
class OptimizerPatches:
    """Has updates reported, until the patches are removed.

    Args:
        trainer: The Trainer.
        steps: Receives the updates.
        patches: Hold the hooks.
        failed: Called if an internal error was caught.
    """

    def __init__(self, trainer: Any, steps: StepHooks, patches: Patches, failed: Callable[[], None]) -> None:
        self._trainer, self._steps, self._patches, self._failed = trainer, steps, patches, failed
        self._accounts, self._repeats = steps.accounts, steps.repeats
        #: The strategy's list of optimizers as it was when they were hooked, and all that ever were.
        self.hooked: Any = None
        self._hooked: list[ref[Any]] = []
        #: Those that the script steps for itself, if it may.
        self._script: ScriptOptimizers | None = None
        #: Whether Lightning has none.
        self._unaided = False
        #: A number for each kind of optimizer at a place in the list.
        self._numbers: dict[Hashable, int] = {}

    @property
    def stale(self) -> bool:
        """Whether the strategy has others by now."""
        return self._trainer.strategy._optimizers is not self.hooked

    @property
    def own(self) -> list[Any]:
        """Those that the module steps for itself, as far as they are known."""
        return list(self._script.living) if self._script is not None else []

    def all(self) -> list[Any]:
        """The strategy's, and those that the module steps for itself."""
        return [*(each for each in self._trainer.strategy.optimizers if not _is_stand_in(each)), *self.own]

    def _notice(self, optimizer: Any, updates: tuple[int, ...], hooks: Patches) -> None:
        known = len(self._numbers)
        number = self._numbers.setdefault((updates, type(optimizer)), known)
        if number == known:
            self._steps.optimizer_came(optimizer)
        append = self._repeats.events.append

        def note() -> None:
            if self._updates_train():
                append(number)

        # It may be another one in each step, so what is put for one step comes too late.
        if (phases := self._steps.phases) is not None:
            time_updates(optimizer, hooks, _InTraining(phases, self._accounts))
        hook_optimizer_step(optimizer, note, hooks, apart=self._trainer.strategy.optimizers)

    def _updates_train(self) -> bool:
        """Whether an update at this moment is one of the training.

        An evaluation's is none, and neither is a callback's beside optimizers that Lightning has: a probe's.
        """
        current = self._accounts.current
        return current == "train" or (current == "other" and self._unaided)

    def hook(self) -> None:
        """Count the updates of the torch optimizers themselves: Lightning's `global_step` counts calls.

        A script may replace them in the midst of training: those in place of others of the same kind do the same
        work. One that was replaced stays hooked, as its step may be under way.
        """
        note = self._repeats.events.append
        self.hooked = self._trainer.strategy._optimizers
        optimizers = self._trainer.strategy.optimizers
        for place, optimizer in enumerate(optimizers):
            if not any(optimizer is there() for there in self._hooked) and not _is_stand_in(optimizer):
                self._hooked.append(ref(optimizer))
                number = self._numbers.setdefault((place, type(unwrap(optimizer))), len(self._numbers))
                hook_optimizer_step(optimizer, partial(note, number), self._patches, apart=optimizers)
        self._unaided = all(map(_is_stand_in, optimizers))
        if self._script is None:
            module, strategy = self._trainer.lightning_module, self._trainer.strategy
            self._script = ScriptOptimizers(
                module, lambda: strategy.optimizers, self._updates_train, self._notice, self._failed
            )
            self._script.install(self._patches)
            if not module.automatic_optimization or self._unaided:
                self._script.look()


def _is_stand_in(optimizer: Any) -> bool:
    """Whether Lightning made it, as `configure_optimizers` returned None."""
    return type(optimizer).__name__ == "_MockOptimizer"

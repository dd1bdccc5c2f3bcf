"""The step census: operators of training steps, counted once for each kind, some again at random; others repeat them.

The census only watches: every operator runs as it is, with the arguments it was given, and compiled code runs compiled.
A step that counting makes fail runs again without (`StepOpCounter.give_up`).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Self, final

import torch
from torch import nn

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.probes.context import Count, ProbeContext
from lightning_costs.probes.memory.storage_tracker import StepMemory, StorageTracker
from lightning_costs.probes.memory.tensors import storages, tensors_by_kind
from lightning_costs.probes.opcount.counting import (
    DISCARDED,
    FEW_KINDS,
    MOST_CENSUSES,
    MOST_IN_TURN,
    OUTSIDE,
    PLACE,
    OpCounting,
    Quantity,
    StepOpCounts,
    compiled_parts,
    counted,
    force_eager,
    may_compile,
    weighted,
)
from lightning_costs.probes.opcount.feature_model import Vector
from lightning_costs.probes.opcount.mode import OpCounterMode
from lightning_costs.probes.opcount.module_calls import ModuleCallRecorder
from lightning_costs.probes.opcount.step_kinds import PendingKinds, StepKind
from lightning_costs.probes.opcount.strata import Estimate
from lightning_costs.probes.opcount.stratum import Stratum
from lightning_costs.probes.opcount.triton_launches import watch_triton_launches
from lightning_costs.probes.parameters import in_shards, repeated_blocks
from lightning_costs.probes.repeat_steps import compiled_graphs
from lightning_costs.records.missing import Missing, type_only
from lightning_costs.records.step_profile import ClassKey, StepProfile, classes_of


@final
class StepOpCounter(OpCounting):
    """Counts a step of each kind when it is new, and some again at random; other steps are tallied, one addition each.

    The work of a step is known only when it is done: a GAN trains one network on this batch and the other on the
    next, of the same shapes. So a step is entered by what is known before (`key`: shapes, position in the
    accumulation). It is booked by what is known after: which optimizers stepped, how many backward passes, nodes of
    autograd. A kind that was booked but not counted yet waits, and the steps that follow are counted until it is
    known. One that differs by its nodes alone waits for a few steps, and for its next turn if it comes in turn.

    Memory of the very first step does not include the optimizer's state, which its end makes: keys counted then are
    followed once more after it. So is a counted step that finds more weights, gradients and state than any followed
    one did: another model's optimizer has made its state by then, or a layer is no longer frozen.
    """

    def __init__(
        self,
        module: nn.Module | None = None,
        optimizers: Callable[[], Sequence[Any]] = tuple,
        device: torch.device | None = None,
        count: Count = "auto",
        busy_s: Callable[[], float] | None = None,
        work_s: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(module, count, busy_s, work_s)
        self._optimizers, self._device = optimizers, device
        self._graphs = compiled_graphs()
        self._last: tuple[Hashable, Stratum[StepOpCounts] | None, Vector] | None = None
        self._held: list[Stratum[StepOpCounts] | None] = []
        self._content: Hashable = None
        self._seen: set[Hashable] = set()
        self._classes: dict[Hashable, Mapping[tuple[ClassKey, str], int]] = {}
        self._again: set[Hashable] = set()
        #: Most bytes of weights, gradients and state that a followed step found.
        self._found_bytes = -1
        self._waiting = PendingKinds()
        #: Steps that were counted as their kind was new.
        self._new = 0
        #: Steps that were counted in turn.
        self._turns = 0
        #: What the step in work was entered by.
        self._entered: Hashable = None
        #: What the last step's work was, and with which keys each work was looked for.
        self._work: Hashable = None
        self._looked_for: set[tuple[Hashable, Hashable]] = set()
        self._drawn = False
        #: At how many counts it was judged whether the total is precise enough, and whether it was.
        self._judged = (0, False)
        self._fresh: StepOpCounts | None = None
        self._lost = 0
        self._updated = False
        self._following: StorageTracker | None = None
        self._watch: OpCounterMode | None = None
        #: Memory inside counted steps: those after the first update, if there are any.
        self.memory: StepMemory | None = None
        #: Whether only steps before the first update were followed: the optimizer's state is not in them.
        self.memory_is_early = True
        self._first_kind: Hashable = None
        #: The first counted step.
        self.first: StepOpCounts | None = None
        #: Operators that no formula covers; the counts are lower bounds if there are any.
        self.missing_formulas: tuple[str, ...] = ()
        self._products = False
        #: Whether compiled code ran in a counted step: of its own kernels nothing is known but that they ran.
        self.compiled = False
        #: Whether a product of a counted step ran on shards of DTensors: this rank runs a part of the model.
        self.sharded = False
        #: Module calls of the first counted forward pass.
        self.calls: ModuleCallRecorder | None = None
        #: Whether the first counted forward pass should leave an example to repeat.
        self.keep_example = False

    @classmethod
    def attach(cls, setting: ProbeContext) -> Self:
        """A census for the module in training."""
        if setting.module is None:
            raise Missing("no module was given: nothing to count operators of")
        accounts = setting.accounts
        busy_s, work_s = (accounts.train_s, accounts.work_s) if accounts is not None else (None, None)
        # Optimizers may be wrapped later.
        return cls(setting.module, lambda: setting.optimizers(), setting.device, setting.count, busy_s, work_s)

    # Counting -----------------------------------------------------------------------------------------------

    def should_count(self, key: Hashable) -> bool:
        """Whether the step about to begin should be counted."""
        if key is self._content and self.batches < self._next:
            return False
        if self.failed is not None:
            return False
        self._entered = key
        self._drawn = self._is_drawn()
        new = key not in self._seen or (key, self._work) not in self._looked_for  # another fold, another optimizer
        wanted = (
            self._drawn
            or (self._updated and key in self._again)
            or (new and self._counts_new)
            or self._is_due()
            or self._seeks
        )
        if wanted:
            return self._can_count()
        self._content = key if self._updated else None
        return False

    def _is_due(self) -> bool:
        """Whether a kind is due that comes in turn: a few are counted whatever that takes."""
        if self.batches != self._waiting.due(self.batches):
            return False
        if self._waiting.in_turn and self._turns < MOST_IN_TURN:
            self._turns += 1
            return True
        return self._has_time

    @property
    def _counts_new(self) -> bool:
        """Whether a kind is counted for being new: any of a few, and those of a long tail if there is time for it."""
        if self._new < min(FEW_KINDS, MOST_CENSUSES):
            return True
        return self._new < MOST_CENSUSES and self._has_time

    @property
    def _has_time(self) -> bool:
        """Whether one more count is within what counting may take."""
        return self._draws.left_s(self._busy_s(), self.step_s) >= 0

    @property
    def _seeks(self) -> bool:
        """Whether steps like the last one are counted until one is of a kind that waits."""
        awaited = self._waiting.may_be_next(self._entered)
        if awaited == "new":
            return self._counts_new
        return awaited == "varied" and self._has_time and not self._is_precise()

    def _is_precise(self) -> bool:
        """Whether the total is within 2 % without counts of the kinds that wait; judged after each count."""
        counted = self._strata.counted
        if self._judged[0] != counted:
            self._judged = counted, 0 < self._strata.wanted(PLACE["flop"]) < counted
        return self._judged[1]

    @property
    def _next(self) -> int:
        """The next batch that may have to be counted, as far as it is known."""
        if self._waiting and self._seeks:
            return self.batches
        due = self._waiting.due(self.batches)
        return self._draws.at if due is None else min(due, self._draws.at)

    @contextmanager
    def counting(self, key: Hashable, samples: int | None = None, *, follow: bool = True) -> Iterator[None]:
        """Count the step inside; a step that raises counts for nothing."""
        self._fresh = None
        calls = watch = follows = classes = None
        stack = ExitStack()
        try:
            if self.calls is None and self._module is not None and self._may_watch_calls():
                calls = ModuleCallRecorder(self._module, keep_example=self.keep_example, samples=samples)
            found_bytes = self._bytes_at_rest() if follow else 0
            if follow and (key not in self._seen or key in self._again or found_bytes > self._found_bytes):
                follows = self._follow()  # of a step like one followed before, counts are enough
                self._found_bytes = max(self._found_bytes, found_bytes)
            # Steps of a kind have the same classes of operators; only predictions need these, and a third of the cost.
            classes = self._classes.get(key) if self._updated else None
            watch = OpCounterMode(
                weights=self._module.parameters() if self._module is not None else (),
                lifetimes=follows,
                classifies=classes is None,
                first_backward=calls.stop if calls is not None else None,
                update_begins=self.refresh_kinds,  # a loop may drop its gradients inside the step
                gathered=self._module.parameters if self._module is not None and in_shards(self._module) else None,
            )
            stack.enter_context(force_eager() if self._eager else nullcontext())
            stack.enter_context(calls or nullcontext())
            stack.enter_context(watch_triton_launches(watch.launched))
            stack.enter_context(watch)
        except Exception as error:  # noqa: BLE001 - whatever the tensors are, the user's step continues
            stack.close()
            reraise_from_signal(error)
            self.failed = type_only("a step could not be watched", error)
            watch = None
        self.censuses += 1
        if watch is None:
            yield
            return
        self._stack, self._following, self._watch = stack, follows, watch
        try:
            yield
            self.refresh_kinds()
        finally:
            gave_up = self._stack is None
            self._stack = self._following = self._watch = None
            stack.close()
            memory = follows.close() if follows is not None else None
        if gave_up:
            return
        if not self._drawn:
            self._new += key not in self._seen or self._waiting.for_new
        self._seen.add(key)
        self._looked_for.add((key, self._work))
        if watch.failed is not None:
            self.failed = watch.failed
        self.sharded = self.sharded or watch.sharded
        if calls is not None:
            self.calls = calls
        if self._runs_compiled(watch):
            self.compiled = True  # storages of compiled code are made and dropped unseen
            self.memory = None
        elif memory is not None:
            self._remember(key, memory)
        fresh = counted(watch, samples)
        classes = fresh.classes if classes is None else classes
        if self.first is not None and classes == self.first.classes:  # many counts share one table
            classes = self.first.classes
        self._fresh = replace(fresh, classes=classes)
        if self._updated:
            self._classes[key] = classes

    def knows(self, key: Hashable) -> bool:
        """Whether a step of this key was counted."""
        return key in self._seen

    def _may_watch_calls(self) -> bool:
        """Whether no code is compiled in the step: torch.compile would trace what watches calls into the user's graph.

        Where something else in the process is compiled, a counted step has to show that this training is not.
        """
        if self._eager or not may_compile(self._module):
            return True
        return self.censuses > 0 and not self.compiled and not compiled_parts(self._module)

    def _runs_compiled(self, watch: OpCounterMode) -> bool:
        if self._eager:
            return False
        return self.compiled or watch.compiled or compiled_graphs() != self._graphs or compiled_parts(self._module)

    def give_up(self, error: Exception) -> bool:
        """As `OpCounting.give_up`; what follows storages stops too."""
        gave_up = super().give_up(error)
        if gave_up:
            self._following = self._watch = None
        return gave_up

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What runs inside is none of the step's work: other steps of its kind do not repeat it."""
        watch = self._watch
        if watch is None or watch.away:
            yield
            return
        watch.away = True
        try:
            yield
        finally:
            watch.away = False

    def _follow(self) -> StorageTracker | None:
        if self._module is None or self._device is None:
            return None
        follows = StorageTracker(self._device, allocator(self._device))
        follows.track("other", self._module.buffers())
        self._hold(follows)
        return follows

    def _bytes_at_rest(self) -> int:
        if self._module is None or self._device is None:
            return 0
        kinds = tensors_by_kind(self._module, self._optimizers())
        held = {storage._cdata: storage.nbytes() for _, tensors in kinds for storage in storages(tensors)}
        return sum(held.values())

    def _hold(self, follows: StorageTracker) -> None:
        assert self._module is not None
        for kind, tensors in tensors_by_kind(self._module, self._optimizers()):
            follows.track(kind, tensors)

    def refresh_kinds(self) -> None:
        """Inside a counted step: what is a gradient or a state now is known as one from here on."""
        if self._following is None:
            return
        try:
            self._hold(self._following)
        except Exception as error:  # noqa: BLE001 - as above
            reraise_from_signal(error)
            self._following, self.failed = None, type_only("reading memory inside a counted step failed", error)

    def _remember(self, key: Hashable, memory: StepMemory) -> None:
        early = not self._updated
        if early:
            self._again.add(key)
        else:
            self._again.discard(key)
        if self.memory is None or (self.memory_is_early and not early):
            self.memory = memory
        elif self.memory_is_early == early:
            self.memory = self.memory.joined(memory)
        self.memory_is_early = self.memory_is_early and early

    # Booking ------------------------------------------------------------------------------------------------

    def record_batch(self, kind: Hashable) -> bool:
        """Add a batch's work to the totals: `kind` is everything that decides how much it was.

        Args:
            kind: A `StepKind`, or anything else; None if nothing is known of the batch.

        Returns:
            Whether the work is known; if not, it is added as soon as a step of the kind was counted.
        """
        self.batches += 1
        last, fresh = self._last, self._fresh
        if last is not None and last[0] is kind and fresh is None:
            _, stratum, features = last
        elif kind is None:
            self._lost += 1
            return False
        else:
            features = kind.features if isinstance(kind, StepKind) else (1.0,)
            stratum = self._strata.stratum(kind, features)
            self._last = (kind, stratum, features)
        self._strata.book(stratum, features)
        self._held.append(stratum)
        if fresh is not None:
            self._fresh = None
            self._strata.count(stratum, fresh, features=features, drawn=self._drawn)
            if self.first is None:
                self.first, self._first_kind = fresh, kind
            self._products = self._products or fresh.step.flop > 0
            if fresh.uncounted.keys() - set(self.missing_formulas):
                self.missing_formulas = tuple(sorted({*self.missing_formulas, *fresh.uncounted}))
        if stratum is None:
            return False
        known = bool(stratum.counts)
        self._work = kind.work if isinstance(kind, StepKind) else None
        if known:
            self._looked_for.add((self._entered, self._work))
        self._waiting.came(kind, self._entered, self.batches - 1, known=known, counted=fresh is not None)
        return known

    @property
    def repeatable(self) -> bool:
        """Whether the batch booked last was of a known kind, and none waits to be counted."""
        last = self._last
        return last is not None and last[1] is not None and bool(last[1].counts) and not self._seeks

    @property
    def quiet(self) -> int:
        """Batches like the last one that may follow before one that may have to be counted."""
        return max(0, self._next - self.batches) if self.failed is None else sys.maxsize

    def repeat(self, n: int) -> None:
        """Book and settle `n` more batches like the last one, outside warm-up."""
        assert self._last is not None, "repeatable comes before repeat"
        _, stratum, features = self._last
        self.batches += n
        self._strata.book(stratum, features, n, n)

    def commit(self, *, steady: bool) -> None:
        """A step is complete: its batches count for the rates, or were warm-up."""
        if steady:
            for stratum in self._held:
                self._strata.steady(stratum)
        self._held.clear()
        if not self._updated:
            self._updated, self._content = True, None

    # What is known ------------------------------------------------------------------------------------------

    def total(self, quantity: Quantity, *, steady: bool = False) -> float:
        """A quantity over all batches so far; `steady` for those outside warm-up. Exact where counts agree."""
        return self._strata.total(PLACE[quantity], steady=steady)

    def typical(self, quantity: Quantity) -> Estimate | None:
        """A quantity of one batch of the first counted one's shapes: the mean over those, openings of epochs apart."""
        kind, place = self._first_kind, PLACE[quantity]
        if not isinstance(kind, StepKind):
            return self._strata.mean(place, lambda other: other == kind)

        def alike(other: Hashable) -> bool:
            return isinstance(other, StepKind) and other.signature == kind.signature

        usual = self._strata.mean(place, lambda other: alike(other) and not other.moment)  # type: ignore[attr-defined]
        return usual or self._strata.mean(place, alike)

    @property
    def flop_by_dtype(self) -> Counter[str]:
        """Floating-point operations so far by number format, in counted kinds of batches."""
        return weighted(self._strata, lambda count: count.flop_by_dtype)

    def profile(self) -> StepProfile | None:
        """What a batch does by class of operator, the mean over those counted; None if none was."""
        totals = weighted(self._strata, lambda count: count.classes)
        batches = sum(stratum.batches for stratum in self._strata if stratum.counts)
        if not totals or not batches or self.first is None:
            return None
        memory, calls = self.memory, self.calls
        return StepProfile(
            classes=classes_of(totals, batches),
            samples=self.first.samples or 0,
            memory=memory.phases_by_name() if memory is not None else {},
            resting_bytes=memory.resting_bytes if memory is not None else 0,
            compiled=self.compiled,
            device=self._device.type if self._device is not None else "cpu",
            **repeated_blocks(self._module, calls.given_bytes if calls is not None else {}),
        )

    @property
    def waiting(self) -> int:
        """Batches of which nothing is known that could be counted, or all of them before any was."""
        return self._lost if self._strata.counted else self.batches

    @property
    def predicted(self) -> int:
        """Batches of kinds that were never counted."""
        return sum(stratum.batches for stratum in self._strata.unknown.values()) + self._strata.rest

    @property
    def why_none(self) -> str:
        """Why batches were not counted, for people."""
        return DISCARDED if self.censuses and not self.counted else OUTSIDE

    @property
    def saw_no_products(self) -> bool:
        """Whether steps were counted and none showed a product: a replayed graph, or a model without any."""
        return self.first is not None and not self._products


def allocator(device: torch.device) -> Callable[[], tuple[int, int]] | None:
    """Reads a CUDA device's allocator: bytes in tensors now, and the most so far; no counter is reset."""
    if device.type != "cuda":
        return None

    def read() -> tuple[int, int]:
        in_use = torch.cuda.memory_stats_as_nested_dict(device)["allocated_bytes"]["all"]
        return in_use["current"], in_use["peak"]

    return read

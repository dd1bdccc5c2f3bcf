"""The step census: operators of one real training step counted per new input signature, reused by all others.

The census only watches: every operator runs as it is, with the arguments it was given, and compiled code runs compiled.
A step that counting makes fail runs again without (`StepCensus.give_up`).
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Self, cast, final

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_costs.core.harmless import raised_on_purpose
from lightning_costs.core.indicator import Missing
from lightning_costs.core.missing import type_only
from lightning_costs.probes.calls import ModuleCalls
from lightning_costs.probes.kernels import launches
from lightning_costs.probes.lifetimes import Lifetimes, StepMemory
from lightning_costs.probes.operators import Tally, Watch
from lightning_costs.probes.parameters import in_shards
from lightning_costs.probes.setting import Count, Setting
from lightning_costs.probes.stride import compiled_graphs
from lightning_costs.probes.tensors import held

_log = logging.getLogger("lightning_costs")

#: After so many different signatures no more are counted: a stream of ever-new lengths must stay cheap.
MOST_CENSUSES = 64

Quantity = Literal["flop", "recomputed_flop", "mac", "access_bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCount:
    """Operators of one batch's work.

    Args:
        step: All of it: forward, backward, update.
        forward: The first forward pass of it.
        flop_by_dtype: Floating-point operations by the number format that the operators were given.
        uncounted: Calls of operators that no formula covers, by operator.
        samples: Samples in the batch; None where it does not tell.
    """

    step: Tally
    forward: Tally
    flop_by_dtype: Mapping[str, int]
    uncounted: Mapping[str, int]
    samples: int | None


def eager() -> AbstractContextManager[None]:
    """Compiled modules run eagerly inside; nothing is imported where nothing was compiled."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):  # torch below 2.6
        return nullcontext()
    return cast("AbstractContextManager[None]", torch.compiler.set_stance("force_eager"))


#: Why steps are not counted, for people.
OFF = "counting is off (count='off', or LIGHTNING_COSTS_COUNT=0)"
UNSEEN = (
    "compiled code ran, and what its kernels read, write and hold is not seen: count='eager' runs counted steps "
    "eagerly instead, which changes last digits"
)
_OLD_TORCH = (
    f"torch {torch.__version__} cannot count compiled code as it runs: a later one does "
    "(seen on 2.13), or count='eager' lets counted steps run eagerly, which changes last digits"
)
_GAVE_UP = (
    "a step raised {} while its operators were counted, and none is counted since: count='off' or "
    "LIGHTNING_COSTS_COUNT=0 trains without counting"
)


def compiled_parts(module: nn.Module | None) -> bool:
    """Whether parts of a module are compiled, by `torch.compile(part)` or `part.compile()`."""
    return module is not None and any(
        type(part).__name__ == "OptimizedModule" or getattr(part, "_compiled_call_impl", None) is not None
        for part in module.modules()
    )


def may_compile(module: nn.Module | None) -> bool:
    """Whether a step may run compiled code: parts of the module are compiled, or anything else in this process is."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is None:
        return False
    backends = getattr(dynamo, "cached_backends", {})
    return any(backend is not None for backend in backends.values()) or compiled_parts(module)


def runs_as_ever(module: nn.Module | None) -> bool:
    """Whether torch runs compiled code as it would without us while its operators are watched, or there is none."""
    return hasattr(TorchDispatchMode, "ignore_compile_internals") or not may_compile(module)


@final
class _Booked:
    """Batches of one kind: how many, how many of them outside warm-up, and how many the totals have."""

    __slots__ = ("added", "batches", "count", "steady", "steady_added")

    def __init__(self) -> None:
        self.count: StepCount | None = None
        self.batches = self.steady = self.added = self.steady_added = 0


class _Counting:
    """What both censuses share: whether they may count, and how they stop in the midst of it.

    Args:
        module: What is trained.
        count: How operators are counted.
    """

    def __init__(self, module: nn.Module | None, count: Count) -> None:
        self._module, self._eager = module, count == "eager"
        self._stack: ExitStack | None = None
        #: Why nothing is counted.
        self.failed: str | None = OFF if count == "off" else None

    def _can_count(self) -> bool:
        """Whether the user's step runs as ever while it is counted."""
        if not self._eager and not runs_as_ever(self._module):
            self.failed = _OLD_TORCH
        return self.failed is None

    @property
    def is_counting(self) -> bool:
        """Whether work is being counted."""
        return self._stack is not None

    def give_up(self, error: Exception) -> bool:
        """Work that is being counted raised: count no more, neither in it nor later.

        Returns:
            Whether it was being counted and may have failed for that: then it can be tried without.
        """
        stack, self._stack = self._stack, None
        if stack is None or raised_on_purpose(error):
            return False
        stack.close()
        self.failed = _GAVE_UP.format(type(error).__name__)
        _log.warning("%s", self.failed, exc_info=error)
        return True


@final
class StepCensus(_Counting):
    """Counts a step once per kind, then remembers; other steps are tallied, one addition a batch.

    What a step will do is known only when it is done: a GAN trains one network on this batch and the other on the
    next, of the same shapes. So a step is entered by what is known before (`key`: shapes, position in the
    accumulation) and booked by what is known after (which optimizers stepped, how many backward passes). A kind
    that was booked but not counted yet waits, and the steps that follow are counted until it is known.

    Memory of the very first step lacks the optimizer's state, which its end makes: keys counted then are followed
    once more after it, for memory alone.

    Args:
        module: What is trained; without it nothing is said of memory and module calls.
        optimizers: Returns the optimizers.
        device: Where memory is followed.
        count: 'auto'; 'eager' where compiled code is to run eagerly in counted steps; 'off' counts nothing.
    """

    def __init__(
        self,
        module: nn.Module | None = None,
        optimizers: Callable[[], Sequence[Any]] = tuple,
        device: torch.device | None = None,
        count: Count = "auto",
    ) -> None:
        super().__init__(module, count)
        self._optimizers, self._device = optimizers, device
        self._graphs = compiled_graphs()
        self._kinds: dict[Hashable, _Booked] = {}
        self._last: tuple[Hashable, _Booked] | None = None
        self._held: list[_Booked] = []
        self._changed: set[_Booked] = set()
        self._totals: Counter[Quantity] = Counter()
        self._steady_totals: Counter[Quantity] = Counter()
        self._flop_by_dtype: Counter[str] = Counter()
        self._uncounted: Counter[str] = Counter()
        self._content: Hashable = None
        self._seen: set[Hashable] = set()
        self._again: set[Hashable] = set()
        self._unknown: set[Hashable] = set()
        self._fresh: StepCount | None = None
        self._lost = 0
        self._updated = False
        self._following: Lifetimes | None = None
        self._watch: Watch | None = None
        self._memory: StepMemory | None = None
        self._memory_is_early = True
        self.censuses = 0
        self.batches = 0
        #: The first counted step.
        self.first: StepCount | None = None
        #: Operators that no formula covers; the counts are lower bounds where there are any.
        self.lacking: tuple[str, ...] = ()
        self._products = False
        #: Whether compiled code ran in a counted step: of its own kernels nothing is known but that they ran.
        self.compiled = False
        #: Module calls of the first counted forward pass.
        self.calls: ModuleCalls | None = None
        #: Whether the first counted forward pass should leave an example to repeat.
        self.keep_example = False

    @classmethod
    def attach(cls, setting: Setting) -> Self:
        """A census for the module in training."""
        if setting.module is None:
            raise Missing("no module was given: nothing to count operators of")
        # Optimizers may be wrapped later.
        return cls(setting.module, lambda: setting.optimizers(), setting.device, setting.count)

    def detach(self) -> None:
        """Nothing is held."""

    # Counting -----------------------------------------------------------------------------------------------

    def wants(self, key: Hashable) -> bool:
        """Whether the step about to begin should be counted."""
        if key is self._content and not self._unknown:
            return False
        if self.censuses >= MOST_CENSUSES or self.failed is not None:
            return False
        if self._unknown or key not in self._seen or (self._updated and key in self._again):
            return self._can_count()
        self._content = key if self._updated else None
        return False

    @contextmanager
    def counting(self, key: Hashable, samples: int | None = None) -> Iterator[None]:
        """Count the step inside; a step that raises counts for nothing.

        Args:
            key: What is known of the step before it.
            samples: Samples in its batch.
        """
        self._fresh = None
        counts = key not in self._again or bool(self._unknown)
        calls = watch = follows = None
        stack = ExitStack()
        try:
            if self.calls is None and self._module is not None and self._may_watch_calls():
                calls = ModuleCalls(self._module, keep_example=self.keep_example)
            follows = self._follow()
            watch = Watch(
                weights=self._module.parameters() if self._module is not None else (),
                lifetimes=follows,
                first_backward=calls.stop if calls is not None else None,
                counts=counts,
                gathered=self._gathered(),
            )
            stack.enter_context(eager() if self._eager else nullcontext())
            stack.enter_context(calls or nullcontext())
            stack.enter_context(launches(watch.launched))
            stack.enter_context(watch)
        except Exception as error:  # noqa: BLE001 - whatever the tensors are, the user's step goes on
            self.failed = type_only("a step could not be watched", error)
            watch = None
            stack.close()
        self.censuses += 1
        if watch is None:
            yield
            return
        self._stack, self._following, self._watch = stack, follows, watch
        try:
            yield
            self.look()
        finally:
            gave_up = self._stack is None
            self._stack = self._following = self._watch = None
            stack.close()
            memory = follows.close() if follows is not None else None
        if gave_up:
            return
        self._seen.add(key)
        if watch.failed is not None:
            self.failed = watch.failed
        if calls is not None:
            self.calls = calls
        if self._runs_compiled(watch):
            self.compiled = True  # storages of compiled code are made and dropped unseen
            self._memory = None
        elif memory is not None:
            self._remember(key, memory)
        if counts:
            self._fresh = StepCount(
                step=watch.step,
                forward=watch.forward if watch.forward is not None else watch.step,
                flop_by_dtype=dict(watch.flop_by_dtype),
                uncounted=dict(watch.uncounted),
                samples=samples,
            )

    def _may_watch_calls(self) -> bool:
        """Whether no code is compiled in the step: torch.compile would trace what watches calls into the user's graph.

        Where something else in the process is compiled, a counted step has to show that this training is not.
        """
        if self._eager or not may_compile(self._module):
            return True
        return self.censuses > 0 and not self.compiled and not compiled_parts(self._module)

    def _runs_compiled(self, watch: Watch) -> bool:
        if self._eager:
            return False
        return self.compiled or watch.compiled or compiled_graphs() != self._graphs or compiled_parts(self._module)

    def give_up(self, error: Exception) -> bool:
        """As `_Counting.give_up`; what follows storages stops too."""
        gave_up = super().give_up(error)
        if gave_up:
            self._following = self._watch = None
        return gave_up

    def _gathered(self) -> Callable[[], Iterable[torch.Tensor]] | None:
        return self._module.parameters if self._module is not None and in_shards(self._module) else None

    @contextmanager
    def looking_away(self) -> Iterator[None]:
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

    def _follow(self) -> Lifetimes | None:
        if self._module is None or self._device is None:
            return None
        follows = Lifetimes(self._device, allocator(self._device))
        follows.hold("other", self._module.buffers())
        self._hold(follows)
        return follows

    def _hold(self, follows: Lifetimes) -> None:
        assert self._module is not None
        for kind, tensors in held(self._module, self._optimizers()):
            follows.hold(kind, tensors)

    def look(self) -> None:
        """Inside a counted step: what is a gradient or a state now is known as one from here on."""
        if self._following is None:
            return
        try:
            self._hold(self._following)
        except Exception as error:  # noqa: BLE001 - as above
            self._following, self.failed = None, type_only("a look inside a counted step failed", error)

    def _remember(self, key: Hashable, memory: StepMemory) -> None:
        early = not self._updated
        if early:
            self._again.add(key)
        else:
            self._again.discard(key)
        if self._memory is None or (self._memory_is_early and not early):
            self._memory = memory
        elif self._memory_is_early == early:
            self._memory = self._memory.joined(memory)
        self._memory_is_early = self._memory_is_early and early

    # Booking ------------------------------------------------------------------------------------------------

    def book(self, kind: Hashable) -> bool:
        """Add a batch's work to the totals: `kind` is everything that decides how much it was.

        Returns:
            Whether the work is known; if not, it is added as soon as a step of the kind was counted.
        """
        self.batches += 1
        last = self._last
        if last is not None and last[0] is kind and self._fresh is None:
            booked = last[1]
        else:
            found = self._entry(kind)
            if found is None:
                self._lost += 1  # not remembered by kind: a stream of ever-new lengths must not grow
                return False
            booked = found
            self._last = (kind, booked)
        booked.batches += 1
        self._held.append(booked)
        self._changed.add(booked)
        return booked.count is not None

    @property
    def repeatable(self) -> bool:
        """Whether the batch booked last was of a known kind, and none waits to be counted."""
        return self._last is not None and self._last[1].count is not None and not self._unknown

    def repeat(self, n: int) -> None:
        """Book and settle so many batches more like the last one, outside warm-up."""
        assert self._last is not None, "repeatable comes before repeat"
        booked = self._last[1]
        self.batches += n
        booked.batches += n
        booked.steady += n
        self._changed.add(booked)

    def _entry(self, kind: Hashable) -> _Booked | None:
        """The batches of a kind, with its count where a step was counted just now; None where no more are kept."""
        booked = self._kinds.get(kind)
        fresh, self._fresh = self._fresh, None
        if booked is None:
            if fresh is None and self.exhausted:
                return None
            booked = self._kinds[kind] = _Booked()
        if booked.count is None:
            if fresh is None:
                self._unknown.add(kind)
                return booked
            booked.count = fresh
            self._unknown.discard(kind)
            self.first = self.first or fresh
            self._products = self._products or fresh.step.flop > 0
        return booked

    def settle(self, *, steady: bool) -> None:
        """A step is complete: its batches count for the rates, or were warm-up."""
        if steady:
            for booked in self._held:
                booked.steady += 1
            self._changed.update(self._held)
        self._held.clear()
        if not self._updated:
            self._updated, self._content = True, None

    # What is known ------------------------------------------------------------------------------------------

    def total(self, quantity: Quantity, *, steady: bool = False) -> int:
        """A quantity over all batches so far whose work is known; `steady` for those outside warm-up."""
        if self._changed:
            self._add_up()
        return (self._steady_totals if steady else self._totals)[quantity]

    def _add_up(self) -> None:
        """Add to the totals what was booked since: only kinds that changed are looked at."""
        waiting = set()
        for booked in self._changed:
            count = booked.count
            if count is None:
                waiting.add(booked)
                continue
            new, booked.added = booked.batches - booked.added, booked.batches
            new_steady, booked.steady_added = booked.steady - booked.steady_added, booked.steady
            step, totals, steady = count.step, self._totals, self._steady_totals
            totals["flop"] += new * step.flop
            totals["recomputed_flop"] += new * step.recomputed_flop
            totals["mac"] += new * step.mac
            totals["access_bytes"] += new * step.access_bytes
            steady["flop"] += new_steady * step.flop
            steady["recomputed_flop"] += new_steady * step.recomputed_flop
            steady["mac"] += new_steady * step.mac
            steady["access_bytes"] += new_steady * step.access_bytes
            for dtype, flop in count.flop_by_dtype.items():
                self._flop_by_dtype[dtype] += new * flop
            for name, calls in count.uncounted.items():
                self._uncounted[name] += new * calls
        self._changed = waiting
        if len(self._uncounted) != len(self.lacking):
            self.lacking = tuple(sorted(self._uncounted))

    @property
    def flop_by_dtype(self) -> Counter[str]:
        """Floating-point operations so far by number format."""
        if self._changed:
            self._add_up()
        return self._flop_by_dtype

    @property
    def waiting(self) -> int:
        """Batches whose kind has not been counted yet."""
        return self._lost + sum(self._kinds[kind].batches for kind in self._unknown)

    @property
    def exhausted(self) -> bool:
        """Whether no more steps will be counted."""
        return self.censuses >= MOST_CENSUSES

    @property
    def blind(self) -> bool:
        """Whether steps were counted and none showed a product: a replayed graph, or a model without any."""
        return self.first is not None and not self._products

    @property
    def uncounted(self) -> Mapping[str, int]:
        """Calls so far of operators that have no formula: the counts are lower bounds where there are any."""
        if self._changed:
            self._add_up()
        return self._uncounted

    @property
    def memory(self) -> StepMemory | None:
        """Memory inside counted steps: those after the first update, where there are any."""
        return self._memory

    @property
    def memory_is_early(self) -> bool:
        """Whether only steps before the first update were followed: the optimizer's state is not in them."""
        return self._memory_is_early


def allocator(device: torch.device) -> Callable[[], tuple[int, int]] | None:
    """Reads a CUDA device's allocator: bytes in tensors now, and the most so far; no counter is reset."""
    if device.type != "cuda":
        return None

    def read() -> tuple[int, int]:
        in_use = torch.cuda.memory_stats_as_nested_dict(device)["allocated_bytes"]["all"]
        return in_use["current"], in_use["peak"]

    return read


@final
class EvaluationCensus(_Counting):
    """Operators of evaluation batches: each shape counted once, at its first batch."""

    def __init__(self, module: nn.Module | None = None, count: Count = "auto") -> None:
        super().__init__(module, count)
        self._counts: dict[Hashable, tuple[int, Mapping[str, int]]] = {}
        self._tally: Counter[Hashable] = Counter()
        self._told: Hashable = None
        self.batches = 0
        #: Batches whose work is not known.
        self.unknown = 0

    @classmethod
    def attach(cls, setting: Setting) -> Self:
        """A census for the module in training."""
        if setting.module is None:
            raise Missing("no module was given: nothing to count operators of")
        return cls(setting.module, setting.count)

    def detach(self) -> None:
        """Nothing is held."""

    def before(self, key: Hashable) -> AbstractContextManager[None] | None:
        """A batch is about to be evaluated.

        Args:
            key: Its shapes and its loader; None where it has no tensors.

        Returns:
            What to enter around it where it is to be counted.
        """
        self.batches += 1
        self._told = key
        if key in self._counts:
            self._tally[key] += 1
            return None
        if key is None or len(self._counts) >= MOST_CENSUSES or not self._can_count():
            self.unknown += 1
            return None
        return self._counting(key)

    @contextmanager
    def _counting(self, key: Hashable) -> Iterator[None]:
        watch = Watch()
        self.unknown += 1  # until it is over
        with ExitStack() as stack:
            stack.enter_context(eager() if self._eager else nullcontext())
            stack.enter_context(launches(watch.launched))
            stack.enter_context(watch)
            self._stack = stack
            try:
                yield
            finally:
                gave_up, self._stack = self._stack is None, None
        if watch.failed is None and not gave_up:
            self._counts[key] = (watch.step.flop, dict(watch.uncounted))
            self._tally[key] += 1
            self.unknown -= 1

    def left(self) -> None:
        """The batch told last was fetched and left: nothing was done on it."""
        self.batches -= 1
        if self._told in self._counts:
            self._tally[self._told] -= 1
            if not self._tally[self._told]:
                del self._counts[self._told]  # it was counted at nothing
        else:
            self.unknown -= 1

    @property
    def flop(self) -> int:
        """Floating-point operations so far."""
        return sum(flop * self._tally[key] for key, (flop, _) in self._counts.items())

    @property
    def uncounted(self) -> Mapping[str, int]:
        """Calls so far of operators that have no formula."""
        total: Counter[str] = Counter()
        for key, (_, uncounted) in self._counts.items():
            for name, calls in uncounted.items():
                total[name] += calls * self._tally[key]
        return total

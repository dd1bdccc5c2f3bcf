"""What counters of steps and of evaluation share: whether they may count, and the counts of one batch."""

from __future__ import annotations

import logging
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_costs.patching.fail_safe import raised_on_purpose
from lightning_costs.probes.clock import now_s
from lightning_costs.probes.context import Count
from lightning_costs.probes.opcount.collectives import Collective
from lightning_costs.probes.opcount.feature_model import Vector
from lightning_costs.probes.opcount.mode import OpCounterMode, OpCounts
from lightning_costs.probes.opcount.sampling import RecountSchedule
from lightning_costs.probes.opcount.step_kinds import at_any_moment, of_any_size
from lightning_costs.probes.opcount.strata import Estimate, Strata
from lightning_costs.probes.opcount.stratum import Stratum
from lightning_costs.records.step_profile import ClassKey

_log = logging.getLogger("lightning_costs")

K = TypeVar("K")
#: The number of kinds after which no more are counted for being new: a stream of new lengths must stay cheap.
MOST_CENSUSES = 64
#: The number of kinds that are counted whatever it takes; of a longer tail, new ones keep to what counting may take.
FEW_KINDS = 8
#: The number of batches that are counted whatever it takes as a kind is due that comes in turn.
MOST_IN_TURN = 4
#: The number of batches between two counts from which their mean length is known.
FOR_A_MEAN = 8

Quantity = Literal[
    "flop",
    "recomputed_flop",
    "mac",
    "access_bytes",
    "calls",
    "forward_flop",
    "forward_mac",
    "forward_elements",
    "comm_bytes",
]
#: Where each stands in `StepOpCounts.values`.
PLACE: dict[Quantity, int] = {quantity: place for place, quantity in enumerate(get_args(Quantity))}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOpCounts:
    """Operators of one batch's work, forward, backward and update, and of the first forward pass of it.

    `uncounted` are calls of operators that no formula covers, by operator; `flop_by_dtype` goes by the number format
    that operators were given; `communication` are bytes by kind and process group, `collectives` the calls.
    """

    step: OpCounts
    forward: OpCounts
    flop_by_dtype: Mapping[str, int]
    uncounted: Mapping[str, int]
    samples: int | None
    classes: Mapping[tuple[ClassKey, str], int] = field(default_factory=dict)
    communication: Mapping[Collective, int] = field(default_factory=dict)
    collectives: Mapping[Collective, int] = field(default_factory=dict)

    def values(self) -> Vector:
        """By quantity, in the order of their places."""
        step, forward = self.step, self.forward
        of_step = (step.flop, step.recomputed_flop, step.mac, step.access_bytes, step.calls)
        return (*of_step, forward.flop, forward.mac, forward.elements, step.comm_bytes)


def force_eager() -> AbstractContextManager[None]:
    """Compiled modules run eagerly inside; nothing is imported if nothing was compiled."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):  # torch below 2.6
        return nullcontext()
    return cast("AbstractContextManager[None]", torch.compiler.set_stance("force_eager"))


#: Why steps are not counted, for people.
OFF = "counting is off (count='off', or LIGHTNING_COSTS_COUNT=0)"
UNSEEN = (
    "compiled code ran, and what its kernels read, write and hold is not seen: count='eager' runs counted steps "
    "eagerly instead, which changes last digits"
)
OUTSIDE = "their tensors' shapes are unknown, or (without Lightning) the step is not inside recorder.train_batch(batch)"
DISCARDED = (
    "in each one that was to be, something else ran as well: an evaluation, a mode of the script's own, or an error "
    "that ended it"
)
_OLD_TORCH = (
    f"torch {torch.__version__} cannot count compiled code as it runs: a later one does "
    "(seen on 2.13), or count='eager' lets counted steps run eagerly, which changes last digits"
)
_GAVE_UP = (
    "{} raised {} while its operators were counted, and none is counted since: count='off' or "
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


def weighted(strata: Iterable[Stratum[StepOpCounts]], of: Callable[[StepOpCounts], Mapping[K, int]]) -> Counter[K]:
    """Numbers by name, over all batches of the strata that were counted."""
    totals: Counter[K] = Counter()
    for stratum in strata:
        if stratum.agrees and stratum.counts:
            for name, calls in of(stratum.counts[0]).items():
                totals[name] += stratum.batches * calls
        elif stratum.counts:
            found: dict[K, float] = {}
            for count, share in zip(stratum.counts, stratum.shares(), strict=True):
                for name, number in of(count).items():
                    found[name] = found.get(name, 0.0) + number * share
            for name, share_of in found.items():
                totals[name] += round(share_of)
    return totals


class OpCounting:
    """What both censuses share: whether they may count, and how they stop in the midst of it."""

    #: What is counted, for people.
    counts: ClassVar = "a step"

    def __init__(
        self,
        module: nn.Module | None,
        count: Count,
        busy_s: Callable[[], float] | None = None,
        work_s: Callable[[], float] | None = None,
    ) -> None:
        self._module, self._eager = module, count == "eager"
        self._stack: ExitStack | None = None
        self._strata: Strata[StepOpCounts] = Strata(StepOpCounts.values, at_any_moment, of_any_size)
        self._draws = RecountSchedule()
        began_s = now_s()
        self._busy_s = busy_s or (lambda: now_s() - began_s)
        #: Seconds of it without waiting for data and others' hooks, by which batches are compared.
        self._work_s = work_s or self._busy_s
        self._counted_s = self._compiled_s = self._begun_s = 0.0
        #: Of a counted batch whose length is not known yet: whether one of its kind had been, and seconds of compiling.
        self._ended: tuple[bool, float] | None = None
        #: Seconds of work and number of batches when the last count was over, and mean lengths of batches between
        #: counts.
        self._since = (0.0, 0)
        self._means_s: deque[float] = deque(maxlen=4)
        self.batches = 0
        #: Batches that were counted.
        self.censuses = 0
        #: Why nothing is counted.
        self.failed: str | None = OFF if count == "off" else None

    def detach(self) -> None:
        """Nothing is held."""

    @property
    def step_s(self) -> float | None:
        """Seconds of a batch that is not counted; None if too few followed each other. The least of a few means.

        A training's first batches take longer than the others, and counting must not be taken for cheap by them.
        """
        return min(self._means_s, default=None)

    def _is_drawn(self) -> bool:
        """Whether the batch about to begin was drawn to be counted again; if its turn has passed, draw another one."""
        if self.batches > self._draws.at:
            wanted = self._strata.wanted(PLACE["flop"])
            self._draws.plan(self.batches - 1, busy_s=self._busy_s(), step_s=self.step_s, wanted=wanted)
        return self.batches == self._draws.at

    def count_begins(self) -> None:
        """The work on a batch begins, and is counted."""
        self._begun_s = self._work_s()

    def count_ends(self, *, again: bool, compiled_s: float) -> None:
        """It is over; `again` if one of its kind had been counted. torch.compile took so long of it."""
        self._ended = again, compiled_s

    def settle(self) -> float | None:
        """The batch after a counted one begins, or none follows.

        A batch is as long as it is to the next one's begin: batches that are not counted are measured so.

        Returns:
            Seconds that the counted batch took; what torch.compile took would have been spent without counting, too.
        """
        if self._ended is None:
            return None
        (again, compiled_s), self._ended = self._ended, None
        took_s = self._work_s() - self._begun_s
        self.took(took_s, again=again, compiled_s=compiled_s)
        return took_s - compiled_s

    def took(self, took_s: float, *, again: bool, compiled_s: float = 0.0) -> None:
        """The last batch was counted, which took so long: `settle` reports it."""
        self._draws.took(took_s - compiled_s, again=again)
        (since_s, since), ended_s = self._since, self._work_s()
        between = self.batches - 1 - since
        if between >= FOR_A_MEAN:
            self._means_s.append(max(0.0, ended_s - took_s - since_s) / between)
        self._since = ended_s, self.batches
        self._counted_s += took_s
        self._compiled_s += compiled_s

    @property
    def added_s(self) -> float:
        """Seconds that counting added to the batches that were counted."""
        step_s = self.step_s
        if step_s is None:
            step_s = max(0.0, self._work_s() - self._counted_s) / max(1, self.batches - self.censuses)
        return max(0.0, self._counted_s - self._compiled_s - self.censuses * step_s)

    @property
    def agrees(self) -> bool:
        """Whether batches of every kind were counted, and all counts of each kind agree."""
        return self._strata.agrees

    def estimate(self, quantity: Quantity) -> Estimate:
        """A quantity over all batches so far, with its interval."""
        return self._strata.estimate(PLACE[quantity])

    @property
    def counted(self) -> int:
        """Batches whose counts are known."""
        return self._strata.counted

    @property
    def uncounted(self) -> Mapping[str, int]:
        """Calls so far of operators that have no formula: the counts are lower bounds if there are any."""
        return weighted(self._strata, lambda count: count.uncounted)

    @property
    def communication(self) -> list[dict[str, Any]]:
        """This rank's collectives and messages so far by kind and process group, those with most bytes first."""
        nbytes = weighted(self._strata, lambda count: count.communication)
        calls = weighted(self._strata, lambda count: count.collectives)
        return [
            {"kind": made.kind, "group": made.group, "ranks": made.ranks, "calls": calls[made], "bytes": amount}
            for made, amount in nbytes.most_common()
        ]

    @property
    def forward_communicates(self) -> bool | None:
        """Whether a first forward pass has collectives; None if none was counted."""
        counts = [count for stratum in self._strata for count in stratum.counts]
        return any(count.forward.comm_bytes for count in counts) if counts else None

    def _can_count(self) -> bool:
        """Whether the user's step runs unchanged while it is counted."""
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
        self.failed = _GAVE_UP.format(self.counts, type(error).__name__)
        _log.warning("%s", self.failed)
        _log.info("what it raised", exc_info=error)
        return True


def counted(watch: OpCounterMode, samples: int | None) -> StepOpCounts:
    """What was seen of a batch's work."""
    return StepOpCounts(
        step=watch.step,
        forward=watch.forward if watch.forward is not None else watch.step,
        flop_by_dtype=dict(watch.flop_by_dtype),
        uncounted=dict(watch.uncounted),
        samples=samples,
        classes=dict(watch.classes),
        communication=dict(watch.communication),
        collectives=dict(watch.collectives),
    )

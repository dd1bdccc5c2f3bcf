"""Operators of evaluation batches, counted once a shape and some again."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Self, final

from torch import nn

from lightning_costs.probes.batch import Signature
from lightning_costs.probes.compile_time import compiled_if_known_s
from lightning_costs.probes.context import Count, ProbeContext
from lightning_costs.probes.opcount.counting import (
    MOST_CENSUSES,
    PLACE,
    OpCounting,
    StepOpCounts,
    counted,
    force_eager,
)
from lightning_costs.probes.opcount.mode import OpCounterMode
from lightning_costs.probes.opcount.step_kinds import StepKind
from lightning_costs.probes.opcount.stratum import Stratum
from lightning_costs.probes.opcount.triton_launches import watch_triton_launches
from lightning_costs.records.missing import Missing


@final
class EvalOpCounter(OpCounting):
    """Operators of evaluation batches: each shape counted at its first batch, and some again at random."""

    counts = "an evaluation"

    def __init__(
        self, module: nn.Module | None = None, count: Count = "auto", busy_s: Callable[[], float] | None = None
    ) -> None:
        super().__init__(module, count, busy_s)
        self._reported: Stratum[StepOpCounts] | None = None

    @classmethod
    def attach(cls, setting: ProbeContext) -> Self:
        """A census for the module in training."""
        if setting.module is None:
            raise Missing("no module was given: nothing to count operators of")
        accounts = setting.accounts
        busy_s = (lambda: accounts.read()["evaluate"]) if accounts is not None else None
        return cls(setting.module, setting.count, busy_s)

    def before(self, signature: Signature, loader: Hashable = None) -> AbstractContextManager[None] | None:
        """A batch is about to be evaluated.

        Returns:
            What to enter around it if it is to be counted.
        """
        self.settle()
        kind = StepKind(signature, loader)
        stratum = self._strata.get(kind)
        again = stratum is not None and bool(stratum.counts)
        drawn = self.failed is None and self._is_drawn()
        self.batches += 1
        new = not again and self._strata.counted < MOST_CENSUSES
        self._reported = self._strata.stratum(kind, kind.features)
        self._strata.book(self._reported, kind.features)
        if self.failed is None and (drawn or new) and self._can_count():
            return self._counting(kind, drawn=drawn, again=again)
        return None

    @contextmanager
    def _counting(self, kind: StepKind, *, drawn: bool, again: bool) -> Iterator[None]:
        watch = OpCounterMode(classifies=False)
        self.censuses += 1
        self.count_begins()
        compiled_s = compiled_if_known_s()
        with ExitStack() as stack:
            stack.enter_context(force_eager() if self._eager else nullcontext())
            stack.enter_context(watch_triton_launches(watch.launched))
            stack.enter_context(watch)
            self._stack = stack
            try:
                yield
            finally:
                gave_up, self._stack = self._stack is None, None
        self.count_ends(again=again, compiled_s=compiled_if_known_s() - compiled_s)
        if watch.failed is None and not gave_up:
            count = counted(watch, None)
            self._strata.count(self._strata.stratum(kind, kind.features), count, features=kind.features, drawn=drawn)

    def left(self) -> None:
        """The last reported batch was fetched and left: no work was done on it."""
        self.batches -= 1
        if self._reported is not None:
            self._strata.remove(self._reported)

    @property
    def unknown(self) -> int:
        """Batches with unknown counts: all of them until one was counted."""
        return 0 if self._strata.counted else self.batches

    @property
    def flop(self) -> float:
        """Floating-point operations so far."""
        return self._strata.total(PLACE["flop"])

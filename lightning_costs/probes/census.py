"""The step census: operators of one real training step counted per new input signature, reused by all others.

The mode only watches: every operator runs as it is, with the arguments it was given. Compiled modules run eagerly
in the counted step and return to their compiled graph afterwards (FlopCounterMode alone leaves them eager for good
on torch 2.13).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Self, cast, final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
    shape_wrapper,
)

from lightning_costs.core.indicator import Missing
from lightning_costs.probes.setting import Setting

#: After so many different signatures no more are counted: a stream of ever-new lengths must stay cheap.
MOST_CENSUSES = 64
#: Namespaces whose operators without a formula are elementwise, data movement or communication.
_PLAIN = ("aten", "prim", "prims", "c10d", "_c10d_functional", "profiler")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCount:
    """Operators of one batch's work: floating-point operations, and calls that no formula covers."""

    flop: int
    calls: int
    uncounted: tuple[str, ...] = ()


@shape_wrapper  # type: ignore[untyped-decorator]
def _cpu_sdpa(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Attention forward: query x key and scores x value."""
    return int(sdpa_flop_count(query, key, value))


@shape_wrapper  # type: ignore[untyped-decorator]
def _cpu_sdpa_backward(
    grad_out: torch.Size,
    query: torch.Size,
    key: torch.Size,
    value: torch.Size,
    *_: Any,
    out_shape: Any = None,
    **__: Any,
) -> int:
    """Attention backward: the scores again, then the gradients of scores, value, query and key.

    Five products where the forward pass has two (Dao et al. 2022, FlashAttention, section 3.1).
    """
    return int(sdpa_backward_flop_count(grad_out, query, key, value))


def _formulas() -> dict[Any, Any]:
    """torch's registered formulas (a user's own among them), and those that torch 2.13 lacks on the CPU."""
    lacking: dict[Any, Any] = {}
    for name, formula in (
        ("_scaled_dot_product_flash_attention_for_cpu", _cpu_sdpa),
        ("_scaled_dot_product_flash_attention_for_cpu_backward", _cpu_sdpa_backward),
    ):
        packet = getattr(torch.ops.aten, name, None)
        if packet is not None and packet not in flop_registry:
            lacking[packet] = formula
    return {**flop_registry, **lacking}


class _Counting(TorchDispatchMode):
    """Adds up formulas over the operators that run while it is on."""

    #: Operators of higher order (flex attention) pass through as they are.
    supports_higher_order_operators = True

    def __init__(self, formulas: dict[Any, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._formulas = formulas
        self.flop = 0
        self.calls = 0
        self.uncounted: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.calls += 1
        packet = getattr(func, "_overloadpacket", func)
        formula = self._formulas.get(packet)
        if formula is not None:
            try:
                self.flop += int(formula(*args, **kwargs, out_val=out))
            except Exception:  # noqa: BLE001 - a formula (perhaps the user's) that fails must not kill the step
                self.uncounted[str(packet)] += 1
        elif getattr(func, "namespace", "") not in _PLAIN:
            self.uncounted[str(packet)] += 1
        return out


def _eager() -> AbstractContextManager[None]:
    """Compiled modules run eagerly inside; nothing is imported where nothing was compiled."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return cast("AbstractContextManager[None]", torch.compiler.set_stance("force_eager"))


@final
class StepCensus:
    """Counts a step once per kind, then remembers; totals grow by `book`, one call a batch.

    What a step will do is known only when it is done: a GAN trains one network on this batch and the other on the
    next, of the same shapes. So a step is entered by what is known before (`key`: shapes, position in the
    accumulation) and booked by what is known after (which optimizers stepped, how many backward passes). A kind
    that was booked but not counted yet waits, and the steps that follow are counted until it is known.
    """

    def __init__(self) -> None:
        self._counts: dict[Hashable, StepCount] = {}
        self._seen: set[Hashable] = set()
        self._fresh: StepCount | None = None
        self._waiting: Counter[Hashable] = Counter()
        self._held_flop = 0
        self.censuses = 0
        self.flop = 0
        self.steady_flop = 0
        self.batches = 0

    @classmethod
    def attach(cls, setting: Setting) -> Self:
        """A census for the module in training."""
        if setting.module is None:
            raise Missing("no module was given: nothing to count operators of")
        return cls()

    def detach(self) -> None:
        """Nothing is held."""

    def wants(self, key: Hashable) -> bool:
        """Whether the step about to begin should be counted."""
        return self.censuses < MOST_CENSUSES and (bool(self._waiting) or key not in self._seen)

    @contextmanager
    def counting(self, key: Hashable) -> Iterator[None]:
        """Count the step inside; a step that raises counts for nothing."""
        self._fresh = None
        mode = _Counting(_formulas())
        with _eager(), mode:
            yield
        self.censuses += 1
        self._seen.add(key)
        self._fresh = StepCount(flop=mode.flop, calls=mode.calls, uncounted=tuple(sorted(mode.uncounted)))

    def book(self, kind: Hashable) -> bool:
        """Add a batch's work to the totals: `kind` is everything that decides how much it was.

        Returns:
            Whether the work is known; if not, it is added as soon as a step of the kind was counted.
        """
        self.batches += 1
        if self._fresh is not None:
            self._counts.setdefault(kind, self._fresh)
            self._fresh = None
            self.flop += self._counts[kind].flop * self._waiting.pop(kind, 0)
        count = self._counts.get(kind)
        if count is None:
            self._waiting[kind] += 1
            return False
        self.flop += count.flop
        self._held_flop += count.flop
        return True

    def settle(self, *, steady: bool) -> None:
        """A step is complete: its batches count for the rates, or were warm-up."""
        if steady:
            self.steady_flop += self._held_flop
        self._held_flop = 0

    @property
    def waiting(self) -> int:
        """Batches whose kind has not been counted yet."""
        return self._waiting.total()

    @property
    def exhausted(self) -> bool:
        """Whether no more steps will be counted."""
        return self.censuses >= MOST_CENSUSES

    @property
    def blind(self) -> bool:
        """Whether steps were counted and none showed a product: a replayed graph, or a model without any."""
        return bool(self._counts) and not any(count.flop for count in self._counts.values())

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Operators that ran and have no formula: the counts are lower bounds where there are any."""
        return tuple(sorted({name for count in self._counts.values() for name in count.uncounted}))

    @property
    def op_calls(self) -> int | None:
        """Operators that the first counted step launched."""
        return next((count.calls for count in self._counts.values()), None)

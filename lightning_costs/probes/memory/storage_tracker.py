"""Memory over one step: every storage from birth to death, by kind and phase, without keeping any of them alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, final

import torch

from lightning_costs.probes.memory.tensors import storages

Phase = Literal["forward", "backward", "optimizer"]
Kind = Literal["param", "master", "grad", "opt_state", "activation", "other"]
KINDS: tuple[Kind, ...] = ("param", "master", "grad", "opt_state", "activation", "other")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Memory of one counted step on this rank, in bytes.

    Args:
        peak_bytes: By phase: the most that was held at one moment of it.
        activation_bytes: Made by the forward pass (or its recomputation) and still held when a backward pass continued.
        at_peak_bytes: By kind, at the moment when most was held; the kinds add up to it.
        peak_phase: The phase of that moment.
        phases: Bytes by kind at the fullest moment of each phase.
        resting_bytes: What the step found beside parameters, gradients and state: buffers, the batch, work space.
    """

    peak_bytes: Mapping[Phase, int]
    activation_bytes: int
    at_peak_bytes: Mapping[Kind, int]
    peak_phase: Phase
    phases: Mapping[Phase, Mapping[Kind, int]] = field(default_factory=dict)
    resting_bytes: int = 0

    @property
    def most_bytes(self) -> int:
        """The most that was held at one moment of the step."""
        return max(self.peak_bytes.values())

    def phases_by_name(self) -> dict[str, dict[str, float]]:
        """Bytes by phase and kind, as plain data."""
        return {phase: {kind: float(n) for kind, n in kinds.items()} for phase, kinds in self.phases.items()}

    def joined(self, other: StepMemory) -> StepMemory:
        """The most of two steps."""
        fuller = self if self.most_bytes >= other.most_bytes else other
        return StepMemory(
            peak_bytes={phase: max(most, other.peak_bytes[phase]) for phase, most in self.peak_bytes.items()},
            activation_bytes=max(self.activation_bytes, other.activation_bytes),
            at_peak_bytes=fuller.at_peak_bytes,
            peak_phase=fuller.peak_phase,
            phases={
                phase: max(kinds, other.phases.get(phase, {}), key=lambda held: sum(held.values()))
                for phase, kinds in self.phases.items()
            },
            resting_bytes=fuller.resting_bytes,
        )


@dataclass(slots=True)
class _Storage:
    """One storage: how big, of which kind, whether it was there before the step."""

    nbytes: int
    kind: Kind
    early: bool = False


@final
class StorageTracker:
    """Follows storages by weak references while a step runs; what happened is replayed when it is over.

    Kinds are known late: a gradient is a gradient when its parameter holds it. So births and deaths are written down
    as they happen, and added up at the end.

    Args:
        device: Where memory is followed; storages elsewhere (a batch on the host, scalars) are not.
        allocated: Bytes that the device's allocator has given out now, and the most so far; None if only storages
            are known (a CPU has no allocator to ask).
    """

    def __init__(self, device: torch.device, allocated: Callable[[], tuple[int, int]] | None = None) -> None:
        self._device = torch.empty(0, device=device).device  # 'cuda' becomes 'cuda:0', as tensors name it
        self._allocated = allocated
        self._storages: list[_Storage] = []
        self._numbers: dict[int, int] = {}
        self._references: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        #: What happened: (number of a storage, +1 born or -1 dead), or (bytes in use, most so far) after an operator.
        self._events: list[tuple[int, int]] = []
        #: Where in `_events` a phase begins, or recomputation inside one ends.
        self._turns: list[tuple[int, Phase]] = []

    def track(self, kind: Kind, tensors: Iterable[torch.Tensor]) -> None:
        """These tensors are of a kind. Storages not met before were there before the step."""
        for storage in storages(tensors):
            number = self._follow(storage, kind, early=True)
            if number is not None and self._storages[number].kind not in ("param", "master"):
                self._storages[number].kind = kind

    def on_op(self, inputs: Iterable[torch.Tensor], outputs: Iterable[torch.Tensor], *, activation: bool) -> None:
        """An operator ran: a storage among its inputs that was not met before was there before the step."""
        for storage in storages(inputs):
            self._follow(storage, "other", early=True)
        for storage in storages(outputs):
            self._follow(storage, "activation" if activation else "other", early=False)
        if self._allocated is not None:
            in_use, most = self._allocated()
            self._events.append((-1 - in_use, most))

    def set_phase(self, phase: Phase) -> None:
        """A phase begins, or continues after something else."""
        self._turns.append((len(self._events), phase))

    def _follow(self, storage: torch.UntypedStorage, kind: Kind, *, early: bool) -> int | None:
        identity = storage._cdata
        if (number := self._numbers.get(identity)) is not None:
            return number
        if storage.device != self._device or not (nbytes := storage.nbytes()):
            return None
        number = len(self._storages)
        self._storages.append(_Storage(nbytes, kind, early))
        self._numbers[identity] = number
        self._references[number] = weakref.ref(storage, partial(self._died, identity, number))
        if not early:
            self._events.append((number, 1))
        return number

    def _died(self, identity: int, number: int, _: Any) -> None:
        if self._references.pop(number, None) is not None:
            self._numbers.pop(identity, None)
            self._events.append((number, -1))

    def close(self) -> StepMemory:
        """The step is over, and nothing is followed any more: what was held, replayed from the step's beginning."""
        self._references.clear()  # without the references, later deaths are not reported
        self._numbers.clear()
        return _Replay(self._storages, self._events, self._turns).memory()


@final
class _Replay:
    """Adds births and deaths up, in order."""

    def __init__(self, followed: list[_Storage], events: list[tuple[int, int]], turns: list[tuple[int, Phase]]) -> None:
        self._storages, self._events, self._turns = followed, events, turns
        self._held: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        for storage in followed:
            if storage.early:
                self._held[storage.kind] += storage.nbytes
        self._phase: Phase = "forward"
        self._peaks: dict[Phase, int] = {}
        self._most = -1
        self._at_peak: dict[Kind, int] = {}
        self._phases: dict[Phase, dict[Kind, int]] = {}
        self._resting_bytes: int | None = None
        self._peak_phase: Phase = "forward"
        self._activation_bytes = 0
        self._by_allocator = any(number < 0 for number, _ in events)
        self._in_use: int | None = None
        self._most_so_far: int | None = None

    def memory(self) -> StepMemory:
        turn = 0
        for place in range(len(self._events) + 1):
            while turn < len(self._turns) and self._turns[turn][0] == place:
                self._turn(self._turns[turn][1])
                turn += 1
            if place < len(self._events):
                self._happen(*self._events[place])
        self._see(None)
        return StepMemory(
            peak_bytes={phase: self._peaks.get(phase, 0) for phase in ("forward", "backward", "optimizer")},
            activation_bytes=self._activation_bytes,
            at_peak_bytes=self._at_peak,
            peak_phase=self._peak_phase,
            phases=self._phases,
            resting_bytes=self._resting_bytes or 0,
        )

    def _turn(self, phase: Phase) -> None:
        self._see(None)
        self._phase = phase
        if phase == "backward":
            self._activation_bytes = max(self._activation_bytes, self._held["activation"])
        self._see(None)

    def _happen(self, number: int, amount: int) -> None:
        if number >= 0:
            storage = self._storages[number]
            self._held[storage.kind] += amount * storage.nbytes
            self._see(None)
            return
        in_use, most = -1 - number, amount
        grew = self._most_so_far is not None and most > self._most_so_far
        self._most_so_far = most
        self._in_use = in_use
        self._see(most if grew else in_use)

    def _see(self, total: int | None) -> None:
        """Note what is held now: as the allocator last reported, or all kinds together without an allocator."""
        known = sum(self._held.values())
        if total is None:
            if self._by_allocator:
                if self._in_use is None:
                    return
                total = self._in_use
            else:
                total = known
        if self._resting_bytes is None:
            self._resting_bytes = max(0, self._held["other"] + total - known)
        if total <= self._peaks.get(self._phase, -1):
            return
        self._peaks[self._phase] = total
        kinds = self._phases[self._phase] = {**self._held, "other": self._held["other"] + total - known}
        if total > self._most:
            self._most, self._peak_phase, self._at_peak = total, self._phase, kinds

"""Steps just like the one before: each of them is a clock read and a number kept, booked in bulk later.

Nearly every step is one, and must cost next to nothing. Four modules share this path. Only these write its state::

    integrations/lightning/step_patches        recording/step_hooks           recording/emission
      puts `dispatch` around a step's work       arm, disarm: after a step      take, `gradients`:
      appends to `events`                          that was recorded in full      when a window is read or closed,
      clears `recorded` at a fetch               left, until_s: `allow_repeats`   and when probes open
      puts steps of a finder `aside`
                                                       │                               ▲
            │                                          ▼                               │ `record_repeats`, once for
            └──── dispatch ────▶ RepeatedStepFastPath: same, recorded, nodes ──────────┘ all that were noted
                                   notes a repeat's time in `train_s`

    integrations/lightning/session takes `events`, clears `same` if it was another step after all, and sets `on_record`.
    integrations/session calls `begin` and `end` in place of `dispatch`, for loops whose step is no single call.

What holds:

- A repeat has the shapes of the batch before and its events (backward passes and optimizer steps in order). It has as
  many nodes of autograd, parameters with a gradient and compiled graphs. It is outside warm-up, and nothing is due at
  its end.
- `left` is how many repeats may follow: fewer than the batches up to the epoch's last one and up to the next point by
  steps. It is also fewer than those up to the next step that is to be counted or watched. `until_s` is when the next
  point is due.
- `timed_left` is what `left` is before a step that is timed, if `dispatch` can time it. It is a repeat as well, noted
  by `Phases.end_repeat` at once and counted by `Phases.skipped` when it is booked.
- `train_s` has one number for each repeat that is not booked yet. Code that reads the window, or asks how many steps
  are done, books them first (`Emission.book_repeats`).
- Whatever differs disarms the path, and the step is recorded in full. Nothing is lost by that but time.

The code of this path is inlined by hand. It stays so: a call costs as much as all that it does.
"""

from __future__ import annotations

import math
import sys
import weakref
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from operator import attrgetter
from typing import Any, Protocol, TypeVar, final

import torch
from torch import nn

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.probes.batch import BatchInfo, Signature, inspect_batch
from lightning_costs.records.time_buckets import TimeBuckets

#: What `RepeatedStepFastPath.events` holds for passes that are seen, and below them backward passes whose loss shows
#: how much it is of; an optimizer's step is its index.
BACKWARD, FORWARD = -1, -2
#: How many of the operators before a loss are read: sums, factors and reductions are often the last ones.
_HOPS = 4
_SHAPE_AND_DTYPE = attrgetter("shape", "dtype")
_PLAIN = (list, tuple)
R = TypeVar("R")


def backward_event(loss: Any) -> int:
    """What `events` holds for a backward pass: steps whose losses are of twice as much are no repeats of each other.

    Rows that a step repeats, packs or leaves out show in no shape of its batch. They often show in what its loss is
    the mean of, here by the magnitude of the number of elements.

    Example:
        >>> rows = torch.ones(8, 4, requires_grad=True)
        >>> one, repeated = (rows * 2).square().mean(), (rows.repeat(4, 1) * 2).square().mean()
        >>> backward_event(one) - backward_event(repeated), backward_event(None) == BACKWARD
        (2, True)
    """
    try:
        node = loss.grad_fn
        for _ in range(_HOPS):  # a node costs microseconds: the first that is no scalar is enough
            node = node.next_functions[0][0]
            elements: int = prod(node._input_metadata[0].shape)
            if elements > 1:
                return FORWARD - elements.bit_length()
    except Exception:  # noqa: BLE001 - the graph has fewer, or a node of another kind
        pass
    return BACKWARD


def _compiled() -> Mapping[str, int]:
    """What torch.compile counts in this process; nothing is imported if it was not used."""
    utils = sys.modules.get("torch._dynamo.utils")
    return utils.counters["stats"] if utils is not None else {}


def compiled_graphs() -> int:
    """Graphs that torch.compile has made in this process."""
    return int(_compiled().get("unique_graphs", 0))


def same_signature(batch: Any, signature: Signature) -> bool:
    """Whether a batch has this signature: the common forms without making its own.

    Example:
        >>> import torch
        >>> batch = {"input_ids": torch.zeros(8, 16), "labels": torch.zeros(8)}
        >>> signature = inspect_batch(batch).signature
        >>> same_signature(batch, signature), same_signature({**batch, "labels": torch.zeros(4)}, signature)
        (True, False)
    """
    tensors = batch.values() if type(batch) is dict else batch if type(batch) in _PLAIN else (batch,)
    try:
        if tuple(map(_SHAPE_AND_DTYPE, tensors)) == signature:
            return True
    except AttributeError:  # not all of them are tensors
        pass
    return inspect_batch(batch).signature == signature


#: Nodes that autograd has made in this thread: two steps that made as many ran as many operators with a gradient.
nodes_made: Callable[[], int] = getattr(torch._C._autograd, "_get_sequence_nr", lambda: 0)
#: Parameters that are checked for a gradient.
_LOOKED_AT = 16


@final
class Gradients:
    """How many of some parameters have a gradient: layers that were left out, or are frozen now, have none."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._some: list[weakref.ref[nn.Parameter]] = []

    def look(self) -> None:
        """Choose again which parameters are checked: there may be others by now."""
        try:
            found = list(self._module.parameters())
            every = max(1, len(found) // _LOOKED_AT)
            self._some = [weakref.ref(parameter) for parameter in found[::every]]
        except Exception as error:  # noqa: BLE001 - a module that does not list its parameters: then nothing is known of them
            reraise_from_signal(error)
            self._some = []

    def count(self) -> int:
        """How many of them have one now."""
        found = 0
        for ref in self._some:  # at every step: a generator costs twice as much
            parameter = ref()
            if parameter is not None and parameter.grad is not None:
                found += 1
        return found


class Timed(Protocol):
    """Draws which steps are timed."""

    @property
    def quiet(self) -> int:
        """How many steps may follow before one that is timed."""

    def end_repeat(self) -> int:
        """One that was drawn is noted as a repeat: how many steps after it the next one is timed."""


@final
class RepeatedStepFastPath:
    """Notes steps that are just like the one before them, as nearly every step of nearly every training is.

    Such a step has a batch of the same shapes; the same optimizers stepped and as many backward passes ran,
    in the same order. It is outside warm-up, with nothing due at its end. The caller puts `dispatch` around a training
    step's work and appends its events to `events`. Unless they equal `recorded`, the step must be recorded in full.
    """

    __slots__ = (
        "_accounts",
        "_begun",
        "_counted",
        "_events",
        "_gradients",
        "_graphs",
        "_keep",
        "_nodes",
        "_phases",
        "_signature",
        "_times",
        "calls",
        "events",
        "gradients",
        "left",
        "nodes",
        "on_record",
        "recorded",
        "same",
        "samples",
        "timed_left",
        "tokens",
        "train_s",
        "until_s",
    )

    def __init__(self, accounts: TimeBuckets) -> None:
        self._accounts = accounts
        #: What happened in the batch in work: indices of optimizers that stepped, and passes.
        self.events: list[int] = []
        self._events: list[int] = []
        self._signature: Signature = ()
        self._counted = _compiled()
        self._graphs = self._nodes = self._gradients = self._begun = 0
        #: Nodes that autograd made for the batch in work, once its work is done.
        self.nodes = 0
        #: Returns how many parameters have a gradient; None if that is not needed.
        self.gradients: Callable[[], int] | None = None
        #: How many batches may still be noted here, and until when on the accounts' clock.
        self.left: float = 0
        self.until_s = math.inf
        #: What `left` is before a step whose moments are noted, and whether `dispatch` can have them noted.
        self.timed_left = -math.inf
        self._times = False
        self._phases: Timed | None = None
        #: Whether the batch in work looks like the last one.
        self.same = False
        #: Whether the batch in work was a step like the last one, and is noted.
        self.recorded = False
        self.samples: int | None = None
        self.tokens: int | None = None
        self.calls = 0
        #: Called at each step that is noted.
        self.on_record: Callable[[], object] | None = None
        #: What the account `train` held at the end of each step that was noted and not yet booked.
        self.train_s = array("d")
        self._keep = self.train_s.append

    def arm(self, seen: BatchInfo, *, samples: int | None, tokens: int | None, events: list[int]) -> None:
        """A step was recorded in full: those like it may follow, once `left` allows them."""
        self._signature, self._events = seen.signature, events
        self._nodes = self.nodes
        self._gradients = self.gradients() if self.gradients is not None else 0
        self.samples, self.tokens = samples, tokens
        self.calls = sum(event >= 0 for event in events)
        self._counted = _compiled()
        self._graphs = compiled_graphs()

    def allow(self, steps: float, phases: Timed | None) -> None:
        """Let this number of steps follow, or those up to one that is timed if `dispatch` cannot time it."""
        quiet = phases.quiet if phases is not None else math.inf
        self.left = steps if self._times else min(steps, quiet)
        self.timed_left, self._phases = steps - quiet, phases

    def disarm(self) -> None:
        """The next step has to be recorded in full."""
        self.left = 0

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Around steps of another training that `dispatch` sees as well: what it knows of this one's batch stays."""
        known, recorded, same, nodes = len(self.events), self.recorded, self.same, self.nodes
        self.disarm()
        try:
            yield
        finally:
            del self.events[known:]
            self.recorded, self.same, self.nodes = recorded, same, nodes

    def dispatch(
        self,
        alike: Callable[..., R],
        otherwise: Callable[..., R],
        failed: Callable[[], object],
        timed: Callable[..., R] | None = None,
    ) -> Callable[..., R]:
        """A function around the work on a batch: `alike` if it may be a step like the last one, else `otherwise`.

        The last argument holds what a training step gets, its batch under that name. `failed` is called where noting
        the step raised, and the exception is handled. `timed` takes the place of `alike` in steps that are timed.
        """
        self._times = timed is not None

        def run(*args: Any) -> R:
            self.recorded = False
            begun = nodes_made()
            if self.left > 0:
                batch = args[-1].get("batch")
                try:  # the commonest form in this very frame
                    plain = type(batch) in _PLAIN and tuple(map(_SHAPE_AND_DTYPE, batch)) == self._signature
                    self.same = plain or same_signature(batch, self._signature)
                except Exception as error:  # noqa: BLE001 - a batch that cannot be inspected is recorded in full, and logged there
                    reraise_from_signal(error)
                    self.same = False
                if self.same:
                    due = self.left == self.timed_left
                    result = timed(*args) if due and timed is not None else alike(*args)
                    self.nodes = nodes_made() - begun
                    try:
                        self.recorded = self._try_record()
                        if due and self.recorded and self._phases is not None:
                            self.timed_left -= self._phases.end_repeat()
                    except Exception:  # noqa: BLE001 - a clock of the package must not end the training
                        failed()
                    return result
            result = otherwise(*args)
            self.nodes = nodes_made() - begun
            return result

        return run

    def begin(self, batch: Any) -> bool:
        """The work on a batch begins, in a loop that `dispatch` cannot be put around: whether it may be a repeat."""
        self._begun = nodes_made()
        self.same = self.left > 0 and same_signature(batch, self._signature)
        return self.same

    def end(self, events: list[int]) -> bool:
        """The work is done: whether it was a repeat and is noted. If not, the step must be recorded in full."""
        self.nodes = nodes_made() - self._begun
        self.events[:] = events
        return self.same and self._try_record()

    def _try_record(self) -> bool:
        """The work is done: notes it if it was a step like the last one."""
        if (
            self.events != self._events
            or self.nodes != self._nodes
            or self._counted.get("unique_graphs", 0) != self._graphs
            or (self.gradients is not None and self.gradients() != self._gradients)
        ):
            return False
        accounts = self._accounts
        train_s = accounts.train_s()
        if accounts.since_s >= self.until_s:
            return False
        self._keep(train_s)
        self.left -= 1
        self.same = False
        self.events.clear()
        if self.on_record is not None:
            self.on_record()
        return True

    def take(self) -> array[float]:
        """The steps noted since the last call, to be booked; then forget them."""
        noted, self.train_s = self.train_s, array("d")
        self._keep = self.train_s.append
        return noted

    def take_events(self) -> list[int]:
        """What happened in the batch that is done; then forget it."""
        happened = self.events.copy()
        self.events.clear()
        return happened


def summarize_events(events: list[int]) -> tuple[tuple[int, ...], int]:
    """Which optimizers stepped (in order), and how many passes ran.

    Example:
        >>> summarize_events([BACKWARD, 0, BACKWARD, BACKWARD, 1])
        ((0, 1), 3)
    """
    stepped = tuple(event for event in events if event >= 0)
    return stepped, len(events) - len(stepped)


def loss_elements(events: Iterable[int]) -> int:
    """Elements that the losses of backward passes are made of, by magnitude; 0 if none shows them.

    Example:
        >>> rows = torch.ones(8, 4, requires_grad=True)
        >>> loss_elements([backward_event(rows.square().mean()), BACKWARD, 0])
        64
    """
    return sum([1 << FORWARD - event for event in events if event < FORWARD])

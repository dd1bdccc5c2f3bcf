"""Kinds of steps: what is known of a batch's work without counting it, and which kinds still wait to be counted."""

from __future__ import annotations

from collections.abc import Hashable
from math import prod
from typing import Literal, NamedTuple, final

from lightning_costs.probes.batch import Signature
from lightning_costs.probes.opcount.feature_model import Vector

#: Steps counted in vain for a kind that differs by its nodes alone: then it waits until it is met by chance or in turn.
_MOST_IN_VAIN = 8
#: Steps counted in vain because a kind was due, whatever that takes: kinds that come in turn are there.
_MOST_MISSED = 3

Moment = Literal["first", "opening", ""]


class StepKind(NamedTuple):
    """What is known of a batch's work without counting it.

    Args:
        signature: Shapes of the batch.
        position: What besides shapes is known before: accumulation, frozen parameters.
        moment: 'first' for the attempt's first batch, 'opening' for an epoch's first one, else ''.
        work: Which optimizers stepped, and how many backward passes ran.
        fresh: Whether a step ended with the batch before, so that gradients start from zero.
        nodes: Nodes that autograd made for it.
        gradients: How many of some of the parameters had a gradient after it.
        elements: What its losses are made of, by magnitude.
    """

    signature: Signature
    position: Hashable = None
    moment: Moment = ""
    work: Hashable = None
    fresh: bool = True
    nodes: int = 0
    gradients: int = 0
    elements: int = 0

    @property
    def features(self) -> Vector:
        """What a count may be predicted from; each is linear in the cost of some layers."""
        # Jagged dimensions are no numbers.
        shapes = [tuple(n if isinstance(n, int) else 1 for n in shape) for shape, _ in self.signature]
        sizes = [float(prod(shape)) for shape in shapes]
        square = next((float(shape[0] * shape[1] ** 2) for shape in shapes if len(shape) > 1), 0.0)
        return (1.0, sum(sizes), square, *(sizes + [0.0] * 4)[:4], float(self.nodes), float(self.elements))


@final
class PendingKinds:
    """Kinds that came and were not counted: which steps may be of them.

    A kind is searched for among the steps that are entered alike, and at its next turn if it comes in turn.
    """

    def __init__(self) -> None:
        #: What steps of each kind are entered by, and the kinds of what is entered so.
        self._entered: dict[Hashable, Hashable] = {}
        self._kinds: dict[Hashable, set[Hashable]] = {}
        #: Kinds apart from their nodes of which one was counted, and those of which none was.
        self._known: set[Hashable] = set()
        self._new: set[Hashable] = set()
        #: The batch at which each kind came last, and those at which one is due.
        self._met: dict[Hashable, int] = {}
        self._due: set[int] = set()
        #: Steps counted in vain since one was not, and those at which a kind was due.
        self._in_vain = self._missed = 0

    def __bool__(self) -> bool:
        return bool(self._entered)

    @property
    def for_new(self) -> bool:
        """Whether a kind waits whose optimizers and backward passes are new, too."""
        return bool(self._new)

    def came(self, kind: Hashable, entered: Hashable, batch: int, *, known: bool, counted: bool) -> None:
        """A batch was booked."""
        base = _base(kind)
        if known:
            self._known.add(base)
            self._new.discard(base)
            if kind in self._entered:
                self._kinds[self._entered.pop(kind)].discard(kind)
                self._in_vain = 0
            elif counted and self._entered:
                self._in_vain += 1
                self._missed += batch in self._due
            self._met.pop(kind, None)
            return
        if self._due:
            self._due = {due for due in self._due if due > batch}
        if kind in self._met:
            self._due.add(2 * batch - self._met[kind])
        else:
            self._in_vain = 0
        if kind in self._entered:
            self._kinds[self._entered[kind]].discard(kind)
        self._met[kind], self._entered[kind] = batch, entered
        self._kinds.setdefault(entered, set()).add(kind)
        if base not in self._known:
            self._new.add(base)

    def may_be_next(self, entered: Hashable) -> Literal["new", "varied", None]:
        """Whether a step that is entered so may be of a kind that waits: of new work, or one that varies."""
        kinds = self._kinds.get(entered)
        if not kinds:
            return None
        if any(_base(kind) in self._new for kind in kinds):
            return "new"
        return "varied" if self._in_vain < _MOST_IN_VAIN else None

    @property
    def in_turn(self) -> bool:
        """Whether kinds come in turn, as far as was seen: those that come at random are rarely there when due."""
        return self._missed < _MOST_MISSED

    def due(self, batch: int) -> int | None:
        """The next batch from this one on at which a kind is due that comes in turn."""
        return min((due for due in self._due if due >= batch), default=None)


def at_any_moment(kind: Hashable) -> Hashable:
    """A kind apart from when it came: a look at pictures costs as much in an epoch's first batch as in another."""
    return kind._replace(moment="") if isinstance(kind, StepKind) else kind


def of_any_size(kind: Hashable) -> Hashable:
    """A kind apart from the magnitude of what its losses are made of; None if that is unknown."""
    return kind._replace(elements=0) if isinstance(kind, StepKind) and kind.elements else None


def _base(kind: Hashable) -> Hashable:
    """A kind apart from what only shows that layers or rows were left out or added, or layers frozen."""
    return kind._replace(nodes=0, gradients=0, elements=0) if isinstance(kind, StepKind) else kind

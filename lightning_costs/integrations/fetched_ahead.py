"""Batches of a script's loop that are not simply trained on: fetched before they are worked on, or evaluated."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, final
from weakref import ref

from torch.utils._pytree import tree_flatten, tree_unflatten

from lightning_costs.integrations.session import BatchInWork
from lightning_costs.probes.memory.tensors import tensors_in

#: Batches that are looked through at a forward pass, at most.
_MOST = 256


def weakly(thing: Any) -> Callable[[], Any]:
    """A way to a thing that does not keep it, if the thing allows it."""
    try:
        return ref(thing)
    except TypeError:
        return lambda: thing


@final
class FetchedAhead:
    """Batches that were fetched and not worked on yet. They are not kept: one that the script drops was passed over."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[list[Callable[[], Any]], Any, Any]] = deque(maxlen=_MOST)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, batch: BatchInWork) -> None:
        """The next batch was fetched before this one was worked on."""
        leaves, form = tree_flatten(batch.content)
        self._waiting.append(([weakly(leaf) for leaf in leaves], form, batch.loader))

    def take(self, inputs: object) -> BatchInWork | None:
        """The batch that a model is given now, if it is one of these."""
        if not self._waiting:
            return None
        given = {id(tensor) for tensor in tensors_in(inputs)}
        for waiting in list(self._waiting):
            held, form, loader = waiting
            leaves = [leaf() for leaf in held]
            if given & {id(tensor) for tensor in tensors_in(leaves)}:
                self._waiting.remove(waiting)
                return BatchInWork(tree_unflatten(leaves, form), loader)
        return None


@final
class Evaluation:
    """An iteration over a loader that looks like evaluation, until something is trained in it."""

    def __init__(self, loader: Any, content: object) -> None:
        self.loader, self.content = loader, content
        #: Whether something was trained in it, and whether a module that was set up made a forward pass.
        self.trains = self.worked_on = False

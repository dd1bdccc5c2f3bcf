"""Which modules one forward pass calls, with how many rows, and an example of the pass to repeat later."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock, get_ident
from typing import Any, Self, final
from weakref import WeakKeyDictionary, ref

from torch import nn

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.probes.example_batch import MOST_EXAMPLE_BYTES, Example, example_of
from lightning_costs.probes.memory.tensors import tensors_in
from lightning_costs.records.missing import type_only


@final
class ModuleCallRecorder:
    """Watches the calls of a module and its submodules for one forward pass.

    It watches `nn.Module.__call__` rather than hooking each module: a module that is copied or saved in that pass
    contains nothing of the package. Modules are held weakly: those that a script replaces take their weights along.
    """

    def __init__(self, module: nn.Module, *, keep_example: bool = False, samples: int | None = None) -> None:
        self._module = module
        #: Samples of the batch that the pass is of, if they are known.
        self.samples = samples
        self._keep = keep_example
        self._known: set[int] = set()
        self._thread = 0
        #: Calls that are open.
        self.depth = 0
        self._on = True
        self._kept: tuple[ref[nn.Module], tuple[Any, ...], dict[str, Any]] | None = None
        #: How often each module was called.
        self.counts: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
        #: Rows that each module was given: elements of its first floating-point tensor over its last dimension.
        self.rows: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
        #: Bytes of that tensor, of the last call.
        self.given_bytes: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
        #: Modules with parameters that were called from outside of any other, in order, and their classes.
        self._outermost: list[tuple[ref[nn.Module], str]] = []
        self.failed: str | None = None

    def __enter__(self) -> Self:
        try:
            self._known = {id(module) for module in self._module.modules()}
            self._thread = get_ident()
            _listen(self)
        except Exception as error:  # noqa: BLE001 - a module that does not list its parts is still trained
            reraise_from_signal(error)
            self.failed = type_only("the module's parts are unknown", error)
        return self

    def __exit__(self, *_: object) -> None:
        _unlisten(self)
        self._known.clear()
        self._on = False

    def stop(self) -> None:
        """What follows is not the first forward pass: SAM's second one, recomputation."""
        self._on = False

    def begins(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """A module is called in some thread: whether it is one of those that are watched."""
        if id(module) not in self._known or get_ident() != self._thread:
            return False
        self.depth += 1
        if not self._on:
            return True
        try:
            self.counts[module] = self.counts.get(module, 0) + 1
            first = next((t for t in tensors_in([*args, *kwargs.values()]) if t.is_floating_point() and t.ndim), None)
            if first is not None and not first.is_nested and first.shape[-1]:
                self.rows[module] = self.rows.get(module, 0) + first.numel() // first.shape[-1]
                self.given_bytes[module] = first.nbytes
            if self.depth == 1 and next(module.parameters(), None) is not None:
                self._outermost.append((ref(module), type(module).__name__))
                if self._keep and self._kept is None and (kept := example_of(module, args, kwargs)) is not None:
                    self._kept = ref(module), kept.args, kept.kwargs
        except Exception as error:  # noqa: BLE001 - a look at arguments must not end the user's forward pass
            reraise_from_signal(error)
            self.give_up(error)
        return True

    def give_up(self, error: Exception) -> None:
        """A call could not be inspected: nothing more is noted."""
        self.failed, self._on = type_only("calls could not be noted", error), False

    @property
    def outermost(self) -> list[nn.Module]:
        """Modules with parameters that were called from outside of any other, in order, as far as they are alive."""
        return [module for of, _ in self._outermost if (module := of()) is not None]

    @property
    def example(self) -> Example | None:
        """The outermost call, where the first forward pass had just one module to call."""
        if self._kept is None or self.why_no_example:
            return None
        of, args, kwargs = self._kept
        return Example(module, args, kwargs) if (module := of()) is not None else None

    @property
    def why_no_example(self) -> str:
        """Why the pass cannot be repeated; empty if it can."""
        if not self._keep:
            return "no example of a forward pass was kept"
        if self.failed is not None:
            return self.failed
        names = list(dict.fromkeys(name for _, name in self._outermost))
        if not names:
            return "the step calls no module with parameters: define forward() and call it in training_step"
        if len({id(of) for of, _ in self._outermost}) > 1:  # a module has one reference; a dead one has no hash
            return (
                f"the step calls {' and '.join(names)} one after the other: "
                "define forward() and call it in training_step as self(...)"
            )
        if self._kept is None:
            return f"the arguments of {names[0]} hold more than {MOST_EXAMPLE_BYTES >> 30} GiB"
        if self._kept[0]() is None:
            return f"the {names[0]} of the first forward pass was replaced"
        return ""


_lock = Lock()
_listeners: tuple[ModuleCallRecorder, ...] = ()
_original: Callable[..., Any] = nn.Module.__call__
_in_place = False


def _listen(calls: ModuleCallRecorder) -> None:
    global _listeners, _original, _in_place
    with _lock:
        _listeners = (*_listeners, calls)
        if not _in_place:
            _original, _in_place = nn.Module.__call__, True
            nn.Module.__call__ = _called  # type: ignore[method-assign]


def _unlisten(calls: ModuleCallRecorder) -> None:
    """The last one gives the method back, unless it was wrapped again meanwhile: then it only calls through."""
    global _listeners, _in_place
    with _lock:
        _listeners = tuple(each for each in _listeners if each is not calls)
        if not _listeners and _in_place and nn.Module.__call__ is _called:
            nn.Module.__call__, _in_place = _original, False  # type: ignore[method-assign]


def _called(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
    seen: list[ModuleCallRecorder] = []
    try:
        seen += [calls for calls in _listeners if calls.begins(module, args, kwargs)]
    except Exception as error:  # noqa: BLE001 - the user's forward pass continues
        reraise_from_signal(error)
        for calls in _listeners:
            calls.give_up(error)
    if not seen:
        return _original(module, *args, **kwargs)
    try:
        return _original(module, *args, **kwargs)
    finally:
        for calls in seen:
            calls.depth -= 1

"""Instance shadows: a method of one object wrapped, and given back as it was.

Objects that are pickled or copied while they are shadowed come out as if they were not: see `Shadow`.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable
from contextlib import nullcontext
from operator import itemgetter
from types import BuiltinMethodType
from typing import Any, final

from lightning_costs.patching.fail_safe import carefully, reraise_from_signal

_log = logging.getLogger("lightning_costs")

ABSENT = object()


@final
class Shadow(functools.partial[Any]):
    """The replacement of a method of one object. If it is removed below another library's patch, it only calls through.

    A partial, since that is called without a frame of its own and, unlike a function, can say how it is pickled. If it
    is reached without its owner (a variable holds `trainer.save_checkpoint`), it is pickled and copied as
    the method that it covers.
    """

    owner: Any
    name: str
    before: Any
    of_class: Any
    active: bool

    def __getattr__(self, name: str) -> Any:
        """What a method has besides, the covered one has: `__self__`, a mock's `call_count`."""
        if name == "__wrapped__":
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    @property
    def covered(self) -> Callable[..., Any]:
        """The method of this moment: a class's may have been replaced since it was covered."""
        kind = type(self.owner)
        method: Any = getattr(kind, self.name, None) if self.before is ABSENT else self.of_class
        as_ever = method is self.of_class or not hasattr(method, "__get__")
        found: Callable[..., Any] = self.__wrapped__ if as_ever else method.__get__(self.owner, kind)
        return found

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self.before is ABSENT:
            return getattr, (self.owner, self.name)
        return itemgetter(0), ((self.before,),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if self.before is not ABSENT:
            return copy.deepcopy(self.before, memo)
        method: Any = getattr(type(self.owner), self.name, None)
        if id(self.owner) not in memo:
            memo[id(self)] = self.__wrapped__  # a copy that does not say whose it is
            copy.deepcopy(self.owner, memo)
        of = memo.get(id(self.owner), self.owner)
        return method.__get__(of, type(of)) if hasattr(method, "__get__") else getattr(of, self.name)


@final
class Hook(functools.partial[Any]):
    """A hook in a user's object: copies and pickles of the object hold one that does nothing."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return getattr, (nullcontext(), "__exit__")  # takes anything, returns None, and needs no import of this package

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return nullcontext().__exit__


@final
class _State:
    """How many shadows an object has; while there are any, its state leaves them out."""

    __slots__ = ("owner", "puts", "shadows")

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.shadows = 0
        self.puts: list[Shadow] = []

    def cover(self) -> None:
        """Cover what the object is asked for when it is pickled or copied.

        `object.__reduce_ex__` looks `__getstate__` up on instances; the others matter only if its class has its own.
        """
        kind = type(self.owner)
        ways = {"__getstate__": self._getstate}
        if hasattr(kind, "__deepcopy__"):
            ways["__deepcopy__"] = self._aside
        for name in ("__reduce_ex__", "__reduce__"):
            if getattr(kind, name) is not getattr(object, name):
                ways[name] = self._reduce
        for name, way in ways.items():
            original = getattr(self.owner, name)
            wrapped = functools.partial(way, original)
            self.puts.append(_put(self.owner, name, wrapped, original, before=instance_attribute(self.owner, name)))

    def _getstate(self, original: Callable[..., Any], *args: Any) -> Any:
        return _clean(original(*args))

    def _reduce(self, original: Callable[..., Any], *args: Any) -> Any:
        reduced = self._aside(original, *args)
        if isinstance(reduced, tuple) and len(reduced) > 2:
            reduced = (*reduced[:2], _clean(reduced[2]), *reduced[3:])
        return reduced

    def _aside(self, original: Callable[..., Any], *args: Any) -> Any:
        """Call with the shadows off the object: whatever it does with its attributes, they are the user's."""
        held = vars(self.owner)
        before = dict(held)
        plain = _clean(before)
        for name in held.keys() - plain.keys():
            del held[name]
        held.update(plain)
        try:
            return original(*args)
        finally:
            held.update({name: value for name, value in before.items() if isinstance(value, Shadow)})

    def uncover(self) -> None:
        for shadow in reversed(self.puts):
            shadow.active = False
            _peel(self.owner, shadow.name)
        self.puts.clear()


def _clean(state: Any) -> Any:
    """An object's state without shadows; a state of another form is left as it is."""
    if isinstance(state, tuple) and len(state) == 2:  # with slots
        return tuple(_clean(part) for part in state)
    if type(state) is not dict or not any(isinstance(value, Shadow) for value in state.values()):
        return state
    plain = {}
    for name, value in state.items():
        bare = value
        while isinstance(bare, Shadow):
            bare = bare.before
        if bare is not ABSENT:
            plain[name] = bare
    return plain


def instance_attribute(owner: Any, name: str) -> Any:
    """What an object itself holds under a method's name, `ABSENT` if it is that of its class.

    `vars(owner)` would make a dictionary of the object's attributes, and every access to one of them slower from then
    on (CPython keeps attributes in the object until the dictionary is requested): on Lightning's loops that costs
    10 microseconds a step. So the dictionary is only asked for where the method is not plainly the class's.
    """
    held = getattr(owner, name, ABSENT)
    if isinstance(held, Shadow):
        return held
    if getattr(held, "__self__", None) is owner and (
        isinstance(held, BuiltinMethodType) or getattr(held, "__func__", held) is getattr(type(owner), name, None)
    ):
        return ABSENT
    return getattr(owner, "__dict__", {}).get(name, ABSENT)


def _put(owner: Any, name: str, call: Callable[..., Any], original: Any, *, before: Any) -> Shadow:
    shadow = Shadow(call)
    functools.update_wrapper(shadow, original)
    shadow.owner, shadow.name, shadow.before, shadow.active = owner, name, before, True
    shadow.of_class = getattr(type(owner), name, None)
    setattr(owner, name, shadow)
    kept: object = instance_attribute(owner, name)
    if kept is not shadow:  # a Mock wraps its `__getstate__` once more, and would keep it
        delattr(owner, name)
        raise TypeError(f"expected an attribute that is kept as it is set; {type(owner).__name__}.{name} is not")
    return shadow


def _peel(owner: Any, name: str) -> None:
    """Take removed patches off the top of a method: the last removal restores it."""
    while isinstance(held := instance_attribute(owner, name), Shadow) and not held.active:
        if held.before is not ABSENT:
            setattr(owner, name, held.before)
            continue
        delattr(owner, name)
        if getattr(owner, name, ABSENT) is ABSENT:  # it was made on demand (a Mock's), and deleting it forbids it
            setattr(owner, name, held.__wrapped__)
            return


@final
class Patches:
    """Wraps methods on instances; no class and no other instance is touched.

    Args:
        failed: Called when an internal exception of a wrapper is handled: measuring should stop.

    Example:
        >>> class StepListener:
        ...     def run(self):
        ...         return 1
        >>> loop, shadows = StepListener(), Patches()
        >>> shadows.wrap(loop, "run", lambda original: lambda: original() + 1)
        >>> loop.run()
        2
        >>> copy.copy(loop).run()
        1
        >>> shadows.restore()
        >>> loop.run(), "run" in vars(loop)
        (1, False)
    """

    def __init__(self, failed: Callable[[], None] | None = None) -> None:
        self._failed = failed
        self._undo: list[Callable[[], None]] = []
        #: What `suspend` takes off, in the order in which it was put: shadows, and hooks with their handles.
        self._shadows: list[Shadow] = []
        self._hooks: list[tuple[Any, Any]] = []

    def __bool__(self) -> bool:
        return bool(self._undo)

    def wrap(
        self, owner: Any, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]], *, hot: bool = False
    ) -> None:
        """Shadow `owner.name` with `wrap(original)`, if it has such a method.

        Args:
            owner: Whose method.
            name: Which method.
            wrap: Makes the shadow from the original.
            hot: The shadow is called at every step: it knows by itself when it is lifted, and then calls through
                (another library's may still cover it), and it lets no internal exception through. That spares calls.
                The method is that of the moment at which it is put; else a class's may be replaced meanwhile.
        """
        original = getattr(owner, name, None)
        if not callable(original):
            return
        failed = self._failed
        if hot:
            call = wrap(original)
        elif failed is None:

            def call(*args: Any, **kwargs: Any) -> Any:
                covered = shadow.covered
                return wrap(covered)(*args, **kwargs) if shadow.active else covered(*args, **kwargs)

        else:
            stop = failed

            def call(*args: Any, **kwargs: Any) -> Any:
                if not shadow.active:
                    return shadow.covered(*args, **kwargs)
                return carefully(shadow.covered, wrap, stop, args, kwargs)

        state = self._cover(owner)
        try:
            shadow = _put(owner, name, call, original, before=instance_attribute(owner, name))
        except Exception as error:  # noqa: BLE001 - an object of the user's that takes no attributes
            self._uncover(state)
            reraise_from_signal(error)
            _log.debug("%s.%s is not watched: it takes no attribute: %r", type(owner).__name__, name, error)
            return
        self._shadows += [*(state.puts if state.shadows == 1 else ()), shadow]

        def undo() -> None:
            shadow.active = False
            _peel(owner, name)
            self._uncover(state)

        self._undo.append(undo)

    @staticmethod
    def _cover(owner: Any) -> _State:
        """See to it that pickling and copying the object leaves shadows out."""
        held = instance_attribute(owner, "__getstate__")
        state = getattr(held, "state", None) if isinstance(held, Shadow) else None
        if not isinstance(state, _State) or state.owner is not owner:
            state = _State(owner)
            try:
                state.cover()
                state.puts[0].state = state  # type: ignore[attr-defined]
            except Exception as error:  # noqa: BLE001 - then its shadows say how they are pickled themselves
                reraise_from_signal(error)
                _log.debug("%s is pickled with what shadows it: %r", type(owner).__name__, error)
        state.shadows += 1
        return state

    @staticmethod
    def _uncover(state: _State) -> None:
        state.shadows -= 1
        if not state.shadows:
            state.uncover()

    def mask(self, owner: Any, name: str) -> None:
        """Let `owner.name` be None, for callers who ask whether a hook is callable before they call it."""
        if instance_attribute(owner, name) is not ABSENT or not hasattr(owner, name):
            return
        setattr(owner, name, None)

        def undo() -> None:
            if getattr(owner, name, ABSENT) is None:
                delattr(owner, name)

        self._undo.append(undo)

    def add_cleanup(self, undo: Callable[[], None]) -> None:
        """Something else to undo."""
        self._undo.append(undo)

    def add_hook(self, handle: Any, hook: Any) -> None:
        """A hook in a dictionary of torch's, to be removed by its handle."""
        self._undo.append(handle.remove)
        self._hooks.append((handle, hook))

    def suspend(self) -> None:
        """Take everything off for a while; what that raises stops the measuring.

        That costs a fraction of `restore`, as what was put is kept. `resume` puts it again, `restore` ends it all.
        """
        try:
            for handle, _ in self._hooks:
                handle.remove()
            for shadow in reversed(self._shadows):
                owner, name = shadow.owner, shadow.name
                if getattr(owner, name, None) is not shadow:
                    continue  # another library's patch lies above it: it stays, and calls through
                if shadow.before is ABSENT:
                    delattr(owner, name)
                else:
                    setattr(owner, name, shadow.before)
        except Exception as error:  # noqa: BLE001 - as `lift`
            self._stop(error)

    def resume(self) -> bool:
        """Put again what was suspended, unless a method is another one by now: whether it was put."""
        for shadow in self._shadows:
            owner, name = shadow.owner, shadow.name
            if instance_attribute(owner, name) is not shadow.before or (
                getattr(type(owner), name, None) is not shadow.of_class
            ):
                return False
        # An optimizer of another library may give a handle of another kind.
        held: list[Any] = [getattr(handle, "hooks_dict_ref", lambda: None)() for handle, _ in self._hooks]
        if any(hooks is None for hooks in held):
            return False
        for shadow in self._shadows:
            setattr(shadow.owner, shadow.name, shadow)
        for hooks, (handle, hook) in zip(held, self._hooks, strict=True):
            hooks[handle.id] = hook
        return True

    def lift(self) -> None:
        """`restore` in the midst of the user's work: what it raises stops the measuring."""
        try:
            self.restore()
        except Exception as error:  # noqa: BLE001 - handled by those who measure, if there are any
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        if self._failed is None:
            raise error
        _log.debug("a patch could not be lifted: %r", error)
        self._failed()

    def restore(self) -> None:
        """Give every method back, last first; what one undoing raises comes after all the others."""
        errors = []
        self._shadows, self._hooks = [], []
        while self._undo:
            try:
                self._undo.pop()()
            except Exception as error:  # noqa: BLE001 - the others have to come off as well
                errors.append(error)
        if errors:
            raise errors[0]

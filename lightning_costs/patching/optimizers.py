"""Torch optimizers under what stands around them: which holds the state, what wrappers hold for it, when they update.

DeepSpeed's names are those of 0.18 and 0.19; what is not there is not asked for. Wrappers of others (Megatron's, and
any that is no torch Optimizer and has one in `.optimizer`) are seen by their optimizer's parameters alone.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch.optim import Optimizer

from lightning_costs.patching.fail_safe import reraise_from_signal
from lightning_costs.patching.frames import method_owner
from lightning_costs.patching.patches import Hook, Patches

_log = logging.getLogger("lightning_costs")

#: Master weights that the torch optimizer's own groups do not always hold: ZeRO-3 empties them between steps.
_MASTERS = (
    "single_partition_of_fp32_groups",  # ZeRO-1 and -2
    "fp32_partitioned_groups_flat",  # ZeRO-3
)
#: Parameters beside the model's: the host's copy of this rank's partition, with offload.
_PARAMETERS = ("param_buffer_of_bit16_for_cpu_offload_groups",)
#: Gradients that no parameter holds.
_GRADIENTS = (
    "averaged_gradients",  # from the last backward pass to the update
    "all_grad_tensors",  # ZeRO-2, while gradients accumulate
    "grads_in_partition",
    "accumulated_grads_in_cpu",  # ZeRO-1 and -2 with offload
    "grad_partitions_flat_buffer",  # ZeRO-3, all the time
    "fp32_groups_gradients_flat",  # bf16 that accumulates in fp32, all the time
)
#: Attributes of torch's that hold none, and may hold much.
_NO_OPTIMIZERS = ("state", "param_groups", "defaults")
#: Frames between a step and that of its base class, at most.
_MOST_FRAMES = 30


def unwrap(optimizer: Any) -> Any:
    """The optimizer that holds the state, under wrappers of Lightning, Accelerate or DeepSpeed."""
    seen: set[int] = set()
    while id(optimizer) not in seen:
        seen.add(id(optimizer))
        if isinstance(optimizer, Optimizer) and "state" in vars(optimizer) and not hasattr(optimizer, "_optimizer"):
            break  # Accelerate's is an Optimizer that has none of its own
        inner = getattr(optimizer, "_optimizer", None) or getattr(optimizer, "optimizer", None)
        if inner is None:
            break
        optimizer = inner
    return optimizer


def inner_optimizers(optimizer: Any) -> Iterator[Optimizer]:
    """An optimizer and every optimizer it owns: SAM's base optimizer, Lookahead's inner one, a list of several."""
    seen: set[int] = set()
    waiting = [unwrap(optimizer)]
    while waiting:
        current = waiting.pop()
        if id(current) in seen or not isinstance(current, Optimizer):
            continue
        seen.add(id(current))
        yield current
        waiting += optimizers_among(
            {name: value for name, value in vars(current).items() if name not in _NO_OPTIMIZERS}
        )


def optimizers_among(attributes: Mapping[str, Any]) -> list[Optimizer]:
    """Optimizers that an object has as attributes, or in a list, tuple or dict that is one."""
    found: list[Optimizer] = []
    for value in attributes.values():
        held = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else (value,)
        found += [each for each in held if isinstance(each, Optimizer)]
    return found


def steps_within(members: Container[int]) -> bool:
    """Whether the step of one of these, by identity, called the step in progress, and none of its closures did."""
    frame = sys._getframe(1)
    for _ in range(_MOST_FRAMES):
        if frame.f_back is None or frame.f_code.co_name == "closure":  # in Lightning's is all of a training step
            return False
        frame = frame.f_back
        if frame.f_code.co_name in ("step", "wrapper") and id(method_owner(frame, Optimizer)) in members:
            return True
    return False


def caller_of(optimizer: Optimizer) -> Optimizer:
    """The outermost optimizer that owns one and is calling its step, as SAM's halves do; itself if none is."""
    frame, found = sys._getframe(1), optimizer
    for _ in range(_MOST_FRAMES):
        if frame.f_back is None:
            break
        frame = frame.f_back
        caller = method_owner(frame, Optimizer)
        if isinstance(caller, Optimizer) and any(optimizer is inner for inner in inner_optimizers(caller)):
            found = unwrap(caller)  # Lightning's wrapper of one is an Optimizer, too
    return found


def wrappers(optimizer: Any) -> Iterator[Any]:
    """What stands around the torch optimizer and is none itself, outermost first."""
    inner, seen = unwrap(optimizer), set[int]()
    while optimizer is not None and optimizer is not inner and id(optimizer) not in seen:
        seen.add(id(optimizer))
        if not isinstance(optimizer, Optimizer):
            yield optimizer
        optimizer = getattr(optimizer, "_optimizer", None) or getattr(optimizer, "optimizer", None)


def master_weights(optimizer: Any) -> list[object]:
    """Where the weights are that the torch optimizer updates for a wrapper; without a wrapper, nowhere else."""
    around, found = list(wrappers(optimizer)), list[object]()
    for wrapper in around:
        found += [getattr(wrapper, name, None) for name in _MASTERS]
    if around:
        for member in inner_optimizers(optimizer):
            found += [group["params"] for group in member.param_groups]
            found.append([key for key in member.state if isinstance(key, torch.Tensor)])
    return found


def parameters_of(optimizer: Any) -> list[object]:
    """Where a wrapper keeps copies of the model's parameters."""
    return [getattr(wrapper, name, None) for wrapper in wrappers(optimizer) for name in _PARAMETERS]


def gradients_of(optimizer: Any) -> list[object]:
    """Where a wrapper keeps gradients, beside those of its masters."""
    return [getattr(wrapper, name, None) for wrapper in wrappers(optimizer) for name in _GRADIENTS]


class Updating(Protocol):
    """Receives when an update begins and ends; neither raises."""

    @property
    def on(self) -> bool:
        """Whether it listens."""

    def lose(self, error: Exception) -> None:
        """A moment could not be noted."""

    def update_begins(self) -> None:
        """An optimizer's step begins."""

    def update_ends(self) -> None:
        """It is over."""


class Sampling(Updating, Protocol):
    """Receives also moments inside an update."""

    def sample_memory(self) -> None:
        """Memory may peak here; it does not raise."""


class Pausing(Updating, Protocol):
    """Receives also what is around zeroing."""

    def pause(self) -> None:
        """Something begins that is neither pass nor update."""

    def resume(self) -> None:
        """It is over."""


def hook_optimizer_step(
    optimizer: Any,
    updated: Callable[[], object],
    shadows: Patches,
    timed: Sampling | None = None,
    apart: Iterable[Any] = (),
) -> None:
    """Report every update of an optimizer, until the patches are removed.

    A wrapper may call its torch optimizer several times for one update (ZeRO once for each parameter group), or not
    at all (gradients overflowed): an update is reported once, if it happened, and none while DeepSpeed accumulates.
    That of an optimizer that it owns is reported, too, outside its own: SAM's halves step its base optimizer.

    Args:
        optimizer: The optimizer, or what stands around it.
        updated: Called after each update.
        shadows: Hold the hooks.
        timed: Receives moments of updates.
        apart: Optimizers that are reported for themselves, even if others hold them.
    """
    inner = unwrap(optimizer)
    if not hasattr(inner, "register_step_post_hook"):
        return
    around = next(wrappers(optimizer), None)
    if timed is not None:
        time_updates(optimizer, shadows, timed)
    if around is None:
        hook_step(inner, shadows, after=updated)
        own = {id(unwrap(other)) for other in apart}
        family = list(inner_optimizers(inner))
        for owned in family[1:]:
            if id(owned) in own:
                continue
            if timed is not None:
                begins, ends = _moment(timed, timed.update_begins), _moment(timed, timed.update_ends)
                hook_step(owned, shadows, before=begins, after=ends, plain=True, within=family)
            hook_step(owned, shadows, after=updated, within=family)
        return
    within: list[bool] = []  # the wrapper's step in progress: whether it updated anything

    def part() -> None:
        if within:
            within[-1] = True
        else:
            updated()  # the script steps the torch optimizer itself

    def stepping(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            within.append(False)
            try:
                return original(*args, **kwargs)
            finally:
                if within.pop():
                    updated()

        return step

    shadows.wrap(around, "step", stepping)
    if timed is not None:
        hook_step(inner, shadows, before=timed.sample_memory, after=timed.sample_memory)
    hook_step(inner, shadows, after=part)


def time_updates(optimizer: Any, shadows: Patches, timed: Updating) -> None:
    """Report when the outermost step of an optimizer begins and ends."""
    around = next(wrappers(optimizer), None)
    if around is None:
        begins, ends = _moment(timed, timed.update_begins), _moment(timed, timed.update_ends)
        hook_step(unwrap(optimizer), shadows, before=begins, after=ends, plain=True)
    else:
        shadows.wrap(around, "step", between(timed, timed.update_begins, timed.update_ends), hot=True)


def _moment(timed: Updating, report: Callable[[], object]) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        try:
            if timed.on:
                report()
        except Exception as error:  # noqa: BLE001 - a moment that is lost must not end the training
            reraise_from_signal(error)
            timed.lose(error)

    return hook


def between(
    timed: Updating, begins: Callable[[], None], ends: Callable[[], None]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A patch that reports the moments before and after a call while `timed` is on; neither raises."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            on = False
            try:
                if on := timed.on:
                    begins()
            except Exception as error:  # noqa: BLE001 - a moment that is lost must not end the training
                reraise_from_signal(error)
                timed.lose(error)
            if not on:
                return original(*args, **kwargs)
            try:
                return original(*args, **kwargs)
            finally:
                try:
                    ends()
                except Exception as error:  # noqa: BLE001 - as above
                    reraise_from_signal(error)
                    timed.lose(error)

        return call

    return wrap


def hook_parts(optimizer: Any, shadows: Patches, timed: Pausing) -> None:
    """Report zeroing, and SAM's halves where a script calls them itself."""
    for name in ("first_step", "second_step"):
        shadows.wrap(optimizer, name, between(timed, timed.update_begins, timed.update_ends), hot=True)
    shadows.wrap(optimizer, "zero_grad", between(timed, timed.pause, timed.resume), hot=True)


def hook_step(
    optimizer: Any,
    shadows: Patches,
    *,
    before: Callable[..., object] | None = None,
    after: Callable[..., object] | None = None,
    plain: bool = False,
    within: Iterable[Any] = (),
) -> None:
    """Have a torch optimizer that has hooks call `before` and `after`, which must not raise, around its step.

    Args:
        optimizer: The optimizer.
        shadows: Hold the hooks.
        before: Called before each step.
        after: Called after it.
        plain: Whether both take the hooks' own arguments: that spares a call.
        within: Optimizers inside whose steps neither is called.
    """
    # `is`: torch sets True, and a mock in place of the step would record that it was asked for its truth.
    takes = getattr(getattr(type(optimizer), "step", None), "hooked", False) is True
    for name, function in (("register_step_pre_hook", before), ("register_step_post_hook", after)):
        if function is None or not hasattr(optimizer, name):
            continue
        try:
            takes_all = function if plain else _ignoring_arguments(function)
            hook = Hook(_outermost(takes_all, [optimizer, *within]) if within or _may_nest(optimizer) else takes_all)
            handle = getattr(optimizer, name)(hook) if takes else None
        except Exception as error:  # noqa: BLE001 - an optimizer of the user's that takes no hooks
            reraise_from_signal(error)
            _log.debug("the step of %s is shadowed: %s raised %r", type(optimizer).__name__, name, error)
            handle = None
        if handle is not None:
            shadows.add_hook(handle, hook)
        else:  # torch's `__init__` did not run, as in many a Lookahead: the class calls no hooks
            shadows.wrap(optimizer, "step", _calling(function, first=function is before))


def _calling(function: Callable[..., object], *, first: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            if first:
                function()
            result = original(*args, **kwargs)
            if not first:
                function()
            return result

        return step

    return wrap


def _may_nest(optimizer: Any) -> bool:
    """Whether its step may call that of a base class, which has torch's hooks called once more."""
    return sum("step" in vars(kind) for kind in type(optimizer).__mro__ if kind is not Optimizer) > 1


def _outermost(function: Callable[..., object], family: Iterable[Any]) -> Callable[..., None]:
    """A hook that is silent inside another step of these optimizers.

    Whether a base class's step has hooks depends on whether one of its instances was made in the process. No state is
    kept, as a step that raises has no end.
    """
    members = {id(member) for member in family}  # a reference would keep an optimizer's state

    def hook(optimizer: Any, *rest: Any) -> None:
        step = sys._getframe(1)  # torch's wrapper of a step, which calls the hooks
        frame = step.f_back
        for _ in range(_MOST_FRAMES):
            if frame is None:
                break
            code = frame.f_code
            is_step = code is step.f_code or code.co_name == "step"
            if is_step and id(method_owner(frame, Optimizer)) in members:
                return
            frame = frame.f_back
        function(optimizer, *rest)

    return hook


def _ignoring_arguments(function: Callable[[], object]) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        function()

    return hook

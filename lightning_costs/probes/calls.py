"""Which modules one forward pass calls, with how many rows, and an example of the pass to repeat later."""

from __future__ import annotations

from collections import Counter
from typing import Any, Self, final

from torch import nn

from lightning_costs.probes.example import MOST_EXAMPLE_BYTES, Example, example_of
from lightning_costs.probes.tensors import tensors_in


@final
class ModuleCalls:
    """Hooks every module for one forward pass; the hooks are gone when it is left.

    Args:
        module: The root.
        keep_example: Whether the arguments of the outermost call are copied to the host.
    """

    def __init__(self, module: nn.Module, *, keep_example: bool = False) -> None:
        self._module = module
        self._keep = keep_example
        self._handles: list[Any] = []
        self._depth = 0
        self._on = True
        self._kept: Example | None = None
        #: How often each module was called.
        self.counts: Counter[nn.Module] = Counter()
        #: Rows that each module was given: elements of its first floating-point tensor over its last dimension.
        self.rows: Counter[nn.Module] = Counter()
        #: Modules with parameters that were called from outside of any other, in order.
        self.outermost: list[nn.Module] = []
        self.failed: str | None = None

    def __enter__(self) -> Self:
        for module in self._module.modules():
            try:
                self._handles += [
                    module.register_forward_pre_hook(self._begins, prepend=True, with_kwargs=True),
                    module.register_forward_hook(self._ended, always_call=True),
                ]
            except Exception as error:  # noqa: BLE001 - a module that takes no hooks is not told of
                self.failed = f"{type(module).__name__} takes no hooks: {error!r}"
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._on = False

    def stop(self) -> None:
        """What follows is not the first forward pass: SAM's second one, recomputation."""
        self._on = False

    def _begins(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._depth += 1
        if not self._on:
            return
        try:
            self.counts[module] += 1
            first = next((t for t in tensors_in([*args, *kwargs.values()]) if t.is_floating_point() and t.ndim), None)
            if first is not None and not first.is_nested and first.shape[-1]:
                self.rows[module] += first.numel() // first.shape[-1]
            if self._depth == 1 and next(module.parameters(), None) is not None:
                self.outermost.append(module)
                if self._keep and self._kept is None:
                    self._kept = example_of(module, args, kwargs)
        except Exception as error:  # noqa: BLE001 - a look at arguments must not end the user's forward pass
            self.failed = f"a call of {type(module).__name__} could not be noted: {error!r}"
            self._on = False

    def _ended(self, module: nn.Module, args: Any, output: Any) -> None:
        self._depth -= 1

    @property
    def example(self) -> Example | None:
        """The outermost call, where the first forward pass had just one module to call."""
        return self._kept if not self.why_no_example else None

    @property
    def why_no_example(self) -> str:
        """Why the pass cannot be repeated; empty where it can."""
        if not self._keep:
            return "no example of a forward pass was kept"
        if self.failed is not None:
            return self.failed
        names = list(dict.fromkeys(type(module).__name__ for module in self.outermost))
        if not names:
            return "the step calls no module with parameters: define forward() and call it in training_step"
        if len(dict.fromkeys(self.outermost)) > 1:
            return (
                f"the step calls {' and '.join(names)} one after the other: "
                "define forward() and call it in training_step as self(...)"
            )
        if self._kept is None:
            return f"the arguments of {names[0]} hold more than {MOST_EXAMPLE_BYTES >> 30} GiB"
        return ""

"""Loaded by each Python that `lightning-costs run` starts: transformers' trainer gets a callback when it is imported.

Every Accelerator that a script makes for itself is measured, too.

It is inert without LIGHTNING_COSTS=1, imports nothing of the package before that, and raises nothing. The
`sitecustomize` that it stands before is loaded as well.
"""

import os
import sys
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))


def _add_callback(module: ModuleType) -> None:
    from lightning_costs.integrations.lightning.entry_points import huggingface

    module.DEFAULT_CALLBACKS.extend(huggingface())


def _measure_accelerators(module: ModuleType) -> None:
    from lightning_costs.integrations.lightning.entry_points import accelerate

    made = module.Accelerator.__init__

    @wraps(made)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it becomes the class's
        made(self, *args, **kwargs)
        accelerate(self)

    module.Accelerator.__init__ = __init__


_AFTER = {"transformers.trainer": _add_callback, "accelerate.accelerator": _measure_accelerators}


class _AfterImport(Loader):
    """Loads as another loader does, and then has the module's classes measured.

    Args:
        loader: The other one.
        after: What is called with the module.
    """

    def __init__(self, loader: Any, after: Any) -> None:
        self._loader, self._after = loader, after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the other loader."""
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """As the other loader."""
        self._loader.exec_module(module)
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        try:
            self._after(module)
        except Exception as error:  # noqa: BLE001 - a Python without lightning-costs, a module of another shape
            print(f"lightning-costs: {module.__name__} is not measured: {error!r}", file=sys.stderr)


class _Finder(MetaPathFinder):
    """Finds these modules as Python does, each once."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """None for every other module."""
        if (after := _AFTER.pop(fullname, None)) is None:
            return None
        if not _AFTER:
            sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _AfterImport(spec.loader, after)
        return spec


def _load_next() -> None:
    """The sitecustomize that Python would have loaded."""
    others = [place for place in sys.path if os.path.abspath(place or os.curdir) != _HERE]
    spec = PathFinder.find_spec("sitecustomize", others)
    sys.path[:] = others
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if os.environ.get("LIGHTNING_COSTS") == "1":
    sys.meta_path.insert(0, _Finder())
if __name__ == "sitecustomize":
    _load_next()

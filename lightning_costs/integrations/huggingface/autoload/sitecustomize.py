"""Loaded by each Python that `lightning-costs run` starts: when transformers' trainer is imported, it gets a callback.

It is inert without LIGHTNING_COSTS=1, imports nothing of ours before that, and raises nothing. The `sitecustomize` that
it stands before is loaded as well.
"""

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from types import ModuleType
from typing import Any

_TRAINER = "transformers.trainer"
_HERE = os.path.dirname(os.path.abspath(__file__))


class _AfterImport(Loader):
    """Loads as another loader does, and adds our callback to the defaults.

    Args:
        loader: The other one.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the other loader."""
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        """As the other loader; then its default callbacks are one more."""
        self._loader.exec_module(module)
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        try:
            from lightning_costs.integrations.lightning.entry_points import huggingface

            module.DEFAULT_CALLBACKS.extend(huggingface())
        except Exception as error:  # noqa: BLE001 - a Python without lightning-costs, a transformers of another shape
            print(f"lightning-costs: transformers' Trainer is not measured: {error!r}", file=sys.stderr)


class _Finder(MetaPathFinder):
    """Finds transformers' trainer as Python does, once."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        """None for every other module."""
        if fullname != _TRAINER:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _AfterImport(spec.loader)
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

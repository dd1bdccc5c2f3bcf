"""The Callback class of every installed namespace at once."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytorch_lightning import Callback as Callback
else:

    def _callbacks() -> tuple[type, ...]:
        names = [name for name in ("lightning.pytorch", "pytorch_lightning") if find_spec(name.partition(".")[0])]
        return tuple(import_module(name).Callback for name in names)

    #: Whose instances are callbacks of each namespace.
    Callback = type("Callback", _callbacks(), {})

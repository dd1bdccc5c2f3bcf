"""One Callback class for `lightning.pytorch` and `pytorch_lightning`, made of the namespaces that are imported.

Both are usually installed, and importing the second changes the first: `lightning_utilities` keeps one logger and one
category of deprecation for both, and the last import takes them. `logging.getLogger("lightning.pytorch")` would then
silence nothing. So no namespace is imported that the process does without. A base class joins when its module arrives,
since a script may import this package first.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, final

#: In the order of preference where a callback is made before either is imported. `pytorch_lightning` is installed with
#: this package; a user who has `lightning` installed it separately.
NAMESPACES = ("lightning.pytorch", "pytorch_lightning")

if TYPE_CHECKING:
    from pytorch_lightning import Callback as Callback
else:

    class _Own:
        """A class whose only base is `object` cannot be given others; one below it can."""

    class Callback(_Own):
        """A callback of each namespace that is imported, whenever that happens."""

        def __init__(self) -> None:
            join()
            if Callback.__bases__ == (_Own,):
                _import_one()
            super().__init__()


def join() -> None:
    """Make `Callback` a subclass of each namespace's own that is imported by now."""
    modules = [sys.modules.get(f"{name}.callbacks.callback") for name in NAMESPACES]
    found = [getattr(module, "Callback", None) for module in modules]
    fresh = [kind for kind in found if isinstance(kind, type) and kind not in Callback.__mro__]
    if fresh:
        Callback.__bases__ = (*Callback.__bases__, *fresh)


def _import_one() -> None:
    """Import the preferred namespace of those that are installed.

    Raises:
        ImportError: If none can be imported.
    """
    preferred, other = NAMESPACES
    try:
        import_module(preferred)
    except ImportError:
        import_module(other)
    join()


@final
class _Arrivals:
    """Sees every import of a namespace and finds none itself: most of one's modules come after its Callback."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name.startswith(NAMESPACES):
            with suppress(Exception):  # the import is the user's
                join()


sys.meta_path.insert(0, _Arrivals())
join()

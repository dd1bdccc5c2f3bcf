"""Hyperparameters as a header holds them: plain values by name, one level deep, without secrets."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import PurePath
from typing import Any

from lightning_costs.records.printable import utf8_encodable
from lightning_costs.records.secrets import is_secret_name, looks_secret, without_homes

Plain = str | int | float | bool | None

#: Most hyperparameters of a run, levels of settings within settings, characters of a name and of a text.
MOST, DEEPEST, LONGEST_NAME, LONGEST_TEXT = 500, 8, 120, 200
_SEED = re.compile(r"(^|[._-])seeds?$", re.IGNORECASE)
_MOST_WHOLE = 2**63


def plain_hyperparameters(given: object) -> dict[str, Plain]:
    """Hyperparameters by name, those of nested settings joined by dots; secrets, and names with `_` first, left out.

    A list of plain values is JSON. What is no plain value, or too long a text, is given by its type alone.

    Args:
        given: A mapping, a namespace or a dataclass, as `save_hyperparameters` takes it.

    Example:
        >>> plain_hyperparameters({"lr": 0.1, "net": {"widths": [64, 32], "act": print}, "api_key": "abc"})
        {'lr': 0.1, 'net.widths': '[64, 32]', 'net.act': 'print'}
        >>> plain_hyperparameters({"data_dir": "/home/ada/cifar10", "model": object(), "note": "x" * 300})
        {'data_dir': '…/cifar10', 'model': '<object>', 'note': '<str of 300 characters>'}
    """
    found: dict[str, Plain] = {}
    for name, value in _flat(given, "", DEEPEST):
        if len(found) == MOST:
            break
        if len(name) > LONGEST_NAME or is_secret_name(name, value) or looks_secret(name):
            continue
        kept = _plain(value)
        if kept is not _LEFT_OUT:
            found[utf8_encodable(name)] = kept
    return found


def seeds_among(hyperparameters: Mapping[str, object]) -> dict[str, int]:
    """The hyperparameters that are seeds, by name.

    Example:
        >>> seeds_among({"seed": 3, "data.seed": 4, "model_seed": "5", "seeded": 6})
        {'seed': 3, 'data.seed': 4, 'model_seed': 5}
    """
    found = {}
    for name, value in hyperparameters.items():
        if _SEED.search(name) and not isinstance(value, bool) and (number := _whole(value)) is not None:
            found[name] = number
    return found


def _whole(value: object) -> int | None:
    try:
        return int(value) if isinstance(value, int) or (isinstance(value, str) and len(value) < 20) else None
    except ValueError:
        return None


_LEFT_OUT: Any = object()


def _settings(value: object) -> Mapping[Any, Any] | None:
    """What has settings of its own, as a mapping."""
    if isinstance(value, Mapping):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in fields(value)}
    if type(value).__name__ == "Namespace":  # argparse's, and jsonargparse's
        return dict(vars(value))
    return None


def _flat(value: object, name: str, levels: int) -> Iterator[tuple[str, object]]:
    settings = _settings(value)
    if settings is None or (name and not settings):
        if name:
            yield name, value
        return
    for key in list(settings):
        if not isinstance(key, str | int | float) or str(key).startswith("_"):
            continue
        inner = f"{name}.{key}" if name else str(key)
        try:
            item = settings[key]
        except Exception as error:  # noqa: BLE001 - a configuration whose reference leads nowhere
            yield inner, error
            continue
        if levels <= 0:
            yield inner, object()
        elif is_secret_name(str(key)) and _settings(item) is not None:
            continue
        else:
            yield from _flat(item, inner, levels - 1)


def _plain(value: object) -> Plain:
    """A value as it is recorded: itself, its JSON, or its type."""
    if isinstance(value, Enum):
        return _plain(value.name)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str | PurePath):
        return _text(str(value))
    if isinstance(value, int | float):
        return _number(value)
    kind = type(value)
    if isinstance(value, list | tuple | set | frozenset) or kind.__name__ == "ListConfig":
        return _list(value)
    if kind.__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        return _plain(value.item())
    if kind.__module__ == "torch" and kind.__name__ in ("dtype", "device", "Size"):
        return str(value)
    if isinstance(value, type) or kind.__name__ in ("function", "builtin_function_or_method"):
        return _text(str(getattr(value, "__name__", kind.__name__)))
    if isinstance(value, Mapping):
        return "{}"
    return f"<{kind.__name__}>"


def _number(value: int | float) -> Plain:
    if isinstance(value, int):
        return int(value) if abs(value) < _MOST_WHOLE else f"<int of {value.bit_length()} bits>"
    return float(value) if math.isfinite(value) else str(float(value))


def _text(text: str) -> Plain:
    if looks_secret(text):
        return _LEFT_OUT  # type: ignore[no-any-return]
    if len(text) > LONGEST_TEXT:
        return f"<str of {len(text):,} characters>"
    return utf8_encodable(without_homes(text))


def _list(values: Any) -> Plain:
    if len(values) > LONGEST_TEXT:
        return f"<{type(values).__name__} of {len(values):,}>"
    if isinstance(values, set | frozenset):
        values = sorted(values, key=repr)
    kept = [_plain(item) if _settings(item) is None else f"<{type(item).__name__}>" for item in values]
    if any(item is _LEFT_OUT for item in kept):
        return _LEFT_OUT  # type: ignore[no-any-return]
    text = json.dumps(kept, ensure_ascii=False)
    return text if len(text) <= LONGEST_TEXT else f"<{type(values).__name__} of {len(kept):,}>"

"""What a header's texts must not carry into a paper: absolute paths, device UUIDs."""

from __future__ import annotations

import re

_UUID = re.compile(r"(?:GPU-|MIG-)?[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
#: Two names or more behind a slash that follows no word and no other slash, so that 'g/kWh' and a URL stay; a home,
#: a drive, a file URL.
_PATH = re.compile(
    r"file://[^\s'\",;)]*"
    r"|(?<![\w/:.~-])~?/(?:[\w.@+~-]+/)+[^\s'\",;:)]*"
    r"|(?<![\w/:.-])/(?:home|root|Users|tmp|mnt|data|scratch)\b[^\s'\",;:)]*"
    r"|(?<![\w])[A-Za-z]:\\[^\s'\",;)]+"
    r"|\\\\[\w.-]+\\[^\s'\",;)]+"
)


def discreet(text: str) -> str:
    """A text on one line, without absolute paths and device UUIDs; URLs stay.

    Example:
        >>> discreet("no file /home/anna/run/x.toml on GPU-01234567-89ab-cdef-0123-456789abcdef")
        'no file [path] on [uuid]'
        >>> discreet("56 g/kWh (https://example.org/a/b, 2/3)")
        '56 g/kWh (https://example.org/a/b, 2/3)'
    """
    return _PATH.sub("[path]", _UUID.sub("[uuid]", " ".join(text.split())))

"""Texts that came from a run, as a terminal, a picture and a page can show them: what is invisible is written out."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

#: Control characters but newline and tab, which a terminal obeys; marks that turn the direction of what follows, which
#: make a text read as another; separators of lines and paragraphs; what no XML holds (XML 1.0, section 2.2), which
#: ends the process that draws an SVG; halves of surrogate pairs, which no file in UTF-8 holds.
_HIDDEN = re.compile(
    "\r\n|[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def printable(text: str) -> str:
    r"""A text in which every character can be seen: others stand there as Python escapes them, lines end in newlines.

    Example:
        >>> print(printable("\x1b[31mred\x1b[0m, \u202egnp.exe"))
        \x1b[31mred\x1b[0m, \u202egnp.exe
        >>> printable("Zoë — 模型 👩\u200d🔬\n") == "Zoë — 模型 👩\u200d🔬\n"
        True
    """
    return text if text.isprintable() else _HIDDEN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    character = found.group()
    if character == "\r\n":
        return "\n"
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def utf8_encodable(text: str) -> str:
    """A text that UTF-8 holds: halves of surrogate pairs are escaped."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode("utf-8")


def printable_data(data: Any) -> Any:
    """Plain data, every text of which is legible; the same object if all are."""
    if isinstance(data, str):
        return printable(data)
    if isinstance(data, Mapping):
        pairs = {printable_data(key): printable_data(value) for key, value in data.items()}
        same = all(a is b and v is w for (a, v), (b, w) in zip(data.items(), pairs.items(), strict=False))
        return data if same and len(pairs) == len(data) else pairs
    if isinstance(data, list | tuple):
        items = [printable_data(item) for item in data]
        return data if all(a is b for a, b in zip(data, items, strict=True)) else items
    return data


class PrintableLogFilter(logging.Filter):
    """Log records whose messages are legible, whatever they quote."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Escape the message if it has invisible characters; every record passes."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that do not fit: the handler says so
            return True
        if (shown := printable(message)) != message:
            record.msg, record.args = shown, None
        return True


logging.getLogger("lightning_costs").addFilter(PrintableLogFilter())

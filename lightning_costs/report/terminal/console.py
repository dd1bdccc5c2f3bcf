"""The command line's words: whatever a run is called, a terminal shows it and obeys none of it."""

from __future__ import annotations

import sys
import textwrap
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.text import Text

from lightning_costs.records.printable import printable


class Terminal(Console):
    """A console on which texts are plain: no markup, no emoji codes, no control characters of theirs."""

    def __init__(self) -> None:
        super().__init__(markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **how: Any) -> Text:
        """A text as it is shown; rich asks for it wherever it is given one."""
        return super().render_str(printable(text), **how)

    def sentence(self, text: str) -> None:
        """A line of prose: wrapped between words in a terminal, whole in a pipe or a file."""
        if self.is_terminal:  # no line begins with a sign that belongs to the number before it
            kept = text.replace(" %", "\u00a0%")
            filled = textwrap.fill(kept, self.width, break_long_words=False, break_on_hyphens=False)
            text = filled.replace("\u00a0", " ")
        self.print(text, soft_wrap=True)


def say(text: object, *, error: bool = False) -> None:
    """Print a line, on stderr if it is an error."""
    print(printable(str(text)), file=sys.stderr if error else sys.stdout)


def take_any_text() -> None:
    """Let the standard streams write out what their encoding cannot represent, rather than fail at it."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, ValueError, OSError):  # another library's stream, or a closed one
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]

"""CSV that a spreadsheet opens as what it is: no cell of a user's text can become a formula or tear a row."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence

#: A cell that begins with one of these is a formula to a spreadsheet (OWASP, 'CSV Injection').
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def safe_cell(value: object) -> object:
    """A cell: numbers as they are, texts on one line and never a formula, what is missing or infinite empty.

    Example:
        >>> safe_cell("=cmd|' /C calc'!A0"), safe_cell("two\\nlines"), safe_cell(-1.5), safe_cell(None)
        ("'=cmd|' /C calc'!A0", 'two lines', -1.5, '')
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, int | float):
        return value
    text = str(value)
    mark = "'" if text.lstrip(" ").startswith(_FORMULA) else ""
    text = " ".join(text.split())
    text = "".join(character for character in text if character.isprintable())
    return mark + text.encode("utf-8", "replace").decode("utf-8")


def as_csv(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV with a heading."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([safe_cell(head) for head in heads])
    writer.writerows([safe_cell(value) for value in row] for row in rows)
    return out.getvalue()

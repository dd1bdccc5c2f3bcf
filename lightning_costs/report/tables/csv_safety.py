"""CSV that a spreadsheet opens as what it is: no cell of a user's text can become a formula or tear a row."""

from __future__ import annotations

import csv
import io
import math
import unicodedata
from collections.abc import Iterable, Sequence

from lightning_costs.records.printable import printable

#: A cell that begins with one of these is a formula to a spreadsheet (OWASP, 'CSV Injection'), whatever stands before
#: it that cannot be seen, and in its other widths too, which some spreadsheets take for it.
_FORMULA = ("=", "+", "-", "@")


def safe_cell(value: object) -> object:
    r"""A cell: numbers as they are, texts on one line and never a formula, what is missing or infinite empty.

    Example:
        >>> safe_cell("=cmd|' /C calc'!A0"), safe_cell("two\nlines"), safe_cell(-1.5), safe_cell(None)
        ("'=cmd|' /C calc'!A0", 'two lines', -1.5, '')
        >>> safe_cell("\t\uff1dcmd"), safe_cell("👩\u200d🔬 Zoë") == "👩\u200d🔬 Zoë"
        ("'＝cmd", True)
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    if isinstance(value, int | float):
        return value
    text = str(value)
    first = next((character for character in text if character.isprintable() and not character.isspace()), "")
    mark = "'" if unicodedata.normalize("NFKC", first).startswith(_FORMULA) else ""
    return mark + printable(" ".join(text.split()))


def as_csv(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV with a heading."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([safe_cell(head) for head in heads])
    writer.writerows([safe_cell(value) for value in row] for row in rows)
    return out.getvalue()

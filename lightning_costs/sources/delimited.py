"""Text with separators as a table of texts: what spreadsheets and programs write under the name of CSV."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from lightning_costs.storage.limits import MOST_POINTS_BYTES, refuse_pointer, too_much

if TYPE_CHECKING:
    import polars

#: The column of row numbers beside those of a table: rows count from 1, blank ones too, the heading apart.
ROW = "\0row"
_GZIP = b"\x1f\x8b"
_SEPARATORS = (",", ";", "\t", "|")
#: Number of characters from which the separator is detected.
_LOOKED_AT = 1 << 16
#: What a file that begins so is, whatever its name says.
_NO_TEXT = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "a Parquet file",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
}
#: Byte order marks; that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class Texts(NamedTuple):
    """A table of texts with its row numbers, and what a reader must know of how it was read."""

    frame: polars.DataFrame
    notes: list[str]


def read_delimited(name: str, content: bytes, *, tabs: bool) -> Texts:
    """A table from the bytes of a file: gzipped or not, in any encoding with a mark, else UTF-8 or Windows-1252.

    Raises:
        ValueError: Names the row that has more or fewer cells than the heading, or says what the file is instead.
    """
    import polars

    refuse_pointer(name, content)
    content = _unpacked(name, content)
    for begins, what in _NO_TEXT.items():
        if content.startswith(begins):
            raise ValueError(f"{name} is {what} and no text: save it as CSV, or name it as what it is")
    text, notes = _decoded(name, content)
    hint = re.match(r'"?sep=(.)"?[ \t]*(?:\r\n|\r|\n|$)', text, re.IGNORECASE)
    if hint:
        text, separator = text[hint.end() :], hint[1]
    else:
        separator = "\t" if tabs else _separator(text)
    head, rows, numbers = _rows(name, text, separator)
    if twice := sorted({column for column in head if column and head.count(column) > 1}):
        raise ValueError(f"{name}: two columns are named {twice[0]!r}; rename one")
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(head)
    frame = polars.DataFrame(
        {
            column or f"column {at}": polars.Series(cells, dtype=polars.String)
            for at, (column, cells) in enumerate(zip(head, columns, strict=True), 1)
            if column or not _counts_or_blank(cells)
        }
    )
    return Texts(frame.with_columns(polars.Series(ROW, numbers, polars.Int64)), notes)


def _unpacked(name: str, content: bytes) -> bytes:
    if not content.startswith(_GZIP):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(MOST_POINTS_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{name} is gzipped and broken: {error}") from error
    if len(unpacked) > MOST_POINTS_BYTES:
        raise too_much(f"{name}, unpacked,", len(unpacked), MOST_POINTS_BYTES)
    return unpacked


def _decoded(name: str, content: bytes) -> tuple[str, list[str]]:
    encoding = next((encoding for mark, encoding in _MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text, notes = content.decode(encoding), list[str]()
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ValueError(f"{name} begins as {encoding} and is none: {error.reason}") from error
        old = "cp1252" if not set(content) & {0x81, 0x8D, 0x8F, 0x90, 0x9D} else "latin-1"
        text = content.decode(old)
        notes = [f"{name} is no UTF-8 and was read as {old}: check names with accents, or save it as UTF-8"]
    if "\0" in text:
        raise ValueError(f"{name} holds bytes that are no text (NUL): save it as UTF-8")
    return text, notes


def _separator(text: str) -> str:
    """The separator that cuts most rows into as many cells as the heading, and the heading into most of them."""
    begin = text[:_LOOKED_AT]
    whole = len(begin) == len(text)

    def fit(separator: str) -> tuple[float, int]:
        try:
            widths = [len(record) for record in _records(begin, separator, strict=whole) if not _blank(record)][:50]
        except csv.Error:
            return 0.0, 0
        if not widths or widths[0] < 2:
            return 0.0, 0
        return sum(width == widths[0] for width in widths) / len(widths), widths[0]

    fits = {separator: fit(separator) for separator in _SEPARATORS}
    return max(_SEPARATORS, key=lambda separator: fits[separator])


def _records(text: str, separator: str, *, strict: bool = True) -> Iterator[list[str]]:
    """Cells of each row; every kind of line end is one."""
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=strict)


def _blank(record: list[str]) -> bool:
    return not "".join(record).strip()


def _rows(name: str, text: str, separator: str) -> tuple[list[str], list[list[str]], list[int]]:
    """The heading, rows as wide as it, and their numbers; blank rows are left out."""
    head: list[str] = []
    rows: list[list[str]] = []
    numbers: list[int] = []
    at = named = 0
    try:
        for record in _records(text, separator):
            blank = _blank(record)
            if not head:
                if not blank:
                    head = [cell.strip() for cell in record]
                    named = max(index for index, cell in enumerate(head, 1) if cell)
                continue
            at += 1
            if blank:
                continue
            if len(record) != len(head):
                if len(record) < named or not _blank(record[len(head) :]):
                    raise ValueError(
                        f"{name} is no table: row {at} has {len(record)} cells where the heading has {len(head)}, "
                        f"separated by {separator!r}; quote cells that hold it"
                    )
                record = [*record[: len(head)], *[""] * (len(head) - len(record))]
            rows.append(record)
            numbers.append(at)
    except csv.Error as error:
        raise ValueError(f"{name} is no table: row {at + 1 if head else 0}: {error}") from error
    if not head:
        raise ValueError(f"{name} is no table: it is empty")
    return head, rows, numbers


def _counts_or_blank(cells: tuple[str, ...]) -> bool:
    """Whether a column without a name is nothing: blank, or the row numbers that pandas writes."""
    texts = [cell.strip() for cell in cells]
    return not any(texts) or any(texts == [str(at) for at in range(first, first + len(texts))] for first in (0, 1))

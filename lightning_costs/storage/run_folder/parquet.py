"""A table as Parquet, written without a library: a training process must not load one.

Those that write Parquet (polars, pyarrow, DuckDB) start threads, and a process that is forked afterwards hangs in them
forever. A run's points need little of the format: one row group of flat, optional columns, each one page of
plain values, gzipped if it is long. Read it with any of these libraries.

Source: https://parquet.apache.org/docs/file-format/ and thrift's compact protocol, as of format version 2.11.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

Kind = Literal["int", "float", "text"]
#: Values of a column and what they are; None is null.
Columns = Mapping[str, tuple[Kind, Sequence[int | float | str | None]]]

_MAGIC = b"PAR1"
_TYPE = {"int": 2, "float": 5, "text": 6}  # INT64, DOUBLE, BYTE_ARRAY
_OPTIONAL, _UTF8, _PLAIN, _RLE, _UNCOMPRESSED, _GZIP, _DATA_PAGE = 1, 0, 0, 3, 0, 2, 0
#: Pages up to this size in bytes are not compressed: compressing takes longer than writing.
_SMALL_BYTES = 4096
#: Kinds of thrift's compact protocol.
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12


def parquet(columns: Columns) -> bytes:
    """A file that holds a table.

    Example:
        >>> import io, polars
        >>> polars.read_parquet(io.BytesIO(parquet({"a": ("float", [1.5, None]), "b": ("text", ["x", "y"])}))).rows()
        [(1.5, 'x'), (None, 'y')]
    """
    rows = max((len(values) for _, values in columns.values()), default=0)
    file, chunks, size = bytearray(_MAGIC), [], 0
    for name, (kind, values) in columns.items() if rows else ():
        at = len(file)
        page = _levels(values) + _plain(kind, values)
        packs = len(page) > _SMALL_BYTES
        packed = gzip.compress(page, compresslevel=1, mtime=0) if packs else page
        about = _struct((1, _I32, rows), (2, _I32, _PLAIN), (3, _I32, _RLE), (4, _I32, _RLE))
        head = _struct((1, _I32, _DATA_PAGE), (2, _I32, len(page)), (3, _I32, len(packed)), (5, _STRUCT, about))
        file += head + packed
        size += len(head) + len(page)
        meta = _struct(
            (1, _I32, _TYPE[kind]),
            (2, _LIST, _list(_I32, [_zigzag(_PLAIN), _zigzag(_RLE)])),
            (3, _LIST, _list(_BINARY, [_binary(name)])),
            (4, _I32, _GZIP if packs else _UNCOMPRESSED),
            (5, _I64, rows),
            (6, _I64, len(head) + len(page)),
            (7, _I64, len(file) - at),
            (9, _I64, at),
        )
        chunks.append(_struct((2, _I64, at), (3, _STRUCT, meta)))
    schema = [_struct((4, _BINARY, _binary("schema")), (5, _I32, len(columns)))]
    for name, (kind, _) in columns.items():
        utf8 = [(6, _I32, _UTF8)] if kind == "text" else []
        schema.append(_struct((1, _I32, _TYPE[kind]), (3, _I32, _OPTIONAL), (4, _BINARY, _binary(name)), *utf8))
    group = _struct((1, _LIST, _list(_STRUCT, chunks)), (2, _I64, size), (3, _I64, rows))
    footer = _struct(
        (1, _I32, 1),
        (2, _LIST, _list(_STRUCT, schema)),
        (3, _I64, rows),
        (4, _LIST, _list(_STRUCT, [group] if rows else [])),
        (6, _BINARY, _binary("lightning-costs")),
    )
    return bytes(file + footer + struct.pack("<I", len(footer)) + _MAGIC)


def _levels(values: Sequence[object]) -> bytes:
    """Which values are there: definition levels, as one run of the same or one of packed bits."""
    if (lacking := values.count(None)) in (0, len(values)):
        run = _varint(len(values) << 1) + bytes([not lacking])
    else:
        bits = np.packbits([value is not None for value in values], bitorder="little").tobytes()
        run = _varint(len(bits) << 1 | 1) + bits
    return struct.pack("<I", len(run)) + run


def _plain(kind: Kind, values: Sequence[int | float | str | None]) -> bytes:
    there = [value for value in values if value is not None]
    if kind == "text":
        encoded = [_utf8(str(value)) for value in there]
        return b"".join(struct.pack("<I", len(text)) + text for text in encoded)
    return np.array(there, dtype="<i8" if kind == "int" else "<f8").tobytes()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


# Thrift's compact protocol -------------------------------------------------------------------------------------


def _struct(*fields: tuple[int, int, int | bytes]) -> bytes:
    """A struct of (number, kind, value): integers as they are, other values as they are written."""
    written, last = bytearray(), 0
    for number, kind, value in fields:
        written.append((number - last) << 4 | kind)
        written += _zigzag(value) if isinstance(value, int) else value
        last = number
    return bytes(written) + b"\0"


def _list(kind: int, items: Iterable[bytes]) -> bytes:
    items = list(items)
    head = bytes([len(items) << 4 | kind]) if len(items) < 15 else bytes([0xF0 | kind]) + _varint(len(items))
    return head + b"".join(items)


def _binary(text: str) -> bytes:
    encoded = _utf8(text)
    return _varint(len(encoded)) + encoded


def _zigzag(number: int) -> bytes:
    return _varint(number << 1 if number >= 0 else (-number << 1) - 1)


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)

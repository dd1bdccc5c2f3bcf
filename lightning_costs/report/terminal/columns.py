"""Tables with a run in each row: columns keep the width of their content, and those that do not fit are left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

#: Columns of the terminal between two columns of a table: the first with which all of them fit, else the first.
_GAPS = (2, 1)
#: Fewest and most columns of the terminal for the names of runs.
_NAMES = (12, 40)


class Column(NamedTuple):
    """A heading and a cell for each row; a cell's mark, such as '*', stands behind its text."""

    head: str
    cells: Sequence[Text]
    marks: Sequence[str] = ()


class FittedTable(NamedTuple):
    """The lines of a table, and the headings of the columns that did not fit."""

    lines: list[Text]
    left_out: list[str]


def fit_table(names: Sequence[str], columns: Sequence[Column], width: int) -> FittedTable:
    """Lay out a table in the width of the terminal."""
    widest = max((cell_len(name) for name in names), default=0)
    first = min(widest, max(_NAMES[0], min(_NAMES[1], width // 3)))
    sizes = [_size(column) for column in columns]
    gap = next((gap for gap in _GAPS if first + sum(sizes) + gap * len(sizes) <= width), _GAPS[0])
    count, left = 0, width - first
    while count < len(columns) and left >= sizes[count] + gap:
        left -= sizes[count] + gap
        count += 1
    shown = list(zip(columns[:count], sizes, strict=False))
    heads = [_wrap(column.head, size) for column, size in shown]
    tallest = max(map(len, heads), default=0)
    lines = []
    for place in range(tallest):
        line = Text(" " * first)
        for head, (_, size) in zip(heads, shown, strict=True):
            words = [""] * (tallest - len(head)) + head
            line.append(words[place].rjust(size + gap), style="bold")
        line.rstrip()
        lines.append(line)
    for row, name in enumerate(names):
        line = Text(set_cell_size(shorten(name, first), first))
        for column, size in shown:
            mark = _mark(column)
            cell, sign = column.cells[row], column.marks[row] if column.marks else ""
            line.append(" " * (size + gap - mark - cell.cell_len))
            line.append_text(cell)
            line.append(set_cell_size(sign, mark), style=cell.style)
        line.rstrip()
        lines.append(line)
    return FittedTable(lines, [column.head for column in columns[count:]])


def blocks(names: Sequence[str], columns: Sequence[Column], width: int) -> list[Text]:
    """A table as lines, in as many blocks beneath each other as it needs, an empty line after each."""
    lines: list[Text] = []
    left = list(columns)
    while left:
        table = fit_table(names, left, width)
        shown = len(left) - len(table.left_out)
        if not shown:  # wider than the terminal by itself
            table, shown = fit_table(names, left[:1], 10_000), 1
        lines += [*table.lines, Text()]
        left = left[shown:]
    return lines


def _mark(column: Column) -> int:
    return max(map(cell_len, column.marks), default=0)


def _size(column: Column) -> int:
    """A column is as wide as its widest cell and the longest word of its heading."""
    body = max((cell.cell_len for cell in column.cells), default=0) + _mark(column)
    return max(body, *map(cell_len, column.head.split()))


def shorten(name: str, width: int) -> str:
    """A name in at most `width` columns: what differs is at its ends, so the middle is left out.

    Example:
        >>> shorten("resnet50-imagenet-adamw-seed3", 16), shorten("sgd", 16)
        ('resnet50…w-seed3', 'sgd')
    """
    name = " ".join(name.split())
    if cell_len(name) <= width:
        return name
    tail = (width - 1) // 2
    start, end = name[: width - 1 - tail], name[-tail:] if tail else ""
    while cell_len(start) + cell_len(end) + 1 > width and (start or end):
        start, end = (start[:-1], end) if cell_len(start) >= cell_len(end) else (start, end[1:])
    return f"{start}…{end}"


def _wrap(head: str, size: int) -> list[str]:
    lines = [""]
    for word in head.split():
        if lines[-1] and cell_len(lines[-1]) + 1 + cell_len(word) > size:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines

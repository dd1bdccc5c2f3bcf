"""Cells of a foreign table as numbers: thousands grouped, per cent, either decimal mark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import polars

Decimal = Literal[".", ","]
#: What people write into a cell that holds nothing.
EMPTY = ("", "-", "–", "—", "na", "n/a", "null", "none", "missing")
_MINUS = "^[−﹣－]"
#: Marks that group thousands and can be nothing else; then the mark whose meaning hangs on the decimal one.
_GROUPED = r"^-?[1-9]\d{0,2}(?:[ \u00a0\u202f\u2009'’_]\d{3})+(?:[.,]\d+)?$"
_GROUPS = r"[ \u00a0\u202f\u2009'’_]"
_COMMAS = r"^-?[1-9]\d{0,2}(?:,\d{3})+(?:\.\d+)?$"
_DOTS = r"^-?[1-9]\d{0,2}(?:\.\d{3})+(?:,\d+)?$"
#: With such a cell in a column its decimal mark is the dot.
_DOT_IS_DECIMAL = r"(?:,\d{3}){2}|,\d{3}\.\d|^[^,]*\.(?:\d{0,2}|\d{4,})$|^-?0?\.\d|\d{4}\.\d|\d[eE][-+]?\d"


class Numbers(NamedTuple):
    """A column as numbers.

    Args:
        values: Float64; null where a cell holds nothing, or no number.
        wrong: Cells that hold something else than a number.
        percent: Whether cells were in per cent: values are fractions.
    """

    values: polars.Series
    wrong: polars.Series
    percent: bool = False

    @property
    def is_text(self) -> bool:
        """Whether this is no column of numbers."""
        return bool(self.values.null_count() == len(self.values) or self.wrong.any())


def numbers(column: polars.Series, decimal: Decimal | None = None) -> Numbers:
    """The numbers of a column.

    A comma groups thousands if other cells of the column show that the dot is its decimal mark; `decimal` gives it
    if no cell shows it. Spaces, apostrophes and underscores in groups of three are no part of a number. Cells with
    a per cent sign are fractions, in a column in which every cell has it.

    Example:
        >>> import polars
        >>> numbers(polars.Series(["1,014.45", "305.08", "−2", "n/a"])).values.to_list()
        [1014.45, 305.08, -2.0, None]
        >>> numbers(polars.Series(["1,080"])).wrong.to_list(), numbers(polars.Series(["1,080"]), ".").values.to_list()
        ([True], [1080.0])
        >>> numbers(polars.Series(["1.080,5", "76,1"]), ",").values.to_list()
        [1080.5, 76.1]
        >>> numbers(polars.Series(["75%", "5 %"])).values.to_list()
        [0.75, 0.05]
    """
    import polars

    if isinstance(column.dtype, polars.Categorical | polars.Enum):
        column = column.cast(polars.String)
    if column.dtype != polars.String:
        numeric = column if column.dtype.is_numeric() else polars.Series(column.name, [None] * len(column))
        values = numeric.cast(polars.Float64)
        return Numbers(values, column.is_not_null() & values.is_null())
    text = column.str.strip_chars().str.replace(_MINUS, "-").str.replace(r"^\+", "")
    held = filled(column)
    percent = bool(held.any()) and bool(text.filter(held).str.ends_with("%").all())
    if percent:
        text = text.str.strip_suffix("%").str.strip_chars()
    if decimal != ",":
        values = text.cast(polars.Float64, strict=False)
        wrong = held & values.is_null()
        if not wrong.any():
            return Numbers(values / 100 if percent else values, wrong, percent)
    text = _ungrouped(text, decimal, held)
    values = text.cast(polars.Float64, strict=False)
    return Numbers(values / 100 if percent else values, held & values.is_null(), percent)


def _ungrouped(text: polars.Series, decimal: Decimal | None, held: polars.Series) -> polars.Series:
    """Texts with dots as decimal marks and nothing between thousands, those that may mean two numbers as they are."""
    import polars

    def rewritten(pattern: str, groups: str) -> polars.Series:
        return text.to_frame("text").select(
            polars.when(polars.col("text").str.contains(pattern))
            .then(polars.col("text").str.replace_all(groups, ""))
            .otherwise(polars.col("text"))
        )["text"]

    text = rewritten(_GROUPED, _GROUPS)
    if decimal == ",":
        strange = text.str.contains(r"\.") & ~text.str.contains(_DOTS)
        text = rewritten(_DOTS, r"\.").str.replace(",", ".", literal=True)
        return text.set(strange.fill_null(value=False), "no number")
    commas = text.str.contains(",") & held
    sure = decimal == "." or bool(
        text.filter(commas).str.contains(_COMMAS).all() and text.filter(held).str.contains(_DOT_IS_DECIMAL).any()
    )
    return rewritten(_COMMAS, ",") if sure else text


def filled(column: polars.Series) -> polars.Series:
    """Which cells hold something."""
    import polars

    if column.dtype != polars.String:
        return column.is_not_null()
    return column.is_not_null() & ~column.fill_null("").str.strip_chars().str.to_lowercase().is_in(EMPTY)


def hint(cell: str, decimal: Decimal | None) -> str:
    """What to do about a cell that is no number as it stands; nothing if only the author knows."""
    if decimal is not None:
        return f", with {decimal!r} as the decimal mark"
    if "," in cell:
        return "; say which mark is the decimal one: decimal='.' or ',', --decimal"
    return "; either every cell of the column is in per cent, or none" if cell.strip().endswith("%") else ""

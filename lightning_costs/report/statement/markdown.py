"""A statement in Markdown: for a model card, a README, an issue."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from lightning_costs.report.statement.facts import Statement
from lightning_costs.report.statement.sentences import paragraphs
from lightning_costs.report.statement.tables import Table, runs_table, totals_table, written_by

#: An underscore within a word marks nothing.
_MARKS = re.compile(r"([\\`*\[\]~|$]|(?<![^\W_])_|_(?![^\W_]))")
#: They turn the direction of what follows, out of the text that they are in.
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def markdown(said: Statement, *, tables: Sequence[Table] = (), cautions: Sequence[str] = ()) -> str:
    """The statement as Markdown (CommonMark, with tables as GitHub and Hugging Face draw them).

    Args:
        said: The statement.
        tables: Those of a comparison, which follow it.
        cautions: Sentences that follow these.
    """
    parts = ["## Cost of training"]
    parts += [f"**{escaped(title)}.** {' '.join(map(escaped, sentences))}" for title, sentences in paragraphs(said)]
    parts.append(_table(totals_table(said)))
    if (runs := runs_table(said)) is not None:
        parts.append(_table(runs))
    if tables or cautions:
        parts.append("## Comparison")
    parts += map(_table, tables)
    if cautions:
        parts.append("To be read with these tables:\n\n" + "\n".join(f"- {escaped(caution)}" for caution in cautions))
    parts.append(f"*Written by {escaped(written_by())}.*")
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    r"""A text that Markdown shows as it is, on one line.

    Example:
        >>> escaped("_a_ a_b | <b>*c*</b> & 5 $")
        '\\_a\\_ a_b \\| &lt;b&gt;\\*c\\*&lt;/b&gt; &amp; 5 \\$'
    """
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text if c not in _TURNS)
    text = _MARKS.sub(r"\\\1", " ".join(text.split()))
    return "".join(_ENTITIES.get(character, character) for character in text)


def _table(table: Table) -> str:
    rules = [":--" if weight >= 2 else "--:" for weight in table.weights]
    rows = [table.heads, *table.rows]
    lines = [f"| {' | '.join(map(escaped, row))} |" for row in rows]
    lines.insert(1, f"| {' | '.join(rules)} |")
    return f"{escaped(table.caption)}\n\n" + "\n".join(lines)

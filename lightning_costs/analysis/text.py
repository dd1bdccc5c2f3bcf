"""Words that cautions are made of: users' texts quoted on one line, runs listed, and the caution itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lightning_costs.analysis.schema import Caution

#: Most runs that a caution names.
NAMED = 6


def quote(text: str, most: int = 60) -> str:
    r"""A user's text on one line within quotation marks, cut if it is long.

    Example:
        >>> quote("two\nlines")
        "'two\\nlines'"
    """
    return repr(text if len(text) <= most else f"{text[: most - 1]}…")


def list_runs(labels: Iterable[str], most: int = NAMED) -> str:
    """Runs in a sentence.

    Example:
        >>> list_runs(["a", "b", "c"], most=2)
        "'a', 'b' and 1 more"
    """
    words = [quote(label, 30) for label in labels]
    if len(words) > most:
        return f"{', '.join(words[:most])} and {len(words) - most} more"
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def caution(kind: str, text: str, runs: Iterable[str] = (), *, section: str | None = None, **evidence: Any) -> Caution:
    """A caution; `evidence` are the figures behind its words."""
    return {"kind": kind, "text": text, "section": section, "runs": list(runs), "evidence": evidence}

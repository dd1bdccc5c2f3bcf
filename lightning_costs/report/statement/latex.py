"""A statement in LaTeX that needs no package: for a paper's appendix, whatever its class and engine."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from lightning_costs.report.statement.facts import Statement
from lightning_costs.report.statement.sentences import paragraphs
from lightning_costs.report.statement.tables import Table, runs_table, totals_table, written_by

#: Rows of a table that fit on a page; longer ones go on in another.
ROWS = 36
#: Room on either side of a cell, in points.
GAP_PT = 2
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    # A name of underscores is one word to LaTeX, which no column can hold.
    "_": r"\_\allowbreak{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "|": r"\ensuremath{|}",
    # At the start of a row, a bracket and a star would be read as arguments of the row before's end; babel makes
    # other signs of a double quotation mark.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    '"': "{''}",
    "/": "/\\allowbreak{}",
    "–": "--",
    "—": "---",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "…": r"\ldots{}",
    "×": r"\ensuremath{\times}",
    "±": r"\ensuremath{\pm}",
    "≈": r"\ensuremath{\approx}",
    "·": r"\ensuremath{\cdot}",
    "µ": r"\ensuremath{\mu}",
    "μ": r"\ensuremath{\mu}",
    "°": r"\ensuremath{^\circ}",
    "≤": r"\ensuremath{\le}",
    "≥": r"\ensuremath{\ge}",
    "→": r"\ensuremath{\to}",
    "⁄": "/",
    "−": "-",
    "€": "EUR",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
}
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0304": "=",
    "\u0306": "u",
    "\u0307": ".",
    "\u0308": '"',
    "\u030a": "r",
    "\u030b": "H",
    "\u030c": "v",
    "\u0327": "c",
}
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"
#: Two of these make another sign together: hyphens a dash, commas and quotation marks a double one, ?` a Spanish one.
_LIGATURE = re.compile("[-,'`?!](?=[-,'`])")
_RAISED_RUN = re.compile(f"[{_RAISED}]+")
_LOWERED = str.maketrans(_RAISED, "0123456789-")


def latex(said: Statement, *, tables: Sequence[Table] = (), cautions: Sequence[str] = ()) -> str:
    r"""The statement as LaTeX for `\input` or for pasting into a document.

    Args:
        said: The statement.
        tables: Those of a comparison, which follow it.
        cautions: Sentences that go with these.
    """
    parts = [f"% {written_by()}. Plain LaTeX: no package is needed, ASCII only."]
    parts += [
        f"\\paragraph{{{escaped(title)}.}} {' '.join(map(escaped, sentences))}" for title, sentences in paragraphs(said)
    ]
    parts += _floats(totals_table(said), "tab:training-costs")
    if (runs := runs_table(said)) is not None:
        parts += _floats(runs, "tab:training-runs")
    if cautions:
        parts.append(f"\\paragraph{{Comparison.}} {' '.join(f'{escaped(caution)}.' for caution in cautions)}")
    for number, table in enumerate(tables, 1):
        parts += _floats(table, f"tab:training-comparison-{number}")
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    r"""A text that LaTeX prints as it is: what ASCII and accents cannot show is named.

    Example:
        >>> escaped("50 % of a_b & c"), escaped("Zoë, 10⁻³ \U0001f525")
        ('50 \\% of a\\_\\allowbreak{}b \\& c', 'Zo\\"{e}, 10\\textsuperscript{-3} {[}fire{]}')
    """
    text = "".join(character for character in text if character not in _RAISING)
    text = _RAISED_RUN.sub(lambda run: f"\ue000{run.group().translate(_LOWERED)}\ue001", " ".join(text.split()))
    text = _LIGATURE.sub(lambda one: f"{one.group()}\ue002", text)
    found: list[str] = []
    for character in unicodedata.normalize("NFC", text):
        found.append(_RAISING.get(character) or _SPECIAL.get(character) or _plain(character))
    return "".join(found)


#: Private characters that stand for LaTeX's own signs while a text is escaped: around raised digits, in ligatures.
_RAISING = {"\ue000": r"\textsuperscript{", "\ue001": "}", "\ue002": "{}"}


def _plain(character: str) -> str:
    if " " <= character <= "~":
        return character
    if unicodedata.category(character) in ("Cc", "Cf", "Mn", "Me"):
        return ""
    if unicodedata.category(character) == "Zs":
        return " "
    parts = unicodedata.normalize("NFKD", character)
    base, marks = parts[0], parts[1:]
    if base.isascii() and marks and all(mark in _ACCENTS for mark in marks):
        text = "\\i" if base == "i" else "\\j" if base == "j" else base
        for mark in marks:
            text = f"\\{_ACCENTS[mark]}{{{text}}}"
        return text
    if parts.isascii():
        return "".join(_SPECIAL.get(one, one) for one in parts)
    name = unicodedata.name(character, "").lower()
    return (
        f"{{[}}{name.replace('-', '{-}')}{{]}}"
        if name and "ideograph" not in name
        else f"{{[}}U+{ord(character):04X}{{]}}"
    )


def _floats(table: Table, label: str) -> list[str]:
    """The table as floats over the whole width of the page, in one and in two columns."""
    whole = sum(table.weights)
    columns = "".join(
        f"p{{\\dimexpr{weight / whole:.4f}\\textwidth-{2 * GAP_PT}pt\\relax}}" for weight in table.weights
    )
    chunks = [table.rows[at : at + ROWS] for at in range(0, len(table.rows), ROWS)] or [[]]
    found = []
    for number, rows in enumerate(chunks):
        caption = escaped(table.caption) + (" (continued)" if number else "")
        lines = [
            r"\begin{table*}[tbp]",
            f"\\centering\\scriptsize\\setlength{{\\tabcolsep}}{{{GAP_PT}pt}}",
            f"\\caption{{{caption}}}\\vspace{{4pt}}",
            *([f"\\label{{{label}}}"] if not number else []),
            f"\\begin{{tabular}}{{{columns}}}",
            r"\hline",
            _row(table.heads),
            r"\hline",
            *map(_row, rows),
            r"\hline",
            r"\end{tabular}",
            r"\end{table*}",
        ]
        found.append("\n".join(lines))
    return found


def _row(cells: Sequence[str]) -> str:
    # \tabularnewline, as \raggedright makes a new line within the cell of \\.
    return " & ".join(f"\\raggedright {escaped(cell)}" for cell in cells) + r" \tabularnewline"

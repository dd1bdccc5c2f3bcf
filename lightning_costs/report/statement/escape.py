"""A text as each format shows it, whatever is in it: `redact` for all, then `markdown`, `latex` or `yaml`."""

from __future__ import annotations

import re
import unicodedata

_UUID = re.compile(r"(?:GPU-|MIG-)?[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
#: Two names or more behind a slash that follows no word and no other slash, so that 'g/kWh' and a URL stay; a home,
#: a drive, a file URL.
_PATH = re.compile(
    r"file://[^\s'\",;)]*"
    r"|(?<![\w/:.~-])~?/(?:[\w.@+~-]+/)+[^\s'\",;:)]*"
    r"|(?<![\w/:.-])/(?:home|root|Users|tmp|mnt|data|scratch)\b[^\s'\",;:)]*"
    r"|(?<![\w])[A-Za-z]:\\[^\s'\",;)]+"
    r"|\\\\[\w.-]+\\[^\s'\",;)]+"
)

#: An underscore within a word marks nothing.
_MARKS = re.compile(r"([\\`*\[\]~|$]|(?<![^\W_])_|_(?![^\W_]))")
#: They turn the direction of what follows, out of the text that they are in.
_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}

# A name of underscores or of slashes is one word to LaTeX, which no column can hold. At the start of a row, a bracket
# and a star would be read as arguments of the row before's end; babel makes other signs of a double quotation mark.
_SPECIAL = {
    **{sign: f"\\{sign}" for sign in "{}$&%#"},
    **{sign: f"\\ensuremath{{{sign}}}" for sign in "<>|"},
    **{sign: f"{{{sign}}}" for sign in "[]*"},
    "\\": r"\textbackslash{}", "_": r"\_\allowbreak{}", "/": "/\\allowbreak{}", '"': "{''}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "…": r"\ldots{}", "€": "EUR", "⁄": "/", "−": "-",
    "–": "--", "—": "---", "‘": "`", "’": "'", "“": "``", "”": "''",
    "×": r"\ensuremath{\times}", "±": r"\ensuremath{\pm}", "≈": r"\ensuremath{\approx}", "·": r"\ensuremath{\cdot}",
    "µ": r"\ensuremath{\mu}", "μ": r"\ensuremath{\mu}", "°": r"\ensuremath{^\circ}", "≤": r"\ensuremath{\le}",
    "≥": r"\ensuremath{\ge}", "→": r"\ensuremath{\to}",
    "ß": r"\ss{}", "æ": r"\ae{}", "Æ": r"\AE{}", "œ": r"\oe{}", "Œ": r"\OE{}", "ø": r"\o{}", "Ø": r"\O{}",
    "ł": r"\l{}", "Ł": r"\L{}", "ı": r"\i{}",
}  # fmt: skip
_ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u",
    "\u0307": ".", "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0327": "c",
}  # fmt: skip
_RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"
#: Two of these make another sign together: hyphens a dash, commas and quotation marks a double one, ?` a Spanish one.
_LIGATURE = re.compile("[-,'`?!](?=[-,'`])")
_RAISED_RUN = re.compile(f"[{_RAISED}]+")
_LOWERED = str.maketrans(_RAISED, "0123456789-")
#: Private characters that stand for LaTeX's own signs while a text is escaped: around raised digits, in ligatures.
_RAISING = {"\ue000": r"\textsuperscript{", "\ue001": "}", "\ue002": "{}"}


def redact(text: str) -> str:
    """A text on one line, without absolute paths and device UUIDs; URLs stay.

    Example:
        >>> redact("no file /home/anna/run/x.toml on GPU-01234567-89ab-cdef-0123-456789abcdef")
        'no file [path] on [uuid]'
        >>> redact("56 g/kWh (https://example.org/a/b, 2/3)")
        '56 g/kWh (https://example.org/a/b, 2/3)'
    """
    return _PATH.sub("[path]", _UUID.sub("[uuid]", " ".join(text.split())))


def markdown(text: str) -> str:
    r"""A text that Markdown shows as it is, on one line.

    Example:
        >>> markdown("_a_ a_b | <b>*c*</b> & 5 $")
        '\\_a\\_ a_b \\| &lt;b&gt;\\*c\\*&lt;/b&gt; &amp; 5 \\$'
    """
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text if c not in _TURNS)
    text = _MARKS.sub(r"\\\1", " ".join(text.split()))
    return "".join(_ENTITIES.get(character, character) for character in text)


def latex(text: str) -> str:
    r"""A text that LaTeX prints as it is, without a package: what ASCII and accents cannot show is named.

    Example:
        >>> latex("50 % of a_b & c"), latex("Zoë, 10⁻³ \U0001f525")
        ('50 \\% of a\\_\\allowbreak{}b \\& c', 'Zo\\"{e}, 10\\textsuperscript{-3} {[}fire{]}')
    """
    text = "".join(character for character in text if character not in _RAISING)
    text = _RAISED_RUN.sub(lambda run: f"\ue000{run.group().translate(_LOWERED)}\ue001", " ".join(text.split()))
    text = _LIGATURE.sub(lambda one: f"{one.group()}\ue002", text)
    characters = unicodedata.normalize("NFC", text)
    return "".join(_RAISING.get(one) or _SPECIAL.get(one) or _in_ascii(one) for one in characters)


def _in_ascii(character: str) -> str:
    if " " <= character <= "~":
        return character
    if unicodedata.category(character) in ("Cc", "Cf", "Mn", "Me"):
        return ""
    if unicodedata.category(character) == "Zs":
        return " "
    parts = unicodedata.normalize("NFKD", character)
    base, marks = parts[0], parts[1:]
    if base.isascii() and marks and all(mark in _ACCENTS for mark in marks):
        text = f"\\{base}" if base in "ij" else base
        for mark in marks:
            text = f"\\{_ACCENTS[mark]}{{{text}}}"
        return text
    if parts.isascii():
        return "".join(_SPECIAL.get(one, one) for one in parts)
    name = unicodedata.name(character, "").lower()
    known = name and "ideograph" not in name
    return f"{{[}}{name.replace('-', '{-}') if known else f'U+{ord(character):04X}'}{{]}}"


def yaml(value: str | float) -> str:
    r"""A text in YAML's double quotes, on one line, whatever is in it; a float that every reader takes for one.

    Example:
        >>> yaml('8 x "A100": 50 %\n'), yaml(1e-05), yaml(12.5)
        ('"8 x \\"A100\\": 50 %\\n"', '1.0e-05', '12.5')
    """
    if isinstance(value, str):
        return '"' + "".join(map(_yaml_character, value)) + '"'
    # A mantissa without a point would be a text to some.
    mantissa, mark, exponent = repr(float(value)).partition("e")
    return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}{mark}{exponent}"


def _yaml_character(character: str) -> str:
    code = ord(character)
    if character in '\\"':
        return f"\\{character}"
    if character == "\n":
        return "\\n"
    if 0xD800 <= code <= 0xDFFF:  # half of a pair, which no file in UTF-8 can hold
        return "\ufffd"
    if " " <= character <= "~" or (code >= 0xA0 and code not in (0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF)):
        return character
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"

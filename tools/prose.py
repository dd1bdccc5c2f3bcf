"""Check the prose of README, docs and package: marked turns of phrase, and sentences that are too long.

    python tools/prose.py            # counts, and an error if there are more than allowed
    python tools/prose.py --list     # each of them with its place
    python tools/prose.py --files    # counts by file

Prose is Markdown outside code, and docstrings, comments and messages of `lightning_costs`. CONTRIBUTING.md has the
rules.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
#: The most that `make lint` allows, over all files. Lower them whenever the counts fall.
ALLOWED_TURNS = 2
ALLOWED_LONG = 58
MOST_WORDS = 25

#: What to write instead.
TURNS = {
    r"(?:fore)?t(?:ells?|old)(?! (?:\w+ )?apart)": "a verb of the thing: reports, records, passes, identifies",
    r"nobody|somebody|anybody|whoever|whosoever": "the actor, or the passive: 'the script', 'is not set'",
    r"dearer|dearest": "more expensive, costs more",
    r"c[ao]mes? to|had come to": "amounts to, was, totals",
    r"(?:is|are|was|were) gone": "has ended, was removed, is missing",
    r"heard|hears": "received, reported",
    r"lacks?|lacked": "has no, is without, is missing",
    r"anew": "again, is recomputed",
    r"so many|so much": "the number, as many, that amount",
    r"go(?:es)? on|went on|goes along": "continues",
    r"(?:of|by|from|for|with|at) us|of ours": "lightning-costs, the package",
    r"(?:is|are|was|were|be|been) said": "is stated, is recorded, a warning names",
    r"look(?:s|ed) at": "is read, is inspected",
    r"lets? go(?: of)?": "releases, closes",
    r"where (?:no|none|nothing|neither|nor|there|one|it|they|its|all|both|some|any|another|more|only|this|that)": "if",
    r"of use": "useful",
    r"at hand": "available",
    r"how-manyth|ever new|as ever|for ever": "index, new, still",
}
PATTERN = re.compile("|".join(f"(?P<t{i}>\\b(?:{turn})\\b)" for i, turn in enumerate(TURNS)), re.IGNORECASE)


class Text(NamedTuple):
    path: Path
    line: int
    text: str
    sentences: bool  # whole sentences, so that their length means something


class Found(NamedTuple):
    path: Path
    line: int
    what: str
    instead: str


def texts() -> Iterator[Text]:
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))):
        yield from of_markdown(path)
    for path in sorted((ROOT / "lightning_costs").rglob("*.py")):
        yield from of_python(path)


def of_markdown(path: Path) -> Iterator[Text]:
    """Paragraphs, list items and cells, without code and without what programs made."""
    text = re.sub(r"<!-- made: .*?<!-- end -->", blanked, path.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"^```.*?^```$", blanked, text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->|`[^`\n]+`", lambda match: blanked(match, "`c`"), text, flags=re.DOTALL)
    start, lines = 1, []
    for number, line in enumerate([*text.split("\n"), ""], start=1):
        begins = not line.strip() or re.match(r"\s*(?:[-*]|\d+\.) |[#|>]", line)
        if begins and lines:
            yield Text(path, start, " ".join(lines), True)
            lines = []
        if line.startswith("|"):
            yield from (Text(path, number, cell, True) for cell in line.split("|"))
        elif line.strip():
            start = start if lines else number
            lines.append(line.strip())


def blanked(match: re.Match[str], word: str = "") -> str:
    """The same lines, empty, so that numbers of lines stay."""
    return word + "\n" * match[0].count("\n")


def of_python(path: Path) -> Iterator[Text]:
    source = path.read_text(encoding="utf-8")
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                docstrings.add(first.value)
                yield from of_docstring(path, first.lineno, first.value.value)
    for node in ast.walk(ast.parse(source)):
        text = isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) > 3
        if text and not any(node.lineno == one.lineno for one in docstrings):
            yield Text(path, node.lineno, re.sub(r"`[^`]+`", "`c`", node.value), False)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield Text(path, token.start[0], re.sub(r"`[^`]+`", "`c`", token.string.lstrip("#: ")), False)


def of_docstring(path: Path, line: int, docstring: str) -> Iterator[Text]:
    text = re.sub(r"^ *(?:>>>|\.\.\.).*$|^ *```.*?```", blanked, docstring, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]+`", "`c`", text)
    start, lines = line, []
    for number, one in enumerate([*text.split("\n"), ""], start=line):
        begins = not one.strip() or re.match(r"\s*(?:[-*] |\w+(?: \(.*\))?: )", one)
        if begins and lines:
            yield Text(path, start, " ".join(lines), True)
            lines = []
        if one.strip():
            start = start if lines else number
            lines.append(one.strip())


def found(text: Text) -> Iterator[Found]:
    for match in PATTERN.finditer(text.text):
        assert match.lastgroup is not None
        yield Found(text.path, text.line, match[0], list(TURNS.values())[int(match.lastgroup[1:])])


def too_long(text: Text) -> Iterator[Found]:
    for sentence in re.split(r"(?<=[.!?:;])\s+", text.text) if text.sentences else ():
        if (words := len(re.findall(r"[\w`'-]*\w[\w`'-]*", re.sub(r"\]\([^)]*\)", "]", sentence)))) > MOST_WORDS:
            yield Found(text.path, text.line, f"{words} words: {sentence[:60]}...", f"at most {MOST_WORDS}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--list", action="store_true", help="show each with its place")
    parser.add_argument("--files", action="store_true", help="show counts by file")
    parser.add_argument("only", nargs="*", type=Path, help="files or folders; all by default")
    args = parser.parse_args()
    only = [path.resolve() for path in args.only]
    read = [text for text in texts() if not only or any(text.path.is_relative_to(path) for path in only)]
    turns = [one for text in read for one in found(text)]
    long = [one for text in read for one in too_long(text)]
    if args.list:
        for one in sorted([*turns, *long]):
            print(f"{one.path.relative_to(ROOT)}:{one.line}: {one.what}  ({one.instead})")
    if args.files:
        by_turn, by_length = (Counter(str(one.path.relative_to(ROOT)) for one in those) for those in (turns, long))
        for name in sorted(by_turn | by_length, key=lambda name: -(by_turn[name] + by_length[name])):
            print(f"{by_turn[name]:4} turns {by_length[name]:4} long  {name}")
    print(f"{len(turns)} marked turns ({ALLOWED_TURNS} allowed), {len(long)} long sentences ({ALLOWED_LONG} allowed)")
    too_many = not only and (len(turns) > ALLOWED_TURNS or len(long) > ALLOWED_LONG)
    if too_many:
        print("prose: see `python tools/prose.py --list`, and CONTRIBUTING.md for the rules", file=sys.stderr)
    return int(too_many)


if __name__ == "__main__":
    sys.exit(main())

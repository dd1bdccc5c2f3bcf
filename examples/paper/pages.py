"""The parts of docs/paper/ that are made from runs: figures, verdicts, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from .claims import Results
from .kept import kept_results
from .pictures import save_picture, save_small
from .study import Study, find_study
from .telling import claim_lines, cost_lines, setup_line
from .together import correlations, disagreements, together, verdicts

#: Sizes whose runs are kept.
SIZES = ("cpu", "gpu")


def draw_pages(names: Sequence[str], docs: Path) -> Iterator[Path]:
    """Fill in each study's page from the runs that are kept, and draw its figures.

    A page says where by `<!-- made: NAME SIZE -->` and `<!-- end -->`; what is between them is written over.

    Args:
        names: Studies.
        docs: The folder that holds `paper/` and `images/`.

    Yields:
        Each file written.
    """
    for name in names:
        study = find_study(name)
        page = docs / "paper" / f"{name}.md"
        text = page.read_text(encoding="utf-8")
        for size in SIZES:
            if results := kept_results(name, size):
                picture = docs / "images" / "paper" / f"{name}-{size}.svg"
                save_picture(study, results, picture)
                yield picture
                text = filled(text, f"{name} {size}", block(study, results, f"../images/paper/{picture.name}"))
        page.write_text(text, encoding="utf-8")
        yield page
    yield from _overview(docs)


def _overview(docs: Path) -> Iterator[Path]:
    """The pages of all studies together: which claims held, and how well costs agree over everything trained."""
    index = docs / "paper" / "README.md"
    index.write_text(
        filled(index.read_text(encoding="utf-8"), "verdicts", "\n".join(verdicts(SIZES))), encoding="utf-8"
    )
    yield index
    page = docs / "paper" / "together.md"
    text = page.read_text(encoding="utf-8")
    for size in SIZES:
        if (compared := together(size)) is not None:
            picture = docs / "images" / "paper" / f"together-{size}.svg"
            save_small(correlations(compared), picture)
            yield picture
            made = [
                f"{len(compared.runs)} runs of {len(compared.groups['members']) if compared.groups else 0} studies.",
                f"![Rank correlation of every two costs over all runs](../images/paper/{picture.name})",
                "\n".join(disagreements(compared)),
            ]
            text = filled(text, f"together {size}", "\n\n".join(made))
    page.write_text(text, encoding="utf-8")
    yield page


def block(study: Study, results: Results, picture: str) -> str:
    """The part of a page that is made from runs."""
    caption = f"{study.title}: {study.monitor} against costs. A small mark is a run, a large one a method's median."
    parts = [
        [setup_line(results)],
        claim_lines(study, results),
        [f"![{caption}]({picture})"],
        cost_lines(study, results),
        ["In brackets: the 95 % bootstrap interval of the median over seeds."],
    ]
    return "\n\n".join("\n".join(part) for part in parts)


def filled(text: str, key: str, made: str) -> str:
    """The text with what was made between the marks of that key.

    Raises:
        ValueError: Where the text does not have the marks once.

    Example:
        >>> filled("a <!-- made: t cpu -->old<!-- end --> z", "t cpu", "new").split()
        ['a', '<!--', 'made:', 't', 'cpu', '-->', 'new', '<!--', 'end', '-->', 'z']
    """
    marks = re.compile(rf"(<!-- made: {re.escape(key)} -->).*?(<!-- end -->)", re.DOTALL)
    if len(marks.findall(text)) != 1:
        raise ValueError(f"expected one `<!-- made: {key} -->` ... `<!-- end -->` in the page")
    return marks.sub(lambda found: f"{found[1]}\n\n{made}\n\n{found[2]}", text)

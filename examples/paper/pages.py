"""What came out of a study, as a table in the terminal, and as the filled-in parts of its page in docs/paper/."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from lightning_costs.core.records import RunRecord
from lightning_costs.core.units import human
from lightning_costs.report.tables import quality_text

from .claims import Results, final, quality
from .kept import kept
from .pictures import save_picture
from .study import Study, find_study


def tell(study: Study, runs: Sequence[RunRecord]) -> str:
    """Which claims held, and what each method cost, as plain text."""
    results = Results.of(study, runs)
    return "\n".join(
        [f"{study.part}: {study.title}", "", *claim_lines(study, results), "", *cost_lines(study, results), ""]
    )


def claim_lines(study: Study, results: Results) -> list[str]:
    """A Markdown table of claims, verdicts and evidence."""
    lines = ["| claim | verdict | what was measured |", "| --- | --- | --- |"]
    for claim in study.claims:
        found = claim.against(results)
        lines.append(f"| {claim.text} | **{found.verdict}** | {found.evidence} |")
    return lines


def cost_lines(study: Study, results: Results) -> list[str]:
    """A Markdown table of methods: medians over seeds, with their 95 % interval where seeds differ."""
    columns = [name for name in study.columns if name in results.compared.indicators]
    lines = [
        f"| method | seeds | best {study.monitor} | {' | '.join(f'`{name}`' for name in columns)} |",
        f"| --- | --- | --- |{' --- |' * len(columns)}",
    ]
    for arm, seeds in results.rows.items():
        best = results.over_seeds(quality(), arm)
        cells = [_spread(results, arm, name) for name in columns]
        low, high = best["low"], best["high"]
        interval = "" if low is None or low == high else f" [{quality_text(low)}, {quality_text(high)}]"
        lines.append(f"| {arm} | {len(seeds)} | {quality_text(best['median'])}{interval} | {' | '.join(cells)} |")
    return lines


def _spread(results: Results, arm: str, column: str) -> str:
    found = results.over_seeds(final(column), arm)
    unit = results.compared.indicators[column]["unit"]
    low, high = found["low"], found["high"]
    interval = "" if low is None or low == high else f" [{human(low, unit)}, {human(high, unit)}]"
    return human(found["median"], unit) + interval


def setup_line(results: Results) -> str:
    """On what it was measured, and what the runs took together."""
    same = results.compared.setups["same"]
    about = [
        same.get(name) for name in ("hardware.gpu", "hardware.cpu", "precision", "software.torch", "software.lightning")
    ]
    took = sum(row["final"].get("total_s") or 0.0 for row in results.compared.runs)
    where = ", ".join(str(fact) for fact in about if fact)
    return f"{len(results.compared.runs)} runs, {human(took, 's')} together, on {where}."


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
        for size in study.sizes:
            if runs := kept(study, size):
                picture = docs / "images" / "paper" / f"{name}-{size}.svg"
                results = Results.of(study, runs)
                save_picture(study, results, picture)
                yield picture
                text = filled(text, f"{name} {size}", block(study, results, f"../images/paper/{picture.name}"))
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

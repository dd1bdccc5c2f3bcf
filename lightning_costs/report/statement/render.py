"""A statement in three formats: its sentences and tables, which a template each puts into shape and escapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from lightning_costs.records.formatting import choose_unit, format_3_digits, format_exact, format_for_paper, list_words
from lightning_costs.records.versions import version_of
from lightning_costs.report.statement import escape
from lightning_costs.report.statement.data import INFERENCE, TOTALS, Statement, Total, counted, of_runs
from lightning_costs.report.tables.tables import quality_text

#: Columns of the table of runs.
_PER_RUN = ("total_s", "device_s", "energy_j", "co2e_g", "cloud_usd", "electricity_usd", "flop")
#: What begins and ends Jinja's own words in a template of LaTeX, which is full of braces.
_OF_LATEX: dict[str, Any] = {
    "block_start_string": "<%", "block_end_string": "%>", "variable_start_string": "<<", "variable_end_string": ">>",
    "comment_start_string": "<#", "comment_end_string": "#>",
}  # fmt: skip


class Table(NamedTuple):
    """A table of plain texts; `weights` says how wide columns are beside each other, those of prose 2 or more."""

    caption: str
    heads: list[str]
    rows: list[list[str]]
    weights: tuple[float, ...]


def markdown(said: Statement, *, tables: Sequence[Table] = (), cautions: Sequence[str] = ()) -> str:
    """The statement as Markdown (CommonMark, with tables as GitHub and Hugging Face draw them)."""
    return _written("markdown.md.j2", escape.markdown, said, compared=tables, cautions=cautions)


def latex(said: Statement, *, tables: Sequence[Table] = (), cautions: Sequence[str] = ()) -> str:
    r"""The statement as LaTeX for `\input` or for pasting into a document; it needs no package, and ASCII only."""
    return _written("latex.tex.j2", escape.latex, said, compared=tables, cautions=cautions)


def model_card(said: Statement, *, training_type: str | None = None) -> str:
    """The YAML that a Hugging Face model card has at its head for emissions: `co2_eq_emissions`.

    Fields: https://huggingface.co/docs/hub/model-cards-co2. What is not known is a comment that says how to give it.

    Args:
        said: The statement; its CO2e must be known, in some run at least.
        training_type: 'pre-training' or 'fine-tuning', which no measurement can tell.

    Raises:
        ValueError: Where no run has any CO2e: the block would say nothing.
    """
    carbon = said.totals["co2e_g"]
    if carbon.amount is None:
        why = next(iter(carbon.reasons), "it was not measured")
        raise ValueError(f"co2_eq_emissions needs co2e_g: {why}; a place can be named afterwards: --tariff FILE")
    return _written(
        "model_card.yaml.j2",
        escape.yaml,
        said,
        training_type=training_type,
        place="; ".join(dict.fromkeys(grid.place for grid in said.grids if grid.place)),
        hardware="; ".join(dict.fromkeys(str(one) for one in said.hardware if one.device is not None)),
    )


def written_by() -> str:
    """Who wrote a statement."""
    return f"lightning-costs {version_of('lightning-costs')}"


def paragraphs(said: Statement) -> list[tuple[str, str]]:
    """Everything that a statement says: title and plain text of each paragraph, in reading order."""
    found: Any = _template("sentences.txt.j2").make_module({"said": said})
    texts = [(title, " ".join(text.split())) for title, text in found.paragraphs]
    return [(title, text) for title, text in texts if text]


def totals_table(said: Statement) -> Table:
    """Every total for people and to ten digits, with how it was got or why it is missing."""
    rows = []
    for name in TOTALS:
        figure = said.totals[name]
        if figure.amount is not None and (said.restarted or not name.startswith("lost_")):
            rows.append([figure.label, figure.text, f"{name} = {format_exact(figure.amount)}", _how(figure)])
    for name in INFERENCE:
        figure = said.inference[name]
        if figure.least is not None and figure.most is not None:
            exactly = " to ".join(format_exact(amount) for amount in dict.fromkeys((figure.least, figure.most)))
            rows.append([figure.label, figure.span, f"{name} = {exactly}", _how(figure)])
    over = "the run" if len(said.runs) == 1 else f"the {len(said.runs)} runs"
    caption = f"Costs of {over}: for reading, and exactly, in the unit that the column's name ends in."
    return Table(caption, ["cost", "amount", "exactly", "how it was got"], rows, (2, 1.5, 2.5, 4))


def runs_table(said: Statement) -> Table | None:
    """A row per run in units that all rows share; None for a single run, whose totals say the same."""
    if len(said.runs) == 1 and said.metric is None:
        return None
    mixed = len(said.hardware) > 1
    alone = all(run.amounts["device_s"] == run.amounts["total_s"] for run in said.runs)
    names = [name for name in _PER_RUN if said.totals[name].amount is not None and not (alone and name == "device_s")]
    units = {
        name: choose_unit(TOTALS[name][1], max(abs(run.amounts[name] or 0.0) for run in said.runs)) for name in names
    }
    heads = ["run", "status", *(["hardware"] if mixed else [])]
    heads += [f"{TOTALS[name][0]} ({units[name].suffix})" for name in names]
    heads += [f"best {said.metric.monitor}"] if said.metric is not None else []
    rows = []
    for run in said.runs:
        row = [run.label, run.status + (f", {run.attempts} attempts" if run.attempts > 1 else "")]
        row += [str(run.hardware)] if mixed else []
        for name in names:
            amount = run.amounts[name]
            row.append("missing" if amount is None else format_3_digits(amount / units[name].factor))
        row += [quality_text(run.quality)] if said.metric is not None else []
        rows.append(row)
    caption = "The runs one by one." if len(said.runs) > 1 else "The run."
    if alone and said.totals["device_s"].amount is not None:
        caption += " Each had one device: device time is total time."
    numbers = [1.9 if name == "electricity_usd" else 1.4 for name in names]
    weights = (2.5, 2, *([2.5] if mixed else []), *numbers, *([1.4] if said.metric is not None else []))
    return Table(caption, heads, rows, weights)


def _how(figure: Total) -> str:
    parts = [
        text if count == figure.runs else f"{text} (in {counted(count)})" for text, count in figure.methods.items()
    ]
    if figure.unknown:
        parts.append(f"unknown in {figure.unknown} of {counted(figure.runs)}")
    return "; ".join(parts)


def _written(name: str, escaped: Callable[[Any], str], said: Statement, **more: Any) -> str:
    parts = {"paragraphs": paragraphs(said), "totals": totals_table(said), "runs": runs_table(said)}
    text = _template(name, escaped).render(said=said, author=written_by(), **parts, **more)
    return text.strip("\n") + "\n"


@cache
def _template(name: str, escaped: Callable[[Any], str] | None = None) -> jinja2.Template:
    """A template that writes as they are nothing but its own words and its macros."""

    def finalize(value: Any) -> Any:
        if escaped is None or isinstance(value, Markup):
            return value
        return Markup(escaped(value))

    environment = jinja2.Environment(
        autoescape=escaped is not None,
        finalize=finalize,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=jinja2.FunctionLoader(lambda name: files(__package__).joinpath(name).read_text(encoding="utf-8")),
        **(_OF_LATEX if ".tex." in name else {}),
    )
    environment.filters |= {
        "listed": list_words,
        "counted": counted,
        "of_runs": lambda counts: of_runs(counts.items()),
        "told": format_for_paper,
        "capital": lambda text: text[:1].upper() + text[1:],
    }
    return environment.get_template(name)

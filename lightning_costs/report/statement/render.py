"""A statement in three formats: its sentences and tables, which a template each puts into shape and escapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from lightning_costs.records.formatting import (
    choose_unit,
    counted,
    format_3_digits,
    format_exact,
    format_for_paper,
    list_words,
)
from lightning_costs.records.versions import version_of
from lightning_costs.report.statement import escape
from lightning_costs.report.statement.data import INFERENCE, TOTALS, Statement, Total, of_runs
from lightning_costs.report.statement.scores import carbon_together_g, scores
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


def markdown(
    statement: Statement, *, tables: Sequence[Table] = (), cautions: Sequence[str] = (), short: bool = False
) -> str:
    """The statement as Markdown (CommonMark, with tables as GitHub and Hugging Face draw them)."""
    return _written("markdown.md.j2", escape.markdown, statement, short=short, compared=tables, cautions=cautions)


def latex(
    statement: Statement, *, tables: Sequence[Table] = (), cautions: Sequence[str] = (), short: bool = False
) -> str:
    r"""The statement as LaTeX for `\input` or for pasting into a document; it needs no package, and ASCII only."""
    return _written("latex.tex.j2", escape.latex, statement, short=short, compared=tables, cautions=cautions)


def annex_xi(statement: Statement) -> str:
    """What training can answer of Annex XI, section 1, of Regulation (EU) 2024/1689, as Markdown: item by item."""
    return _written("annex_xi.md.j2", escape.markdown, statement, items=annex_xi_table(statement))


def neurips(statement: Statement) -> str:
    """Sentences for the item 'Experiments compute resources' of the NeurIPS paper checklist, as plain text."""
    return paragraphs(statement, "neurips")[0][1] + "\n"


def annex_xi_table(statement: Statement) -> Table:
    """Items of Annex XI that runs know of, each with its origin, or why it is missing."""
    sized = statement.model["params"].span, statement.model["dataset_samples"].span
    rows = [
        ["1 (d)", "number of parameters", sized[0], "counted on the model: params"],
        ["2 (c)", "number of data points", sized[1], "size of the training set: dataset_samples"],
    ]
    of_totals = {
        "samples": ("2 (c)", "samples trained on, in all epochs"),
        "tokens": ("2 (c)", "tokens trained on, in all epochs"),
        "flop": ("2 (d)", "floating-point operations of training"),
        "model_flop": ("2 (d)", "of these, without recomputation"),
        "total_s": ("2 (d)", "training time, setup and evaluation included"),
        "device_s": ("2 (d)", "device time allocated"),
        "energy_j": ("2 (e)", "energy consumption"),
    }
    for name, (point, what) in of_totals.items():
        figure = statement.totals[name]
        how = "; ".join(filter(None, (name, statement.energy_parts if name == "energy_j" else _how(figure))))
        text = figure.text or "missing: " + "; ".join(figure.reasons)
        if name in ("flop", "model_flop") and figure.text and statement.uncounted:
            text = text if figure.unknown else f"at least {text}"
            how += "; a lower bound: some operators have no formula"
        rows.append([point, what, text, how])
    sure = statement.totals["energy_j"]
    if sure.text:
        rows[-1][2] += " (known)" if sure.certainty == "exact" and not sure.unknown else " (estimated)"
    devices = "; ".join(f"{runs} on {one}" for one, runs in statement.hardware.items())
    rows.append(["2 (d)", "runs and their hardware", devices, f"headers of the runs: {statement.ended_as}"])
    for row in rows:
        row[2] = row[2] or "missing: not recorded"
    rows.sort(key=lambda row: row[0])
    caption = f"Section 1 of Annex XI: what {counted(len(statement.runs))} can answer."
    return Table(caption, ["point", "item", "value", "where it comes from"], rows, (2, 2.5, 2.5, 4))


def model_card(statement: Statement, *, training_type: str | None = None) -> str:
    """The YAML that a Hugging Face model card has at its head for emissions: `co2_eq_emissions`.

    Fields: https://huggingface.co/docs/hub/model-cards-co2. What is not known is a comment that says how to give it.

    Raises:
        ValueError: If no run has any CO2e: the block would be empty.
    """
    carbon = statement.totals["co2e_g"]
    if carbon.amount is None:
        why = next(iter(carbon.reasons), "it was not measured")
        raise ValueError(f"co2_eq_emissions needs co2e_g: {why}; a place can be named afterwards: --tariff FILE")
    return _written(
        "model_card.yaml.j2",
        escape.yaml,
        statement,
        training_type=training_type,
        place="; ".join(dict.fromkeys(grid.place for grid in statement.grids if grid.place)),
        hardware="; ".join(dict.fromkeys(str(one) for one in statement.hardware if one.device is not None)),
    )


def written_by() -> str:
    """Who wrote a statement."""
    return f"lightning-costs {version_of('lightning-costs')}"


def paragraphs(statement: Statement, which: str = "paragraphs") -> list[tuple[str, str]]:
    """What a statement says: title and plain text of each paragraph, in reading order.

    `which` of them: all ("paragraphs"), three sentences ("short") or those of a checklist ("neurips").
    """
    found: Any = _template("sentences.txt.j2").make_module({"statement": statement})
    texts = [(title, " ".join(text.split())) for title, text in getattr(found, which)]
    return [(title, text) for title, text in texts if text]


def totals_table(statement: Statement) -> Table:
    """Every total for people and to ten digits, with how it was got or why it is missing."""
    rows = []
    for name in TOTALS:
        figure = statement.totals[name]
        if figure.amount is not None and (statement.restarted or not name.startswith("lost_")):
            rows.append([figure.label, figure.text, f"{name} = {format_exact(figure.amount)}", _how(figure)])
    for name in INFERENCE:
        figure = statement.inference[name]
        if figure.least is not None and figure.most is not None:
            exactly = " to ".join(format_exact(amount) for amount in dict.fromkeys((figure.least, figure.most)))
            rows.append([figure.label, figure.span, f"{name} = {exactly}", _how(figure)])
    over = "the run" if len(statement.runs) == 1 else f"the {len(statement.runs)} runs"
    caption = f"Costs of {over}: for reading, and exactly, in the unit that the column's name ends in."
    return Table(caption, ["cost", "amount", "exactly", "how it was got"], rows, (2, 1.5, 2.5, 4))


def runs_table(statement: Statement) -> Table | None:
    """A row per run in units that all rows share; None for a single run, whose totals say the same."""
    if len(statement.runs) == 1 and statement.metric is None:
        return None
    mixed = len(statement.hardware) > 1
    alone = all(run.amounts["device_s"] == run.amounts["total_s"] for run in statement.runs)
    names = [
        name for name in _PER_RUN if statement.totals[name].amount is not None and not (alone and name == "device_s")
    ]
    units = {
        name: choose_unit(TOTALS[name][1], max(abs(run.amounts[name] or 0.0) for run in statement.runs))
        for name in names
    }
    heads = ["run", "status", *(["hardware"] if mixed else [])]
    heads += [f"{TOTALS[name][0]} ({units[name].suffix})" for name in names]
    heads += [f"best {statement.metric.monitor}"] if statement.metric is not None else []
    rows = []
    for run in statement.runs:
        row = [run.label, run.status + (f", {run.attempts} attempts" if run.attempts > 1 else "")]
        row += [str(run.hardware)] if mixed else []
        for name in names:
            amount = run.amounts[name]
            row.append("missing" if amount is None else format_3_digits(amount / units[name].factor))
        row += [quality_text(run.quality)] if statement.metric is not None else []
        rows.append(row)
    caption = "The runs one by one." if len(statement.runs) > 1 else "The run."
    if alone and statement.totals["device_s"].amount is not None:
        caption += " Each had one device: device time is total time."
    numbers = [1.9 if name == "electricity_usd" else 1.4 for name in names]
    weights = (2.5, 2, *([2.5] if mixed else []), *numbers, *([1.4] if statement.metric is not None else []))
    return Table(caption, heads, rows, weights)


def _how(figure: Total) -> str:
    parts = [
        text if count == figure.runs else f"{text} (in {counted(count)})" for text, count in figure.methods.items()
    ]
    if figure.unknown:
        parts.append(f"unknown in {figure.unknown} of {counted(figure.runs)}")
    return "; ".join(parts)


def _written(
    name: str, escaped: Callable[[Any], str], statement: Statement, *, short: bool = False, **more: Any
) -> str:
    parts: dict[str, Any] = {"paragraphs": paragraphs(statement, "short"), "totals": None, "runs": None}
    if not short:
        parts = {"paragraphs": paragraphs(statement), "totals": totals_table(statement), "runs": runs_table(statement)}
    text = _template(name, escaped).render(statement=statement, author=written_by(), **parts, **more)
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
        "amount": format_for_paper,
        "scores": scores,
        "together_g": carbon_together_g,
        "capital": lambda text: text[:1].upper() + text[1:],
    }
    return environment.get_template(name)

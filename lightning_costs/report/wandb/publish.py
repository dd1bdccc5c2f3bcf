"""Writes a comparison into a W&B project: the report, the page beside it, and the view with costs as x."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.report.wandb.document import MARK, as_json, report
from lightning_costs.report.wandb.panels import PAGE, bar_tables, panel_data
from lightning_costs.report.wandb.view import save_view, view
from lightning_costs.sources.wandb import PAGE_JOB

_WAIT_S = 30


class Published(NamedTuple):
    """Where a report went, and its view; how many of the runs it draws, and keys that none of them has."""

    url: str
    view: str
    drawn: int
    left_out: list[str]


class ProjectContents(NamedTuple):
    """Which of the compared runs a project has, and what they hold."""

    ids: list[str]
    held: set[str]
    before: str


def title_of(cmp: ComparisonData, title: str | None) -> str:
    """The report's title; by default of the metric."""
    return title or f"{cmp.monitor} against every cost"


def dry_run(cmp: ComparisonData, place: str, *, title: str | None = None) -> dict[str, Any]:
    """What would be written, as plain data, without any server: report, view, and tables that bars are drawn from."""
    _client()
    entity, project = split_project(place)
    title = title_of(cmp, title)
    of = panel_data(cmp, [run["id"] for run in cmp.runs])
    made = report(cmp, entity, project, of, title=title, page_run=_page_run(title))
    shown = view(entity, project, of.keys)._to_model()
    return {
        "report": as_json(made),
        "view": json.loads(shown.model_dump_json(by_alias=True, exclude_none=True)),
        "tables": bar_tables(cmp),
    }


def publish(cmp: ComparisonData, place: str, *, title: str | None = None, page: str | None = None) -> Published:
    """Write the report, or replace it if the project has one of this title by the package.

    Raises:
        ImportError: Without the extra `wandb`.
        ValueError: For a place that is none, or where W&B refuses it or cannot be reached.
    """
    wandb = _client()
    entity, project = split_project(place)
    title = title_of(cmp, title)
    with _publish_errors(place):
        api = wandb.Api(timeout=_WAIT_S)
        here = _here(api, cmp, entity, project)
        of = panel_data(cmp, here.ids, here.held, here.before)
        page_run = _page_run(title)
        _attach(wandb, cmp, entity, project, page_run, title, page)
        made = report(cmp, entity, project, of, title=title, page_run=page_run)
        made.id = _earlier(api, entity, project, made.title)
        made.save()
        return Published(made.url, save_view(entity, project, of.keys), len(of.ids), of.left_out)


def split_project(place: str) -> tuple[str, str]:
    """Entity and project.

    Example:
        >>> split_project("wandb:me/digits")
        ('me', 'digits')
    """
    parts = [part for part in place.removeprefix("wandb:").strip("/").split("/") if part]
    if len(parts) < 2:
        raise ValueError(f"expected a W&B project as entity/project, got {place!r}")
    return parts[0], parts[1]


def _here(api: Any, cmp: ComparisonData, entity: str, project: str) -> ProjectContents:
    """Runs of the project that are compared: by W&B's id, or by the run folder's that our monitor left in config."""
    wanted = {run["id"] for run in cmp.runs}
    ids, held, before = [], set(), ""
    try:
        found = list(api.runs(f"{entity}/{project}"))
    except ValueError:  # there is no such project yet
        found = []
    for run in found:
        if callable(getattr(run, "load_full_data", None)):
            run.load_full_data()  # lists of runs leave out configs and summaries until they are asked for
        ours = run.config.get("cost")
        ours = ours if isinstance(ours, Mapping) else {}
        if run.id in wanted or ours.get("run_id") in wanted:
            ids.append(str(run.id))
            held |= set(dict(run.summary))
            before = str(ours.get("prefix") or before)
    return ProjectContents(sorted(ids), held, before)


def _page_run(title: str) -> str:
    """W&B's id of the run that holds the page: the same for the same title."""
    return f"costs-{hashlib.sha256(title.encode()).hexdigest()[:10]}"


def _attach(
    wandb: Any, cmp: ComparisonData, entity: str, project: str, run_id: str, title: str, page: str | None
) -> None:
    """Log the page and the tables to a run of their own, which says nothing of the machine that wrote it."""
    quiet = {
        "console": "off",
        "disable_code": True,
        "disable_git": True,
        "silent": True,
        "x_disable_meta": True,
        "x_disable_machine_info": True,
        "x_disable_stats": True,
        "x_save_requirements": False,
    }
    settings = wandb.Settings(**{name: on for name, on in quiet.items() if name in wandb.Settings.model_fields})
    run = wandb.init(
        entity=entity,
        project=project,
        id=run_id,
        name=f"page of: {title}",
        job_type=PAGE_JOB,
        resume="allow",
        reinit="create_new",
        settings=settings,
    )
    try:
        logged: dict[str, Any] = {}
        for key, rows in bar_tables(cmp).items():
            logged[key] = wandb.Table(columns=list(rows[0]), data=[list(row.values()) for row in rows])
        if page is not None:
            logged[PAGE] = wandb.Html(page, inject=False, data_is_not_path=True)
        if logged:
            run.log(logged)
    finally:
        run.finish()


def _earlier(api: Any, entity: str, project: str, title: str) -> str:
    """The id of the package's report of this title; empty if there is none, or it is another author's."""
    for found in api.reports(f"{entity}/{project}"):
        if found.display_name == title and str(found.description).startswith(MARK):
            return str(found.id)
    return ""


@contextmanager
def _publish_errors(place: str) -> Iterator[None]:
    """What W&B refuses is one line that says what to look at."""
    import requests
    import wandb

    try:
        yield
    except (wandb.errors.Error, requests.RequestException, TimeoutError) as error:
        message = " ".join(str(error).split())
        raise ValueError(
            f"the report could not be written to {place}: {message}. Is the network up, WANDB_BASE_URL right, and are "
            "you logged in (`wandb login`)? --dry-run writes it to a file"
        ) from error


def _client() -> Any:
    try:
        import wandb
        import wandb_workspaces  # noqa: F401 - both or neither
    except ImportError as error:
        raise ImportError(f"a W&B Report needs {error.name}: pip install 'lightning-costs[wandb]'") from error
    return wandb


def write_dry_run(cmp: ComparisonData, place: str, path: Path, *, title: str | None = None) -> Path:
    """Write `dry_run` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dry_run(cmp, place, title=title), indent=1, allow_nan=False), encoding="utf-8")
    return path

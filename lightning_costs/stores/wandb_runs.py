"""Runs that W&B keeps: offline folders, read by W&B's own `leet inspect`, and online runs by its public API."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lightning_costs.core.records import RunRecord
from lightning_costs.stores.logged import Log, run_of_log
from lightning_costs.stores.places import Place
from lightning_costs.stores.reading import Reading

#: How a W&B run or project is named on the command line.
ONLINE = "wandb:"
TRANSACTIONS = ".wandb"
#: Lightning's own step in the rows of a WandbLogger.
STAMP = "trainer/global_step"
_WAIT_S = 300
_STATES = {"finished": "finished", "failed": "failed", "crashed": "killed", "killed": "killed", "running": "running"}


def read_offline(folder: Place, reading: Reading) -> RunRecord:
    """The run of an offline folder (`offline-run-<time>-<id>`); needs W&B's client, and no account.

    Raises:
        ImportError: Without W&B's client.
        ValueError: Where the client cannot read the folder.
    """
    about: dict[str, Any] = {}
    config: dict[str, Any] = {}
    rows: list[Mapping[str, object]] = []
    summary: dict[str, object] = {}
    status = "unknown"
    for record in _records(folder):
        kind = record.get("type")
        if kind == "run":
            about |= record["run"]
            _update(config, record["run"].get("config") or {})
        elif kind == "config":
            _update(config, record["config"])
        elif kind == "history":
            rows.append(record["history"].get("item") or {})
        elif kind == "summary":
            summary |= record["summary"].get("update") or {}
        elif kind == "exit":
            status = "failed" if record["exit"].get("exit_code") else "finished"
    return _run(
        rows,
        summary,
        config,
        reading,
        run_id=str(about.get("run_id") or folder.name),
        name=str(about.get("display_name") or about.get("run_id") or folder.name),
        source=f"W&B, {folder.name}",
        status=status,
        created=str(about.get("start_time") or ""),
        group=about.get("run_group"),
        tags=about.get("tags") or (),
    )


def read_online(path: str, reading: Reading) -> list[RunRecord]:
    """Runs of `wandb:entity/project` or `wandb:entity/project/run`, by the public API and the user's own login.

    Raises:
        ImportError: Without W&B's client.
        ValueError: For a path that names no project, or that the server does not know.
    """
    wandb = _client()
    parts = [part for part in path.removeprefix(ONLINE).strip("/").split("/") if part]
    if len(parts) not in (2, 3):
        raise ValueError(f"expected wandb:entity/project or wandb:entity/project/run, got {path!r}")
    try:
        api = wandb.Api(timeout=60)
        found = [api.run("/".join(parts))] if len(parts) == 3 else list(api.runs("/".join(parts)))
        told = [_told(run) for run in found]
    except (wandb.errors.Error, ValueError) as error:  # the client says 'Could not find' by a ValueError
        raise ValueError(f"{path} cannot be read from W&B: {error}") from error
    return [_run(**kept, reading=reading) for kept in told]


def _told(run: Any) -> dict[str, Any]:
    """All that the server keeps of a run."""
    if callable(getattr(run, "load_full_data", None)):
        run.load_full_data()  # lists of runs leave out configs and summaries until they are asked for
    return {
        "rows": list(run.scan_history()),
        "summary": dict(run.summary),
        "config": dict(run.config),
        "run_id": str(run.id),
        "name": str(run.name or run.id),
        "source": f"W&B, {'/'.join(run.path)}",
        "status": _STATES.get(run.state, "unknown"),
        "created": str(getattr(run, "created_at", "") or ""),
        "group": getattr(run, "group", None),
        "tags": getattr(run, "tags", None) or (),
    }


def _run(
    rows: Sequence[Mapping[str, object]],
    summary: Mapping[str, object],
    config: Mapping[str, Any],
    reading: Reading,
    *,
    group: str | None,
    tags: Sequence[str],
    **about: Any,
) -> RunRecord:
    """A run from what W&B keeps of it; what our monitor put into its config counts as in a run folder."""
    ours = config.get("cost") if isinstance(config.get("cost"), Mapping) else {}
    assert isinstance(ours, Mapping)
    facts = {key: value for key, value in config.items() if key not in ("_wandb", "cost")}
    stamped = any(STAMP in row for row in rows)
    header: dict[str, Any] = {"tags": list(tags), **({"group": group} if group else {})}
    header |= {key: ours[key] for key in ("targets", "tariff") if ours.get(key)}
    if ours.get("run_id"):
        header["recorded_as"] = str(ours["run_id"])
    if reading.monitor is None and ours.get("monitor"):
        reading = replace(reading, monitor=str(ours["monitor"]), mode=ours.get("mode"))
    setup = dict(ours.get("setup") or {"origin": "W&B, setup unknown"})
    return run_of_log(
        Log(rows=rows, step=STAMP if stamped else "_step", stamped=stamped, totals=summary),
        reading,
        setup={**setup, **({"config": facts} if facts else {})},
        **about,
        **header,
    )


def _records(folder: Place) -> Iterator[dict[str, Any]]:
    """The transactions of an offline run; a line that is torn ends them."""
    _client()
    called = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", folder.path]
    environment = {**os.environ, "WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run(called, capture_output=True, text=True, timeout=_WAIT_S, check=False, env=environment)
    lines = done.stdout.splitlines()
    if done.returncode and not lines:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ValueError(f"{folder} cannot be read by `wandb leet inspect` (wandb 0.31 or later): {said}")
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            return
        if isinstance(record, dict):
            yield record


def _update(config: dict[str, Any], change: Mapping[str, Any]) -> None:
    """A change of the config; a nested key comes with its path."""
    config |= change.get("update") or {}
    for key in change.get("remove") or ():
        config.pop(key, None)


def _client() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ImportError("runs of W&B are read by its client: pip install 'lightning-costs[wandb]'") from error
    return wandb

"""Runs that W&B keeps: offline folders, read by W&B's own `leet inspect`, and online runs by its public API."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_costs.records.formatting import list_words
from lightning_costs.records.hyperparameters import plain_hyperparameters
from lightning_costs.run.record import RunRecord
from lightning_costs.sources.columns import ReadOptions
from lightning_costs.sources.csv_logger import LoggedRun, run_of_log
from lightning_costs.sources.imported import number, unmeasured
from lightning_costs.storage.loggers import PREFIX, is_summary_key
from lightning_costs.storage.paths import SourcePath

#: How a W&B run or project is named on the command line.
ONLINE = "wandb:"
TRANSACTIONS = ".wandb"
#: Lightning's own step in the rows of a WandbLogger.
STAMP = "trainer/global_step"
#: The job type of runs that hold no training but a report's page.
PAGE_JOB = "cost-report"
_GPU_ENERGY = f"{PREFIX}gpu_energy_j"
_WAIT_S = 300
#: System metrics that are asked for: at one in 15 s, those of a week, after which W&B leaves some out.
_SYSTEM_SAMPLES = 40_000
_STATES = {"finished": "finished", "failed": "failed", "crashed": "killed", "killed": "killed", "running": "running"}


class _Part(NamedTuple):
    """Rows, system metrics and summary of one attempt."""

    rows: Sequence[Mapping[str, object]]
    events: Sequence[Mapping[str, object]]
    summary: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class OfflineAttempt:
    """What one offline folder (`offline-run-<time>-<id>`) holds: an attempt of the run of that id."""

    folder: str
    about: Mapping[str, Any]
    config: Mapping[str, Any]
    part: _Part
    status: str

    def continues(self, other: OfflineAttempt) -> bool:
        """Whether it is a later attempt of the other's run, as W&B and we ourselves understand it.

        What our monitor recorded as two runs is two, as in its run folders.
        """
        if any(self.about.get(key) != other.about.get(key) for key in ("run_id", "project", "entity")):
            return False
        ours, theirs = (_recorded_as(each.config) for each in (self, other))
        return (bool(self.about.get("resume")) and None in (ours, theirs)) or (ours is not None and ours == theirs)


def read_attempt(folder: SourcePath) -> OfflineAttempt:
    """The attempt of an offline folder; needs W&B's client, and no account."""
    about: dict[str, Any] = {}
    config: dict[str, Any] = {}
    rows: list[Mapping[str, object]] = []
    events: list[Mapping[str, object]] = []
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
        elif kind == "stats":
            at = datetime.fromisoformat(record["stats"]["timestamp"]).timestamp()
            events.append({**record["stats"]["item"], "_timestamp": at})
        elif kind == "summary":
            summary |= record["summary"].get("update") or {}
        elif kind == "exit":
            status = "failed" if record["exit"].get("exit_code") else "finished"
    about.setdefault("run_id", folder.name)
    return OfflineAttempt(folder.name, about, config, _Part(rows, events, summary), status)


def joined_attempts(attempts: Sequence[OfflineAttempt]) -> list[list[OfflineAttempt]]:
    """The attempts of each run, in the order of time."""
    found: list[list[OfflineAttempt]] = []
    for attempt in sorted(attempts, key=lambda attempt: (str(attempt.about.get("start_time") or ""), attempt.folder)):
        run = next((run for run in reversed(found) if attempt.continues(run[-1])), None)
        if run is None:
            found.append([attempt])
        else:
            run.append(attempt)
    return found


def run_of_attempts(attempts: Sequence[OfflineAttempt], reading: ReadOptions) -> RunRecord:
    """The run of one or several offline folders, attempts in the order of time."""
    about: dict[str, Any] = {}
    config: dict[str, Any] = {}
    for attempt in attempts:
        about |= {key: value for key, value in attempt.about.items() if value}
        config |= attempt.config
    return _run(
        _continued([attempt.part for attempt in attempts]),
        config,
        reading,
        run_id=str(about["run_id"]),
        name=str(about.get("display_name") or about["run_id"]),
        source=f"W&B, {list_words([attempt.folder for attempt in attempts])}",
        status=attempts[-1].status,
        created=str(attempts[0].about.get("start_time") or ""),
        group=about.get("run_group"),
        tags=about.get("tags") or (),
    )


def _recorded_as(config: Mapping[str, Any]) -> str | None:
    ours = config.get("cost")
    return str(ours["run_id"]) if isinstance(ours, Mapping) and ours.get("run_id") else None


def _continued(parts: Sequence[_Part]) -> list[_Part]:
    """Attempts with what W&B itself counts going on: offline, each begins at step 0 and second 0.

    An attempt that holds all rows before it is a longer record of the same work, and stands for all of it.
    """
    found = [parts[0]]
    for part in parts[1:]:
        before = [row for each in found for row in each.rows]
        if before and {_content(row) for row in before} <= {_content(row) for row in part.rows}:
            found = [part]
            continue
        steps, seconds = (
            [value for row in before if (value := number(row.get(key))) is not None] for key in ("_step", "_runtime")
        )
        seconds += [value for each in found if (value := number(each.summary.get("_runtime"))) is not None]
        first = number(part.rows[0].get("_step")) if part.rows else None
        more = {"_runtime": max(seconds, default=0.0), "_step": max(steps, default=-1.0) + 1 if first == 0 else 0.0}
        found.append(part._replace(rows=[_later(row, more) for row in part.rows], summary=_later(part.summary, more)))
    return found


def _content(row: Mapping[str, object]) -> str:
    """A row as text, without when it was logged if seconds or joules were measured in it: no other row has the same."""
    measured = any(PREFIX in name and name.endswith(("_s", "_j")) for name in row)
    left_out = ("_timestamp", "_runtime", "_step") if measured else ()
    return json.dumps({name: row[name] for name in row if name not in left_out}, sort_keys=True, default=str)


def _later(row: Mapping[str, object], more: Mapping[str, float]) -> dict[str, object]:
    return {**row, **{key: value + by for key, by in more.items() if (value := number(row.get(key))) is not None}}


def read_online(path: str, reading: ReadOptions) -> list[RunRecord]:
    """Runs of `wandb:entity/project` or `wandb:entity/project/run`, by the public API and the user's own login."""
    wandb = _client()
    parts = [part for part in path.removeprefix(ONLINE).strip("/").split("/") if part]
    if len(parts) not in (2, 3):
        raise ValueError(f"expected wandb:entity/project or wandb:entity/project/run, got {path!r}")
    try:
        api = wandb.Api(timeout=60)
        found = [api.run("/".join(parts))] if len(parts) == 3 else list(api.runs("/".join(parts)))
        found = [run for run in found if getattr(run, "job_type", None) != PAGE_JOB]
        kept_by_run = [_kept_of(run) for run in found]
    except (wandb.errors.Error, ValueError) as error:  # the client says 'Could not find' by a ValueError
        raise ValueError(f"{path} cannot be read from W&B: {error}") from error
    return [_run(**kept, reading=reading) for kept in kept_by_run]


def _kept_of(run: Any) -> dict[str, Any]:
    """All that the server keeps of a run."""
    if callable(getattr(run, "load_full_data", None)):
        run.load_full_data()  # lists of runs leave out configs and summaries until they are asked for
    rows = list(run.scan_history())
    measured = any(PREFIX in name for row in [*rows[:1], *rows[-1:], dict(run.summary)] for name in row)
    return {
        "parts": [
            _Part(
                rows,
                [] if measured else run.history(stream="system", samples=_SYSTEM_SAMPLES, pandas=False),
                dict(run.summary),
            )
        ],
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
    parts: Sequence[_Part],
    config: Mapping[str, Any],
    reading: ReadOptions,
    *,
    group: str | None,
    tags: Sequence[str],
    **about: Any,
) -> RunRecord:
    """A run from what W&B keeps of it; what our monitor put into its config counts as in a run folder."""
    ours = config.get("cost") if isinstance(config.get("cost"), Mapping) else {}
    assert isinstance(ours, Mapping)
    before = str(ours.get("prefix") or "")
    parts = [_Part([_named(row, before) for row in p.rows], p.events, _named(p.summary, before)) for p in parts]
    rows = [row for part in parts for row in part.rows]
    summary = {name: value for part in parts for name, value in part.summary.items()}
    facts = {key: value for key, value in config.items() if key not in ("_wandb", "cost")}
    stamped = any(STAMP in row for row in rows)
    header: dict[str, Any] = {"tags": list(tags), **({"group": group} if group else {})}
    header |= {key: ours[key] for key in ("targets", "tariff") if ours.get(key)}
    header |= {key: ours[key] for key in ("script", "owner") if isinstance(ours.get(key), str)}
    header |= {key: plain_hyperparameters(ours[key]) for key in ("hyperparameters", "git", "seeds") if ours.get(key)}
    if ours.get("run_id"):
        header["recorded_as"] = str(ours["run_id"])
    if reading.monitor is None and ours.get("monitor"):
        reading = replace(reading, monitor=str(ours["monitor"]), mode=ours.get("mode"))
    setup = dict(ours.get("setup") or {"origin": "W&B, setup unknown"})
    measured = any(name.startswith(PREFIX) for row in [*rows, summary] for name in row)
    energy = None if measured else _energy_of_all(parts)
    if energy is not None:
        of_rows = zip(rows, energy.at_rows_j, strict=True)
        rows = [row if spent is None else {**row, _GPU_ENERGY: spent} for row, spent in of_rows]
        summary = {**summary, _GPU_ENERGY: energy.total_j}
    run = run_of_log(
        LoggedRun(rows=rows, step=STAMP if stamped else "_step", stamped=stamped, totals=summary),
        reading,
        setup={**setup, **({"config": facts} if facts else {})},
        **about,
        **header,
    )
    return run if measured else _named_missing(run, None if energy is None else energy.method)


def _named_missing(run: RunRecord, energy: str | None) -> RunRecord:
    """Mark each headline cost of an unmeasured run as missing, for comparisons with measured ones."""
    why = "logged to W&B without lightning-costs: its costs were not measured"
    if energy is None:
        return unmeasured(run, why, gpu_energy_j=f"{why}, and W&B's system metrics hold no power of a GPU")
    run = unmeasured(run, why)
    return replace(run, header={**run.header, "methods": {**run.header["methods"], "gpu_energy_j": energy}})


def _named(row: Mapping[str, object], before: str) -> dict[str, object]:
    """Costs and metrics of a row under the names that they have without its logger's prefix."""
    named = {name.removeprefix(before): value for name, value in row.items()}
    return {name: value for name, value in named.items() if not _is_outcome(name)}


def _is_outcome(name: str) -> bool:
    return name.startswith(PREFIX) and is_summary_key(name.removeprefix(PREFIX))


def _records(folder: SourcePath) -> Iterator[dict[str, Any]]:
    """The transactions of an offline run; a line that is torn ends them."""
    _client()
    called = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", folder.path]
    environment = {**os.environ, "WANDB_ERROR_REPORTING": "false"}
    done = subprocess.run(called, capture_output=True, text=True, timeout=_WAIT_S, check=False, env=environment)
    lines = done.stdout.splitlines()
    if done.returncode and not lines:
        message = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ValueError(f"{folder} cannot be read by `wandb leet inspect` (wandb 0.31 or later): {message}")
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


#: Power of a GPU that the run's process used, and of every GPU of the machine.
_OWN = re.compile(r"(?:system\.)?gpu\.process\.(\d+)\.powerWatts")
_ANY = re.compile(r"(?:system\.)?gpu\.(\d+)\.powerWatts")


class WandbGpuEnergy(NamedTuple):
    """Energy at the rows of a run, in J since the first sample of power, and how it was got."""

    at_rows_j: list[float | None]
    total_j: float
    method: str


def gpu_energy(events: Sequence[Mapping[str, object]], times_s: Sequence[float | None]) -> WandbGpuEnergy | None:
    """Integrate the power of GPUs over time: trapezoids between samples, constant power after the last.

    Args:
        events: W&B's system metrics, each with `_timestamp` in s.
        times_s: When rows were logged, by the same clock.

    Returns:
        None where fewer than two samples of power are there. Rows before the first sample have no energy.

    Example:
        >>> events = [{"_timestamp": t, "gpu.0.powerWatts": 100.0} for t in (10.0, 20.0)]
        >>> gpu_energy(events, [5.0, 15.0, 21.0]).at_rows_j
        [None, 500.0, 1100.0]
    """
    for pattern, scope in ((_OWN, "those that the process used"), (_ANY, "all of the machine's, others' work too")):
        samples = _samples(events, pattern)
        if not samples:
            continue
        rows_s = np.array([np.nan if time is None else time for time in times_s])
        until_s = max([*(time for time in times_s if time is not None), *(times[-1] for times, _ in samples)])
        at_rows = sum(_energy(times, watts, rows_s) for times, watts in samples)
        total_j = sum(float(_energy(times, watts, np.array([until_s]))[0]) for times, watts in samples)
        longest = max(float(np.diff(times).max()) for times, _ in samples)
        how = f"power of {len(samples)} GPUs ({scope}) in W&B's system metrics, integrated over samples"
        spent = [None if np.isnan(energy) else float(energy) for energy in np.atleast_1d(at_rows)]
        return WandbGpuEnergy(spent, total_j, f"{how} {longest:.3g} s apart at most")
    return None


def _energy_of_all(parts: Sequence[_Part]) -> WandbGpuEnergy | None:
    """Energy of each attempt on top of those before: nothing is integrated between attempts. None if one has none."""
    at_rows: list[float | None] = []
    total, method = 0.0, ""
    for part in parts:
        found = gpu_energy(part.events, [number(row.get("_timestamp")) for row in part.rows])
        if found is None:
            return None
        at_rows += [None if spent is None else total + spent for spent in found.at_rows_j]
        total += found.total_j
        method = found.method
    return WandbGpuEnergy(at_rows, total, f"{method}, over {len(parts)} attempts" if len(parts) > 1 else method)


def _samples(
    events: Sequence[Mapping[str, object]], pattern: re.Pattern[str]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Times and power of each GPU that has two samples at least, in the order of time."""
    found: dict[str, dict[float, float]] = defaultdict(dict)
    for event in events:
        time = event.get("_timestamp")
        for name, value in event.items():
            if (gpu := pattern.fullmatch(name)) and isinstance(value, int | float) and isinstance(time, int | float):
                found[gpu[1]][float(time)] = float(value)
    ordered = [sorted(samples.items()) for samples in found.values() if len(samples) > 1]
    return [(np.array([time for time, _ in one]), np.array([watts for _, watts in one])) for one in ordered]


def _energy(
    times: NDArray[np.float64], watts: NDArray[np.float64], until_s: NDArray[np.float64]
) -> NDArray[np.float64]:
    """[moments]: energy from the first sample to each, NaN before it."""
    so_far = np.concatenate([[0.0], np.cumsum(np.diff(times) * (watts[1:] + watts[:-1]) / 2)])
    last = np.clip(np.searchsorted(times, until_s, side="right") - 1, 0, len(times) - 1)
    power = np.interp(until_s, times, watts)
    spent: NDArray[np.float64] = so_far[last] + (until_s - times[last]) * (watts[last] + power) / 2
    return np.where(until_s >= times[0], spent, np.nan)

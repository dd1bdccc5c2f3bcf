"""MLPerf training logs: lines that hold `:::MLLOG` and JSON, on the run's own clock.

Format: MLCommons, 'MLPerf Logging' (github.com/mlcommons/logging). Its time to train is run_stop - run_start, which is
our run clock; what is between init_start and run_start is set-up. Every rank writes, so that lines are in no order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning_costs.records.samples import Amount
from lightning_costs.run.record import RunRecord
from lightning_costs.sources.columns import CostColumn, ReadOptions, cost_columns, known_columns
from lightning_costs.sources.imported import (
    describe_decrease,
    finite_or_none,
    first_decrease,
    make_imported_run,
    number,
)
from lightning_costs.storage.paths import SourcePath
from lightning_costs.storage.run_folder.frames import as_frame

if TYPE_CHECKING:
    import polars

TOKEN = ":::MLLOG"
#: The metric of a log, and what else an evaluation is called there.
QUALITY = ("eval_accuracy", "eval_error", "eval_loss", "eval_mean_dice")
_COSTS = ("setup_s", "run_s", "total_s", "evaluate_s", "samples", "tokens", "epochs")
#: What logs have beside our headline: MLPerf's score, and how it counts progress.
_SHOWN = ("run_s", "epochs")
#: The unit of `epoch_num` in benchmarks that count no epochs, and the number from which on that is certain.
_EPOCH_NUM = {"bert": "samples", "unet3d": "samples", "gpt3": "tokens"}
_MOST_EPOCHS = 10_000
#: Events of a run that has begun to train.
_TRAINED = ("eval_start", "eval_stop", "block_stop", "epoch_stop", "run_stop")
_SETUP = (
    "submission_benchmark",
    "submission_division",
    "submission_org",
    "submission_platform",
    "submission_status",
    "global_batch_size",
    "gradient_accumulation_steps",
    "train_samples",
    "opt_name",
    "opt_base_learning_rate",
    "seed",
)


class _Event(NamedTuple):
    line: int
    now: float
    key: str
    value: object
    about: Mapping[str, Any]


def read_mlperf(place: SourcePath, reading: ReadOptions) -> RunRecord:
    """The run of a log: a point per evaluation and one at its end.

    Events are taken in the order of their times. A rank repeats what another said: the first start of the run and the
    last stop count.
    """
    events = _events(place)
    begun = _begun(place, events)
    init = next((event.now for event in events if event.key == "init_start" and event.now <= begun), None)
    stops = [event for event in events if event.key == "run_stop" and event.now >= begun]
    stop = stops[-1].now if stops else None
    facts = {e.key: e.value for e in reversed(events) if e.key in _SETUP and "PLACEHOLDER" not in str(e.value)}
    who = _submission(place, facts)
    counted, missing = _epoch_num(events, who.benchmark)
    points: list[dict[str, Any]] = []
    evaluating, evaluated_s, epoch = None, 0.0, None
    for event in events:
        over = stop is not None and event.now > stop
        epoch = event.about.get("epoch_num", epoch)
        if event.key == "eval_start" and evaluating is None and not over:
            evaluating = event.now
        elif event.key == "eval_stop" and evaluating is not None:
            evaluated_s, evaluating = evaluated_s + event.now - evaluating, None
        elif event.key in QUALITY and event.now >= begun:
            now = event.now if not over else stop if evaluating is not None else _trained_at(event, events, stop)
            seen = evaluated_s + (event.now - evaluating if evaluating is not None else 0.0)
            points.append({"now": now, "evaluate_s": seen} | _qualities(event) | _progress(event, epoch, counted))
    points.sort(key=lambda point: math.inf if point["now"] is None else point["now"])  # by when they had been trained
    last = points[-1] if points else {}
    end = {name: amount for name, amount in last.items() if name.partition("/")[0] not in QUALITY}
    points.append(end | {"now": events[-1].now if stop is None else stop, "evaluate_s": evaluated_s})
    status = {"success": "finished", "aborted": "failed"}.get(str(stops[-1].about.get("status")) if stops else "")
    return _run(
        place, reading, points, begun, init, {**facts, "hardware": who.hardware}, status or "unknown", who, missing
    )


def _begun(place: SourcePath, events: Sequence[_Event]) -> float:
    """When the run started: by its first run_start, as long as nothing was trained before another."""
    begun: float | None = None
    trained = False
    for event in events:
        if event.key == "run_start":
            if trained:
                raise ValueError(f"{place}, line {event.line}: a second run_start; give each run a file of its own")
            begun = event.now if begun is None else begun
        trained = trained or (begun is not None and event.key in (*_TRAINED, *QUALITY))
    if begun is None:
        raise ValueError(f"{place} holds {TOKEN} lines, but no run_start: it is no log of a training")
    return begun


def _trained_at(evaluated: _Event, events: Sequence[_Event], stop: float | None) -> Amount:
    """When the model that was evaluated after the run's stop had been trained: as far as an event says so."""
    for by in ("samples_count", "step_num"):  # epochs of evaluations may be numbered apart from those of training
        if (reached := number(evaluated.about.get(by))) is not None:
            times = (
                e.now for e in events if stop is None or e.now <= stop if (number(e.about.get(by)) or -1) >= reached
            )
            return next(times, None)
    return None


def _epoch_num(events: Sequence[_Event], benchmark: str) -> tuple[str | None, dict[str, str]]:
    """What `epoch_num` counts, and why columns are missing then: in some benchmarks it counts no epochs."""
    most = max((number(event.about.get("epoch_num")) or 0.0 for event in events), default=0.0)
    if most <= _MOST_EPOCHS:
        return "epochs", {}
    counted = _EPOCH_NUM.get(benchmark)
    return counted, {"epochs": f"epoch_num of this log goes to {most:.0f}: it counts {counted or 'something else'}"}


def _qualities(event: _Event) -> dict[str, Amount]:
    """What an evaluation found: one number, one of a named metric, or one of each (boxes and masks)."""
    if isinstance(event.value, Mapping):
        return {f"{event.key}/{name}": number(value) for name, value in event.value.items()}
    metric = event.about.get("metric")
    return {event.key if metric is None else f"{event.key}/{metric}": number(event.value)}


def _progress(event: _Event, epoch: object, counted: str | None) -> dict[str, Amount]:
    progress = {
        "samples": finite_or_none(number(event.about.get("samples_count"))),
        "step": finite_or_none(number(event.about.get("step_num"))),
    }
    if counted is not None and progress.get(counted) is None:
        progress[counted] = finite_or_none(number(epoch))
    return progress


class _Submission(NamedTuple):
    """Who submitted a log, and on what: from the layout of results, else as the log itself says."""

    benchmark: str
    name: str
    group: str | None
    hardware: Mapping[str, Any]


def _submission(place: SourcePath, facts: Mapping[str, Any]) -> _Submission:
    """Submitter, system and benchmark; MLCommons lays out `ORG/results/SYSTEM/BENCHMARK/result_0.txt`."""
    path = place.path if place.remote else Path(place.path).resolve().as_posix()
    *above, parent, file = ["", *path.strip("/").split("/")]
    stated = {key: str(value) for key, value in facts.items() if value}
    benchmark = stated.get("submission_benchmark", parent)
    if len(above) > 3 and above[-2] == "results":
        org, system = above[-3], above[-1]
        group = f"{org}/{system}/{parent}"
        described = _described(SourcePath(path="/".join(path.split("/")[:-4]), remote=place.remote, url=org), system)
        return _Submission(benchmark, f"{group}/{file}", group, {"system": system, **described})
    system = stated.get("submission_platform", "")
    hardware = {"system": system} if system else {}
    if system and "submission_org" in stated:
        group = f"{stated['submission_org']}/{system}/{benchmark}"
        return _Submission(benchmark, f"{group}/{file}", group, hardware)
    return _Submission(benchmark, f"{parent}/{file}" if parent else file, parent or None, hardware)


def _described(org: SourcePath, system: str) -> dict[str, Any]:
    """The accelerators in a submission's `systems/SYSTEM.json`, if the file exists."""
    file = org.joinpath(f"systems/{system}.json")
    if not file.is_file():
        return {}
    try:
        system_facts = json.loads(file.read())
        nodes, each = int(system_facts["number_of_nodes"]), int(system_facts["accelerators_per_node"])
        return {"accelerator": str(system_facts["accelerator_model_name"]), "nodes": nodes, "devices": nodes * each}
    except (ValueError, KeyError, TypeError):  # some write '8 x 2' or leave it empty
        return {}


def _run(
    place: SourcePath,
    reading: ReadOptions,
    points: Sequence[Mapping[str, Any]],
    begun: float,
    init: float | None,
    facts: Mapping[str, Any],
    status: str,
    who: _Submission,
    missing: Mapping[str, str],
) -> RunRecord:
    amounts: dict[str, list[Amount]] = {name: [point.get(name) for point in points] for name in _COSTS}
    ends: list[Amount] = [point["now"] for point in points]
    amounts["run_s"] = [None if now is None else now - begun for now in ends]
    amounts["setup_s"] = [None if init is None else begun - init] * len(points)
    amounts["total_s"] = [None if init is None or now is None else now - init for now in ends]
    costs = _costs(reading, [name for name in _COSTS if name != "tokens" or any(amounts[name])])
    reasons = {cost.declared.name: missing[cost.column] for cost in costs if cost.column in missing}
    spent: dict[str, list[Amount]] = {}
    for cost in costs:
        of_cost = amounts[cost.column]
        if (fall := first_decrease(of_cost)) is not None:
            reasons[cost.declared.name] = f"{describe_decrease(cost.column, *fall[1:])} (in {place.name})"
            of_cost = [None] * len(points)
        spent[cost.declared.name] = [None if amount is None else amount * cost.factor for amount in of_cost]
    metrics = list(dict.fromkeys(name for point in points for name in point if name.partition("/")[0] in QUALITY))
    reading.seen.columns |= dict.fromkeys(metrics)
    clocks = {cost.declared.name for cost in costs if cost.column.endswith("_s")}
    return make_imported_run(
        _frame(points, spent, metrics),
        costs,
        reading,
        run_id=who.name,
        name=who.name,
        source=place.name,
        status=status,
        missing=reasons,
        methods=dict.fromkeys(sorted(clocks), "by the log's own clock"),
        setup={"origin": "MLPerf log", **facts},
        group=who.group,
    )


def _costs(reading: ReadOptions, names: Sequence[str]) -> list[CostColumn]:
    """The costs that were declared, and the others of a log; MLPerf's score and epochs are shown."""
    declared = cost_columns(names, reading, kind="counter") if reading.costs else []
    reading.seen.columns |= dict.fromkeys(names)
    taken = {cost.column for cost in declared} | {cost.declared.name for cost in declared}
    others = [known_columns()[name] for name in names if name not in taken]
    return declared + [
        CostColumn(column=it.name, factor=1.0, declared=replace(it, headline=it.headline or it.name in _SHOWN))
        for it in others
    ]


def _frame(
    points: Sequence[Mapping[str, Any]], amounts: Mapping[str, Sequence[Amount]], metrics: Sequence[str]
) -> polars.DataFrame:
    return as_frame(
        {
            "step": ("int", [None if point.get("step") is None else int(point["step"]) for point in points]),
            "epoch": ("int", [None if point.get("epochs") is None else int(point["epochs"]) for point in points]),
            "time": ("float", [point["now"] for point in points]),
            "trigger": ("text", [*["evaluate"] * (len(points) - 1), "end"]),
            **{name: ("float", values) for name, values in amounts.items()},
            **{name: ("float", [point.get(name) for point in points]) for name in metrics},
        }
    )


def is_mlperf(place: SourcePath) -> bool:
    """Whether a file holds MLPerf's lines."""
    return place.contains(TOKEN.encode())


def _events(place: SourcePath) -> list[_Event]:
    """The events of a log in the order of their times, those of one time as they were written."""
    found = []
    for line, text in enumerate(place.read().decode("utf-8", "replace").splitlines(), 1):
        _, token, payload = text.partition(TOKEN)
        if not token:
            continue
        try:
            event, _ = json.JSONDecoder().raw_decode(payload.strip())
            now, about = float(event["time_ms"]) / 1e3, event.get("metadata") or {}
            found.append(_Event(line, now, str(event["key"]), event.get("value"), dict(about)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{place}, line {line}: no event of a log: {payload.strip()[:60]!r}") from error
    return sorted(found, key=lambda event: event.now)

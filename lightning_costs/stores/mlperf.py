"""MLPerf training logs: lines that hold `:::MLLOG` and JSON, on the run's own clock.

Format: MLCommons, 'MLPerf Logging' (github.com/mlcommons/logging). Its time to train is run_stop - run_start, which is
our run clock; what is between init_start and run_start is set-up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_costs.core.records import Amount, RunRecord
from lightning_costs.stores.imported import fallen, first_fall, imported, number, usable
from lightning_costs.stores.places import Place
from lightning_costs.stores.reading import CostColumn, Reading, known_columns

if TYPE_CHECKING:
    import polars

TOKEN = ":::MLLOG"
#: The metric of a log, and what else an evaluation is called there.
QUALITY = ("eval_accuracy", "eval_error", "eval_loss", "eval_mean_dice")
_COSTS = ("setup_s", "run_s", "total_s", "evaluate_s", "samples", "epochs")
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


def read_mlperf(place: Place, reading: Reading) -> RunRecord:
    """The run of a log: a point per evaluation and one at its end.

    Raises:
        ValueError: Names the line of what cannot be: two runs in one file, a clock that goes back, broken JSON.
    """
    lines = _lines(place)
    facts: dict[str, Any] = {}
    points: list[dict[str, Any]] = []
    begun = init = stop = evaluating = None
    evaluated_s, epoch, status, last = 0.0, None, "unknown", -1.0
    for number_of, event in lines:
        key, value, about = event["key"], event.get("value"), event.get("metadata") or {}
        now = float(event["time_ms"]) / 1e3
        if now < last:
            raise ValueError(f"{place}, line {number_of}: {fallen('time_ms', last * 1e3, now * 1e3)}")
        last = now
        epoch = about.get("epoch_num", epoch)
        if key == "init_start":
            init = now if init is None else init
        elif key == "run_start":
            if begun is not None:
                raise ValueError(f"{place}, line {number_of}: a second run_start; give each run a file of its own")
            begun = now
        elif key == "run_stop":
            stop, status = now, {"success": "finished", "aborted": "failed"}.get(str(about.get("status")), "unknown")
        elif key == "eval_start":
            evaluating = now
        elif key == "eval_stop" and evaluating is not None:
            evaluated_s, evaluating = evaluated_s + now - evaluating, None
        elif key in QUALITY and begun is not None:
            seen = evaluated_s + (now - evaluating if evaluating is not None else 0.0)
            points.append({"now": now, key: number(value), "evaluate_s": seen, **_progress(about, epoch)})
        elif key in _SETUP:
            facts[key] = value
    if begun is None:
        raise ValueError(f"{place} holds {TOKEN} lines, but no run_start: it is no log of a training")
    end = {**(points[-1] if points else {}), "now": stop if stop is not None else last, "evaluate_s": evaluated_s}
    points.append({name: amount for name, amount in end.items() if name not in QUALITY})
    return _run(place, reading, points, begun, init, facts, status)


def _progress(about: Mapping[str, Any], epoch: object) -> dict[str, Amount]:
    return {
        "epochs": usable(number(epoch)),
        "samples": usable(number(about.get("samples_count"))),
        "step": usable(number(about.get("step_num"))),
    }


def _run(
    place: Place,
    reading: Reading,
    points: Sequence[Mapping[str, Any]],
    begun: float,
    init: float | None,
    facts: Mapping[str, Any],
    status: str,
) -> RunRecord:
    amounts: dict[str, list[Amount]] = {name: [point.get(name) for point in points] for name in _COSTS}
    amounts["run_s"] = [point["now"] - begun for point in points]
    amounts["setup_s"] = [None if init is None else begun - init] * len(points)
    amounts["total_s"] = [None if init is None else point["now"] - init for point in points]
    missing: dict[str, str] = {}
    for name, values in amounts.items():
        if (fall := first_fall(values)) is not None:
            missing[name] = f"{fallen(name, *fall[1:])} (in {place.name})"
            amounts[name] = [None] * len(values)
    metrics = [name for name in QUALITY if any(name in point for point in points)]
    costs = [CostColumn(column=name, factor=1.0, declared=known_columns()[name]) for name in _COSTS]
    name = f"{place.parent.name}/{place.name}" if place.parent.name not in ("", ".") else place.name
    return imported(
        _frame(points, amounts, metrics),
        costs,
        reading,
        run_id=name,
        name=name,
        source=place.name,
        status=status,
        missing=missing,
        methods=dict.fromkeys(("setup_s", "run_s", "total_s", "evaluate_s"), "by the log's own clock"),
        setup={"origin": "MLPerf log", **facts},
        group=place.parent.name or None,
    )


def _frame(
    points: Sequence[Mapping[str, Any]], amounts: Mapping[str, Sequence[Amount]], metrics: Sequence[str]
) -> polars.DataFrame:
    import polars

    steps = [None if point.get("step") is None else int(point["step"]) for point in points]
    epochs = [None if point.get("epochs") is None else int(point["epochs"]) for point in points]
    triggers = [*["evaluate"] * (len(points) - 1), "end"]
    return polars.DataFrame(
        [
            polars.Series("step", steps, polars.Int64),
            polars.Series("epoch", epochs, polars.Int64),
            polars.Series("time", [point["now"] for point in points], polars.Float64),
            polars.Series("trigger", triggers, polars.String),
            *(polars.Series(name, values, polars.Float64) for name, values in amounts.items()),
            *(polars.Series(name, [point.get(name) for point in points], polars.Float64) for name in metrics),
        ]
    )


def is_mlperf(place: Place) -> bool:
    """Whether a file holds MLPerf's lines."""
    return place.holds(TOKEN.encode())


def _lines(place: Place) -> list[tuple[int, dict[str, Any]]]:
    found = []
    for number_of, line in enumerate(place.read().decode("utf-8", "replace").splitlines(), 1):
        _, token, text = line.partition(TOKEN)
        if not token:
            continue
        try:
            event, _ = json.JSONDecoder().raw_decode(text.strip())
            float(event["time_ms"]), str(event["key"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{place}, line {number_of}: no event of a log: {text.strip()[:60]!r}") from error
        found.append((number_of, event))
    return found

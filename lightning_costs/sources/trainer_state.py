"""What a Hugging Face Trainer logged, as its `trainer_state.json` keeps it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from lightning_costs.run.record import RunRecord
from lightning_costs.sources.columns import ReadOptions
from lightning_costs.sources.imported import number
from lightning_costs.sources.tracked import Reading, TrackedRun, run_of_tracker
from lightning_costs.storage.loggers import PREFIX
from lightning_costs.storage.paths import SourcePath

#: The state's file, in each checkpoint and, where the script saves it, beside them.
STATE = "trainer_state.json"
_CHECKPOINT = "checkpoint-"
#: What the Trainer counts exactly, under our names.
_COUNTERS = {"step": f"{PREFIX}steps", "num_input_tokens_seen": f"{PREFIX}tokens"}


def latest_states(files: Iterable[SourcePath]) -> dict[str, SourcePath]:
    """One state of each training, by its folder: that beside its checkpoints, else the last one's, which has it all."""
    latest: dict[str, tuple[float, SourcePath]] = {}
    for file in files:
        folder, order = file.parent, float("inf")
        if folder.name.startswith(_CHECKPOINT) and folder.name.removeprefix(_CHECKPOINT).isdigit():
            folder, order = folder.parent, float(folder.name.removeprefix(_CHECKPOINT))
        if folder.path not in latest or latest[folder.path][0] < order:
            latest[folder.path] = order, file
    return {folder: file for folder, (_, file) in latest.items()}


def read_trainer_state(file: SourcePath, reading: ReadOptions) -> RunRecord:
    """The run of a state.

    Raises:
        ValueError: It is no JSON of a Trainer's.
    """
    try:
        state = json.loads(file.read())
        rows: list[dict[str, Any]] = list(state["log_history"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no {STATE} of a transformers Trainer: {error!r}") from error
    folder = file.parent.parent if file.parent.name.startswith(_CHECKPOINT) else file.parent
    readings = [
        Reading(_COUNTERS.get(name, name), int(row.get("step") or 0), amount)
        for row in rows
        for name, value in row.items()
        if (amount := number(value)) is not None
    ]
    ours = (state.get("stateful_callbacks") or {}).get("lightning_costs")
    done = state.get("max_steps") and state.get("global_step") == state.get("max_steps")
    tracked = TrackedRun(
        tracker="Trainer",
        run_id=folder.name,
        name=folder.name,
        readings=readings,
        status="finished" if done else "unknown",
        own=tuple(_COUNTERS.values()),
        recorded_as=str(ours["run_id"]) if isinstance(ours, dict) and ours.get("run_id") else None,
    )
    return run_of_tracker(tracked, reading)

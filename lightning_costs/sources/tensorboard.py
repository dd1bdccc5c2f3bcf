"""Scalars of TensorBoard's event files, read by TensorBoard itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lightning_costs.run.record import RunRecord
from lightning_costs.sources.columns import ReadOptions
from lightning_costs.sources.tracked import Reading, TrackedRun, run_of_tracker
from lightning_costs.storage.paths import SourcePath

#: What an event file's name has in it.
EVENTS = "tfevents"


def read_tensorboard(folder: SourcePath, reading: ReadOptions) -> RunRecord:
    """The run of a folder with event files, all of them together.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    name = f"{folder.parent.name}/{folder.name}" if folder.name.startswith("version_") else folder.name
    files = sorted(file for file in Path(folder.path).iterdir() if EVENTS in file.name)
    readings = [each for file in files for each in _scalars(file)]
    tracked = TrackedRun(tracker="TensorBoard", run_id=name, name=name, readings=readings)
    return run_of_tracker(tracked, reading)


def _scalars(file: Path) -> Iterator[Reading]:
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.util.tensor_util import make_ndarray
    except ImportError as error:
        raise ValueError(f"{file} is read by TensorBoard itself, which is not here: pip install tensorboard") from error
    for event in EventFileLoader(str(file)).Load():  # a record that is torn ends them
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == "scalars" and value.HasField("tensor"):
                yield Reading(value.tag, event.step, float(make_ndarray(value.tensor).item()), event.wall_time)

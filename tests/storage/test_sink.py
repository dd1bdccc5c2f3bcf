from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_models import classifier, data, namespace, trainer

from lightning_costs import CostMonitor, MemorySink, Recorder, Sink, load_run
from lightning_costs.records.samples import RankInfo
from lightning_costs.storage.run_folder.writer import RunFolderSink


def trained(folder: Path, *sinks: Any, steps: int = 3, **options: Any) -> Recorder:
    with Recorder(save_dir=folder, sinks=sinks, log_every_n_steps=1, device="cpu", **options) as recorder:
        for _ in range(steps):
            recorder.step(torch.ones(4, 2))
        recorder.log_metrics({"acc": 0.5})
    return recorder


def test_a_sink_gets_what_the_folder_holds(tmp_path: Path) -> None:
    sink = MemorySink()
    assert isinstance(sink, Sink)
    run = load_run(trained(tmp_path, sink).path)  # type: ignore[arg-type]
    assert [point.trigger for point in sink.points] == ["train", "train", "train", "evaluate", "end"]
    assert [point.costs["samples"] for point in sink.points] == run.points["samples"].to_list()
    assert sink.points[-2].quality == {"acc": 0.5}
    assert sink.header["run_id"] == run.id
    assert (sink.header["indicators"], sink.header["statics"]) == (run.header["indicators"], run.header["statics"])
    assert sink.status == run.header["status"] == "finished"


def test_the_sink_of_a_fit_sees_its_points_as_they_are_made(tmp_path: Path) -> None:
    class Watches(MemorySinkOfOurs):
        pass

    sink, pl = Watches(), namespace("lightning.pytorch")
    monitor = CostMonitor(save_dir=tmp_path, infer=False, sinks=[sink], monitor="val/acc", mode="max")
    trainer(pl, monitor, max_epochs=2, log_every_n_steps=4).fit(classifier(pl), data(64, 8), data())
    assert monitor.run is not None
    assert sink.samples == monitor.run.points["samples"].to_list()
    assert sink.qualities == 2
    assert copy.deepcopy(monitor)._options.sinks[0] is not sink


class MemorySinkOfOurs:
    """One as a user writes it: no base class."""

    def __init__(self) -> None:
        self.samples: list[Any] = []
        self.qualities = 0

    def open(self, header: Any) -> None:
        assert header["status"] == "running"

    def point(self, point: Any, header: Any) -> None:
        self.samples.append(point.costs["samples"])
        self.qualities += "val/acc" in point.quality
        header["indicators"] = None  # it is the sink's own

    def close(self, status: str) -> None:
        assert status == "finished"


@pytest.mark.parametrize("where", ["open", "point", "close"])
def test_a_sink_that_raises_is_left_out_and_said_once(
    tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    broken, whole = MemorySink(), MemorySink()

    def fails(*_: object) -> None:
        raise ConnectionError("the server is gone")

    setattr(broken, where, fails)
    recorder = trained(tmp_path, broken, whole)
    assert caplog.text.count("gets no more of this run: ConnectionError: the server is gone") == 1
    assert (len(whole.points), whole.status) == (5, "finished")
    assert recorder.path is not None
    assert load_run(recorder.path).header["status"] == "finished"


def test_the_folder_is_a_sink_the_first_and_one_that_fails_is_no_longer_among_them(tmp_path: Path) -> None:
    whole, broken = MemorySink(), MemorySink()
    broken.point = lambda *_: 1 / 0  # type: ignore[assignment, method-assign, return-value]
    recorder = Recorder(save_dir=tmp_path, sinks=[broken, whole], device="cpu")
    assert recorder.sinks == (broken, whole)
    with recorder:
        recorder.step(torch.ones(4, 2))
        folder, *others = recorder.sinks
        assert isinstance(folder, RunFolderSink)
        assert (folder.path, others) == (recorder.path, [broken, whole])
        recorder.log_metrics({"acc": 0.5})
    assert recorder.sinks == (folder, whole)
    assert folder.run is not None
    assert folder.run.points["step"].to_list() == [point.step for point in whole.points]


def test_a_run_that_fails_says_so_and_one_that_goes_on_begins_anew(tmp_path: Path) -> None:
    sink, states = MemorySink(), []

    def fails() -> None:
        with Recorder(save_dir=tmp_path, sinks=[sink], device="cpu") as recorder:
            recorder.step(torch.ones(4, 2))
            states.append(recorder.state_dict())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert sink.status == "failed"
    again = Recorder(save_dir=tmp_path, sinks=[sink], device="cpu")
    again.load_state_dict(states[0])
    with again:
        again.step(torch.ones(4, 2))
    assert (len(sink.header["attempts"]), sink.points[-1].costs["samples"], sink.status) == (2, 8.0, "finished")


def test_other_ranks_and_runs_without_a_batch_tell_nothing(tmp_path: Path) -> None:
    sinks = MemorySink(), MemorySink()
    with Recorder(save_dir=tmp_path, sinks=sinks[:1], device="cpu"):
        pass
    places = [RankInfo(rank=rank, replica=rank) for rank in range(2)]
    trained(tmp_path, sinks[1], place=places[1], places=places)
    assert [(sink.header, sink.points, sink.status) for sink in sinks] == [({}, [], None)] * 2


@pytest.mark.parametrize("wrong", [object(), MemorySink, None, "costs.csv"])
def test_what_is_no_sink_is_refused_at_once(tmp_path: Path, wrong: Any) -> None:
    for make in (Recorder, CostMonitor):
        with pytest.raises(ValueError, match="a sink must have open, point and close, got"):
            make(save_dir=tmp_path, sinks=[wrong])

"""Google's own library, given the events of a run, says what we print for its definition. Runs if it is installed."""

from __future__ import annotations

import datetime
from typing import Any, Literal

import attempts
import pytest

from lightning_costs import default_indicators
from lightning_costs.run.goodput import goodput
from lightning_costs.storage.run_folder import identity

pytestmark = pytest.mark.usefixtures("every_point_at_once")
google = pytest.importorskip("ml_goodput_measurement.src.goodput", reason="pip install ml-goodput-measurement")
START_S = 1_700_000_000.0


class Memory:
    """What the library logs to in place of Google Cloud."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def write_cloud_logging_entry(self, entry: dict[str, Any]) -> None:
        self.entries.append(entry)

    def read_cloud_logging_entries(self, *_: object, **__: object) -> tuple[list[dict[str, Any]], None]:
        return self.entries, None


class Told:
    """One process of a run: every second is told to our recorder's clock and, as events, to Google's recorder."""

    def __init__(self, folder: Any, log: Memory, wall_s: float, step: int = 0, state: Any = None) -> None:
        identity._used_here.clear()
        self.theirs = google.GoodputRecorder("job", "log", True, log)
        self.began_s, self.step = wall_s, step
        self.theirs.record_job_start_time(self.at(0.0))
        self.ours = Attempt(folder, state)

    def at(self, seconds: float) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self.began_s + seconds, datetime.UTC)

    @property
    def now(self) -> datetime.datetime:
        return self.at(self.ours.clock())

    def train(self, *took_s: float) -> None:
        for seconds in took_s:
            self.theirs.record_step_start_time(self.step, self.now)
            self.ours.train(1, seconds)
            self.step += 1

    def beside(self, account: Literal["evaluate", "checkpoint"], took_s: float) -> None:
        """An evaluation or a checkpoint, between the end of a step and the begin of the next one."""
        self.theirs.record_custom_badput_event_start_time(self.now, account)
        with self.ours.recorder.bucket(account):
            self.ours.clock.sleep(took_s)
        self.theirs.record_custom_badput_event_end_time(self.now, account)


class Attempt(attempts.Attempt):
    indicators = staticmethod(default_indicators)


def test_the_librarys_goodput_of_a_killed_and_resumed_run_is_ours_for_its_definition(tmp_path, monkeypatch):
    wall = {"now": START_S}
    monkeypatch.setattr("lightning_costs.recording.run_hooks.time.time", lambda: wall["now"])
    log = Memory()
    first = Told(tmp_path, log, START_S)
    first.train(6.0, *[2.0] * 9)
    first.beside("evaluate", 8.0)
    first.train(*[2.0] * 5)
    state = first.ours.checkpoint()
    first.train(*[2.0] * 3)
    first.ours.kill()
    wall["now"] = START_S + 100.0
    second = Told(tmp_path, log, wall["now"], step=15, state=state)
    second.train(5.0, *[2.0] * 12)
    second.beside("checkpoint", 3.0)
    second.train(*[2.0] * 7)
    second.theirs.record_job_end_time(second.now)
    wall["now"] = START_S + 100.0 + second.ours.clock()
    run = second.ours.end()
    found = {each.name: each for each in goodput(run.header, run.final).definitions}["google"]

    theirs = google.GoodputCalculator("job", "log", log, cache_dir=str(tmp_path))
    percent, badput, last_step = theirs.get_job_goodput(include_badput_breakdown=True)
    assert last_step == 34
    assert percent / 100 == pytest.approx(found.fraction, abs=0.002)
    wall_s = goodput(run.header, run.final).wall_s
    assert wall_s == 146.0
    wasted_s = badput[google.BadputType.WASTED_PROGRESS_FROM_DISRUPTION] * wall_s / 100
    assert wasted_s == pytest.approx(4.0)  # of the last step before the kill, the library does not know the end
    assert run.final["lost_s"] == 6.0

"""Attempts at one run, each as if it were a process of its own."""

from __future__ import annotations

import json
from typing import Any, Self

import torch
from fakes import FakeClock

from lightning_costs import Recorder
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.run_folder.writer import RunFolderSink

BATCH = torch.zeros(8, 3)


def abandon(recorder: Recorder) -> None:
    """The recorder's process is gone: nothing more is written, and nobody holds its folder."""
    for sink in recorder.sinks:
        if isinstance(sink, RunFolderSink):
            sink.abandon()


class Attempt:
    """One process: a clock from zero, and a recorder that may continue a state."""

    @staticmethod
    def indicators() -> list[Any]:
        """What it measures."""
        raise NotImplementedError

    def __init__(self, save_dir: Any, state: Any = None, **options: Any) -> None:
        self.clock = FakeClock()
        given = {"save_dir": save_dir, "clock": self.clock, "indicators": self.indicators(), "log_every_n_steps": 1}
        self.recorder = Recorder(**given | options)
        if state is not None:
            self.recorder.load_state_dict(json.loads(json.dumps(state)))
        self.recorder.begin()

    def train(self, n: int, took_s: float = 1.0) -> Self:
        for _ in range(n):
            self.clock.sleep(took_s)
            self.recorder.step(BATCH)
        return self

    def quality(self, value: float) -> Self:
        self.recorder.log_metrics({"acc": value})
        return self

    def checkpoint(self) -> dict[str, Any]:
        return self.recorder.state_dict()

    def kill(self) -> Self:
        abandon(self.recorder)
        return self

    def end(self, status: Any = "finished") -> RunRecord | None:
        self.recorder.hooks.run.training_ended()
        return self.recorder.end(status)

"""`report --to trace`: a real run that was killed and resumed, as the events that trace viewers draw."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from attempts import Attempt
from command_line import call
from synthetic import make_run

from lightning_costs import default_indicators, load_runs
from lightning_costs.report.trace import trace_json


class Attempts(Attempt):
    @staticmethod
    def indicators() -> list[Any]:
        return [each for each in default_indicators() if each.family in ("time", "data")]


@pytest.fixture
def costs(tmp_path: Path, every_point_at_once: None) -> Path:
    options = {"name": "</script>\x1b[2J", "device": "cpu", "monitor": "acc", "mode": "max"}
    first = Attempts(tmp_path / "costs", **options).train(3)
    state = first.checkpoint()
    first.train(2)
    with first.recorder.bucket("evaluate"):
        first.clock.sleep(4.0)
    first.quality(0.5).kill()
    second = Attempts(tmp_path / "costs", state, **options).train(1)
    with second.recorder.bucket("checkpoint"):
        second.clock.sleep(0.5)
    second.quality(0.75).end()
    return tmp_path / "costs"


def test_accounts_of_all_attempts_add_up_nest_and_say_what_was_lost(
    costs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "trace.json"
    assert call(monkeypatch, "report", costs, "--to", "trace", "-o", out) == 0
    text = out.read_text(encoding="utf-8")
    events = json.loads(text)["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X", "C"}
    assert all(event["ts"] >= 0.0 for event in events if event["ph"] != "M")
    names = [event["args"]["name"] for event in events if event["ph"] == "M"]
    assert names[0] == "</script>\\x1b[2J (finished)"
    slices = [event for event in events if event["ph"] == "X"]
    attempts = [event["name"] for event in slices if event["tid"] == 1]
    assert (attempts[0], attempts[-1]) == ("attempt 1 (killed)", "attempt 2 (finished)")
    accounts = [event for event in slices if event["tid"] == 2]
    sums: Counter[str] = Counter()
    for event in accounts:
        sums[event["name"]] += event["dur"] / 1e6
    (run,) = load_runs(costs)
    for name, seconds in sums.items():
        assert seconds == pytest.approx(run.final[f"{name}_s"])
    assert sums["evaluate"] == 4.0
    assert sums["checkpoint"] == 0.5
    assert sum(event["dur"] for event in accounts if event["args"].get("lost")) == 6e6
    assert run.final["lost_s"] == 6.0
    ends: list[float] = []  # a slice lies in the one that is open, or behind it
    for event in accounts:
        while ends and ends[-1] <= event["ts"] + 0.01:
            ends.pop()
        ends.append(event["ts"] + event["dur"])
        assert ends == sorted(ends, reverse=True)
    quality = [event["args"]["value"] for event in events if event["ph"] == "C" and event["name"] == "acc"]
    assert quality == [0.5, 0.75]


def test_waiting_for_data_lies_inside_training_and_runs_without_accounts_are_left_out() -> None:
    waits = {"total_s": [3.0, 6.0], "train_s": [3.0, 6.0], "data_wait_s": [1.0, 1.5], "h2d_s": [0.0, 9.0]}
    runs = [
        make_run("a", costs=waits, quality=(0.5, 0.8)),
        make_run("b", costs={"flop": [1.0, 2.0]}, quality=(0.1, 0.2)),
    ]
    events = [event for event in json.loads(trace_json(runs))["traceEvents"] if event["ph"] == "X"]
    shown = [(event["pid"], event["name"], event["dur"]) for event in events if event["tid"] == 2]
    first = [(1, "train", 3e6), (1, "data_wait", 1e6)]
    second = [(1, "train", 3e6), (1, "data_wait", 0.5e6), (1, "h2d", 2.5e6)]  # never more than the account
    assert shown == [*first, *second]
    with pytest.raises(ValueError, match="expected runs with time accounts"):
        trace_json(runs[1:])

"""NVIDIA's own library, told the same training, says the seconds that we print. Runs if it is installed."""

from __future__ import annotations

import json
import time
from typing import Any

import attempts
import pytest

from lightning_costs import default_indicators
from lightning_costs.run.goodput import goodput
from lightning_costs.storage.run_folder import identity

pytestmark = pytest.mark.usefixtures("every_point_at_once")
theirs = pytest.importorskip(
    "nv_one_logger.training_telemetry.api.callbacks", reason="pip install nv-one-logger-training-telemetry"
)


class Attempt(attempts.Attempt):
    indicators = staticmethod(default_indicators)


def configure(folder: Any) -> None:
    from nv_one_logger.api.config import LoggerConfig, OneLoggerConfig
    from nv_one_logger.exporter.file_exporter import FileExporter
    from nv_one_logger.training_telemetry.api.config import TrainingTelemetryConfig
    from nv_one_logger.training_telemetry.api.training_telemetry_provider import TrainingTelemetryProvider

    logs = LoggerConfig(log_file_path_for_info=folder / "info", log_file_path_for_err=folder / "err")
    telemetry = TrainingTelemetryConfig(perf_tag_or_fn="perf", global_batch_size_or_fn=8)
    base = OneLoggerConfig(
        application_name="test", world_size_or_fn=1, session_tag_or_fn="one", logger_config=logs,
        telemetry_config=telemetry,
    )  # fmt: skip
    provider = TrainingTelemetryProvider.instance().with_base_config(base)
    provider.with_exporter(FileExporter(file_path=folder / "events.json")).configure_provider()


def test_the_librarys_productive_seconds_are_ours_for_its_definition(tmp_path, monkeypatch):
    identity._used_here.clear()
    configure(tmp_path)
    began_s, ours = time.time() - 120.0, Attempt(tmp_path / "costs")
    steps = 0

    def now_ms() -> float:
        return 1000.0 * (began_s + ours.clock())

    def train(n: int, took_s: float) -> None:
        nonlocal steps
        for _ in range(n):
            theirs.on_training_single_iteration_start(now_ms())
            ours.train(1, took_s)
            theirs.on_training_single_iteration_end(now_ms())
            steps += 1

    def save() -> None:
        theirs.on_save_checkpoint_start(steps, now_ms())
        with ours.recorder.bucket("checkpoint"):
            ours.clock.sleep(4.0)
            ours.checkpoint()
        theirs.on_save_checkpoint_success(steps, now_ms())
        theirs.on_save_checkpoint_end(now_ms())

    theirs.on_app_start(now_ms())
    theirs.on_train_start(0, train_iterations_target_or_fn=100, start_time_msec=now_ms())
    train(10, 2.0)
    theirs.on_validation_start(now_ms())
    with ours.recorder.bucket("evaluate"):
        theirs.on_validation_single_iteration_start(now_ms())
        ours.clock.sleep(6.0)
        theirs.on_validation_single_iteration_end(now_ms())
    theirs.on_validation_end(now_ms())
    save()
    train(5, 3.0)
    save()
    train(4, 2.0)  # no checkpoint holds these
    theirs.on_train_end(now_ms())
    theirs.on_app_end(now_ms())
    run = ours.end()

    events: list[dict[str, Any]] = [json.loads(line) for line in (tmp_path / "events.json").read_text().splitlines()]
    told = [found for event in events for found in _with(event, "productive_train_iterations_sec")]
    found = {each.name: each for each in goodput(run.header, run.final).definitions}["nvidia"]
    assert found.good_s == 10 * 2.0 + 5 * 3.0 + 6.0
    their_s = told[-1]["productive_train_iterations_sec"] + told[-1]["productive_validation_iterations_sec"]
    assert their_s == pytest.approx(found.good_s, abs=0.01)
    assert run.header["saves"] == {"count": 2, "train_s": 35.0, "evaluate_s": 6.0}


def _with(data: Any, name: str) -> list[dict[str, Any]]:
    """Every object in nested data that has a field of this name."""
    if isinstance(data, list):
        return [found for item in data for found in _with(item, name)]
    if not isinstance(data, dict):
        return []
    inner = [found for item in data.values() for found in _with(item, name)]
    return [data, *inner] if name in data else inner

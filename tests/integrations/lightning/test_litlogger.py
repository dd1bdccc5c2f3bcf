"""LitLogger with the real litlogger package; only its REST client, which needs an account, is a stand-in."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning_models import classifier, data, namespace, trainer

from lightning_costs import CostMonitor

pytest.importorskip("litlogger", reason="litlogger is not installed: pip install litlogger")
pytestmark = pytest.mark.filterwarnings("default")  # those of litlogger and lightning_sdk are theirs


class Client:
    """The platform: keeps what it is sent, knows no experiment and no artifact."""

    sent: list[Any]

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def lit_logger_service_get_metrics_stream(self, **_: Any) -> None:
        return None

    def lit_logger_service_create_metrics_stream(self, **_: Any) -> Any:
        return SimpleNamespace(id="one", cloudspace_id="", work_id="")

    def lit_logger_service_get_logger_metrics_summary(self, **_: Any) -> Any:
        return SimpleNamespace(summaries_per_name={})

    def lit_logger_service_append_logger_metrics(self, *, body: Any, **_: Any) -> None:
        Client.sent += body.metrics

    def lit_logger_service_update_metrics_stream(self, **_: Any) -> None:
        pass


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Step to what was sent of it, by name."""
    experiment, *apis = (
        import_module(f"litlogger.{name}")
        for name in ("experiment", "api.artifacts_api", "api.media_api", "api.metrics_api")
    )
    Client.sent = []
    for module in apis:
        monkeypatch.setattr(module, "LitRestClient", Client)
    monkeypatch.setattr(experiment.AuthApi, "authenticate", lambda _: None)
    monkeypatch.setattr(experiment.Experiment, "_resolve_remote_model", lambda *_: None)
    monkeypatch.setattr(experiment.signal, "signal", lambda *_: None)
    owner = SimpleNamespace(name="ada")
    space = SimpleNamespace(id="1", name="vision", owner=owner)
    monkeypatch.setattr(experiment, "_resolve_teamspace", lambda *_: space)

    def read() -> dict[int, dict[str, float]]:
        found: dict[int, dict[str, float]] = {}
        for metric in Client.sent:
            for value in metric.values:
                found.setdefault(int(value.step), {})[metric.name] = value.value
        return found

    return read


def test_costs_are_in_the_rows_of_the_quality_under_their_names(tmp_path: Path, rows: Any) -> None:
    pl = namespace("lightning.pytorch")
    logger = pl.loggers.LitLogger(root_dir=str(tmp_path), name="mine", save_logs=False)
    monitor = CostMonitor(save_dir=tmp_path / "costs", infer=False, monitor="val/acc", mode="max")
    trainer(pl, monitor, logger=logger, max_epochs=2, log_every_n_steps=4).fit(classifier(pl), data(64, 8), data())
    assert monitor.run is not None
    evaluated = [row for row in rows().values() if "val/acc" in row]
    points = monitor.run.points.filter(monitor.run.points["val/acc"].is_not_null())
    assert [row["val/acc"] for row in evaluated] == pytest.approx(points["val/acc"].to_list(), rel=1e-6)
    for name in ("samples", "flop", "train_s"):
        assert [row[f"cost/{name}"] for row in evaluated] == points[name].to_list()

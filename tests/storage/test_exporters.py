"""Sinks for Prometheus and OpenTelemetry, read by the parsers and readers that their own projects ship."""

from __future__ import annotations

import copy
import json
import platform
import random
import re
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_costs import Recorder, default_indicators
from lightning_costs.records.samples import CurvePoint
from lightning_costs.storage.exporters import (
    OpenTelemetrySink,
    PrometheusSink,
    opentelemetry_name,
    prometheus_name,
    prometheus_text,
)

#: Columns, with their unit and whether they are counters.
COLUMNS = [(each.name, each.unit, each.kind == "counter") for each in default_indicators()]


def trained(folder: Path, *sinks: Any, name: str = "mine", ends: bool = True) -> Recorder:
    plain = [each for each in default_indicators() if each.family not in ("energy", "money")]
    recorder = Recorder(
        save_dir=folder, sinks=sinks, name=name, monitor="acc", mode="max", indicators=plain, log_every_n_steps=1,
        module=torch.nn.Linear(2, 1), device="cpu",
    )  # fmt: skip
    recorder.begin()
    for _ in range(3):
        recorder.step(torch.ones(4, 2))
    recorder.log_metrics({"acc": 0.5})
    if ends:
        recorder.end()
    return recorder


def parsed(text: str) -> dict[str, Any]:
    parser = pytest.importorskip("prometheus_client.parser", reason="pip install prometheus-client")
    return {
        sample.name: (family, sample)
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_own_parser_reads_the_totals_of_a_run(tmp_path: Path) -> None:
    sink = PrometheusSink(tmp_path / "train.prom")
    recorder = trained(tmp_path / "costs", sink, ends=False)
    read = parsed(sink.path.read_text(encoding="utf-8"))
    labels = {"run": "mine", "run_id": recorder.run_id}
    assert read["lightning_costs_run_info"][1].labels == {**labels, "status": "running"}
    assert read["lightning_costs_quality"][1].labels == {**labels, "metric": "acc"}
    assert read["lightning_costs_quality"][1].value == 0.5
    for column, unit, counter in COLUMNS:
        amount = recorder.final.get(column)
        name = prometheus_name(column, unit, counter=counter)
        assert (name in read) == (amount is not None)
        if amount is not None:
            family, sample = read[name]
            assert (family.type, sample.labels) == ("counter" if counter else "gauge", labels)
    assert read["lightning_costs_samples_total"][1].value == 12.0
    assert read["lightning_costs_params"][1].value == 3.0
    recorder.end()
    ended = parsed(sink.path.read_text(encoding="utf-8"))
    assert ended["lightning_costs_run_info"][1].labels["status"] == "finished"
    assert ended["lightning_costs_total_seconds_total"][1].value == recorder.final["total_s"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["costs", "train.prom"]


def test_names_are_of_their_conventions_and_each_column_has_its_own() -> None:
    for name in (prometheus_name(column, unit, counter=counter) for column, unit, counter in COLUMNS):
        assert re.fullmatch(r"lightning_costs_[a-z][a-z0-9_]*", name)
        assert not re.search(r"_(s|j|w|g|hz|fraction)(_total)?$", name)
    assert all(re.fullmatch(r"lightning_costs\.[a-z0-9_]+", opentelemetry_name(*each[:2])[0]) for each in COLUMNS)
    assert len({prometheus_name(column, unit, counter=counter) for column, unit, counter in COLUMNS}) == len(COLUMNS)
    assert len({opentelemetry_name(column, unit)[0] for column, unit, _ in COLUMNS}) == len(COLUMNS)


def test_hostile_texts_are_labels_and_amounts_that_are_no_numbers_are_values() -> None:
    declared = {"unit": "s", "kind": "gauge", "label": 'a\\b "c"\nd'}
    header = {"run_id": "r", "name": 'x"\n}y', "monitor": 'q"\n', "indicators": {"a_s": declared, "b_s": declared}}
    point = CurvePoint(step=1, epoch=0, time=1.0, trigger="train", costs={"a_s": float("inf"), "b_s": float("nan")})
    read = parsed(prometheus_text(point, header, status="running", quality=-1e-300))
    assert read["lightning_costs_a_seconds"][1].value == float("inf")
    assert read["lightning_costs_b_seconds"][1].value != read["lightning_costs_b_seconds"][1].value
    assert read["lightning_costs_a_seconds"][0].documentation == 'a\\b "c"\nd'
    assert read["lightning_costs_quality"][1].labels["metric"] == 'q"\n'
    assert read["lightning_costs_quality"][1].labels["run"].startswith('x"')


@pytest.mark.parametrize("name", ["/home/ada/secret-project", "hf_AbCdEfGhIjKlMn", f"exp on {platform.node()}"])
def test_no_label_has_a_path_a_secret_or_a_host(tmp_path: Path, name: str) -> None:
    sink = PrometheusSink(tmp_path / "train.prom")
    recorder = trained(tmp_path / "costs", sink, name=name)
    text = sink.path.read_text(encoding="utf-8")
    assert name not in text
    assert platform.node() not in text
    (run,) = {sample.labels["run"] for _, sample in parsed(text).values()}
    assert run in (recorder.run_id, parsed(text)["lightning_costs_params"][1].labels["run_id"])


def test_a_file_that_node_exporter_does_not_read_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ends in \.prom, as node_exporter reads, got 'costs\.txt'"):
        PrometheusSink("costs.txt")


def test_the_official_reader_gets_every_total_with_its_unit(tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="pip install 'lightning-costs[otel]'")
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    sink = OpenTelemetrySink(MeterProvider([reader]))
    trained(tmp_path, sink)
    recorder = trained(tmp_path, sink, name="second")  # the same provider, the instruments that it has
    data = json.loads(reader.get_metrics_data().to_json())
    (scope,) = data["resource_metrics"][0]["scope_metrics"]
    found = {metric["name"]: metric for metric in scope["metrics"]}
    attributes = {"lightning_costs.run": "second", "lightning_costs.run_id": recorder.run_id}
    for column, unit, counter in COLUMNS:
        name, ucum = opentelemetry_name(column, unit)
        if (amount := recorder.final.get(column)) is None:
            assert name not in found
            continue
        (point,) = found[name]["data"]["data_points"]
        assert (point["value"], point["attributes"], found[name]["unit"]) == (amount, attributes, ucum)
        assert found[name]["data"].get("is_monotonic", False) == counter
    (quality,) = found["lightning_costs.quality"]["data"]["data_points"]
    assert (quality["value"], quality["attributes"]["metric"]) == (0.5, "acc")


@contextmanager
def server(answer: int) -> Iterator[tuple[str, list[bytes]]]:
    """A collector on the loopback that answers so; what it got is in the list."""
    got: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(answer)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/v1/metrics", got
    finally:
        running.shutdown()
        running.server_close()


def test_a_collector_gets_the_final_totals_by_otlp_and_nothing_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="pip install 'lightning-costs[otel]'")
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

    with server(200) as (address, got):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", address)
        sink, state = OpenTelemetrySink(), random.getstate()
        trained(tmp_path, sink)
        copy.deepcopy(sink)
    assert random.getstate() == state  # its exporter draws random numbers, and not those of the training
    (sent,) = ExportMetricsServiceRequest.FromString(got[-1]).resource_metrics
    resource = {each.key: each.value.string_value for each in sent.resource.attributes}
    assert resource["service.name"] == "lightning-costs"
    metrics = {metric.name: metric for metric in sent.scope_metrics[0].metrics}
    assert metrics["lightning_costs.samples"].sum.data_points[0].as_double == 12.0
    assert platform.node().encode() not in got[-1]
    assert str(tmp_path).encode() not in got[-1]


@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "is silent"])
def test_a_collector_that_does_not_answer_is_no_matter_of_the_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, listens: bool
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="pip install 'lightning-costs[otel]'")
    from lightning_costs.storage import exporters

    monkeypatch.setattr(exporters, "WAIT_S", 0.2)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    sink, state = OpenTelemetrySink(), random.getstate()
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        if listens:
            bound.listen()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{bound.getsockname()[1]}")
        recorder = trained(tmp_path, sink)
        assert sink._sending is not None
        sink._sending.join()
    assert random.getstate() == state
    assert recorder.header["status"] == "finished"
    assert "gets no more of this run" not in caplog.text


def test_without_the_sdk_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.metrics", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-costs\[otel\]'"):
        OpenTelemetrySink()


def test_the_random_end_of_an_identity_is_no_secret() -> None:
    from lightning_costs.storage.exporters import _labels

    for end in range(0, 1 << 16, 97):
        run_id = f"second-20261129-194820-{end:04x}"
        assert _labels({"run_id": run_id, "name": "second"}) == {"run": "second", "run_id": run_id}
    secret = "sk-Zx8Qw3Rt7Yp2Lm5Nv9Kb4-20261129-194820-d3d9"
    assert "Zx8Qw3" not in _labels({"run_id": secret, "name": secret})["run_id"]

"""Runs as metrics: sinks for Prometheus and OpenTelemetry, with names after their conventions and few labels.

Labels are the run's name and id, without a host, a path or a secret. A missing amount is no sample.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import random
import re
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, final

from lightning_costs.records.samples import CurvePoint
from lightning_costs.records.secrets import harmless_name
from lightning_costs.records.versions import version_of
from lightning_costs.storage.run_folder.files import replace_file

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider

#: Seconds between two exports at least, and for which the end of a run waits for the last one.
EVERY_S, WAIT_S = 10.0, 5.0
_QUOTED = {ord('"'): '\\"'}
_log = logging.getLogger("lightning_costs")


class _Unit(NamedTuple):
    """How a unit is written: by Prometheus in the name, by OpenTelemetry beside it (UCUM), where a word names the kind.

    Sources: Prometheus, 'Metric and label naming' (base units, `_total`); OpenTelemetry semantic conventions 1.37,
    'Metrics: naming' and 'Instrument units' (no units in names, annotations in braces for what is counted).
    """

    prometheus: str
    ucum: str
    kind: str = ""


_UNITS = {
    "s": _Unit("seconds", "s", "time"),
    "j": _Unit("joules", "J"),
    "w": _Unit("watts", "W", "power"),
    "hz": _Unit("hertz", "Hz", "frequency"),
    "bytes": _Unit("bytes", "By", "size"),
    "g": _Unit("grams", "g"),
    "l": _Unit("liters", "L"),
    "usd": _Unit("usd", "{USD}", "cost"),
    "fraction": _Unit("ratio", "1", "ratio"),
}


def prometheus_name(column: str, unit: str, *, counter: bool) -> str:
    """What Prometheus calls a column.

    Example:
        >>> prometheus_name("train_s", "s", counter=True), prometheus_name("samples", "samples", counter=True)
        ('lightning_costs_train_seconds_total', 'lightning_costs_samples_total')
        >>> prometheus_name("flop_per_s", "flop_per_s", counter=False)
        'lightning_costs_flop_per_second'
    """
    if column.endswith("_per_s"):
        name = f"{column}econd"
    elif unit in _UNITS and column.endswith(f"_{unit}"):
        name = column.removesuffix(unit) + _UNITS[unit].prometheus
    else:
        name = column
    return f"lightning_costs_{name}{'_total' if counter else ''}"


def opentelemetry_name(column: str, unit: str) -> tuple[str, str]:
    """What OpenTelemetry calls a column, and its unit.

    Example:
        >>> opentelemetry_name("train_s", "s"), opentelemetry_name("energy_j", "j")
        (('lightning_costs.train_time', 's'), ('lightning_costs.energy', 'J'))
        >>> opentelemetry_name("samples_per_s", "samples_per_s")
        ('lightning_costs.samples_rate', '{samples}/s')
    """
    base, rate, _ = unit.partition("_per_s")
    if rate:
        ucum = _UNITS[base].ucum if base in _UNITS else f"{{{base}}}"
        return f"lightning_costs.{column.removesuffix('_per_s')}_rate", f"{ucum}/s"
    if unit not in _UNITS:
        return f"lightning_costs.{column}", f"{{{unit}}}"
    stem, kind = column.removesuffix(unit).rstrip("_"), _UNITS[unit].kind
    return f"lightning_costs.{'_'.join(filter(None, (stem, kind)))}", _UNITS[unit].ucum


#: What a run's identity ends in.
_STAMP = re.compile(r"-\d{8}-\d{6}-[0-9a-f]{4}(-[0-9a-f]{8})?$")


def _labels(header: Mapping[str, Any]) -> dict[str, str]:
    run_id = str(header.get("run_id"))
    digest = hashlib.sha256(run_id.encode("utf-8", "replace")).hexdigest()[:12]
    stem = _STAMP.sub("", run_id)  # random for real, and no secret
    if harmless_name(stem, digest) != stem:
        run_id = digest
    return {"run": harmless_name(str(header.get("name") or run_id), run_id), "run_id": run_id}


def _amounts(point: CurvePoint, header: Mapping[str, Any]) -> dict[str, float]:
    """Columns of a point and statics of the run, those that are known."""
    every = {**point.costs, **(header.get("statics") or {})}
    return {name: amount for name, amount in every.items() if amount is not None and name in header["indicators"]}


@final
class PrometheusSink:
    """Writes a run's totals to a file that node_exporter's textfile collector reads, replaced in one move.

    The file keeps the last totals when the run has ended; `lightning_costs_run_info` has the status.

    Args:
        path: The file; node_exporter reads those of its folder whose names end in `.prom`. Runs that are in progress at
            once need one each.

    Raises:
        ValueError: For another ending.

    Example:
        >>> from lightning_costs import Recorder
        >>> recorder = Recorder(sinks=[PrometheusSink("train.prom")])  # or CostMonitor(sinks=[...])
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        if self.path.suffix != ".prom":
            raise ValueError(f"expected a file whose name ends in .prom, as node_exporter reads, got {str(path)!r}")
        self._header: Mapping[str, Any] = {}
        self._point: CurvePoint | None = None
        self._quality: float | None = None

    def open(self, header: Mapping[str, Any]) -> None:
        """A run begins."""
        self._header, self._point, self._quality = header, None, None

    def point(self, point: CurvePoint, header: Mapping[str, Any]) -> None:
        """Replace the file."""
        self._header, self._point = header, point
        self._quality = point.quality.get(str(header.get("monitor")), self._quality)
        self._write("running")

    def close(self, status: str) -> None:
        """Write how it ended."""
        self._write(status)

    def _write(self, status: str) -> None:
        if self._point is not None:
            text = prometheus_text(self._point, self._header, status=status, quality=self._quality)
            replace_file(self.path, lambda fresh: fresh.write_text(text, encoding="utf-8"))


def prometheus_text(point: CurvePoint, header: Mapping[str, Any], *, status: str, quality: float | None = None) -> str:
    """A point in Prometheus' text exposition format 0.0.4.

    Args:
        point: The run's last one.
        header: The run's.
        status: 'running', or how it ended.
        quality: The last value of the metric that the run is compared by.
    """
    labels, lines = _labels(header), []

    def sample(name: str, kind: str, about: str, amount: float, **more: str) -> None:
        shown = ",".join(f'{label}="{_escaped(text).translate(_QUOTED)}"' for label, text in {**labels, **more}.items())
        text = "NaN" if math.isnan(amount) else repr(float(amount)).replace("inf", "Inf")
        lines.extend([f"# HELP {name} {_escaped(about)}", f"# TYPE {name} {kind}", f"{name}{{{shown}}} {text}"])

    sample("lightning_costs_run_info", "gauge", "The run, and whether it is in progress.", 1.0, status=status)
    sample("lightning_costs_last_point_timestamp_seconds", "gauge", "When the newest point was made.", point.time)
    if quality is not None:
        metric = str(header.get("monitor"))
        sample("lightning_costs_quality", "gauge", "Quality, as it was logged last.", quality, metric=metric)
    for column, amount in _amounts(point, header).items():
        declared = header["indicators"][column]
        counter = declared["kind"] == "counter"
        name = prometheus_name(column, declared["unit"], counter=counter)
        sample(name, "counter" if counter else "gauge", str(declared["label"]), amount)
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


@final
class OpenTelemetrySink:
    """Sends a run's totals as OpenTelemetry metrics: by OTLP over HTTP, to where OTEL_EXPORTER_OTLP_ENDPOINT says.

    The official SDK sends them in a thread that lives for one export, every ten seconds at most: training waits for
    no server. The end of a run waits five seconds.

    Args:
        provider: A MeterProvider of your own, whose readers decide when to read; by default one for OTLP is made.

    Raises:
        ImportError: Without the extra `otel`.
    """

    def __init__(self, provider: MeterProvider | None = None) -> None:
        try:
            import opentelemetry.exporter.otlp.proto.http.metric_exporter
            import opentelemetry.sdk.metrics  # noqa: F401 - an error now, not in the midst of a training
        except ImportError as error:
            raise ImportError("OpenTelemetrySink needs OpenTelemetry: pip install 'lightning-costs[otel]'") from error
        self._given = provider
        self._forget()

    def _forget(self) -> None:
        self._provider: MeterProvider | None = self._given
        self._known: set[str] = set()
        self._now: dict[str, float] = {}
        self._labels: dict[str, str] = {}
        self._quality: dict[str, float] = {}
        self._sending: threading.Thread | None = None
        self._sent_s = -math.inf

    def __getstate__(self) -> dict[str, Any]:
        """A copy or pickle sends for itself."""
        return {"_given": self._given}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self._given = state["_given"]
        self._forget()

    def open(self, header: Mapping[str, Any]) -> None:
        """A run begins; without a provider of the user's, it has one of its own."""
        if self._given is None:
            self._forget()
            self._provider = _otlp()
        self._labels = _labels(header)
        self._now, self._quality = {}, {}

    def point(self, point: CurvePoint, header: Mapping[str, Any]) -> None:
        """Keep the totals for the provider's readers; send them if it is time."""
        now = _amounts(point, header)
        self._now = now  # one assignment: another thread reads it
        if (monitor := str(header.get("monitor"))) in point.quality:
            self._quality = {monitor: point.quality[monitor]}
        self._declare(header)
        if self._given is None and time.monotonic() - self._sent_s >= EVERY_S:
            self._send()

    def close(self, status: str) -> None:
        """Send the final totals."""
        if self._given is None and self._provider is not None:
            wait_s = WAIT_S if status == "finished" else WAIT_S / 10  # an error must not be delayed
            ends_s = time.monotonic() + wait_s
            if self._sending is not None:
                self._sending.join(wait_s)
            self._send(last=True)
            if self._sending is not None:
                self._sending.join(max(0.0, ends_s - time.monotonic()))

    def _declare(self, header: Mapping[str, Any]) -> None:
        """An instrument for each column that appears; it reads what was kept last."""
        assert self._provider is not None, "open comes before point"
        meter = self._provider.get_meter("lightning_costs", version_of("lightning-costs"))
        for column in self._now.keys() - self._known:
            declared = header["indicators"][column]
            name, unit = opentelemetry_name(column, declared["unit"])
            counter = declared["kind"] == "counter"
            make = meter.create_observable_counter if counter else meter.create_observable_gauge
            make(name, [self._reader(column)], unit, str(declared["label"]))
        if self._quality and "" not in self._known:
            self._known.add("")
            meter.create_observable_gauge("lightning_costs.quality", [self._read_quality], "1", "quality, logged last")
        self._known |= self._now.keys()

    def _reader(self, column: str) -> Any:
        from opentelemetry.metrics import Observation

        def read(_: object) -> Iterable[Observation]:
            amount = self._now.get(column)
            return [] if amount is None else [Observation(amount, self._attributes())]

        return read

    def _read_quality(self, _: object) -> Iterable[Any]:
        from opentelemetry.metrics import Observation

        quality, attributes = self._quality, self._attributes()
        return [Observation(value, {**attributes, "metric": name}) for name, value in quality.items()]

    def _attributes(self) -> dict[str, str]:
        return {f"lightning_costs.{name}": text for name, text in self._labels.items()}

    def _send(self, *, last: bool = False) -> None:
        if self._sending is not None and self._sending.is_alive():
            return  # a server that is slow
        self._sent_s = time.monotonic()
        self._sending = threading.Thread(
            target=_export, args=(self._provider, last), name="lightning-costs export", daemon=True
        )
        self._sending.start()


def _otlp() -> MeterProvider:
    """A provider that exports when it is flushed, and by no thread that a fork would copy."""
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.resources import Resource

    for name, module in list(sys.modules.items()):
        # It draws the waits between two tries from Python's own generator, whose numbers are the training's.
        if name.startswith("opentelemetry.exporter") and getattr(module, "random", None) is random:
            vars(module)["random"] = random.Random()
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if named else {"service.name": "lightning-costs"})
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(), export_interval_millis=math.inf)
    return MeterProvider([reader], resource=resource, shutdown_on_exit=False)


def _export(provider: MeterProvider, last: bool) -> None:
    try:
        provider.force_flush(timeout_millis=1000 * WAIT_S)
        if last:
            provider.shutdown(timeout_millis=1000 * WAIT_S)
    except Exception as error:  # noqa: BLE001 - a server's failure is not the training's
        _log.warning("metrics could not be sent: %s", type(error).__name__)

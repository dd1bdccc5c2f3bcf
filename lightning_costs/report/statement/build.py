"""Runs to a statement: their headers and final amounts read, added up and counted."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from lightning_costs.analysis.below_zero import without_below_zero
from lightning_costs.analysis.metric import Metric, agree_on_metric
from lightning_costs.analysis.run_data import unique_labels
from lightning_costs.analysis.schema import Mode
from lightning_costs.pricing.rates import UnitPrices
from lightning_costs.pricing.reprice import reprice
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.certainty import Certainty, certainty, convention
from lightning_costs.records.printable import printable
from lightning_costs.records.samples import Amount
from lightning_costs.report.statement.data import (
    COMPONENTS,
    INFERENCE,
    MODEL,
    TOTALS,
    CarbonIntensityUsed,
    Hardware,
    Price,
    RunFacts,
    Statement,
    Total,
)
from lightning_costs.report.statement.escape import redact
from lightning_costs.report.statement.scores import sci_g
from lightning_costs.run.record import RunRecord, printable_run
from lightning_costs.run.summary import sum_known

_UNMEASURED = "not measured"
#: What a reason says to its user, and a reader of a paper cannot do.
_ADVICE = re.compile(r"(: Tariff\(|; give |: pass |; lightning-costs ).*", re.DOTALL)


def build_statement(
    runs: RunRecord | Sequence[RunRecord],
    *,
    tariff: Tariff | None = None,
    monitor: str | None = None,
    mode: Mode | None = None,
) -> Statement:
    """What runs cost together, as a statement that a paper or a model card can make.

    Args:
        runs: One, or as many as belong together, failed ones too.
        tariff: Prices all of them again; by default each keeps what it recorded.
        monitor: A quality metric to state beside the costs.
        mode: Whether more of it is better, if the runs do not record that.

    Raises:
        ValueError: For no runs, or a metric that no run logged.
    """
    runs = [runs] if isinstance(runs, RunRecord) else list(runs)
    if not runs:
        raise ValueError("expected at least one run to state the cost of, got none")
    possible, _ = without_below_zero(runs)
    runs = [printable_run(run if tariff is None else reprice(run, tariff)) for run in possible]
    metric = None if monitor is None else agree_on_metric(runs, printable(monitor), mode)
    facts = [
        RunFacts(
            label=redact(label),
            status=str(run.header.get("status") or "unknown"),
            attempts=max(1, len(run.header.get("attempts", ()))),
            hardware=_hardware(run.header),
            amounts={name: _finite(run.final.get(name)) for name in (*TOTALS, *INFERENCE, *MODEL)},
            quality=_best(run, metric),
            began=next((str(a["began"]) for a in run.header.get("attempts", ()) if a.get("began")), None),
            query_g=_query_g(run),
        )
        for label, run in zip(unique_labels(runs), runs, strict=True)
    ]
    pairs = list(zip(facts, runs, strict=True))
    unfinished = [pair for pair in pairs if pair[0].status != "finished"]
    of_nodes = all(fact.hardware.cpu for fact in facts)
    return Statement(
        runs=tuple(facts),
        statuses=dict(Counter(fact.status for fact in facts).most_common()),
        totals={name: _figure(name, pairs, of_nodes) for name in TOTALS},
        unfinished={name: _figure(name, unfinished, of_nodes) for name in TOTALS},
        inference={name: _figure(name, pairs, of_nodes) for name in INFERENCE},
        model={name: _figure(name, pairs, of_nodes) for name in MODEL},
        software=_software(runs[-1]),
        batches=_batches(runs),
        components={part: _ways(part, pairs) for part in COMPONENTS},
        errors_j={part: _error_j(part, pairs) for part in COMPONENTS},
        hardware=_counted(fact.hardware for fact in facts),
        grids=_counted(_priced_by(pairs, "co2e_g", _grid)),
        pues=_pues(pairs),
        prices=_counted(_priced_by(pairs, "cloud_usd", _price)),
        usd_per_kwh=_counted(_priced_by(pairs, "electricity_usd", lambda tariff: tariff.get("usd_per_kwh"))),
        uncounted=tuple(
            sorted({str(name) for run in runs for name in (run.header.get("census") or {}).get("uncounted_calls", ())})
        ),
        killed=sum(attempt.get("status") == "killed" for run in runs for attempt in run.header.get("attempts", ())),
        shared=_shared(runs),
        began=min(_days(runs, "began"), default=None),
        ended=max([*_days(runs, "began"), *_days(runs, "ended")], default=None),
        metric=metric,
        repriced=tariff is not None,
    )


def _tariffs(run: RunRecord) -> list[Mapping[str, Any]]:
    """What a run's attempts are priced under, each once: their own tariffs, else the run's."""
    found: list[Mapping[str, Any]] = []
    for attempt in run.header.get("attempts") or [{}]:
        tariff = attempt.get("tariff") or run.header.get("tariff") or {}
        if tariff not in found:
            found.append(tariff)
    return found


def _priced_by(
    pairs: Iterable[tuple[RunFacts, RunRecord]], column: str, read: Callable[[Mapping[str, Any]], Any]
) -> Iterable[Any]:
    """What each run that has a priced column says of its tariffs, each word once a run."""
    for fact, run in pairs:
        if fact.amounts[column] is not None:
            yield from dict.fromkeys(word for tariff in _tariffs(run) if (word := read(tariff)) is not None)


def _pues(pairs: Iterable[tuple[RunFacts, RunRecord]]) -> dict[float | None, int]:
    """PUEs of the runs that are priced by energy, None if one had none."""
    return _counted(
        pue
        for fact, run in pairs
        if fact.amounts["co2e_g"] is not None or fact.amounts["electricity_usd"] is not None
        for pue in dict.fromkeys(tariff.get("pue") for tariff in _tariffs(run))
    )


_LESS_CERTAIN: tuple[Certainty, ...] = ("exact", "estimated", "modelled")


def _figure(name: str, pairs: Sequence[tuple[RunFacts, RunRecord]], of_nodes: bool) -> Total:
    amounts = [fact.amounts[name] for fact, _ in pairs]
    known = [amount for amount in amounts if amount is not None]
    total, unknown = sum_known([fact.amounts for fact, _ in pairs], name)
    reasons = Counter(
        redact(_ADVICE.sub("", run.header.get("missing", {}).get(name, _UNMEASURED)))
        for fact, run in pairs
        if fact.amounts[name] is None
    )
    methods = Counter(
        convention(redact(str(run.header["methods"][name])))
        for fact, run in pairs
        if fact.amounts[name] is not None and name in run.header.get("methods", {})
    )
    kinds = {certainty(run.header, name) for fact, run in pairs if fact.amounts[name] is not None}
    errors = [
        interval[1] - amount
        for fact, run in pairs
        if (interval := (run.header.get("intervals") or {}).get(name)) and (amount := fact.amounts[name]) is not None
    ]
    return Total(
        name=name,
        amount=total,
        runs=len(pairs),
        unknown=unknown,
        reasons=dict(reasons.most_common()),
        methods=dict(methods.most_common()),
        least=min(known, default=None),
        most=max(known, default=None),
        certainty=max(kinds, key=_LESS_CERTAIN.index, default="exact"),
        error=math.fsum(errors) or None,
        of_nodes=of_nodes,
    )


def _ways(part: str, pairs: Iterable[tuple[RunFacts, RunRecord]]) -> dict[str, int]:
    """The word for how a component's energy was got: counter, power, model, constant, none; of runs that know it."""
    name = f"{part}_energy_j"
    words: Counter[str] = Counter()
    for fact, run in pairs:
        if fact.amounts[name] is None:
            continue
        meter = (run.header.get("energy") or {}).get(part)
        word = meter.get("method") if isinstance(meter, Mapping) else meter
        if not isinstance(word, str):
            word = str(run.header.get("methods", {}).get(name, "")).partition(":")[0]
        words["none" if word.startswith(("zero", "none")) else word or "unknown"] += 1
    return dict(words.most_common())


def _error_j(part: str, pairs: Iterable[tuple[RunFacts, RunRecord]]) -> Amount:
    """The largest error of a component's sum by its reading; None if a run has none, as one of several attempts."""
    errors: list[Amount] = []
    for fact, run in pairs:
        if fact.amounts[f"{part}_energy_j"] is None:
            continue
        meter = (run.header.get("energy") or {}).get(part)
        errors.append(meter.get("error_j") if isinstance(meter, Mapping) and fact.attempts == 1 else None)
    known = [error for error in errors if error is not None]
    return math.fsum(known) if errors and len(known) == len(errors) else None


def _hardware(header: Mapping[str, Any]) -> Hardware:
    setup: Mapping[str, Any] = header.get("setup") or {}
    found: Mapping[str, Any] = setup.get("hardware") or {}
    accelerator = found.get("device") or found.get("accelerator")
    kind = setup.get("device")
    on_cpu = kind == "cpu" or (kind is None and not accelerator and bool(found.get("cpu")))
    name = found.get("cpu") if on_cpu else accelerator or kind
    attempts = header.get("attempts") or [{}]

    def over(key: str) -> tuple[int, ...]:
        counts = [_whole(attempt.get(key) or setup.get(key) or found.get(key)) for attempt in attempts]
        return tuple(n for at, n in enumerate(counts) if n and (at == 0 or counts[at - 1] != n))

    return Hardware(
        device=redact(str(name)) if name else None, cpu=on_cpu, devices=over("devices"), nodes=over("nodes")
    )


def _whole(count: object) -> int:
    return int(count) if isinstance(count, int | float) else 0


def _grid(tariff: Mapping[str, Any]) -> CarbonIntensityUsed | None:
    found: Mapping[str, Any] = tariff.get("intensity") or {}
    grams = found.get("gco2e_per_kwh", tariff.get("gco2e_per_kwh"))
    if hours := tariff.get("hours"):
        source = f"mean of the hours it ran in, by the hour from {redact(str(tariff.get('intensity_by_hour')))}"
        mean = math.fsum(hour[1] for hour in hours) / len(hours)
        return CarbonIntensityUsed(
            gco2e_per_kwh=float(f"{mean:.4g}"), source=source, place=_place(tariff), located=False
        )
    if grams is None:
        return None
    source = redact(str(found.get("source") or "given"))
    # An intensity that was given by hand wins over the place, whose grid it is not.
    place = None if source == "given" else _place(tariff)
    return CarbonIntensityUsed(
        gco2e_per_kwh=float(grams), source=source, place=place, located="location-based" in source
    )


def _place(tariff: Mapping[str, Any]) -> str | None:
    """A place for people: region and country, or the cloud's region."""
    import pycountry

    if tariff.get("cloud"):
        return " ".join(str(tariff[key]) for key in ("cloud", "cloud_region") if tariff.get(key))
    region, country = (str(tariff.get(key) or "") for key in ("region", "country"))
    part = pycountry.subdivisions.get(code=region.upper())
    with suppress(LookupError):
        found = pycountry.countries.lookup(country) if country else part and part.country
        country = f"{found.name} ({found.alpha_3})" if found else country
    return ", ".join(filter(None, (part.name if part else region, country))) or None


def _price(tariff: Mapping[str, Any]) -> Price:
    """The price of a device or a node: the one that was given, else the row of a table that was found."""
    row: Mapping[str, Any] = tariff.get("price_row") or {}
    named = {key: row.get(key, tariff.get(key)) for key in ("provider", "tier", "source", "date")}
    per_node = tariff.get("usd_per_node_h")
    usd = tariff.get("usd_per_device_h", row.get("usd_per_device_h")) if per_node is None else per_node
    return Price(
        usd_per_h=None if usd is None else float(usd),
        per="device" if per_node is None else "node",
        **{key: None if text is None else redact(str(text)) for key, text in named.items()},
    )


def _best(run: RunRecord, metric: Metric | None) -> Amount:
    if metric is None or metric.monitor not in run.points.columns:
        return None
    values = [float(value) for value in run.points[metric.monitor].drop_nulls() if math.isfinite(value)]
    return (max if metric.mode == "max" else min)(values, default=None)


def _query_g(run: RunRecord) -> Amount:
    """Operational and embodied carbon of one forward pass: its energy, and one device's time at its throughput."""
    rates = UnitPrices.of(run.header.get("tariff") or {})
    per_s = _finite(run.final.get("infer_samples_per_s"))
    used = {
        "energy_j": _finite(run.final.get("infer_energy_j")),
        "device_s": 1 / per_s if per_s else None,
        "flop": _finite(run.final.get("forward_flop")),
    }
    operational, embodied = (rates.amount(name, used) for name in ("co2e_g", "embodied_co2e_g"))
    return None if operational is None or embodied is None else sci_g(operational, embodied, 1.0)


def _software(run: RunRecord) -> dict[str, str]:
    found: Mapping[str, Any] = (run.header.get("setup") or {}).get("software") or {}
    return {name: str(version) for name, version in found.items()}


def _batches(runs: Iterable[RunRecord]) -> tuple[int, ...]:
    found = {(run.header.get("inference") or {}).get("batch_samples") for run in runs}
    return tuple(sorted(int(batch) for batch in found if batch))


def _shared(runs: Iterable[RunRecord]) -> int:
    """Runs that hold an attempt which another one holds too: both totals have what it spent."""
    lists = [{a["id"] for a in run.header.get("attempts", ()) if a.get("id")} for run in runs]
    owners = Counter(attempt for ids in lists for attempt in ids)
    return sum(any(owners[attempt] > 1 for attempt in ids) for ids in lists)


def _days(runs: Iterable[RunRecord], key: str) -> list[str]:
    return [str(a[key])[:10] for run in runs for a in run.header.get("attempts", ()) if a.get(key)]


def _counted(values: Iterable[Any]) -> dict[Any, int]:
    return dict(Counter(values).most_common())


def _finite(amount: Amount) -> Amount:
    return amount if amount is not None and math.isfinite(amount) else None

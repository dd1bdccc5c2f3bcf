"""Runs to a statement: their headers and final amounts read, added up and counted."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_costs.compare.evidence import unique_labels
from lightning_costs.compare.metric import Metric, agree_on_metric
from lightning_costs.compare.pricing import PRICED, price
from lightning_costs.compare.schema import Mode
from lightning_costs.core.records import Amount, RunRecord
from lightning_costs.core.summary import total_of
from lightning_costs.core.tariff import Tariff
from lightning_costs.report.statement.discreet import discreet
from lightning_costs.report.statement.facts import (
    COMPONENTS,
    INFERENCE,
    TOTALS,
    Figure,
    Grid,
    Hardware,
    Price,
    RunFacts,
    Statement,
)

_UNMEASURED = "not measured"
#: What a reason says to its user, and a reader of a paper cannot do.
_ADVICE = re.compile(r"(: Tariff\(|; give |: pass ).*", re.DOTALL)


def statement(
    runs: RunRecord | Sequence[RunRecord],
    *,
    tariff: Tariff | None = None,
    monitor: str | None = None,
    mode: Mode | None = None,
) -> Statement:
    """What runs cost together, as a statement that a paper or a model card can make.

    Args:
        runs: One, or as many as belong together, failed ones too.
        tariff: Prices all of them anew; where not given, each keeps what it recorded.
        monitor: A quality metric to tell beside the costs.
        mode: Whether more of it is better, where the runs do not say.

    Raises:
        ValueError: For no runs, or a metric that nobody logged.
    """
    runs = [runs] if isinstance(runs, RunRecord) else list(runs)
    if not runs:
        raise ValueError("expected at least one run to state the cost of, got none")
    metric = None if monitor is None else agree_on_metric(runs, monitor, mode)
    priced = [_priced(run, tariff) for run in runs]
    facts = [
        RunFacts(
            label=discreet(label),
            status=str(run.header.get("status") or "unknown"),
            attempts=max(1, len(run.header.get("attempts", ()))),
            hardware=_hardware(run.header),
            amounts={name: _finite(run.final.get(name)) for name in (*TOTALS, *INFERENCE)}
            | {name: _finite(amount) for name, amount in run.prices.items()},
            quality=_best(run.record, metric),
        )
        for label, run in zip(unique_labels(runs), priced, strict=True)
    ]
    pairs = list(zip(facts, priced, strict=True))
    unfinished = [pair for pair in pairs if pair[0].status != "finished"]
    return Statement(
        runs=tuple(facts),
        statuses=dict(Counter(fact.status for fact in facts).most_common()),
        totals={name: _figure(name, pairs) for name in TOTALS},
        unfinished={name: _figure(name, unfinished) for name in TOTALS},
        inference={name: _figure(name, pairs) for name in INFERENCE},
        batches=_batches(runs),
        components={part: _ways(part, pairs) for part in COMPONENTS},
        hardware=_counted(fact.hardware for fact in facts),
        grids=_counted(
            grid
            for fact, run in pairs
            if fact.amounts["co2e_g"] is not None and (grid := _grid(run.tariff)) is not None
        ),
        pues=_counted(
            run.tariff.get("pue")
            for fact, run in pairs
            if fact.amounts["co2e_g"] is not None or fact.amounts["electricity_usd"] is not None
        ),
        prices=_counted(_price(run.tariff) for fact, run in pairs if fact.amounts["cloud_usd"] is not None),
        usd_per_kwh=_counted(
            float(run.tariff["usd_per_kwh"])
            for fact, run in pairs
            if fact.amounts["electricity_usd"] is not None and run.tariff.get("usd_per_kwh") is not None
        ),
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


@dataclass(frozen=True, slots=True)
class _Priced:
    """A run beside the tariff that it is told under."""

    record: RunRecord
    tariff: Mapping[str, Any]
    prices: Mapping[str, Amount]
    missing: Mapping[str, str]

    @property
    def header(self) -> Mapping[str, Any]:
        return self.record.header

    @property
    def final(self) -> dict[str, Amount]:
        return self.record.final


def _priced(run: RunRecord, tariff: Tariff | None) -> _Priced:
    missing = {str(name): str(why) for name, why in run.header.get("missing", {}).items()}
    if tariff is None:
        return _Priced(run, run.header.get("tariff") or {}, {}, missing)
    last = run.points.row(-1, named=True) if run.points.height else {}
    prices, reasons = price({**last, **run.header.get("statics", {})}, tariff)
    return _Priced(
        run, tariff.as_dict(), prices, {name: why for name, why in missing.items() if name not in PRICED} | reasons
    )


def _figure(name: str, pairs: Sequence[tuple[RunFacts, _Priced]]) -> Figure:
    amounts = [fact.amounts[name] for fact, _ in pairs]
    known = [amount for amount in amounts if amount is not None]
    total, unknown = total_of([fact.amounts for fact, _ in pairs], name)
    reasons = Counter(
        discreet(_ADVICE.sub("", run.missing.get(name, _UNMEASURED)))
        for fact, run in pairs
        if fact.amounts[name] is None
    )
    methods = Counter(
        discreet(_method(name, run))
        for fact, run in pairs
        if fact.amounts[name] is not None and (name in run.prices or name in run.header.get("methods", {}))
    )
    return Figure(
        amount=total,
        runs=len(pairs),
        unknown=unknown,
        reasons=dict(reasons.most_common()),
        methods=dict(methods.most_common()),
        least=min(known, default=None),
        most=max(known, default=None),
    )


def _method(name: str, run: _Priced) -> str:
    return "priced under the statement's tariff" if name in run.prices else str(run.header["methods"][name])


def _ways(part: str, pairs: Iterable[tuple[RunFacts, _Priced]]) -> dict[str, int]:
    """The word for how a component's energy was got: counter, power, model, constant, zero; of runs that know it."""
    name = f"{part}_energy_j"
    words: Counter[str] = Counter()
    for fact, run in pairs:
        if fact.amounts[name] is None:
            continue
        said = (run.header.get("energy") or {}).get(part)
        word = said.get("method") if isinstance(said, Mapping) else said
        if not isinstance(word, str):
            word = str(run.header.get("methods", {}).get(name, "")).partition(":")[0]
        words["zero" if word.startswith("zero") else word or "unknown"] += 1
    return dict(words.most_common())


def _hardware(header: Mapping[str, Any]) -> Hardware:
    setup: Mapping[str, Any] = header.get("setup") or {}
    found: Mapping[str, Any] = setup.get("hardware") or {}
    accelerator = found.get("device") or found.get("accelerator")
    kind = setup.get("device")
    on_cpu = kind == "cpu" or (kind is None and not accelerator and bool(found.get("cpu")))
    name = found.get("cpu") if on_cpu else accelerator or kind
    attempts = header.get("attempts") or [{}]

    def over(key: str) -> tuple[int, ...]:
        counts = [int(attempt.get(key) or setup.get(key) or found.get(key) or 0) for attempt in attempts]
        return tuple(n for at, n in enumerate(counts) if n and (at == 0 or counts[at - 1] != n))

    return Hardware(
        device=discreet(str(name)) if name else None, cpu=on_cpu, devices=over("devices"), nodes=over("nodes")
    )


def _grid(tariff: Mapping[str, Any]) -> Grid | None:
    found: Mapping[str, Any] = tariff.get("intensity") or {}
    grams = found.get("gco2e_per_kwh", tariff.get("gco2e_per_kwh"))
    if grams is None:
        return None
    source = discreet(str(found.get("source") or "given"))
    # An intensity that was given by hand wins over the place, whose grid it is not.
    place = None if source == "given" else _place(tariff)
    return Grid(gco2e_per_kwh=float(grams), source=source, place=place, located="location-based" in source)


def _place(tariff: Mapping[str, Any]) -> str | None:
    """A place for people: region and country, or the cloud's region."""
    import pycountry

    if tariff.get("cloud"):
        return " ".join(str(tariff[key]) for key in ("cloud", "cloud_region") if tariff.get(key))
    code = str(tariff.get("country") or "").upper()
    if not code:
        return None
    country = pycountry.countries.get(alpha_3=code) or pycountry.countries.get(alpha_2=code)
    named = f"{country.name} ({country.alpha_3})" if country is not None else code
    return f"{tariff['region']}, {named}" if tariff.get("region") else named


def _price(tariff: Mapping[str, Any]) -> Price:
    per_node = tariff.get("usd_per_node_h")
    told = {
        key: discreet(str(tariff[key])) if tariff.get(key) is not None else None
        for key in ("provider", "tier", "source", "date")
    }
    usd = per_node if per_node is not None else tariff.get("usd_per_device_h")
    return Price(usd_per_h=None if usd is None else float(usd), per="device" if per_node is None else "node", **told)


def _best(run: RunRecord, metric: Metric | None) -> Amount:
    if metric is None or metric.monitor not in run.points.columns:
        return None
    values = [float(value) for value in run.points[metric.monitor].drop_nulls() if math.isfinite(value)]
    return (max if metric.mode == "max" else min)(values, default=None)


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

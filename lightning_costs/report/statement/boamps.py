"""A report of BoAmps, a data format for the energy of AI tasks: https://github.com/Boavizta/BoAmps, model/.

What runs do not know is given by its user; whatever may be left out and is not known is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from lightning_costs.records.units import JOULE_PER_KWH
from lightning_costs.records.versions import version_of
from lightning_costs.report.statement.data import RunFacts, Statement

FORMAT_VERSION = "0.1"
#: What the format requires and no run knows: how it is given, and the words that the format admits.
_TO_GIVE: Mapping[str, tuple[str, ...]] = {
    "task_family": (),
    "data_type": (
        "tabular", "audio", "boolean", "image", "video", "object", "text", "token", "word", "other",
    ),
    "infra_type": ("publicCloud", "privateCloud", "onPremise", "other"),
}  # fmt: skip


def boamps(statement: Statement, given: Mapping[str, str]) -> str:
    """The report as JSON: a training, its energy run by run, hardware, software and place.

    Args:
        statement: The statement; the energy of some run must be known.
        given: `task_family` in one's own words, `data_type` and `infra_type` in those of the format.

    Raises:
        ValueError: For what the format requires and is not there, with how to give it.
    """
    _check(given)
    measures = [_measure(statement, run) for run in statement.runs if run.amounts["energy_j"] is not None]
    if not measures:
        why = next(iter(statement.totals["energy_j"].reasons), "it was not measured")
        raise ValueError(f"a BoAmps report needs energy_j: {why}")
    components = [
        {
            "componentName": hardware.device,
            "componentType": "cpu" if hardware.cpu else "gpu",
            "nbComponent": max((hardware.nodes if hardware.cpu else hardware.devices) or (1,)),
        }
        for hardware in statement.hardware
        if hardware.device is not None
    ]
    if not components:
        raise ValueError("a BoAmps report needs the hardware, and none of the runs recorded it")
    report: dict[str, Any] = {
        "header": {"formatVersion": FORMAT_VERSION, "reportDatetime": _time(datetime.now(UTC).isoformat())},
        "task": {
            "taskStage": "training",
            "taskFamily": given["task_family"],
            "algorithms": [_algorithm(statement)],
            "dataset": [_dataset(statement, given["data_type"])],
            "taskDescription": _description(statement, len(measures)),
        },
        "measures": measures,
        "infrastructure": {"infraType": given["infra_type"], "components": components},
    }
    software = statement.software
    if python := software.get("python"):
        report["software"] = {"language": "python", "version": python}
    if system := software.get("system"):
        report["system"] = {"os": system}
    places = dict.fromkeys(grid.place for grid in statement.grids)
    if len(places) == 1 and (place := next(iter(places))):
        report["environment"] = {"country": place}
        if len(statement.grids) == 1:
            report["environment"]["powerSourceCarbonIntensity"] = next(iter(statement.grids)).gco2e_per_kwh
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def _check(given: Mapping[str, str]) -> None:
    ways = {name: f"--give {name}={'|'.join(words) or 'WORDS'}" for name, words in _TO_GIVE.items()}
    if strange := sorted(set(given) - set(_TO_GIVE)):
        raise ValueError(f"a BoAmps report takes {', '.join(ways.values())}; got {strange[0]!r}")
    if lacking := [way for name, way in ways.items() if not given.get(name)]:
        raise ValueError(f"a BoAmps report needs what no run knows: {', '.join(lacking)}")
    for name, words in _TO_GIVE.items():
        if words and given[name] not in words:
            raise ValueError(f"{name} must be one of {', '.join(words)}; got {given[name]!r}")


def _measure(statement: Statement, run: RunFacts) -> dict[str, Any]:
    energy_j = run.amounts["energy_j"]
    assert energy_j is not None, "runs without energy have no measure"
    found: dict[str, Any] = {
        "measurementMethod": "lightning-costs",
        "version": version_of("lightning-costs"),
        "powerConsumption": energy_j / JOULE_PER_KWH,
    }
    for part, field in (("cpu", "cpuTrackingMode"), ("gpu", "gpuTrackingMode")):
        if words := statement.components[part]:
            found[field] = ", ".join(words)
    if (duration_s := run.amounts["total_s"]) is not None:
        found["measurementDuration"] = duration_s
    if run.began is not None:
        found["measurementDateTime"] = _time(run.began)
    return found


def _algorithm(statement: Statement) -> dict[str, Any]:
    params, epochs = statement.model["params"], statement.model["epochs"]
    found: dict[str, Any] = {}
    if params.least is not None and params.least == params.most:
        found["parametersNumber"] = params.least / 1e9
    if epochs.least is not None and epochs.least == epochs.most:
        found["epochsNumber"] = epochs.least
    if torch := statement.software.get("torch"):
        found |= {"framework": "pytorch", "frameworkVersion": torch}
    return found


def _dataset(statement: Statement, data_type: str) -> dict[str, Any]:
    size = statement.model["dataset_samples"]
    known = size.least is not None and size.least == size.most
    return {"dataUsage": "input", "dataType": data_type, **({"dataQuantity": size.least} if known else {})}


def _description(statement: Statement, measured: int) -> str:
    runs = f"{len(statement.runs)} training run{'s' if len(statement.runs) > 1 else ''}: {statement.ended_as}"
    lacking = len(statement.runs) - measured
    return runs + (f"; the energy of {lacking} of them is not known, and in no measure" if lacking else "")


def _time(iso: str) -> str:
    return iso[:19].replace("T", " ")

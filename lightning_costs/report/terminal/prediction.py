"""A prediction in the terminal: amounts with their intervals, memory by kind, what it rests on; or several beside."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from lightning_costs.prediction.prediction import Prediction
from lightning_costs.records.formatting import format_amount
from lightning_costs.records.units import unit_of_name

_LABELS = {
    "step_s": "time per step",
    "forward_s": "  forward",
    "backward_s": "  backward",
    "optimizer_s": "  optimizer",
    "input_s": "  waiting for data",
    "exposed_comm_s": "  waiting for other devices",
    "samples_per_s": "throughput",
    "steps": "steps",
    "total_s": "time to the end",
    "device_s": "device time",
    "energy_j": "energy",
    "co2e_g": "CO2e",
    "cloud_usd": "cloud cost",
    "electricity_usd": "electricity cost",
    "peak_mem_bytes": "peak memory of a device",
    "largest_batch_samples": "largest batch of a device",
}
#: Columns of several predictions beside each other.
_BESIDE = {
    "step_s": "step",
    "total_s": "time",
    "energy_j": "energy",
    "co2e_g": "CO2e",
    "cloud_usd": "cloud cost",
    "peak_mem_bytes": "peak memory",
    "largest_batch_samples": "largest batch",
}


def prediction_title(found: Prediction) -> str:
    """What is predicted, in a line."""
    setting = found.setting
    batch = f"batch {setting['batch_size']:g}, {setting['precision']}"
    return f"Predicted, not measured: {found.name} on {setting['on']}, {setting['layout']}, {batch}"


def prediction_table(found: Prediction) -> Table:
    """Every amount with its 80 % interval, or why it is missing."""
    table = Table("cost", "likely", "80 % interval", box=None, pad_edge=False)
    for name, label in _LABELS.items():
        amount, unit = found.amounts.get(name), unit_of_name(name)
        if amount is None:
            if name in found.missing:
                table.add_row(label, "missing", found.missing[name])
            continue
        interval = ""
        if amount.low is not None and amount.high is not None and amount.low != amount.high:
            interval = f"{format_amount(amount.low, unit)} to {format_amount(amount.high, unit)}"
        table.add_row(label, f"≈ {format_amount(amount.middle, unit)}", interval)
    return table


def prediction_notes(found: Prediction) -> list[str]:
    """Memory by kind, whether it fits, and what the prediction rests on."""
    kinds = [f"{kind.replace('_', ' ')} {format_amount(n, 'bytes')}" for kind, n in found.memory.items() if n]
    notes = [f"memory of a device at its fullest: {', '.join(kinds)}"] if kinds else []
    if found.fits is not None:
        notes.append(f"{'fits' if found.fits else 'does not fit'} on {found.setting['on']}")
    return [*notes, *(f"assumed: {text}" for text in found.assumptions)]


def beside_table(found: Sequence[Prediction]) -> Table:
    """Several settings, a row each."""
    table = Table("card", "devices", *_BESIDE.values(), "fits", box=None, pad_edge=False)
    for one in found:
        cells = []
        for name in _BESIDE:
            amount = one.amounts.get(name)
            cells.append("missing" if amount is None else f"≈ {format_amount(amount.middle, unit_of_name(name))}")
        fit = {True: "yes", False: "no", None: "?"}[one.fits]
        table.add_row(str(one.setting["on"]), str(one.setting["devices"]), *cells, fit)
    return table


def beside_notes(found: Sequence[Prediction]) -> list[str]:
    """Why amounts of several settings are missing, each reason once."""
    cards: dict[str, list[str]] = {}
    for one in found:
        for name in _BESIDE.keys() & one.missing.keys():
            cards.setdefault(one.missing[name], []).append(str(one.setting["on"]))
    return [f"missing on {', '.join(dict.fromkeys(names))}: {why}" for why, names in sorted(cards.items())]

"""A statement in sentences: plain text, which each format escapes in its own way."""

from __future__ import annotations

from typing import NamedTuple

from lightning_costs.report.statement.amounts import told
from lightning_costs.report.statement.facts import COMPONENTS, INFERENCE, TOTALS, Price, Statement
from lightning_costs.report.statement.phrases import (
    capital,
    components_told,
    counted,
    devices_told,
    grids_told,
    listed,
    on_nodes,
    out_of,
    pue_told,
    span,
    statuses_told,
    sum_told,
)

#: So many names are spelt out in a sentence.
_MOST = 8


class Paragraph(NamedTuple):
    """Sentences under one name."""

    title: str
    sentences: list[str]


def paragraphs(said: Statement) -> list[Paragraph]:
    """Everything that a statement says, in reading order; what was not measured is last."""
    found = [
        Paragraph(
            "Runs and hardware", [*_runs(said), *_unfinished(said), *_killed(said), *_hardware(said), *_restarts(said)]
        ),
        Paragraph("Time", _time(said)),
        Paragraph("Computation", _compute(said)),
        Paragraph("Energy", [*_energy(said), *_bounds(said)]),
        Paragraph("Carbon", _carbon(said)),
        Paragraph("Money", _money(said)),
        Paragraph("Inference", _inference(said)),
        Paragraph("Not measured", _missing(said)),
    ]
    return [paragraph for paragraph in found if paragraph.sentences]


def _runs(said: Statement) -> list[str]:
    when = ""
    if said.began is not None:
        when = f" on {said.began}" if said.began == said.ended else f" between {said.began} and {said.ended}"
    if len(said.runs) == 1:
        run = said.runs[0]
        ended = {
            "finished": "it finished",
            "running": "it is still running, and the figures are those up to its last point",
        }.get(run.status, f"it did not finish (status: {run.status}), and the figures are what it spent until its end")
        return [f"This statement covers one training run, ‘{run.label}’{f',{when}' if when else ''}; {ended}."]
    sentences = [
        f"This statement covers {len(said.runs)} training runs{when}: {statuses_told(said)}. "
        "Every figure is a sum over all of them, whatever became of them."
    ]
    if said.shared:
        who = "All" if said.shared == len(said.runs) else str(said.shared)
        sentences.append(
            f"{who} of them share earlier attempts, as branches of one checkpoint do: what those spent is "
            "counted in each, so that the sums are too high by it."
        )
    return sentences


def _unfinished(said: Statement) -> list[str]:
    """What runs that did not finish have in the sums, where others did."""
    finished = said.statuses.get("finished", 0)
    short = len(said.runs) - finished
    if not short or not finished:
        return []
    parts = {
        name: sum_told(said, name, said.unfinished[name])
        for name in ("total_s", "device_s", "energy_j", "co2e_g")
        if said.unfinished[name].amount is not None
    }
    words = {"total_s": " of total time", "energy_j": " of IT energy", "co2e_g": " of CO2e"}
    if not parts:
        return []
    which = "The run that did not finish has" if short == 1 else f"The {short} runs that did not finish have"
    return [f"{which} {listed([text + words.get(name, '') for name, text in parts.items()])} of that."]


def _killed(said: Statement) -> list[str]:
    if not said.killed:
        return []
    return [f"What {counted(said.killed, 'killed process')} spent after the last point written is in no figure."]


def _hardware(said: Statement) -> list[str]:
    if len(said.hardware) == 1:
        (hardware,) = said.hardware
        if hardware.device is None:
            return ["The hardware was not recorded."]
        return [f"{'It' if len(said.runs) == 1 else 'Each of them'} ran on {devices_told(hardware)}."]
    parts = [f"{runs} on {devices_told(hardware)}" for hardware, runs in said.hardware.items()]
    return [f"Of the runs, {listed(parts, mark=';')}."]


def _restarts(said: Statement) -> list[str]:
    again = [run for run in said.runs if run.attempts > 1]
    if not again:
        return []
    attempts = sum(run.attempts for run in again)
    who = "It was" if len(said.runs) == 1 else f"{counted(len(again), 'run')} {'was' if len(again) == 1 else 'were'}"
    text = f"{who} restarted, {attempts} attempts in all"
    lost_s = [amount for run in again if (amount := run.amounts["lost_s"]) is not None]
    lost_j = [amount for run in again if (amount := run.amounts["lost_energy_j"]) is not None]
    if not lost_s:
        return [f"{text}; how much work the restarts lost is unknown, and the figures hold it."]
    unknown = len(again) - len(lost_s)
    if not any(lost_s) and not unknown:
        return [f"{text}; the restarts lost no work."]
    figures = [told(sum(lost_s), "s"), *([told(sum(lost_j), "j")] if len(lost_j) == len(lost_s) else [])]
    bound, part = ("at least ", f" (unknown in {counted(unknown, 'run')})") if unknown else ("", "")
    return [f"{text}; the restarts lost {bound}{listed(figures)} of work{part}, which the figures hold."]


def _time(said: Statement) -> list[str]:
    total, train, device = (said.totals[name] for name in ("total_s", "train_s", "device_s"))
    found = []
    if total.amount is not None:
        text = (
            "By the total clock (setup, training, evaluation, checkpoints and logging, in every attempt) this took "
            f"{sum_told(said, 'total_s')}{out_of(total)}"
        )
        if train.amount is not None:
            text += f", of which {sum_told(said, 'train_s')} by the training clock (waiting for data, and steps)"
        found.append(f"{text}.")
    if device.amount is not None:
        why = ""
        if any(hardware.cpu for hardware in said.hardware):
            why = ", a node counting as the device" + ("" if on_nodes(said) else " where a CPU trains")
        found.append(f"Allocated devices times total time: {sum_told(said, 'device_s')}{out_of(device)}{why}.")
    return found


def _compute(said: Statement) -> list[str]:
    flop, model = said.totals["flop"], said.totals["model_flop"]
    if flop.amount is None:
        return []
    bound = "at least " if said.uncounted and not flop.unknown else ""
    text = (
        f"Training steps executed {bound}{sum_told(said, 'flop')}{out_of(flop)}: forward and backward passes, "
        "recomputation included, a multiply-accumulate as 2 FLOPs, elementwise operators not counted, evaluation left "
        "out"
    )
    if model.amount is not None:
        bound = "at least " if said.uncounted and not model.unknown else ""
        text += f"; without recomputation (model FLOPs) {bound}{sum_told(said, 'model_flop')}"
    found = [f"{text}."]
    if said.uncounted:
        shown = ", ".join(said.uncounted[:_MOST])
        more = f" and {len(said.uncounted) - _MOST} more" if len(said.uncounted) > _MOST else ""
        found.append(f"This is a lower bound: there is no formula for {shown}{more}.")
    return found


def _energy(said: Statement) -> list[str]:
    energy = said.totals["energy_j"]
    parts = components_told(said)
    if energy.amount is None:
        return [f"The energy is missing{f'; known in part: {parts}' if parts else ''}."]
    return [f"The IT energy was {sum_told(said, 'energy_j')}{out_of(energy)}{f': {parts}' if parts else ''}."]


def _bounds(said: Statement) -> list[str]:
    if all(said.totals[f"{part}_energy_j"].amount is None for part in COMPONENTS) and (
        said.totals["energy_j"].amount is None
    ):
        return []
    return [
        "It counts the accelerators that train and the CPUs and memory of their nodes (each node once and whole, with "
        "whatever else ran there), from the monitor's setup on: what a process drew before, while it imported, is not "
        "in it. It leaves out PUE, storage, network, cooling, and the making of the hardware."
    ]


def _carbon(said: Statement) -> list[str]:
    carbon = said.totals["co2e_g"]
    if carbon.amount is None:
        return []
    grids = grids_told(said)
    at = f", at {listed(grids, mark=';')}" if grids else ""
    found = [
        f"Carbon emissions: {sum_told(said, 'co2e_g')} of CO2 equivalents{out_of(carbon)}, energy times intensity{at}."
    ]
    located = [grid.located for grid in said.grids]
    if located and all(located):
        found.append("This is location-based: the grid's average intensity, whatever contracts or offsets there are.")
    elif located:
        found.append("Whether an intensity that was given by hand is location-based is not known here.")
    return [*found, f"{capital(pue_told(said))}.", *_repriced(said)]


def _money(said: Statement) -> list[str]:
    cloud, electricity = said.totals["cloud_usd"], said.totals["electricity_usd"]
    found = []
    if cloud.amount is not None:
        several = len(said.prices) > 1
        prices = [
            _priced(price) + (f" in {counted(runs, 'run')}" if several else "") for price, runs in said.prices.items()
        ]
        found.append(
            f"Hardware, for all of the time that it was allocated: {sum_told(said, 'cloud_usd')}{out_of(cloud)}, "
            f"at {listed(prices, mark=';')}."
        )
    if electricity.amount is not None:
        rates = listed([f"USD {usd:g} per kWh" for usd in said.usd_per_kwh])
        at = f", at {rates}" if rates else ""
        found.append(f"Electricity: {sum_told(said, 'electricity_usd')}{out_of(electricity)}{at}.")
        if said.totals["co2e_g"].amount is None:  # where there is carbon, the PUE was told with it
            found.append(f"{capital(pue_told(said))}.")
    if found and said.totals["co2e_g"].amount is None:
        found += _repriced(said)
    if cloud.amount is not None and electricity.amount is not None:
        found.append("The two are different ways to count and are not added up.")
    return found


def _repriced(said: Statement) -> list[str]:
    return (
        ["Carbon and money are priced under one tariff, which was given for this statement."] if said.repriced else []
    )


def _priced(price: Price) -> str:
    what = f"USD {price.usd_per_h:g} per {price.per}-hour" if price.usd_per_h is not None else "a table's price"
    tier = price.tier.replace("_", " ") if price.tier else None
    source = price.source or "no source given"
    date = f"of {price.date}" if price.date else "no date given"
    return f"{what} ({', '.join(part for part in (price.provider, tier, source, date) if part)})"


def _inference(said: Statement) -> list[str]:
    energy, latency, rate = (said.inference[name] for name in INFERENCE)
    found = []
    batch = ""
    if said.batches:
        batches = [str(batch) for batch in said.batches[:_MOST]]
        batch = f" (at batch {listed(batches)}{' and others' if len(said.batches) > _MOST else ''})"
    if energy.least is not None:
        found.append(f"A forward pass took {span(energy, 'j')} per sample{batch}{out_of(energy)}, IT energy as above.")
    if latency.least is not None:
        found.append(f"The median latency of one sample was {span(latency, 's')}{out_of(latency)}.")
    if rate.least is not None:
        found.append(f"Throughput was {span(rate, 'samples_per_s')}{batch}{out_of(rate)}.")
    return found


def _missing(said: Statement) -> list[str]:
    """What is missing and why, what is missing in most runs first; columns with one reason share a sentence."""
    grouped: dict[tuple[str, int], list[str]] = {}
    restarted = any(run.attempts > 1 for run in said.runs)
    for name, (label, _) in (TOTALS | INFERENCE).items():
        if name.startswith("lost_") and not restarted:
            continue
        figure = said.totals.get(name) or said.inference[name]
        for reason, runs in figure.reasons.items():
            grouped.setdefault((reason, runs), []).append(label)
    found = []
    for (reason, runs), labels in sorted(grouped.items(), key=lambda item: -item[0][1]):
        where = "" if runs == len(said.runs) else f" in {counted(runs, 'run')}"
        found.append(f"{capital(listed(labels))}{where}: {reason}{'' if reason.endswith('.') else '.'}")
    return found

"""`lightning_costs.predict`: time, energy, carbon, money and memory of a training elsewhere, before it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_costs.model_cost.cost import ModelCost
from lightning_costs.prediction.cards import DEVICES_PER_NODE, Card, find_card
from lightning_costs.prediction.communication import (
    LINK_WIDTH,
    Exposed,
    parse_layout,
)
from lightning_costs.prediction.efficiency import Efficiencies, Measured, StepTime, Table, calibrate, table_of
from lightning_costs.prediction.memory import (
    PeakMemory,
    fits,
    largest_batch,
    peak_memory,
    peak_width,
    with_work_space,
)
from lightning_costs.prediction.power import POWER_WIDTHS, device_power
from lightning_costs.prediction.prediction import Prediction, Setting, with_sharing
from lightning_costs.prediction.workload import (
    Workload,
    loader_wait,
    optimizer_of,
    precision_of,
    workload_of_model,
    workload_of_run,
)
from lightning_costs.pricing.price_table import load_price_table
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.device_peaks import DevicePeak
from lightning_costs.records.forecast import Forecast
from lightning_costs.records.missing import Missing
from lightning_costs.run.plan import recalibration
from lightning_costs.run.record import RunRecord
from lightning_costs.sources.loader import load_run

#: The quantile of the normal distribution that leaves a tenth above.
_QUANTILE = 1.2815515655446004
#: Widths (standard deviations of logarithms) of what the model leaves out: from one setting to another, for each
#: doubling of the batch, for another format, for a layout that was not measured. Recorded errors recalibrate them.
SETTING_WIDTH, DOUBLING_WIDTH, FORMAT_WIDTH, LAYOUT_WIDTH = 0.02, 0.03, 0.08, 0.12
#: Another layout whose work on the host was measured for one model only, and one that was measured with devices that
#: wait for each other: once, a card alone was 30 % faster than predicted from two under DDP.
ADDED_WIDTH = 0.25
#: A count on another kind of device than it is predicted for: other kernels, and other operators for some.
COUNT_WIDTH = 0.07


def predict(
    source: RunRecord | ModelCost | Workload | str | Path,
    *,
    on: str | DevicePeak | Card | None = None,
    devices: int | None = None,
    strategy: str | None = None,
    microbatches: int | None = None,
    steps: float | None = None,
    samples: float | None = None,
    batch_size: float | None = None,
    precision: str | None = None,
    optimizer: str | None = None,
    checkpointing: bool = False,
    link_bytes_per_s: float | None = None,
    network_bytes_per_s: float | None = None,
    tariff: Tariff | Mapping[str, Any] | str | Path | None = None,
    calibrate_with: Sequence[RunRecord | ModelCost | Workload] = (),
    errors: Sequence[float] = (),
) -> Prediction:
    """Predict what a training will cost, from a measured run or a counted model.

    Args:
        source: A run or its folder, or what `measure` found.
        on: The card, by a name in the table ('H200', 'A100 SXM 80GB') or its peaks; by default that of the run.
        devices: How many; by default as many as trained.
        strategy: How they share the work: ddp, fsdp, zero1 to zero3, tp, pp, or several as 'tp4+pp2+zero1'.
        microbatches: Of a pipeline; by default four for each stage.
        steps: Optimizer steps of the whole training; by default `samples`, else the run's own schedule.
        samples: Samples of the whole training, if steps are not given: more devices need fewer steps.
        batch_size: Samples of a step on one replica; by default the run's.
        precision: fp32, tf32, bf16-mixed, fp16-mixed, bf16-true or fp16-true, or as Lightning calls it.
        optimizer: sgd, momentum, adam or sam, or a class's name.
        checkpointing: Whether activations are made again in the backward pass.
        link_bytes_per_s: From a device to the others of its node, if the table has none or another one.
        network_bytes_per_s: From a device to another node.
        tariff: Prices and place.
        calibrate_with: More measured runs or models on the same card, which calibrate the efficiencies too.
        errors: Errors of earlier predictions in widths, which recalibrate the intervals (`run.plan.plan_errors`).

    Returns:
        The prediction; what is unknown is missing in it, with the reason.

    Raises:
        ValueError: For a card, strategy, precision or optimizer that does not exist, or a source without a count.
    """
    load, *others = (_workload(one) for one in (source, *calibrate_with))
    card = find_card(on) if on is not None else load.card
    if card is None:
        raise ValueError("nothing was measured on a card: name one, on='H200'")
    count = devices or load.devices
    setting = Setting(
        load=load,
        card=card,
        layout=parse_layout(strategy or load.layout, count, microbatches),
        batch_size=batch_size or load.batch_size,
        precision=load.precision if precision is None else precision_of(precision),
        optimizer=load.optimizer if optimizer is None else optimizer_of(optimizer),
        checkpointing=checkpointing,
        link=link_bytes_per_s,
        network=network_bytes_per_s,
    )
    return _Predictor(setting, others, recalibration(errors)).predict(steps, samples, Tariff.resolve(tariff))


def _workload(source: RunRecord | ModelCost | Workload | str | Path) -> Workload:
    if isinstance(source, Workload):
        return source
    try:
        if isinstance(source, ModelCost):
            return workload_of_model(source)
        return workload_of_run(source if isinstance(source, RunRecord) else load_run(Path(source)))
    except Missing as missing:
        raise ValueError(str(missing)) from missing


class _Predictor:
    """One prediction in the making."""

    def __init__(self, setting: Setting, others: Sequence[Workload], stretch: float) -> None:
        self._set, self._load, self._stretch = setting, setting.load, stretch
        self._amounts: dict[str, Forecast] = {}
        self._missing: dict[str, str] = {}
        self._assumptions: list[str] = list(setting.load.notes)
        self._others = others
        #: Whether what calibrates was measured on another card.
        self._elsewhere = False

    def predict(self, steps: float | None, samples: float | None, tariff: Tariff) -> Prediction:
        setting, width = self._set, 0.0
        peak = self._memory()
        try:
            width = self._times()
            self._schedule(steps, samples)
            self._priced(tariff)
        except Missing as missing:
            for name in ("step_s", "total_s", "energy_j", "co2e_g", "cloud_usd"):
                if name not in self._amounts:
                    self._missing.setdefault(name, str(missing))
        return Prediction(
            name=self._load.name,
            setting=setting.as_dict(),
            amounts=self._amounts,
            memory=peak.by_kind if peak is not None else {},
            fits=fits(peak.total_bytes, setting.card) if peak is not None else None,
            assumptions=tuple(dict.fromkeys(self._assumptions)),
            missing=self._missing,
            width=width,
        )

    def _note(self, name: str, middle: float, width: float) -> float:
        """Note an amount with its log-normal 80 % interval."""
        reach = math.exp(_QUANTILE * width * self._stretch)
        self._amounts[name] = Forecast(middle=middle, low=middle / reach, high=middle * reach)
        return middle

    # Memory -------------------------------------------------------------------------------------------------

    def _memory(self) -> PeakMemory | None:
        setting, load = self._set, self._load
        how = {name: getattr(setting, name) for name in ("precision", "optimizer", "checkpointing")}
        try:
            peak = peak_memory(load, setting.layout, batch_size=setting.batch_size, **how)
        except Missing as missing:
            self._missing["peak_mem_bytes"] = str(missing)
            return None
        peak = with_work_space(load, peak, setting.card)
        width = peak_width(
            load, setting.card, setting.layout, batch_size=setting.batch_size, precision=setting.precision
        )
        self._note("peak_mem_bytes", peak.total_bytes, width)
        try:
            self._amounts["largest_batch_samples"] = Forecast(
                middle=largest_batch(load, setting.layout, setting.card, **how)
            )
        except Missing as missing:
            self._missing["largest_batch_samples"] = str(missing)
        return peak

    # Time ---------------------------------------------------------------------------------------------------

    def _times(self) -> float:
        """Seconds of a step, by phase; returns the width of it."""
        setting, load = self._set, self._load
        if not setting.card.known and not setting.same_card:
            raise Missing(setting.card.why_unknown)
        if not setting.card.known and setting.precision != load.precision:
            raise Missing(f"{setting.card.why_unknown}; its rates in {setting.precision} were not measured")
        profile = setting.profile()
        table = table_of(profile, setting.card)
        if table.unknown:
            raise Missing(f"{setting.card.name} has no peak for {', '.join(table.unknown)} in the table")
        found = self._calibrated(table)
        time = found.time(table)
        traffic = self._exposed(time)
        bubble = 1 / (1 - setting.layout.bubble_fraction)
        for phase, seconds in time.by_phase.items():
            self._note(f"{phase}_s", seconds * (bubble if phase != "optimizer" else 1.0), 0.0)
        work_s = sum(self._amounts[f"{phase}_s"].middle for phase in time.by_phase)
        width = self._width(found, table)
        for phase in time.by_phase:
            self._note(f"{phase}_s", self._amounts[f"{phase}_s"].middle, width)
        if setting.layout.pipeline > 1:
            self._assumptions.append(
                f"1F1B: a bubble of {setting.layout.bubble_fraction:.3g} of the step by its closed form"
            )
        (waiting_s, unsure_s, assumed), gap_s = loader_wait(load, setting.batch_size, work_s), load.gap_s
        self._assumptions += assumed
        step_s = work_s + traffic.likely_s + waiting_s + gap_s
        comm = math.hypot((traffic.most_s - traffic.least_s) / math.sqrt(12), traffic.likely_s * LINK_WIDTH)
        width = math.hypot(width * work_s, comm, unsure_s) / step_s
        if traffic.sent_bytes:
            self._note("comm_bytes", traffic.sent_bytes, 0.0)
            self._amounts["exposed_comm_s"] = Forecast(
                middle=traffic.likely_s, low=traffic.least_s, high=traffic.most_s
            )
        self._note("input_s", waiting_s, width)
        self._note("step_s", step_s, width)
        self._note("samples_per_s", setting.samples_per_step / step_s, width)
        self._power(table, found, step_s)
        return width

    def _calibrated(self, table: Table) -> Efficiencies:
        """Efficiencies by what was measured, if it was on a card that says something of this one."""
        measured = []
        for load in (self._load, *self._others):
            step_s = load.step_s
            if step_s is None or load.card is None or not (load.card.known or load.card.name == self._set.card.name):
                continue
            at = table_of(with_sharing(load), load.card)
            step_s -= self._own_exposed_s(at) if load is self._load else load.exposed_s or 0.0
            parts = (load.profile.host_s, load.device_s, load.phases)
            measured.append(Measured(at, load.card, step_s, *parts))
            self._elsewhere |= load.card.name != self._set.card.name
        if not measured:
            self._assumptions.append("nothing was measured on a card with known peaks: efficiencies are the prior's")
        elif not self._load.card or not self._load.card.known:
            self._assumptions.append(f"peaks of {self._set.card.name} are unknown: its rates are those of the run")
        own = bool(measured) and self._load.step_s is not None and measured[0].card is self._load.card
        return calibrate([table], measured, own=own)

    def _width(self, found: Efficiencies, table: Table) -> float:
        """Width of the work's time: what the calibration left open, and what the model leaves out."""
        setting, load = self._set, self._load
        doublings = abs(math.log2(setting.batch_size / load.batch_size)) * (1 if setting.card.known else 5)
        widths = [found.width(table, other_card=self._elsewhere), found.time(table).host_width]
        widths += [DOUBLING_WIDTH * doublings]
        widths += [SETTING_WIDTH] if not setting.same_card or doublings else []
        widths += [FORMAT_WIDTH] if setting.precision != load.precision else []
        widths += [FORMAT_WIDTH] if setting.optimizer != load.optimizer or setting.checkpointing else []
        widths += [LAYOUT_WIDTH] if setting.layout.devices != load.devices else []
        own = setting.own_layout
        widths += [ADDED_WIDTH] if setting.layout.adds not in ("", "ddp", own.adds) else []
        if own.devices > 1 and setting.layout != own and load.step_s is not None:  # what of it was sharing's is a guess
            widths.append(ADDED_WIDTH)
        widths += [COUNT_WIDTH] if setting.card.known and load.profile.device != "cuda" else []
        if not setting.same_card and load.step_s is not None:
            self._assumptions.append("the host queues operators as fast as the measured one")
        return math.hypot(*widths)

    def _own_exposed_s(self, table: Table) -> float:
        """Seconds of the measured step that waited for other devices: traced, in the step, or predicted."""
        load, own = self._load, self._set.own_layout
        if load.exposed_s is not None:
            return load.exposed_s
        if own.devices == 1 or own == self._set.layout or load.step_s is None:
            return 0.0
        guess = calibrate([table], [Measured(table, load.card or self._set.card, load.step_s)]).time(table)
        try:
            return min(self._set.sent(own, guess, load.batch_size, load.precision).likely_s, load.step_s / 2)
        except Missing as missing:
            self._assumptions.append(f"what the measured devices waited for each other is in the work: {missing}")
            return 0.0

    def _exposed(self, time: StepTime) -> Exposed:
        """Communication of the setting's layout; of the one that was measured as it was."""
        setting, load = self._set, self._load
        if setting.layout.devices == 1:
            return Exposed()
        if setting.layout == setting.own_layout and load.step_s is not None:
            waited_s = load.exposed_s or 0.0
            self._assumptions.append("devices wait for each other as in the measured step")
            return Exposed(total_s=waited_s, least_s=waited_s, likely_s=waited_s, most_s=waited_s)
        self._assumptions.append(setting.link_words())
        return setting.sent(setting.layout, time, setting.batch_size, setting.precision)

    def _power(self, table: Table, found: Efficiencies, step_s: float) -> None:
        """Mean power of all that draws it, while training."""
        setting, load = self._set, self._load
        devices = setting.layout.devices
        host_w = (load.host_w or 0.0) * math.ceil(devices / DEVICES_PER_NODE)
        if load.host_w is None:
            self._assumptions.append("energy is the devices' alone: power of processors and memory was not measured")
        if load.card is not None and load.card.name == "cpu" and setting.same_card and load.host_w is not None:
            self._note("power_w", host_w, POWER_WIDTHS[0])
            return
        try:
            other = setting.precision != load.precision
            drawn = device_power(load, setting.card, table, found, step_s, other_format=other)
        except Missing as missing:
            self._missing["power_w"] = str(missing)
            return
        if not drawn.measured:
            self._assumptions.append("power: shares of the board's power are assumed, none was measured")
        self._note("device_w", drawn.watts, drawn.width)
        self._note("power_w", drawn.watts * devices + host_w, drawn.width)

    # The whole training -------------------------------------------------------------------------------------

    def _schedule(self, steps: float | None, samples: float | None) -> None:
        """Seconds and joules to the end: what was measured of setup, evaluation, checkpoints and the rest, scaled."""
        setting, load, final = self._set, self._load, self._load.final
        if samples is None and load.planned_steps is not None:
            samples = load.planned_steps * load.batch_size * setting.own_layout.data
        if steps is None and samples is not None:
            steps = samples / setting.samples_per_step
        if steps is None:
            raise Missing("how long is the training? give steps= or samples=")
        done = final.get("steps") or 0.0
        step_s, width = self._amounts["step_s"].middle, self._spread("step_s")
        train_s, setup_s, rest_s, slow_s = step_s * self._note("steps", steps, 0.0), 0.0, 0.0, 0.0
        if done and load.whole_step_s:
            setup_s = final.get("setup_s") or 0.0
            slow_s = (final.get("train_s") or 0.0) - done * load.whole_step_s  # warm-up, compilation
            train_s += slow_s
            per_step = load.batch_size * setting.own_layout.data
            trained = steps * setting.samples_per_step / (done * per_step)
            faster = step_s / load.whole_step_s * per_step / setting.samples_per_step
            evaluate_s, checkpoint_s, other_s = (
                final.get(f"{n}_s") or 0.0 for n in ("evaluate", "checkpoint", "other")
            )
            rest_s = trained * (evaluate_s * faster + checkpoint_s + other_s)
        else:
            self._assumptions.append("start-up, evaluation and checkpoints are not in it: no run has measured them")
        self._note("train_s", train_s, width)
        total_s = self._note("total_s", train_s + setup_s + rest_s, width)
        nodes = math.ceil(setting.layout.devices / DEVICES_PER_NODE)
        self._note("device_s", total_s * (nodes if setting.card.name == "cpu" else setting.layout.devices), width)
        self._note("flop", setting.profile().total("flop") * setting.layout.devices * steps, 0.0)
        if "power_w" not in self._amounts:
            self._missing["energy_j"] = self._missing["power_w"]
            return
        power_w = self._amounts["power_w"].middle
        train_j = power_w * train_s
        if (drawn := self._amounts.get("device_w")) is not None and (idle_w := setting.card.idle_w) is not None:
            train_j -= max(0.0, slow_s) * setting.layout.devices * max(0.0, drawn.middle - idle_w)
        apart_j = (final.get("energy_j") or 0.0) - (final.get("train_energy_j") or final.get("energy_j") or 0.0)
        apart_s = (final.get("total_s") or 0.0) - (final.get("train_s") or 0.0)
        train_w = (final.get("train_energy_j") or 0.0) / (final.get("train_s") or 1.0)
        if apart_s > 0 and train_w > 0:  # evaluation, setup and the rest drew their share of the power in training
            apart_j *= (total_s - train_s) / apart_s * train_j / train_s / train_w
        self._note("energy_j", train_j + apart_j, math.hypot(width, self._spread("power_w")))

    def _spread(self, name: str) -> float:
        found = self._amounts[name]
        if found.high is None or found.middle <= 0:
            return 0.0
        return math.log(found.high / found.middle) / (_QUANTILE * self._stretch)

    def _priced(self, tariff: Tariff) -> None:
        """Carbon, and money by the tariff's price, else by the cheapest row on demand of the price table."""
        card, width = self._set.card, self._spread("device_s")
        device_s = self._amounts["device_s"].middle
        priced = tariff.for_device(card.name, warn=False)
        if priced.provider is None and priced.usd_per_device_h is None and priced.usd_per_node_h is None:
            rows = [
                row for row in (*tariff.prices, *load_price_table()) if row.is_of(card.name) and row.tier == "on_demand"
            ]
            if rows:
                row = min(rows, key=lambda one: one.usd_per_device_h)
                self._assumptions.append(
                    f"price: {row.provider} asks {row.usd_per_device_h:.4g} USD an hour for {row.gpu}, the least on "
                    f"demand in the table ({row.source}, {row.date})"
                )
                priced = replace(priced, provider=row.provider, price_row=row)
        devices = self._set.layout.devices
        node_s = device_s / devices * math.ceil(devices / DEVICES_PER_NODE)
        try:
            self._note("cloud_usd", priced.cloud_usd(device_s=device_s, node_s=node_s), width)
        except Missing as missing:
            self._missing["cloud_usd"] = str(missing)
        for name, price in (("co2e_g", priced.co2e_g), ("electricity_usd", priced.electricity_usd)):
            try:
                if "energy_j" not in self._amounts:
                    raise Missing(self._missing["energy_j"])
                self._note(name, price(self._amounts["energy_j"].middle), self._spread("energy_j"))
            except Missing as missing:
                self._missing[name] = str(missing)

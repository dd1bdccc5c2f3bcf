"""What a device draws while training: its board's power by how long products and memory keep it busy."""

from __future__ import annotations

from typing import NamedTuple

from lightning_costs.prediction.cards import IDLE_SHARE, Card
from lightning_costs.prediction.efficiency import Efficiencies, StepTime, table_of
from lightning_costs.prediction.workload import Workload
from lightning_costs.records.missing import Missing

#: Of the board's power beyond idle: drawn while products or memory bound the device. Fitted to an H200's runs
#: (docs/predict.md); a run's own draw replaces them.
COMPUTE_SHARE, MEMORY_SHARE = 0.75, 0.5
#: Widths of a device's power: measured here, measured on another card, assumed.
POWER_WIDTHS = (0.03, 0.15, 0.25)


class Drawn(NamedTuple):
    """Mean watts of one device, the width (of the logarithm), and whether a measured draw was scaled."""

    watts: float
    width: float
    measured: bool


def device_power(load: Workload, card: Card, time: StepTime, found: Efficiencies, step_s: float) -> Drawn:
    """Mean power of one device: a measured draw, scaled by what the boards may draw.

    Raises:
        Missing: If the board's power is in no table, and the card was not measured.
    """
    board_w = card.peak.board_w if card.peak is not None else None
    same = load.card is not None and load.card.name == card.name
    if board_w is None:
        if same and load.device_w is not None:
            return Drawn(load.device_w, POWER_WIDTHS[0], measured=True)
        raise Missing(f"no board power of {card.name} is in the table")
    share = _busy(time, step_s)
    own_w = load.card.peak.board_w if load.card is not None and load.card.peak is not None else None
    if not (load.device_w and own_w and load.whole_step_s and load.card is not None):
        return Drawn(board_w * min(1.0, IDLE_SHARE + share), POWER_WIDTHS[2], measured=False)
    then = _busy(found.time(table_of(load.profile, load.card)), load.whole_step_s)
    scale = max(0.05, (load.device_w / own_w - IDLE_SHARE) / max(1e-3, then))
    watts = board_w * min(1.0, IDLE_SHARE + share * scale)
    return Drawn(watts, POWER_WIDTHS[0 if same else 1], measured=True)


def _busy(time: StepTime, step_s: float) -> float:
    """Share of the board's power beyond idle."""
    return (COMPUTE_SHARE * time.compute_s + MEMORY_SHARE * time.memory_s) / step_s

"""What a device draws while training: its board's power by how busy it is, and how near to its peaks."""

from __future__ import annotations

from typing import NamedTuple

from lightning_costs.prediction.cards import IDLE_SHARE, Card
from lightning_costs.prediction.efficiency import Efficiencies, StepTime, Table, table_of
from lightning_costs.prediction.workload import Workload
from lightning_costs.records.missing import Missing

#: Of the board's power beyond idle: drawn while the device is busy at all, and by products and memory at their peaks.
#: Fitted to an H200's runs (docs/predict.md); a run's own draw replaces them.
BUSY_SHARE, COMPUTE_SHARE, MEMORY_SHARE = 0.43, 0.44, 0.42
#: Widths of a device's power: measured here, here in another format, on another card, assumed.
POWER_WIDTHS = (0.03, 0.12, 0.15, 0.15)


class Drawn(NamedTuple):
    """Mean watts of one device, the width (of the logarithm), and whether a measured draw was scaled."""

    watts: float
    width: float
    measured: bool


def device_power(
    load: Workload, card: Card, table: Table, found: Efficiencies, step_s: float, *, other_format: bool
) -> Drawn:
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
    share = _busy(table, found.time(table), step_s)
    own_w = load.card.peak.board_w if load.card is not None and load.card.peak is not None else None
    if not (load.device_w and own_w and load.whole_step_s and load.card is not None):
        return Drawn(board_w * min(1.0, IDLE_SHARE + share), POWER_WIDTHS[3], measured=False)
    own = table_of(load.profile, load.card)
    then = _busy(own, found.time(own), load.whole_step_s)
    scale = max(0.05, (load.device_w / own_w - IDLE_SHARE) / max(1e-3, then))
    watts = board_w * min(1.0, IDLE_SHARE + share * scale)
    return Drawn(watts, POWER_WIDTHS[2 if not same else 1 if other_format else 0], measured=True)


def _busy(table: Table, time: StepTime, step_s: float) -> float:
    """Share of the board's power beyond idle."""
    compute_s, memory_s = table.peak_s
    return (BUSY_SHARE * min(time.device_s, step_s) + COMPUTE_SHARE * compute_s + MEMORY_SHARE * memory_s) / step_s

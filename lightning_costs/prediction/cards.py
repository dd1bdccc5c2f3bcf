"""Cards by the names that people, drivers and price tables use: rows of the one table in `probes.device_peaks`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from lightning_costs.pricing.price_table import canonical_device_name
from lightning_costs.probes.device_peaks import PEAKS, DevicePeak

#: Of the board's power, what a device with a context draws while it waits: 124 W of 700 W, measured on an H200.
IDLE_SHARE = 0.17
#: Devices of a node that share the fast link; a larger job crosses the network.
DEVICES_PER_NODE = 8


@final
@dataclass(frozen=True, slots=True)
class Card:
    """A device by the price table's name, and the peaks of its data sheet; None if it has no row in the table."""

    name: str
    peak: DevicePeak | None

    @property
    def known(self) -> bool:
        """Whether its rates of products and of memory are in the table."""
        return self.peak is not None and self.peak.bytes_per_s is not None

    @property
    def idle_w(self) -> float | None:
        """What it draws while it waits for work; None if the board's power is unknown."""
        board_w = self.peak.board_w if self.peak is not None else None
        return None if board_w is None else IDLE_SHARE * board_w

    @property
    def why_unknown(self) -> str:
        """What is missing of it."""
        if self.peak is None:
            return f"no peaks of {self.name} are in the table: pass on=DevicePeak(...), or one of {card_names()}"
        return f"sources disagree on the memory bandwidth of {self.name}: pass on=DevicePeak(...)"


def find_card(name: str | DevicePeak | Card) -> Card:
    """The card of a name: as drivers report it, as price tables have it, or what identifies it alone ('H200', 'T4').

    Raises:
        ValueError: For a name that several cards share.

    Example:
        >>> find_card("NVIDIA H200").name, find_card("h200").name, find_card("cpu").known
        ('H200', 'H200', False)
        >>> find_card("H100")
        Traceback (most recent call last):
        ValueError: several cards are called 'H100': name one of H100 SXM, H100 PCIe, H100 NVL
    """
    if isinstance(name, Card):
        return name
    if isinstance(name, DevicePeak):
        return Card(name.source, name)
    canonical = canonical_device_name(name)
    rows = {canonical_device_name(reported): peak for reported, peak in PEAKS.items()}
    by_fold = {known.casefold(): known for known in rows}
    if (exact := by_fold.get(canonical.casefold())) is not None:
        return Card(exact, rows[exact])
    word = canonical.casefold().removeprefix("nvidia ").replace("-", " ")
    like = [known for known in rows if known.casefold().replace("nvidia geforce ", "").startswith(word)]
    if len(like) > 1:
        raise ValueError(f"several cards are called {name!r}: name one of {', '.join(like)}")
    return Card(like[0], rows[like[0]]) if like else Card(canonical, None)


def card_names() -> str:
    """The cards whose peaks are known, for people."""
    return ", ".join(canonical_device_name(reported) for reported, peak in PEAKS.items() if peak.bytes_per_s)

"""Prices of accelerators by provider: dated rows with their sources, shipped ones and the user's own."""

from __future__ import annotations

import logging
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date as Date  # noqa: N812 - a field is named date
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final, Self, final

from lightning_costs.records.missing import Missing

#: The table's name, and what torch and NVML report for it, 'NVIDIA' and 'Tesla' aside. Form factors and memory sizes
#: are different devices: a board that is not here (a 64 GB A100, an 'H100 96GB') has no name rather than another's.
_REPORTED: Final = {
    "B200": r"B200( SXM6?)?",
    "GB200": r"GB200",
    "GH200": r"GH200( 480GB)?",
    "H200": r"H200( SXM5?)?",
    "H200 NVL": r"H200 NVL",
    "H100 SXM": r"H100 (80GB HBM3|SXM5?( 80GB)?)",
    "H100 PCIe": r"H100 PCIe( 80GB)?",
    "H100 NVL": r"H100 NVL( 94GB)?",
    "A100 SXM 80GB": r"A100[- ]SXM4?[- ]80GB",
    "A100 SXM 40GB": r"A100[- ]SXM4?[- ]40GB",
    "A100 PCIe 80GB": r"A100 80GB PCIe|A100[- ]PCIe[- ]80GB",
    "A100 PCIe 40GB": r"A100[- ]PCIe[- ]40GB",
    "L40S": r"L40S",
    "L40": r"L40",
    "L4": r"L4",
    "A10": r"A10",
    "A10G": r"A10G",
    "T4": r"T4",
    "T4G": r"T4G",
    "V100 SXM2 16GB": r"V100[- ]SXM2[- ]16GB",
    "V100 SXM2 32GB": r"V100[- ]SXM2[- ]32GB",
    "V100 PCIe 16GB": r"V100[- ]PCIe[- ]16GB",
    "V100 PCIe 32GB": r"V100[- ]PCIe[- ]32GB",
}
_PATTERNS: Final = [(name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _REPORTED.items()]
_MAKER: Final = re.compile(r"^(NVIDIA\s+)?(Tesla\s+)?", re.IGNORECASE)


def canonical_device_name(reported: str) -> str:
    """The name of a device in price tables, by what torch or NVML reports; one that has none keeps its own.

    Example:
        >>> (canonical_device_name("NVIDIA H100 80GB HBM3"), canonical_device_name("NVIDIA H100 PCIe"),
        ...  canonical_device_name("Tesla T4"))
        ('H100 SXM', 'H100 PCIe', 'T4')
        >>> canonical_device_name("NVIDIA A100-SXM-64GB")
        'NVIDIA A100-SXM-64GB'
    """
    bare = " ".join(_MAKER.sub("", reported.strip()).split())
    return next((name for name, pattern in _PATTERNS if pattern.fullmatch(bare)), reported.strip())


def is_mig_slice(reported: str) -> bool:
    """Whether a device is a MIG slice of one, which no table prices.

    Example:
        >>> is_mig_slice("NVIDIA A100-SXM4-40GB MIG 1g.5gb"), is_mig_slice("NVIDIA A100-SXM4-40GB")
        (True, False)
    """
    return re.search(r"\bMIG\b", reported, re.IGNORECASE) is not None


_log = logging.getLogger("lightning_costs")

#: A list price is hardly worth more than half a year.
OLD_DAYS = 180
#: Region of a provider whose price is one for all of them.
EVERYWHERE = "all"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class PriceRow:
    """What one device costs for an hour, in US dollars, who says so, and since when.

    Args:
        gpu: The device, by the table's name ('H100 SXM', 'A100 PCIe 80GB') or as torch reports it; 'cpu' for a node
            without accelerators.
        provider: Who rents it out.
        usd_per_device_h: Price of one device for an hour, above 0.
        source: Where the figure can be checked.
        date: When it was read there, YYYY-MM-DD.
        tier: Kind of price.
        region: The provider's region that it holds for; 'all' if it has one price.
        includes: What comes with the device.
        memory_gb: Memory of the device as it is sold, in GB; for people.

    Raises:
        ValueError: For a price that is not above zero, no source, or no date.
    """

    gpu: str
    provider: str
    usd_per_device_h: float
    source: str
    date: str
    tier: str = "on_demand"
    region: str = EVERYWHERE
    includes: str = ""
    memory_gb: float | None = None

    def __post_init__(self) -> None:
        what = f"price of {self.gpu!r} at {self.provider!r}"
        price = self.usd_per_device_h
        if isinstance(price, bool) or not isinstance(price, int | float) or not (0 < price < math.inf):
            raise ValueError(f"{what}: usd_per_device_h must be a finite number above 0, got {price!r}")
        for name in ("gpu", "provider", "source", "date", "tier", "region"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{what}: {name} must be a text, got {value!r}; a price row names its source and date")
        try:
            Date.fromisoformat(self.date)
        except ValueError as error:
            raise ValueError(f"{what}: date must be YYYY-MM-DD, got {self.date!r}") from error

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """A row from plain data."""
        known = [field.name for field in fields(cls)]
        if strange := sorted(set(data) - set(known)):
            raise ValueError(f"a price row has no field {strange[0]!r}; it has {', '.join(known)}")
        if lacking := [n for n in ("gpu", "provider", "usd_per_device_h", "source", "date") if n not in data]:
            raise ValueError(f"a price row needs {lacking[0]}: {dict(data)}")
        given = dict(data)
        if isinstance(given["date"], Date):  # TOML has dates of its own
            given["date"] = given["date"].isoformat()
        return cls(**given)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a header."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}

    def is_of(self, reported: str) -> bool:
        """Whether it is the price of a device, by the name that the device reports."""
        return canonical_device_name(self.gpu).casefold() == canonical_device_name(reported).casefold()

    def age_days(self) -> int:
        """Days since the figure was read."""
        return (Date.today() - Date.fromisoformat(self.date)).days


def parse_price_rows(data: Iterable[Mapping[str, Any]]) -> tuple[PriceRow, ...]:
    """Price rows from plain data, in their order."""
    if not isinstance(data, Iterable) or not all(isinstance(row, Mapping) for row in data):
        raise ValueError(f"prices must be rows ([[prices]] in TOML), got {data!r}")
    return tuple(PriceRow.of(row) for row in data)


@lru_cache(maxsize=1)
def load_price_table() -> tuple[PriceRow, ...]:
    """The rows that come with the package."""
    text = files("lightning_costs.pricing").joinpath("prices.toml").read_text(encoding="utf-8")
    return parse_price_rows(tomllib.loads(text)["prices"])


def find_price(rows: Sequence[PriceRow], reported: str, *, provider: str, tier: str, region: str | None) -> PriceRow:
    """The first row for a device; never one for another device, tier or region."""
    give = "give usd_per_device_h= with source= and date=, or a [[prices]] row"
    name = canonical_device_name(reported)
    if is_mig_slice(reported):
        raise Missing(f"{reported!r} is a slice of a device, which no price table has; {give}", warn=True)
    fitting = [row for row in rows if row.provider == provider and row.tier == tier]
    of_device = [row for row in fitting if row.is_of(reported)]
    here = [row for row in of_device if region is None or row.region in (region, EVERYWHERE)]
    if not here:
        has = ", ".join(dict.fromkeys(row.gpu for row in fitting))
        what = "nodes without accelerators" if reported == "cpu" else f"{name!r} (reported as {reported!r})"
        where = f" in {region}" if region is not None and of_device else ""
        raise Missing(f"no price of {what} at {provider}{where}, {tier}; there are: {has}; {give}", warn=True)
    first = here[0]
    if region is None and len(regions := {row.region for row in here}) > 1:
        listed = ", ".join(sorted(regions))
        raise Missing(f"{provider} has several prices of {name!r}: give price_region=, one of {listed}", warn=True)
    return first


@lru_cache(maxsize=64)
def warn_if_stale(row: PriceRow) -> None:
    """Say once in a process that a price is old, and what to do."""
    if (days := row.age_days()) > OLD_DAYS:
        _log.warning(
            "the price of %s at %s (%s USD/h, %s) was read %d days ago, on %s. Give a newer one: a [[prices]] row in "
            "your tariff file, or usd_per_device_h= with source= and date=",
            row.gpu,
            row.provider,
            row.usd_per_device_h,
            row.source,
            days,
            row.date,
        )

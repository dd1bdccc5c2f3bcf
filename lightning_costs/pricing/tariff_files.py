"""Where a user's tariff file is, and what it holds."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_costs.pricing.price_table import PriceRow, parse_price_rows

PREFIX = "LIGHTNING_COSTS_"


def user_file(environ: Mapping[str, str]) -> Path | None:
    """The user's tariff file: the named one, or the one in the configuration folder, if any."""
    if named := environ.get(PREFIX + "TARIFF"):
        return Path(named)
    home = environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or Path.home()) / ".config"
    path = Path(home) / "lightning-costs" / "tariff.toml"
    return path if path.is_file() else None


def read_toml(path: str | Path) -> dict[str, Any]:
    """A tariff's fields, at the top or under `[tariff]`; the path of a table is relative to the file."""
    try:
        data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    for fields in (data, data.get("tariff", {})):
        if isinstance(fields, dict) and isinstance(table := fields.get("intensity_by_hour"), str):
            fields["intensity_by_hour"] = str(Path(path).parent / table)
    if "tariff" not in data:
        return data
    if strange := sorted(set(data) - {"tariff", "prices"}):
        raise ValueError(f"{path} has {strange[0]!r} beside [tariff]: put it under that")
    return {**data["tariff"], **({"prices": data["prices"]} if "prices" in data else {})}


def user_prices(environ: Mapping[str, str] | None = None) -> tuple[PriceRow, ...]:
    """Price rows in the user's tariff file."""
    path = user_file(os.environ if environ is None else environ)
    return parse_price_rows(read_toml(path).get("prices", ())) if path is not None else ()

"""Units of the columns, and the naming rule that ends a quantity's name in its unit."""

from __future__ import annotations

#: Physical and monetary units, with what a person calls them.
PHYSICAL = ("s", "j", "w", "hz", "bytes", "flop", "mac", "g", "l", "usd", "fraction")
#: Units that count things.
COUNTS = (
    "params",
    "samples",
    "tokens",
    "steps",
    "batches",
    "epochs",
    "calls",
    "elements",
    "devices",
    "nodes",
    "retries",
    "disruptions",
    "count",
)
UNITS = (*PHYSICAL, *COUNTS, *(f"{unit}_per_s" for unit in (*PHYSICAL, *COUNTS) if unit != "s"))

JOULE_PER_KWH = 3.6e6
FLOP_PER_EXAFLOP = 1e18
#: Of 365 days, as the lifetime of hardware is counted in SCI.
S_PER_YEAR = 365 * 24 * 3600


def is_rate(unit: str) -> bool:
    """Whether a column of this unit is a rate or share: it says how fast or how full, never how much.

    Example:
        >>> is_rate("flop_per_s"), is_rate("fraction"), is_rate("w"), is_rate("flop")
        (True, True, True, False)
    """
    return unit in UNITS and (unit.endswith("_per_s") or unit in ("fraction", "w", "hz"))


def validate_column_name(name: str, unit: str) -> None:
    """Refuse a quantity whose name does not end in its unit.

    `samples_per_device_per_s` ends in the rate of its unit `samples_per_s`: a rate may name what it is per.

    Example:
        >>> validate_column_name("train_s", "s")
        >>> validate_column_name("energy_mj", "j")
        Traceback (most recent call last):
        TypeError: indicator name 'energy_mj' must be its unit 'j' or end in '_j'
    """
    if unit not in UNITS:
        raise TypeError(f"indicator {name!r} has unit {unit!r}; expected one of {', '.join(UNITS)}")
    if not name.replace("_", "").isalnum() or name != name.lower():
        raise TypeError(f"indicator name {name!r} must be lower-case letters, digits and underscores")
    base, rate, _ = unit.partition("_per_s")
    per = name.removesuffix("_per_s")
    fits = (
        (name == unit or name.endswith(f"_{unit}"))
        if not rate
        else name.endswith("_per_s") and (per == base or per.endswith(f"_{base}") or f"{base}_per_" in per)
    )
    if not fits:
        raise TypeError(f"indicator name {name!r} must be its unit {unit!r} or end in '_{unit}'")


def unit_of_name(name: str) -> str:
    """The unit that a column's name ends in, by whole words; the name itself if it ends in no unit of the package.

    A word that is nearly a unit is another one: `tflop_per_s` is not FLOP/s. What is per something is no such thing.

    Example:
        >>> unit_of_name("gpu_energy_j"), unit_of_name("train_flop_per_s"), unit_of_name("ms_per_image")
        ('j', 'flop_per_s', 'ms_per_image')
        >>> unit_of_name("img_per_s"), unit_of_name("tflop_per_s"), unit_of_name("usd_per_g")
        ('img_per_s', 'tflop_per_s', 'usd_per_g')
    """
    ends = [unit for unit in UNITS if f"_{name}".endswith(f"_{unit}") and not f"_{name}".endswith(f"_per_{unit}")]
    return max(ends, key=len, default=name)

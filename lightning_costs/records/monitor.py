"""What a run trains for: a quality metric, and which direction of it is better."""

from __future__ import annotations


def validate_monitor(monitor: str | None, mode: str | None) -> None:
    """Refuse a metric without its direction, and a direction that is none.

    Raises:
        ValueError: Says what to give.
    """
    if mode not in (None, "max", "min"):
        raise ValueError(f"mode must be 'max' or 'min', got {mode!r}")
    if monitor is not None and mode is None:
        raise ValueError(f"monitor={monitor!r} needs mode='max' or mode='min': which direction is better?")

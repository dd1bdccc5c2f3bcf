"""How often a reading that costs something, or moves in steps, is taken anew."""

from __future__ import annotations

from lightning_costs.core.records import StepSample

#: Meters move in steps of 10 ms (CPU times) to 100 ms (NVML), and asking the operating system costs tens of
#: microseconds: train points closer than this share one reading.
LEAST_WINDOW_S = 0.1


class Pace:
    """Lets a reading through at train points that are not too close together, and at every other point."""

    __slots__ = ("_read_s",)

    def __init__(self) -> None:
        self._read_s = -LEAST_WINDOW_S

    def due(self, sample: StepSample) -> bool:
        """Whether to read now; what is not read now is left to the next reading."""
        if sample.trigger == "train" and sample.ended_s - self._read_s < LEAST_WINDOW_S:
            return False
        self._read_s = sample.ended_s
        return True

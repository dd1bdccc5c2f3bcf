"""What a process lets `lightning-costs run` know, which started it: how far measuring came."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

VARIABLE = "LIGHTNING_COSTS_RECEIPT"

#: A Trainer or Fabric was made; its monitor could not be; a run was recorded, by this rank or for it.
Mark = Literal["made", "refused", "recorded"]


def sign(mark: Mark) -> None:
    """Leave a mark in the folder that LIGHTNING_COSTS_RECEIPT names; on another node there is none."""
    if folder := os.environ.get(VARIABLE):
        with suppress(OSError):
            (Path(folder) / mark).touch()


def signed(folder: Path) -> set[str]:
    """The marks left in a folder."""
    return {path.name for path in folder.iterdir()}

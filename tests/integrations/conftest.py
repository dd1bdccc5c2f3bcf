"""Real Trainers share two cores with whatever else runs: one thread each, so that no operator waits for a core."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)

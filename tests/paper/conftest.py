"""The studies are a package of the repository's, not of an installation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


@pytest.fixture(scope="module", autouse=True)
def a_server_of_processes_of_its_own() -> Iterator[None]:
    """A later file's processes would have what this one's server has imported and found in the environment.

    One that an earlier file started stays: to start another takes five seconds.
    """
    server = forkserver._forkserver  # type: ignore[attr-defined]
    before = server._forkserver_pid
    yield
    if server._forkserver_pid != before:
        server._stop()

"""Every test has an environment of its own: no user's tariff, no run identity, no W&B server, no home folder."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeClock, TickingClock
from hypothesis import settings

from lightning_costs.storage.run_folder import files, identity

settings.register_profile("fast", max_examples=30, deadline=None, database=None)
settings.register_profile("thorough", max_examples=300, deadline=None, database=None)  # once a week
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

_homes = itertools.count()
_IDENTITIES = (
    "WANDB_RUN_ID",
    "WANDB_PROJECT",
    "WANDB_ENTITY",
    "WANDB_API_KEY",
    "WANDB_RESUME",
    "WANDB_RUN_GROUP",
    "WANDB_TAGS",
    "SLURM_JOB_ID",
    "SLURM_RESTART_COUNT",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes minutes runs only when asked for, whatever else is selected: `pytest -m slow`.

    Files of long tests come first, the top folder's before all: workers take files in this order, and a long one at the
    end would leave the others idle.
    """
    if "slow" not in config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    long = {item.path for item in items if item.get_closest_marker("integration") or item.get_closest_marker("browser")}
    items.sort(key=lambda item: (item.path not in long, len(item.path.parts)))


def pytest_collection_finish() -> None:
    """Modules and tests stay: collections that look at all of them take a fifth of a second each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    for name in os.environ:
        if name.startswith("LIGHTNING_COSTS") or name in _IDENTITIES:
            monkeypatch.delenv(name)
    if "PLAYWRIGHT_BROWSERS_PATH" not in os.environ:  # browsers lie under the real home
        monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(Path.home() / ".cache" / "ms-playwright"))
    identity._used_here.clear()  # every test is a process of its own
    home = tmp_path_factory.getbasetemp() / "homes" / str(next(_homes))  # `mktemp` would look at all earlier ones
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(home))
    yield home
    if (wandb := sys.modules.get("wandb")) is not None and hasattr(wandb, "teardown"):
        wandb.teardown()  # it keeps the server and the mode that it was first used with


#: Modules that tests share hold no doctests; one of them imports DeepSpeed, which takes seconds.
collect_ignore = [
    path.name for path in Path(__file__).parent.glob("*.py") if not path.name.startswith(("test_", "conf"))
]


@pytest.fixture
def only_sleeps(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The clock of this process, moved by `time.sleep` alone: how busy the machine is shows in no account."""
    return _use_clock(FakeClock(1000.0), monkeypatch)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> TickingClock:
    """As `only_sleeps`, and each look at it takes a tenth of a millisecond: loops with a budget end."""
    clock = TickingClock(1000.0)
    _use_clock(clock, monkeypatch)
    return clock


def _use_clock(fake: FakeClock, monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    from lightning_costs.probes import clock, git
    from lightning_costs.recording import recorder

    # Who waits for another process waits in earnest: its loop would move the clock as fast as it turns.
    untouched = SimpleNamespace(**vars(time))
    monkeypatch.setattr(subprocess, "time", untouched)
    monkeypatch.setattr(git, "time", untouched)
    real = clock.now_s
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("lightning_costs.") and vars(module).get("now_s") is real:
            monkeypatch.setattr(module, "now_s", fake)
    monkeypatch.setitem(recorder.Recorder.__init__.__kwdefaults__ or {}, "clock", fake)
    monkeypatch.setattr(clock, "_runs_ended_s", fake.now)
    monkeypatch.setattr(time, "perf_counter", _in_this_thread(fake, time.perf_counter))
    monkeypatch.setattr(time, "sleep", _in_this_thread(fake.sleep, time.sleep))
    return fake


def _in_this_thread(fake: Callable[..., Any], real: Callable[..., Any]) -> Callable[..., Any]:
    """A tracker's thread that an earlier test started sleeps in earnest: it must not move the clock of this test."""
    own = threading.get_ident()
    return lambda *args: (fake if threading.get_ident() == own else real)(*args)


@pytest.fixture
def every_point_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that last milliseconds and are killed: their points must not wait for a second to pass."""
    monkeypatch.setattr(files, "FLUSH_EVERY_S", 0.0)

"""What the tests' own clock is moved by."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from fakes import FakeClock, TickingClock


def test_only_this_threads_sleeps_and_looks_move_the_clock(ticking: TickingClock) -> None:
    thread = threading.Thread(target=lambda: [look() for look in (lambda: time.sleep(0.001), time.perf_counter)])
    thread.start()
    thread.join()
    assert ticking.now == 1000.0
    time.sleep(5.0)
    assert time.perf_counter() == 1005.0 + ticking.TICK_S


def test_waiting_for_a_process_does_not_move_the_clock(only_sleeps: FakeClock) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.2)"])
    assert process.wait(30.0) == 0
    assert only_sleeps.now == 1000.0

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from lightning_costs.probes import clock


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch):
    monkeypatch.setattr(clock, "_runs_ended_s", None)


def told():
    """The earliest of many: between the two clocks that it is made of, others may be at work."""
    return min(clock.process_began_s() for _ in range(50))


def test_the_process_start_is_within_50_ms_of_what_an_outsider_measures():
    code = (
        "import time; time.sleep(0.2); from lightning_costs.probes.clock import process_began_s as p; "
        "print(min(p() for _ in range(50)))"
    )
    before = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        forked = time.perf_counter()
        began = float(child.stdout.read())
    assert before - 0.05 <= began <= forked + 0.05  # one monotonic clock for both processes


def test_the_process_start_does_not_depend_on_when_it_is_asked():
    first = told()
    time.sleep(0.05)
    assert told() == pytest.approx(first, abs=0.02)
    assert first < clock.now_s()


def test_psutil_tells_where_there_is_no_proc(monkeypatch):
    real = told()

    def lacking(which):
        raise OSError("no such clock")

    monkeypatch.setattr(clock.time, "clock_gettime", lacking)
    assert told() == pytest.approx(real, abs=1.0)  # psutil's boot time is whole seconds


def test_the_first_run_begins_with_the_process(monkeypatch):
    monkeypatch.setattr(clock, "interactive", lambda: False)
    assert min(clock.run_begins_s() for _ in range(50)) == pytest.approx(told(), abs=0.02)


def test_a_second_run_begins_where_the_first_ended(monkeypatch):
    monkeypatch.setattr(clock, "interactive", lambda: False)
    ended = clock.now_s()
    clock.run_ended(ended)
    assert clock.run_begins_s() == ended
    clock.run_ended(clock.now_s())
    assert clock.run_begins_s() > ended


def test_an_interactive_run_begins_when_its_monitor_is_made(monkeypatch):
    monkeypatch.setattr(clock, "interactive", lambda: True)
    made = clock.now_s() - 5.0
    assert clock.run_begins_s(made) == made
    before = clock.now_s()
    assert before <= clock.run_begins_s() <= clock.now_s()


def test_an_interactive_run_does_not_begin_before_the_one_before_it_ended(monkeypatch):
    monkeypatch.setattr(clock, "interactive", lambda: True)
    made = clock.now_s()
    clock.run_ended(clock.now_s())
    assert clock.run_begins_s(made) >= made
    assert clock.run_begins_s(made - 100) > made - 1


def test_a_prompt_or_a_notebook_is_interactive(monkeypatch):
    monkeypatch.delattr(sys, "ps1", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not clock.interactive()
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert clock.interactive()
    monkeypatch.delitem(sys.modules, "ipykernel")
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert clock.interactive()

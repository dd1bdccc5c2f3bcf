from __future__ import annotations

import copy
import multiprocessing
import pickle
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


@pytest.mark.integration
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
    monkeypatch.setattr(clock, "is_interactive", lambda: False)
    assert min(clock.run_start_s() for _ in range(50)) == pytest.approx(told(), abs=0.02)


def test_a_second_run_begins_where_the_first_ended(monkeypatch):
    monkeypatch.setattr(clock, "is_interactive", lambda: False)
    ended = clock.now_s()
    clock.mark_run_end(ended)
    assert clock.run_start_s() == ended
    clock.mark_run_end(clock.now_s())
    assert clock.run_start_s() > ended


def test_an_interactive_run_begins_when_its_monitor_is_made(monkeypatch):
    monkeypatch.setattr(clock, "is_interactive", lambda: True)
    before = clock.now_s()
    assert before <= clock.run_start_s() <= clock.now_s()


def test_an_interactive_run_does_not_begin_before_the_one_before_it_ended(monkeypatch):
    monkeypatch.setattr(clock, "is_interactive", lambda: True)
    ended = clock.now_s() + 100
    clock.mark_run_end(ended)
    assert clock.run_start_s() == ended


def test_a_prompt_or_a_notebook_is_interactive(monkeypatch):
    monkeypatch.delattr(sys, "ps1", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not clock.is_interactive()
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert clock.is_interactive()
    monkeypatch.delitem(sys.modules, "ipykernel")
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert clock.is_interactive()


# Carried to a child -------------------------------------------------------------------------------------------


def _tell(begin, told):
    told.put((begin.seconds(), clock.RunBegin().seconds()))
    begin.ended()


def _told_by_a_child(way, begin):
    """When the run begins by a monitor that is carried to a child, and by one that the child makes."""
    context = multiprocessing.get_context(way)
    told = context.SimpleQueue()
    child = context.Process(target=_tell, args=(begin, told))
    child.start()
    try:
        return told.get()
    finally:
        child.join()


@pytest.fixture
def nothing_handed_over(monkeypatch):
    monkeypatch.setattr(clock, "_handed_over", False)
    monkeypatch.setattr(clock, "_of_children", (0, None))
    monkeypatch.setattr(clock, "is_interactive", lambda: False)


@pytest.mark.integration
@pytest.mark.usefixtures("nothing_handed_over")
@pytest.mark.parametrize("way", multiprocessing.get_all_start_methods())
def test_a_run_begins_with_the_process_that_its_monitor_is_of_and_a_childs_own_with_the_child(way):
    begin = clock.RunBegin()
    began_s, before_s = begin.seconds(), clock.now_s()
    carried_s, own_s = _told_by_a_child(way, begin)
    assert began_s == pytest.approx(clock.process_began_s(), abs=0.02)
    assert carried_s == began_s
    assert own_s > before_s - 0.02


@pytest.mark.integration
@pytest.mark.usefixtures("nothing_handed_over")
def test_after_a_run_in_forked_children_the_next_one_begins_where_it_ended():
    began_s = clock.RunBegin().seconds()
    before_s = clock.now_s()
    _told_by_a_child("fork", clock.RunBegin())
    for carried_s in (clock.RunBegin().seconds(), _told_by_a_child("fork", clock.RunBegin())[0]):
        assert began_s < before_s < carried_s


@pytest.mark.usefixtures("nothing_handed_over")
def test_after_a_run_in_spawned_children_the_next_one_does_not_count_it_again(monkeypatch):
    monkeypatch.setattr(clock, "get_spawning_popen", object)
    first = clock.RunBegin()
    pickle.dumps(first)
    after_s = clock.now_s()
    assert pickle.loads(pickle.dumps(clock.RunBegin())).seconds() > after_s
    assert pickle.loads(pickle.dumps(first)).seconds() > after_s
    assert copy.deepcopy(first) is first


@pytest.mark.usefixtures("nothing_handed_over")
def test_a_monitor_that_is_pickled_while_its_own_process_trains_changes_no_clock(monkeypatch):
    first = clock.RunBegin()
    pickle.dumps(first)  # into a checkpoint
    with monkeypatch.context() as patched:
        patched.setattr(clock, "get_spawning_popen", object)
        pickle.dumps(first)  # for a worker that loads data
    clock.mark_run_end(ended_s := clock.now_s())
    assert clock.RunBegin().seconds() == ended_s
    monkeypatch.setattr(clock, "_runs_ended_s", None)


@pytest.mark.usefixtures("nothing_handed_over")
def test_a_monitor_that_was_carried_further_than_to_a_child_begins_with_its_process(monkeypatch):
    """Another machine's clock says nothing here; a file may be a year old."""
    begin = pickle.loads(pickle.dumps(clock.RunBegin()))
    begin._pid, begin._began_s = -1, -1e9
    assert begin.seconds() == pytest.approx(clock.process_began_s(), abs=0.02)

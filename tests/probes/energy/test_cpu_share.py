from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from lightning_costs.probes.energy import cpu_share as probe
from lightning_costs.probes.energy.cpu_share import CpuShare, job_root

BUSY = "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass"


@pytest.mark.parametrize(
    ("environ", "processes", "parent"),
    [
        ({}, 1, False),
        ({}, 4, False),
        ({"TORCHELASTIC_RUN_ID": "none"}, 4, True),
        ({"SLURM_STEP_ID": "0"}, 2, True),
        ({"SLURM_STEP_ID": "0"}, 1, False),
    ],
)
def test_siblings_under_one_launcher_are_one_job(environ, processes, parent):
    assert job_root(environ, processes) == (os.getppid() if parent else os.getpid())


class Node:
    """A node whose busy seconds, and the job's, are told."""

    def __init__(self, monkeypatch):
        self.tree_s = self.busy_s = 0.0
        monkeypatch.setattr(CpuShare, "_tree", lambda share: self.tree_s)
        monkeypatch.setattr(CpuShare, "_busy", lambda share: self.busy_s)


def test_the_share_is_of_what_was_spent_since_the_run_began(monkeypatch):
    node = Node(monkeypatch)
    node.tree_s, node.busy_s = 500.0, 10_000.0
    share = CpuShare()
    assert share.fraction(now=True) is None
    node.tree_s, node.busy_s = 530.0, 10_040.0
    assert share.fraction(now=True) == 0.75


def test_processes_are_not_walked_at_every_point(monkeypatch):
    node = Node(monkeypatch)
    share = CpuShare()
    node.tree_s = node.busy_s = 10.0
    assert share.fraction() is None
    later_s = time.perf_counter() + 61
    monkeypatch.setattr(probe, "now_s", lambda: later_s)
    assert share.fraction() == 1.0


@pytest.mark.integration
def test_children_count_while_they_run_and_after_they_ended():
    share = CpuShare()
    subprocess.run([sys.executable, "-c", BUSY.format(0.3)], check=True)
    ended_s = share._tree() - share._tree_s
    assert 0.25 <= ended_s < 1.5
    child = subprocess.Popen([sys.executable, "-c", BUSY.format(0.3) + "\ntime.sleep(600)"])
    try:
        deadline = time.monotonic() + 240
        while share._tree() - share._tree_s < ended_s + 0.3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        child.kill()
        child.wait()
    assert 0.0 < share.fraction(now=True) <= 1.0


@pytest.mark.integration
def test_a_strangers_work_is_the_nodes_and_not_the_jobs():
    share = CpuShare()
    code = "import time; print('asleep', flush=True); time.sleep(600)"
    asleep = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    share._root = asleep.pid
    try:
        assert asleep.stdout.readline() == "asleep\n"
        share._tree_s, share._busy_s = share._tree(), share._busy()
        subprocess.run([sys.executable, "-c", BUSY.format(0.5)], check=True)  # not below the sleeping one
        assert share.fraction(now=True) < 0.2
    finally:
        asleep.kill()
        asleep.communicate()


@pytest.mark.integration
def test_a_job_whose_processes_cannot_be_seen_has_no_share():
    share = CpuShare()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    share._root = gone.pid
    assert share.fraction(now=True) is None

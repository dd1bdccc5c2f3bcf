from __future__ import annotations

import mmap
import os

import psutil
import pytest

from lightning_costs.probes.memory import readings
from lightning_costs.probes.memory.readings import rss_reader


def test_resident_memory_is_that_of_the_operating_system_and_follows_it() -> None:
    read = rss_reader()
    before = read()
    assert before == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    block = mmap.mmap(-1, 64 << 20)  # fresh pages: malloc may have as much left from another test
    for page in range(0, len(block), mmap.PAGESIZE):
        block[page] = 1
    assert read() - before == pytest.approx(len(block), rel=0.1)
    block.close()
    assert read() - before < 32 << 20


@pytest.mark.integration
def test_a_forked_child_reads_its_own_memory() -> None:
    read = rss_reader()
    read()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        block = bytearray(os.urandom(1 << 16)) * 1024
        os.write(tell, f"{read()} {psutil.Process().memory_info().rss} {len(block)}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    own, truth, _ = map(int, os.read(told, 100).split())
    assert own == pytest.approx(truth, rel=0.05)


def test_where_there_is_no_proc_psutil_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> int:
        raise FileNotFoundError("/proc/self/statm")

    monkeypatch.setattr(readings.os, "open", gone)
    assert rss_reader()() == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)

"""A folder's writer is seen to live for as long as it does, however it dies."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from run_folders import header, point

from lightning_costs import load_run
from lightning_costs.storage.run_folder import lock as locks
from lightning_costs.storage.run_folder.files import RunFolder
from lightning_costs.storage.run_folder.lock import LOCK, FolderLock, FolderLocked, writer_status

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock")


def write(folder: Path) -> RunFolder:
    run = RunFolder(folder)
    run.open(header(attempts=[{"began": "2026-01-01T00:00:00.000+00:00"}]))
    run.append(point(1))
    return run


def test_a_folder_has_one_writer_and_readers_see_it(tmp_path: Path) -> None:
    lock = FolderLock.acquire(tmp_path)
    assert lock is not None
    assert writer_status(tmp_path) == "alive"
    with pytest.raises(FolderLocked):
        FolderLock.acquire(tmp_path)
    for _ in range(3):  # reading the lock's file, even in the writer's own process, does not loosen it
        (tmp_path / LOCK).read_bytes()
        assert writer_status(tmp_path) == "alive"
    lock.abandon()
    assert writer_status(tmp_path) == "gone"
    again = FolderLock.acquire(tmp_path)
    assert again is not None
    again.release()
    assert not (tmp_path / LOCK).exists()
    assert writer_status(tmp_path) is None


def test_readers_do_not_keep_a_writer_out(tmp_path: Path) -> None:
    lock = FolderLock.acquire(tmp_path)
    assert lock is not None
    lock.abandon()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            writer_status(tmp_path)

    readers = [threading.Thread(target=look) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(100):
            lock = FolderLock.acquire(tmp_path)
            assert lock is not None
            lock.abandon()
    finally:
        stop.set()
        for reader in readers:
            reader.join()


def test_a_lock_that_nobody_keeps_is_let_go(tmp_path: Path) -> None:
    FolderLock.acquire(tmp_path)
    assert writer_status(tmp_path) == "gone"


def test_a_copy_of_a_folder_says_nothing_about_its_writer(tmp_path: Path) -> None:
    """The run may live on where the copy was taken, or be killed: neither can be seen from here."""
    run = write(tmp_path / "r1")
    lock = FolderLock.acquire(tmp_path / "r1")
    assert lock is not None
    shutil.copytree(tmp_path / "r1", tmp_path / "copy")
    assert writer_status(tmp_path / "copy") is None
    assert load_run(tmp_path / "copy").header["status"] == "running"
    lock.abandon()
    run.abandon()


def test_reading_changes_no_file(tmp_path: Path) -> None:
    write(tmp_path / "r1").abandon()
    lock = FolderLock.acquire(tmp_path / "r1")
    assert lock is not None
    lock.abandon()
    before = {p.name: p.read_bytes() for p in (tmp_path / "r1").iterdir()}
    loaded = load_run(tmp_path / "r1")
    assert loaded.header["status"] == "killed"
    assert loaded.header["attempts"][-1]["status"] == "killed"
    assert {p.name: p.read_bytes() for p in (tmp_path / "r1").iterdir()} == before


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EIO])
def test_a_file_system_without_locks_says_running_and_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    write(tmp_path / "r1").abandon()
    FolderLock.acquire(tmp_path / "r1")
    monkeypatch.setattr(locks.fcntl, "flock", flock)
    assert writer_status(tmp_path / "r1") is None
    assert FolderLock.acquire(tmp_path / "r1") is None
    assert load_run(tmp_path / "r1").header["status"] == "running"


_PARENT = """
import os, sys, time
from pathlib import Path
from lightning_costs.storage.run_folder.lock import FolderLock
lock = FolderLock.acquire(Path(sys.argv[1]))
child = os.fork() if sys.argv[2] == "fork" else __import__("subprocess").Popen(["sleep", "600"], close_fds=False).pid
if child == 0:  # it says itself that it lives: by then it has let the folder go
    print(os.getpid(), flush=True)
    time.sleep(600)
    os._exit(0)
if sys.argv[2] == "exec":
    print(child, flush=True)
time.sleep(600)
"""


@pytest.mark.integration
@pytest.mark.parametrize("way", ["fork", "exec"])
def test_a_child_that_outlives_its_parent_does_not_hold_the_folder(tmp_path: Path, way: str) -> None:
    """DataLoader workers are forked and may live on for seconds; a user's subprocess for days."""
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, str(tmp_path), way], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    try:
        assert writer_status(tmp_path) == "alive"
        parent.kill()
        parent.wait()
        os.kill(child, 0)  # it lives
        assert writer_status(tmp_path) == "gone"
    finally:
        os.kill(child, signal.SIGKILL)
        parent.kill()
        parent.wait()
        parent.stdout.close()

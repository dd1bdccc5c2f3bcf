"""The lock of a run's folder, which the operating system releases when the writing process ends in any way."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import stat
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Literal, final

if sys.platform != "win32":
    import fcntl

#: Held while a process writes the folder, removed when the run ends. It holds its own inode number: a copy of the
#: folder has another, and is never locked.
LOCK = "writer.lock"

#: A reader that looks whether we live holds the lock for a moment, and one who leaves removes its file: try again.
_TRIES, _TRY_AGAIN_S = 10, 0.02


class FolderLocked(Exception):  # noqa: N818 - another writer is no error of the program
    """Another writer holds the folder."""


@final
class FolderLock:
    """A run's folder, held by this process until `release`, or until it dies.

    It is flock(2), which belongs to an open file rather than to a process: it is not lost by opening and closing
    the file, as with POSIX record locks. A child would inherit it and hold it on after its parent's death, so a
    forked one releases it at once; one that is executed never has it.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor: int | None = descriptor
        _held.add(self)

    @classmethod
    def acquire(cls, folder: Path) -> FolderLock | None:
        """Hold a folder.

        Returns:
            None if the file system knows no locks, says of each that it is held, or does not let us write.

        Raises:
            Held: Another writer holds it, in this process or another.
        """
        if sys.platform == "win32":  # no such locks: whether a writer lives cannot be determined there
            return None
        path = folder / LOCK
        for n in range(_TRIES):
            if n:
                time.sleep(_TRY_AGAIN_S)
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666)
            except OSError:
                return None
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise OSError(f"{path} is no regular file")
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                inode = os.fstat(descriptor).st_ino
                if inode != _inode(path):  # its last holder removed it under our hands
                    os.close(descriptor)
                    continue
                with suppress(OSError):  # a full disk: readers cannot determine whether the writer lives
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, str(inode).encode(), 0)
            except BlockingIOError:
                os.close(descriptor)
                if n + 1 == _TRIES:
                    if _always_busy(folder):
                        return None
                    raise FolderLocked(str(folder)) from None
                continue
            except OSError:
                os.close(descriptor)
                return None
            return cls(path, descriptor)
        return None

    def release(self) -> None:
        """Let the folder go: its writer is done."""
        if self._descriptor is not None:
            with suppress(OSError):
                if _inode(self._path) == os.fstat(self._descriptor).st_ino:
                    self._path.unlink()
        self.abandon()

    def abandon(self) -> None:
        """Release the lock and leave the file, as the end of the process would."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)

    __del__ = abandon


@final
class Claim:
    """A run's folder where the file system knows no locks: its file says which process writes.

    A living writer can be detected on its own machine only. A writer on another machine is unknown, and a run that was
    moved there must be able to continue. So this protects less than a lock, and readers learn nothing from it.
    """

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._content = path, content

    @classmethod
    def take(cls, folder: Path) -> Claim | None:
        """Claim a folder, unless a process that lives on this machine has; None if it cannot be written."""
        import psutil

        path = folder / LOCK
        try:
            if _lives(path.read_bytes()):
                raise FolderLocked(str(folder))
        except OSError:
            pass
        began = {"machine": _machine(), "pid": os.getpid(), "began": psutil.Process().create_time()}
        claim = cls(path, json.dumps(began).encode())
        try:
            path.write_bytes(claim._content)
        except OSError:
            return None
        return claim

    def release(self) -> None:
        """Let the folder go: its writer is done."""
        with suppress(OSError):
            if self._path.read_bytes() == self._content:
                self._path.unlink()

    abandon = release


def _lives(content: bytes) -> bool:
    """Whether what a claim names is a process of this machine that lives."""
    import psutil

    try:
        claim = json.loads(content)
        if claim["machine"] != _machine():
            return False
        began = float(psutil.Process(int(claim["pid"])).create_time())
        return abs(began - float(claim["began"])) < 1.0
    except (ValueError, KeyError, TypeError, psutil.Error):
        return False


def _machine() -> str:
    """Identity of this machine, and of this container on it, without a name."""
    identifiers = [platform.node()]
    with suppress(OSError):
        identifiers.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        identifiers.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(identifiers).encode()).hexdigest()[:16]


def _always_busy(folder: Path) -> bool:
    """Whether every lock is reported as held: then locks show nothing."""
    path = folder / f".{LOCK}.{os.getpid()}"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
        with suppress(OSError):
            path.unlink()
    return False


def writer_status(folder: Path) -> Literal["alive", "gone"] | None:
    """Whether the folder's writer lives; None if that cannot be determined: no locks, or a copy of the folder."""
    path = folder / LOCK
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # it may be a pipe
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        if os.pread(descriptor, 32, 0) != str(os.fstat(descriptor).st_ino).encode():
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "alive"
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return "gone"


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


_held: weakref.WeakSet[FolderLock] = weakref.WeakSet()


def _drop_all() -> None:
    for lock in list(_held):
        lock.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_all)

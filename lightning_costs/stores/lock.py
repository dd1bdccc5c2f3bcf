"""Who writes a run's folder: a lock that the operating system lets go when the process dies, however it dies."""

from __future__ import annotations

import os
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
#: folder has another, and nobody locks a copy.
LOCK = "writer.lock"

#: A reader that looks whether we live holds the lock for a moment, and one who leaves removes its file: try again.
_TRIES, _TRY_AGAIN_S = 10, 0.02


class Held(Exception):  # noqa: N818 - another writer is no error of the program
    """Another writer holds the folder."""


@final
class FolderLock:
    """A run's folder, held by this process until `release`, or until it dies.

    It is flock(2), which belongs to an open file rather than to a process: nobody can lose it by opening and closing
    the file, as with POSIX record locks. A child would inherit it and hold it on after its parent's death, so a
    forked one lets go at once; one that is executed never has it.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor: int | None = descriptor
        _held.add(self)

    @classmethod
    def take(cls, folder: Path) -> FolderLock | None:
        """Hold a folder.

        Returns:
            None where the file system knows no locks, or does not let us write.

        Raises:
            Held: Another writer holds it, in this process or another.
        """
        if sys.platform == "win32":  # no such locks: whether a writer lives cannot be told there
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
                with suppress(OSError):  # a full disk: a reader will not be able to tell whether we live
                    os.ftruncate(descriptor, 0)
                    os.pwrite(descriptor, str(inode).encode(), 0)
            except BlockingIOError:
                os.close(descriptor)
                if n + 1 == _TRIES:
                    raise Held(str(folder)) from None
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
        self.drop()

    def drop(self) -> None:
        """Let go and leave the file, as death would."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):
                os.close(descriptor)

    __del__ = drop


def writer_of(folder: Path) -> Literal["alive", "gone"] | None:
    """Whether the folder's writer lives; None where that cannot be told: no locks, or a copy of the folder."""
    path = folder / LOCK
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # somebody may have put a pipe there
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
        lock.drop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_drop_all)

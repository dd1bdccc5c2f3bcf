"""Which commit a script is of, and whether its files were changed since: asked of git, in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, final
from weakref import finalize

#: Reads no more than it must: no index is written, no monitor started, untracked files and submodules are left alone.
_COMMAND = ("--no-optional-locks", "-c", "core.fsmonitor=false", "status", "--porcelain=v2", "--branch")
_OPTIONS = ("--untracked-files=no", "--ignore-submodules=all")
#: How long an answer is waited for when a run ends, in seconds.
PATIENCE_S = 2.0
_COMMIT = "# branch.oid "


@final
class GitQuestion:
    """The state of a folder's repository at the moment of asking; the answer is taken when it has come.

    The process is started and left alone, so asking takes some milliseconds, whatever the size of the repository.
    Nothing stays behind: a process that has not answered ends with this object.
    """

    def __init__(self, folder: Path) -> None:
        self._answer: dict[str, Any] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # Popen would search PATH under `warnings.catch_warnings`: Python then shows the script's warnings once more.
        program = shutil.which("git")
        if program is None:
            self._answer = {"missing": "git is not installed"}
            return
        try:
            self._process = subprocess.Popen(
                [program, *_COMMAND, *_OPTIONS],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            self._answer = {"missing": f"git did not start: {error.strerror}"}
        else:
            self._end = finalize(self, _end, self._process)

    def answer(self, patience_s: float = 0.0) -> dict[str, Any] | None:
        """`commit` and `dirty`, or `missing` with its reason; None while git has not answered.

        Args:
            patience_s: Seconds to wait for it; a process that takes longer is waited for no more if this is above 0.
        """
        process = self._process
        if process is None:
            return self._answer
        if not patience_s and not _answered(process):
            return None
        try:
            output, _ = process.communicate(timeout=patience_s or PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._answer = {"missing": f"git did not answer within {patience_s or PATIENCE_S:g} s"}
        except (OSError, ValueError) as error:
            self._answer = {"missing": f"git's answer could not be read: {error}"}
        else:
            self._answer = _state(output.decode("utf-8", "replace"))
        self._end()
        self._process = None
        return self._answer


def _answered(process: subprocess.Popen[bytes]) -> bool:
    """Whether git has ended; one whose answer fills the pipe is read in the end."""
    return process.poll() is not None


def _state(output: str) -> dict[str, Any]:
    lines = output.splitlines()
    commits = [line.removeprefix(_COMMIT) for line in lines if line.startswith(_COMMIT)]
    if not commits:
        return {"missing": "the script's folder is in no git repository that git reads"}
    if commits[0] == "(initial)":
        return {"missing": "the repository has no commit"}
    return {"commit": commits[0], "dirty": any(not line.startswith("#") for line in lines)}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that was left alone, and take its pipe and its exit code."""
    with suppress(OSError):
        process.kill()
    with suppress(OSError, ValueError):
        if process.stdout is not None:
            process.stdout.close()
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < PATIENCE_S:
        time.sleep(0.001)

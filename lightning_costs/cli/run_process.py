"""Runs a command as a shell would: its standard streams, its signals and its exit code are the command's own.

Systems without POSIX signals (Windows) have a plainer way: the command runs, and its exit code is ours.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from lightning_costs.records.printable import printable
from lightning_costs.run.attempts import iso
from lightning_costs.storage.run_folder.files import HEADER
from lightning_costs.storage.run_folder.identity import run_in_environment
from lightning_costs.storage.run_folder.starts import LAUNCH, note_end, note_start

#: A library's thread (polars starts one) may be handed the end of the command while this one does not wait for it yet.
_LOOK_EVERY_S = 0.5

#: Signals that are requests to a process: one that is sent to this process is meant for the command.
_PASSED_ON = {
    number
    for number in signal.Signals
    if number.name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
}


def run(command: Sequence[str], environment: Mapping[str, str], save_dir: Path) -> NoReturn:
    """Run a command, and exit as it did.

    If no run was recorded in `save_dir` meanwhile, one line on stderr says when one is.

    Args:
        command: The program, looked up on PATH, and its arguments.
        environment: Its variables, besides those of this process.
        save_dir: Folder for its run folders.

    Raises:
        SystemExit: With the command's exit code; 127 if it is not found, 126 if it cannot be executed. If a
            signal ends the command, this process ends by the same signal.
    """
    before = _written(save_dir)
    code, trace, named = 0, secrets.token_hex(4), run_in_environment()
    if named is not None:  # an attempt that dies while it imports is counted by the next one
        note_start(save_dir / named, trace, iso(time.time()))
    try:
        code = (_call if _posix() else _call_plainly)(command, {**os.environ, **environment, LAUNCH: trace})
    except FileNotFoundError:
        raise SystemExit(_complain(f"{command[0]}: command not found", 127)) from None
    except OSError as error:
        raise SystemExit(_complain(f"{command[0]}: {error.strerror}", 126)) from None
    finally:
        recorded = _written(save_dir) != before
        if named is not None and not recorded and not code:
            note_end(save_dir / named, trace)
    if not recorded and code:
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        _complain(f"no run was recorded in {printable(str(save_dir))}: {printable(command[0])} {ended}", code)
    elif not recorded:
        _complain(
            f"no run was recorded in {printable(str(save_dir))}. One is if a Lightning Trainer or Fabric, a "
            "transformers Trainer or a loop with Accelerate trains a batch "
            "(fast_dev_run leaves no run), in a Python that has lightning-costs, with rank 0 on this node, and without "
            "a monitor of its own that writes elsewhere",
            code,
        )
    _exit_like(code)


def _written(save_dir: Path) -> dict[Path, int]:
    """When the header of each run there was written: a run that begins or continues writes its own."""
    found = {}
    for header in save_dir.glob(f"*/{HEADER}"):
        with suppress(OSError):  # it went away meanwhile
            found[header] = header.stat().st_mtime_ns
    return found


def _complain(text: str, code: int) -> int:
    print(f"lightning-costs: {text}", file=sys.stderr, flush=True)
    return code


def _posix() -> bool:
    """Whether a command's signals can be waited for and passed on."""
    return hasattr(os, "posix_spawnp") and hasattr(signal, "pthread_sigmask")


def _call(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run to the end; the exit code, or minus the signal that ended it.

    Raises:
        OSError: If it could not be started.
    """
    for each in _PASSED_ON:
        # As nohup and a script's `&` leave them. Python remembers that; a library's own handler may have come since.
        if signal.getsignal(each) is signal.SIG_IGN:
            signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # one that is ignored never becomes pending
    waited = {*_PASSED_ON, signal.SIGCHLD}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    try:
        # Python ignores these two, and a child would inherit that: `| head` could not end it.
        defaults = [signal.SIGPIPE, signal.SIGXFSZ]
        child = os.posix_spawnp(command[0], list(command), environment, setsigmask=mask, setsigdef=defaults)
        while True:
            number, by_terminal = _next(waited)
            if number in (signal.SIGCHLD, None):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    return os.waitstatus_to_exitcode(status)
            elif number is not None and not by_terminal:
                os.kill(child, number)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _call_plainly(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run to the end if signals cannot be passed on: the console sends a Ctrl-C to the command, which decides."""
    program = shutil.which(command[0], path=environment.get("PATH")) or command[0]
    with subprocess.Popen([program, *command[1:]], env=environment) as child:
        while True:
            try:
                code = child.wait()
            except KeyboardInterrupt:
                continue
            return code - 2**32 if code >= 2**31 else code  # Windows' own codes, such as that of an access violation


def _next(waited: set[signal.Signals]) -> tuple[int | None, bool]:
    """Wait for a signal: its number, and whether the terminal sent it, to the command as well; None after a while.

    A key (Ctrl-C) or a hang-up reaches the whole foreground group: passed on, it would arrive twice, and the second
    Ctrl-C ends a graceful shutdown.
    """
    if sys.platform == "darwin":  # has no sigtimedwait: there, Ctrl-C is taken for a key
        number = signal.sigwait(waited)
        return number, number in (signal.SIGINT, signal.SIGQUIT) and sys.stdin.isatty()
    received = signal.sigtimedwait(waited, _LOOK_EVERY_S)
    if received is None:
        return None, False
    return received.si_signo, received.si_code > 0  # positive: by the kernel; by a process: 0 or below


def _exit_like(code: int) -> NoReturn:
    if code < 0 and _posix():
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
        code = 128 - code  # a signal cannot end us: in a container
    raise SystemExit(code)

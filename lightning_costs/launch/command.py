"""Runs a command as a shell would: its standard streams, its signals and its exit code are the command's own.

Systems without POSIX signals (Windows) have a plainer way: the command runs, and its exit code is ours.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from lightning_costs.stores.receipt import VARIABLE, signed

#: A library's thread (polars starts one) may be handed the end of the command while this one does not wait for it yet.
_LOOK_EVERY_S = 0.5

#: Signals that ask a process for something: whoever sends one to us means the command.
_PASSED_ON = {
    number
    for number in signal.Signals
    if number.name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
}


def run(command: Sequence[str], environment: Mapping[str, str]) -> NoReturn:
    """Run a command, and exit as it did.

    Where no run was recorded on this node, one line on stderr says why.

    Args:
        command: The program, looked up on PATH, and its arguments.
        environment: Variables that it gets besides ours.

    Raises:
        SystemExit: With the command's exit code; 127 where it is not found, 126 where it cannot be executed. A
            command that a signal ended leaves this process ended by the same one.
    """
    with tempfile.TemporaryDirectory(prefix="lightning-costs-") as folder:
        try:
            code = (_call if _posix() else _call_plainly)(command, {**os.environ, **environment, VARIABLE: folder})
        except FileNotFoundError:
            raise SystemExit(_complain(f"{command[0]}: command not found", 127)) from None
        except OSError as error:
            raise SystemExit(_complain(f"{command[0]}: {error.strerror}", 126)) from None
        marks = signed(Path(folder))
    if "recorded" not in marks:
        _complain(f"no run was recorded: {_why(marks)}", code)
    _exit_like(code)


def _why(marks: set[str]) -> str:
    if "made" in marks:
        return "a Trainer or Fabric was made, but no batch was trained on (fast_dev_run leaves no run)"
    if "refused" in marks:
        return "no monitor could be made; the reason is in the log above"
    return "no Lightning Trainer or Fabric was made there, or by a Python that has no lightning-costs"


def _complain(text: str, code: int) -> int:
    print(f"lightning-costs: {text}", file=sys.stderr, flush=True)
    return code


def _posix() -> bool:
    """Whether a command's signals can be waited for and passed on."""
    return hasattr(os, "posix_spawnp") and hasattr(signal, "pthread_sigmask")


def _call(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run to the end; the exit code, or minus the signal that ended it.

    Raises:
        OSError: Where it could not be started.
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
    """Run to the end where signals cannot be passed on: the console tells the command of a Ctrl-C, and it decides."""
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
    told = signal.sigtimedwait(waited, _LOOK_EVERY_S)
    if told is None:
        return None, False
    return told.si_signo, told.si_code > 0  # positive: by the kernel; by a process: 0 or below


def _exit_like(code: int) -> NoReturn:
    if code < 0 and _posix():
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else None
        os.kill(os.getpid(), -code)
        code = 128 - code  # a signal cannot end us: in a container
    raise SystemExit(code)

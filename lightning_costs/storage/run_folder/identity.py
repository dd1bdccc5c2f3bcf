"""Which run this is, and which folder holds it: a run keeps its identity and its folder over preemption.

The first that is set names a run: LIGHTNING_COSTS_RUN_ID, WANDB_RUN_ID, the checkpoint's own record, the SLURM job. A
checkpoint goes before the job: of jobs that are chained by checkpoints every one would else count the costs again.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import dropwhile
from pathlib import Path
from typing import Any

from lightning_costs.records.samples import SCHEMA_VERSION
from lightning_costs.storage.run_folder.files import HEADER, JOURNAL
from lightning_costs.storage.run_folder.lock import LOCK, Claim, FolderLock, FolderLocked
from lightning_costs.storage.run_folder.reader import EarlierAttempts, read_earlier

OURS, WANDB, SLURM = "LIGHTNING_COSTS_RUN_ID", "WANDB_RUN_ID", "SLURM_JOB_ID"
#: Of a run's group (seeds of one method, a sweep) and its tags, the first that is set counts.
GROUP = ("LIGHTNING_COSTS_GROUP", "WANDB_RUN_GROUP")
TAGS = ("LIGHTNING_COSTS_TAGS", "WANDB_TAGS")

#: Numbers tried for a name, and folders that another process took first, before random digits are used.
_MOST, _MOST_HELD = 10_000, 50

#: Folders that this process wrote or writes: a further fit without a checkpoint is another run.
_used_here: set[Path] = set()


class FolderRefused(Exception):  # noqa: N818 - a folder of another run is not an error of the program
    """A folder is not written into; the message says what was found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRun:
    """A run's identity, which is its folder's name, and what the folder holds of it.

    `wanted` is the identity without the number that distinguishes it from others of that name. `refused` is why that
    one's folder is left alone. The lock is None if the folder is not made yet, not ours to write or cannot be locked.
    `named` is whether the environment names the run, so that another attempt at it will find the same folder.
    """

    run_id: str
    wanted: str
    earlier: EarlierAttempts | None = None
    lock: FolderLock | Claim | None = None
    refused: str = ""
    named: bool = False


def run_in_environment() -> str | None:
    """The identity that the environment gives the run of this process; None if it gives none."""
    return next((_clean(os.environ[v]) for v in (OURS, WANDB, SLURM) if os.environ.get(v)), None)


def slurm_restart_count() -> int | None:
    """How often SLURM has requeued this job; None outside SLURM."""
    if not os.environ.get(SLURM):
        return None
    try:
        return int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    except ValueError:
        return 0


def resolve_run(name: str | None, save_dir: Path, *, writes: bool) -> ResolvedRun:
    """The run of an attempt that begins without a checkpoint.

    Where the environment says that it continues a run, that run's folder is taken up again, and held if this process
    writes.
    """
    variable = next((v for v in (OURS, WANDB, SLURM) if os.environ.get(v)), None)
    if variable is None:
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", name or "run").strip("-.")[:60] or "run"
        wanted = f"{slug}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    else:
        wanted = _clean(os.environ[variable])
    continues = variable is not None and _continues(variable)
    refused = ""
    for run_id in _numbered(wanted):
        path = save_dir / run_id
        if not _taken(path):
            return ResolvedRun(run_id=run_id, wanted=wanted, refused=refused, named=variable is not None)
        if not continues or path.absolute() in _used_here:
            continue
        try:
            earlier, lock = _hold(
                path, run_id, writes=writes, since=slurm_restart_count() if variable == SLURM else None
            )
        except FolderRefused as why:
            refused = refused or str(why)
            continue
        return ResolvedRun(run_id=run_id, wanted=wanted, earlier=earlier, lock=lock, refused=refused)
    return ResolvedRun(run_id=_by_chance(wanted), wanted=wanted, refused=refused)


def resolve_resumed_run(run_id: str, first: str | None, save_dir: Path, *, writes: bool) -> ResolvedRun:
    """The run of a checkpoint; `first`, the attempt that began it, distinguishes runs of one name."""
    given = next((_clean(os.environ[v]) for v in (OURS, WANDB) if os.environ.get(v)), None)
    wanted = run_id if given is None or re.fullmatch(rf"{re.escape(given)}(-\d+)?", run_id) else given
    refused = ""
    for candidate in _numbered(wanted):
        path = save_dir / candidate
        if not _taken(path):
            return ResolvedRun(run_id=candidate, wanted=wanted, refused=refused)
        try:
            earlier, lock = _hold(path, candidate, writes=writes, first=first)
        except FolderRefused as why:
            refused = refused or str(why)
            continue
        return ResolvedRun(run_id=candidate, wanted=wanted, earlier=earlier, lock=lock, refused=refused)
    return ResolvedRun(run_id=_by_chance(wanted), wanted=wanted, refused=refused)


def claim_folder(found: ResolvedRun, save_dir: Path, *, writes: bool) -> ResolvedRun:
    """Make and lock the folder, if this process writes; if another run has the name, use the next free one.

    A disk that fails is not said here: writing will.
    """
    if writes and found.lock is None and found.earlier is None:
        held = 0
        for run_id in _numbered(found.wanted, after=found.run_id):
            found = replace(found, run_id=run_id if held < _MOST_HELD else _by_chance(found.wanted))
            path = save_dir / found.run_id
            try:
                lock = _make(path)
            except FolderLocked:
                held += 1
                if os.environ.get(OURS):
                    found = replace(found, refused=found.refused or _written(path))
                continue
            except OSError:
                break
            if not _taken(path, besides=lock):
                found = replace(found, lock=lock)
                break
            if lock is not None:
                lock.release()
    _used_here.add((save_dir / found.run_id).absolute())
    return found


def _make(path: Path) -> FolderLock | Claim | None:
    """Make a new run's folder and hold it; without locks, the process that creates its journal has it."""
    path.mkdir(parents=True, exist_ok=True)
    if (lock := FolderLock.acquire(path)) is not None:
        return lock
    try:
        os.close(os.open(path / JOURNAL, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        raise FolderLocked(str(path)) from None
    return Claim.take(path)


def _continues(variable: str) -> bool:
    """Whether the environment says that this process continues with a run rather than beginning another."""
    if variable == OURS:
        return True
    if variable == SLURM:
        return bool(slurm_restart_count())
    if os.environ.get("WANDB_RESUME", "").lower() in ("allow", "must", "auto", "true", "1"):
        return True
    run = getattr(sys.modules.get("wandb"), "run", None)
    return bool(getattr(run, "resumed", False)) and getattr(run, "id", None) == os.environ[WANDB]


def _hold(
    path: Path, run_id: str, *, writes: bool, first: str | None = None, since: int | None = None
) -> tuple[EarlierAttempts | None, FolderLock | Claim | None]:
    """What a folder holds of a run, and the folder, held; `FolderRefused` says why it is not ours."""
    if not (path / HEADER).exists():
        raise FolderRefused(f"{path} holds no {HEADER}: it is no run's folder")
    try:
        header: dict[str, Any] = json.loads((path / HEADER).read_text(encoding="utf-8"))
        version, holds = int(header["schema_version"]), str(header["run_id"])
        attempts: list[Mapping[str, Any]] = list(header.get("attempts", ()))
        began, restarts = (attempts[0].get("id"), attempts[-1].get("restart")) if attempts else (None, None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FolderRefused(f"{path / HEADER} cannot be read: {error!r}") from error
    if version > SCHEMA_VERSION:
        raise FolderRefused(f"{path} was written with schema version {version}, this package writes {SCHEMA_VERSION}")
    if holds != run_id:
        raise FolderRefused(f"{path} holds the run {holds!r}, expected {run_id!r}")
    if first is not None and began is not None and first != began:
        raise FolderRefused(f"{path} holds another run of this name, begun {attempts[0].get('began')}")
    if since is not None and restarts is not None and restarts >= since:
        raise FolderRefused("")  # another run of this very start of the job: nothing to say
    try:
        lock = (FolderLock.acquire(path) or Claim.take(path)) if writes else None
    except FolderLocked:
        raise FolderRefused(_written(path)) from None
    try:
        return read_earlier(path), lock
    except Exception as error:  # whatever a file's reader raises, the folder is not ours to mend
        if lock is not None:
            lock.abandon()
        raise FolderRefused(f"{path} cannot be read: {error}") from error


def _written(path: Path) -> str:
    return f"{path} is being written by another process, or by a recorder that has not ended"


def _clean(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".")[:100] or "run"


def _numbered(wanted: str, after: str = "") -> Iterator[str]:
    """The name, the name with each number, and at last the name with what chance adds: there is an end."""
    names = (wanted if n == 1 else f"{wanted}-{n}" for n in range(1, _MOST + 1))
    yield from dropwhile(lambda name: bool(after) and name != after, names)
    yield _by_chance(wanted)


def _by_chance(wanted: str) -> str:
    return f"{wanted}-{secrets.token_hex(4)}"


def _taken(path: Path, besides: FolderLock | Claim | None = None) -> bool:
    """Whether a folder holds anything; if it cannot be read, writing raises the error."""
    try:
        return path.exists() and (
            not path.is_dir()
            or any(
                entry.name != LOCK
                and not entry.name.startswith(f".{HEADER}.")
                and not (entry.name == JOURNAL and not entry.stat().st_size)
                for entry in path.iterdir()
            )
        )
    except OSError:
        return False


def group_of_run() -> str | None:
    """The group that the environment names; None if it names none."""
    return next((value for name in GROUP if (value := os.environ.get(name, "").strip())), None)


def tags_of_run() -> list[str]:
    """The tags that the environment names, which separates them by commas."""
    text = next((value for name in TAGS if (value := os.environ.get(name, "").strip())), "")
    return list(dict.fromkeys(tag for part in text.split(",") if (tag := part.strip())))

"""Where a source lies: a path of this machine, or a URL that fsspec reads (s3://, gs://, memory://, file://)."""

from __future__ import annotations

import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from lightning_costs.records.printable import printable
from lightning_costs.storage.limits import MOST_HEADER_BYTES, MOST_POINTS_BYTES, check_size, read_at_most
from lightning_costs.storage.run_folder.files import HEADER, JOURNAL, PARQUET

_PIECE = 1 << 20
#: A drive's letter is none.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]+):/")


def run_root(save_dir: str | Path) -> Path:
    """Where run folders go, as an absolute path: a script may change its directory while it trains.

    Args:
        save_dir: A path, or a `file://` URL of one.

    Raises:
        ValueError: For a URL of anything else: a run is written as it happens, line by line, which object stores
            cannot do.

    Example:
        >>> run_root("s3://bucket/costs")
        Traceback (most recent call last):
        ValueError: save_dir must be a folder of this machine, got 's3://bucket/costs': a run is written ...
    """
    text = os.fspath(save_dir)
    if scheme := _SCHEME.match(text):  # a Path has lost one of the slashes
        url = urlsplit(text)
        if scheme[1].lower() != "file" or url.netloc not in ("", "localhost"):
            raise ValueError(
                f"save_dir must be a folder of this machine, got {text!r}: a run is written as it happens, line by "
                "line. Write it here and copy its folder there afterwards; load_run, load_runs and compare read URLs"
            )
        text = url2pathname(url.path)
    with suppress(OSError):  # the directory that this process is in was removed: writing will say so
        return Path(os.path.abspath(text))
    return Path(text)


def why_unwritable(folder: Path) -> str | None:
    """Why nothing can be made in a folder that may not be there yet, as far as that can be told without making it."""
    place = folder
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            return f"{shown(place)} is a file"
        if not os.access(place, os.W_OK | os.X_OK):
            return f"{shown(place)} may not be written to"
    except OSError as error:
        return f"{shown(place)}: {error.strerror}"
    return None


def shown(path: Path) -> str:
    """A path for people: relative to the working directory, if it is below that."""
    with suppress(OSError, ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def show_command(run: Path) -> str:
    """The command that shows a run, as a shell reads it."""
    path = shown(run)
    return printable(f"lightning-costs show {'-- ' if path.startswith('-') else ''}{shlex.quote(path)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePath:
    """A file or folder, here or on a remote file system.

    Args:
        path: Its path on its file system.
        remote: The fsspec file system; None for this machine's own.
        url: What the user wrote.
    """

    path: str
    remote: Any = None
    url: str

    @classmethod
    def of(cls, path: str | Path) -> SourcePath:
        """The place of a path or URL."""
        text = str(path)
        if "://" not in text:
            return cls(path=text, url=text)
        import fsspec

        try:
            remote, inside = fsspec.core.url_to_fs(text)
        except (ValueError, ImportError) as error:
            raise ValueError(f"{printable(text)} cannot be read: {printable(str(error))}") from error
        if type(remote).__name__ == "LocalFileSystem":
            return cls(path=inside, url=text)
        return cls(path=inside, remote=remote, url=text)

    def __str__(self) -> str:
        return printable(self.url)

    @property
    def name(self) -> str:
        """Its last part."""
        return PurePosixPath(self.path.replace(os.sep, "/")).name or self.url

    @property
    def suffix(self) -> str:
        """What its name ends in, such as '.parquet'."""
        return PurePosixPath(self.name).suffix.lower()

    def exists(self) -> bool:
        """Whether there is anything."""
        return bool(self.remote.exists(self.path)) if self.remote else Path(self.path).exists()

    def is_file(self) -> bool:
        """Whether it is a file."""
        return bool(self.remote.isfile(self.path)) if self.remote else Path(self.path).is_file()

    def read(self) -> bytes:
        """All that is in the file."""
        content: bytes = self.remote.cat_file(self.path) if self.remote else Path(self.path).read_bytes()
        return content

    def read_at_most(self, most_bytes: int) -> bytes:
        """All that is in the file."""
        if not self.remote:
            return read_at_most(Path(self.path), most_bytes)
        check_size(str(self), self.remote.size(self.path) or 0, most_bytes)
        return self.read()

    def starts(self, size: int) -> bytes:
        """The first bytes of the file."""
        with self.remote.open(self.path, "rb") if self.remote else open(self.path, "rb") as file:
            begin: bytes = file.read(size)
        return begin

    def contains(self, token: bytes) -> bool:
        """Whether the file holds a text, read piece by piece: a log may be long."""
        with self.remote.open(self.path, "rb") if self.remote else open(self.path, "rb") as file:
            before = b""
            while piece := file.read(_PIECE):
                if token in before + piece:
                    return True
                before = piece[-len(token) :]
        return False

    def joinpath(self, name: str) -> SourcePath:
        """A file of the folder."""
        joined = f"{self.path.rstrip('/')}/{name}" if self.remote else os.path.join(self.path, name)
        return SourcePath(path=joined, remote=self.remote, url=f"{self.url.rstrip('/')}/{name}")

    def beside(self, suffix: str) -> SourcePath:
        """The file of the same name with another suffix."""
        cut = len(self.suffix)
        path, url = self.path[: len(self.path) - cut], self.url[: len(self.url) - cut]
        return SourcePath(path=path + suffix, remote=self.remote, url=url + suffix)

    def walk(self) -> list[SourcePath]:
        """Every file below the folder, in order."""
        if self.remote:
            found = sorted(self.remote.find(self.path))
            root = self.path.rstrip("/")
            return [
                SourcePath(path=p, remote=self.remote, url=f"{self.url.rstrip('/')}{p[len(root) :]}") for p in found
            ]
        found = sorted(str(p) for p in Path(self.path).rglob("*") if _is_file(p))
        return [SourcePath(path=p, url=p) for p in found]

    @property
    def parent(self) -> SourcePath:
        """The folder it is in."""
        if self.remote:
            return SourcePath(path=self.path.rpartition("/")[0], remote=self.remote, url=self.url.rpartition("/")[0])
        return SourcePath(path=str(Path(self.path).parent), url=str(Path(self.path).parent))

    @contextmanager
    def as_folder(self) -> Iterator[Path]:
        """A run folder on this machine: itself, or a copy of the files that a run is read from.

        Whether the writer of a remote folder lives cannot be determined: there is no lock in a copy.
        """
        if not self.remote:
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / self.name
            folder.mkdir()
            # The table last, so that it is no older than the journal, unless the run continues.
            for name in (HEADER, JOURNAL, PARQUET):
                if (file := self.joinpath(name)).is_file():
                    most = MOST_HEADER_BYTES if name == HEADER else MOST_POINTS_BYTES
                    check_size(str(file), self.remote.size(file.path) or 0, most)
                    (folder / name).write_bytes(file.read())
            yield folder


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # in a folder without permission to read its entries
        return False

"""What a study is: methods that differ in one thing, seeds of each, and claims about what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from .claims import Claim

Settings = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: a method of a study, at a size, from a seed."""

    study: str
    arm: str
    seed: int
    size: str
    #: The size's settings and the method's own, the method's first.
    settings: Settings
    #: Where its run folder is made.
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.arm}-seed{self.seed}"

    @property
    def facts(self) -> dict[str, Any]:
        """What its run's header says of it: a run with the same facts need not be trained again."""
        about = {"study": self.study, "arm": self.arm, "seed": self.seed, "size": self.size}
        return {**about, "settings": {name: _plain(value) for name, value in self.settings.items()}}


@dataclass(frozen=True, kw_only=True)
class Study:
    """Methods, sizes and claims.

    Args:
        name: The module's.
        title: What is compared, in a line.
        part: Which part of the paper it measures.
        monitor: The quality metric.
        mode: Which direction of it is better.
        arms: Methods by name, with the settings that are their own. They override a size's.
        sizes: Settings by size. 'cpu' is for two cores, 'gpu' for one CUDA device, 'tiny' for tests.
        train: Trains one job and leaves its run folder.
        claims: What the paper says of these methods, as it can be measured.
        columns: Costs that the study's table and figure show.
        seeds: How many times each method is trained.
        preload: Modules that are imported once, before processes are made, beside what every study needs.
    """

    name: str
    title: str
    part: str
    monitor: str
    mode: Literal["max", "min"]
    arms: Mapping[str, Settings]
    sizes: Mapping[str, Settings]
    train: Callable[[Job], None]
    claims: Sequence[Claim]
    columns: Sequence[str]
    seeds: int = 5
    preload: Sequence[str] = ()

    def jobs(self, size: str, folder: Path, seeds: int | None = None, arms: Sequence[str] = ()) -> list[Job]:
        """All trainings, seed by seed: a machine that slows down slows every method alike.

        Args:
            size: One of `sizes`.
            folder: Where run folders are made.
            seeds: How many; by default the study's number.
            arms: Only these methods; by default all.

        Raises:
            ValueError: For a size or a method that the study does not have.
        """
        if size not in self.sizes:
            raise ValueError(f"{self.name} has no size {size!r}; choose one of {', '.join(self.sizes)}")
        if unknown := sorted(set(arms) - set(self.arms)):
            raise ValueError(f"{self.name} has no method {', '.join(unknown)}; choose of {', '.join(self.arms)}")
        return [
            Job(
                study=self.name,
                arm=arm,
                seed=seed,
                size=size,
                settings={**self.sizes[size], **own},
                folder=folder,
            )
            for seed in range(1, (seeds or self.seeds) + 1)
            for arm, own in self.arms.items()
            if not arms or arm in arms
        ]


def find_study(name: str) -> Study:
    """The study of a module: one of this folder, or one of your own by its (dotted) name.

    Raises:
        ValueError: Where there is no such module, or it holds no STUDY.
    """
    path = next((path for path in (f"{__package__}.{name}", name) if _is_there(path)), None)
    if path is None:
        raise ValueError(f"no study {name!r}: expected a module of {__package__}, or one that `import {name}` finds")
    study = getattr(import_module(path), "STUDY", None)
    if not isinstance(study, Study):
        raise ValueError(f"{path} holds no STUDY: expected `STUDY = Study(...)`")
    return study


def _is_there(path: str) -> bool:
    try:
        return find_spec(path) is not None
    except ModuleNotFoundError:  # of what is before the last dot
        return False


def _plain(value: Any) -> Any:
    """As JSON gives it back, so that facts written are facts read."""
    return list(value) if isinstance(value, tuple) else value

"""Who a run is: its hyperparameters, its script and commit, its seeds and, if set, its owner."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from lightning_costs.probes.git import PATIENCE_S, GitQuestion
from lightning_costs.records.hyperparameters import plain_hyperparameters, seeds_among
from lightning_costs.records.secrets import looks_secret
from lightning_costs.run.plan import read_prediction

OWNER = "LIGHTNING_COSTS_OWNER"
#: What Lightning's `seed_everything` sets.
_GLOBAL_SEED = "PL_GLOBAL_SEED"
#: What runs notebooks, or a text of the command line, and is no user's script.
_NO_SCRIPTS = ("", "-c", "-m", "-", "ipykernel_launcher.py", "colab_kernel_launcher.py", "ipython", "ipython3")
_LONGEST = 200


@final
class Provenance:
    """What a run's header says of who it is.

    Args:
        hyperparameters: A mapping, a namespace or a dataclass.
        owner: Whose run it is; by default as LIGHTNING_COSTS_OWNER says. It is never looked up.
        prediction: What it was predicted to cost (`lightning_costs.run.plan.read_prediction`).

    Raises:
        ValueError: For an owner that is no text, or hyperparameters that have no names.
    """

    def __init__(self, hyperparameters: object = None, owner: str | None = None, prediction: object = None) -> None:
        if owner is not None and not isinstance(owner, str):
            raise ValueError(f"owner must be a text, got {owner!r}")
        if hyperparameters is not None and not _named(hyperparameters):
            raise ValueError(
                "hyperparameters must be a mapping, a namespace or a dataclass, such as {'lr': 0.1}, got "
                f"{type(hyperparameters).__name__}"
            )
        self.hyperparameters = plain_hyperparameters(hyperparameters)
        owner = os.environ.get(OWNER, "") if owner is None else owner
        self._owner = "" if looks_secret(owner) and "@" not in owner else owner.strip()[:_LONGEST]
        self._git: GitQuestion | None = None
        self.prediction = read_prediction(prediction)

    def ask(self) -> None:
        """Ask git, whose answer is taken later."""
        self._git = GitQuestion(_folder())

    def header(self) -> dict[str, Any]:
        """What is known now; `git` once it has answered."""
        seeds = seeds_among(self.hyperparameters)
        with_global = os.environ.get(_GLOBAL_SEED, "")
        if with_global.isdecimal() and len(with_global) < 20:
            seeds = {"seed_everything": int(with_global), **seeds}
        known: dict[str, Any] = {"prediction": self.prediction}
        known |= {
            "hyperparameters": self.hyperparameters,
            "script": script_name(),
            "seeds": seeds,
            "owner": self._owner,
        }
        always = {"hyperparameters": self.hyperparameters}
        return {**always, **{name: value for name, value in known.items() if value}, **self.late()}

    def late(self, *, ending: bool = False, hurry: bool = False) -> dict[str, Any]:
        """What git has answered since it was asked last; at the end of a run it is waited for."""
        if self._git is None:
            return {}
        answer = self._git.answer((0.05 if hurry else PATIENCE_S) if ending else 0.0)
        if answer is None:
            return {}
        self._git = None
        return {"git": answer}


def script_name() -> str | None:
    """The name of the script that runs, without its folder; None in a notebook and at a prompt."""
    name = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else ""
    return None if name in _NO_SCRIPTS or looks_secret(name) else name[:_LONGEST]


def _folder() -> Path:
    """Where the script is; in a notebook, where the process is."""
    here = Path(sys.argv[0]).parent if script_name() is not None else Path()
    return here if here.is_dir() else Path()


def _named(value: object) -> bool:
    return isinstance(value, Mapping) or hasattr(value, "__dataclass_fields__") or type(value).__name__ == "Namespace"

"""How long torch.compile compiled while the run trained, as torch itself keeps account of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Self, final

from lightning_costs.probes.context import ProbeContext
from lightning_costs.records.missing import Missing

#: What `torch._dynamo.utils.calculate_time_spent` adds up for its `total_wall_time`, seen on torch 2.13.
_WALL = ("entire_frame_compile", "entire_backward_compile")


def compiled_s() -> float:
    """Seconds that torch.compile has compiled in this process; nothing is imported if it was not used.

    Raises:
        Missing: It was used, and this torch keeps no account of it.
    """
    utils = sys.modules.get("torch._dynamo.utils")
    if utils is None:
        return 0.0
    spent_ns: Mapping[str, int] | None = getattr(utils, "cumulative_time_spent_ns", None)
    if spent_ns is None:
        raise Missing("needs torch._dynamo.utils.cumulative_time_spent_ns, which this torch does not have")
    return sum(spent_ns.get(phase, 0) for phase in _WALL) / 1e9


def compiled_if_known_s() -> float:
    """The same, or 0 if this torch keeps no account of it."""
    try:
        return compiled_s()
    except Missing:
        return 0.0


@final
class CompileTime:
    """Compilation in the account `train`: what is compiled in evaluations and checkpoints stays theirs."""

    def __init__(self, setting: ProbeContext) -> None:
        self._accounts = setting.accounts
        self._known_s = compiled_s()
        self._train_s = 0.0
        self._untold: Missing | None = None

    @classmethod
    def attach(cls, setting: ProbeContext) -> Self:
        """Start counting; raises `Missing` if this torch does not report compile times."""
        return cls(setting)

    def detach(self) -> None:
        """There is nothing to release."""

    def on_bucket_change(self) -> None:
        """An evaluation or a checkpoint begins or ends: what was compiled until now belongs to what ran."""
        try:
            now_s = compiled_s()
        except Missing as why:
            self._untold = why
            return
        if now_s == self._known_s:
            return
        new_s, self._known_s = now_s - self._known_s, now_s
        if self._accounts is None or (self._accounts.root == "train" and not self._accounts.interrupted):
            self._train_s += max(0.0, new_s)

    def take_s(self) -> float:
        """Seconds of the account `train` in which torch compiled, since the last call.

        Raises:
            Missing: This torch does not report compile times.
        """
        self.on_bucket_change()
        if self._untold is not None:
            raise self._untold
        taken_s, self._train_s = self._train_s, 0.0
        return taken_s

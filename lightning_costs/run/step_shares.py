"""What is inside steps, in words, from a run's header and final costs alone: phases, a traced step, communication."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_costs.records.certainty import amount_of
from lightning_costs.records.formatting import format_amount

#: Kinds of communication and categories of a traced step that are named at most.
_MOST = 6
#: Counting below this share of the training time is not named.
_LEAST_COUNTING = 0.02
_PHASES = {
    "forward_s": "forward passes",
    "backward_s": "backward passes",
    "optimizer_s": "updates",
    "step_rest_s": "the rest",
}


def describe_steps(header: Mapping[str, Any], final: Mapping[str, float | None]) -> list[str]:
    """Sentences on phases, a traced step and communication; none of what is missing.

    Example:
        >>> describe_steps({}, {"train_s": 10.0, "forward_s": 3.0, "backward_s": 6.0, "optimizer_s": 0.5,
        ...     "step_rest_s": 0.5})
        ['training of 10 s: forward passes 30 %, backward passes 60 %, updates 5 %, the rest 5 %']
        >>> describe_steps({"trace": {"windows": 1, "steps": 3, "step_s": 0.01, "idle_s": 0.001, "clock": "device",
        ...     "by_category_s": {"matrix products": 0.008}}}, {})
        ['a step of 10 ms (3 traced): matrix products 80 %, device idle 10 %']
        >>> describe_steps({"communication": [{"kind": "all_reduce", "group": "default_pg", "ranks": 2, "calls": 8,
        ...     "bytes": 4096}]}, {})
        ['communication of rank 0: all_reduce among 2 ranks (default_pg) 4.00 KiB in 8 calls']
    """
    return [*_phases(header, final), *_traced(header, final), *_communication(header)]


def _share(part_s: float, whole_s: float) -> str:
    return f"{100 * part_s / whole_s:.0f} %"


def _phases(header: Mapping[str, Any], final: Mapping[str, float | None]) -> list[str]:
    train_s = final.get("train_s")
    found = {word: seconds for name, word in _PHASES.items() if (seconds := final.get(name)) is not None}
    if not train_s or len(found) < len(_PHASES):
        return []
    shares = ", ".join(f"{word} {_share(seconds, train_s)}" for word, seconds in found.items())
    counting_s = (header.get("census") or {}).get("took_s") or 0.0
    if counting_s >= _LEAST_COUNTING * train_s:  # in phases if the counted step was timed, else in the rest
        shares += f"; {_share(counting_s, train_s)} of it is what counted steps took beyond others"
    return [f"training of {format_amount(train_s, 's')}: {shares}"]


def _traced(header: Mapping[str, Any], final: Mapping[str, float | None]) -> list[str]:
    traced: Mapping[str, Any] = header.get("trace") or {}
    step_s = traced.get("step_s")
    if not step_s:
        return []
    parts = [f"{name} {_share(seconds, step_s)}" for name, seconds in list(traced["by_category_s"].items())[:_MOST]]
    parts.append(
        f"{'device idle' if traced['clock'] == 'device' else 'outside of operators'} {_share(traced['idle_s'], step_s)}"
    )
    if (exposed_s := final.get("exposed_comm_s")) is not None and final.get("comm_s"):
        comm, exposed = (amount_of(header, name, final.get(name), "s") for name in ("comm_s", "exposed_comm_s"))
        parts.append(
            f"of communication ({comm} in all steps) {exposed} exposed" if exposed_s else "communication hidden"
        )
    if launched := final.get("launch_bound_fraction"):
        parts.append(f"waiting for launches {100 * launched:.0f} %")
    return [f"a step of {format_amount(step_s, 's')} ({traced['steps']} traced): {', '.join(parts)}"]


def _communication(header: Mapping[str, Any]) -> list[str]:
    made = header.get("communication") or ()
    parts = [
        f"{one['kind']} among {one['ranks']} ranks ({one['group']}) {format_amount(one['bytes'], 'bytes')} "
        f"in {one['calls']:,} calls"
        for one in made[:_MOST]
    ]
    return [f"communication of rank 0: {'; '.join(parts)}"] if parts else []

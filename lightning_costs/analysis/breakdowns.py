"""Costs that are parts of one thing: time by account, memory and energy by kind, step times, waiting, money."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lightning_costs.analysis.schema import Breakdown, Declaration, RunRow


class _Theme(NamedTuple):
    title: str
    columns: tuple[str, ...]
    parts: bool = False
    total: str | None = None


#: What belongs together. Parts are disjoint and may be stacked; `total` is what they add up to.
_THEMES = {
    "time": _Theme(
        "Where the time went", ("train_s", "evaluate_s", "checkpoint_s", "other_s", "setup_s"), True, "total_s"
    ),
    "phases": _Theme("Where training time went", ("forward_s", "backward_s", "optimizer_s", "step_rest_s"), True),
    "memory": _Theme(
        "Memory by kind, each at its most",
        ("param_bytes", "grad_bytes", "master_bytes", "opt_state_bytes", "activation_bytes"),
        True,
    ),
    "peaks": _Theme(
        "Memory at most",
        (
            "peak_forward_bytes",
            "peak_backward_bytes",
            "peak_optimizer_bytes",
            "opt_peak_bytes",
            "peak_mem_bytes",
            "reserved_bytes",
            "host_rss_bytes",
        ),
    ),
    "steps": _Theme("Step times of the last window", ("step_p50_s", "step_p95_s", "step_max_s")),
    "waiting": _Theme(
        "Device seconds without work",
        ("idle_s", "idle_data_s", "h2d_device_s", "bubble_s", "data_wait_s", "h2d_s", "timed_s"),
    ),
    "waiting_share": _Theme(
        "Share of device time without work",
        ("idle_fraction", "rank_max_idle_fraction", "bubble_fraction", "bubble_theory_fraction"),
    ),
    "energy": _Theme("Energy by component", ("gpu_energy_j", "cpu_energy_j", "ram_energy_j"), True, "energy_j"),
    "energy_by_account": _Theme(
        "Energy by account",
        ("train_energy_j", "evaluate_energy_j", "checkpoint_energy_j", "other_energy_j", "setup_energy_j"),
        True,
        "energy_j",
    ),
    "money": _Theme("Money, never added up", ("cloud_usd", "electricity_usd")),
    "lost": _Theme(
        "Goodput: training that was kept, and seconds that taught nothing",
        ("productive_s", "lost_s", "down_s", "queue_s", "restore_s", "compile_s", "slow_s"),
    ),
}
#: Steps of the ladder of utilisation: each is at most the one before, but for what they count differently.
_LADDER = ("busy_fraction", "sm_active_fraction", "tensor_active_fraction", "hfu_fraction", "mfu_fraction")
_AT_PEAK = ("param_bytes", "grad_bytes", "opt_state_bytes", "activation_bytes", "other_bytes")


def cost_breakdowns(runs: Sequence[RunRow], declared: Mapping[str, Declaration]) -> dict[str, Breakdown]:
    """Theme to its columns that some run has a reading of; themes without one are absent.

    `memory_at_peak` splits the moment of a counted step when most was held (a run's header has it): unlike the
    columns of `memory`, which are each at their own most, its parts were held at once and add up. `utilization` is the
    ladder from a device that is not idle to model FLOPs; a run without a device's events and counters is not on it.
    """
    found: dict[str, Breakdown] = {}
    for key, theme in _THEMES.items():
        columns = [
            name
            for name in theme.columns
            if name in declared and any(run["final"].get(name) is not None for run in runs)
        ]
        if columns:
            found[key] = {
                "title": theme.title,
                "unit": declared[columns[0]]["unit"],
                "columns": columns,
                "parts": theme.parts,
                "total": theme.total if theme.total in declared else None,
                "amounts": {run["label"]: {name: run["final"].get(name) for name in columns} for run in runs},
            }
    ladder = {run["label"]: {"busy_fraction": _busy(run), **run["final"]} for run in runs}
    steps = [name for name in _LADDER if any(row.get(name) is not None for row in ladder.values())]
    if len(steps) > 1 and steps[0] != "hfu_fraction":
        found["utilization"] = {
            "title": "How much of the device was used",
            "unit": "fraction",
            "columns": steps,
            "parts": False,
            "total": None,
            "amounts": {label: {name: row.get(name) for name in steps} for label, row in ladder.items()},
        }
    at_peak = {run["label"]: run["about"].get("memory_at_peak") or {} for run in runs}
    if any(at_peak.values()):
        found["memory_at_peak"] = {
            "title": "Memory at the peak of a step",
            "unit": "bytes",
            "columns": list(_AT_PEAK),
            "parts": True,
            "total": None,
            "amounts": {label: {name: kinds.get(name) for name in _AT_PEAK} for label, kinds in at_peak.items()},
        }
    return found


def _busy(run: RunRow) -> float | None:
    """Share of the device's time in which it was not idle between steps: an upper bound, as idle is a lower one."""
    idle_s, timed_s = run["final"].get("idle_s"), run["final"].get("timed_s")
    return None if idle_s is None or not timed_s else max(0.0, 1 - idle_s / timed_s)

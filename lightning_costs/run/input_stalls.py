"""Whether training waited for its data, in words, from a run's setup and final costs alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_costs.records.formatting import format_amount

#: Shares of waiting for input from which a run is moderately and highly input-bound: TensorFlow's profiler (2026-11),
#: op_stats_to_input_pipeline_analysis.cc, kModeratelyInfeedBoundThresholdInPercent = 5 and
#: kHighlyInfeedBoundThresholdInPercent = 20.
MODERATELY, HIGHLY = 0.05, 0.20
#: Share of other idle from which it is worth a word: kModeratelyAllOtherBoundThresholdInPercent = 3, ibid., where
#: Python, too, is named as its likely cause.
OTHER = 0.03
#: Device seconds (on a CPU, training seconds) below which no sentence is written.
LEAST_S = 0.1


def describe_input_stalls(setup: Mapping[str, Any], final: Mapping[str, float | None]) -> list[str]:
    """Sentences: input-bound or not, what else the device idled for, what copying took; none of what is missing.

    If a CUDA device trained, its events show the stall. On a CPU nothing is queued, so the host's wait is the stall.

    Example:
        >>> describe_input_stalls({"device": "cuda"}, {"idle_s": 16.4, "idle_data_s": 12.1, "timed_s": 35.6})
        ['input-bound 34 %: the device waited 12.1 s of 35.6 s for batches',
         'idle at least 12 % beside that: the host launched too late (Python between steps)']
        >>> describe_input_stalls({"device": "cpu"}, {"data_wait_s": 0.2, "train_s": 20.0})
        ['not input-bound: training waited 200 ms of 20 s for batches']
    """
    if setup.get("device") == "cpu":
        return _of_cpu(final.get("data_wait_s"), final.get("train_s"))
    idle_s, data_s, timed_s = (final.get(name) for name in ("idle_s", "idle_data_s", "timed_s"))
    if idle_s is None or data_s is None or timed_s is None or timed_s < LEAST_S:
        return []
    reads_back = _reads_back(setup)
    data, other = data_s / timed_s, (idle_s - data_s) / timed_s
    if reads_back and data >= MODERATELY:
        sentences = [
            f"idle {_percent(data)} while batches were waited for, {format_amount(data_s, 's')} of "
            f"{format_amount(timed_s, 's')}, and "
            "not for the loader alone: between several processes Lightning reads a signal back before each batch "
            "(lightning#21487), so that no loading is hidden behind queued work"
        ]
    else:
        who = "the device" if setup.get("devices") in (None, 1) else "the devices"
        sentences = [
            f"{_bound(data)}: {who} waited {format_amount(data_s, 's')} of {format_amount(timed_s, 's')} for batches"
        ]
    if other >= OTHER:
        causes = "Python between steps" + (", and that signal (lightning#21487)" if reads_back else "")
        sentences.append(f"idle at least {_percent(other)} beside that: the host launched too late ({causes})")
    copied_s = final.get("h2d_device_s")
    if copied_s is not None and copied_s >= MODERATELY * timed_s:
        sentences.append(
            f"copying batches took {_percent(copied_s / timed_s)} beside that: pin_memory=True may shorten it"
        )
    return sentences


def _of_cpu(wait_s: float | None, train_s: float | None) -> list[str]:
    if wait_s is None or train_s is None or train_s < LEAST_S:
        return []
    return [
        f"{_bound(wait_s / train_s)}: training waited {format_amount(wait_s, 's')} of {format_amount(train_s, 's')} "
        "for batches"
    ]


def _reads_back(setup: Mapping[str, Any]) -> bool:
    """Whether Lightning ran the loop in several processes, and is one that reads a signal back: 2.6.0 or later."""
    if setup.get("processes") in (None, 1) or "strategy" not in setup:
        return False
    software: Mapping[str, Any] = setup.get("software") or {}
    for package in ("lightning", "pytorch-lightning"):
        version = setup.get(f"software.{package}") or software.get(package)
        if isinstance(version, str):
            return [int(part) if part.isdigit() else 0 for part in version.split(".")[:2]] >= [2, 6]
    return False


def _bound(share: float) -> str:
    if share < MODERATELY:
        return "not input-bound"
    return f"{'' if share >= HIGHLY else 'moderately '}input-bound {_percent(share)}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"

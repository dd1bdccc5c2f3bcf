"""The field's definitions of goodput, each with the source of its formula, computed of one run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_costs.records.samples import Amount
from lightning_costs.run.kept import kept_of

UNKNOWN_LOST = "what the run's restarts lost is unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """One definition of goodput: seconds that count over seconds in all.

    Args:
        name: Key of `DEFINITIONS`.
        label: For people.
        formula: In words.
        source: Where the formula is from.
        good_s: What counts; None if it is unknown.
        of_s: In all.
        missing: Why the fraction is missing; empty if it is there.
    """

    name: str
    label: str
    formula: str
    source: str
    good_s: Amount
    of_s: Amount
    missing: str = ""

    @property
    def fraction(self) -> Amount:
        """Share of what counts."""
        return self.good_s / self.of_s if self.good_s is not None and self.of_s else None


#: Name to label, formula and source.
DEFINITIONS: Mapping[str, tuple[str, str, str]] = {
    "lightning_costs": (
        "goodput (ours)",
        "kept training without waiting for data, idle, compiling and slow steps / wall clock",
        "docs/goodput.md",
    ),
    "google": (
        "goodput (Google)",
        "kept training without the excess of first steps / wall clock; evaluations, checkpoints and what else "
        "interrupts training are badput (custom events)",
        "ml-goodput-measurement 0.2.3, goodput.py, _compute_segment_final_metrics",
    ),
    "nvidia": (
        "productive iterations (NVIDIA)",
        "training and validation that a checkpoint holds / wall clock; the library reports seconds only",
        "nv-one-logger 2.3.1, productive_train_iterations_sec and productive_validation_iterations_sec",
    ),
    "ettr": (
        "ETTR (Meta)",
        "kept training / wall clock and time in the queue",
        "arXiv 2410.21680, effective training time ratio",
    ),
    "runtime": (
        "runtime goodput (Google)",
        "kept training / time in which the run had its machines",
        "arXiv 2502.06982, runtime goodput",
    ),
    "program_mfu": (
        "ML productivity goodput by MFU",
        "kept training x MFU / wall clock and time in the queue (scheduling x runtime x program goodput)",
        "arXiv 2502.06982; MFU: arXiv 2204.02311, appendix B",
    ),
    "program_ofu": (
        "ML productivity goodput by OFU",
        "kept training x OFU / wall clock and time in the queue (scheduling x runtime x program goodput)",
        "arXiv 2502.06982; OFU: arXiv 2605.20799",
    ),
    "trainmeter": (
        "goodput (trainmeter)",
        "training, waits and lost work in it / time since training began, attempts added up",
        "trainmeter 0.0.7, (compute + data wait) / elapsed",
    ),
}


def definitions_of(
    header: Mapping[str, Any],
    final: Mapping[str, Amount],
    lost: Mapping[str, Amount] | None,
    wall_s: Amount,
    queued: Sequence[Amount],
    productive_s: Amount,
    no_wall: str,
) -> tuple[Definition, ...]:
    """Every definition, for one run."""
    missing: Mapping[str, str] = header.get("missing") or {}
    train_s, total_s = kept_of(final, lost, "train_s"), final.get("total_s")
    no_train = "" if train_s is not None else (missing.get("train_s") or UNKNOWN_LOST)
    before_s = queued[0] if queued else None
    with_queue_s = None if wall_s is None or before_s is None or None in queued else wall_s + before_s
    no_queue = no_wall or (
        "" if with_queue_s is not None else missing.get("queue_s", "the time in the queue is unknown")
    )
    saved_s, no_saves = _saved_s(header)
    excess_s, no_first = _first_excess_s(header, final, lost, train_s)
    trained_s, setup_s = final.get("train_s"), final.get("setup_s")
    since_s = None if total_s is None or setup_s is None else total_s - setup_s
    found: dict[str, tuple[Amount, Amount, str]] = {
        "lightning_costs": (productive_s, wall_s, no_train or no_wall),
        "google": (None if excess_s is None or train_s is None else train_s - excess_s, wall_s, no_train or no_first),
        "nvidia": (saved_s, wall_s, no_saves),
        "ettr": (train_s, with_queue_s, no_train or no_queue),
        "runtime": (train_s, total_s, no_train),
        "trainmeter": (trained_s, since_s, "the run did not measure train_s or setup_s"),
    }
    for name, column in (("program_mfu", "mfu_fraction"), ("program_ofu", "ofu_fraction")):
        share = final.get(column)
        why = "" if share is not None else missing.get(column, f"the run did not measure {column}")
        good_s = None if share is None or train_s is None else train_s * share
        found[name] = (good_s, with_queue_s, no_train or why or no_queue)
    definitions = []
    for name, (label, formula, source) in DEFINITIONS.items():
        good_s, of_s, why = found[name]
        lacks = good_s is None or not of_s
        definitions.append(
            Definition(
                name=name,
                label=label,
                formula=formula,
                source=source,
                good_s=good_s,
                of_s=of_s,
                missing=(why or no_wall or "the run lasted no time") if lacks else "",
            )
        )
    return tuple(definitions)


def _saved_s(header: Mapping[str, Any]) -> tuple[Amount, str]:
    """Training and validation that the newest checkpoint which led here holds."""
    saves = header.get("saves")
    if saves is None:
        whether = "no checkpoint was written, or the run was recorded before it was noted what one holds"
        return None, whether
    train_s, evaluate_s = saves.get("train_s"), saves.get("evaluate_s")
    return (None, UNKNOWN_LOST) if train_s is None else (train_s + (evaluate_s or 0.0), "")


def _first_excess_s(
    header: Mapping[str, Any], final: Mapping[str, Amount], lost: Mapping[str, Amount] | None, train_s: Amount
) -> tuple[Amount, str]:
    """What first steps of the attempts that led here took beyond the mean of the others."""
    attempts: Sequence[Mapping[str, Any]] = header.get("attempts") or ()
    lineage: Sequence[Sequence[int | None]] = header.get("lineage") or [[0, None]]
    ours = [
        attempt
        for attempt in attempts
        if len(attempts) == 1
        or any((first or 0) <= attempt.get("row", 0) < (end or math.inf) for first, end in lineage)
    ]
    firsts = [attempt.get("first_batch_s") for attempt in ours]
    known = [float(first) for first in firsts if first is not None]
    if not firsts or len(known) < len(firsts):
        return None, "the run was recorded before first batches were timed"
    steps = kept_of(final, lost, "steps")
    if steps is None or train_s is None:
        return None, UNKNOWN_LOST
    if steps <= len(known):
        return 0.0, ""
    mean_s = (train_s - sum(known)) / (steps - len(known))
    return sum(max(0.0, first - mean_s) for first in known), ""

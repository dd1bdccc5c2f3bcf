"""Goodput: the wall clock of a run over its attempts in buckets, what each cost, and the definitions side by side.

Every second from the first attempt's start to the last one's end is in one bucket. The field has at least five
definitions of what is left after the losses; each of them is a sum over these buckets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightning_costs.records.samples import Amount
from lightning_costs.run.attempts import NO_START, disruptions, seconds_of
from lightning_costs.run.kept import badput_of_training, kept_of, lost_of

UNKNOWN_LOST = "what the run's restarts lost is unknown"
ACCOUNTS = ("setup", "train", "evaluate", "checkpoint", "other")
#: Buckets, with what people call them.
BUCKETS = {
    "productive": "productive training",
    "data_wait": "waiting for data",
    "device_idle": "device idle",
    "compile": "compiling",
    "slow_steps": "slow steps",
    "lost": "lost to restarts",
    "setup": "start-up",
    "restore": "restoring checkpoints",
    "evaluate": "evaluation",
    "checkpoint": "saving checkpoints",
    "other": "other",
    "down": "down between attempts",
    "queue": "queue between attempts",
}
_OUTSIDE = "nobody measured while no process of the run was there, and whether the machine was paid for is unknown"
_SHARED = "by its share of the account's time: a mean power, which waiting seldom draws"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A part of the wall clock, and what it cost.

    Args:
        name: Key of `BUCKETS`.
        label: For people.
        s: Seconds; None if they are unknown.
        energy_j: Joules; `co2e_g` grams and `cloud_usd` dollars. None where unknown.
        how: How the joules were split, or why something is missing.
    """

    name: str
    label: str
    s: Amount
    energy_j: Amount = None
    co2e_g: Amount = None
    cloud_usd: Amount = None
    how: str = ""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodput:
    """A run's or a project's.

    Args:
        wall_s: From the first attempt's start to the last one's end, as the buckets have it; of a project summed.
        clock_s: The same by the attempts' own stamps of start and end; None without them.
        queue_s: In the queue, before the first attempt too; None if nobody told.
        disruptions: How often it broke off and began again.
        buckets: The parts of the wall clock.
        lost_s: Lost seconds by account.
        definitions: Side by side.
        unknown_runs: Of a project: runs whose wall clock is unknown, which are in no sum.
    """

    wall_s: Amount
    clock_s: Amount
    queue_s: Amount
    disruptions: int
    buckets: tuple[Bucket, ...]
    lost_s: Mapping[str, float]
    definitions: tuple[Definition, ...]
    unknown_runs: int = 0

    @property
    def productive_s(self) -> Amount:
        """Seconds of productive training."""
        return self.bucket("productive").s

    @property
    def goodput_fraction(self) -> Amount:
        """Share of productive training in the wall clock."""
        return self.definitions[0].fraction

    def bucket(self, name: str) -> Bucket:
        """The bucket of this name."""
        return next(bucket for bucket in self.buckets if bucket.name == name)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with the fractions."""
        definitions = [{**asdict(each), "fraction": each.fraction} for each in self.definitions]
        told = {"productive_s": self.productive_s, "goodput_fraction": self.goodput_fraction}
        return {**asdict(self), **told, "buckets": [asdict(each) for each in self.buckets], "definitions": definitions}


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
        "training and validation that a checkpoint holds / wall clock; the library tells the seconds alone",
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


def goodput(header: Mapping[str, Any], final: Mapping[str, Amount]) -> Goodput:
    """The goodput of a run, by its header and what it had come to.

    Example:
        >>> found = goodput({"attempts": [{}]}, {"total_s": 10.0, "setup_s": 2.0, "train_s": 8.0, "data_wait_s": 3.0})
        >>> found.goodput_fraction, found.bucket("data_wait").s, found.bucket("setup").s
        (0.5, 3.0, 2.0)
    """
    attempts: Sequence[Mapping[str, Any]] = header.get("attempts") or ()
    missing: Mapping[str, str] = header.get("missing") or {}
    lost = lost_of(header)
    down_s, no_down = final.get("down_s"), ""
    if down_s is None:
        if len(attempts) < 2:
            down_s = 0.0
        else:
            no_down = missing.get("down_s", NO_START)
    total_s = final.get("total_s")
    wall_s = None if total_s is None or down_s is None else total_s + down_s
    queued = [attempt.get("queue_s") for attempt in attempts]
    between_s = min(math.fsum(s for s in queued[1:] if s is not None), down_s or 0.0)
    buckets = _buckets(final, lost, down_s, between_s, no_down)
    no_wall = no_down or ("" if total_s is not None else missing.get("total_s", "the run did not measure total_s"))
    return Goodput(
        wall_s=wall_s,
        clock_s=_clock_s(attempts),
        queue_s=final.get("queue_s"),
        disruptions=disruptions(attempts),
        buckets=buckets,
        lost_s=_lost_by_account(lost),
        definitions=_definitions(header, final, lost, wall_s, queued, buckets[0].s, no_wall),
    )


def _clock_s(attempts: Sequence[Mapping[str, Any]]) -> Amount:
    """From the first attempt's start to the last one's end, by their stamps."""
    if not attempts:
        return None
    started_s, ended_s = seconds_of(attempts[0].get("started")), seconds_of(attempts[-1].get("ended"))
    return None if started_s is None or ended_s is None else ended_s - started_s


def _lost_by_account(lost: Mapping[str, Amount] | None) -> dict[str, float]:
    found = {account: (lost or {}).get(f"{account}_s") for account in ACCOUNTS}
    return {account: seconds for account, seconds in found.items() if seconds}


def _buckets(
    final: Mapping[str, Amount], lost: Mapping[str, Amount] | None, down_s: Amount, between_s: float, no_down: str
) -> tuple[Bucket, ...]:
    def kept(name: str) -> Amount:
        return kept_of(final, lost, name)

    lacks = UNKNOWN_LOST if lost is None or lost.get("total_s", 0.0) is None else "the run did not measure it"
    seconds: dict[str, Amount] = {account: kept(f"{account}_s") for account in ACCOUNTS}
    energy: dict[str, Amount] = {account: kept(f"{account}_energy_j") for account in ACCOUNTS}
    how: dict[str, str] = {}
    _split(seconds, energy, how, "train", badput_of_training(final, lost), rest="productive")
    restore_s = kept("restore_s") if final.get("restore_s") is not None else None
    _split(seconds, energy, how, "setup", {"restore": restore_s}, rest="setup")
    if restore_s is None:
        how["restore"] = "not measured apart: it is in start-up"
    seconds["lost"] = None if lost is None else lost.get("total_s", 0.0)
    energy["lost"] = None if lost is None or final.get("energy_j") is None else lost.get("energy_j", 0.0)
    seconds["down"] = None if down_s is None else down_s - between_s
    seconds["queue"] = between_s
    how |= {"down": no_down or _OUTSIDE, "queue": _OUTSIDE}
    grams, dollars = _priced(final, lost, seconds, energy)
    return tuple(
        Bucket(
            name=name,
            label=label,
            s=seconds.get(name),
            energy_j=energy.get(name),
            co2e_g=grams.get(name),
            cloud_usd=dollars.get(name),
            how=how.get(name, lacks if seconds.get(name) is None else ""),
        )
        for name, label in BUCKETS.items()
    )


def _split(
    seconds: dict[str, Amount],
    energy: dict[str, Amount],
    how: dict[str, str],
    account: str,
    parts: Mapping[str, Amount],
    *,
    rest: str,
) -> None:
    """Take parts off an account: seconds as they are, joules by their share of its time."""
    whole_s, whole_j = seconds.pop(account), energy.pop(account)
    left_s = whole_s
    for name, part_s in parts.items():
        if whole_s is None or part_s is None:
            seconds[name] = energy[name] = None
            continue
        seconds[name] = part_s = min(max(0.0, part_s), whole_s)
        left_s = (left_s or 0.0) - part_s
        energy[name] = None if whole_j is None else (whole_j * part_s / whole_s if whole_s else 0.0)
        if part_s:
            how[name] = _SHARED
    seconds[rest] = None if left_s is None else max(0.0, left_s)
    energy[rest] = whole_j
    if whole_j is not None and whole_s:
        energy[rest] = whole_j * (left_s or 0.0) / whole_s


def _priced(
    final: Mapping[str, Amount],
    lost: Mapping[str, Amount] | None,
    seconds: Mapping[str, Amount],
    energy: Mapping[str, Amount],
) -> tuple[dict[str, Amount], dict[str, Amount]]:
    """Grams and dollars of the buckets: those of lost work are recorded; the rest by its joules, and by its seconds."""
    priced = []
    for column, weights in (("co2e_g", energy), ("cloud_usd", seconds)):
        inside = {name: weights.get(name) for name in BUCKETS if name not in ("lost", "down", "queue")}
        whole, found = kept_of(final, lost, column), dict.fromkeys(BUCKETS, None)
        amounts: dict[str, Amount] = {**found}
        weight = math.fsum(amount for amount in inside.values() if amount is not None)
        if whole is not None and weight > 0:
            amounts |= {n: None if amount is None else whole * amount / weight for n, amount in inside.items()}
        if lost is not None and final.get(column) is not None:
            amounts["lost"] = lost.get(column, 0.0)
        priced.append(amounts)
    return priced[0], priced[1]


def _definitions(
    header: Mapping[str, Any],
    final: Mapping[str, Amount],
    lost: Mapping[str, Amount] | None,
    wall_s: Amount,
    queued: Sequence[Amount],
    productive_s: Amount,
    no_wall: str,
) -> tuple[Definition, ...]:
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
    told = []
    for name, (label, formula, source) in DEFINITIONS.items():
        good_s, of_s, why = found[name]
        lacks = good_s is None or not of_s
        told.append(
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
    return tuple(told)


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
    mean_s = (train_s - math.fsum(known)) / (steps - len(known))
    return math.fsum(max(0.0, first - mean_s) for first in known), ""


def goodput_of_project(runs: Iterable[Goodput]) -> Goodput:
    """The goodput of several runs: sums over those whose wall clock is known; a definition over those that know it.

    Example:
        >>> one = goodput({"attempts": [{}]}, {"total_s": 10.0, "train_s": 5.0, "setup_s": 5.0})
        >>> round(goodput_of_project([one, one]).goodput_fraction, 3), goodput_of_project([one, one]).wall_s
        (0.5, 20.0)
    """
    everyone = list(runs)
    known = [run for run in everyone if run.wall_s is not None]

    def added(amounts: Iterable[Amount]) -> Amount:
        found = [amount for amount in amounts if amount is not None]
        return math.fsum(found) if found else None

    buckets = []
    for name, label in BUCKETS.items():
        those = [run.bucket(name) for run in known]
        units = ("s", "energy_j", "co2e_g", "cloud_usd")
        sums = {unit: added(getattr(bucket, unit) for bucket in those) for unit in units}
        lacking = sum(bucket.s is None for bucket in those)
        how = f"{lacking} runs do not know it" if lacking else next((b.how for b in those if b.how), "")
        buckets.append(Bucket(name=name, label=label, how=how, **sums))
    definitions = []
    for at, (name, (label, formula, source)) in enumerate(DEFINITIONS.items()):
        each = [run.definitions[at] for run in known]
        told = [one for one in each if one.fraction is not None]
        missing = "" if told else next((one.missing for one in each), "no run's wall clock is known")
        definitions.append(
            Definition(
                name=name,
                label=label if len(told) == len(each) else f"{label}, of {len(told)} of {len(each)} runs",
                formula=formula,
                source=source,
                good_s=added(one.good_s for one in told),
                of_s=added(one.of_s for one in told),
                missing=missing,
            )
        )
    accounts = {a: added(run.lost_s.get(a) for run in known) for a in ACCOUNTS}
    return Goodput(
        wall_s=added(run.wall_s for run in known),
        clock_s=added(run.clock_s for run in known),
        queue_s=added(run.queue_s for run in known),
        disruptions=sum(run.disruptions for run in everyone),
        buckets=tuple(buckets),
        lost_s={account: seconds for account, seconds in accounts.items() if seconds},
        definitions=tuple(definitions),
        unknown_runs=len(everyone) - len(known),
    )

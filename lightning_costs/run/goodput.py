"""Goodput: the wall clock of a run over its attempts in buckets, what each cost, and the definitions side by side.

Every second from the first attempt's start to the last one's end is in one bucket. The field has at least five
definitions of what is left after the losses; each of them is a sum over these buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lightning_costs.records.formatting import format_amount
from lightning_costs.records.samples import Amount
from lightning_costs.records.time_buckets import STARTUP
from lightning_costs.run.attempts import NO_START, disruptions, first_start_s, seconds_of
from lightning_costs.run.goodput_definitions import DEFINITIONS, UNKNOWN_LOST, Definition, definitions_of
from lightning_costs.run.kept import badput_of_training, kept_of, lost_of

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
_OUTSIDE = "nothing was measured while no process of the run existed, and whether the machine was paid for is unknown"
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
class Goodput:
    """A run's or a project's.

    Args:
        wall_s: From the first attempt's start to the last one's end, as the buckets have it; of a project summed.
        clock_s: The same by the attempts' own stamps of start and end; None without them.
        queue_s: In the queue, before the first attempt too; None if unknown.
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
        shares = {"productive_s": self.productive_s, "goodput_fraction": self.goodput_fraction}
        return {
            **asdict(self),
            **shares,
            "buckets": [asdict(each) for each in self.buckets],
            "definitions": definitions,
        }


def goodput(header: Mapping[str, Any], final: Mapping[str, Amount]) -> Goodput:
    """The goodput of a run, by its header and its totals.

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
    between_s = min(sum(s for s in queued[1:] if s is not None), down_s or 0.0)
    buckets = _buckets(final, lost, down_s, between_s, no_down, attempts)
    no_wall = no_down or ("" if total_s is not None else missing.get("total_s", "the run did not measure total_s"))
    return Goodput(
        wall_s=wall_s,
        clock_s=_clock_s(attempts),
        queue_s=final.get("queue_s"),
        disruptions=disruptions(attempts),
        buckets=buckets,
        lost_s=_lost_by_account(lost),
        definitions=definitions_of(header, final, lost, wall_s, queued, buckets[0].s, no_wall),
    )


def _clock_s(attempts: Sequence[Mapping[str, Any]]) -> Amount:
    """From the first attempt's start to the last one's end, by their stamps."""
    if not attempts:
        return None
    started_s, ended_s = first_start_s(attempts), seconds_of(attempts[-1].get("ended"))
    return None if started_s is None or ended_s is None else ended_s - started_s


def _lost_by_account(lost: Mapping[str, Amount] | None) -> dict[str, float]:
    found = {account: (lost or {}).get(f"{account}_s") for account in ACCOUNTS}
    return {account: seconds for account, seconds in found.items() if seconds}


def _buckets(
    final: Mapping[str, Amount],
    lost: Mapping[str, Amount] | None,
    down_s: Amount,
    between_s: float,
    no_down: str,
    attempts: Sequence[Mapping[str, Any]],
) -> tuple[Bucket, ...]:
    def kept(name: str) -> Amount:
        return kept_of(final, lost, name)

    lacks = UNKNOWN_LOST if lost is None or lost.get("total_s", 0.0) is None else "the run did not measure it"
    seconds: dict[str, Amount] = {account: kept(f"{account}_s") for account in ACCOUNTS}
    energy: dict[str, Amount] = {account: kept(f"{account}_energy_j") for account in ACCOUNTS}
    how: dict[str, str] = {}
    _split(seconds, energy, how, "train", badput_of_training(final, lost), rest="productive")
    how["setup"] = _startup(attempts)
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


def _startup(attempts: Sequence[Mapping[str, Any]]) -> str:
    """What the start-up of all attempts was made of, in words; empty if one of them did not record it."""
    parts: list[Mapping[str, float]] = [attempt.get("startup_s") or {} for attempt in attempts]
    if not attempts or not all(parts):
        return ""
    sums = {label: sum(each.get(name) or 0.0 for each in parts) for name, label in STARTUP.items()}
    words = [f"{label} {format_amount(seconds, 's')}" for label, seconds in sums.items() if seconds]
    waited_s = sum(float(attempt.get("first_wait_s") or 0.0) for attempt in attempts)
    after = f"; then {format_amount(waited_s, 's')} of training until the first batch's work" if waited_s else ""
    unmetered_s = sum(attempt.get("unmetered_s") or 0.0 for attempt in attempts)
    after += f"; {format_amount(unmetered_s, 's')} of it before energy was metered" if unmetered_s else ""
    return ", ".join(words) + (" over all attempts" if len(attempts) > 1 else "") + after


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
        weight = sum(amount for amount in inside.values() if amount is not None)
        if whole is not None and weight > 0:
            amounts |= {n: None if amount is None else whole * amount / weight for n, amount in inside.items()}
        if lost is not None and final.get(column) is not None:
            amounts["lost"] = lost.get(column, 0.0)
        priced.append(amounts)
    return priced[0], priced[1]


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
        return sum(found) if found else None

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
        informed = [one for one in each if one.fraction is not None]
        missing = "" if informed else next((one.missing for one in each), "no run's wall clock is known")
        definitions.append(
            Definition(
                name=name,
                label=label if len(informed) == len(each) else f"{label}, of {len(informed)} of {len(each)} runs",
                formula=formula,
                source=source,
                good_s=added(one.good_s for one in informed),
                of_s=added(one.of_s for one in informed),
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

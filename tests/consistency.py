"""Relations that hold between the numbers of any run, at every point of it: what `disagreements` finds is a bug."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.ledger import LOST
from lightning_costs.run.goodput import goodput
from lightning_costs.run.record import RunRecord

Costs = Mapping[str, Any]

#: A total, and the parts that add up to it.
SUMS = {
    "total_s": ("setup_s", "train_s", "evaluate_s", "checkpoint_s", "other_s"),
    "run_s": ("train_s", "evaluate_s", "checkpoint_s", "other_s"),
    "energy_j": ("gpu_energy_j", "cpu_energy_j", "ram_energy_j"),
    "stage_step_s": ("stage_busy_s", "bubble_s"),
}
ACCOUNTS_J = tuple(f"{account}_energy_j" for account in ("setup", "train", "evaluate", "checkpoint", "other"))
#: A whole, and parts that it contains, together.
WITHIN = [
    ("setup_s", ("restore_s",)),
    ("train_s", ("data_wait_s", "h2d_s")),
    ("train_s", ("steady_s",)),
    ("train_s", ("compile_s",)),
    ("train_s", ("productive_s",)),
    ("train_s", ("straggler_s",)),
    ("total_s", ("overhead_s",)),
    ("timed_s", ("idle_s", "h2d_device_s")),
    ("idle_s", ("idle_data_s", "idle_hooks_s")),
    ("bubble_s", ("stage_outside_s",)),
    ("comm_s", ("exposed_comm_s",)),
    ("activity_s", ("sm_active_s",)),
    ("activity_s", ("tensor_active_s",)),
    ("activity_s", ("dram_active_s",)),
    ("tensor_active_s", ("tensor_peak_s",)),
    ("device_s", ("node_s",)),
    ("device_s", ("timed_s",)),
    ("samples", ("steady_samples",)),
    ("tokens", ("steady_tokens",)),
    ("flop", ("model_flop",)),
    ("flop", ("mac", "mac")),
    ("flop", ("steady_flop",)),
    ("model_flop", ("steady_model_flop",)),
    ("steady_flop", ("steady_model_flop",)),
    ("batches", ("steps",)),
    ("optimizer_steps", ("steps",)),
    ("opt_peak_bytes", ("opt_state_bytes",)),
    ("reserved_bytes", ("peak_mem_bytes",)),
    ("hfu_fraction", ("mfu_fraction",)),
    ("step_p95_s", ("step_p50_s",)),
    ("step_max_s", ("step_p95_s",)),
    ("rank_max_data_wait_s", ("data_wait_s",)),
    ("rank_max_h2d_s", ("h2d_s",)),
    ("params", ("trainable_params",)),
    ("params", ("nonzero_params",)),
    ("params", ("embedding_params",)),
    ("params", ("shared_params",)),
    ("infer_latency_p95_s", ("infer_latency_p50_s",)),
    *((whole, (part,)) for part, whole in LOST.items()),
    *(
        (name, (f"rank_max_{name}",))
        for name in ("param_bytes", "grad_bytes", "master_bytes", "opt_state_bytes", "opt_peak_bytes")
    ),
]
#: A gauge of a window, what it divides, and by what.
RATES = {
    "samples_per_s": ("steady_samples", "steady_s"),
    "tokens_per_s": ("steady_tokens", "steady_s"),
    "flop_per_s": ("steady_flop", "steady_s"),
    "idle_fraction": ("idle_s", "timed_s"),
    "bubble_fraction": ("bubble_s", "stage_step_s"),
}
#: A gauge of the run so far, likewise.
RATIOS = {"sample_energy_j": ("train_energy_j", "samples"), "token_energy_j": ("train_energy_j", "tokens")}
PHASES = ("forward_s", "backward_s", "optimizer_s", "step_rest_s")
#: Sums of floats over many windows, of clocks that began anywhere.
REL, ABS = 1e-9, 1e-6


def disagreements(run: RunRecord, *, live: Costs | None = None) -> list[str]:
    """Every relation between the run's numbers that does not hold, in words; empty if all agree.

    Args:
        run: A run as it was read.
        live: What the recorder holds of it, if it is at hand.
    """
    points, final = list(run.points.iter_rows(named=True)), run.final
    found = [f"at point {n} ({costs['trigger']}): {text}" for n, costs in enumerate(points) for text in _point(costs)]
    found += [f"at the end: {text}" for text in _point(final)]
    found += [*_course(run, points), *_header(run), *_attempts(run, points), *_goodput(run)]
    if live is not None:
        found += [f"live {name} is {live[name]}, {final[name]} on disk" for name in live if live[name] != final[name]]
    if len(run.header["attempts"]) > 1 and points:
        kept = run.to_reach()
        found += [f"of kept work: {text}" for text in _falling(kept, list(kept.points.iter_rows(named=True)))]
    return found


def agree(run: RunRecord, *, live: Costs | None = None) -> None:
    """Assert that the run's numbers agree with each other."""
    found = disagreements(run, live=live)
    assert not found, "\n".join(found[:20])


def _close(one: float, other: float, rel: float = REL) -> bool:
    return abs(one - other) <= ABS + rel * max(abs(one), abs(other))


def _known(costs: Costs, *names: str) -> list[float] | None:
    amounts = [amount for name in names if (amount := costs.get(name)) is not None]
    return amounts if len(amounts) == len(names) else None


def _point(costs: Costs) -> Iterator[str]:
    for whole, parts in SUMS.items():
        if (amounts := _known(costs, whole, *parts)) and not _close(amounts[0], sum(amounts[1:])):
            yield f"{whole} is {amounts[0]}, its parts {amounts[1:]} add up to {sum(amounts[1:])}"
    for whole, parts in WITHIN:
        if (amounts := _known(costs, whole, *parts)) and sum(amounts[1:]) > amounts[0] + ABS + REL * amounts[0]:
            yield f"{' + '.join(parts)} is {sum(amounts[1:])}, more than {whole}, {amounts[0]}"
    slow = _known(costs, "train_s", "slow_s")
    if costs.get("idle_s") is None and slow and slow[1] > slow[0] + ABS:  # a device may finish a step in an evaluation
        yield f"slow_s is {slow[1]} of train_s {slow[0]}"
    meters_rest = costs.get("trigger", "train") == "train"
    for gauge, parts in RATIOS.items() if not meters_rest else ():
        if (amounts := _known(costs, gauge, *parts)) and not _close(amounts[0], amounts[1] / amounts[2]):
            yield f"{gauge} is {amounts[0]}, not {amounts[1]} / {amounts[2]}"
    for name, amount in costs.items():
        if amount is None or isinstance(amount, str):
            continue
        if name.endswith("_fraction") and not 0.0 <= amount <= 1.0 + REL and "/" not in name:
            yield f"{name} is {amount}, not within [0, 1]"
        if name.endswith(("_s", "_j", "_bytes", "flop")) and amount < 0.0 and "/" not in name:
            yield f"{name} is {amount}"


def _falling(run: RunRecord, points: Sequence[Costs]) -> list[str]:
    found = []
    for name, declared in run.header["indicators"].items():
        if declared["kind"] != "counter" and declared["fold"] != "max":
            continue
        for number, (before, after) in enumerate(pairwise(point.get(name) for point in points), start=1):
            if before is not None and after is not None and after < before - ABS - REL * abs(before):
                found.append(f"at point {number}: {name} falls from {before} to {after}")
    return found


def _course(run: RunRecord, points: Sequence[Costs]) -> list[str]:
    found = _falling(run, points)
    nothing: Costs = {}
    alone = all(attempt["processes"] == 1 for attempt in run.header["attempts"])  # else of when all ranks reported
    for number, (before, after) in enumerate(pairwise([nothing, *points])):
        for gauge, (part, per) in RATES.items() if alone else ():
            ended, begun = _known(after, part, per), [before.get(part) or 0.0, before.get(per) or 0.0]
            rate = after.get(gauge)
            if ended is None or rate is None:
                continue
            spent = [now - then for now, then in zip(ended, begun, strict=True)]
            expected = spent[0] / spent[1] if spent[1] > ABS else before.get(gauge)
            if expected is not None and not _close(rate, expected, 1e-6 + 2 * ABS / max(spent[1], ABS)):
                found.append(f"at point {number} ({after['trigger']}): {gauge} is {rate}, not {expected} of {spent}")
        if number and after["time"] < before["time"]:
            found.append(f"at point {number}: time falls from {before['time']} to {after['time']}")
    return found


def _header(run: RunRecord) -> Iterator[str]:
    header, final = run.header, dict[str, Any](run.final)
    on_cuda = str(header["setup"]["device"]).startswith("cuda")
    for name, declared in header["indicators"].items():
        waits = declared["kind"] == "gauge" and declared["fold"] == "last"  # for a reading that has not come yet
        if final.get(name) is None and name not in header["missing"] and not waits:
            yield f"{name} is missing without a reason"
        if final.get(name) is not None and name in header["missing"]:
            yield f"{name} is {final[name]}, and missing as {header['missing'][name]}"
    for name in set(header["missing"]) - set(header["indicators"]):
        yield f"{name} has a reason to be missing and is no column"
    intervals = header.get("intervals", {})
    ended = header["status"] not in ("killed", "running")  # else intervals are of the last evaluation
    for name, (low, high) in intervals.items() if ended else ():
        amount = final.get(name)
        if amount is None or not low - ABS <= amount <= high * (1 + REL) + ABS:
            yield f"{name} is {amount}, outside its interval {low} to {high}"
    single = len(header["attempts"]) == 1  # intervals are of the last attempt
    if ended and single and (phases := _known(final, *PHASES, "train_s", "data_wait_s")):
        waited_s = 0.0 if on_cuda else phases[5]
        half_s = sum((intervals[name][1] - intervals[name][0]) / 2 for name in PHASES if name in intervals)
        if abs(sum(phases[:4]) + waited_s - phases[4]) > half_s + ABS + 1e-6 * phases[4]:
            yield f"phases {phases[:4]} and waiting {waited_s} are {sum(phases[:4]) + waited_s}, train_s {phases[4]}"
    accounts = {account: final.get(f"{account}_s") for account in ("setup", "train", "evaluate", "checkpoint", "other")}
    if final.get("idle_s") is None:
        for account, spent_s in accounts.items():
            told_s = sum(seconds for where, _, seconds in header.get("by_whom_s", ()) if where == account)
            if spent_s is not None and told_s > spent_s + ABS:
                yield f"by_whom_s has {told_s} s of {account}, which is {spent_s} s"
    if peak := header.get("memory_at_peak"):
        parts = sum(amount for name, amount in peak.items() if name not in ("phase", "total_bytes"))
        if parts != peak["total_bytes"]:
            yield f"memory_at_peak adds up to {parts}: {peak}"
        most = max(final.get(f"peak_{phase}_bytes") or 0.0 for phase in ("forward", "backward", "optimizer"))
        if most and peak["total_bytes"] != most:
            yield f"memory_at_peak is {peak['total_bytes']}, the phases' most is {most}"
    amounts = _known(final, "energy_j", *ACCOUNTS_J)
    if amounts and not _close(amounts[0], sum(amounts[1:])):
        yield f"energy_j is {amounts[0]}, its accounts add up to {sum(amounts[1:])}: {amounts[1:]}"
    census = header.get("census")
    if ended and single and census:
        if census["batches"] != final["batches"]:
            yield f"the census has {census['batches']} batches of {final['batches']}"
        if not census["counted_steps"] <= census["batches"]:
            yield f"the census counted {census['counted_steps']} of {census['batches']}"
    if run.points.height:
        last = run.points.row(-1, named=True)
        if not final["epochs"] - 1 <= last["epoch"] <= final["epochs"] and len(header["attempts"]) == 1:
            yield f"the last point is of epoch {last['epoch']}, epochs is {final['epochs']}"
    held = _known(final, "peak_mem_bytes" if on_cuda else "host_rss_bytes", "rank_max_param_bytes")
    if held and held[1] > held[0]:
        yield f"parameters are {held[1]} bytes of {held[0]}"


def _attempts(run: RunRecord, points: Sequence[Costs]) -> Iterator[str]:
    header, final, attempts = run.header, dict[str, Any](run.final), run.header["attempts"]
    tariff = Tariff.from_dict(header["tariff"])
    if all(attempt["tariff"] == header["tariff"] for attempt in attempts):
        used = {name: final[name] or 0.0 for name in ("energy_j", "device_s", "node_s", "flop") if name in final}
        prices = {
            "co2e_g": lambda: tariff.co2e_g(used["energy_j"]),
            "electricity_usd": lambda: tariff.electricity_usd(used["energy_j"]),
            "water_l": lambda: tariff.water_l(used["energy_j"]),
            "cloud_usd": lambda: tariff.cloud_usd(device_s=used["device_s"], node_s=used["node_s"]),
            "embodied_co2e_g": lambda: tariff.embodied_co2e_g(device_s=used["device_s"], flop=used["flop"]),
        }
        for name, price in prices.items():
            if final.get(name) is not None and not _close(final[name], price()):
                yield f"{name} is {final[name]}, the tariff makes {price()}"
    for name, of in (("device_s", "devices"), ("node_s", "nodes")):
        sizes = [attempt[of] for attempt in attempts]
        amounts = _known(final, name, "total_s")
        if amounts and len(set(sizes)) == 1 and not _close(amounts[0], amounts[1] * sizes[0]):
            yield f"{name} is {amounts[0]} of total_s {amounts[1]} and {of} {sizes}"
    startup_s = [seconds for attempt in attempts for seconds in attempt["startup_s"].values()]
    if final.get("setup_s") is not None and not _close(sum(startup_s), final["setup_s"]):
        yield f"startup_s adds up to {sum(startup_s)}, setup_s is {final['setup_s']}"
    for number, attempt in enumerate(attempts):
        first = attempt.get("first_batch_s"), attempt.get("first_wait_s")
        if None not in first and first[1] > first[0] + ABS:
            yield f"attempt {number} waited {first[1]} s of {first[0]} s up to the first batch's end"
        if first[0] is not None and final.get("train_s") is not None and first[0] > final["train_s"] + ABS:
            yield f"attempt {number}'s first batch took {first[0]} s of train_s {final['train_s']}"
        if not 0 <= attempt.get("row", 0) <= len(points):
            yield f"attempt {number} begins at row {attempt['row']} of {len(points)}"
    for before, after in pairwise(attempts):
        for name, amount in (after.get("used") or {}).items():
            spent = [(before.get("used") or {}).get(name, 0.0), amount, final.get(name)]
            if None not in spent and not spent[0] <= spent[1] <= spent[2] + ABS:
                yield f"{name} of attempts and in the end is {spent}"
        for name, amount in (after.get("lost") or {}).items():
            if amount is not None and final.get(name) is not None and amount > final[name] + ABS:
                yield f"lost {name} is {amount} of {final[name]}"
    if attempts and final.get("disruptions") is not None:
        broken = sum(attempt["status"] != "finished" for attempt in attempts[:-1])
        if final["disruptions"] < broken:
            yield f"disruptions is {final['disruptions']}, {broken} attempts broke off"
    if header["status"] == "finished" and attempts and attempts[-1]["status"] != "finished":
        yield f"the run finished, its last attempt is {attempts[-1]['status']}"


def _goodput(run: RunRecord) -> Iterator[str]:
    final, found = dict[str, Any](run.final), goodput(run.header, run.final)
    seconds = [bucket.s for bucket in found.buckets]
    lost_is_known = found.bucket("lost").s is not None
    if found.wall_s is not None and lost_is_known and not _close(found.wall_s, sum(s or 0.0 for s in seconds)):
        yield f"buckets of goodput add up to {sum(s or 0.0 for s in seconds)}, the wall clock is {found.wall_s}"
    if _known(final, "total_s", "down_s") and not _close(found.wall_s or 0.0, final["total_s"] + final["down_s"]):
        yield f"wall_s is {found.wall_s}, total_s and down_s are {final['total_s']}, {final['down_s']}"
    if any(s is not None and s < -ABS for s in seconds):
        yield f"a bucket of goodput is negative: {seconds}"
    for name in ("productive_s", "goodput_fraction"):
        if final.get(name) is not None and not _close(final[name], getattr(found, name)):
            yield f"{name} is {final[name]}, goodput says {getattr(found, name)}"
    for name in ("energy_j", "co2e_g", "cloud_usd"):
        parts = [getattr(bucket, name) or 0.0 for bucket in found.buckets]
        if final.get(name) is not None and lost_is_known and any(parts) and not _close(sum(parts), final[name], 1e-6):
            yield f"{name} is {final[name]}, buckets of goodput add up to {sum(parts)}: {parts}"
    for definition in found.definitions:
        if definition.fraction is not None and not -REL <= definition.fraction <= 1.0 + 1e-6:
            yield f"{definition.name} is {definition.fraction}"

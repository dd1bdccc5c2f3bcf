"""What to do about each kind of caution, the weightiest kinds first."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_costs.analysis.schema import Caution

#: Kind of caution to what a reader can do about it; kinds that can turn a claim around come first.
ADVICE = {
    "mode_contradicts_runs": "check --mode",
    "declarations_clash": "rename one of the columns",
    "below_zero": "mend the source",
    "no_quality": "check the monitor's name, or leave the run out",
    "diverged": "leave the run out, or read its cost to a target alone",
    "unfinished": "leave the run out, or compare by targets that it reached",
    "stopped_by_budget": "compare by targets, not at the end",
    "hardware_differs": "compare samples and FLOPs, or run all on one machine",
    "methods_differ": "compare this cost within one method",
    "tariffs_differ": "price all alike with --tariff FILE",
    "flop_conventions": "count all runs in one way",
    "flop_lower_bound": "add the missing formulas (docs/counting.md)",
    "estimates_overlap": "count more steps before telling these runs apart",
    "steps_hide_passes": "compare by FLOPs or time, not by steps or samples",
    "setups_differ": "attribute a difference to these settings together",
    "tuning_budgets_differ": "search all methods in as many trials",
    "targets_in_hindsight": "declare targets before training, or give --target",
    "within_seed_noise": "run more seeds",
    "single_seed": "run every method on three seeds or more",
    "not_at_the_end_of_the_schedule": "let schedules end, or compare by targets",
    "early_lead": "compare at the quality that you need",
    "one_indicator": "name the cost in the claim",
    "searched_under_the_indicator": "say so in the claim, or search again under another cost",
    "almost_as_good": "shorten or shrink the best run before calling it expensive",
    "parameters_matched": "report compute too",
    "compute_matched": "report parameters too",
    "decided_by_rounding": "get figures with more digits",
    "restarts_lost_work": "--curve to_reach leaves lost work out",
    "few_runs": "compare more runs before saying that costs agree",
}


def by_weight(cautions: Sequence[Caution]) -> list[tuple[Caution, int, str]]:
    """The first caution of each kind, how many more there are of it, and what to do; the weightiest first."""
    first: dict[str, Caution] = {}
    counts: dict[str, int] = {}
    for caution in cautions:
        first.setdefault(caution["kind"], caution)
        counts[caution["kind"]] = counts.get(caution["kind"], 0) + 1
    order = list(ADVICE)
    kinds = sorted(first, key=lambda kind: order.index(kind) if kind in ADVICE else -1)
    return [(first[kind], counts[kind] - 1, ADVICE.get(kind, "")) for kind in kinds]

"""Everything that a comparison counts, against the plainest loops over all pairs that say the same."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import declaration, make_run

from lightning_costs import compare
from lightning_costs.analysis.rank_correlation import rank_pairs
from lightning_costs.analysis.seeds import LEAST_RUNS, bootstrap_interval, median, medians, seed_spread

AMOUNT = st.one_of(st.none(), st.sampled_from([0.0, 1.0, 1.04, 2.0, 3.0, math.inf]), st.floats(0.5, 4.0))
QUALITY = st.lists(st.one_of(st.sampled_from([0.2, 0.5, 0.8, math.nan, math.inf]), st.floats(0, 1)), max_size=6)
#: name, kind, better
COLUMNS = (
    ("train_s", "counter", "lower"),
    ("energy_j", "counter", "lower"),
    ("samples_per_s", "gauge", "higher"),
    ("params", "static", "lower"),
)
#: A rate is no cost: it ranks nobody.
COSTS = tuple(column for column in COLUMNS if not column[0].endswith("_per_s"))


@st.composite
def tables(draw):
    """Runs of random curves: ties, duplicates, missing and infinite amounts, qualities that are no number."""
    runs = []
    for index in range(draw(st.integers(1, 6))):
        quality = draw(QUALITY)
        costs = {
            name: draw(st.lists(AMOUNT, min_size=len(quality), max_size=len(quality)))
            for name, kind, _ in COLUMNS
            if kind != "static"
        }
        run = make_run(f"r{index}", quality=quality, costs=costs, statics={"params": draw(AMOUNT)})
        runs.append(run)
    if draw(st.booleans()):
        runs.append(make_run("twin", quality=quality, costs=costs, statics=run.header["statics"]))
    return runs


MODES = st.sampled_from(["max", "min"])


def best_of(run, mode):
    values = [value for value in run.points["val/acc"].to_list() if value is not None and math.isfinite(value)]
    return (max if mode == "max" else min)(values, default=None)


def here(value):
    return value is not None and math.isfinite(value)


def as_good(a, b, direction):
    return a >= b if direction in ("max", "higher") else a <= b


def compared(runs, mode, **options):
    return compare(runs, monitor="val/acc", mode=mode, targets=[0.5], **options)


@settings(deadline=None)
@given(tables(), MODES)
def test_fronts_are_who_nobody_beats(runs, mode):
    cmp = compared(runs, mode)
    for name, _, better in COLUMNS:
        rows = [(run.name, run.final.get(name), best_of(run, mode)) for run in runs]
        rows = [row for row in rows if None not in row]
        expected = [
            label
            for label, cost, quality in rows
            if not any(
                as_good(c, cost, better) and as_good(q, quality, mode) and (c, q) != (cost, quality) for _, c, q in rows
            )
        ]
        assert cmp.fronts[name] == expected


@settings(deadline=None)
@given(tables(), MODES)
def test_the_joint_front_is_who_nobody_beats_in_all_columns_together(runs, mode):
    cmp = compared(runs, mode)
    taking = [run for run in runs if best_of(run, mode) is not None]
    columns = [c for c in COSTS if taking and all(run.final.get(c[0]) is not None for run in taking)]
    assert cmp.dominance["columns"] == [name for name, _, _ in columns]
    rows = {run.name: (best_of(run, mode), *(run.final[name] for name, _, _ in columns)) for run in taking}
    directions = [mode, *(better for _, _, better in columns)]

    def beats(a, b):
        return a != b and all(as_good(x, y, way) for x, y, way in zip(a, b, directions, strict=True))

    beaten_by = {label: [other for other in rows if beats(rows[other], row)] for label, row in rows.items()}
    if columns:
        assert cmp.dominance["joint"] == [label for label, by in beaten_by.items() if not by]
        assert cmp.dominance["dominators"] == {label: len(by) for label, by in beaten_by.items() if by}
        assert cmp.dominance["dominated_by"] == {label: by[:5] for label, by in beaten_by.items() if by}
    for label, row in cmp.dominance["by_run"].items():
        assert row["on"] == [name for name, _, _ in COSTS if label in cmp.fronts[name]]


def ranked(values):
    return [1 + sum(v < value for v in values) + (sum(v == value for v in values) - 1) / 2 for value in values]


def pearson(x, y):
    x, y = np.array(x) - np.mean(x), np.array(y) - np.mean(y)
    spread = math.sqrt((x @ x) * (y @ y))
    return x @ y / spread if spread else None


@settings(deadline=None)
@given(tables(), MODES)
def test_correlations_pairs_and_orders_are_those_of_loops_over_all_pairs(runs, mode):
    cmp = compared(runs, mode)
    sign = {name: 1.0 if better == "lower" else -1.0 for name, _, better in COLUMNS}
    for pair in cmp.ranks["pairs"]:
        first, second = pair["first"], pair["second"]
        both = [run for run in runs if here(run.final.get(first)) and here(run.final.get(second))]
        x = [sign[first] * run.final[first] for run in both]
        y = [sign[second] * run.final[second] for run in both]
        signs = [(np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in itertools.combinations(range(len(both)), 2)]
        products = [a * b for a, b in signs]
        assert (pair["n"], pair["concordant"], pair["discordant"], pair["ties"]) == (
            len(both),
            products.count(1),
            products.count(-1),
            products.count(0),
        )
        flips = {frozenset((both[i].name, both[j].name)) for i, j in itertools.combinations(range(len(both)), 2)
                 if (x[i] - x[j]) * (y[i] - y[j]) < 0}  # fmt: skip
        assert {frozenset(flip) for flip in pair["flips"]} == flips
        rho = pearson(ranked(x), ranked(y)) if both else None
        assert pair["spearman"] == (None if rho is None else pytest.approx(rho, abs=1e-12))
        untied = sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs)
        tau = sum(products) / math.sqrt(untied) if untied else None
        assert pair["tau_b"] == (None if tau is None else pytest.approx(tau, abs=1e-12))
    for name, _, _ in COSTS:
        known = [(run.name, sign[name] * run.final[name]) for run in runs if here(run.final.get(name))]
        ranks = ranked([value for _, value in known])
        assert cmp.ranks["orders"][name] == {label: rank for (label, _), rank in zip(known, ranks, strict=True)}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from("abc")), min_size=2, max_size=12))
def test_pairs_within_and_across_groups_are_counted_apart(rows):
    x, y, groups = ([float(a) for a, _, _ in rows], [float(b) for _, b, _ in rows], [g for *_, g in rows])
    (pair,) = rank_pairs([str(i) for i in range(len(rows))], {"x": x, "y": y}, dict.fromkeys("xy", "lower"), groups)
    for part, inside in (("within", True), ("across", False)):
        products = [
            np.sign(x[i] - x[j]) * np.sign(y[i] - y[j])
            for i, j in itertools.combinations(range(len(rows)), 2)
            if (groups[i] == groups[j]) == inside
        ]
        assert pair[part] == {
            "concordant": products.count(1),
            "discordant": products.count(-1),
            "ties": products.count(0),
        }


def test_counts_are_the_same_in_pieces(monkeypatch):
    rng = np.random.default_rng(3)
    columns = {name: rng.integers(0, 9, 40).astype(float).tolist() for name in "abc"}
    labels, better = [str(i) for i in range(40)], dict.fromkeys("abc", "lower")
    whole = rank_pairs(labels, columns, better, ["g", "h"] * 20)
    monkeypatch.setattr("lightning_costs.analysis.rank_correlation._AT_ONCE", 120)
    assert rank_pairs(labels, columns, better, ["g", "h"] * 20) == whole


def reaches(value, target, mode):
    return math.isfinite(value) and as_good(value, target, mode)


@settings(deadline=None)
@given(tables(), MODES)
def test_the_sweep_is_cost_to_quality_at_every_target_and_winners_are_the_cheapest(runs, mode):
    cmp = compared(runs, mode)
    qualities = {run.name: run.points["val/acc"].to_list() for run in runs}
    records = set()
    for values in qualities.values():
        for index, value in enumerate(values):
            past = [v for v in values[:index] if math.isfinite(v)]
            if math.isfinite(value) and not any(as_good(v, value, mode) for v in past):
                records.add(value + 0.0)
    assert cmp.sweep["complete"]
    assert cmp.sweep["targets"] == sorted(records, reverse=mode == "min")
    for name in ("train_s", "energy_j"):
        for at, target in enumerate(cmp.sweep["targets"]):
            costs = {}
            for run in runs:
                hits = [i for i, value in enumerate(qualities[run.name]) if reaches(value, target, mode)]
                costs[run.name] = run.points[name][hits[0]] if hits else math.inf
            assert {label: row[at] for label, row in cmp.sweep["costs"][name].items()} == costs
            finite = [cost for cost in costs.values() if here(cost)]
            least = [label for label, cost in costs.items() if finite and cost == min(finite)]
            held = [
                row["labels"]
                for row in cmp.sweep["winners"][name]
                if as_good(target, row["first"], mode) and as_good(row["upto"], target, mode)
            ]
            assert held == ([least] if least else [])


def test_a_sweep_over_very_many_targets_says_that_it_left_some_out():
    runs = [make_run(name, quality=[i / 1000 + off for i in range(1000)]) for name, off in (("a", 0.0), ("b", 5e-4))]
    swept = compare(runs, targets=[0.5]).sweep
    assert not swept["complete"]
    assert len(swept["targets"]) == 256
    assert (swept["targets"][0], swept["targets"][-1]) == (0.0, 999 / 1000 + 5e-4)


VALUES = st.lists(st.one_of(st.sampled_from([1.0, math.inf]), st.floats(-1e6, 1e6)), max_size=9)


@given(VALUES)
def test_a_median_is_numpys_with_infinity_taking_part(values):
    assert median(values) == (np.median(values) if values else None)


ENTRY = st.one_of(st.just(math.nan), st.just(math.inf), st.floats(-9, 9))


@given(st.lists(st.tuples(ENTRY, ENTRY, ENTRY), min_size=1, max_size=7))
def test_medians_of_columns_leave_missing_rows_out(rows):
    table = np.array(rows)
    for column, found in zip(table.T, medians(table), strict=True):
        known = column[~np.isnan(column)]
        assert found == (np.median(known) if len(known) else pytest.approx(math.nan, nan_ok=True))


@given(st.lists(st.one_of(st.just(math.inf), st.floats(0, 9)), min_size=LEAST_RUNS, max_size=8), st.randoms())
def test_an_interval_holds_the_median_and_is_the_same_whatever_the_order(values, random):
    first = seed_spread(values)
    random.shuffle(values)
    assert seed_spread(values) == first
    assert first["low"] <= first["median"] <= first["high"]
    assert first["least"] <= first["low"]
    assert first["high"] <= first["most"]


def test_an_interval_is_near_the_exact_distribution_of_resampled_medians():
    # Of 3**3 resamples of three values, the median is the least in 7, the middle one in 13, the most in 7.
    assert bootstrap_interval([1.0, 2.0, 3.0]) == (1.0, 3.0)
    counts = [sorted(drawn)[2] for drawn in itertools.product(range(5), repeat=5)]
    exact = sorted(counts)
    low, high = exact[int(0.025 * len(exact))], exact[math.ceil(0.975 * len(exact)) - 1]
    assert bootstrap_interval([0.0, 1.0, 2.0, 3.0, 4.0]) == (low, high)


def test_two_seeds_have_no_interval_and_a_run_without_a_reading_is_missing_not_slow():
    assert seed_spread([1.0, 2.0])["low"] is None
    found = seed_spread([1.0, None, math.inf, 3.0])
    assert (found["n"], found["missing"], found["median"], found["share_reached"]) == (3, 1, 3.0, 2 / 3)
    assert seed_spread([None])["share_reached"] is None


def test_a_group_is_never_a_mean_over_survivors():
    runs = [make_run(f"a-{i}", quality=q) for i, q in enumerate(([0.9], [0.1], [0.1]))]
    runs += [make_run(f"b-{i}", quality=[0.1, 0.9]) for i in range(3)]
    groups = compare(runs, targets=[0.9], group=r"name~(\w)-").groups
    energy = groups["targets"][0]["costs"]["energy_j"]
    assert (energy["a"]["median"], energy["a"]["reached"], energy["a"]["n"]) == (math.inf, 1, 3)
    assert (energy["b"]["median"], energy["b"]["share_reached"]) == (200.0, 1.0)
    assert groups["targets"][0]["winners"]["energy_j"] == ["b"]
    assert groups["members"] == {"a": ["a-0", "a-1", "a-2"], "b": ["b-0", "b-1", "b-2"]}


def test_groups_are_swept_too():
    runs = [make_run(f"{g}-{i}", quality=q) for g, q in (("a", [0.5]), ("b", [0.4, 0.9])) for i in range(2)]
    won = compare(runs, targets=[0.9], group="name~(.)-").sweep["group_winners"]["energy_j"]
    assert [(row["labels"], row["upto"]) for row in won] == [(["a", "b"], 0.4), (["a"], 0.5), (["b"], 0.9)]


@pytest.mark.parametrize(
    ("group", "said"),
    [
        ("optimiser", "run 'sam' has no such setting; runs have optimizer"),
        ("name~(", "is no regular expression"),
        ("name~x", "matches nothing in the name of run 'sam'"),
        ("id~x", "group must be 'name~PATTERN'"),
    ],
)
def test_a_group_that_a_run_has_not_is_refused_with_what_there_is(group, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        compare([make_run("sam", setup={"optimizer": "SAM"})], group=group)


def test_runs_are_grouped_by_name_setting_or_header():
    runs = [make_run("a", run_id=str(i), setup={"module": "M"}, group="g") for i in range(2)]
    for by, group in (("name", "a"), ("module", "M"), ("group", "g")):
        cmp = compare(runs, group=by)
        assert list(cmp.groups["members"]) == [group]
        assert [run["group"] for run in cmp.runs] == [group, group]
    assert compare(runs, group="none").groups is None


def test_reversals_list_clocks_first_and_leave_out_who_did_not_reach_it():
    costs = {
        "a": {"train_s": [1.0], "total_s": [9.0], "energy_j": [9.0]},
        "b": {"train_s": [2.0], "total_s": [3.0], "energy_j": [3.0]},
    }
    runs = [make_run(name, quality=[0.9], costs=row) for name, row in costs.items()]
    runs.append(make_run("c", quality=[0.1], costs={"train_s": [0.5], "total_s": [99.0], "energy_j": [0.1]}))
    row = compare(runs, targets=[0.9]).targets[0]
    assert row["reached"] == ["a", "b"]
    assert [(r["first"], r["second"], r["clocks"], r["pairs"]) for r in row["reversals"]] == [
        ("train_s", "total_s", True, [["a", "b"]]),
        ("train_s", "energy_j", False, [["a", "b"]]),
    ]
    assert row["orders"]["train_s"] == {"a": 1.0, "b": 2.0}


def test_a_tolerance_below_nothing_is_refused():
    with pytest.raises(ValueError, match="tolerance must be a finite number of at least 0"):
        compare([make_run()], tolerance=-0.1)


def test_only_columns_with_the_role_of_an_indicator_are_counted():
    cost = declaration("nodes", "nodes", "gauge", "size")
    cmp = compare([make_run(costs={"nodes": [1.0, 1.0]}, declared={"nodes": cost})])
    assert "nodes" not in cmp.dominance["columns"]

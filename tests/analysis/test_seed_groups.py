"""Seeds are found by themselves, and runs of unlike setups are never taken for seeds of one method."""

from __future__ import annotations

from typing import Any

import pytest
from synthetic import make_run

from lightning_costs import compare
from lightning_costs.analysis.seed_groups import find_seed_groups, seed_of


def runs(*names: str, **each: Any):
    return [make_run(name, run_id=f"{name}-{at}", setup={"optimizer": "one"}, **each) for at, name in enumerate(names)]


@pytest.mark.parametrize(
    "names",
    [
        ("sgd-seed1", "sgd-seed2", "sam-seed1"),
        ("sgd_s1", "sgd_s2", "sam_s1"),
        ("sgd, seed=1", "sgd, seed=2", "sam, seed=1"),
        ("seed 1 sgd", "seed 2 sgd", "seed 1 sam"),
    ],
)
def test_a_seed_in_a_name_makes_groups_and_a_sentence_says_so(names):
    found = find_seed_groups(runs(*names))
    assert found.groups == ["sgd", "sgd", "sam"]
    assert found.sentence == "Runs were grouped by the seed in their names; --group none compares single runs."


@pytest.mark.parametrize("names", [("resnet50", "resnet101"), ("run-1", "run-2"), ("vit-s/16", "vit-b/16"), ("a", "a")])
def test_numbers_that_are_no_seeds_make_no_groups(names):
    assert find_seed_groups(runs(*names)) == (None, "", "")


def test_names_with_seeds_that_no_two_runs_share_a_method_of_make_no_groups():
    assert find_seed_groups(runs("sgd-seed1", "sam-seed1")).groups is None


def test_header_groups_come_first_and_runs_without_one_stand_alone():
    found = find_seed_groups([*runs("a", "b", group="g"), make_run("c")])
    assert found.groups == ["g", "g", "c"]
    assert "the group in their headers" in found.sentence


def test_a_header_group_of_unlike_methods_gives_way_to_seeds_in_names():
    several = [
        make_run(f"{name}-seed{seed}", run_id=f"{name}{seed}", setup={"optimizer": name}, group="experiment-7")
        for name in ("sgd", "sam")
        for seed in (1, 2)
    ]
    assert find_seed_groups(several).groups == ["sgd", "sgd", "sam", "sam"]


@pytest.mark.parametrize(
    ("one", "two", "key"),
    [
        ({"setup": {"optimizer": {"lr": 0.1}}}, {"setup": {"optimizer": {"lr": 0.2}}}, "optimizer.lr"),
        ({"hyperparameters": {"width": 8}}, {"hyperparameters": {"width": 16}}, "hyperparameters.width"),
        ({"statics": {"params": 8.0}}, {"statics": {"params": 16.0}}, "params"),
    ],
)
def test_runs_of_unlike_setups_are_not_grouped_and_the_reason_is_said(one, two, key):
    found = find_seed_groups([make_run("a-seed1", **one), make_run("a-seed2", **two)])
    assert found.groups is None
    why = f"'a-seed1' and 'a-seed2' differ in {key}; --group name~PATTERN groups them anyway"
    assert found.sentence == f"Runs were not grouped by the seed in their names: {why}."


def test_a_seed_among_the_hyperparameters_makes_groups_of_runs_that_differ_by_nothing_else():
    several = [
        make_run(f"cloud-{width}-{seed}", hyperparameters={"seed": seed, "width": width})
        for width in (8, 16)
        for seed in (1, 2, 3)
    ]
    found = find_seed_groups(several)
    assert found.groups is not None
    assert [found.groups.count(group) for group in dict.fromkeys(found.groups)] == [3, 3]
    assert [seed_of(run) for run in several] == ["1", "2", "3"] * 2


def test_fifty_runs_of_ten_methods_are_ten_groups():
    several = [
        make_run(f"m{method}-seed{seed}", run_id=f"{method}.{seed}", setup={"width": method})
        for method in range(10)
        for seed in range(5)
    ]
    cmp = compare(several, targets=[0.8])
    assert [len(labels) for labels in cmp.groups["members"].values()] == [5] * 10
    assert cmp.answer["by"] == "group"


def test_none_compares_single_runs_and_a_group_that_is_asked_for_is_taken_as_it_is():
    several = [make_run("a-seed1", setup={"lr": 1}), make_run("a-seed2", setup={"lr": 2})]
    assert compare(several, group="none").groups is None
    assert compare(several).groups is None
    assert list(compare(several, group=r"name~(.+)-seed\d").groups["members"]) == ["a"]


def test_the_learning_rate_of_a_schedule_is_no_setting_as_it_is_that_of_a_moment():
    def seeds(**more):
        return [make_run(f"a-seed{s}", setup={"optimizers": [{"lr": s / 10}], **more}) for s in (1, 2)]

    assert find_seed_groups(seeds()).groups is None
    assert find_seed_groups(seeds(schedulers=["OneCycleLR"])).groups == ["a", "a"]


@pytest.mark.parametrize("where", ["setup", "hyperparameters"])
def test_seeds_that_differ_in_a_recorded_outcome_alone_are_one_group(where):
    several = [
        make_run(f"{name}-{s}", run_id=f"{name}{s}", **{where: {"seed": s, "width": name, "val_loss": 0.3 + s / 10}})
        for name in ("a", "b")
        for s in (1, 2)
    ]
    cmp = compare(several)
    assert cmp.groups is not None
    assert [len(labels) for labels in cmp.groups["members"].values()] == [2, 2]
    (differ,) = [caution for caution in cmp.cautions if caution["kind"] == "setups_differ"]
    assert not any("loss" in key for key in differ["evidence"]["keys"])


def test_settings_of_an_outcomes_name_are_settings():
    for one, two in (({"loss_weight": 0.1}, {"loss_weight": 0.2}), ({"loss": "mse"}, {"loss": "focal"})):
        several = [make_run("a-seed1", setup=one), make_run("a-seed2", setup=two)]
        assert find_seed_groups(several).groups is None

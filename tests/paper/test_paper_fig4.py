from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import pytest
import torch

from examples.paper.claims import Results, final
from examples.paper.fig4 import DEPTHS, SERVING, STUDY, WIDTHS, ChangePlaces, KeepPlaces, build, shape
from examples.paper.study import Job
from lightning_costs import measure


def jobs(size: str) -> dict[str, Job]:
    return {job.arm: job for job in STUDY.jobs(size, Path(), seeds=1)}


def params(job: Job) -> int:
    """Of a block 12 w^2 + 13 w; then the patches' embedding, token, positions, last norm and head."""
    width, depth, _ = shape(job.settings)
    patch = job.settings["patch"]
    tokens = (8 // patch) ** 2 + 1
    return depth * (12 * width**2 + 13 * width) + (patch**2 + 1) * width + (1 + tokens + 2 + 10) * width + 10


def forward_mac(job: Job) -> int:
    """Of a block 12 w^2 a token and two products of tokens with tokens; then the patches' embedding and the head."""
    width, depth, _ = shape(job.settings)
    patch = job.settings["patch"]
    tokens = (8 // patch) ** 2 + 1
    return depth * (12 * width**2 * tokens + 2 * tokens**2 * width) + (tokens - 1) * patch**2 * width + 10 * width


def given(**columns: dict[str, list[float]]) -> Results:
    """Results with these columns: method to an amount per seed."""
    rows: dict[str, dict[int, Any]] = {}
    for column, methods in columns.items():
        for arm, amounts in methods.items():
            for seed, amount in enumerate(amounts, 1):
                rows.setdefault(arm, {}).setdefault(seed, {"final": {}})["final"][column] = amount
    return Results(cast(Any, None), rows)


@pytest.mark.parametrize("arm", list(STUDY.arms))
def test_what_is_trained_has_the_parameters_and_flops_of_the_closed_form(arm: str) -> None:
    job = jobs("tiny")[arm]
    cost = measure(build(job).module.net, torch.rand(3, 1, 8, 8), times=False)
    assert (cost.params, cost.forward_flop) == (params(job), 2 * forward_mac(job))


def test_positions_begin_as_far_apart_as_a_size_asks_for() -> None:
    job = jobs("tiny")["base"]
    pl.seed_everything(1, verbose=False)
    asked = build(replace(job, settings={**job.settings, "position_std": 0.5})).module.net.positions
    usual = build(job).module.net.positions
    assert asked.std().item() == pytest.approx(0.5, rel=0.3)
    assert usual.std().item() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize("size", ["cpu", "gpu"])
def test_twice_the_width_and_four_times_the_depth_are_alike_in_parameters_and_flops(size: str) -> None:
    deep, wide = jobs(size)["4x-depth"], jobs(size)["2x-width"]
    for count in (params, forward_mac):
        assert count(deep) == pytest.approx(count(wide), rel=0.05)


@pytest.mark.parametrize("size", list(STUDY.sizes))
def test_families_differ_from_the_base_in_one_thing_and_heads_stay_as_wide(size: str) -> None:
    shapes = {arm: shape(job.settings) for arm, job in jobs(size).items()}
    width, depth, heads = shapes["base"]
    assert all(shapes[arm] == (width, depth * times, heads) for arm, times in DEPTHS.items())
    assert all(shapes[arm] == (width * times, depth, heads * times) for arm, times in WIDTHS.items())


def test_methods_change_places_where_seeds_agree_that_both_orders_are_opposite() -> None:
    change = ChangePlaces(final("params"), final("train_s"), ["deep"], ["wide"])
    size = {"deep": [1.0] * 3, "wide": [2.0] * 3}
    opposite = given(params=size, train_s={"deep": [3.0, 3.1, 3.2], "wide": [2.0, 2.1, 2.0]})
    same = given(params=size, train_s={"deep": [1.0, 1.1, 1.2], "wide": [2.0, 2.1, 2.0]})
    mixed = given(params=size, train_s={"deep": [1.0, 3.0, 2.0], "wide": [2.0, 2.0, 2.0]})
    assert [change(results).verdict for results in (opposite, same, mixed)] == ["held", "not held", "undecided"]
    assert change(opposite).evidence.endswith("1 of 1 pairs change places, 0 keep them (deep and wide)")


def test_a_family_keeps_places_only_where_every_pair_does() -> None:
    keep = KeepPlaces(final("params"), final("train_s"), ["a", "b", "c"])
    size = {"a": [1.0] * 3, "b": [2.0] * 3, "c": [3.0] * 3}
    kept = given(params=size, train_s={"a": [1.0] * 3, "b": [2.0] * 3, "c": [3.0] * 3})
    turned = given(params=size, train_s={"a": [1.0] * 3, "b": [3.0] * 3, "c": [2.0] * 3})
    tied = given(params=size, train_s={"a": [1.0] * 3, "b": [2.0] * 3, "c": [2.0] * 3})
    assert [keep(results).verdict for results in (kept, turned, tied)] == ["held", "not held", "undecided"]


def test_a_higher_rate_of_serving_is_less_time_per_image_and_a_missing_one_is_missing() -> None:
    row: Any = {"final": {"infer_samples_per_s": 500.0}}
    assert SERVING.read(cast(Any, None), row) == 0.002
    assert SERVING.read(cast(Any, None), cast(Any, {"final": {}})) is None

"""The rule that finds stragglers, on simulated noise: what it must find, and what it must not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_costs.ranks.stragglers import (
    ALPHA,
    HORIZONS,
    Straggler,
    StragglerDetector,
    own_blocks,
    split_blocks,
    wins_needed,
)
from lightning_costs.records.samples import RankInfo

PHASES = ("input", "other", "training")
Times = NDArray[np.float64]


def noise(kind: str, steps: int, ranks: int, seed: int = 0) -> Times:
    """[steps, ranks]: own work of even ranks, in units of its usual duration."""
    draw = np.random.default_rng(seed)
    shape = (steps, ranks)
    match kind:
        case "quiet":
            return 1 + 0.05 * draw.standard_normal(shape)
        case "skewed":
            return np.exp(0.4 * draw.standard_normal(shape))
        case "heavy":
            return 1 + 0.1 * draw.pareto(1.2, shape)
        case "pauses":
            return 1 + 0.02 * draw.standard_normal(shape) + 10 * (draw.random(shape) < 0.002)
        case "uneven":  # one rank is noisier than the others
            return 1 + np.linspace(0.02, 0.3, ranks) * draw.standard_normal(shape)
        case "batches":  # of three lengths
            return draw.choice([0.5, 1.0, 2.0], shape)
        case "together":
            drift = 1 + 0.5 * np.sin(np.arange(steps) / 300)
            return drift[:, None] * (1 + 0.05 * draw.standard_normal(shape))
        case "apart":  # each rank drifts on its own, for some twenty steps at a time
            drift = np.zeros(shape)
            for step in range(1, steps):
                drift[step] = 0.95 * drift[step - 1] + 0.006 * draw.standard_normal(ranks)
            return 1 + drift + 0.02 * draw.standard_normal(shape)
    raise ValueError(kind)


EVEN = ("quiet", "skewed", "heavy", "pauses", "uneven", "batches", "together", "apart")


def watch(
    own: Times, *, every: int = 50, rest: float = 1.0, parts: Times | None = None, per_node: int = 2
) -> tuple[StragglerDetector, list[Straggler], float]:
    """Stragglers that are found with a point every few steps, and what the others waited."""
    steps, ranks = own.shape
    parts = np.zeros((2, steps, ranks)) if parts is None else parts
    detector = StragglerDetector([RankInfo(rank=rank, node=rank // per_node) for rank in range(ranks)])
    found: list[Straggler] = []
    waited = 0.0
    for begin in range(0, steps, every):
        span = slice(begin, begin + every)
        blocks = [own_blocks([list(own[span, r]), *map(list, parts[:, span, r])], len(own[span])) for r in range(ranks)]
        length_s = float((own[span].max(axis=1) + rest).sum())
        seen = np.concatenate(split_blocks(np.array(blocks, np.float64))[:2], axis=2)
        more, new = detector.observe(seen, batches=min(begin + every, steps), length_s=length_s, phases=PHASES)
        waited, found = waited + more, [*found, *new]
    return detector, found, waited


@pytest.mark.parametrize("kind", EVEN)
@pytest.mark.parametrize("ranks", [2, 4])
def test_no_rank_is_accused_in_10000_even_steps(kind: str, ranks: int) -> None:
    _, found, waited = watch(noise(kind, 10_000, ranks), rest=0.5)
    assert found == []
    assert waited == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("kind", EVEN)
def test_no_rank_is_accused_in_20_runs_of_10000_even_steps(kind: str) -> None:
    accused = [
        len(found)
        for seed in range(20)
        for ranks, every in ((2, 50), (4, 50), (8, 10))
        if (found := watch(noise(kind, 10_000, ranks, seed + 1), every=every, rest=0.0)[1])
    ]
    assert accused == []


@pytest.mark.parametrize("every", [10, 50])
@pytest.mark.parametrize("kind", ["quiet", "pauses", "together", "apart"])
def test_a_rank_that_is_10_percent_slow_is_found_within_100_steps(kind: str, every: int) -> None:
    own = noise(kind, 100, 4, seed=3)
    own[:, 2] *= 1.1
    _, found, waited = watch(own, every=every)
    assert [(each.ranks, each.node, each.phase) for each in found] == [([2], 1, "training")]
    assert found[0].batch <= 100
    assert 0.05 < (found[0].slower or 0.0) < 0.15
    assert 0.4 * 0.1 * 100 < waited < 1.6 * 0.1 * 100


def test_one_in_eight_steps_that_is_slow_is_found_by_its_mean_and_one_pause_is_not() -> None:
    own = noise("quiet", 600, 4)
    own[300, 1] += 50.0
    assert watch(own)[1] == []
    own[::8, 3] += 2.0  # as one slow worker of eight
    (found,) = watch(own)[1]
    assert found.ranks == [3]


@pytest.mark.parametrize(("part", "phase"), [(0, "input"), (1, "other")])
def test_the_phase_is_what_the_excess_is_made_of(part: int, phase: str) -> None:
    own, parts = noise("quiet", 100, 4), np.full((2, 100, 4), 0.2)
    own[:, 1] += 0.2
    parts[part, :, 1] += 0.2
    (found,) = watch(own, parts=parts)[1]
    assert (found.ranks, found.phase) == ([1], phase)


def test_a_node_whose_ranks_are_slow_together_is_found_as_one() -> None:
    own = noise("quiet", 200, 6)
    own[:, 4:] *= 1.2
    (found,) = watch(own)[1]
    assert (found.ranks, found.node) == ([4, 5], 2)


def test_a_straggler_that_recovers_is_over_and_one_that_comes_late_is_found_then() -> None:
    own = noise("quiet", 3_000, 4)
    own[1000:2000, 0] *= 1.2
    _, (found,), waited = watch(own)
    assert found.ranks == [0]
    assert 1000 < found.batch <= 1150
    assert 2000 < (found.until or 0) <= 2200
    assert waited == pytest.approx(0.2 * 1000, rel=0.2)


def test_a_tiny_difference_is_none_however_certain() -> None:
    own = noise("quiet", 2_000, 4)
    own[:, 0] *= 1.2
    assert watch(own, rest=100.0)[1] == []  # 0.2 % of a step
    own = noise("quiet", 2_000, 4)
    own[:, 0] *= 1.03
    assert watch(own, rest=0.0)[1] == []


def test_scores_hold_each_rank_against_the_best_and_against_its_own_best() -> None:
    own = noise("quiet", 1_000, 4)
    own[:, 3] *= 1.25
    own[500:, 1] *= 2.0
    scores = watch(own)[0].report()["scores"]
    assert len(scores["batches"]) == len(scores["relative"]["3"]) == len(scores["individual"]["1"])
    assert scores["relative"]["3"][-1] == pytest.approx(0.8, abs=0.05)
    assert scores["individual"]["3"][-1] == pytest.approx(1.0, abs=0.05)
    assert scores["individual"]["1"][0] == 1.0
    assert scores["individual"]["1"][-1] == pytest.approx(0.5, abs=0.05)


def test_scores_of_a_long_run_and_of_many_ranks_stay_few() -> None:
    own = noise("quiet", 8_000, 20)
    own[:, 17] *= 1.5
    scores = watch(own)[0].report()["scores"]
    assert len(scores["batches"]) <= 64
    assert "17" in scores["relative"]
    assert len(scores["relative"]) == 16


@pytest.mark.parametrize("blocks", HORIZONS)
@pytest.mark.parametrize("ranks", [2, 3, 4, 8, 1024])
def test_equal_ranks_pass_the_number_of_wins_as_rarely_as_stated(blocks: int, ranks: int) -> None:
    needed, share = wins_needed(blocks, 1 / ranks), 1 / ranks
    tail = [math.comb(blocks, n) * share**n * (1 - share) ** (blocks - n) for n in range(blocks + 1)]
    assert sum(tail[needed:]) <= ALPHA < sum(tail[needed - 1 :])


def test_blocks_of_what_comes_before_a_backward_pass_stand_beside_those_of_own_work() -> None:
    own, led = [float(step) for step in range(8)], [10.0 + step for step in range(8)]
    own_s, parts_s, led_s = split_blocks(np.array([own_blocks([own, own, own], 8, led)], np.float64))
    assert own_s.tolist() == [[[1.0, 5.0], [1.5, 5.5]]]
    assert parts_s.shape == (1, 2, 2)
    assert led_s.tolist() == [[[11.0, 15.0], [11.5, 15.5]]]
    unknown = split_blocks(np.array([own_blocks([own, own, own], 8)], np.float64))[2]
    assert np.isnan(unknown).all()


def test_blocks_are_of_the_same_steps_on_every_rank_though_a_device_reports_late() -> None:
    times = [float(step) for step in range(50)]
    whole = own_blocks([times, times, times], 50)
    late = own_blocks([times[:-1]] * 3, 50)
    assert len(whole) == len(late) == 2 * (12 + 2 + 12)
    assert np.nanmax(np.abs(whole - late)) <= 1.0
    assert len(own_blocks([times[:3]] * 3, 50)) == 0

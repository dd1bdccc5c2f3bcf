from __future__ import annotations

import itertools

import pytest
from fakes import declared
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_costs.ranks.reduce import reading_owner, reduce_ranks
from lightning_costs.records.samples import CostVector, RankInfo

SCOPES = ("rank", "device", "node", "shard_group", "replica", "job")


def grid(replicas: int, stages: int, shards: int, per_node: int = 2) -> list[RankInfo]:
    """Places of a data x pipeline x tensor parallel job."""
    coordinates = itertools.product(range(replicas), range(stages), range(shards))
    return [
        RankInfo(rank=n, node=n // per_node, replica=r, stage=s, shard=t) for n, (r, s, t) in enumerate(coordinates)
    ]


def reduced(amounts, places, heard=None, **declaration):
    d = declared("x_s", **declaration)
    vectors = [
        CostVector(place=p, amounts={} if a is None else {"x_s": a})
        for p, a in zip(places, amounts, strict=True)
        if heard is None or p.rank in heard
    ]
    return reduce_ranks(vectors, {"x_s": d}, places)["x_s"]


GRID = grid(replicas=2, stages=3, shards=2, per_node=4)  # 12 ranks on 3 nodes


@pytest.mark.parametrize(
    ("scope", "owners"), [("rank", 12), ("node", 3), ("shard_group", 6), ("replica", 2), ("job", 1)]
)
def test_a_sum_counts_each_owner_once(scope, owners):
    assert reduced([5.0] * 12, GRID, scope=scope, across="sum") == 5.0 * owners


def test_node_scope_counts_each_node_once_whoever_of_it_reads():
    readings = [1.0, None, None, None, None, 20.0, None, None, None, None, None, 300.0]
    assert reduced(readings, GRID, scope="node") == 321.0


def test_replica_scope_counts_samples_once_over_stages_and_shards():
    samples = [32.0 if place.replica == 0 else 30.0 for place in GRID]
    assert reduced(samples, GRID, scope="replica") == 62.0


def test_a_tensor_parallel_group_is_one_owner_on_each_stage_and_replica():
    whole = [10.0 * (place.stage + 1) for place in GRID]  # both shards read what is the group's
    assert reduced(whole, GRID, scope="shard_group") == 2 * (10.0 + 20.0 + 30.0)


def test_the_mean_is_over_owners_not_ranks():
    places = [RankInfo(rank=0, node=0), RankInfo(rank=1, node=0), RankInfo(rank=2, node=1)]
    assert reduced([2.0, 2.0, 8.0], places, scope="node", across="mean") == 5.0
    assert reduced([2.0, 2.0, 8.0], places, scope="rank", across="mean") == 4.0


def test_the_maximum_is_over_all_owners():
    assert reduced([float(p.rank % 7) for p in GRID], GRID, scope="rank", across="max") == 6.0


@pytest.mark.parametrize("scope", SCOPES)
def test_rank0_means_rank_0s_own_reading(scope):
    assert reduced([float(p.rank) + 0.5 for p in GRID], GRID, scope=scope, across="rank0") == 0.5
    assert reduced([float(p.rank) for p in GRID], GRID, heard={0}, scope=scope, across="rank0") == 0.0
    assert reduced([float(p.rank) for p in GRID], GRID, heard=set(range(1, 12)), scope=scope, across="rank0") is None
    assert reduced([None] + [1.0] * 11, GRID, scope=scope, across="rank0") is None


@pytest.mark.parametrize("across", ["sum", "max", "mean"])
def test_a_missing_owner_is_a_missing_value_and_never_a_smaller_one(across):
    assert reduced([1.0] * 12, GRID, heard=set(range(11)), scope="rank", across=across) is None
    assert reduced([1.0] * 11 + [None], GRID, scope="rank", across=across) is None
    assert reduced([1.0] * 8 + [None] * 4, GRID, scope="node", across=across) is None


def test_an_owner_is_heard_through_any_of_its_ranks():
    heard = {3, 5, 8}  # one rank of each node
    assert reduced([2.0] * 12, GRID, heard=heard, scope="node") == 6.0
    assert reduced([2.0] * 12, GRID, heard={7}, scope="job") == 2.0


def test_nobody_heard_is_missing():
    for across in ("sum", "max", "mean", "rank0"):
        assert reduced([1.0] * 12, GRID, heard=set(), across=across) is None


def test_zero_is_a_reading():
    assert reduced([0.0] * 12, GRID, scope="rank") == 0.0


def test_every_declared_column_comes_out_and_no_other():
    place = RankInfo()
    vector = CostVector(place=place, amounts={"x_s": 1.0, "stranger_s": 2.0})
    declarations = {name: declared(name) for name in ("x_s", "y_s")}
    assert reduce_ranks([vector], declarations, [place]) == {"x_s": 1.0, "y_s": None}


jobs = st.builds(grid, st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 4))
amounts = st.floats(0, 1e15)


@given(
    data=st.data(), places=jobs, scope=st.sampled_from(SCOPES), across=st.sampled_from(["sum", "max", "mean", "rank0"])
)
def test_rank_order_is_irrelevant(data, places, scope, across):
    readings = data.draw(st.lists(st.none() | amounts, min_size=len(places), max_size=len(places)))
    vectors = [CostVector(place=p, amounts={"x_s": a}) for p, a in zip(places, readings, strict=True)]
    declaration = {"x_s": declared("x_s", scope=scope, across=across)}
    shuffled = data.draw(st.permutations(vectors))
    assert reduce_ranks(shuffled, declaration, places) == reduce_ranks(vectors, declaration, places)


@given(data=st.data(), places=jobs, scope=st.sampled_from(SCOPES))
def test_one_unheard_owner_is_enough_to_make_a_sum_missing(data, places, scope):
    owners = sorted({reading_owner(p, scope) for p in places})
    silent = data.draw(st.sampled_from(owners))
    heard = [CostVector(place=p, amounts={"x_s": 1.0}) for p in places if reading_owner(p, scope) != silent]
    declaration = {"x_s": declared("x_s", scope=scope)}
    assert reduce_ranks(heard, declaration, places) == {"x_s": None}


@given(places=jobs, amount=amounts, scope=st.sampled_from(SCOPES))
def test_equal_readings_have_themselves_as_maximum_and_mean(places, amount, scope):
    readings = [amount] * len(places)
    assert reduced(readings, places, scope=scope, across="max") == amount
    assert reduced(readings, places, scope=scope, across="mean") == pytest.approx(amount, rel=1e-12)


@given(data=st.data(), places=jobs)
def test_a_sum_over_ranks_is_the_sum_over_nodes_of_sums(data, places):
    assume(len(places) > 1)
    readings = data.draw(st.lists(st.integers(0, 2**40), min_size=len(places), max_size=len(places)))
    assert reduced([float(a) for a in readings], places, scope="rank") == float(sum(readings))


# Devices that ranks share --------------------------------------------------------------------------------------


def on_devices(devices, per_node=8):
    """Ranks that say which device of their node they train on, as each knows it of itself alone."""
    return [RankInfo(rank=r, node=r // per_node, replica=r, device=d) for r, d in enumerate(devices)]


def told(readings, places, name="gpu_energy_j", **declaration):
    """What ranks read; the others' devices are not known beforehand."""
    declared_ = {name: declared(name, scope="device", **declaration)}
    vectors = [
        CostVector(place=p, amounts={} if a is None else {name: a}) for p, a in zip(places, readings, strict=True)
    ]
    known = [RankInfo(rank=p.rank, node=p.node, replica=p.replica) for p in places]
    return reduce_ranks(vectors, declared_, known)[name]


@pytest.mark.parametrize("ranks", range(1, 9))
@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_each_device_is_counted_once_with_any_number_of_ranks_on_it(ranks, devices):
    places = on_devices([f"gpu-{r % devices}" for r in range(ranks)])
    readings = [100.0 * (r % devices + 1) for r in range(ranks)]
    assert told(readings, places) == sum(100.0 * (d + 1) for d in range(min(ranks, devices)))


def test_devices_of_equal_names_on_two_nodes_are_two():
    assert told([5.0] * 4, on_devices(["0", "0", "0", "0"], per_node=2)) == 10.0


def test_a_rank_that_knows_no_device_has_one_of_its_own():
    assert told([5.0] * 3, on_devices([None, None, "0"])) == 15.0


def test_a_device_is_spoken_for_by_its_lowest_rank_and_nobody_steps_in():
    """That rank may speak for the node too: another one's reading would be less, and look like all."""
    assert told([None, 5.0], on_devices(["0", "0"])) is None
    assert told([7.0, None], on_devices(["0", "0"])) == 7.0


def test_a_rank_that_was_not_heard_may_have_a_device_of_its_own():
    places = on_devices(["0", "0", "1"])
    vectors = [CostVector(place=p, amounts={"x_j": 1.0}) for p in places[:2]]
    assert reduce_ranks(vectors, {"x_j": declared("x_j", scope="device")}, places) == {"x_j": None}
    everyone = [RankInfo(rank=r, replica=r) for r in range(3)]
    assert reduce_ranks(vectors, {"x_j": declared("x_j", scope="device")}, everyone) == {"x_j": None}

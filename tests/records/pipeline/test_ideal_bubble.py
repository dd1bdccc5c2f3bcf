"""Closed forms of the bubble, against schedules whose operations are counted through one by one."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed import pipelining
from torch.testing._internal.distributed.fake_pg import FakeStore

from lightning_costs.records.missing import Missing
from lightning_costs.records.pipeline.ideal_bubble import (
    PipelineShape,
    describe_bubble,
    ideal_bubble_formula,
    ideal_bubble_fraction,
)

Operation = tuple[str, int, int]


def shape(schedule: str, p: int, m: int, v: int = 1) -> PipelineShape:
    return PipelineShape(engine="torch.distributed.pipelining", schedule=schedule, stages=p, microbatches=m, chunks=v)


@pytest.fixture
def orders() -> Iterator[Any]:
    """Torch's own order of operations of a schedule, by rank: groups of operations that are run as one."""
    logging.getLogger("torch.distributed.pipelining.schedules").setLevel(logging.ERROR)

    def orders(schedule: str, p: int, m: int, v: int) -> tuple[dict[int, list[list[Operation]]], Mapping[int, int]]:
        distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=p)
        kind = getattr(pipelining, schedule)
        parts = [0, 2 * p - 1] if schedule in ("ScheduleZBVZeroBubble", "ScheduleDualPipeV") else range(0, p * v, p)
        stages = [pipelining.PipelineStage(nn.Linear(1, 1), part, p * v, torch.device("cpu")) for part in parts]
        made = kind(stages[0] if schedule == "ScheduleGPipe" else stages, m, loss_fn=nn.functional.mse_loss)
        owners = dict(stages[0].stage_index_to_group_rank)
        distributed.destroy_process_group()
        return {rank: list(map(operations, filter(None, order))) for rank, order in made.pipeline_order.items()}, owners

    yield orders
    if distributed.is_initialized():
        distributed.destroy_process_group()


def operations(action: Any) -> list[Operation]:
    parts = getattr(action, "sub_actions", None) or [action]
    told = [(part.computation_type.value, part.stage_index, part.microbatch_index) for part in parts]
    return [operation for operation in told if operation[0] in "FBIW"]


def counted_through(orders: Mapping[int, Sequence[Sequence[Operation]]], owners: Mapping[int, int]) -> float:
    """The bubble of a step of a schedule that repeats without a barrier, each of F, I and W taking one unit of time.

    Other ranks get what a group of operations made when the whole group is over.
    """
    took = {"F": 1, "I": 1, "W": 1, "B": 2}
    last_part, steps = len(owners) - 1, 4
    queues = {
        rank: [[(step, *operation) for operation in group] for step in range(steps) for group in groups]
        for rank, groups in orders.items()
    }
    here: dict[Any, int] = {}
    elsewhere: dict[Any, int] = {}
    free = dict.fromkeys(orders, 0)
    at = dict.fromkeys(orders, (0, 0))
    begins: dict[tuple[int, int], int] = {}
    moved = True
    while moved:
        moved = False
        for rank, queue in queues.items():
            while at[rank][0] < len(queue):
                group, position = at[rank]
                if not queue[group]:
                    at[rank] = (group + 1, 0)
                    continue
                step, kind, part, microbatch = queue[group][position]
                needs = [(step, "I", part, microbatch)] if kind == "W" else []
                if kind == "F" and part:
                    needs.append((step, "F", part - 1, microbatch))
                if kind in "BI":
                    needs.append((step, "F", part, microbatch))
                    needs += [(step, "I", part + 1, microbatch)] if part < last_part else []
                made = [(here if owners[need[2]] == rank else elsewhere).get(need) for need in needs]
                if None in made:
                    break
                begun = max([free[rank], *(end for end in made if end is not None)])
                begins.setdefault((step, rank), begun)
                free[rank] = begun + took[kind]
                here[step, "I" if kind == "B" else kind, part, microbatch] = free[rank]
                moved = True
                if position + 1 < len(queue[group]):
                    at[rank] = (group, position + 1)
                    continue
                at[rank] = (group + 1, 0)
                for done in queue[group]:
                    elsewhere[done[0], "I" if done[1] == "B" else done[1], done[2], done[3]] = free[rank]
    assert all(at[rank][0] == len(queue) for rank, queue in queues.items()), "some operation never ran"
    busy = sum(took[operation[0]] for groups in orders.values() for group in groups for operation in group)
    return 1 - busy / sum(begins[steps - 1, rank] - begins[steps - 2, rank] for rank in orders)


@pytest.mark.parametrize(
    ("schedule", "p", "m", "v"),
    [
        *(("ScheduleGPipe", p, m, 1) for p in (2, 4) for m in (1, 2, 4, 8, 16)),
        *(("ScheduleInterleaved1F1B", p, m, v) for p in (2, 4) for m in (4, 8) for v in (1, 2, 3)),
        *(("ScheduleLoopedBFS", p, m, v) for p in (2, 4) for m in (4, 6) for v in (1, 2, 3)),
        *(("ScheduleInterleavedZeroBubble", p, m, v) for p in (2, 4) for m in (4, 8) for v in (1, 2)),
        *(("ScheduleZBVZeroBubble", p, m, 2) for p in (2, 3, 4) for m in (2 * p, 11)),
        *(("ScheduleDualPipeV", p, m, 2) for p in (2, 3, 4) for m in (2 * p, 11)),
    ],
)
def test_a_closed_form_is_what_torchs_order_of_operations_leaves(
    orders: Any, schedule: str, p: int, m: int, v: int
) -> None:
    assert counted_through(*orders(schedule, p, m, v)) == pytest.approx(
        ideal_bubble_fraction(shape(schedule, p, m, v)), abs=1e-12
    )


@pytest.mark.parametrize(
    ("schedule", "p", "m", "v"),
    [
        ("ScheduleInterleaved1F1B", 4, 2, 2),
        ("ScheduleInterleavedZeroBubble", 4, 2, 1),
        ("ScheduleZBVZeroBubble", 4, 6, 2),
    ],
)
def test_outside_of_where_it_holds_a_closed_form_is_missing_with_its_reason(
    orders: Any, schedule: str, p: int, m: int, v: int
) -> None:
    with pytest.raises(Missing, match=rf"{schedule}'s bubble holds from 2?p micro-batches on; here are {p} stages"):
        ideal_bubble_fraction(shape(schedule, p, m, v))
    assert counted_through(*orders(schedule, p, m, v)) > 0


def test_one_f_one_b_leaves_what_gpipe_leaves_by_either_engines_name() -> None:
    for p, m in ((2, 4), (4, 16)):
        same = {ideal_bubble_fraction(shape(name, p, m)) for name in ("Schedule1F1B", "ScheduleGPipe", "TrainSchedule")}
        assert same == {(p - 1) / (m + p - 1)}


def test_a_schedule_of_ones_own_has_no_closed_form() -> None:
    with pytest.raises(Missing, match="no closed form is known for the bubble of Mine"):
        ideal_bubble_formula(shape("Mine", 2, 4))


def test_in_words_the_closed_form_stands_beside_what_was_measured() -> None:
    pipeline = {"schedule": "Mine", "stages": 2, "microbatches": 4, "chunks": 1, "theory": None}
    final = {"bubble_s": 3.0, "stage_step_s": 12.0, "stage_outside_s": 0.6, "bubble_theory_fraction": None}
    (said,) = describe_bubble(pipeline, final)
    assert said == "pipeline bubble 25 % of stage time, 5 % outside the schedule; no closed form for Mine as it ran"
    (said,) = describe_bubble({**pipeline, "theory": "0", "chunks": 2}, {"bubble_theory_fraction": 0.0})
    assert said == "pipeline bubble not measured; by its order alone Mine leaves 0 % (0 with p = 2, m = 4, v = 2)"
    assert describe_bubble(None, final) == []

from __future__ import annotations

from typing import Any

import pytest
import torch
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.patching.patches import ABSENT, Patches, instance_attribute
from lightning_costs.probes.batch import inspect_batch
from lightning_costs.probes.repeat_steps import (
    BACKWARD,
    RepeatedStepFastPath,
    backward_event,
    same_signature,
    summarize_events,
)
from lightning_costs.records.time_buckets import TimeBuckets

PAIR = [torch.zeros(8, 3), torch.zeros(8, dtype=torch.long)]


def striding(
    batch: Any = PAIR, events: list[int] | None = None, left: float = 100
) -> tuple[FakeClock, RepeatedStepFastPath]:
    clock = FakeClock(0.0)
    accounts = TimeBuckets(clock, begun_s=0.0)
    accounts.reset_to("train")
    stride = RepeatedStepFastPath(accounts)
    stride.arm(inspect_batch(batch), samples=8, tokens=None, events=[BACKWARD, 0] if events is None else events)
    stride.left = left
    return clock, stride


def step(stride: RepeatedStepFastPath, batch: Any, events: list[int]) -> str:
    """Which of the two functions worked on the batch, and whether its end was noted."""

    def work(way: str) -> str:
        stride.events += events
        return way

    way = stride.dispatch(lambda _: work("alike"), lambda _: work("in full"), pytest.fail)({"batch": batch})
    assert way == "alike" or not stride.recorded
    return way if way == "in full" else f"{way}, {'noted' if stride.recorded else 'told'}"


def test_a_step_like_the_one_before_is_a_clock_read_and_a_number_kept():
    clock, stride = striding()
    for _ in range(3):
        clock.sleep(2)
        assert step(stride, [torch.ones(8, 3), torch.ones(8, dtype=torch.long)], [BACKWARD, 0]) == "alike, noted"
    assert (list(stride.take()), list(stride.take()), stride.left) == ([2.0, 4.0, 6.0], [], 97)


@pytest.mark.parametrize(
    "batch",
    [
        [torch.zeros(7, 3), torch.zeros(7, dtype=torch.long)],
        [torch.zeros(8, 3), torch.zeros(8)],
        [torch.zeros(8, 3)],
        {"x": torch.zeros(8, 3)},
        torch.zeros(8, 3),
        None,
        "text",
    ],
    ids=str,
)
def test_a_batch_of_other_shapes_or_kinds_is_told_in_full(batch: Any):
    assert step(striding()[1], batch, [BACKWARD, 0]) == "in full"


@pytest.mark.parametrize(
    "events", [[], [0], [BACKWARD], [BACKWARD, 1], [BACKWARD, BACKWARD, 0], [0, BACKWARD]], ids=str
)
def test_a_step_in_which_something_else_happened_is_told(events: list[int]):
    stride = striding()[1]
    assert step(stride, PAIR, events) == "alike, told"
    assert stride.take_events() == events
    assert not stride.train_s


@pytest.mark.parametrize(("events", "way"), [([BACKWARD, 0], "alike, noted"), ([BACKWARD], "alike, told")])
def test_steps_of_another_training_leave_the_batch_at_hand_as_it_was(events: list[int], way: str) -> None:
    _, stride = striding()
    assert step(stride, PAIR, events) == way
    before = list(stride.events), stride.recorded, stride.same, stride.nodes, list(stride.train_s)
    with stride.aside():
        assert step(stride, PAIR, [BACKWARD, 0]) == "in full"
    assert before == (list(stride.events), stride.recorded, stride.same, stride.nodes, list(stride.train_s))
    stride.take_events()
    assert step(stride, PAIR, [BACKWARD, 0]) == "in full"


def test_a_batch_that_is_used_up_by_looking_is_not_looked_into():
    generator = (tensor for tensor in PAIR)
    assert step(striding()[1], generator, [BACKWARD, 0]) == "in full"
    assert len(list(generator)) == 2


def test_a_batch_that_cannot_be_looked_at_is_told_in_full():
    class Broken(dict[str, Any]):
        def values(self) -> Any:
            raise RuntimeError("no values today")

    assert step(striding()[1], Broken(x=torch.zeros(8, 3)), [BACKWARD, 0]) == "in full"


def test_no_more_steps_are_noted_than_were_allowed_nor_past_their_time():
    clock, stride = striding(left=2)
    assert [step(stride, PAIR, [BACKWARD, 0]) for _ in range(3)] == ["alike, noted", "alike, noted", "in full"]
    clock, stride = striding()
    stride.until_s = 5.0
    clock.sleep(4)
    assert step(stride, PAIR, [BACKWARD, 0]) == "alike, noted"
    clock.sleep(1)
    assert step(stride, PAIR, [BACKWARD, 0]) == "alike, told"


def test_a_step_in_which_torch_compile_made_a_graph_is_told(monkeypatch: pytest.MonkeyPatch):
    import torch._dynamo.utils as utils

    stride = striding()[1]
    monkeypatch.setitem(utils.counters["stats"], "unique_graphs", utils.counters["stats"]["unique_graphs"] + 1)
    assert step(stride, PAIR, [BACKWARD, 0]) == "alike, told"


def test_whoever_keeps_a_devices_timeline_is_told_of_each_noted_step():
    stride, told = striding()[1], []
    stride.on_record = lambda: told.append(1)
    step(stride, PAIR, [BACKWARD, 0])
    step(stride, PAIR, [0])
    assert told == [1]


shapes = st.lists(st.integers(0, 3), max_size=2).map(tuple)
tensors = st.builds(
    lambda shape, dtype: torch.zeros(shape, dtype=dtype), shapes, st.sampled_from([torch.float, torch.long])
)
leaves = st.one_of(tensors, st.just("text"), st.none())
content = st.recursive(
    leaves, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from("ab"), inner))
)


@given(content, content)
def test_batches_look_alike_if_and_only_if_their_signatures_are_equal(one: Any, other: Any):
    assert same_signature(other, inspect_batch(one).signature) == (
        inspect_batch(other).signature == inspect_batch(one).signature
    )


@given(st.lists(st.integers(-1, 2)))
def test_work_is_the_optimizers_in_order_and_the_number_of_passes(events: list[int]):
    stepped, passes = summarize_events(events)
    assert len(stepped) + passes == len(events)
    assert list(stepped) == [event for event in events if event >= 0]


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


@pytest.mark.parametrize(
    "loss_of",
    [
        lambda rows: rows.square().mean(),
        lambda rows: torch.nn.functional.cross_entropy(rows, torch.zeros(len(rows), dtype=torch.long)) / 4,
        lambda rows: rows.abs().sum() + 0.1 * rows.square().sum(),
        lambda rows: Doubled.apply(rows).mean(),
        lambda rows: rows.relu().sum(dim=1).amax(),
    ],
    ids=["mean", "cross entropy", "two terms", "a function of the user's", "two reductions"],
)
def test_a_backward_pass_is_known_by_the_magnitude_of_what_its_loss_is_made_of(loss_of: Any):
    weight = torch.ones(4, 4, requires_grad=True)
    one, same, four_times = (backward_event(loss_of(torch.ones(n, 4) @ weight)) for n in (8, 8, 32))
    assert one == same == four_times + 2 < BACKWARD


@pytest.mark.parametrize(
    "loss",
    [None, 3.0, torch.ones(()), torch.ones((), requires_grad=True), {"loss": torch.ones(2, requires_grad=True) * 2}],
    ids=str,
)
def test_a_loss_that_shows_no_graph_is_a_backward_pass_all_the_same(loss: Any):
    assert backward_event(loss) == BACKWARD


def test_shadows_leave_the_attributes_of_an_object_where_cpython_keeps_them():
    class Loop:
        def run(self) -> int:
            return 1

    loop, shadows = Loop(), Patches()
    shadows.wrap(loop, "run", lambda original: lambda: original() + 1)
    assert instance_attribute(loop, "run") is not ABSENT
    shadows.restore()
    assert instance_attribute(loop, "run") is ABSENT
    loop.run = mine = lambda: 5  # type: ignore[method-assign]
    assert instance_attribute(loop, "run") is mine


def test_a_hidden_hook_is_none_until_the_shadows_are_lifted():
    class Hooked:
        def hook(self) -> int:
            return 1

    hooked, shadows = Hooked(), Patches()
    shadows.mask(hooked, "hook")
    shadows.mask(hooked, "no_such_hook")
    assert hooked.hook is None
    shadows.restore()
    assert hooked.hook() == 1
    assert not hasattr(hooked, "no_such_hook")

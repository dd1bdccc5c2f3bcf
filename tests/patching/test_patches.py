from __future__ import annotations

import copy
import gc
import itertools
import pickle
import sys
from unittest.mock import MagicMock, Mock, call

import pytest
import torch

from lightning_costs.patching.optimizers import hook_step
from lightning_costs.patching.patches import Hook, Patches


class Loop:
    def run(self, n=1):
        """Run."""
        return n

    @property
    def broken(self):
        raise RuntimeError("not yet")


def adds(k):
    return lambda original: lambda *a, **kw: original(*a, **kw) + k


def test_a_shadow_is_on_one_instance_and_no_other():
    loop, other, shadows = Loop(), Loop(), Patches()
    shadows.wrap(loop, "run", adds(10))
    assert (loop.run(), loop.run(n=5), other.run()) == (11, 15, 1)
    assert loop.run.__doc__ == "Run."


def test_lifting_gives_the_method_back_as_it_was():
    loop, shadows = Loop(), Patches()
    shadows.wrap(loop, "run", adds(10))
    shadows.restore()
    assert loop.run() == 1
    assert vars(loop) == {}


def test_an_instance_attribute_that_was_there_comes_back():
    loop, shadows = Loop(), Patches()
    own = lambda: 7  # noqa: E731 - an attribute, not a function of ours
    loop.run = own
    shadows.wrap(loop, "run", adds(10))
    assert loop.run() == 17
    shadows.restore()
    assert loop.run is own


def test_two_shadows_of_one_keeper_come_off_together():
    loop, shadows = Loop(), Patches()
    shadows.wrap(loop, "run", adds(10))
    shadows.wrap(loop, "run", adds(100))
    assert loop.run() == 111
    shadows.restore()
    assert vars(loop) == {}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_keepers_may_lift_in_any_order_and_the_method_is_what_it_was(order):
    loop, keepers = Loop(), [Patches() for _ in range(3)]
    for n, keeper in enumerate(keepers):
        keeper.wrap(loop, "run", adds(10**n * 10))
    assert loop.run() == 1111
    left = 1111
    for n in order:
        keepers[n].restore()
        left -= 10**n * 10
        assert loop.run() == left
    assert vars(loop) == {}


def test_a_foreign_wrap_on_top_stays_and_ours_below_it_only_calls_through():
    loop, shadows = Loop(), Patches()
    shadows.wrap(loop, "run", adds(10))
    ours = loop.run
    loop.run = lambda: ours() + 1000
    shadows.restore()
    assert loop.run() == 1001


def test_lifting_twice_undoes_once():
    loop, shadows, undone = Loop(), Patches(), []
    shadows.add_cleanup(lambda: undone.append(1))
    shadows.wrap(loop, "run", adds(10))
    shadows.restore()
    loop.run = lambda: 5
    shadows.restore()
    assert (undone, loop.run()) == ([1], 5)


def test_what_is_suspended_is_off_and_can_be_put_again():
    loop, shadows, optimizer = Loop(), Patches(), torch.optim.SGD([torch.zeros(1)])
    shadows.wrap(loop, "run", adds(10))
    shadows.wrap(optimizer, "zero_grad", lambda original: original)
    hook_step(optimizer, shadows, before=lambda: None, after=lambda: None)
    hooks = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    for _ in range(3):
        assert (loop.run(), [len(held) for held in hooks]) == (11, [1, 1])
        assert copy.copy(loop).run() == pickle.loads(pickle.dumps(loop)).run() == 1
        shadows.suspend()
        assert (loop.run(), vars(loop), [len(held) for held in hooks]) == (1, {}, [0, 0])
        assert "zero_grad" not in vars(optimizer)
        assert shadows.resume()
    shadows.suspend()
    shadows.restore()
    assert (vars(loop), [len(held) for held in hooks]) == ({}, [0, 0])


@pytest.mark.parametrize("change", ["the class", "the object"])
def test_what_another_has_patched_since_is_not_put_again(change, monkeypatch):
    loop, shadows = Loop(), Patches()
    shadows.wrap(loop, "run", adds(10))
    shadows.suspend()
    monkeypatch.setattr(Loop if change == "the class" else loop, "run", lambda *_: 5)
    assert not shadows.resume()
    assert loop.run() == 5
    shadows.restore()
    assert loop.run() == 5


def test_hooks_of_an_optimizer_that_is_gone_or_gives_handles_of_its_own_are_not_put_again():
    optimizer, shadows = torch.optim.SGD([torch.zeros(1)]), Patches()
    hook_step(optimizer, shadows, after=lambda: None)
    shadows.suspend()
    del optimizer
    gc.collect()
    assert not shadows.resume()
    shadows.restore()
    own = Mock(spec=["remove"])
    shadows.add_hook(own, None)
    shadows.suspend()
    assert not shadows.resume()


def test_a_foreign_wrap_on_top_stays_when_ours_is_suspended():
    loop, shadows = Loop(), Patches()
    shadows.wrap(loop, "run", adds(10))
    ours = loop.run
    loop.run = lambda: ours() + 1000
    shadows.suspend()
    assert loop.run() == 1011
    shadows.restore()
    assert loop.run() == 1001


def test_what_is_no_method_is_left_alone():
    loop, shadows = Loop(), Patches()
    loop.steps = 3
    shadows.wrap(loop, "steps", adds(10))
    shadows.wrap(loop, "nothing", adds(10))
    assert vars(loop) == {"steps": 3}
    shadows.restore()
    assert vars(loop) == {"steps": 3}


def test_other_undoings_happen_last_first():
    shadows, order = Patches(), []
    for n in range(3):
        shadows.add_cleanup(lambda n=n: order.append(n))
    shadows.restore()
    assert order == [2, 1, 0]


def test_one_undoing_that_raises_does_not_leave_the_others_on():
    loop, shadows = Loop(), Patches()
    shadows.wrap(loop, "run", adds(10))

    def fail():
        raise RuntimeError("hook was removed already")

    shadows.add_cleanup(fail)
    with pytest.raises(RuntimeError, match="removed already"):
        shadows.restore()
    shadows.restore()
    assert vars(loop) == {}


class Own(Loop):
    """Says itself how it is pickled and copied, each way once."""

    def __init__(self):
        self.n = 3


class WithState(Own):
    def __getstate__(self):
        return {**vars(self), "extra": 1}


class WithDeepcopy(Own):
    def __deepcopy__(self, memo):
        twin = type(self).__new__(type(self))
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin


class WithReduce(Own):
    def __reduce__(self):
        return type(self), (), vars(self)


class WithReduceEx(Own):
    def __reduce_ex__(self, protocol):
        return type(self), (), dict(vars(self))


class WithSlots(Own):
    __slots__ = ("slot",)

    def __init__(self):
        super().__init__()
        self.slot = 4


TWINS = {
    "pickled": lambda thing: pickle.loads(pickle.dumps(thing)),
    "pickled in Python": lambda thing: pickle.loads(vars(pickle)["_dumps"](thing)),
    "pickled by protocol 2": lambda thing: pickle.loads(pickle.dumps(thing, 2)),
    "deep-copied": copy.deepcopy,
    "copied": copy.copy,
}


@pytest.mark.parametrize("twin", TWINS.values(), ids=TWINS)
@pytest.mark.parametrize("kind", [Own, WithState, WithReduce, WithReduceEx, WithDeepcopy, WithSlots])
def test_a_copy_of_a_shadowed_object_is_as_if_it_were_not(kind, twin):
    plain = twin(kind())
    thing, keepers = kind(), [Patches(), Patches(lambda: None)]
    for keeper in keepers:
        keeper.wrap(thing, "run", adds(10))
    one, both = twin(thing), twin([thing, thing.run])
    assert vars(one) == vars(plain) == vars(twin(thing))
    assert (one.run(), thing.run()) == (1, 21)
    if isinstance(both, list) and both[0] is not thing:
        assert both[1]() == 1
        assert both[1].__self__ is both[0]
    for keeper in keepers:
        keeper.restore()
    assert vars(thing) == {"n": 3}
    assert vars(twin(thing)) == vars(plain)


def test_a_copy_keeps_an_instance_attribute_that_is_shadowed():
    loop, shadows = Loop(), Patches()
    loop.run = abs
    shadows.wrap(loop, "run", adds(10))
    for twin in (copy.copy(loop), copy.deepcopy(loop), pickle.loads(pickle.dumps(loop))):
        assert vars(twin) == {"run": abs}
    assert copy.deepcopy(loop.run) is pickle.loads(pickle.dumps(loop.run)) is abs


def test_putting_a_shadow_makes_no_dictionary_of_the_objects_attributes():
    """CPython reads attributes faster until somebody asks for the dictionary: `own` has the figure."""
    plain, asked, loop, shadows = Own(), Own(), Own(), Patches()
    assert vars(asked) == {"n": 3}
    shadows.wrap(loop, "run", adds(10))
    sizes = [sum(map(sys.getsizeof, gc.get_referents(each))) for each in (plain, asked)]
    if sizes[0] == sizes[1]:
        pytest.skip("this Python does not tell")
    assert not any(type(held) is dict for held in gc.get_referents(loop))


@pytest.mark.parametrize("failed", [None, lambda: None])
def test_a_classs_method_may_be_replaced_while_an_instances_is_watched(monkeypatch, failed):
    loop, shadows = Loop(), Patches(failed)
    shadows.wrap(loop, "run", adds(10))
    held = loop.run
    monkeypatch.setattr(Loop, "run", lambda self, n=1: -n)
    assert loop.run(3) == 10 - 3
    shadows.restore()
    assert (loop.run(3), held(3)) == (-3, -3)


def test_an_instances_own_method_goes_before_its_classs(monkeypatch):
    loop, shadows = Loop(), Patches()
    loop.run = abs
    shadows.wrap(loop, "run", adds(10))
    monkeypatch.setattr(Loop, "run", lambda self, n=1: -n)
    assert loop.run(-3) == 13


def test_a_mock_keeps_its_method():
    logger, shadows = Mock(), Patches()
    method = logger.log_metrics
    shadows.wrap(logger, "log_metrics", lambda original: lambda *a, **kw: original(*a, **kw))
    logger.log_metrics({"a": 1}, step=3)
    shadows.restore()
    logger.log_metrics({"b": 1}, step=4)
    assert logger.log_metrics is method
    assert logger.log_metrics.call_args_list == [call({"a": 1}, step=3), call({"b": 1}, step=4)]


@pytest.mark.parametrize("kind", [Mock, MagicMock])
def test_a_mock_that_was_watched_is_as_it_was(kind):
    logger, shadows = kind(), Patches()
    logger.log_metrics({}, step=0)
    copy.copy(logger)
    before, of_its_class = dict(vars(logger)), set(vars(type(logger)))
    shadows.wrap(logger, "log_metrics", lambda original: lambda *a, **kw: original(*a, **kw))
    shadows.wrap(logger, "log_metrics", lambda original: lambda *a, **kw: original(*a, **kw))
    copy.copy(logger)  # as a fit may do while it is watched
    shadows.restore()
    assert vars(logger).keys() - {"log_metrics"} == before.keys()
    assert set(vars(type(logger))) == of_its_class


def test_an_object_that_takes_no_attributes_is_left_alone():
    class Closed:
        __slots__ = ()

        def run(self):
            return 1

    closed, shadows = Closed(), Patches()
    shadows.wrap(closed, "run", adds(10))
    assert closed.run() == 1
    shadows.restore()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("raises", [False, True])
def test_a_wrapper_that_raises_costs_the_caller_nothing(after, raises):
    class Work:
        calls = 0

        def run(self, n):
            self.calls += 1
            if raises:
                raise KeyError(n)
            return n

    def wrap(original):
        def run(n):
            if not after:
                raise RuntimeError("a fault of ours")
            try:
                return original(n)
            finally:
                raise RuntimeError("a fault of ours")

        return run

    work, stopped = Work(), []
    shadows = Patches(lambda: stopped.append(sys.exc_info()[1]))
    shadows.wrap(work, "run", wrap)
    if raises:
        with pytest.raises(KeyError) as told:
            work.run(7)
        assert not isinstance(told.value.__context__, RuntimeError)
    else:
        assert work.run(7) == 7
    assert (work.calls, [str(error) for error in stopped]) == (1, ["a fault of ours"])


def test_a_hook_of_ours_is_copied_and_pickled_as_one_that_does_nothing():
    calls = []
    hook = Hook(lambda *args: calls.append(args))
    hook(1, 2)
    for twin in (copy.deepcopy(hook), pickle.loads(pickle.dumps(hook))):
        assert twin(1, 2, 3) is None
    assert b"lightning_costs" not in pickle.dumps(hook)
    assert calls == [(1, 2)]


def test_what_a_method_has_besides_a_shadow_of_it_has():
    class Strategy:
        def __init__(self):
            self.backward = Mock(return_value=3)

        def step(self):
            return 1

    strategy, shadows = Strategy(), Patches()
    for name in ("backward", "step"):
        shadows.wrap(strategy, name, lambda original: lambda *a, **kw: original(*a, **kw))
    strategy.backward(1)
    assert (strategy.backward.call_count, strategy.backward.return_value) == (1, 3)
    assert strategy.step.__self__ is strategy
    assert strategy.step.__func__ is Strategy.step
    assert not hasattr(strategy.step, "nothing")
    shadows.restore()
    assert vars(strategy).keys() == {"backward"}

from __future__ import annotations

import itertools

import pytest

from lightning_costs.probes.shadow import Shadows


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
    loop, other, shadows = Loop(), Loop(), Shadows()
    shadows.put(loop, "run", adds(10))
    assert (loop.run(), loop.run(n=5), other.run()) == (11, 15, 1)
    assert loop.run.__doc__ == "Run."


def test_lifting_gives_the_method_back_as_it_was():
    loop, shadows = Loop(), Shadows()
    shadows.put(loop, "run", adds(10))
    shadows.lift()
    assert loop.run() == 1
    assert vars(loop) == {}


def test_an_instance_attribute_that_was_there_comes_back():
    loop, shadows = Loop(), Shadows()
    own = lambda: 7  # noqa: E731 - an attribute, not a function of ours
    loop.run = own
    shadows.put(loop, "run", adds(10))
    assert loop.run() == 17
    shadows.lift()
    assert loop.run is own


def test_two_shadows_of_one_keeper_come_off_together():
    loop, shadows = Loop(), Shadows()
    shadows.put(loop, "run", adds(10))
    shadows.put(loop, "run", adds(100))
    assert loop.run() == 111
    shadows.lift()
    assert vars(loop) == {}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_keepers_may_lift_in_any_order_and_the_method_is_what_it_was(order):
    loop, keepers = Loop(), [Shadows() for _ in range(3)]
    for n, keeper in enumerate(keepers):
        keeper.put(loop, "run", adds(10**n * 10))
    assert loop.run() == 1111
    left = 1111
    for n in order:
        keepers[n].lift()
        left -= 10**n * 10
        assert loop.run() == left
    assert vars(loop) == {}


def test_a_foreign_wrap_on_top_stays_and_ours_below_it_only_calls_through():
    loop, shadows = Loop(), Shadows()
    shadows.put(loop, "run", adds(10))
    ours = loop.run
    loop.run = lambda: ours() + 1000
    shadows.lift()
    assert loop.run() == 1001


def test_lifting_twice_undoes_once():
    loop, shadows, undone = Loop(), Shadows(), []
    shadows.undo_with(lambda: undone.append(1))
    shadows.put(loop, "run", adds(10))
    shadows.lift()
    loop.run = lambda: 5
    shadows.lift()
    assert (undone, loop.run()) == ([1], 5)


def test_what_is_no_method_is_left_alone():
    loop, shadows = Loop(), Shadows()
    loop.steps = 3
    shadows.put(loop, "steps", adds(10))
    shadows.put(loop, "nothing", adds(10))
    assert vars(loop) == {"steps": 3}
    shadows.lift()
    assert vars(loop) == {"steps": 3}


def test_other_undoings_happen_last_first():
    shadows, order = Shadows(), []
    for n in range(3):
        shadows.undo_with(lambda n=n: order.append(n))
    shadows.lift()
    assert order == [2, 1, 0]


def test_one_undoing_that_raises_does_not_leave_the_others_on():
    loop, shadows = Loop(), Shadows()
    shadows.put(loop, "run", adds(10))

    def fail():
        raise RuntimeError("hook was removed already")

    shadows.undo_with(fail)
    with pytest.raises(RuntimeError, match="removed already"):
        shadows.lift()
    shadows.lift()
    assert vars(loop) == {}

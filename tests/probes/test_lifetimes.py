from __future__ import annotations

import torch

from lightning_costs.probes.lifetimes import Lifetimes

CPU = torch.device("cpu")
KB = 1024


def block(kilobytes: int) -> torch.Tensor:
    return torch.zeros(kilobytes * KB // 4)


def test_births_and_deaths_are_replayed_in_order():
    follows = Lifetimes(CPU)
    weight = block(4)
    follows.hold("param", [weight])
    first = block(8)
    follows.ran([weight], [first], activation=True)
    second = block(16)
    follows.ran([first], [second], activation=True)
    del first
    third = block(2)
    follows.ran([second], [third], activation=True)
    memory = follows.close()
    assert memory.peak_bytes == {"forward": (4 + 8 + 16) * KB, "backward": 0, "optimizer": 0}
    assert memory.at_peak_bytes == {
        "param": 4 * KB,
        "master": 0,
        "grad": 0,
        "opt_state": 0,
        "activation": 24 * KB,
        "other": 0,
    }


def test_a_storage_first_met_as_an_input_was_there_before():
    follows = Lifetimes(CPU)
    follows.ran([block(4)], [block(1)], activation=True)
    batch = block(4)
    follows.ran([batch], [], activation=True)
    assert follows.close().at_peak_bytes["other"] >= 4 * KB


def test_what_becomes_a_gradient_is_one_at_the_peak_before_too():
    follows = Lifetimes(CPU)
    follows.turn("backward")
    gradient = block(8)
    follows.ran([], [gradient], activation=False)
    scratch = block(32)
    follows.ran([], [scratch], activation=False)
    del scratch
    follows.hold("grad", [gradient])
    memory = follows.close()
    assert memory.peak_phase == "backward"
    assert memory.at_peak_bytes["grad"] == 8 * KB
    assert memory.at_peak_bytes["other"] == 32 * KB


def test_a_view_is_the_same_storage():
    follows = Lifetimes(CPU)
    whole = block(4)
    follows.ran([], [whole], activation=True)
    follows.ran([whole], [whole[:10], whole.view(-1, 2)], activation=True)
    assert follows.close().most_bytes == 4 * KB


def test_activations_are_what_the_forward_pass_left_when_backward_goes_on():
    follows = Lifetimes(CPU)
    kept, lost = block(4), block(64)
    follows.ran([], [kept], activation=True)
    follows.ran([], [lost], activation=True)
    del lost
    follows.turn("backward")
    again = block(2)
    follows.ran([], [again], activation=True)  # recomputed
    follows.turn("backward")
    assert follows.close().activation_bytes == 6 * KB


def test_an_allocators_word_goes_before_the_sum_of_storages():
    readings = iter([(100 * KB, 100 * KB), (120 * KB, 150 * KB), (90 * KB, 150 * KB)])
    follows = Lifetimes(CPU, lambda: next(readings))
    weight = block(4)
    follows.hold("param", [weight])
    outs = [block(1) for _ in range(3)]
    follows.ran([], outs[:1], activation=True)
    follows.turn("backward")
    follows.ran([], outs[1:2], activation=False)  # work space inside it: the most so far grew by more
    follows.ran([], outs[2:], activation=False)
    memory = follows.close()
    assert memory.peak_bytes == {"forward": 100 * KB, "backward": 150 * KB, "optimizer": 0}
    assert sum(memory.at_peak_bytes.values()) == 150 * KB
    assert memory.at_peak_bytes["param"] == 4 * KB


def test_the_joined_memory_of_two_steps_is_the_most_of_each():
    def step(forward, backward):
        follows = Lifetimes(CPU)
        early = block(forward)
        follows.ran([], [early], activation=True)
        follows.turn("backward")
        late = block(backward)
        follows.ran([], [late], activation=False)
        return follows.close()

    joined = step(8, 1).joined(step(2, 32))
    assert joined.peak_bytes["forward"] == 8 * KB
    assert joined.most_bytes == 34 * KB
    assert joined.peak_phase == "backward"


def test_storages_elsewhere_and_empty_ones_are_not_followed():
    follows = Lifetimes(CPU)
    follows.hold("param", [torch.zeros(0), torch.zeros(10, device="meta")])
    assert follows.close().most_bytes == 0

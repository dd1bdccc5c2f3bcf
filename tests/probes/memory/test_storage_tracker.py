from __future__ import annotations

import torch

from lightning_costs.probes.memory.storage_tracker import StorageTracker

CPU = torch.device("cpu")
KB = 1024


def block(kilobytes: int) -> torch.Tensor:
    return torch.zeros(kilobytes * KB // 4)


def test_births_and_deaths_are_replayed_in_order():
    follows = StorageTracker(CPU)
    weight = block(4)
    follows.track("param", [weight])
    first = block(8)
    follows.on_op([weight], [first], activation=True)
    second = block(16)
    follows.on_op([first], [second], activation=True)
    del first
    third = block(2)
    follows.on_op([second], [third], activation=True)
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
    follows = StorageTracker(CPU)
    follows.on_op([block(4)], [block(1)], activation=True)
    batch = block(4)
    follows.on_op([batch], [], activation=True)
    assert follows.close().at_peak_bytes["other"] >= 4 * KB


def test_what_becomes_a_gradient_is_one_at_the_peak_before_too():
    follows = StorageTracker(CPU)
    follows.set_phase("backward")
    gradient = block(8)
    follows.on_op([], [gradient], activation=False)
    scratch = block(32)
    follows.on_op([], [scratch], activation=False)
    del scratch
    follows.track("grad", [gradient])
    memory = follows.close()
    assert memory.peak_phase == "backward"
    assert memory.at_peak_bytes["grad"] == 8 * KB
    assert memory.at_peak_bytes["other"] == 32 * KB


def test_a_view_is_the_same_storage():
    follows = StorageTracker(CPU)
    whole = block(4)
    follows.on_op([], [whole], activation=True)
    follows.on_op([whole], [whole[:10], whole.view(-1, 2)], activation=True)
    assert follows.close().most_bytes == 4 * KB


def test_activations_are_what_the_forward_pass_left_when_backward_goes_on():
    follows = StorageTracker(CPU)
    kept, lost = block(4), block(64)
    follows.on_op([], [kept], activation=True)
    follows.on_op([], [lost], activation=True)
    del lost
    follows.set_phase("backward")
    again = block(2)
    follows.on_op([], [again], activation=True)  # recomputed
    follows.set_phase("backward")
    assert follows.close().activation_bytes == 6 * KB


def test_an_allocators_word_goes_before_the_sum_of_storages():
    readings = iter([(100 * KB, 100 * KB), (120 * KB, 150 * KB), (90 * KB, 150 * KB)])
    follows = StorageTracker(CPU, lambda: next(readings))
    weight = block(4)
    follows.track("param", [weight])
    outs = [block(1) for _ in range(3)]
    follows.on_op([], outs[:1], activation=True)
    follows.set_phase("backward")
    follows.on_op([], outs[1:2], activation=False)  # work space inside it: the most so far grew by more
    follows.on_op([], outs[2:], activation=False)
    memory = follows.close()
    assert memory.peak_bytes == {"forward": 100 * KB, "backward": 150 * KB, "optimizer": 0}
    assert sum(memory.at_peak_bytes.values()) == 150 * KB
    assert memory.at_peak_bytes["param"] == 4 * KB


def test_the_joined_memory_of_two_steps_is_the_most_of_each():
    def step(forward, backward):
        follows = StorageTracker(CPU)
        early = block(forward)
        follows.on_op([], [early], activation=True)
        follows.set_phase("backward")
        late = block(backward)
        follows.on_op([], [late], activation=False)
        return follows.close()

    joined = step(8, 1).joined(step(2, 32))
    assert joined.peak_bytes["forward"] == 8 * KB
    assert joined.most_bytes == 34 * KB
    assert joined.peak_phase == "backward"


def test_storages_elsewhere_and_empty_ones_are_not_followed():
    follows = StorageTracker(CPU)
    follows.track("param", [torch.zeros(0), torch.zeros(10, device="meta")])
    assert follows.close().most_bytes == 0

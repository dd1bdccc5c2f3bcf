from __future__ import annotations

import pytest
import torch
from torch import nn

from lightning_costs.patching.optimizers import inner_optimizers, unwrap
from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.memory.tensors import MemoryBreakdown, TensorMemory, memory_breakdown
from lightning_costs.records.missing import Missing

PARAMS = 10 * 20 + 20 + 20 * 4 + 4  # of the network below
TENSORS = 4


def network():
    return nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4))


def step(net, optimizer):
    optimizer.zero_grad()
    net(torch.randn(8, 10)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("make", "state_bytes"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), 0),
        (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), 4 * PARAMS),
        (lambda p: torch.optim.Adam(p), 2 * 4 * PARAMS + 4 * TENSORS),  # two moments, and a step count a tensor
        (lambda p: torch.optim.Adam(p, amsgrad=True), 3 * 4 * PARAMS + 4 * TENSORS),
        (lambda p: torch.optim.AdamW(p), 2 * 4 * PARAMS + 4 * TENSORS),
        (lambda p: torch.optim.Adagrad(p), 4 * PARAMS + 4 * TENSORS),
    ],
    ids=["SGD", "momentum", "Adam", "AMSGrad", "AdamW", "Adagrad"],
)
def test_bytes_are_those_of_the_textbook(make, state_bytes):
    net = network()
    optimizer = make(net.parameters())
    step(net, optimizer)
    expected = MemoryBreakdown(
        param_bytes=4 * PARAMS, master_bytes=0, grad_bytes=4 * PARAMS, opt_state_bytes=state_bytes
    )
    assert memory_breakdown(net, [optimizer]) == expected


def test_before_the_first_step_there_is_neither_gradient_nor_state():
    net = network()
    held = memory_breakdown(net, [torch.optim.Adam(net.parameters())])
    assert held == MemoryBreakdown(param_bytes=4 * PARAMS, master_bytes=0, grad_bytes=0, opt_state_bytes=0)


def test_half_precision_takes_half_the_bytes():
    net = network().bfloat16()
    assert memory_breakdown(net, []).param_bytes == 2 * PARAMS


def test_a_shared_parameter_is_held_once():
    embedding, head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)
    head.weight = embedding.weight
    assert memory_breakdown(nn.ModuleList([embedding, head]), []).param_bytes == 4 * 50 * 8


def test_two_views_of_one_storage_are_held_once():
    flat = torch.zeros(100)
    net = nn.Module()
    net.a, net.b = nn.Parameter(flat[:60]), nn.Parameter(flat[40:])
    assert memory_breakdown(net, []).param_bytes == 4 * 100


def test_two_optimizers_of_one_network_are_counted_once_each():
    net = network()
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9) for layer in (net[0], net[2])]
    for optimizer in optimizers:
        step(net, optimizer)
    assert memory_breakdown(net, optimizers).opt_state_bytes == 4 * PARAMS
    assert memory_breakdown(net, [*optimizers, *optimizers]).opt_state_bytes == 4 * PARAMS


def test_state_that_aliases_a_parameter_is_no_second_copy():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for p in net.parameters():
        optimizer.state[p]["old_p"] = p.data
    assert memory_breakdown(net, [optimizer]).opt_state_bytes == 0
    for p in net.parameters():
        optimizer.state[p]["old_p"] = p.data.clone()
    assert memory_breakdown(net, [optimizer]).opt_state_bytes == 4 * PARAMS


def test_state_in_nested_containers_is_found():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.state["global"] = {"history": [torch.zeros(10), (torch.zeros(5), {"x": torch.zeros(1)})], "n": 3}
    assert memory_breakdown(net, [optimizer]).opt_state_bytes == 4 * 16


def test_lbfgs_history_is_state():
    net = network()
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = net(torch.ones(8, 10)).pow(2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert memory_breakdown(net, [optimizer]).opt_state_bytes >= 3 * 4 * PARAMS


def test_sparse_gradients_are_their_indices_and_values():
    net = nn.Embedding(1000, 4, sparse=True)
    net(torch.tensor([1, 2, 2])).sum().backward()
    grad = net.weight.grad
    assert not grad.is_coalesced()  # as backward leaves it
    held = memory_breakdown(net, [])
    assert (held.param_bytes, held.grad_bytes) == (4 * 4000, 3 * 8 + 3 * 4 * 4)
    net.weight.grad = whole = grad.coalesce()  # two rows, in storages that torch made for three
    stored = sum(part.untyped_storage().nbytes() for part in (whole.indices(), whole.values()))
    assert memory_breakdown(net, []).grad_bytes == stored >= 2 * 8 + 2 * 4 * 4


def test_meta_parameters_hold_what_real_ones_would_and_lazy_ones_nothing():
    assert memory_breakdown(nn.Linear(1000, 1000, device="meta"), []).param_bytes == 4 * 1000 * 1001
    assert memory_breakdown(nn.LazyLinear(10), []).param_bytes == 0


def test_frozen_parameters_are_parameters():
    net = network()
    net[0].requires_grad_(False)
    step(net, torch.optim.SGD(net[2].parameters(), lr=0.1))
    held = memory_breakdown(net, [])
    assert (held.param_bytes, held.grad_bytes) == (4 * PARAMS, 4 * (20 * 4 + 4))


# Whose state it is -------------------------------------------------------------------------------------------


def sam(net):
    from pytorch_optimizer import SAM

    return SAM(net.parameters(), base_optimizer=torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)


def test_family_finds_the_base_optimizer_of_sam():
    optimizer = sam(network())
    members = list(inner_optimizers(optimizer))
    assert members[0] is optimizer
    assert type(members[1]) is torch.optim.SGD
    assert len(members) == 2


def test_a_plain_optimizer_is_its_whole_family():
    optimizer = torch.optim.Adam(network().parameters())
    assert list(inner_optimizers(optimizer)) == [optimizer]


def test_a_family_that_refers_to_itself_comes_to_an_end():
    first, second = (torch.optim.SGD(network().parameters(), lr=0.1) for _ in range(2))
    first.inner, second.outer = second, first
    assert list(inner_optimizers(first)) == [first, second]


class Wrapper:
    def __init__(self, **held):
        vars(self).update(held)


def test_unwrap_goes_under_wrappers_to_the_optimizer_that_holds_the_state():
    optimizer = torch.optim.SGD(network().parameters(), lr=0.1)
    assert unwrap(optimizer) is optimizer
    assert unwrap(Wrapper(_optimizer=optimizer)) is optimizer
    assert unwrap(Wrapper(optimizer=Wrapper(optimizer=optimizer))) is optimizer


def test_unwrap_goes_under_lightnings_optimizer():
    from lightning.pytorch.core.optimizer import LightningOptimizer

    optimizer = torch.optim.SGD(network().parameters(), lr=0.1)
    assert unwrap(LightningOptimizer(optimizer)) is optimizer


def test_unwrap_of_what_holds_no_optimizer_is_itself():
    stranger, circle = Wrapper(), Wrapper()
    circle.optimizer = circle
    assert unwrap(stranger) is stranger
    assert unwrap(circle) is circle
    assert list(inner_optimizers(stranger)) == []


def test_sams_second_copy_exists_only_between_its_two_passes():
    net = network()
    optimizer = sam(net)
    memory = TensorMemory(ProbeContext(module=net, optimizers=lambda: [optimizer]))
    x = torch.randn(8, 10)
    for _ in range(2):
        memory.watch(True)
        optimizer.zero_grad()
        net(x).sum().backward()
        optimizer.first_step(zero_grad=True)
        net(x).sum().backward()
        memory.sample()
        optimizer.second_step(zero_grad=True)
    assert memory.at_rest().opt_state_bytes <= memory.opt_peak_bytes
    assert memory.opt_peak_bytes == 2 * 4 * PARAMS  # momentum and the weights of before


def test_only_watched_steps_are_looked_at():
    net = network()
    memory = TensorMemory(ProbeContext(module=net))
    memory.sample()
    assert memory.grad_peak_bytes is None
    memory.watch(True)
    net(torch.randn(8, 10)).sum().backward()
    memory.sample()
    assert memory.grad_peak_bytes == 4 * PARAMS
    net.zero_grad()
    memory.sample()
    assert memory.grad_peak_bytes == 4 * PARAMS


def test_without_a_module_there_is_nothing_to_look_at():
    with pytest.raises(Missing, match="no module was given: no parameters to look at"):
        TensorMemory.attach(ProbeContext())

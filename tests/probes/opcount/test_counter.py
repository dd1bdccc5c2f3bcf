from __future__ import annotations

import itertools
import random
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from lightning_costs.probes.context import ProbeContext
from lightning_costs.probes.opcount import counter as probe
from lightning_costs.probes.opcount.counter import StepOpCounter
from lightning_costs.probes.opcount.eval_counter import EvalOpCounter
from lightning_costs.probes.opcount.mode import OpCounterMode, _is_compiled
from lightning_costs.probes.opcount.step_kinds import StepKind
from lightning_costs.records.missing import Missing


def counted(step) -> StepOpCounter:
    census = StepOpCounter()
    with census.counting("step"):
        step()
    census.record_batch("step")
    return census


def flop(step) -> int:
    return counted(step).total("flop")


# Closed forms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "n", "k", "bias"), [(8, 3, 5, False), (1, 7, 2, True), (16, 16, 16, True)])
def test_a_linear_layer_is_2mnk_forward_and_twice_that_backward(m, n, k, bias):
    layer, x = nn.Linear(k, n, bias=bias), torch.randn(m, k, requires_grad=True)
    assert flop(lambda: layer(x)) == 2 * m * n * k
    assert flop(lambda: layer(x).sum().backward()) == 3 * 2 * m * n * k


def test_a_first_layer_has_no_gradient_of_its_input():
    layer, x = nn.Linear(5, 3), torch.randn(8, 5)
    assert flop(lambda: layer(x).sum().backward()) == 2 * 2 * 8 * 3 * 5


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 2)])
def test_a_convolution_is_2_times_outputs_times_kernel(stride, groups):
    layer = nn.Conv2d(4, 6, kernel_size=3, stride=stride, padding=1, groups=groups)
    x = torch.randn(2, 4, 8, 8)
    side = 8 // stride
    forward = 2 * (2 * 6 * side * side) * (4 // groups) * 3 * 3
    assert flop(lambda: layer(x)) == forward


def test_a_convolution_backward_is_twice_its_forward():
    layer, x = nn.Conv2d(4, 6, kernel_size=3, padding=1), torch.randn(2, 4, 8, 8, requires_grad=True)
    forward = 2 * (2 * 6 * 8 * 8) * 4 * 3 * 3
    assert flop(lambda: layer(x).sum().backward()) == 3 * forward


def test_a_batched_product_is_2bmnk_forward_and_twice_that_backward():
    a, b = torch.randn(7, 3, 5, requires_grad=True), torch.randn(7, 5, 2, requires_grad=True)
    assert flop(lambda: torch.bmm(a, b)) == 2 * 7 * 3 * 5 * 2
    assert flop(lambda: (a @ b).sum().backward()) == 3 * 2 * 7 * 3 * 5 * 2


def attention(batch=2, heads=3, length=16, width=8):
    return [torch.randn(batch, heads, length, width, requires_grad=True) for _ in range(3)]


FORWARD = 2 * (2 * 2 * 3 * 16 * 16 * 8)  # query x key and scores x value


@pytest.mark.parametrize("causal", [False, True])
def test_attention_on_a_cpu_is_two_products_forward_and_five_backward(causal):
    q, k, v = attention()
    assert flop(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal)) == FORWARD
    step = lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal).sum().backward()  # noqa: E731
    assert flop(step) == FORWARD + FORWARD * 5 // 2


def test_what_has_no_product_is_zero_and_covered():
    census = counted(lambda: torch.relu(torch.randn(8, 8)).softmax(-1).sum())
    assert (census.total("flop"), census.uncounted, census.saw_no_products) == (0, {}, True)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_is_executed_work_and_not_the_models(reentrant):
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 6))
    x = torch.randn(4, 6, requires_grad=True)
    plain = counted(lambda: net(x).sum().backward())
    checkpoint = torch.utils.checkpoint.checkpoint
    again = counted(lambda: checkpoint(net, x, use_reentrant=reentrant).sum().backward())
    layers = [2 * 4 * n for n in (6 * 12, 12 * 6, 6 * 6)]
    assert plain.total("flop") == 3 * sum(layers)
    assert plain.total("recomputed_flop") == 0
    # A non-reentrant one stops when it has what the backward pass needs: the last product is not computed again.
    executed_again = sum(layers) if reentrant else sum(layers[:2])
    assert again.total("recomputed_flop") == executed_again
    assert again.total("flop") == plain.total("flop") + executed_again


def test_a_backward_pass_that_is_differentiated_itself_is_no_recomputation():
    layer, x = nn.Linear(6, 6, bias=False), torch.randn(4, 6, requires_grad=True)

    def penalty():
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        gradient.square().sum().backward()

    census = counted(penalty)
    assert census.total("recomputed_flop") == 0
    assert census.total("flop") > 3 * 2 * 4 * 36


def test_fused_attention_asks_the_model_for_as_much_as_explicit_attention():
    q, k, v = attention()
    fused = counted(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())
    explicit = counted(lambda: ((q @ k.transpose(-2, -1) / 8**0.5).softmax(-1) @ v).sum().backward())
    assert fused.total("flop") - fused.total("recomputed_flop") == explicit.total("flop") == 3 * FORWARD


def test_a_small_network_is_the_sum_of_its_layers():
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.LayerNorm(20), nn.Linear(20, 4))
    x = torch.randn(16, 10)
    optimizer = torch.optim.AdamW(net.parameters())

    def step():
        optimizer.zero_grad()
        net(x).pow(2).mean().backward()
        optimizer.step()

    first, last = 2 * 16 * 10 * 20, 2 * 16 * 20 * 4
    assert flop(step) == 2 * first + 3 * last


# Harmless ----------------------------------------------------------------------------------------------------


def train(census, steps=20):
    torch.manual_seed(7)
    net = nn.Sequential(nn.Linear(12, 24), nn.Dropout(0.4), nn.ReLU(), nn.Linear(24, 3), nn.Dropout(0.1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for n in range(steps):
        x, y = torch.randn(8 + n % 3, 12), torch.randint(3, (8 + n % 3,))
        key = x.shape
        wanted = census is not None and census.should_count(key)
        with census.counting(key) if wanted else torch.enable_grad():
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
        if census is not None:
            census.record_batch(key)
    return [p.detach().clone() for p in net.parameters()], torch.get_rng_state()


def test_counting_changes_neither_weights_nor_random_numbers_by_a_bit():
    census = StepOpCounter()
    (plain, plain_rng), (watched, watched_rng) = train(None), train(census)
    assert census.censuses == 4  # three shapes, and one drawn
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert torch.equal(plain_rng, watched_rng)


def test_every_step_counted_is_harmless_too():
    census = StepOpCounter()
    keys = itertools.count()
    census.should_count = lambda key: True
    original = census.counting
    census.counting = lambda key: original((key, next(keys)))
    (plain, plain_rng), (watched, watched_rng) = train(None), train(census)
    assert census.censuses == 20
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert torch.equal(plain_rng, watched_rng)


def test_a_step_that_raises_counts_for_nothing_and_leaves_no_mode_on():
    census = StepOpCounter()
    x = torch.randn(4, 4)

    def fail():
        with census.counting("k"):
            _ = x @ x
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        fail()
    assert _get_current_dispatch_mode_stack() == []
    assert census.should_count("k")
    with census.counting("k"):
        _ = x @ x
    census.record_batch("k")
    assert (census.total("flop"), census.batches, census.waiting) == (2 * 4**3, 1, 0)


def test_nothing_is_left_on_the_stack_between_steps():
    counted(lambda: torch.randn(2, 2) @ torch.randn(2, 2))
    assert _get_current_dispatch_mode_stack() == []


# What is remembered ------------------------------------------------------------------------------------------


class Loop:
    """Steps of known work: a square product of side n is 2n^3."""

    def __init__(self):
        self.census, self.true_flop, self.counted = StepOpCounter(), 0, 0

    def step(self, key, kind, side):
        wanted = self.census.should_count(key)
        self.counted += wanted
        x = torch.zeros(side, side)
        if wanted:
            with self.census.counting(key):
                _ = x @ x
        else:
            _ = x @ x
        self.census.record_batch((key, kind))
        self.true_flop += 2 * side**3


def test_steps_of_one_kind_are_counted_once_and_again_now_and_then():
    loop = Loop()
    for _ in range(500):
        loop.step("shape", None, 6)
    assert (loop.census.total("flop"), loop.census.agrees, loop.census.waiting) == (loop.true_flop, True, 0)
    assert 5 < loop.counted < 40


def test_new_shapes_are_counted_anew():
    loop = Loop()
    for n in (4, 6, 4, 8, 6, 4):
        loop.step(n, None, n)
    assert (loop.census.total("flop"), loop.counted) == (loop.true_flop, 3)


@pytest.mark.parametrize("odd_first", [True, False])
def test_a_gan_that_trains_its_networks_on_odd_and_even_batches_comes_out_exact(odd_first):
    loop = Loop()
    for n in range(21):
        discriminator = bool(n % 2) == odd_first
        loop.step("same shapes", "d" if discriminator else "g", 4 if discriminator else 9)
    assert loop.census.waiting == 0
    assert loop.census.total("flop") == loop.true_flop
    assert loop.counted <= 6


@pytest.mark.parametrize("period", [3, 5, 16])
def test_a_critic_with_many_steps_to_one_of_the_generator_comes_out_exact(period):
    loop = Loop()
    for n in range(10 * period):
        generator = n % period == period - 1
        loop.step("same shapes", "g" if generator else "c", 7 if generator else 3)
    assert loop.census.waiting == 0
    assert loop.census.total("flop") == loop.true_flop


def test_a_kind_that_never_came_again_is_an_estimate_that_may_be_wrong_by_all_of_it():
    loop = Loop()
    loop.step("k", "a", 4)
    loop.step("k", "b", 9)
    found = loop.census.estimate("flop")
    assert (loop.census.predicted, loop.census.batches, found.exact) == (1, 2, False)
    assert found.low <= loop.true_flop <= found.high


def test_warm_up_is_in_the_total_and_out_of_the_steady_count():
    loop = Loop()
    for n in range(5):
        loop.step("k", None, 4)
        loop.census.commit(steady=n >= 2)
    assert (loop.census.total("flop"), loop.census.total("flop", steady=True)) == (5 * 2 * 4**3, 3 * 2 * 4**3)


def test_accumulated_batches_settle_with_their_step():
    loop = Loop()
    for _ in range(4):
        loop.step("k", None, 4)
    loop.census.commit(steady=True)
    loop.step("k", None, 4)
    loop.census.commit(steady=False)
    assert (loop.census.total("flop"), loop.census.total("flop", steady=True)) == (5 * 2 * 4**3, 4 * 2 * 4**3)


def test_ever_new_shapes_stop_being_counted_and_the_rest_is_predicted(monkeypatch):
    monkeypatch.setattr(probe, "MOST_CENSUSES", 5)
    loop = Loop()
    for n in range(2, 34):
        loop.step(n, None, 4)
    assert 5 <= loop.counted < 16
    assert loop.census.predicted > 16
    assert loop.census.total("flop") == loop.true_flop
    assert not loop.census.estimate("flop").exact


def test_a_long_tail_of_kinds_keeps_to_the_time_that_counting_may_take():
    loop = Loop()
    for _ in range(2):
        for n in range(2, 42):
            loop.census.took(60.0, again=True)  # far more than it may
            loop.step(n, None, 4)
    assert probe.FEW_KINDS <= loop.counted < probe.FEW_KINDS + 8
    assert loop.census.total("flop") == loop.true_flop
    assert not loop.census.estimate("flop").exact


def test_kinds_that_come_at_random_are_not_waited_for_as_if_they_came_in_turn():
    chance, loop = random.Random(0), Loop()
    signature = (((8, 4), "float32"),)
    for _ in range(600):
        depth = 2 + int(chance.expovariate(0.3))
        loop.census.took(60.0, again=True)
        kind = StepKind(signature, nodes=depth)
        with loop.census.counting("k") if loop.census.should_count("k") else nullcontext():
            _ = torch.zeros(depth, 4) @ torch.zeros(4, 4)
        loop.census.record_batch(kind)
    assert 5 <= loop.census.censuses < 40


def test_many_kinds_that_come_in_turn_keep_to_the_time_that_counting_may_take():
    """Graphs that are not shuffled come back in each epoch, each a kind of its own."""
    loop, signature, true_flop = Loop(), (((8, 4), "float32"),), 0
    for _ in range(5):
        for depth in range(2, 102):
            loop.census.took(60.0, again=True)
            with loop.census.counting("k") if loop.census.should_count("k") else nullcontext():
                _ = torch.zeros(depth, 4) @ torch.zeros(4, 4)
            true_flop += 2 * depth * 4 * 4
            loop.census.record_batch(StepKind(signature, nodes=depth))
    assert loop.census.censuses < 5 * probe.FEW_KINDS
    assert loop.census.total("flop") == pytest.approx(true_flop, rel=1e-9)  # linear in what is known of a step
    assert not loop.census.estimate("flop").exact


def test_a_counted_batch_is_as_long_as_it_is_to_the_next_ones_begin():
    """Batches that are not counted are measured so: what a loop does beside the work is no saving of a count's."""
    clock = [0.0]
    census = StepOpCounter(work_s=lambda: clock[0])
    for batch in range(40):
        census.settle()
        if batch in {0, 20}:
            census.count_begins()
            clock[0] += 0.003  # the work, counted: 2 ms more
            census.count_ends(again=batch > 0, compiled_s=0.0)
        else:
            clock[0] += 0.001
        clock[0] += 0.009  # hooks, metrics, logging
        census.record_batch("k")
    assert census.settle() is None
    assert census.step_s == pytest.approx(0.010)
    assert census._draws._took_s + census._draws._new_s == pytest.approx(0.024)


def test_the_first_counted_step_tells_the_operators_per_step():
    census = StepOpCounter()
    assert census.first is None
    with census.counting("k"):
        _ = torch.zeros(3, 3) @ torch.zeros(3, 3)
    census.record_batch("k")
    assert census.first is not None
    assert census.first.step.calls == 3


def test_without_a_module_there_is_nothing_to_count():
    with pytest.raises(Missing, match="no module was given: nothing to count operators of"):
        StepOpCounter.attach(ProbeContext())


# Operators without a formula ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def custom_op():
    @torch.library.custom_op("lightning_costs_tests::twice_matmul", mutates_args=())
    def twice_matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return 2 * (a @ b)

    return twice_matmul


def test_a_custom_operator_without_a_formula_is_named(custom_op):
    x = torch.ones(4, 4)
    census = counted(lambda: custom_op(x, x) + x @ x)
    assert census.uncounted == {"lightning_costs_tests.twice_matmul": 1}
    assert census.total("flop") >= 2 * 4**3
    assert census.saw_no_products is False


def test_a_formula_registered_through_torch_makes_it_counted(custom_op):
    from torch.utils.flop_counter import flop_registry, register_flop_formula

    packet = torch.ops.lightning_costs_tests.twice_matmul
    x = torch.ones(4, 4)

    def formula(a_shape, b_shape, *args, out_shape=None, **kwargs):
        return 2 * a_shape[0] * a_shape[1] * b_shape[1]

    register_flop_formula(packet)(formula)
    try:
        census = counted(lambda: custom_op(x, x))
    finally:
        flop_registry.pop(packet)
    assert (census.total("flop"), census.uncounted) == (2 * 4**3, {})


def test_a_formula_that_raises_does_not_kill_the_step(custom_op):
    from torch.utils.flop_counter import flop_registry

    def broken(*args, **kwargs):
        raise RuntimeError("bad formula")

    packet = torch.ops.lightning_costs_tests.twice_matmul
    x = torch.ones(4, 4)
    flop_registry[packet] = broken
    try:
        census = counted(lambda: custom_op(x, x))
    finally:
        flop_registry.pop(packet)
    assert census.uncounted == {"lightning_costs_tests.twice_matmul": 1}


def test_an_operator_that_cannot_be_watched_makes_counts_missing_and_runs(monkeypatch):
    from lightning_costs.probes.opcount import mode

    def broken(*args):
        raise RuntimeError("what is this?")

    monkeypatch.setattr(mode, "planned_bytes", broken)
    out = []
    census = counted(lambda: out.append(torch.ones(2, 2) @ torch.ones(2, 2)))
    assert out[0].tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert "could not be watched: RuntimeError (its text is in the log)" in census.failed


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_sparse_gradients_and_nested_tensors_of_a_weights_shape_are_counted():
    table, layer = nn.Embedding(20, 8, sparse=True), nn.Linear(6, 3)
    update = torch.optim.SparseAdam(table.parameters())
    rows = torch.nested.nested_tensor([torch.randn(4, 6), torch.randn(2, 6)])
    census = StepOpCounter(nn.ModuleList([table, layer]))
    with census.counting("step"):
        layer(rows * 2)
        table(torch.tensor([1, 2])).square().mean().backward()
        update.step()
    census.record_batch("step")
    assert census.failed is None
    assert census.total("flop") == 2 * 6 * 6 * 3


# The first forward pass ------------------------------------------------------------------------------------------


def test_the_first_forward_pass_is_told_from_the_rest_of_a_sam_step():
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 4))
    x = torch.randn(8, 10)

    def sam():
        net(x).square().mean().backward()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(p.grad, alpha=0.05)
        net(x).square().mean().backward()

    first = counted(sam).first
    forward = 2 * 8 * (10 * 20 + 20 * 4)
    assert first.forward.flop == forward
    assert first.step.flop == 2 * (2 * 2 * 8 * 10 * 20 + 3 * 2 * 8 * 20 * 4)
    assert first.forward.mac == forward // 2


def test_activations_are_outputs_of_products_with_a_weight():
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 64, 7))
    x = torch.randn(2, 3, 8, 8)
    census = StepOpCounter(net)
    with census.counting("k", 2):
        q = net(x)
        (q @ q.T).sum().backward()  # a product of activations with each other has no weight
    census.record_batch("k")
    assert census.first.forward.elements == 2 * (5 * 64 + 7)


def test_a_lazy_layer_is_counted_in_the_step_that_gives_it_its_shape():
    net, never_used = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.LazyLinear(3)), nn.LazyLinear(2)
    census = StepOpCounter(nn.ModuleList([net, never_used, nn.Sequential(nn.LazyLinear(2), nn.LazyLinear(2))]))
    with census.counting("step"):
        net(torch.randn(8, 12)).sum().backward()
    census.record_batch("step")
    assert census.failed is None
    assert census.total("flop") == 2 * 8 * (2 * 12 * 4 + 3 * 4 * 3)
    assert census.first.forward.elements == 8 * (4 + 3)
    assert census.profile() is not None


def test_a_weight_cast_by_autocast_is_the_same_weight():
    net, x = nn.Linear(10, 4), torch.randn(8, 10)
    census = StepOpCounter(net)
    with census.counting("k", 8):
        with torch.autocast("cpu", torch.bfloat16):
            out = net(x)
        out.float().sum().backward()
    census.record_batch("k")
    assert census.first.forward.elements == 8 * 4
    assert census.flop_by_dtype == {"bfloat16": 2 * 2 * 8 * 10 * 4}


# Memory ------------------------------------------------------------------------------------------------------


def adam_steps(count, *, rest=0):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(100, 200, bias=False), nn.Tanh(), nn.Linear(200, 10, bias=False))
    optimizer = torch.optim.Adam(net.parameters(), foreach=False)
    census = StepOpCounter(net, lambda: [optimizer], torch.device("cpu"))
    x = torch.randn(50, 100)
    for _ in range(count):
        step = census.counting("k", 50) if census.should_count("k") else torch.enable_grad()
        with step:
            optimizer.zero_grad()
            net(x).sum().backward()
            optimizer.step()
        census.record_batch("k")
        census.commit(steady=True)
    return census


WEIGHTS = 4 * (100 * 200 + 200 * 10)
INPUT = 4 * 50 * 100


def test_a_key_counted_before_the_first_update_is_followed_once_more_for_its_memory():
    assert adam_steps(1).memory_is_early
    census = adam_steps(5)
    assert (census.censuses, census.memory_is_early) == (2, False)
    assert census.memory.peak_bytes["forward"] - adam_steps(1).memory.peak_bytes["forward"] == 2 * WEIGHTS


def test_a_counted_step_that_finds_more_state_than_those_before_is_followed_for_its_memory():
    """K-fold: the folds' models have batches of the same shapes, and each adds its gradients and its state."""
    nets = nn.ModuleList(nn.Linear(100, 200, bias=False) for _ in range(3))
    optimizers = [torch.optim.SGD(net.parameters(), 0.1, momentum=0.9) for net in nets]
    census, weights, peaks = StepOpCounter(nets, lambda: optimizers, torch.device("cpu")), 4 * 100 * 200, []
    for net, optimizer in zip(nets, optimizers, strict=True):
        for _ in range(4):
            with census.counting("k", 50):
                optimizer.zero_grad()
                net(torch.randn(50, 100)).sum().backward()
                optimizer.step()
            census.record_batch("k")
            census.commit(steady=True)
        peaks.append(census.memory.most_bytes)
    assert census.memory.at_peak_bytes["opt_state"] == 3 * weights
    assert census.memory.at_peak_bytes["grad"] == 3 * weights
    assert [more - peaks[0] for more in peaks[1:]] == [2 * weights, 4 * weights]


def test_activations_are_what_the_forward_pass_made_and_the_backward_pass_needs():
    # Tanh keeps its output; the product before it is gone by then. The loss is a number, and so is the gradient of
    # itself that backward begins with.
    assert adam_steps(2).memory.activation_bytes == 4 * 50 * 200 + 2 * 4


def test_kinds_at_the_peak_add_up_and_are_the_analytic_ones():
    memory = adam_steps(3).memory
    assert sum(memory.at_peak_bytes.values()) == memory.most_bytes == max(memory.peak_bytes.values())
    assert memory.at_peak_bytes["param"] == WEIGHTS
    assert memory.at_peak_bytes["opt_state"] == 2 * WEIGHTS + 2 * 4


def test_phases_hold_what_is_alive_in_them():
    peaks = adam_steps(3).memory.peak_bytes
    held = 3 * WEIGHTS + 8 + INPUT
    # Forward: both outputs beside each other; the last output is 50 x 10.
    assert peaks["forward"] == held + 2 * 4 * 50 * 200
    assert peaks["optimizer"] >= held + WEIGHTS
    assert peaks["backward"] >= held + WEIGHTS


def test_recomputed_activations_are_kept_for_a_moment_too():
    def kept(segments):
        net = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(8)])
        census = StepOpCounter(net, tuple, torch.device("cpu"))
        x = torch.randn(128, 64, requires_grad=True)
        with census.counting("k"):
            if segments:
                torch.utils.checkpoint.checkpoint_sequential(net, segments, x, use_reentrant=False).sum().backward()
            else:
                net(x).sum().backward()
        return census.memory.activation_bytes

    each = 4 * 128 * 64
    assert kept(0) == 8 * each + 2 * 4
    assert 4 * each < kept(2) < 8 * each


def test_nothing_is_kept_alive():
    import gc
    import weakref

    net = nn.Linear(10, 10)
    census = StepOpCounter(net, tuple, torch.device("cpu"))
    with census.counting("k"):
        out = net(torch.randn(4, 10))
        out.sum().backward()
        gone = weakref.ref(out)
        del out
    gc.collect()
    assert gone() is None


# Evaluation --------------------------------------------------------------------------------------------------


def test_evaluation_batches_are_counted_once_a_shape():
    census = EvalOpCounter()
    layer = nn.Linear(6, 4)
    for rows in (8, 8, 3, 8):
        count = census.before((((rows, 6), torch.float32),), 0)
        with count or torch.no_grad():
            layer(torch.zeros(rows, 6))
    assert (census.batches, census.unknown) == (4, 0)
    assert census.flop == 2 * 6 * 4 * (8 + 8 + 3 + 8)


# Compiled modules --------------------------------------------------------------------------------------------


def test_in_a_module_that_compiles_in_place_what_watches_is_not_compiled():
    torch._dynamo.reset()
    net = nn.Sequential(nn.Linear(20, 16), nn.Dropout(0.1), nn.Linear(16, 4))
    net.compile(backend="eager")
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    census = StepOpCounter(net, lambda: [optimizer], torch.device("cpu"))
    try:
        for n in range(3):
            with census.counting(n):
                net(torch.randn(8 + 8 * n, 20)).mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            assert census.failed is None
            census.record_batch(n)
            census.commit(steady=True)
        watched = OpCounterMode._after
        assert not torch._dynamo.eval_frame._debug_get_cache_entry_list(watched.__code__)
    finally:
        torch._dynamo.reset()
    assert census.total("flop") == (8 + 16 + 24) * 2 * (2 * 20 * 16 + 3 * 16 * 4)


@pytest.mark.parametrize("aot", [False, True])
def test_a_compiled_module_runs_its_compiled_graph_in_the_counted_step_and_after_it(aot):
    torch._dynamo.reset()
    runs = []

    def backend(graph, example_inputs):
        def run(*args):
            runs.append(1)
            return graph(*args)

        if not aot:
            return run
        from functorch.compile import make_boxed_func

        return make_boxed_func(run)

    if aot:
        from torch._dynamo.backends.common import aot_autograd

        backend = aot_autograd(fw_compiler=backend)
    layer = nn.Linear(5, 3)
    compiled = torch.compile(layer, backend=backend)
    x = torch.randn(8, 5, requires_grad=True)

    def step():
        compiled(x).sum().backward()

    def graph_runs():
        runs.clear()
        step()
        return len(runs)

    try:
        before = graph_runs()
        assert before >= 1
        runs.clear()
        census = counted(step)
        assert (census.total("flop"), len(runs)) == (3 * 2 * 8 * 3 * 5, before)
        assert [graph_runs() for _ in range(3)] == [before] * 3
    finally:
        torch._dynamo.reset()


def test_counting_eagerly_leaves_the_graph_out_of_the_counted_step_alone():
    torch._dynamo.reset()
    runs = []

    def backend(graph, _):
        return lambda *args: (runs.append(1), graph(*args))[1]

    compiled, x = torch.compile(nn.Linear(5, 3), backend=backend), torch.randn(8, 5, requires_grad=True)
    census = StepOpCounter(count="eager")
    try:
        for _ in range(3):
            with census.counting("a step") if census.should_count("a step") else nullcontext():
                compiled(x).sum().backward()
            census.record_batch("a step")
        assert (census.total("flop"), len(runs)) == (3 * 3 * 2 * 8 * 3 * 5, 2)
    finally:
        torch._dynamo.reset()


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning")  # torch's own, of its compiler
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow), "inductor"])
def test_a_counted_step_of_a_compiled_model_gives_the_bits_of_the_users_step(backend):
    def train(count):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(20, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 4))
        compiled, optimizer = torch.compile(net, backend=backend), torch.optim.Adam(net.parameters(), 1e-2)
        census = StepOpCounter(net, lambda: [optimizer], torch.device("cpu"), count)
        for n in range(4):
            with census.counting("a step") if census.should_count("a step") else nullcontext():
                compiled(torch.randn(32, 20)).pow(2).mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            census.record_batch("a step")
            census.commit(steady=n > 2)
        return torch.cat([p.detach().flatten() for p in net.parameters()]), census

    torch._dynamo.reset()
    try:
        (plain, _), (counted, census) = train("off"), train("auto")
    finally:
        torch._dynamo.reset()
    assert torch.equal(plain, counted)
    assert census.failed is None
    assert census.total("flop") == 4 * 2 * 32 * (2 * 20 * 16 + 3 * 16 * 4)


def test_where_torch_cannot_count_compiled_code_as_it_runs_it_is_not_counted(monkeypatch):
    class Old:
        """A dispatch mode of a torch that knows of no `ignore_compile_internals`."""

    monkeypatch.setattr("lightning_costs.probes.opcount.counting.TorchDispatchMode", Old)
    torch._dynamo.reset()
    assert StepOpCounter(nn.Linear(5, 3)).should_count("a step")
    try:
        net = torch.compile(nn.Linear(5, 3), backend="eager")
        census, evaluation = StepOpCounter(net), EvalOpCounter(net)
        assert not census.should_count("a step")
        assert "cannot count compiled code" in census.failed
        assert evaluation.before(()) is None
        assert StepOpCounter(net, count="eager").should_count("a step")
    finally:
        torch._dynamo.reset()


def test_counting_that_is_off_counts_nothing():
    census, evaluation = StepOpCounter(nn.Linear(5, 3), count="off"), EvalOpCounter(count="off")
    assert not census.should_count("a step")
    assert evaluation.before(()) is None
    assert "LIGHTNING_COSTS_COUNT=0" in census.failed


@pytest.mark.filterwarnings("ignore")  # torch's own, about gradients that it looks at
def test_a_branch_of_torch_cond_runs_in_a_counted_step():
    net = nn.Linear(4, 4)

    def step():
        y = net(torch.rand(2, 4))
        torch.cond(y.sum() > 0, lambda y: y.pow(2).mean(), lambda y: y.abs().mean(), (y,)).backward()

    census = counted(step)
    assert census.total("flop") == 2 * 2 * 2 * 4 * 4
    assert census.missing_formulas == ("cond",)
    assert net.weight.grad is not None


@pytest.mark.integration
def test_a_census_does_not_bring_torchs_compiler_into_the_process():
    import subprocess
    import sys

    program = """if True:
        import sys, torch
        from lightning_costs.probes.opcount.counter import StepOpCounter
        layer = torch.nn.Linear(4, 4)
        census = StepOpCounter(layer, tuple, torch.device("cpu"))
        with census.counting("k", 2):
            layer(torch.ones(2, 4)).sum().backward()
        census.record_batch("k")
        print(census.total("flop"), "torch._dynamo" in sys.modules)
        """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(2 * 2 * 2 * 4 * 4), "False"]


def test_a_step_whose_tensors_cannot_be_looked_at_goes_on_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Linear(4, 4)
    census = StepOpCounter(net, device=torch.device("cpu"))

    def refuses(*_: object) -> None:
        raise RuntimeError("no storage here")

    monkeypatch.setattr("lightning_costs.probes.opcount.counter.tensors_by_kind", refuses)
    with census.counting("a step"):
        net(torch.zeros(2, 4)).sum().backward()
    assert net.weight.grad is not None
    assert census.failed is not None
    assert census.failed.endswith("Error (its text is in the log)")
    assert census.first is None


def test_weights_that_are_put_together_while_in_use_are_known_as_weights() -> None:
    """As under ZeRO-3: between uses a parameter is empty, and in use it lies elsewhere each time."""
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    whole = {p: p.data.clone() for p in net.parameters()}
    for layer in net:
        layer.register_forward_pre_hook(
            lambda layer, _: [setattr(p, "data", whole[p].clone()) for p in layer.parameters()] and None
        )
        layer.register_forward_hook(
            lambda layer, *_: [setattr(p, "data", torch.empty(0)) for p in layer.parameters()] and None
        )
    for parameter in net.parameters():
        parameter.ds_numel = parameter.numel()
        parameter.data = torch.empty(0)
    census = StepOpCounter(net, device=torch.device("cpu"))
    with census.counting("a step"), torch.no_grad():
        net(torch.zeros(3, 4))
    census.record_batch("a step")
    assert census.first is not None
    assert census.first.forward.elements == 3 * (8 + 2)


def test_an_operator_that_no_python_code_calls_is_of_no_compiled_code():
    """Autograd's threads for CUDA devices have no frames: the GPU tests train so."""
    assert not _is_compiled(None)

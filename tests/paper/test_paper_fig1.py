"""Figure 1's models are what they are called, and their costs are those of closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from examples.paper.blocks import feed_forward
from examples.paper.claims import Results
from examples.paper.fig1 import STUDY, build, params_if_reached, throughput
from examples.paper.learning import Training, with_lightning
from examples.paper.study import Job
from examples.paper.switch import Switch, SwitchDecoder, imbalance
from lightning_costs import load_run, measure

TINY = STUDY.sizes["tiny"]
WIDTH, CONTEXT, EXPERTS, BATCH = (TINY[name] for name in ("width", "context", "experts", "batch"))
ARMS = sorted(STUDY.arms)


def net_and_depth(arm):
    """A method's kind, and how often blocks are called."""
    return STUDY.arms[arm]["net"], TINY["depths"][STUDY.arms[arm]["deep"]]


def attention_params():
    return 3 * WIDTH**2 + 3 * WIDTH + WIDTH**2 + WIDTH


def expert_params():
    return 2 * WIDTH * 4 * WIDTH + 4 * WIDTH + WIDTH


def block_params():
    """A plain block: attention, feed-forward part, two norms."""
    return attention_params() + expert_params() + 2 * 2 * WIDTH


def router_params():
    return WIDTH * EXPERTS + EXPERTS


def edge_params():
    """Embedding, positions, last norm, head."""
    return 256 * WIDTH + CONTEXT * WIDTH + 2 * WIDTH + WIDTH * 256 + 256


def expected_params(arm):
    """All, active and shared parameters."""
    kind, depth = net_and_depth(arm)
    if kind == "universal":
        every = edge_params() + block_params() + depth * WIDTH
        return every, every, block_params()
    active = edge_params() + depth * block_params()
    if kind == "transformer":
        return active, active, 0
    active += depth * router_params()
    return active + depth * (EXPERTS - 1) * expert_params(), active, 0


def product_and_attention_flop(arm):
    """Forward, per sample: of products with weights, and of attention's products; causal attention counts in full."""
    kind, depth = net_and_depth(arm)
    products = depth * 2 * CONTEXT * (4 + 8) * WIDTH**2 + 2 * CONTEXT * WIDTH * 256
    if kind == "switch":
        products += depth * 2 * CONTEXT * WIDTH * EXPERTS
    return products, depth * 4 * CONTEXT**2 * WIDTH


def step_flop(arm):
    """A training step: a product has two more backward, fused attention five where forward had two."""
    products, attention = product_and_attention_flop(arm)
    return BATCH * (3 * products + attention + attention * 5 // 2)


def job(arm, folder, **own):
    (found,) = STUDY.jobs("tiny", folder, seeds=1, arms=[arm])
    return replace(found, settings={**found.settings, **own})


# Before training ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arm", ARMS)
def test_measured_parameters_and_flop_are_those_of_closed_forms(arm, tmp_path):
    pl.seed_everything(1, verbose=False)
    net = build(job(arm, tmp_path)).module.net
    found = measure(net, torch.randint(256, (BATCH, CONTEXT)), times=False)
    assert (found.params, found.active_params, found.shared_params) == expected_params(arm)
    assert found.forward_flop == sum(product_and_attention_flop(arm))
    assert found.flop == step_flop(arm)
    assert not found.uncounted


@pytest.mark.parametrize("favourite", [None, 0, 3])
def test_flop_and_active_params_of_experts_do_not_depend_on_the_routing(favourite, tmp_path):
    """All tokens to one expert, or wherever the router sends them."""
    pl.seed_everything(1, verbose=False)
    net = build(job("switch", tmp_path)).module.net
    if favourite is not None:
        for switch in net.switches:
            nn.init.zeros_(switch.router.weight)
            switch.router.bias.data[favourite] = 9.0
    found = measure(net, torch.randint(256, (BATCH, CONTEXT)), times=False)
    assert found.flop == step_flop("switch")
    assert found.active_params == expected_params("switch")[1]


# In training -------------------------------------------------------------------------------------------------


class Batches(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(batch[0].clone())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of each kind, and the batches that it saw."""
    folder = tmp_path_factory.mktemp("fig1")
    runs, batches = {}, {}
    for arm in ("transformer", "universal", "switch"):
        watched = Batches()

        def built(job: Job, watched: Batches = watched) -> Training:
            return replace(build(job), callbacks=[watched])

        with_lightning(built, monitor=STUDY.monitor, mode=STUDY.mode)(job(arm, folder))
        (run_folder,) = Path(folder).glob(f"{arm}-seed1-*")
        runs[arm], batches[arm] = load_run(run_folder), watched.seen
    return runs, batches


@pytest.mark.parametrize("arm", ["transformer", "universal", "switch"])
def test_a_run_reports_the_closed_forms_over_all_its_steps(arm, trained):
    """Routing differs from step to step, and two of the steps are counted: no other is off."""
    final = trained[0][arm].final
    assert final["flop"] == TINY["steps"] * step_flop(arm)
    assert final["forward_flop"] == sum(product_and_attention_flop(arm))
    assert (final["params"], final["active_params"], final["shared_params"]) == expected_params(arm)


def test_methods_of_one_seed_see_the_same_batches(trained):
    ours, *theirs = (torch.stack(seen) for seen in trained[1].values())
    assert len(ours) == TINY["steps"]
    assert all(torch.equal(ours, other) for other in theirs)


def test_quantities_of_the_study_are_read_of_its_runs(trained):
    runs, _ = trained
    results = Results.of(STUDY, list(runs.values()))
    for arm, run in runs.items():
        rate = run.final["steady_samples"] / run.final["steady_s"]
        assert results.over_seeds(throughput(), arm)["median"] == pytest.approx(rate)
        reached = min(run.points[STUDY.monitor].drop_nulls()) <= TINY["targets"][-1]
        params = results.over_seeds(params_if_reached(), arm)["median"]
        assert params == (expected_params(arm)[0] if reached else math.inf)


# Routing -----------------------------------------------------------------------------------------------------


def test_a_token_goes_through_the_expert_that_the_router_prefers_scaled_by_its_probability():
    torch.manual_seed(0)
    switch = Switch(8, 4, lambda: feed_forward(8, 32))
    x = torch.randn(3, 5, 8)
    found = switch(x)
    probabilities = switch.router(x).softmax(-1)
    for sample in range(3):
        for token in range(5):
            gate, chosen = probabilities[sample, token].max(-1)
            expected = gate * switch.experts[int(chosen)](x[sample, token])
            torch.testing.assert_close(found[sample, token], expected)


def test_the_router_and_every_expert_take_gradients_also_one_that_got_no_token():
    switch = Switch(8, 4, lambda: feed_forward(8, 32))
    switch.router.bias.data[2] = 50.0
    switch(torch.randn(6, 8)).sum().backward()
    assert switch.router.weight.grad is not None
    grads = [expert[0].weight.grad for expert in switch.experts]
    assert [bool(grad.any()) for grad in grads] == [False, False, True, False]


@given(st.lists(st.integers(0, 40), min_size=2, max_size=6).filter(any))
def test_imbalance_is_least_for_even_routing(sent):
    """Where the router's probabilities are its shares, it is experts x the sum of squared shares: 1 or more."""
    shares = torch.tensor(sent) / sum(sent)
    found = imbalance(torch.tensor(sent), shares.expand(sum(sent), -1)).item()
    assert found == pytest.approx(len(sent) * float((shares**2).sum()), rel=1e-5)
    assert found >= 1 - 1e-5


def test_the_load_balancing_loss_is_summed_over_blocks_and_taken_once(tmp_path):
    net = build(job("switch", tmp_path)).module.net
    assert isinstance(net, SwitchDecoder)
    for switch in net.switches:
        nn.init.zeros_(switch.router.weight)
        nn.init.zeros_(switch.router.bias)
    net(torch.randint(256, (2, CONTEXT)))
    even = net.balance * len(net.switches)  # the mean probability is 1 / experts, wherever ties go
    assert net.auxiliary().item() == pytest.approx(even)
    with pytest.raises(ValueError, match="no forward pass in training mode came before"):
        net.auxiliary()

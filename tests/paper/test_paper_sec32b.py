"""Section 3.2: an encoder-decoder against a decoder alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from examples.paper.data import Text
from examples.paper.sec32b import STUDY, SecondHalf, network
from lightning_costs import measure

pytestmark = pytest.mark.integration

TINY = STUDY.sizes["tiny"]
HALF = TINY["half"]
Networks = dict[str, nn.Module]


@pytest.fixture(scope="module")
def networks() -> Networks:
    torch.manual_seed(0)
    return {arm: network({**TINY, **own}) for arm, own in STUDY.arms.items()}


def test_each_token_of_the_second_half_is_predicted_from_all_before_it_and_nothing_after(networks: Networks) -> None:
    torch.manual_seed(0)
    window = torch.randint(256, (1, 2 * HALF))
    for net in networks.values():
        scores = net(window[:, :-1])
        assert scores.shape == (1, HALF, 256)
        for changed in (0, HALF - 1, HALF, 2 * HALF - 2):
            other = window.clone()
            other[0, changed] = (other[0, changed] + 1) % 256
            moved = (net(other[:, :-1]) - scores).abs().amax(-1)[0] > 1e-7
            predicts = torch.arange(HALF, 2 * HALF)
            assert torch.equal(moved, predicts > changed)


def test_only_the_second_half_is_told_of(networks: Networks) -> None:
    torch.manual_seed(0)
    window = torch.randint(256, (3, 2 * HALF))
    for net in networks.values():
        module = SecondHalf(net, TINY)
        chances = module.net(window[:, :-1]).log_softmax(-1)
        expected = -chances.gather(2, window[:, HALF:, None]).mean()
        assert torch.allclose(module.nats(window), expected)


def test_networks_cost_what_the_closed_forms_say_and_are_matched(networks: Networks) -> None:
    costs = {}
    w, n, t = TINY["width"], HALF, 2 * HALF - 1
    for arm, net in networks.items():
        cost = measure(net, torch.zeros(2, t, dtype=torch.long), times=False)
        ends = 2 * 256 * w + 256 + 2 * w  # embedding, head, last norm
        if arm == "decoder":
            depth, h = TINY["depth"], 4 * w
            params = ends + t * w + depth * (4 * w * w + 2 * w * h + 9 * w + h)
            mac = t * depth * (4 * w * w + 2 * w * h + 2 * t * w) + n * 256 * w
        else:
            depth, h = len(net.decoder), net.decoder[0].feed_forward[0].out_features
            encoder = 4 * w * w + 2 * w * h + 9 * w + h
            params = ends + 2 * w + 2 * n * w + depth * (2 * encoder + 4 * w * w + 6 * w)
            mac = n * depth * (12 * w * w + 4 * w * h + 6 * n * w) + n * 256 * w
        assert cost.params == params
        assert cost.forward_mac == mac
        costs[arm] = cost
    one, same_size, same_work = costs["decoder"], costs["encdec-params"], costs["encdec-flops"]
    assert one.params * 0.99 < same_size.params <= one.params
    assert one.forward_flop * 0.99 < same_work.forward_flop <= one.forward_flop
    assert same_size.forward_flop < 0.6 * one.forward_flop
    assert same_work.params > 1.4 * one.params  # at this size, tables of bytes are much of both


def test_runs_of_one_seed_see_the_same_batches_whatever_their_models_draw() -> None:
    tokens = torch.arange(400) % 256
    first = []
    for width in (3, 30):
        torch.manual_seed(7)
        nn.Linear(width, width)
        loader = Text(tokens, tokens, {"batch": 4, "context": 9, "held_out": 2}).train_dataloader()
        first.append(next(iter(loader))[0])
    assert torch.equal(*first)

"""Section 3.2: bytes against subwords, and what it is to be matched."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from examples.paper.claims import Results
from examples.paper.data import sources
from examples.paper.matching import Finds, cost_of, fit
from examples.paper.sec32 import STUDY, BitsOfText, SameText, Subwords, network, shape
from lightning_costs import load_runs, measure

pytestmark = pytest.mark.integration

TINY = STUDY.sizes["tiny"]


@pytest.fixture(scope="module")
def texts() -> dict[str, SameText]:
    return {arm: SameText({**TINY, **own}) for arm, own in STUDY.arms.items()}


@given(target=st.integers(5, 10_000), step=st.integers(1, 2))
def test_fit_is_the_largest_that_the_target_allows(target: int, step: int) -> None:
    found = fit(lambda n: n**2, target, step)
    assert found % step == 0
    assert found**2 <= target < (found + step) ** 2


def test_fit_says_where_nothing_is_small_enough() -> None:
    with pytest.raises(ValueError, match="the smallest, 8, costs 64: more than the 10 to match"):
        fit(lambda n: n**2, 10.0, step=8)


def test_matching_draws_no_random_number() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    cost_of("forward_flop", lambda: nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 9)), 5)
    assert torch.equal(before, torch.random.get_rng_state())


def test_subwords_lose_nothing_and_are_learned_alike_each_time() -> None:
    text = sources()[0].decode()[:60_000]
    first, again = Subwords(text, 512), Subwords(text, 512)
    other = "  x = 'naïve ☃'\t# \r\n\n\nend"
    assert first.pieces.decode(first.tokens(other).tolist()) == other
    assert first.pieces.decode(first.tokens(text).tolist()) == text
    assert torch.equal(first.tokens(text), again.tokens(text))
    assert int(first.tokens(text).max()) < first.size == 512


def test_a_sample_is_as_many_bytes_of_text_however_it_is_cut(texts: dict[str, SameText]) -> None:
    for data in texts.values():
        assert data.context * data.bytes_per_token == pytest.approx(TINY["window"], rel=0.03)
    assert texts["subword"].context < 0.6 * texts["byte-params"].context


def test_every_byte_held_out_is_predicted_once(texts: dict[str, SameText]) -> None:
    for data in texts.values():
        read, predict = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))
        told = predict[predict >= 0]
        assert torch.equal(told, data.cut.tokens(data.unseen))
        assert torch.equal(read.flatten()[1 : len(told)], told[:-1])  # each is read before the next is predicted
    assert len({data.unseen for data in texts.values()}) == 1


class _Evenly(nn.Module):
    """Every token is as likely as every other."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*tokens.shape, self.vocabulary)


def test_bits_per_byte_are_those_of_the_whole_text(texts: dict[str, SameText], monkeypatch: pytest.MonkeyPatch) -> None:
    for data in texts.values():
        module = BitsOfText(_Evenly(data.cut.size), TINY, data.unseen)
        told: list[float] = []
        monkeypatch.setattr(module, "log", lambda name, value, told=told, **_: told.append(float(value)))
        for at, batch in enumerate(data.val_dataloader()):
            module.validation_step(batch, at)
        tokens = len(data.cut.tokens(data.unseen))
        assert sum(told) == pytest.approx(tokens * math.log2(data.cut.size) / len(data.unseen.encode()), rel=1e-5)


def test_networks_cost_what_the_closed_forms_say_and_are_matched(texts: dict[str, SameText]) -> None:
    costs = {}
    for arm, own in STUDY.arms.items():
        settings, data = {**TINY, **own}, texts[arm]
        w, h = shape(settings, data)
        v, t = data.cut.size, data.context
        cost = measure(network(settings, w, h, data), torch.zeros(2, t, dtype=torch.long), times=False)
        block = 4 * w * w + 4 * w + 2 * w * h + h + w + 4 * w
        assert cost.params == 2 * v * w + v + t * w + TINY["depth"] * block + 2 * w
        assert cost.embedding_params == v * w
        assert cost.forward_mac == t * (TINY["depth"] * (4 * w * w + 2 * w * h + 2 * t * w) + w * v)
        costs[arm] = cost
    one, same_size, same_work = costs["subword"], costs["byte-params"], costs["byte-flops"]
    assert one.params * 0.99 < same_size.params <= one.params
    assert one.forward_flop * 0.99 < same_work.forward_flop <= one.forward_flop
    assert same_size.forward_flop > 2 * one.forward_flop
    assert same_work.params < 0.5 * one.params


def test_a_comparison_finds_the_pairs_that_are_matched_and_no_others(tmp_path: Path) -> None:
    for job in STUDY.jobs("tiny", tmp_path, seeds=1):
        STUDY.train(job)
    results = Results.of(STUDY, load_runs(tmp_path))
    assert Finds("params", "flop", "subword", "byte-params", 2.0)(results).verdict == "held"
    assert Finds("params", "flop", "byte-params", "subword", 2.0)(results).verdict == "not held"
    assert Finds("params", "flop", "subword", "byte-params", 20.0)(results).verdict == "not held"
    nobody = Finds("params", "flop", "subword", "byte-flops", 2.0)(results)
    assert nobody.evidence == "the comparison lists no pair of subword and byte-flops matched by `params`"

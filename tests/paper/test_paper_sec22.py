from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from examples.paper.claims import Results, final
from examples.paper.learning import with_lightning
from examples.paper.running import done
from examples.paper.sec22 import STUDY, TOKENS, Factorised, SparseLinear, build, linear_layers, network, per
from examples.paper.sec22 import theoretical_forward_flop as theory
from lightning_costs import measure

pytestmark = pytest.mark.integration

WIDTH, DEPTH = 32, 4
#: Weights of the blocks' linear layers: qkv, out, and two of the feed-forward part.
WEIGHTS = DEPTH * 12 * WIDTH**2


def job(arm: str, folder: Path = Path()):
    [found] = STUDY.jobs("tiny", folder, seeds=1, arms=[arm])
    return found


def cost(arm: str):
    return measure(network(job(arm)), torch.rand(2, 1, 8, 8), times=False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """One real training of the dense model and of the two that are pruned; inference of the sparse one alone."""
    train = with_lightning(
        lambda job: replace(build(job), infer=job.arm == "sparse90-csr"), monitor=STUDY.monitor, mode=STUDY.mode
    )
    folder = tmp_path_factory.mktemp("sec22")
    jobs = [job(arm, folder) for arm in ("dense", "sparse90", "sparse90-csr")]
    for each in jobs:
        train(each)
    runs = [done(each) for each in jobs]
    return Results.of(STUDY, [run for run in runs if run is not None])


def test_a_factorised_layer_is_the_layer_of_the_product_of_its_factors():
    layer, x = Factorised(12, 20, 3), torch.randn(5, 12)
    whole = nn.functional.linear(x, layer.u.weight @ layer.v.weight, layer.u.bias)
    torch.testing.assert_close(layer(x), whole)
    assert sum(p.numel() for p in layer.parameters()) == 3 * (12 + 20) + 20


def test_a_sparse_layer_gives_what_the_pruned_one_gives():
    layer, x = nn.Linear(12, 20), torch.randn(2, 5, 12)
    prune.l1_unstructured(layer, "weight", amount=0.9)
    prune.remove(layer, "weight")
    sparse = SparseLinear(layer)
    with torch.no_grad():
        torch.testing.assert_close(sparse(x), layer(x))
    assert len(sparse.weight.values()) == 24


def test_factorising_saves_the_weights_and_products_of_the_closed_form():
    dense, factorised = cost("dense"), cost("factorised")
    rank = WIDTH // 4
    inputs_and_outputs = WIDTH * ((1 + 3) + (1 + 1) + (1 + 4) + (4 + 1))
    saved = WEIGHTS - DEPTH * rank * inputs_and_outputs
    assert dense.params - factorised.params == saved
    assert dense.forward_flop - factorised.forward_flop == 2 * TOKENS * saved


@pytest.mark.parametrize(("arm", "depth", "width"), [("deep", 16, 16), ("wide", 1, 64)])
def test_deep_and_wide_have_as_many_weights_in_their_blocks(arm, depth, width):
    net = network(job(arm))
    assert len(net.blocks) == depth
    assert net.token.shape[-1] == width
    assert sum(layer.weight.numel() for _, _, layer in linear_layers(net.blocks)) == WEIGHTS


def test_pruning_leaves_a_tenth_of_the_weights_of_the_blocks_whatever_their_format(results):
    kept = {arm: rows[1]["final"]["nonzero_params"] for arm, rows in results.rows.items()}
    layers = [12 * WIDTH**2 * share // 12 for share in (3, 1, 4, 4)]
    masked = DEPTH * sum(round(0.9 * weights) for weights in layers)
    assert kept["sparse90"] == kept["sparse90-csr"] == kept["dense"] - masked
    assert len({rows[1]["final"]["params"] for rows in results.rows.values()}) == 1
    assert len({rows[1]["final"]["flop"] for rows in results.rows.values()}) == 1


def test_flops_in_theory_are_those_of_products_with_weights_that_are_not_zero(results):
    read = {arm: theory().read(results.compared, rows[1]) for arm, rows in results.rows.items()}
    dense, sparse = results.rows["dense"][1]["final"], results.rows["sparse90"][1]["final"]
    assert read["dense"] == dense["forward_flop"] - 2 * TOKENS * (dense["params"] - dense["nonzero_params"])
    assert read["dense"] - read["sparse90"] == 2 * TOKENS * (dense["nonzero_params"] - sparse["nonzero_params"])
    assert dense["forward_flop"] == sparse["forward_flop"]
    scores = DEPTH * 2 * 2 * TOKENS**2 * WIDTH
    head_and_patches = 2 * (WIDTH * 10 + (TOKENS - 1) * WIDTH * 4)
    kept = WEIGHTS - (dense["nonzero_params"] - sparse["nonzero_params"])
    assert read["sparse90"] == 2 * TOKENS * kept + scores + head_and_patches


def test_the_same_seed_trains_the_pruned_models_to_the_same_end(results):
    masked, sparse = results.rows["sparse90"][1], results.rows["sparse90-csr"][1]
    assert masked["final_quality"] == sparse["final_quality"]
    assert sparse["final"]["infer_latency_p50_s"] > 0


def test_one_column_over_another_is_missing_where_either_is(results):
    row = results.rows["dense"][1]
    assert per("train_s", "flop").read(results.compared, row) == row["final"]["train_s"] / row["final"]["flop"]
    assert per("train_s", "no_such_s").read(results.compared, row) is None
    assert per("no_such_s", "flop").read(results.compared, row) is None
    assert final("flop").read(results.compared, row) > 0

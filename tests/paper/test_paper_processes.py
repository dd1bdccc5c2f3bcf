"""The studies of two processes: what they build, what their batches are, and one real run of a pipeline."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("deepspeed", reason="both studies train by it")

from examples.paper import pipeline, ranks, zero
from examples.paper.child import process_context
from examples.paper.data import Digits
from examples.paper.running import done
from examples.paper.study import Job
from lightning_costs import measure
from lightning_costs.run.record import RunRecord

pytestmark = pytest.mark.integration


def test_both_stages_of_the_pipeline_are_equally_many_parameters_but_for_its_ends() -> None:
    settings = pipeline.STUDY.sizes["cpu"]
    layers = pipeline.layers(settings)
    width, half = settings["width"], len(layers) // 2
    first, second = (sum(p.numel() for m in part for p in m.parameters()) for part in (layers[:half], layers[half:]))
    blocks = settings["depth"] // 2 * (9 * width**2 + width + 2 * width)
    assert first == blocks + 9 * width + width
    assert second == blocks + 64 * width * 10 + 10


def test_a_micro_batch_is_normalised_without_the_others() -> None:
    net = nn.Sequential(*pipeline.layers(pipeline.STUDY.sizes["tiny"]))
    images = torch.rand(8, 1, 8, 8)
    torch.testing.assert_close(torch.cat([net(part) for part in images.split(2)]), net(images))


def test_zeros_network_is_linear_layers_whose_products_are_its_flops() -> None:
    settings = zero.STUDY.sizes["cpu"]
    width, depth = settings["width"], settings["depth"]
    weights = 64 * width + depth * 8 * width**2 + width * 10
    others = width + depth * (2 * width + 5 * width) + 2 * width + 10
    found = measure(zero.network(settings), torch.rand(2, 1, 8, 8), times=False)
    assert found["params"] == weights + others
    assert found["forward_flop"] == 2 * weights


def test_batches_are_the_seeds_and_micro_batches_are_their_parts() -> None:
    settings = {"batch": 240}
    digits = Digits(settings)
    digits.setup("fit")
    batches = list(ranks.global_batches(digits, settings, 7))
    assert len(batches) == 1437 // 240
    for ours, theirs in zip(batches, ranks.global_batches(digits, settings, 7), strict=True):
        assert torch.equal(ours[0], theirs[0])
    parts = list(ranks.micro_batches(batches[0], 60))
    assert torch.equal(torch.cat([labels for _, labels in parts]), batches[0][1])
    assert not torch.equal(batches[0][1], next(ranks.global_batches(digits, settings, 8))[1])


@pytest.fixture(scope="module", autouse=True)
def imported_once() -> None:
    """By the server of processes, as where a command trains."""
    process_context().set_forkserver_preload([*ranks.PRELOAD, "sklearn.datasets", __name__])


def _fails(job: Job, tell: ranks.Tell) -> None:
    if int(os.environ["RANK"]) == 1:
        raise ValueError("no such luck")
    torch.distributed.barrier()  # the other one never comes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    (job,) = pipeline.STUDY.jobs("tiny", tmp_path_factory.mktemp("runs"), 1, ["m4"])
    pipeline.STUDY.train(job)
    run = done(job)
    assert run is not None, "a finished run with the job's facts"
    assert done(replace(job, seed=2)) is None
    return run


@pytest.mark.slow
def test_a_pipelines_run_is_the_whole_models(trained: RunRecord) -> None:
    net = nn.Sequential(*pipeline.layers(pipeline.STUDY.sizes["tiny"]))
    params = sum(p.numel() for p in net.parameters())
    final = trained.final
    assert final["params"] == params
    assert final["shared_params"] == 0, "stages are called once for each micro-batch, and share nothing"
    assert final["grad_bytes"] == final["param_bytes"] == 4 * params
    assert final["opt_state_bytes"] == pytest.approx(8 * params, rel=0.01)
    forward = measure(net, torch.rand(1, 1, 8, 8), times=False)["forward_flop"]
    first = 2 * 9 * 64 * pipeline.STUDY.sizes["tiny"]["width"]  # the data need no gradient
    assert forward is not None
    assert final["samples"] == 2 * 3 * 360
    assert final["flop"] == final["samples"] * (3 * forward - first)
    assert "lower bound" not in trained.header["methods"]["flop"]
    assert final["bubble_theory_fraction"] == pytest.approx(1 / 5)
    assert trained.points["val/acc"].drop_nulls().len() == 2


@pytest.mark.slow
def test_a_rank_that_fails_ends_the_other_and_says_why(tmp_path: Path) -> None:
    (job,) = pipeline.STUDY.jobs("tiny", tmp_path, 1, ["m1"])
    with pytest.raises(RuntimeError, match=r"(?s)rank 1 failed.*no such luck"):
        ranks.on_ranks(_fails)(job)

"""Real pipelines of two and four processes whose stages sleep: what is measured beside the closed form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lightning_costs.indicators.compute import Flop
from lightning_costs.indicators.counts import Samples, Steps
from lightning_costs.ranks.reduce import reduce_ranks
from lightning_costs.records.samples import CostVector, RankInfo

pytestmark = [
    pytest.mark.integration,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="half of the cases are DeepSpeed's"),
]

_BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "bubble.py"


def measured(*options: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(_BENCHMARK), "--cases", "few", "--json", *options], capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return measured()


def test_every_schedule_of_both_engines_has_a_measured_bubble_beside_its_closed_form(
    rows: list[dict[str, Any]],
) -> None:
    """How near they are depends on the machine's other work: benchmarks/bubble.py shows it, fake clocks test it."""
    assert {row["engine"] for row in rows} == {"torch", "deepspeed"}
    for row in rows:
        assert 0 < row["measured"] < 1
        assert 0 <= row["theory"] < 1


def test_every_rank_reads_its_own_stage_and_replicas_are_told_apart(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        stages = sorted(stage for _, stage, _ in row["places"])
        replicas = len(row["places"]) // row["p"]
        assert stages == sorted(list(range(row["p"])) * replicas)
        assert {replica for replica, *_ in row["places"]} == set(range(replicas))
        assert all(final["bubble_s"] > 0 for final in row["finals"])


def test_one_steps_timeline_holds_every_pass_of_every_stage_in_an_order_that_can_be(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        told = row["about"]["timeline"]
        assert told["clock"] == "the host's clock, one for all stages"
        assert [lane["stage"] for lane in told["lanes"]] == list(range(row["p"]))
        passes: dict[tuple[str, int, int], list[int]] = {}
        for lane in told["lanes"]:
            for kind, chunk, microbatch, begun, ended in lane["intervals"]:
                if kind in ("F", "B", "I", "W"):
                    kind = "B" if kind == "I" else kind
                    passes.setdefault((kind, lane["chunks"][chunk], microbatch), []).extend((begun, ended))
        parts = row["p"] * row["v"]
        kinds = "FBW" if "W" in {kind for kind, *_ in passes} else "FB"
        wanted = {(kind, part, microbatch) for kind in kinds for part in range(parts) for microbatch in range(row["m"])}
        assert {key for key in passes if key[0] != "W"} == {key for key in wanted if key[0] != "W"}
        for (kind, part, microbatch), times in passes.items():
            needs = passes.get((kind, part + (-1 if kind == "F" else 1), microbatch))
            if kind in ("F", "B") and needs is not None:
                assert min(times) >= needs[1] - 1000, "it began before what it needs was there"
        assert {"R", "S"} & {kind for lane in told["lanes"] for kind, *_ in lane["intervals"]}


def test_samples_are_those_of_a_replica_and_flops_those_of_a_stage(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        places = [RankInfo(rank=rank, replica=r, stage=s) for rank, (r, s, _) in enumerate(row["places"])]
        vectors = [CostVector(place=p, amounts=final) for p, final in zip(places, row["finals"], strict=True)]
        declared = {kind.name: kind.declaration() for kind in (Samples, Steps, Flop)}
        job = reduce_ranks(vectors, declared, places)
        replicas, parts = len(places) // row["p"], row["p"] * row["v"]
        assert job["steps"] is not None
        assert job["samples"] == job["steps"] * row["m"] * replicas
        # A weight of one: forward, its gradient, and the input's gradient of all parts but the first.
        assert job["flop"] == job["samples"] * 2 * (2 * parts + parts - 1)

"""A claim is held, not held or undecided by the whole interval over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import make_run

from examples.paper.claims import Alike, Better, Claim, Less, Results, Warns, final, flips, quality, to_target
from examples.paper.kept import kept_results
from examples.paper.study import Job, Study
from examples.paper.telling import claim_lines, cost_lines, setup_line
from lightning_costs.run.record import RunRecord


def nothing(job: Job) -> None:
    raise AssertionError("no test here trains")


def study(*claims: Claim, mode: str = "max", columns: Sequence[str] = ("flop", "train_s")) -> Study:
    return Study(
        name="made",
        title="Made",
        part="Table 0",
        monitor="val/acc",
        mode="max" if mode == "max" else "min",
        arms={"a": {}, "b": {}},
        sizes={"tiny": {}},
        train=nothing,
        claims=claims,
        columns=columns,
    )


def run(arm: str, seed: int, flop: float | None, *, acc: float = 0.8, mode: str = "max") -> RunRecord:
    job = {"study": "made", "arm": arm, "seed": seed, "size": "tiny", "settings": {}}
    return make_run(
        f"{arm}-seed{seed}",
        quality=[0.5 if mode == "max" else 9.0, acc],
        costs={"flop": [None if flop is None else flop / 2, flop], "train_s": [1.0, 2.0]},
        mode=mode,
        group=arm,
        job=job,
        targets=[0.75],
        run_id=f"{arm}{seed}",
    )


def results(a: Sequence[float | None], b: Sequence[float | None]) -> Results:
    runs = [run(arm, seed, flop) for arm, flops in (("a", a), ("b", b)) for seed, flop in enumerate(flops)]
    return Results.of(study(), runs)


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], "held"),
        ([2.0, 2.0, 2.0], [2.0, 2.0, 2.0], "not held"),
        ([3.0, 3.1, 3.2], [2.0, 2.0, 2.0], "not held"),
        ([1.0, 2.5, 1.5], [2.0, 2.0, 2.0], "undecided"),
        ([1.0, 1.5], [2.0, 2.0], "undecided"),
        ([1.0, None, 1.5], [2.0, 2.0, 2.0], "undecided"),
        ([None, None, None], [2.0, 2.0, 2.0], "undecided"),
    ],
)
def test_less_goes_by_the_whole_interval(a: list[float | None], b: list[float | None], verdict: str) -> None:
    assert Less(final("flop"), "a", "b")(results(a, b)).verdict == verdict


def test_a_share_is_what_less_must_stay_under() -> None:
    found = results([1.0, 1.0, 1.0], [2.5, 2.5, 2.5])
    assert Less(final("flop"), "a", "b", share=0.5)(found).verdict == "held"
    assert Less(final("flop"), "a", "b", share=0.4)(found).verdict == "not held"


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=3, max_size=6))
def test_of_a_claim_and_its_reverse_at_most_one_is_held(pairs: list[tuple[float, float]]) -> None:
    found = results([a for a, _ in pairs], [b for _, b in pairs])
    one, two = (Less(final("flop"), *arms)(found).verdict for arms in (("a", "b"), ("b", "a")))
    assert [one, two].count("held") <= 1
    if one == "held":
        assert two == "not held"
    assert Claim("", flips(final("flop"), final("flop"), "a", "b")).against(found).verdict != "held"


def test_alike_is_held_within_and_not_held_beyond() -> None:
    test = Alike(final("flop"), "a", "b", within=0.05)
    assert test(results([1.0, 1.04, 0.97], [1.0, 1.0, 1.0])).verdict == "held"
    assert test(results([1.1, 1.2, 1.3], [1.0, 1.0, 1.0])).verdict == "not held"
    assert test(results([0.9, 1.0, 1.1], [1.0, 1.0, 1.0])).verdict == "undecided"


@pytest.mark.parametrize("mode", ["max", "min"])
def test_better_goes_by_the_mode(mode: str) -> None:
    runs = [run(arm, seed, 1.0, acc=acc, mode=mode) for arm, acc in (("a", 0.9), ("b", 0.7)) for seed in range(3)]
    found = Results.of(study(mode=mode), runs)
    assert Better("a", "b")(found).verdict == ("held" if mode == "max" else "not held")
    assert Better("b", "a")(found).verdict == ("not held" if mode == "max" else "held")
    assert found.over_seeds(quality(), "a")["median"] == pytest.approx(0.9)


def test_what_is_counted_needs_no_third_seed_and_what_is_measured_does() -> None:
    found = results([1.0, 1.0], [2.0, 2.0])
    assert Less(final("flop"), "a", "b")(found).verdict == "held"
    assert Less(final("train_s"), "a", "b", share=2.0)(found).verdict == "undecided"


def test_seeds_are_paired_by_number_and_not_by_place() -> None:
    flops = {1: 1.0, 2: 10.0, 3: 100.0}
    runs = [run("a", seed, flop) for seed, flop in flops.items()]
    runs += [run("b", seed, 2 * flops[seed]) for seed in (3, 1, 2)]
    finding = Less(final("flop"), "a", "b")(Results.of(study(), runs))
    assert (finding.verdict, finding.evidence) == ("held", "a / b = 0.5 at every seed")


def test_a_target_never_reached_is_dearer_than_any_and_two_of_them_say_nothing() -> None:
    never = [run("b", seed, 4.0, acc=0.6) for seed in range(3)]
    found = Results.of(study(), [run("a", seed, 4.0) for seed in range(3)] + never)
    assert Less(to_target("flop"), "a", "b")(found).verdict == "held"
    assert Less(to_target("flop"), "b", "a")(found).verdict == "not held"
    neither = Results.of(study(), [run("a", seed, 4.0, acc=0.6) for seed in range(3)] + never)
    assert Less(to_target("flop"), "a", "b")(neither).verdict == "undecided"
    assert math.isinf(found.over_seeds(to_target("flop"), "b")["median"] or 0.0)


def test_a_claim_is_as_good_as_its_worst_test() -> None:
    found = results([1.0, 1.0, 1.0], [2.0, 2.0, 2.0])
    held, fails = Less(final("flop"), "a", "b"), Less(final("flop"), "b", "a")
    open_ = Less(final("samples"), "a", "b")
    assert Claim("", (held,)).against(found).verdict == "held"
    assert Claim("", (held, open_)).against(found).verdict == "undecided"
    assert Claim("", (held, open_, fails)).against(found).verdict == "not held"


def test_a_warning_is_looked_up_among_the_cautions_of_the_comparison() -> None:
    found = results([1.0, 1.0, 1.0], [2.0, 2.0, 2.0])
    kinds = {caution["kind"] for caution in found.compared.cautions}
    assert kinds
    assert all(Warns(kind)(found).verdict == "held" for kind in kinds)
    assert Warns("no_such_kind")(found).verdict == "not held"


def test_tables_name_every_claim_and_every_method_with_its_interval() -> None:
    claim = Claim("a takes fewer FLOPs", (Less(final("flop"), "a", "b"),))
    found = results([1e9, 2e9, 3e9], [8e9, 8e9, 8e9])
    assert claim_lines(study(claim), found)[2] == (
        "| a takes fewer FLOPs | **held** | `flop`: a / b = 0.25 [0.125, 0.375] |"
    )
    a, b = cost_lines(study(columns=("flop", "params")), found)[2:]
    assert a == "| a | 3 | 0.8 | 2.00 GFLOP [1.00 GFLOP, 3.00 GFLOP] |"
    assert b == "| b | 3 | 0.8 | 8.00 GFLOP |"


@pytest.mark.parametrize(
    ("name", "size", "told"),
    [
        (
            "table1",
            "gpu",
            "on NVIDIA H100 80GB HBM3 with 16 cores of Intel(R) Xeon(R) Processor, bf16-mixed, "
            "torch 2.11.0+cu130, Lightning 2.6.6.",
        ),
        ("table1", "cpu", "on 2 cores of Intel(R) Xeon(R) Processor, 32-true, torch 2.13.0+cpu, Lightning 2.6.6."),
        ("zero", "cpu", "on 2 cores of Intel(R) Xeon(R) Processor, 32, torch 2.13.0+cpu, DeepSpeed 0.19.8."),
    ],
)
def test_a_page_names_the_device_and_what_trained_on_it(name: str, size: str, told: str) -> None:
    results = kept_results(name, size)
    assert results is not None
    assert setup_line(results).endswith(told)


def test_of_runs_on_unlike_machines_a_page_tells_what_is_the_same() -> None:
    found = results([1.0], [2.0])
    unlike = {"hardware.cpu_count": {"a": 2, "b": 8}, "accelerator": {"a": "CPUAccelerator", "b": "CUDAAccelerator"}}
    same = {"hardware.cpu": "Made", "software.torch": "2.13.0", "software.lightning": "2.6.6"}
    found = replace(found, compared=replace(found.compared, setups={"same": same, "different": unlike}))
    assert setup_line(found).endswith("on machines that differ, or are not known, torch 2.13.0, Lightning 2.6.6.")

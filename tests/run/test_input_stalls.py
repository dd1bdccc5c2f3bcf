from __future__ import annotations

from typing import Any

import pytest
from fakes import declared
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.run.input_stalls import describe_input_stalls
from lightning_costs.run.summary import describe_run

CUDA = {"device": "cuda", "devices": 1, "processes": 1, "strategy": "SingleDeviceStrategy"}


def of(data_s: float, other_s: float = 0.0, timed_s: float = 100.0, copied_s: float | None = 0.0) -> dict[str, Any]:
    return {"idle_s": data_s + other_s, "idle_data_s": data_s, "timed_s": timed_s, "h2d_device_s": copied_s}


@pytest.mark.parametrize(
    ("data_s", "word"),
    [
        (0.0, "not input-bound: the device waited 0 s of 100 s for batches"),
        (4.9, "not input-bound: the device waited 4.9 s of 100 s for batches"),
        (5.0, "moderately input-bound 5 %: the device waited 5 s of 100 s for batches"),
        (19.9, "moderately input-bound 20 %: the device waited 19.9 s of 100 s for batches"),
        (20.0, "input-bound 20 %: the device waited 20 s of 100 s for batches"),
    ],
)
def test_the_limits_are_those_of_tensorflows_analyzer(data_s: float, word: str) -> None:
    assert describe_input_stalls(CUDA, of(data_s)) == [word]


def test_other_idle_is_pythons_and_at_least_so_much() -> None:
    assert describe_input_stalls(CUDA, of(0.0, 12.0))[1:] == [
        "idle at least 12 % beside that: the host launched too late (Python between steps)"
    ]
    assert len(describe_input_stalls(CUDA, of(0.0, 2.9))) == 1


def test_a_slow_copy_is_worth_a_word() -> None:
    assert describe_input_stalls(CUDA, of(0.0, copied_s=7.0))[1:] == [
        "copying batches took 7 % beside that: pin_memory=True may shorten it"
    ]
    assert len(describe_input_stalls(CUDA, of(0.0, copied_s=None))) == 1


def test_on_a_cpu_training_itself_waits() -> None:
    assert describe_input_stalls({"device": "cpu"}, {"data_wait_s": 3.0, "train_s": 4.0, "idle_s": None}) == [
        "input-bound 75 %: training waited 3 s of 4 s for batches"
    ]


@pytest.mark.parametrize(
    ("setup", "final"),
    [
        ({}, {}),
        ({"device": "cpu"}, {"data_wait_s": None, "train_s": 4.0}),
        ({"device": "cpu"}, {"data_wait_s": 0.0, "train_s": 0.01}),
        (CUDA, {"idle_s": None, "idle_data_s": None, "timed_s": None, "data_wait_s": 3.0, "train_s": 4.0}),
        (CUDA, of(0.0, timed_s=0.0)),
        (CUDA, of(0.01, timed_s=0.02)),
    ],
)
def test_nothing_is_said_where_readings_are_missing_or_too_short(
    setup: dict[str, Any], final: dict[str, float | None]
) -> None:
    assert describe_input_stalls(setup, final) == []


SEVERAL = {"device": "cuda", "devices": 4, "processes": 4, "strategy": "DDPStrategy"}


@pytest.mark.parametrize(
    "software",
    [{"software": {"lightning": "2.6.0"}}, {"software.pytorch-lightning": "2.7.1.dev0"}, {"software.lightning": "3.0"}],
)
def test_lightnings_own_reading_back_is_not_blamed_on_the_loader(software: dict[str, Any]) -> None:
    waited, late = describe_input_stalls({**SEVERAL, **software}, of(34.0, 12.0))
    assert waited == (
        "idle 34 % while batches were waited for, 34 s of 100 s, and not for the loader alone: between several "
        "processes Lightning reads a signal back before each batch (lightning#21487), so that no loading is hidden "
        "behind queued work"
    )
    assert late == (
        "idle at least 12 % beside that: the host launched too late (Python between steps, and that signal "
        "(lightning#21487))"
    )
    assert describe_input_stalls({**SEVERAL, **software}, of(1.0)) == [
        "not input-bound: the devices waited 1 s of 100 s for batches"
    ]


@pytest.mark.parametrize(
    "setup",
    [
        {**SEVERAL, "software": {"lightning": "2.5.6"}},
        {**SEVERAL, "software": {}},
        {**CUDA, "software": {"lightning": "2.6.6"}},
        {"device": "cuda", "devices": 4, "processes": 4, "software": {"lightning": "2.6.6"}},  # a loop of one's own
    ],
)
def test_elsewhere_there_is_no_such_signal(setup: dict[str, Any]) -> None:
    assert describe_input_stalls(setup, of(34.0))[0].startswith("input-bound 34 %: the device")


def test_a_run_says_it_before_all_else() -> None:
    header = {"setup": CUDA, "roofline": {"words": "compute-bound"}, "indicators": {"idle_s": declared("idle_s")}}
    assert describe_run(header, of(34.0)) == [
        "input-bound 34 %: the device waited 34 s of 100 s for batches",
        "roofline of the training steps: compute-bound",
    ]
    assert describe_run(header) == ["roofline of the training steps: compute-bound"]


_amounts = st.one_of(st.none(), st.floats(0, 1e9))


@given(
    st.dictionaries(st.sampled_from(["idle_s", "idle_data_s", "timed_s", "data_wait_s", "train_s"]), _amounts),
    st.sampled_from([CUDA, SEVERAL, {"device": "cpu"}, {}]),
)
def test_whatever_a_run_holds_it_is_put_in_words_or_left_out(final: dict[str, float | None], setup: Any) -> None:
    assert all(text and "nan" not in text and "None" not in text for text in describe_input_stalls(setup, final))

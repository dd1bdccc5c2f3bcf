from __future__ import annotations

import dataclasses
import random

import pytest
from fakes import derived, measured, names
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.indicators import default_indicators
from lightning_costs.indicators.base import Derived, Measured, topological_order
from lightning_costs.records.declaration import Declaration
from lightning_costs.records.missing import Missing

GOOD = {"name": "nap_s", "unit": "s", "kind": "counter", "family": "time"}


def declare(**changes):
    body = {key: value for key, value in (GOOD | changes).items() if value is not None}
    return type("Nap", (Measured,), body | {"read": lambda self, sample: 1.0})


@pytest.mark.parametrize("lacking", ["name", "unit", "kind", "family"])
def test_a_class_that_declares_too_little_fails_at_its_creation(lacking):
    with pytest.raises(TypeError, match=f"indicator class Nap must declare '{lacking}' as a class attribute"):
        declare(**{lacking: None})


@pytest.mark.parametrize(
    ("field", "value", "choices"),
    [
        ("kind", "total", "'counter', 'gauge', 'static'"),
        ("fold", "mean", "'sum', 'last', 'max'"),
        ("scope", "gpu", "'rank', 'device', 'node', 'shard_group', 'replica', 'job'"),
        ("across", "rank1", "'sum', 'max', 'mean', 'rank0'"),
        ("better", "max", "'lower', 'higher'"),
        ("family", "speed", "'time', 'compute', 'memory', 'energy', 'money', 'data', 'size'"),
        ("role", "headline", "'indicator', 'diagnostic'"),
    ],
)
def test_a_word_that_is_no_choice_fails_with_the_choices(field, value, choices):
    with pytest.raises(TypeError, match=f"indicator 'nap_s': {field}='{value}' is not one of {choices}"):
        declare(**{field: value})


@pytest.mark.parametrize(
    ("kind", "fold"), [("counter", "last"), ("counter", "max"), ("gauge", "sum"), ("static", "sum")]
)
def test_a_counter_sums_and_nothing_else_does(kind, fold):
    with pytest.raises(TypeError, match=f"folds by 'sum' and nothing else does; got kind='{kind}' with fold='{fold}'"):
        declare(kind=kind, fold=fold)


def test_a_name_that_does_not_end_in_its_unit_fails_at_class_creation():
    with pytest.raises(TypeError, match="indicator name 'nap_ms' must be its unit 's' or end in '_s'"):
        declare(name="nap_ms")


def test_a_counter_defaults_to_sums_over_windows_and_ranks():
    d = declare().declaration()
    assert (d.fold, d.across, d.scope, d.better, d.role, d.label, d.headline) == (
        *("sum", "sum", "rank", "lower", "indicator", "nap s"),
        False,
    )


@pytest.mark.parametrize("kind", ["gauge", "static"])
def test_a_state_defaults_to_its_last_reading_and_the_fullest_rank(kind):
    d = declare(kind=kind).declaration()
    assert (d.fold, d.across) == ("last", "max")


def test_a_subclass_of_a_concrete_indicator_gets_its_own_label():
    base = declare(label="nap time")
    assert type("Siesta", (base,), {"name": "siesta_s"}).declaration().label == "siesta s"


def test_a_declaration_is_plain_data_that_makes_the_same_declaration():
    d = declare().declaration()
    assert Declaration(**d.as_dict()) == d
    assert all(isinstance(value, str | bool) for value in d.as_dict().values())


def test_an_indicator_that_cannot_read_cannot_be_made():
    half = type("Half", (Measured,), dict(GOOD))
    with pytest.raises(TypeError, match=r"abstract method '?read"):
        half()
    half = type("Half", (Derived,), dict(GOOD))
    with pytest.raises(TypeError, match=r"abstract method '?of"):
        half()


def test_missing_carries_its_reason_and_whether_to_warn():
    assert (str(Missing("no device")), Missing("no device").warn, Missing("x", warn=True).warn) == (
        *("no device", False),
        True,
    )


# Order -------------------------------------------------------------------------------------------------------


def one(window):
    return 1.0


def test_derived_indicators_come_after_what_they_need_in_any_order_given():
    chain = [
        measured("a_s"),
        derived("b_s", needs=("a_s",), of=one),
        derived("c_s", needs=("b_s", "a_s"), of=one),
        derived("d_s", needs=("c_s",), of=one),
    ]
    for seed in range(20):
        random.Random(seed).shuffle(chain)
        assert names(topological_order(chain)) == ["a_s", "b_s", "c_s", "d_s"]


@given(st.integers(1, 8), st.randoms(use_true_random=False))
def test_order_is_a_permutation_with_needs_first(n, rng):
    made = [measured("m0_s")]
    for k in range(1, n + 1):
        needs = tuple(rng.sample([i.name for i in made], k=rng.randint(0, len(made))))
        made.append(derived(f"m{k}_s", needs=needs, of=one))
    rng.shuffle(made)
    result = topological_order(made)
    assert sorted(names(result)) == sorted(names(made))
    place = {name: i for i, name in enumerate(names(result))}
    assert all(place[need] < place[i.name] for i in result if isinstance(i, Derived) for need in i.needs)


def test_needs_in_a_circle_are_refused_by_name():
    with pytest.raises(ValueError, match=r"derived indicators need each other in a circle: b_s, c_s$"):
        topological_order(
            [
                measured("a_s"),
                derived("b_s", needs=("c_s",), of=one),
                derived("c_s", needs=("b_s",), of=one),
            ]
        )


def test_an_indicator_that_needs_itself_is_a_circle():
    with pytest.raises(ValueError, match="circle: b_s"):
        topological_order([derived("b_s", needs=("b_s",), of=one)])


def test_two_indicators_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two indicators are named 'a_s'; pass each name once"):
        topological_order([measured("a_s"), measured("a_s")])


# The package's own -------------------------------------------------------------------------------------------


def test_default_indicators_have_different_names_and_an_order():
    defaults = default_indicators()
    assert len(set(names(defaults))) == len(defaults) == len(topological_order(defaults))


def test_default_indicators_are_new_instances_each_time():
    first, second = default_indicators(), default_indicators()
    assert not {id(i) for i in first} & {id(i) for i in second}


def test_every_need_of_a_default_indicator_is_a_default_indicator():
    defaults = default_indicators()
    known = set(names(defaults))
    assert not {need for i in defaults if isinstance(i, Derived) for need in i.needs} - known


def test_the_headline_is_the_one_of_the_design():
    headline = {i.name for i in default_indicators() if i.headline}
    table = "train_s total_s device_s samples tokens samples_per_s flop flop_per_s params opt_state_bytes"
    table += " opt_peak_bytes peak_mem_bytes energy_j co2e_g cloud_usd idle_fraction"
    assert headline == set(table.split())


def test_rates_are_better_higher_and_costs_lower():
    for i in default_indicators():
        kept = i.name in ("productive_s", "goodput_fraction")
        higher = kept or i.unit.endswith(("_per_s", "hz")) or i.name.endswith(("fu_fraction", "_active_fraction"))
        assert i.better == ("higher" if higher else "lower"), i.name


def test_a_label_is_for_people():
    for i in default_indicators():
        assert i.label
        assert "_" not in i.label, i.name


def test_declarations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        declare().declaration().name = "else_s"

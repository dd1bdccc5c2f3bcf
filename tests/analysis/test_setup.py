from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.analysis.setup import flatten, split_setups

PLAIN = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=5))
SETUPS = st.dictionaries(st.text(max_size=4), st.dictionaries(st.sampled_from("abcd"), PLAIN), min_size=1, max_size=4)


@given(SETUPS)
def test_every_key_is_either_the_same_everywhere_or_different(setups):
    split = split_setups(setups)
    keys = {key for setup in setups.values() for key in setup}
    assert set(split["same"]) | set(split["different"]) == keys
    assert not set(split["same"]) & set(split["different"])


@given(SETUPS)
def test_what_is_the_same_is_so_in_each_setup(setups):
    for key, value in split_setups(setups)["same"].items():
        assert all(setup.get(key) == value for setup in setups.values())


def test_a_key_that_one_run_lacks_differs():
    assert split_setups({"a": {"compile": True}, "b": {}})["different"] == {"compile": {"a": True, "b": None}}


def test_a_switch_that_is_on_is_not_the_number_one():
    assert split_setups({"a": {"x": True}, "b": {"x": 1}})["different"] == {"x": {"a": True, "b": 1}}


def test_one_run_has_no_differences():
    assert split_setups({"a": {"x": 1}}) == {"same": {"x": 1}, "different": {}}


def test_optimizers_in_a_list_are_told_apart_setting_by_setting():
    assert flatten({"optimizers": [{"name": "SGD", "lr": 0.1}]}) == {"optimizers.0.name": "SGD", "optimizers.0.lr": 0.1}


def test_nested_setups_become_dotted_keys_and_lists_become_text():
    assert flatten({"a": {"b": {"c": 1}}, "d": [1, 2]}) == {"a.b.c": 1, "d": "[1, 2]"}

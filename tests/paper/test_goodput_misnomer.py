"""Which pairs of settings flip: opposite orders by two definitions, each by enough."""

from __future__ import annotations

from examples.paper.goodput_misnomer import SETTINGS, flips


def row(setting: str, **definitions: float) -> dict[str, object]:
    return {"setting": setting, "definitions": definitions}


def test_a_pair_flips_where_two_definitions_disagree_by_enough() -> None:
    found = flips([row("a", ours=0.5, google=0.6, ettr=0.501), row("b", ours=0.4, google=0.7, ettr=0.500)])
    assert found == [("a", "b", "ours", "google")]
    assert flips([row("a", ours=0.5, google=0.6), row("b", ours=0.4, google=0.5)]) == []


def test_settings_have_names_of_their_own() -> None:
    assert len({setting.label for setting in SETTINGS}) == len(SETTINGS) == 6

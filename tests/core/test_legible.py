"""What people read of a run: every character that can be seen stays, every other one is written out."""

from __future__ import annotations

import logging
import re

import polars as pl
import pytest
from hostile import HIDDEN, PAYLOADS
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.core.legible import encodable, legible, legible_data
from lightning_costs.core.run_record import RunRecord, legible_run

anything = st.text(st.characters(codec=None, exclude_categories=())) | st.sampled_from(list(PAYLOADS.values()))
#: XML 1.0, section 2.2.
XML = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


@given(anything)
def test_no_hidden_character_is_left_and_every_file_and_xml_holds_the_rest(text):
    shown = legible(text)
    assert not HIDDEN & set(shown)
    assert XML.fullmatch(shown)
    shown.encode("utf-8")
    assert legible(shown) == shown


@pytest.mark.parametrize(
    "text",
    ["Zoë", "模型", "👩\u200d🔬", "नमस्\u200dते", "می\u200cخواهم", "two\nlines\tand a tab", "a\u00a0b", "שלום", ""],
)
def test_ordinary_text_stays_as_it_is(text):
    assert legible(text) is text


def test_what_differs_still_differs():
    assert len({legible(text) for text in ("a", "a\x1b", "a\x07", "a\u202e")}) == 4


@given(anything)
def test_an_encodable_text_is_the_text_unless_no_file_holds_it(text):
    assert encodable(text).encode("utf-8").decode("utf-8") == encodable(text)
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert encodable(text) == text


def test_data_without_hidden_characters_is_not_copied():
    data = {"a": ["b", {"c": 1.5}], "d": None}
    assert legible_data(data) is data
    assert legible_data({"a\x07": ["b\x1b"]}) == {"a\\x07": ["b\\x1b"]}


def test_metrics_that_look_alike_stay_columns_of_their_own():
    points = pl.DataFrame({"step": [1], "acc\x07": [0.1], "acc\\x07": [0.2]})
    header = {"run_id": "r", "indicators": {}, "quality": ["acc\x07", "acc\\x07"], "monitor": "acc\x07"}
    run = legible_run(RunRecord(header=header, points=points))
    assert run.points.columns == ["step", "acc\\x07'", "acc\\x07"]
    assert run.quality_columns == ["acc\\x07'", "acc\\x07"]


def test_the_log_is_legible_whatever_it_quotes(caplog):
    logger = logging.getLogger("lightning_costs")
    logger.warning("run %s of %d", "a\x1b[31mred", 3)
    logger.warning("a\u202eb")
    logger.warning("ordinary %s", "Zoë")
    assert caplog.messages == ["run a\\x1b[31mred of 3", "a\\u202eb", "ordinary Zoë"]

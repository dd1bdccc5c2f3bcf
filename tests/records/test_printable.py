"""What people read of a run: every character that can be seen stays, every other one is written out."""

from __future__ import annotations

import logging
import re

import polars as pl
import pytest
from hostile import HIDDEN, PAYLOADS
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.records.printable import printable, printable_data, utf8_encodable
from lightning_costs.run.record import RunRecord, printable_run

anything = st.text(st.characters(codec=None, exclude_categories=())) | st.sampled_from(list(PAYLOADS.values()))
#: XML 1.0, section 2.2.
XML = re.compile("[\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*")


@given(anything)
def test_no_hidden_character_is_left_and_every_file_and_xml_holds_the_rest(text):
    shown = printable(text)
    assert not HIDDEN & set(shown)
    assert XML.fullmatch(shown)
    shown.encode("utf-8")
    assert printable(shown) == shown


@pytest.mark.parametrize(
    "text",
    ["Zoë", "模型", "👩\u200d🔬", "नमस्\u200dते", "می\u200cخواهم", "two\nlines\tand a tab", "a\u00a0b", "שלום", ""],
)
def test_ordinary_text_stays_as_it_is(text):
    assert printable(text) is text


def test_what_differs_still_differs():
    assert len({printable(text) for text in ("a", "a\x1b", "a\x07", "a\u202e")}) == 4


@given(anything)
def test_an_encodable_text_is_the_text_unless_no_file_holds_it(text):
    assert utf8_encodable(text).encode("utf-8").decode("utf-8") == utf8_encodable(text)
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert utf8_encodable(text) == text


def test_data_without_hidden_characters_is_not_copied():
    data = {"a": ["b", {"c": 1.5}], "d": None}
    assert printable_data(data) is data
    assert printable_data({"a\x07": ["b\x1b"]}) == {"a\\x07": ["b\\x1b"]}


def test_metrics_that_look_alike_stay_columns_of_their_own():
    points = pl.DataFrame({"step": [1], "acc\x07": [0.1], "acc\\x07": [0.2]})
    header = {"run_id": "r", "indicators": {}, "quality": ["acc\x07", "acc\\x07"], "monitor": "acc\x07"}
    run = printable_run(RunRecord(header=header, points=points))
    assert run.points.columns == ["step", "acc\\x07'", "acc\\x07"]
    assert run.quality_columns == ["acc\\x07'", "acc\\x07"]


def test_the_log_is_legible_whatever_it_quotes(caplog):
    logger = logging.getLogger("lightning_costs")
    logger.warning("run %s of %d", "a\x1b[31mred", 3)
    logger.warning("a\u202eb")
    logger.warning("ordinary %s", "Zoë")
    assert caplog.messages == ["run a\\x1b[31mred of 3", "a\\u202eb", "ordinary Zoë"]

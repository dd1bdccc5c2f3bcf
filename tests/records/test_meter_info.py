from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs.records.meter_info import MeterInfo, split_by_bucket
from lightning_costs.records.time_buckets import ACCOUNTS, PARTS

NAMES = (*ACCOUNTS, *PARTS)


@pytest.mark.parametrize("account", NAMES)
def test_what_passed_in_one_account_is_that_accounts(account):
    assert split_by_bucket(7.0, {account: 2.0}, now="other") == {PARTS.get(account, account): 7.0}


def test_a_reading_over_several_accounts_is_shared_out_by_their_seconds():
    seconds = {"train": 2.0, "data_wait": 1.0, "h2d": 1.0, "other": 4.0, "evaluate": 0.0}
    assert split_by_bucket(80.0, seconds, now="train") == {"train": 40.0, "other": 40.0}


@pytest.mark.parametrize(("now", "gets"), [("evaluate", "evaluate"), ("data_wait", "train")])
def test_energy_that_took_no_time_is_the_present_accounts(now, gets):
    assert split_by_bucket(3.0, dict.fromkeys(NAMES, 0.0), now) == {gets: 3.0}


@given(st.floats(0, 1e9), st.fixed_dictionaries({name: st.floats(0, 1e6) for name in NAMES}))
def test_the_shares_add_up_to_the_reading(joules, seconds):
    shares = split_by_bucket(joules, seconds, now="train")
    assert set(shares) <= set(ACCOUNTS)
    assert math.fsum(shares.values()) == pytest.approx(joules, rel=1e-12)


def test_metering_is_plain_data_with_its_facts_beside():
    metering = MeterInfo(method="model", instrument="a guess", error_j=None, detail="of load", facts={"tdp_w": 85.0})
    assert json.loads(json.dumps(metering.as_dict())) == {
        "method": "model", "instrument": "a guess", "error_j": None, "detail": "of load", "tdp_w": 85.0
    }  # fmt: skip

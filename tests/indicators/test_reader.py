from __future__ import annotations

import logging
import pickle

import pytest
from fakes import derived, measured, sample

from lightning_costs import default_indicators
from lightning_costs.indicators.reader import IndicatorReader
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.probes.context import ProbeContext
from lightning_costs.ranks.reduce import reduce_ranks
from lightning_costs.records.missing import Missing
from lightning_costs.records.samples import RankInfo


@pytest.fixture
def said(caplog):
    """Warnings of the package so far."""
    caplog.set_level(logging.WARNING, logger="lightning_costs")
    return lambda: [record.getMessage() for record in caplog.records]


def good(name="good_s", **more):
    return measured(name, reads=lambda s: 1.0, **more)


def reader_of(*indicators, setting=None):
    reader = IndicatorReader(indicators, setting or ProbeContext())
    reader.open()
    return reader


def test_an_indicator_that_cannot_open_goes_missing_and_the_others_go_on(said):
    reader = reader_of(measured("bad_s", opens=OSError("no driver")), good())
    for _ in range(3):
        assert reader.read(sample()).amounts == {"good_s": 1.0}
    assert reader.missing == {"bad_s": "OSError (its text is in the log)"}
    assert said() == ["bad_s is recorded as missing: OSError: no driver"]


def test_an_indicator_that_cannot_read_goes_missing_from_then_on_and_is_logged_once(said):
    reader = reader_of(measured("bad_s", reads=[5.0, ZeroDivisionError("by zero"), 7.0]), good())
    assert reader.read(sample()).amounts == {"bad_s": 5.0, "good_s": 1.0}
    for _ in range(3):
        assert reader.read(sample()).amounts.get("bad_s") is None
    assert reader.missing == {"bad_s": "ZeroDivisionError (its text is in the log)"}
    assert said() == ["bad_s is recorded as missing: ZeroDivisionError: by zero"]


def test_an_indicator_that_cannot_close_is_logged_and_the_others_are_closed(said):
    closed = []
    last = good("last_s")
    last.close = lambda: closed.append("last_s")
    reader = reader_of(measured("bad_s", closes=OSError("stuck")), last)
    reader.close()
    assert closed == ["last_s"]
    assert said() == ["bad_s could not be closed: OSError('stuck')"]


def test_a_derived_indicator_that_raises_goes_missing_and_the_others_go_on(said):
    reader = reader_of(
        good(),
        derived("bad_s", needs=("good_s",), of=lambda w: 1 / 0),
        derived("twice_s", needs=("good_s",), of=lambda w: 2 * w["good_s"]),
    )
    for _ in range(2):
        window = reader.derive({"good_s": 1.0}, Tariff())
        assert (window.get("bad_s"), window["twice_s"]) == (None, 2.0)
    assert reader.missing == {"bad_s": "ZeroDivisionError (its text is in the log)"}
    assert len(said()) == 1


@pytest.mark.parametrize("reading", ["many", "12", b"12", "nan"])
def test_a_reading_that_is_no_number_is_a_missing_reading(reading):
    reader = reader_of(
        measured("bad_s", reads=[reading]),
        measured("still_s", kind="static", reads=[reading]),
        derived("made_s", needs=("good_s",), of=lambda w: reading),
        good(),
    )
    window = reader.derive(reader.read(sample()).amounts, Tariff())
    assert (window.get("bad_s"), window.get("made_s"), reader.statics(sample())) == (None, None, {"still_s": None})
    what = f"a reading must be a number or None, got a value of type {type(reading).__name__}"
    assert reader.missing == dict.fromkeys(("bad_s", "still_s", "made_s"), what)


def test_what_an_error_says_is_in_the_log_and_not_in_the_reason(said):
    secret = "https://u:password@db/ /home/anna"
    reader = reader_of(
        measured("a_s", opens=OSError(secret)),
        measured("b_s", reads=[ValueError(secret)]),
        measured("c_s", kind="static", reads=[KeyError(secret)]),
        derived("d_s", needs=("good_s",), of=lambda w: int(secret)),
        good(),
    )
    reader.derive(reader.read(sample()).amounts, Tariff())
    reader.statics(sample())
    kinds = {"a_s": "OSError", "b_s": "ValueError", "c_s": "KeyError", "d_s": "ValueError"}
    assert reader.missing == {name: f"{kind} (its text is in the log)" for name, kind in kinds.items()}
    assert [secret in message for message in said()] == [True] * 4


def test_what_is_expected_to_be_missing_is_recorded_quietly(said):
    reader = reader_of(measured("a_s", opens=Missing("no GPU here")), measured("b_s", reads=[Missing("too old")]))
    reader.read(sample())
    assert reader.missing == {"a_s": "no GPU here", "b_s": "too old"}
    assert said() == []


def test_what_a_user_would_expect_to_work_is_said_aloud_once(said):
    reader = reader_of(measured("a_s", reads=[Missing("no driver answered", warn=True)]))
    for _ in range(3):
        reader.read(sample())
    assert said() == ["a_s is recorded as missing: no driver answered"]


def test_only_rank_0_says_it(said):
    places = (RankInfo(rank=0), RankInfo(rank=1))
    reader = reader_of(measured("a_s", opens=OSError("x")), setting=ProbeContext(place=places[1], places=places))
    assert reader.missing == {"a_s": "OSError (its text is in the log)"}
    assert said() == []


def test_a_keyboard_interrupt_is_not_swallowed():
    def read(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reader_of(measured("a_s", reads=read)).read(sample())


def test_a_counter_without_a_reading_goes_missing_for_good(said):
    reader = reader_of(measured("a_s", reads=[1.0, None, 3.0]))
    assert [reader.read(sample()).amounts.get("a_s") for _ in range(3)] == [1.0, None, None]
    assert reader.missing == {"a_s": "a window gave no reading, so its total is unknown"}
    assert said() == ["a_s is recorded as missing: a window gave no reading, so its total is unknown"]


def test_a_gauge_without_a_reading_is_not_missing():
    reader = reader_of(measured("a_s", kind="gauge", reads=[1.0, None, 3.0]))
    assert [reader.read(sample()).amounts["a_s"] for _ in range(3)] == [1.0, None, 3.0]
    assert reader.missing == {}


def test_statics_are_read_apart_and_may_come_late():
    reader = reader_of(good(), measured("params", "params", kind="static", reads=[None, 12]))
    assert reader.read(sample()).amounts == {"good_s": 1.0}
    assert reader.statics(sample()) == {"params": None}
    assert reader.statics(sample()) == {"params": 12.0}
    assert reader.missing == {}


def test_a_derived_counter_that_needs_a_missing_one_says_why():
    reader = reader_of(
        measured("energy_j", opens=Missing("no meter")),
        derived("co2e_g", needs=("energy_j",), of=lambda w: 1.0),
        derived("trees_calls", "calls", needs=("co2e_g",), of=lambda w: 1.0),
    )
    window = reader.derive({"energy_j": None}, Tariff())
    assert (window.get("co2e_g"), window.get("trees_calls")) == (None, None)
    assert reader.missing == {
        "energy_j": "no meter",
        "co2e_g": "needs energy_j: no meter",
        "trees_calls": "needs co2e_g: needs energy_j: no meter",
    }


def test_carbon_and_money_are_the_runs_to_compute_and_no_window_does_it_too():
    asked = []

    def of(window):
        asked.append(dict(window))
        return 0.0

    reader = reader_of(
        good("energy_j"),
        derived("node_s", needs=("energy_j",), of=lambda w: w["energy_j"]),
        derived("co2e_g", needs=("energy_j", "node_s"), of=of, priced=True),
    )
    tariff = Tariff()
    for _ in range(4):
        assert reader.derive({"energy_j": 3.0}, tariff) == {"energy_j": 3.0, "node_s": 3.0}
    assert asked == [{"energy_j": 0.0, "node_s": 0.0}], "a tariff is asked once whether it prices the column"
    reader.derive({"energy_j": None}, Tariff())
    assert reader.missing["co2e_g"] == "needs node_s: needs energy_j: not every rank reported"


def test_an_indicator_that_needs_carbon_of_a_window_has_it():
    reader = reader_of(
        good("energy_j"),
        derived("co2e_g", needs=("energy_j",), of=lambda w: 2 * w["energy_j"], priced=True),
        derived("trees_calls", "calls", needs=("co2e_g",), of=lambda w: w["co2e_g"] / 6),
    )
    assert reader.derive({"energy_j": 3.0}, Tariff())["trees_calls"] == 1.0


def test_paced_readings_are_shared_by_close_train_points_and_lose_no_column_that_needs_them():
    held = measured("held_bytes", "bytes", kind="gauge", reads=iter([5.0, 7.0]), rate_limited=True)
    spent = measured("spent_j", reads=iter([3.0, 4.0]), rate_limited=True)
    both = derived("byte_j", needs=("held_bytes", "spent_j"), of=lambda w: w["held_bytes"] * w["spent_j"])
    reader = reader_of(held, spent, both)
    read = []
    for ended_s, trigger in ((1.0, "train"), (1.1, "train"), (1.2, "evaluate")):
        window = reader.read(sample(ended_s=ended_s, trigger=trigger)).amounts
        read.append(tuple(reader.derive(window, Tariff())[name] for name in ("held_bytes", "spent_j", "byte_j")))
    assert read == [(5.0, 3.0, 15.0), (5.0, 0.0, 0.0), (7.0, 4.0, 28.0)]
    assert reader.missing == {}


def test_a_derived_gauge_whose_need_has_no_reading_in_this_window_waits():
    reader = reader_of(
        measured("busy_s", kind="gauge", reads=[None, 2.0]),
        derived("load_fraction", kind="gauge", needs=("busy_s",), of=lambda w: w["busy_s"] / 4),
    )
    assert reader.derive(reader.read(sample()).amounts, Tariff()).get("load_fraction") is None
    assert reader.missing == {}
    assert reader.derive(reader.read(sample()).amounts, Tariff())["load_fraction"] == 0.5


def test_a_derived_gauge_that_says_none_has_no_new_reading():
    reader = reader_of(good(), derived("rate_s", kind="gauge", needs=("good_s",), of=lambda w: None))
    assert reader.derive({"good_s": 1.0}, Tariff())["rate_s"] is None
    assert reader.missing == {}


@pytest.mark.parametrize("kind", ["counter", "gauge"])
def test_a_need_that_no_indicator_measures_is_named_as_one(kind):
    reader = reader_of(good(), derived("b_s", kind=kind, needs=("godo_s",), of=lambda w: 1.0))
    reader.derive({"good_s": 1.0}, Tariff())
    assert reader.missing.get("b_s", "").startswith("needs godo_s: ")
    assert "rank" not in reader.missing["b_s"]


def test_two_processes_of_which_one_is_heard_miss_sums_with_a_reason_and_keep_rank_0s_own():
    places = (RankInfo(rank=0), RankInfo(rank=1, replica=1))
    reader = reader_of(
        good("clock_s", across="rank0"),
        good("samples", unit="samples", scope="replica"),
        good("energy_j", scope="node"),
        good("peak_bytes", kind="gauge"),
        measured("quiet_bytes", kind="gauge", reads=[None]),
        derived("half_samples", "samples", needs=("samples",), of=lambda w: w["samples"] / 2),
        setting=ProbeContext(place=places[0], places=places),
    )
    own = reader.read(sample())
    job = reduce_ranks([own], {n: d for n, d in reader.declarations.items() if n != "half_samples"}, places)
    reader.mark_unreported(own, job, None)
    window = reader.derive(job, Tariff())
    assert (window["clock_s"], window["energy_j"]) == (1.0, 1.0)
    assert (window["samples"], window["peak_bytes"]) == (None, None)
    assert reader.missing == {
        "samples": "only this rank of 2 reported, and it joins by sum",
        "peak_bytes": "only this rank of 2 reported, and it joins by max",
        "half_samples": "needs samples: only this rank of 2 reported, and it joins by sum",
    }


def test_methods_are_told_of_those_that_are_there():
    here, gone = good(), good("gone_s", opens=None)
    here.method = "told"
    gone.method = "never"
    reader = reader_of(here, gone, good("silent_s"))
    reader.missing = {"gone_s": "went"}
    reader.read(sample())
    assert reader.methods == {"good_s": "told"}


def test_opening_twice_opens_once():
    opened = []
    indicator = good()
    indicator.open = opened.append
    reader = reader_of(indicator)
    reader.open()
    assert len(opened) == 1


def test_closing_lets_the_probes_go():
    class Instrument:
        let_go = False

        @classmethod
        def attach(cls, setting):
            return cls()

        def detach(self):
            self.let_go = True

    setting = ProbeContext()
    instrument = setting.probe(Instrument)
    assert setting.probe(Instrument) is instrument is setting.attached(Instrument)
    reader_of(good(), setting=setting).close()
    assert instrument.let_go
    assert setting.attached(Instrument) is None


def test_a_probe_that_cannot_be_let_go_does_not_fail_a_finished_run(said):
    class Stuck:
        @classmethod
        def attach(cls, setting):
            return cls()

        def detach(self):
            raise OSError("library was unloaded")

    setting = ProbeContext()
    setting.probe(Stuck)
    reader_of(good(), setting=setting).close()
    assert len(said()) == 1


def test_columns_keep_the_order_in_which_they_were_given():
    indicators = [derived("b_s", needs=("a_s",), of=lambda w: 1.0), good("a_s"), good("c_s")]
    assert list(reader_of(*indicators).declarations) == ["b_s", "a_s", "c_s"]


def test_the_lowest_rank_of_a_node_reads_for_it():
    places = [RankInfo(rank=0), RankInfo(rank=1), RankInfo(rank=2, node=1), RankInfo(rank=3, node=1)]
    assert [ProbeContext(place=p, places=places).first_on_node for p in places] == [True, False, True, False]


def test_what_a_comparison_prices_anew_is_declared_as_the_indicators_declare_it():
    from lightning_costs.pricing.rates import PRICED

    own = {indicator.name: indicator.declaration() for indicator in default_indicators() if indicator.name in PRICED}
    for name, declaration in PRICED.items():
        assert declaration.label == own[name].label
        assert (declaration.unit, declaration.kind, declaration.fold, declaration.better, declaration.family,
                declaration.role, declaration.headline) == (
            own[name].unit, own[name].kind, own[name].fold, own[name].better, own[name].family, own[name].role,
            own[name].headline)  # fmt: skip


# Gauges of the totals ------------------------------------------------------------------------------------------


def per_sample(name="sample_energy_j"):
    of = lambda totals: totals["train_energy_j"] / totals["samples"]  # noqa: E731
    return derived(name, kind="gauge", needs=("train_energy_j", "samples"), of=of, of_totals=True)


def test_a_gauge_of_totals_divides_what_was_added_up_and_never_a_window():
    reader = reader_of(good("train_energy_j"), good("samples", unit="samples"), per_sample())
    window = reader.derive({"train_energy_j": 5.0, "samples": 1.0}, Tariff())
    assert "sample_energy_j" not in window
    totals = {"train_energy_j": 30.0, "samples": 4.0, "sample_energy_j": 99.0}
    assert reader.derive_from_totals(totals, Tariff()) == {"sample_energy_j": 7.5}


def test_a_gauge_of_totals_is_missing_with_its_need():
    reader = reader_of(good("train_energy_j"), measured("samples", unit="samples", opens=Missing("no")), per_sample())
    assert reader.derive_from_totals({"train_energy_j": 30.0, "samples": None}, Tariff()) == {"sample_energy_j": None}
    assert reader.missing["sample_energy_j"] == "needs samples: no"


def test_a_train_point_between_readings_is_told_from_one_that_reads():
    reader = reader_of(good("spent_j", rate_limited=True))
    seen = []
    for ended_s, trigger in ((1.0, "train"), (1.1, "train"), (1.2, "evaluate"), (1.3, "train"), (1.8, "train")):
        reader.read(sample(ended_s=ended_s, trigger=trigger))
        seen.append(reader.read_all)
    assert seen == [True, False, True, False, True]


@pytest.mark.parametrize(("took_s", "apart_s"), [(0.0001, 0.5), (0.00249, 1.0), (0.007, 2.0), (1.0, 2.0)])
def test_slow_readings_are_made_rarely(monkeypatch, took_s, apart_s):
    at_s = [0.0]
    monkeypatch.setattr("lightning_costs.indicators.reader.now_s", lambda: at_s[0])
    slow = measured("spent_j", rate_limited=True, reads=lambda s: at_s.__setitem__(0, at_s[0] + took_s) or 1.0)
    reader = reader_of(slow)
    read_s = []
    for n in range(100):
        reader.read(sample(ended_s=n / 10))
        read_s += [n / 10] if reader.read_all else []
    assert read_s == pytest.approx([n * apart_s for n in range(len(read_s))])
    assert len(read_s) == int(9.9 / apart_s) + 1


def test_only_a_gauge_is_of_totals():
    with pytest.raises(TypeError, match="indicator 'twice_j': of_totals is for gauges; got kind='counter'"):
        derived("twice_j", needs=("spent_j",), of=lambda totals: 1.0, of_totals=True)


def test_a_derived_indicator_that_cannot_open_is_missing_with_its_reason():
    broken = derived("b_s", needs=("good_s",), of=lambda w: 1.0)
    type(broken).open = lambda self, setting: (_ for _ in ()).throw(Missing("nobody knows how"))
    assert reader_of(good(), broken).missing == {"b_s": "nobody knows how"}


@pytest.mark.parametrize("kind", ["counter", "gauge", "static"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_reading_that_is_not_finite_is_missing_with_its_reason(said, kind, value):
    reader = reader_of(measured("odd_s", kind=kind, reads=lambda s: value), good())
    statics = reader.statics(sample())
    assert reader.read(sample()).amounts == {"good_s": 1.0}
    assert statics.get("odd_s") is None
    assert reader.missing == {"odd_s": f"expected a finite number or None, got {value}"}
    assert len(said()) == 1


def test_a_derived_amount_that_is_not_finite_is_missing_with_its_reason():
    reader = reader_of(good(), derived("odd_s", needs=("good_s",), of=lambda window: float("nan")))
    assert reader.derive({"good_s": 1.0}, Tariff()) == {"good_s": 1.0}
    assert reader.missing["odd_s"] == "expected a finite number or None, got nan"


def test_a_diagnostic_that_goes_missing_with_its_indicator_is_not_said_again(said):
    reader = reader_of(
        measured("some_samples", "samples", reads=lambda s: None),
        measured("steady_samples", "samples", reads=lambda s: None, role="diagnostic"),
    )
    reader.read(sample())
    assert set(reader.missing) == {"some_samples", "steady_samples"}
    assert [line.split()[0] for line in said()] == ["some_samples"]


def test_columns_whose_reading_costs_something_are_read_at_a_limited_rate():
    limited = {i.name for i in default_indicators() if getattr(i, "rate_limited", False)}
    meters = {"gpu_energy_j", "cpu_energy_j", "ram_energy_j", "train_energy_j", "host_rss_bytes", "param_bytes"}
    assert meters <= limited
    assert not limited & {"samples", "flop", "train_s", "total_s", "steps"}


def test_a_column_of_the_largest_rank_reads_as_its_sibling_and_travels_between_processes():
    largest = [i for i in default_indicators() if i.name.startswith("rank_max_")]
    siblings = {i.name: i for i in default_indicators()}
    assert [pickle.loads(pickle.dumps(i)).declaration() for i in largest] == [i.declaration() for i in largest]
    for indicator in largest:
        assert (indicator.across, indicator.role, indicator.headline) == ("max", "diagnostic", False)
        sibling = siblings.get(indicator.name.removeprefix("rank_max_"))
        assert sibling is None or (indicator.unit, indicator.kind) == (sibling.unit, sibling.kind)

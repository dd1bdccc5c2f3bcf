from __future__ import annotations

import polars as pl
from fakes import declared

from lightning_costs.run.record import RunRecord
from lightning_costs.run.summary import describe_run, html_table, sum_known, summary_rows

COLUMNS = (
    declared("energy_j", label="energy", headline=True),
    declared("co2e_g", label="CO2e", headline=True),
    declared("steps", "steps", label="steps"),
)


def run(energy_j, name="one", **header):
    head = {
        "run_id": "r1",
        "name": name,
        "indicators": {d.name: d.as_dict() for d in COLUMNS},
        "missing": {"co2e_g": "no place was given"},
        "methods": {"energy_j": "counter"},
        "statics": {},
    } | header
    points = pl.DataFrame({"energy_j": [energy_j], "co2e_g": [None], "steps": [3.0]})
    return RunRecord(header=head, points=points)


def test_the_headline_is_shown_in_human_units_and_the_missing_with_how_to_get_it():
    one = run(7200.0)
    assert [tuple(r) for r in summary_rows(one.header, one.final)] == [
        ("energy", "7.20 kJ", "counter"),
        ("CO2e", "missing", "no place was given"),
    ]
    assert [r.label for r in summary_rows(one.header, one.final, everything=True)] == ["energy", "CO2e", "steps"]


def test_a_notebook_shows_the_run_and_every_text_in_it_is_escaped():
    text = run(1.0, name="<script>alert(1)</script>")._repr_html_()
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "no place was given" in text
    assert "<b>" not in html_table(
        "t",
        summary_rows(
            {"indicators": {"energy_j": COLUMNS[0].as_dict()}, "methods": {"energy_j": "<b>"}}, {"energy_j": 1.0}
        ),
    )


def test_a_total_over_runs_says_how_many_do_not_know_it():
    assert sum_known([run(1.0).final, run(None).final, run(2.0).final], "energy_j") == (3.0, 1)
    assert sum_known([run(None).final], "energy_j") == (None, 1)
    assert sum_known([], "energy_j") == (None, 0)


def test_a_run_without_a_name_is_called_by_its_identity():
    assert run(1.0, name=None).name == "r1"


def test_a_static_is_read_from_the_header():
    one = run(
        1.0, indicators={"params": declared("params", "params", kind="static").as_dict()}, statics={"params": 9.0}
    )
    assert one.final == {"params": 9.0}


def test_what_the_counted_steps_say_beside_their_columns():
    assert describe_run(run(1.0).header) == []
    kinds = {"param": 2e6, "grad": 1e6, "opt_state": 5e5, "activation": 4e6, "other": 0}
    header = {
        "roofline": {"words": "155 FLOP/byte, memory-bound"},
        "memory_at_peak": {
            "phase": "backward",
            "total_bytes": 7_500_000,
            **{f"{k}_bytes": n for k, n in kinds.items()},
        },
        "census": {
            "counted_steps": 64,
            "batches": 200,
            "batches_not_counted": 50,
            "uncounted_calls": {"a.b": 1, "c.d": 3},
        },
    }
    assert describe_run(header) == [
        "roofline of the training steps: 155 FLOP/byte, memory-bound",
        "memory at its peak, 7.15 MiB in the backward phase: parameters 1.91 MiB, gradients 977 KiB, "
        "optimizer state 488 KiB, activations 3.81 MiB",
        "FLOPs: 64 of 200 batches were counted; 50 are of kinds of which none was",
        "FLOPs are a lower bound, no formula for: a.b (1 call), c.d (3 calls)",
    ]
    counted = {"counted_steps": 2, "batches": 200, "batches_not_counted": 0, "uncounted_calls": {}}
    assert describe_run({"census": counted}) == [], "nothing to say of a run counted in whole"


def test_who_took_time_beside_training_is_named_where_it_matters():
    by_whom = [
        ("other", "Slow", 3.0),
        ("checkpoint", "ModelCheckpoint", 2.0),
        ("other", "CSVLogger", 1.0),
        ("other", "X", 0.1),
    ]
    said = describe_run({"by_whom_s": by_whom}, {"total_s": 20.0, "other_s": 4.5, "checkpoint_s": 2.5})
    assert said == [
        "4.5 s of other time: Slow 3 s, CSVLogger 1 s",
        "2.5 s of checkpoint time: ModelCheckpoint 2 s",
    ]
    assert describe_run({"by_whom_s": by_whom}, {}) == []


def test_how_energy_was_got_is_said_with_its_bounds_and_whose_it_is():
    counter = {"method": "counter", "instrument": "NVML total energy consumption", "error_j": 70.0, "detail": "..."}
    model = {"method": "model", "instrument": "codecarbon cpu_load", "error_j": None, "detail": "..."}
    told = {
        "gpu": {**counter, "counter_over_power": 1.0123},
        "cpu": model,
        "by_account": {"readings": 3, "detail": "..."},
        "job_share_fraction": 0.924,
    }
    assert describe_run({"indicators": {}, "energy": told}) == [
        "energy: GPU by counter (NVML total energy consumption), within 70 J; "
        "CPU by model (codecarbon cpu_load), no bound",
        "NVML's energy counter over its own power: 1.012",
        "node energy is that of all processes on the node: 92.4 % of the CPU time was this job's",
    ]
    nothing = {"method": "none", "instrument": "", "error_j": 0.0, "detail": ""}
    assert describe_run({"energy": {"gpu": nothing, "job_share_fraction": None}}) == []


def test_a_start_up_that_no_meter_saw_is_named_beside_the_total_time():
    header, final = {"attempts": [{"unmetered_s": 20.0}, {"unmetered_s": 11.5}]}, {"total_s": 35.0, "energy_j": 78.0}
    assert describe_run(header, final) == [
        "energy is metered from the monitor's setup on: the start-up before it, 31.5 s of 35 s, is in the total "
        "time and not in the energy"
    ]
    assert describe_run(header, {**final, "total_s": 3500.0}) == []
    assert describe_run(header, {**final, "energy_j": None}) == []
    assert describe_run({"attempts": [{}]}, final) == []

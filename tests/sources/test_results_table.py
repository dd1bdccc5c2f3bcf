"""Tables and curves that people publish: read as they say, or refused with the row named."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_costs import compare, load_runs
from lightning_costs.report.terminal.comparison import comparison_text
from lightning_costs.run.record import RunRecord
from lightning_costs.sources.imported import PUBLISHED

TABLE = """model,params,ms_per_image,images_per_s,gmacs,top1,group
ResNet-50,25.6,1.2,833,4.1,76.1,conv
ViT-B/16,86.6,1.3,769,17.6,77.9,attention
"Mixer, B/16",59.9,,1100,12.6,76.4,mlp
"""
COSTS = ["params", "ms_per_image", "images_per_s:max", "forward_mac=gmacs"]
UNITS = {"params": "M", "gmacs": "GMAC", "ms_per_image": "ms"}


def write(folder: Path, text: str, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def table(folder: Path, text: str = TABLE, **options: object) -> list[RunRecord]:
    given_ = {"monitor": "top1", "mode": "max", "costs": COSTS, "units": UNITS} | options
    return load_runs(write(folder, text), **given_)  # type: ignore[arg-type]


def test_a_row_is_a_model_with_its_costs_in_our_units_and_its_directions(tmp_path: Path) -> None:
    runs = table(tmp_path)
    assert [run.name for run in runs] == ["ResNet-50", "ViT-B/16", "Mixer, B/16"]
    assert runs[0].final == pytest.approx(
        {"params": 25.6e6, "ms_per_image": 1.2e-3, "images_per_s": 833.0, "forward_mac": 4.1e9}
    )
    declared = runs[0].header["indicators"]
    assert [declared[name]["better"] for name in runs[0].final] == ["lower", "lower", "higher", "lower"]
    assert [declared[name]["unit"] for name in runs[0].final] == ["params", "s", "images_per_s", "mac"]
    assert [declared[name]["family"] for name in runs[0].final] == ["size", "time", "time", "compute"]
    assert runs[2].final["ms_per_image"] is None
    assert runs[2].header["missing"] == {"ms_per_image": "table.csv does not say"}


def test_a_published_row_says_that_its_setup_is_unknown(tmp_path: Path) -> None:
    run = table(tmp_path)[0]
    assert run.header["setup"] == {"origin": PUBLISHED}
    assert run.header["group"] == "conv"
    assert run.header["methods"]["params"] == "as published in table.csv"
    assert run.header["status"] == "unknown"


def test_a_table_is_compared_by_quality_and_by_every_cost(tmp_path: Path) -> None:
    found = compare(table(tmp_path), monitor="top1", mode="max")
    assert found.fronts["params"] == ["ResNet-50", "ViT-B/16", "Mixer, B/16"]
    assert found.fronts["images_per_s"] == ["ViT-B/16", "Mixer, B/16"]
    assert found.fronts["ms_per_image"] == ["ResNet-50", "ViT-B/16"]
    assert found.to_html(tmp_path / "page.html").is_file()


def test_without_declared_costs_columns_of_our_names_are_the_costs(tmp_path: Path) -> None:
    runs = load_runs(write(tmp_path, "model,params,energy_j,layers,top1\na,1,2,3,4\n"), monitor="top1", mode="max")
    assert runs[0].final == {"params": 1.0, "energy_j": 2.0}
    assert runs[0].quality_columns == ["top1"]
    assert runs[0].header["setup"]["layers"] == "3"
    assert runs[0].header["indicators"]["energy_j"]["kind"] == "counter"


def test_the_paper_tables_of_the_benchmarks_are_a_source() -> None:
    runs = load_runs(
        Path(__file__).parents[2] / "benchmarks" / "paper_tables.csv",
        monitor="printed_top1",
        mode="max",
        costs=["params", "forward_mac=mac_forward", "latency=printed_msec"],
        units={"latency": "ms"},
    )
    assert len(runs) == 15
    assert runs[0].final == {"params": 86576872.0, "forward_mac": 78148337664.0, "latency": 7.17e-3}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_and_a_byte_order_mark_are_understood(tmp_path: Path, separator: str) -> None:
    text = "\ufeffmodel,params,top1\na,1,0.5\n".replace(",", separator)
    name = "table.tsv" if separator == "\t" else "table.csv"
    (run,) = load_runs(write(tmp_path, text, name), monitor="top1", mode="max", costs=["params"])
    assert (run.name, run.final, run.points["top1"].to_list()) == ("a", {"params": 1.0}, [0.5])


def test_two_rows_of_one_name_are_two_runs_with_labels_of_their_own(tmp_path: Path) -> None:
    text = "model,params,top1\na,1,0.5\na,1,0.6\n"
    runs = load_runs(write(tmp_path, text), monitor="top1", mode="max", costs=["params"])
    assert compare(runs).labels == ["a (table.csv row 1)", "a (table.csv row 2)"]


def test_an_infinite_or_undefined_quality_stays_and_is_said(tmp_path: Path) -> None:
    text = "model,params,loss\na,1,inf\nb,2,nan\nc,3,0.5\nd,4,n/a\n"
    found = compare(load_runs(write(tmp_path, text), monitor="loss", mode="min", costs=["params"]))
    assert [run["best_quality"] for run in found.runs] == [None, None, 0.5, None]
    assert found.fronts["params"] == ["c"]
    said = " ".join(comparison_text(found).split())
    assert "'a' diverged" in said
    assert "'b' diverged" in said
    assert "'d' never logged" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model,params,top1\na,1,0.5\nb,many,0.6\n", "row 2 (run 'b'): params is 'many', expected a number"),
        ("model,params,top1\na,1,0.5\nb,inf,0.6\n", "row 2 (run 'b'): params is infinite"),
        ("model,params,top1\na,1,0.5\n,2,0.6\n", "row 2: no name in column 'model'"),
        ("model,params,params\na,1,2\n", "two columns are named 'params'"),
        ("params,top1\n1,2\n", "no column that names its runs"),
        ("model,size,top1\na,1,2\n", "has no cost: looked for 'params'"),
        ("model,params,top1\na,1,2,3,4\n", "is no table"),
        (
            "run,step,params:x,params,top1\na,1,0,1,2\na,1,0,2,2\n",
            "row 2: run 'a' has another params at step 1 already",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_row(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"table\.csv") as refused:
        load_runs(write(tmp_path, text), monitor="top1", mode="max", costs=["params"])
    assert said in str(refused.value)


@pytest.mark.parametrize("cost", ["x:max:min", ":max", "a:up", "a:gauge:static"])
def test_a_cost_that_cannot_be_read_is_refused(tmp_path: Path, cost: str) -> None:
    with pytest.raises(ValueError, match="a cost must be NAME"):
        load_runs(write(tmp_path, TABLE), costs=[cost])


def test_a_rate_of_ones_own_needs_its_direction(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--cost images_per_s:max or --cost images_per_s:min"):
        load_runs(write(tmp_path, TABLE), costs=["images_per_s"])


CURVES = """run,step,val_loss,energy_j,samples
a,1,0.9,10,100
a,2,0.5,20,200
b,10,0.8,5,
b,20,0.4,15,300
b,30,,40,
"""


def curves(folder: Path, text: str = CURVES, **options: object) -> list[RunRecord]:
    return load_runs(write(folder, text, "curves.csv"), monitor="val_loss", mode="min", **options)  # type: ignore[arg-type]


def test_rows_with_steps_are_curves_and_cost_to_quality_follows(tmp_path: Path) -> None:
    found = compare(curves(tmp_path), targets=[0.5])
    assert {k: v["cost"] for k, v in found.targets[0]["costs"]["energy_j"].items()} == {"a": 20.0, "b": 15.0}
    assert [run["best_step"] for run in found.runs] == [2, 20]
    b = curves(tmp_path)[1]
    assert b.final == {"energy_j": 40.0, "samples": 300.0}
    assert b.points["trigger"].to_list() == ["evaluate", "evaluate", "evaluate", "end"]


def test_rows_in_any_order_are_the_same_curves(tmp_path: Path) -> None:
    head, *rows = CURVES.splitlines()
    turned = curves(tmp_path, "\n".join([head, *rows[:2], *rows[:1:-1]]))
    for one, other in zip(curves(tmp_path), turned, strict=True):
        assert one.points.equals(other.points)


def test_parts_of_one_step_are_one_point(tmp_path: Path) -> None:
    (run,) = curves(tmp_path, "run,step,val_loss,energy_j\na,1,0.9,\na,1,,10\na,2,0.5,20\n")
    assert run.points.select("step", "val_loss", "energy_j").rows() == [(1, 0.9, 10.0), (2, 0.5, 20.0)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run,step,energy_j\na,1,10\na,2,20\na,3,15\n", "row 3: run 'a' at step 3: energy_j falls from 20 to 15"),
        ("run,step,energy_j\na,1,10\na,1.5,20\n", "row 2 (run 'a'): step must be a whole number"),
        ("run,step,energy_j\na,1,10\na,,20\n", "row 2 (run 'a'): step must be a whole number"),
        ("run,step,params\na,1,10\na,2,20\n", "run 'a' has params from 10 to 20, and one number is expected"),
    ],
)
def test_a_curve_that_cannot_be_is_refused_with_its_row(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"curves\.csv") as refused:
        curves(tmp_path, text)
    assert said in str(refused.value)


def test_a_total_that_is_a_state_is_said_to_be_one(tmp_path: Path) -> None:
    text = "run,step,val_loss,mem\na,1,1,10\na,2,0.5,5\n"
    (run,) = curves(tmp_path, text, costs=["mem:gauge"], units={"mem": "GiB"})
    assert run.final == {"mem": 5 * 2.0**30}
    assert run.header["indicators"]["mem"]["family"] == "memory"


def test_parquet_and_csv_are_the_same_source(tmp_path: Path) -> None:
    frame = pl.read_csv(write(tmp_path, CURVES, "x.csv"))
    frame.write_parquet(tmp_path / "curves.parquet")
    typed = load_runs(tmp_path / "curves.parquet", monitor="val_loss", mode="min")
    for one, other in zip(curves(tmp_path), typed, strict=True):
        assert one.points.equals(other.points)
        assert (one.name, one.final) == (other.name, other.final)


amounts = st.one_of(st.none(), st.floats(0, 1e12, allow_nan=False))


@given(rows=st.lists(st.tuples(st.sampled_from(["a", "b", "=c"]), amounts, amounts), min_size=1, max_size=12))
def test_every_row_comes_back_with_what_it_held(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, float | None, float | None]]
) -> None:
    path = tmp_path_factory.mktemp("t") / "t.parquet"
    data = {"model": [r[0] for r in rows], "cost": [r[1] for r in rows], "acc": [r[2] for r in rows]}
    pl.DataFrame(data, schema={"model": pl.String, "cost": pl.Float64, "acc": pl.Float64}).write_parquet(path)
    runs = load_runs(path, monitor="acc", mode="max", costs=["cost"])
    assert [(run.name, run.final["cost"], run.points["acc"][0]) for run in runs] == rows


def test_units_are_read_with_their_prefix(tmp_path: Path) -> None:
    text = "model,a,b,c,d,acc\nx,2,3,0.5,7,1\n"
    units = {"a": "kWh", "b": "GiB", "c": "h", "d": "furlongs"}
    (run,) = load_runs(write(tmp_path, text), monitor="acc", mode="max", costs=list("abcd"), units=units)
    assert [run.final[name] for name in "abcd"] == [7.2e6, 3 * 2.0**30, 1800.0, 7.0]
    assert math.isclose(float(run.final["a"] or 0), 7.2e6)
    with pytest.raises(ValueError, match="write which of them it is"):
        load_runs(write(tmp_path, text), costs=["a"], units={"a": "GFLOPS"})


def test_a_metric_that_no_table_has_is_refused_with_those_it_has(tmp_path: Path) -> None:
    runs = load_runs(write(tmp_path, TABLE), monitor="top-1", mode="max", costs=COSTS, units=UNITS)
    with pytest.raises(ValueError, match=r"no run logged 'top-1'; give monitor= one of .*'top1'"):
        compare(runs, monitor="top-1", mode="max")


def test_what_changes_within_a_run_is_no_fact_of_its_setup(tmp_path: Path) -> None:
    text = "run,step,val_loss,energy_j,train_loss,lr,note\na,1,1,10,3,0.1,x\na,2,0.5,20,2,0.1,y\nb,1,1,5,9,0.2,z\n"
    a, b = curves(tmp_path, text)
    assert (a.header["setup"], b.header["setup"]) == (
        {"origin": PUBLISHED, "lr": "0.1"},
        {"origin": PUBLISHED, "lr": "0.2"},
    )


def test_outcomes_beside_the_monitor_are_metrics_and_no_settings(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text(
        "model,seed,acc,loss,width,train_s\nsgd,1,0.8,0.31,8,10\nsgd,2,0.81,0.32,8,11\nsam,1,0.9,0.2,8,20\n"
    )
    runs = load_runs(file, monitor="acc", mode="max")
    assert [run.quality_columns for run in runs] == [["acc", "loss"]] * 3
    assert set(runs[0].header["setup"]) == {"origin", "seed", "width"}
    assert list(compare(runs).groups["members"].values()) == [["sgd (t.csv row 1)", "sgd (t.csv row 2)"], ["sam"]]

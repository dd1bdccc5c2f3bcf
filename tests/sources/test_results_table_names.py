"""Which rows of a table are one run: models and seeds are never glued, whatever the columns are called."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from lightning_costs import compare, load_runs
from lightning_costs.run.record import RunRecord
from lightning_costs.sources.loader import find_runs


def read(folder: Path, text: str, name: str = "table.csv", **options: object) -> list[RunRecord]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    given = {"monitor": "acc", "mode": "max", "costs": ["time_s"]} | options
    return load_runs(folder / name, **given)  # type: ignore[arg-type]


def told(runs: list[RunRecord]) -> dict[str, list[float]]:
    return {run.name: run.points["acc"].to_list() for run in runs}


#: Evaluations of two models fall on different steps, and the cost does not happen to fall.
APART = "A,1,0,0,0.1\nA,1,10,10,0.7\nB,1,5,5,0.5\nB,1,15,16,0.85\nA,2,0,0,0.1\nA,2,10,10,0.9\n"


@pytest.mark.parametrize("columns", ["model,run", "model,seed", "Method,Seed", "algorithm,fold", "optimizer,run"])
def test_several_columns_name_a_run_together(tmp_path: Path, columns: str) -> None:
    part = columns.partition(",")[2]
    runs = read(tmp_path, f"{columns},step,time_s,acc\n{APART}")
    assert told(runs) == {
        f"A, {part} 1": [0.1, 0.7],
        f"B, {part} 1": [0.5, 0.85],
        f"A, {part} 2": [0.1, 0.9],
    }
    assert [run.header["group"] for run in runs] == ["A", "B", "A"]
    assert runs[2].header["setup"][part] == "2"


def test_settings_that_are_no_seeds_tell_methods_apart(tmp_path: Path) -> None:
    runs = read(tmp_path, "config,seed,step,time_s,acc\n" + APART.replace("A,", "1,").replace("B,", "2,"))
    assert [(run.name, run.header["group"]) for run in runs] == [
        ("table, config 1, seed 1", "table, config 1"),
        ("table, config 2, seed 1", "table, config 2"),
        ("table, config 1, seed 2", "table, config 1"),
    ]


def test_a_column_that_makes_no_difference_is_no_part_of_the_name(tmp_path: Path) -> None:
    runs = read(tmp_path, "run,model,step,time_s,acc\nr1,A,0,0,0.1\nr1,A,5,5,0.2\nr2,A,0,0,0.3\nr2,A,5,5,0.4\n")
    assert told(runs) == {"r1": [0.1, 0.2], "r2": [0.3, 0.4]}


def test_a_column_that_nobody_knows_and_that_varies_within_a_run_is_refused(tmp_path: Path) -> None:
    text = f"backbone,run,step,time_s,acc\n{APART}"
    with pytest.raises(ValueError, match=r"rows of run '1' differ in 'backbone' \('A', 'B'\)") as refused:
        read(tmp_path, text)
    assert "--run-column run --run-column backbone" in str(refused.value)
    both = read(tmp_path, text, run_column=["backbone", "run"])
    assert list(told(both)) == ["A, run 1", "B, run 1", "A, run 2"]


def test_a_number_that_changes_where_the_steps_start_again_is_refused(tmp_path: Path) -> None:
    text = "run,width,step,time_s,acc\nx,64,0,0,0.1\nx,64,10,10,0.7\nx,128,5,5,0.5\nx,128,15,16,0.85\n"
    with pytest.raises(ValueError, match=r"differ in 'width' \('64', '128'\)"):
        read(tmp_path, text)


def test_what_varies_within_one_run_stays_one_run(tmp_path: Path) -> None:
    schedule = "run,lr,note,step,time_s,acc\nx,.1,a,0,0,0.1\nx,.1,b,9,9,0.2\nx,.01,c,15,15,0.3\nx,.01,d,20,16,0.4\n"
    assert told(read(tmp_path, schedule)) == {"x": [0.1, 0.2, 0.3, 0.4]}
    split = "run,split,step,time_s,acc\nx,train,0,0,\nx,val,0,,0.5\nx,train,1,1,\nx,val,1,,0.6\n"
    assert told(read(tmp_path, split)) == {"x": [0.5, 0.6]}


def test_what_somebody_said_counts_and_is_told_but_models_stay_apart(tmp_path: Path) -> None:
    text = "run,phase,step,time_s,acc\nx,warm,0,0,0.1\nx,warm,10,10,0.7\nx,main,15,15,0.5\nx,main,20,16,0.85\n"
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ValueError, match="if they are one: --run-column run"):
        find_runs(tmp_path / "t.csv", monitor="acc", mode="max", costs=["time_s"])
    found = find_runs(tmp_path / "t.csv", monitor="acc", mode="max", costs=["time_s"], run_column="run")
    assert told(found.runs) == {"x": [0.1, 0.7, 0.5, 0.85]}
    assert "differ in 'phase' ('warm', 'main') and are read as one run" in found.notes[0]
    with pytest.raises(ValueError, match="they are several runs, --run-column run --run-column model"):
        read(tmp_path, f"model,run,step,time_s,acc\n{APART}", run_column="run")


@pytest.mark.parametrize(
    "step",
    ["Step", "STEP", "epoch", "Epoch", "iteration", "iter", "global_step", "trainer/global_step", "_step"],
)
def test_steps_are_found_by_their_usual_names_in_any_case(tmp_path: Path, step: str) -> None:
    runs = read(tmp_path, f"run,{step},time_s,acc\nA,0,0,0.1\nA,10,10,0.7\nB,0,0,0.1\nB,10,5,0.6\n")
    assert [(run.name, run.points["step"].to_list()) for run in runs] == [("A", [0, 10]), ("B", [0, 10])]


def test_a_table_of_results_with_a_column_of_epochs_stays_one(tmp_path: Path) -> None:
    runs = read(tmp_path, "Backbone,epoch,time_s,acc\nA,90,1,0.5\nB,90,2,0.6\nC,300+10,3,0.7\n")
    assert told(runs) == {"A": [0.5], "B": [0.6], "C": [0.7]}


def test_a_results_table_is_named_by_models_and_not_by_the_numbers_of_runs(tmp_path: Path) -> None:
    runs = read(tmp_path, "model,run,time_s,acc\nA,1,1,0.5\nB,1,2,0.6\n")
    assert told(runs) == {"A": [0.5], "B": [0.6]}


ALONE = "global_step,accumulated_submission_time,accumulated_eval_time,total_duration,acc\n"


def test_a_file_without_names_is_one_run_named_after_what_tells_its_folder_apart(tmp_path: Path) -> None:
    for at, trial in enumerate(("adam/trial_1", "sgd/trial_1")):
        folder = tmp_path / "logs" / trial
        folder.mkdir(parents=True)
        (folder / "eval_measurements.csv").write_text(f"{ALONE}1,{at + 2}.5,1,4,0.1\n300,{at + 20},3,40,0.7\n")
    files = sorted((tmp_path / "logs").rglob("*.csv"))
    for runs in (
        load_runs(files, monitor="acc", mode="max"),
        load_runs(tmp_path / "logs", monitor="acc", mode="max"),
    ):
        assert told(runs) == {"adam/trial_1": [0.1, 0.7], "sgd/trial_1": [0.1, 0.7]}
        assert runs[0].final == {"train_s": 20.0, "evaluate_s": 3.0, "total_s": 40.0, "steps": 300.0}
    (alone,) = load_runs(files[0], monitor="acc", mode="max")
    assert alone.name == "trial_1"


def test_the_folder_can_be_part_of_a_name(tmp_path: Path) -> None:
    text = "seed,note,step,time_s,acc\n1,a,0,0,0.1\n1,b,5,5,0.2\n2,c,0,0,0.3\n2,d,5,5,0.4\n"
    runs = read(tmp_path / "adam", text, run_column=["folder", "seed"])
    assert list(told(runs)) == ["adam, seed 1", "adam, seed 2"]


def test_parquet_is_split_as_csv_is(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"model,seed,step,time_s,acc\n{APART}")
    pl.read_csv(tmp_path / "t.csv").write_parquet(tmp_path / "t.parquet")
    one, other = (
        load_runs(tmp_path / name, monitor="acc", mode="max", costs=["time_s"]) for name in ("t.csv", "t.parquet")
    )
    assert told(one) == told(other)
    groups = compare(one, group="group").groups
    assert groups is not None
    assert groups["members"] == {"A": ["A, seed 1", "A, seed 2"], "B": ["B, seed 1"]}


SEEDED = "model,seed,acc,params\n" + "".join(
    f"{model},{seed},{acc + seed / 10},10\n" for model, acc in (("resnet", 76), ("vit", 77)) for seed in range(3)
)


def test_seeds_of_two_models_in_a_table_of_results_are_two_groups(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(SEEDED)
    compared = compare(load_runs(tmp_path / "t.csv", monitor="acc", mode="max"), monitor="acc", mode="max")
    assert compared.answer["quality"] == {"vit": 77.1, "resnet": 76.1}
    assert compared.groups is not None
    assert [len(labels) for labels in compared.groups["members"].values()] == [3, 3]


def test_seeds_of_one_model_that_differ_by_more_are_not_grouped_across_models(tmp_path: Path) -> None:
    rows = [f"{model},{seed},{lr},7{seed},10" for model in "ab" for lr in (0.1, 0.2) for seed in (0, 1)]
    (tmp_path / "t.csv").write_text("\n".join(["model,seed,lr,acc,params", *rows]))
    compared = compare(load_runs(tmp_path / "t.csv", monitor="acc", mode="max"), monitor="acc", mode="max")
    assert compared.groups is not None
    assert list(compared.groups["members"]) == ["a", "a #2", "b", "b #2"]


def test_what_differs_between_seeds_is_named_as_what_keeps_them_apart_unless_it_is_an_outcome(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("model,seed,acc,params,loss,lr\na,0,70,10,0.1,1\na,1,71,10,0.2,2\n")
    compared = compare(load_runs(tmp_path / "t.csv", monitor="acc", mode="max"), monitor="acc", mode="max")
    assert "'a' and 'a' differ in lr; --group group groups them anyway" in compared.answer["grouping"]


@pytest.mark.parametrize("column", ["status", "Status", "State"])
def test_statuses_are_read_as_people_write_them(tmp_path: Path, column: str) -> None:
    words = ("Finished", "completed", "FAILED", "crashed", "odd", "")
    rows = "".join(f"run {at},{word},1,2\n" for at, word in enumerate(words))
    (tmp_path / "t.csv").write_text(f"run,{column},acc,params\n{rows}")
    runs = load_runs(tmp_path / "t.csv", monitor="acc", mode="max")
    assert [run.header["status"] for run in runs] == ["finished", "finished", "failed", "killed", "unknown", "unknown"]
    assert [run.header["setup"].get(column) for run in runs] == [None] * 4 + ["odd", None]

"""Runs that others' loggers kept: CSVLogger, W&B offline and online, MLPerf; alone and mixed with run folders."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import lightning.pytorch as pl
import pytest
import wandb
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from wandb_server import ENTITY, WandbServer, leet_inspect

from lightning_costs import CostMonitor, compare, load_run, load_runs
from lightning_costs.report.terminal.comparison import comparison_text
from lightning_costs.run.record import RunRecord

pytestmark = pytest.mark.integration


class Model(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        out: Any = super().training_step(batch, batch_idx)
        self.log("train/loss", out["loss"])
        return out

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.step(batch))


def train(root: Path, name: str, *, monitored: bool, accumulate: int = 1) -> None:
    monitor: Any = CostMonitor(monitor="val/loss", mode="min", save_dir=root / "costs", name=name, infer=False)
    tags: dict[str, Any] = {"group": "g", "tags": ["a", "b"]}
    trainer = pl.Trainer(
        max_epochs=2,
        limit_train_batches=8,
        limit_val_batches=1,
        log_every_n_steps=2,
        accumulate_grad_batches=accumulate,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[monitor] if monitored else [],
        logger=[
            CSVLogger(root / "csv", name=name),
            WandbLogger(project="p", name=name, save_dir=root, **tags),
        ],
    )
    try:
        trainer.fit(Model())
    finally:
        wandb.finish()


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One run that was monitored and one that was not, as every logger and we ourselves have them."""
    root = tmp_path_factory.mktemp("logged")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        train(root, "seen", monitored=True)
        train(root, "unseen", monitored=False, accumulate=2)
        yield root


def by_name(runs: list[RunRecord]) -> dict[str, RunRecord]:
    return {run.name: run for run in runs}


def at_evaluations(run: RunRecord, column: str) -> list[tuple[Any, ...]]:
    return run.points.drop_nulls("val/loss").select("step", "val/loss", column).rows()


def test_a_csv_loggers_run_has_the_costs_that_its_run_folder_has(logged: Path) -> None:
    (folder,) = load_runs(logged / "costs")
    csv = by_name(load_runs(logged / "csv", monitor="val/loss", mode="min"))["seen/version_0"]
    for column in ("steps", "flop", "samples", "total_s"):
        ours, theirs = at_evaluations(folder, column), at_evaluations(csv, column)
        assert [row[0] for row in ours] == [row[0] for row in theirs]
        assert [row[2] for row in ours] == pytest.approx([row[2] for row in theirs], rel=1e-12)
    assert csv.header["indicators"]["flop"] == folder.header["indicators"]["flop"]
    assert csv.header["monitor"] == "val/loss"


def test_without_our_columns_steps_are_known_by_lightnings_stamp(logged: Path) -> None:
    run = by_name(load_runs(logged / "csv"))["unseen/version_0"]
    assert run.final == {"steps": 8.0}  # 2 epochs of 8 batches, two batches a step
    assert [(row[0], row[2]) for row in at_evaluations(run, "steps")] == [(3, 4.0), (7, 8.0)]
    assert "train/loss" in run.quality_columns


def test_any_logged_column_can_be_a_cost(tmp_path: Path) -> None:
    folder = tmp_path / "version_0"
    folder.mkdir()
    (folder / "metrics.csv").write_text(
        "step,epoch,wall,acc,img/s\n9,0,1.5,,100\n9,0,,0.5,\n19,1,3.0,,120\n19,1,,0.6,\n"
    )
    (folder / "hparams.yaml").write_text("lr: 0.1\n")
    (run,) = load_runs(folder, costs=["total_s=wall", "rate=img/s:max:gauge"], units={"total_s": "min"})
    assert run.points.select("step", "acc", "total_s", "steps").rows() == [(9, 0.5, 90.0, 10.0), (19, 0.6, 180.0, 20.0)]
    assert run.final == {"total_s": 180.0, "rate": 120.0, "steps": 20.0}
    assert run.header["setup"]["hparams"] == {"lr": 0.1}


def test_a_logged_total_that_falls_is_missing_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,acc,cost/energy_j,cost/flop\n0,0.1,5,1\n1,0.2,3,2\n2,0.3,9,inf\n")
    (run,) = load_runs(tmp_path)
    assert run.final["energy_j"] is None
    assert "energy_j falls from 5 to 3: a total never falls (at step 1" in run.header["missing"]["energy_j"]
    assert run.final["flop"] == 2.0  # what is infinite is no amount; the last total stands


def test_hyperparameters_that_need_code_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,acc\n0,0.1\n")
    (tmp_path / "hparams.yaml").write_text("x: !!python/object/apply:os.system ['exit 1']\n")
    (run,) = load_runs(tmp_path)
    assert run.header["setup"] == {"origin": "CSVLogger, setup unknown"}


@leet_inspect
def test_a_wandb_offline_run_is_its_run_folder_and_is_taken_once(logged: Path) -> None:
    (folder,) = load_runs(logged / "costs")
    offline = by_name(load_runs(logged / "wandb"))
    seen, unseen = offline["seen"], offline["unseen"]
    assert seen.header["recorded_as"] == folder.id
    assert (seen.header["monitor"], seen.header["mode"], seen.header["status"]) == ("val/loss", "min", "finished")
    assert (seen.header["group"], seen.header["tags"]) == ("g", ["a", "b"])
    assert seen.header["setup"]["hardware"] == folder.header["setup"]["hardware"]
    for column in ("steps", "flop", "total_s", "params", "samples"):
        assert seen.final[column] == pytest.approx(folder.final[column], rel=1e-9), column
    assert at_evaluations(seen, "flop") == at_evaluations(folder, "flop")
    assert set(unseen.final) == {"steps", "runtime_s"}
    assert unseen.final["steps"] == 8.0
    both = load_runs([logged / "wandb", logged / "costs"])
    assert sorted(run.name for run in both) == ["seen", "unseen"]
    assert [run.source for run in both if run.name == "seen"] == ["points.parquet"]


def test_a_folder_that_is_no_wandb_run_is_refused_with_what_the_client_says(tmp_path: Path) -> None:
    (tmp_path / "run-x.wandb").write_bytes(b"nothing of W&B's")
    with pytest.raises(ValueError, match="cannot be read by `wandb leet inspect`"):
        load_runs(tmp_path)


SCRIPT = """
import wandb
for name, speed in (("slow", 1.0), ("fast", 2.0)):
    with wandb.init(project="online", name=name, group="pair", tags=["t"], config={"lr": 0.1, "cost": {}},
                    settings=wandb.Settings(console="off")) as run:
        for step in range(3):
            row = {"trainer/global_step": 10 * step + 9, "val/acc": 0.1 * step * speed}
            run.log(row | {"cost/flop": 1e9 * (step + 1)})
        run.summary["cost/params"] = 7.0
"""


def test_online_runs_are_read_by_the_public_api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with WandbServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr[-2000:]
        runs = by_name(load_runs(f"wandb:{ENTITY}/online", monitor="val/acc", mode="max"))
        assert set(runs) == {"slow", "fast"}
        fast = runs["fast"]
        assert fast.points["val/acc"].drop_nulls().to_list() == pytest.approx([0.0, 0.2, 0.4])
        assert fast.final["flop"] == 3e9
        assert fast.final["params"] == 7.0
        assert fast.final["steps"] == 30.0
        assert (fast.header["group"], fast.header["tags"], fast.header["status"]) == ("pair", ["t"], "finished")
        assert compare(list(runs.values()), targets=[0.2]).targets[0]["winners"]["flop"] == ["fast"]
        (one,) = load_runs(f"wandb:{ENTITY}/online/{fast.id}")
        assert one.points.equals(fast.points)
        with pytest.raises(ValueError, match="nowhere cannot be read from W&B"):
            load_runs(f"wandb:{ENTITY}/nowhere")
    with pytest.raises(ValueError, match="expected wandb:entity/project"):
        load_runs("wandb:alone")


def mllog(key: str, time_ms: int, value: object = None, **metadata: object) -> str:
    event = {"namespace": "", "time_ms": time_ms, "event_type": "POINT_IN_TIME", "key": key, "value": value}
    return f"0: :::MLLOG {json.dumps(event | {'metadata': {'file': 'x.py', 'lineno': 1, **metadata}})}"


def result(folder: Path, name: str = "result_0.txt", accuracies: tuple[float, ...] = (0.5, 0.7, 0.76)) -> Path:
    lines = ["noise before", mllog("submission_platform", 0, "8xH100"), mllog("global_batch_size", 0, 256)]
    lines += [mllog("init_start", 1_000), mllog("run_start", 21_000)]
    now = 21_000
    for epoch, accuracy in enumerate(accuracies, 1):
        now += 60_000
        lines.append(mllog("eval_start", now, epoch_num=epoch))
        now += 5_000
        lines.append(mllog("eval_accuracy", now, accuracy, epoch_num=epoch, samples_count=1000 * epoch))
        lines.append(mllog("eval_stop", now, epoch_num=epoch))
    lines.append(mllog("run_stop", now + 10, None, status="success"))
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("\n".join(lines) + "\nnoise after\n")
    return path


def test_an_mlperf_log_is_a_run_on_its_run_clock(tmp_path: Path) -> None:
    (run,) = load_runs(result(tmp_path), monitor="eval_accuracy", mode="max")
    (row,) = compare([run], targets=[0.7]).targets
    spent = {name: row["costs"][name][run.name]["cost"] for name in ("run_s", "total_s", "samples")}
    assert spent == {"run_s": 130.0, "total_s": 150.0, "samples": 2000.0}
    assert run.final == pytest.approx(
        {"setup_s": 20.0, "run_s": 195.01, "total_s": 215.01, "evaluate_s": 15.0, "samples": 3000.0, "epochs": 3.0}
    )
    assert run.header["status"] == "finished"
    assert run.header["setup"]["global_batch_size"] == 256


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text, "a second run_start"),
        (lambda text: text.replace("run_start", "start"), "no run_start"),
        (lambda text: text.replace(':::MLLOG {"name', ':::MLLOG ["name', 1), "line 2: no event of a log"),
    ],
)
def test_an_mlperf_log_that_cannot_be_is_refused_with_its_line(tmp_path: Path, change: Any, said: str) -> None:
    path = result(tmp_path)
    path.write_text(change(path.read_text()))
    if "second" in said:
        lines = path.read_text().splitlines()
        half = len(lines) // 2
        path.write_text("\n".join([*lines[:half], mllog("run_start", 10_000_000)]))
    with pytest.raises(ValueError, match=r"result_0\.txt") as refused:
        load_runs(path)
    assert said in str(refused.value)


def shuffled(path: Path) -> Path:
    """A log as several ranks write it: each says the same, in no order."""
    lines = path.read_text().splitlines()
    starts = [mllog("init_start", 1_003), mllog("run_start", 21_004), mllog("seed", 5_000, 7)]
    path.write_text("\n".join([*reversed(lines), *starts]))
    return path


def test_an_mlperf_log_in_any_order_of_lines_is_the_same_run(tmp_path: Path) -> None:
    (want,) = load_runs(result(tmp_path / "a"), monitor="eval_accuracy", mode="max")
    (run,) = load_runs(shuffled(result(tmp_path / "b")), monitor="eval_accuracy", mode="max")
    assert run.final == want.final
    assert run.points.drop("time").equals(want.points.drop("time"))


def test_an_evaluation_of_several_metrics_has_a_column_of_each(tmp_path: Path) -> None:
    path = result(tmp_path)
    path.write_text(path.read_text().replace('"value": 0.5', '"value": {"BBOX": 0.3, "SEGM": 0.25}'))
    (run,) = load_runs(path)
    assert run.quality_columns == ["eval_accuracy/BBOX", "eval_accuracy/SEGM", "eval_accuracy"]
    assert run.points["eval_accuracy/SEGM"].drop_nulls().to_list() == [0.25]


def test_a_log_that_starts_before_it_is_set_up_has_no_setup_time(tmp_path: Path) -> None:
    path = result(tmp_path)
    path.write_text(path.read_text().replace('"time_ms": 21000', '"time_ms": 500'))
    (run,) = load_runs(path)
    assert (run.final["setup_s"], run.final["total_s"], run.final["run_s"]) == (None, None, 215.51)


def submitted(root: Path, org: str, system: str, accelerators: int, platform: str = "PLATFORM_PLACEHOLDER") -> Path:
    """A log in MLCommons' layout of results, with the description of its system."""
    folder = root / org / "results" / system / "resnet"
    folder.mkdir(parents=True)
    path = result(folder)
    path.write_text(path.read_text().replace("8xH100", f"SUBMISSION_{platform}"))
    described = {
        "number_of_nodes": str(accelerators // 8),
        "accelerators_per_node": "8",
        "accelerator_model_name": "H100",
    }
    (root / org / "systems").mkdir(exist_ok=True)
    (root / org / "systems" / f"{system}.json").write_text(json.dumps(described))
    return path


def test_official_results_are_named_by_submitter_and_system(tmp_path: Path) -> None:
    for org, system, accelerators in (("Krai", "xe8545", 8), ("Krai", "gpu64", 512)):
        submitted(tmp_path, org, system, accelerators)
    runs = load_runs(tmp_path / "Krai")
    found = compare(runs, monitor="eval_accuracy", mode="max")
    assert found.labels == ["Krai/gpu64/resnet/result_0.txt", "Krai/xe8545/resnet/result_0.txt"]
    assert [run.header["group"] for run in runs] == ["Krai/gpu64/resnet", "Krai/xe8545/resnet"]
    (caution,) = (c for c in found.cautions if c["kind"] == "hardware_differs")
    assert "hardware.devices" in caution["text"]
    assert found.setups["different"]["hardware.devices"] == dict(zip(found.labels, (512, 8), strict=True))


def test_a_log_outside_of_the_layout_is_named_as_it_says_itself(tmp_path: Path) -> None:
    path = result(tmp_path / "x")
    path.write_text(
        path.read_text() + mllog("submission_org", 0, "Org") + "\n" + mllog("submission_benchmark", 0, "ssd")
    )
    (run,) = load_runs(path)
    assert (run.name, run.header["group"]) == ("Org/8xH100/ssd/result_0.txt", "Org/8xH100/ssd")
    path.write_text(path.read_text().replace("Org", "SUBMISSION_ORG_PLACEHOLDER"))
    assert load_runs(path)[0].name == "x/result_0.txt"


def test_the_score_of_mlperf_and_its_epochs_are_shown_and_may_be_named(tmp_path: Path) -> None:
    path = result(tmp_path)
    (run,) = load_runs(path)
    shown = [name for name, row in run.header["indicators"].items() if row["headline"]]
    assert {"run_s", "total_s", "epochs", "samples"} <= set(shown)
    assert "run time" in comparison_text(compare([run], monitor="eval_accuracy", mode="max"))
    (named,) = load_runs(path, costs=["mlperf_s=run_s"], units={"mlperf_s": "ms"})
    assert named.final["mlperf_s"] == pytest.approx(0.19501)
    assert "run_s" not in named.final
    with pytest.raises(ValueError, match=r"--cost epoch: no source has a column 'epoch' \(did you mean 'epochs'"):
        load_runs(path, costs=["epoch"])


def test_what_counts_samples_is_no_epoch(tmp_path: Path) -> None:
    path = result(tmp_path)
    text = path.read_text() + mllog("submission_benchmark", 0, "bert")
    for epoch in (1, 2, 3):
        text = text.replace(f'"epoch_num": {epoch},', f'"epoch_num": {epoch}50000,').replace(
            f'"epoch_num": {epoch}}}', f'"epoch_num": {epoch}50000}}'
        )
    path.write_text(text.replace(', "samples_count"', ', "other"'))
    (run,) = load_runs(path)
    assert (run.final["epochs"], run.final["samples"]) == (None, 350000.0)
    assert run.header["missing"]["epochs"] == "epoch_num of this log goes to 350000: it counts samples"


def test_a_model_that_was_evaluated_after_the_run_costs_what_its_training_did(tmp_path: Path) -> None:
    lines = [mllog("init_start", 0), mllog("run_start", 1_000)]
    lines += [mllog("block_stop", 11_000, samples_count=100), mllog("block_stop", 21_000, samples_count=200)]
    lines += [mllog("run_stop", 22_000, status="success")]
    for samples, now, quality in ((200, 50_000, 90.0), (100, 90_000, 150.0), (300, 95_000, 80.0)):
        lines += [mllog("eval_start", now, samples_count=samples)]
        lines += [mllog("eval_accuracy", now + 900, quality, samples_count=samples, metric="FID")]
        lines += [mllog("eval_accuracy", now + 901, 0.1, samples_count=samples, metric="CLIP")]
    path = tmp_path / "result_0.txt"
    path.write_text("\n".join(lines))
    (run,) = load_runs(path)
    fid = run.points.filter(run.points["eval_accuracy/FID"].is_not_null())
    assert fid.select("eval_accuracy/FID", "run_s", "samples").rows() == [
        (150.0, 10.0, 100.0),
        (90.0, 20.0, 200.0),
        (80.0, None, 300.0),
    ]
    assert (run.final["run_s"], run.final["evaluate_s"]) == (21.0, 0.0)


@leet_inspect
def test_every_source_stands_in_one_comparison(logged: Path, tmp_path: Path) -> None:
    mlperf = result(tmp_path / "mlperf", accuracies=(3.0, 2.0))
    mlperf.write_text(mlperf.read_text().replace("eval_accuracy", "eval_loss"))
    runs = load_runs([logged / "costs", logged / "csv" / "unseen", logged / "wandb"], monitor="val/loss", mode="min")
    runs += [
        RunRecord(
            header={**run.header, "quality": ["val/loss"]},
            points=run.points.rename({"eval_loss": "val/loss"}),
            source=run.source,
        )
        for run in load_runs(mlperf)
    ]
    table = tmp_path / "table.csv"
    table.write_text("model,val/loss,params,steps\npublished,1.5,66,100\n")
    runs += load_runs(table, monitor="val/loss", mode="min")
    found = compare(runs, monitor="val/loss", mode="min")
    assert set(found.labels) == {"seen", "unseen", "unseen/version_0", "mlperf/result_0.txt", "published"}
    assert all(run["best_quality"] is not None for run in found.runs)
    assert sum(run["final"]["steps"] is not None for run in found.runs) == 4
    assert found.setups["different"]["origin"]["published"] == "published, setup unknown"
    assert found.to_html(tmp_path / "page.html").stat().st_size < 4e6


def put(fs: Any, folder: Path, root: str) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            fs.pipe_file(f"{root}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def test_run_folders_and_tables_are_read_by_url(logged: Path, tmp_path: Path) -> None:
    here = load_runs(logged / "costs")
    memory = fsspec.filesystem("memory")
    put(memory, logged / "costs", "/bucket/costs")
    put(memory, logged / "csv", "/bucket/csv")
    try:
        there = load_runs("memory://bucket/costs")
        assert [run.final for run in there] == [run.final for run in here]
        assert there[0].points.equals(here[0].points)
        assert load_run(f"memory://bucket/costs/{here[0].id}").header == here[0].header
        assert [run.name for run in load_runs("memory://bucket/csv")] == ["seen/version_0", "unseen/version_0"]
        curves = here[0].points.select("step", "steps", "val/loss").with_columns(run=1)
        curves.write_parquet(tmp_path / "curves.parquet")
        memory.pipe_file("/bucket/curves.parquet", (tmp_path / "curves.parquet").read_bytes())
        (run,) = load_runs("memory://bucket/curves.parquet", monitor="val/loss", mode="min")
        assert run.final == {"steps": here[0].final["steps"]}
        (same,) = load_runs(f"file://{tmp_path}/curves.parquet", monitor="val/loss", mode="min")
        assert same.points.equals(run.points)
        (local,) = load_runs(f"file://{logged}/costs")
        assert local.final == here[0].final
    finally:
        memory.rm("/bucket", recursive=True)
    with pytest.raises(FileNotFoundError, match="no run under memory://bucket/nowhere"):
        load_runs("memory://bucket/nowhere")
    with pytest.raises(ValueError, match="nosuch://x cannot be read"):
        load_runs("nosuch://x")


def log_offline(root: Path, rows: list[dict[str, float]], *, resume: Any = "allow", **config: Any) -> Path:
    """The folder of an offline run 'one' of W&B's client."""
    settings = wandb.Settings(console="off", silent=True, x_disable_stats=True)
    with wandb.init(
        id="one", resume=resume, mode="offline", project="p", dir=str(root), config=config, settings=settings
    ) as run:
        for row in rows:
            run.log(row)
        return Path(run.dir).parent


def logged_rows(first: int, end: int) -> list[dict[str, float]]:
    return [{"acc": i / 10, "trainer/global_step": i, "cost/train_s": 0.5 + i} for i in range(first, end)]


@leet_inspect
def test_offline_folders_of_a_resumed_run_are_one_run(tmp_path: Path) -> None:
    folders = [log_offline(tmp_path / "a", logged_rows(0, 3)), log_offline(tmp_path / "b", logged_rows(3, 5), lr=1)]
    alone = [load_runs(folder)[0].final["train_s"] for folder in folders]
    assert alone == [2.5, 4.5]
    (run,) = load_runs(folders[::-1], monitor="acc", mode="max")
    points = run.points.drop_nulls("acc")
    assert points["step"].to_list() == [0, 1, 2, 3, 4]
    assert points["train_s"].to_list() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert (run.final["train_s"], run.header["status"], run.header["missing"].get("train_s")) == (4.5, "finished", None)
    assert run.header["setup"]["config"] == {"lr": 1}


@leet_inspect
def test_offline_steps_and_seconds_of_w_and_b_go_on_in_the_next_attempt(tmp_path: Path) -> None:
    folders = [log_offline(tmp_path / name, [{"acc": 0.1}, {"acc": 0.2}]) for name in "ab"]
    seconds = [load_runs(folder)[0].final["runtime_s"] for folder in folders]
    (run,) = load_runs(tmp_path)
    assert run.points.drop_nulls("acc")["step"].to_list() == [0, 1, 2, 3]
    assert run.final["runtime_s"] == pytest.approx(sum(value or 0.0 for value in seconds))


@leet_inspect
def test_an_offline_folder_that_holds_the_whole_history_counts_once(tmp_path: Path) -> None:
    log_offline(tmp_path / "a", logged_rows(0, 3))
    log_offline(tmp_path / "b", logged_rows(0, 5))
    (run,) = load_runs(tmp_path, monitor="acc", mode="max")
    assert run.points.drop_nulls("acc")["train_s"].to_list() == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert run.final["train_s"] == 4.5


@leet_inspect
def test_offline_folders_of_one_id_that_were_not_resumed_or_that_we_recorded_apart_are_runs_of_their_own(
    tmp_path: Path,
) -> None:
    for name in "ab":
        log_offline(tmp_path / "new" / name, logged_rows(0, 2), resume=None)
        log_offline(tmp_path / "ours" / name, logged_rows(0, 2), cost={"run_id": name})
    assert len(load_runs(tmp_path / "new")) == 2
    assert [run.header["recorded_as"] for run in load_runs(tmp_path / "ours")] == ["a", "b"]


@leet_inspect
def test_an_offline_total_that_falls_between_attempts_is_missing(tmp_path: Path) -> None:
    log_offline(tmp_path / "a", logged_rows(0, 3))
    log_offline(tmp_path / "b", [{"acc": 0.5, "trainer/global_step": 3, "cost/train_s": 0.25}])
    (run,) = load_runs(tmp_path)
    assert run.final["train_s"] is None
    assert "a total never falls" in run.header["missing"]["train_s"]
    assert run.final["steps"] == 4.0

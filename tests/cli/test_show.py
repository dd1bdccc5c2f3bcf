"""`show`, `total --by` and the paths of the command line: what is first, what is near, what can be typed next."""

from __future__ import annotations

import ast
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import FakeClock, measured

import lightning_costs
from lightning_costs import Recorder, load_run
from lightning_costs.cli.commands import main

BATCH = torch.zeros(8, 3)


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> Any:
    monkeypatch.setattr("sys.argv", ["lightning-costs", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def _gone(_: Any) -> float:
    raise OSError("gone")


def record(folder: Path, name: str = "one", **options: Any) -> Path:
    clock = FakeClock(50.0)
    indicators = [
        measured("x_calls", reads=lambda s: float(s.steps), headline=True),
        measured("y_calls", reads=_gone, headline=True),
        measured("z_calls", reads=_gone, headline=True),
    ]
    given: dict[str, Any] = {"monitor": "acc", "mode": "max", "targets": 0.5, "log_every_n_steps": 1} | options
    recorder = Recorder(save_dir=folder, name=name, clock=clock, indicators=indicators, **given)
    with recorder:
        for _ in range(3):
            clock.sleep(1.0)
            recorder.step(BATCH)
        if given["monitor"]:
            recorder.log_metrics({"acc": 0.75})
    assert recorder.path is not None
    return recorder.path


@pytest.fixture
def costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for number, name in enumerate(("shallow", "deep")):
        settings = {"depth": 2 + 2 * number, "seed": 3, "note": "[[prices]] [bold]"}
        record(tmp_path / "costs", name, hyperparameters=settings, owner="the [lab]")
    return tmp_path / "costs"


def rewrite(run: Path, **fields: Any) -> None:
    header = json.loads((run / "header.json").read_text())
    (run / "header.json").write_text(json.dumps(header | fields))


def test_show_says_first_who_a_run_is_then_what_it_cost_and_last_what_is_missing(
    costs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(costs.glob("deep*"))
    rewrite(run, git={"commit": "0123456789abcdef", "dirty": True})
    assert call(monkeypatch, "show", run) == 0
    out = capsys.readouterr().out
    order = [
        "deep  (finished, 1 attempt", "began", "hardware", "best acc: 0.75 over 1 evaluation", "0.5 reached",
        "depth=4, seed=3, note=[[prices]] [bold]", "0123456789ab + changes", "seeds", "the [lab]", "x calls",
        "missing", "next: ",
    ]  # fmt: skip
    assert not [text for text in order if text not in out], out
    places = [out.index(text) for text in order]
    assert places == sorted(places)
    assert out.count("OSError (its text is in the log)") == 1, "the two of one reason are on one line"
    assert "[[prices]] [bold]" in out
    assert all(len(line) <= 80 for line in out.splitlines() if not line.startswith(("next:", "energy:", "memory")))


def test_show_all_gives_every_column_and_every_reason_whole(
    costs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(costs.glob("deep*"))
    reason = "no price of nodes: give usd_per_device_h= with source= and date=, or a [[prices]] row " + "x" * 90
    header = load_run(run).header
    rewrite(run, missing={**header["missing"], "y_calls": reason})
    assert call(monkeypatch, "show", run) == 0
    short = capsys.readouterr().out
    assert reason not in short
    assert "missing (--all for whole reasons):" in short
    assert call(monkeypatch, "show", run, "--all") == 0
    assert reason in capsys.readouterr().out.replace("\n", "")


@pytest.mark.usefixtures("every_point_at_once")
def test_a_running_run_says_how_far_it_is_and_what_it_will_have_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_costs import default_indicators

    clock = FakeClock(0.0)
    setup = {"max_epochs": 4, "planned_batches_per_epoch": 10, "accumulate_grad_batches": 1}
    recorder = Recorder(
        save_dir=tmp_path, clock=clock, indicators=default_indicators(), setup=setup, log_every_n_steps=1, count="off"
    )
    recorder.begin()
    for _ in range(20):
        clock.sleep(1.0)
        recorder.step(BATCH)
    assert call(monkeypatch, "show", recorder.path) == 0
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "of the planned steps are done" in line]
    assert line.startswith("50 % of the planned steps are done; at the end: 40 s")
    recorder.end()
    assert call(monkeypatch, "show", recorder.path) == 0
    assert "planned steps" not in capsys.readouterr().out


def test_a_folder_of_runs_is_listed_with_commands_that_run(costs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = call(monkeypatch, "show", "costs")
    assert text.startswith("lightning-costs: costs holds 2 runs, and one is shown at a time:\n")
    commands = [line.strip().partition("  (")[0] for line in text.splitlines()[1:]]
    assert len(commands) == 2
    for command in commands:
        assert call(monkeypatch, *shlex.split(command)[1:]) == 0


def test_the_begin_of_a_runs_name_finds_it_in_costs(costs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = call(monkeypatch, "show", "deep")
    assert "no run at deep: expected a folder that holds header.json. There are:\n" in text
    assert f"lightning-costs show costs/{next(costs.glob('deep*')).name}  (deep, finished, " in text
    assert call(monkeypatch, "show", "nowhere") == (
        "lightning-costs: no run at nowhere: expected a folder that holds header.json"
    )


@pytest.mark.parametrize("place", ["costs", "it's a 'folder' of mine", "-dash"])
@pytest.mark.parametrize("monitor", ["acc", None, "never"])
def test_the_next_command_of_show_runs_as_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: str, monitor: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    goal: dict[str, Any] = {"monitor": monitor, "mode": monitor and "max", "targets": ()}
    run = record(tmp_path / place, **goal).relative_to(tmp_path)
    record(tmp_path / place, "other", monitor="acc", mode="min", targets=())
    command: str | None = shlex.join(["lightning-costs", "show", "--", str(run)])
    seen: list[str] = []
    while command is not None and len(seen) < 4:
        seen.append(command)
        assert call(monkeypatch, *shlex.split(command)[1:]) == 0, command
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
        command = lines[0].removeprefix("next: ") if lines else None
    assert len(seen) > 1


def test_show_from_within_a_run_folder_proposes_what_runs(
    costs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(next(costs.glob("deep*")))
    assert call(monkeypatch, "show", ".") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    assert call(monkeypatch, *shlex.split(line)[2:]) == 0


def test_the_version_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("lightning-costs 0.")


def test_a_project_is_told_apart_by_hyperparameter_owner_commit_and_month(
    costs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, run in enumerate(costs.iterdir()):
        rewrite(run, created=f"2026-0{number + 1}-02T03:04:05+00:00", git={"commit": str(number) * 40, "dirty": False})
    expected = {
        "depth": "2 4", "hyperparameters.depth": "2 4", "owner": "the [lab]", "month": "2026-01 2026-02",
        "commit": f"{'0' * 12} {'1' * 12}",
    }  # fmt: skip
    for by, parts in expected.items():
        assert call(monkeypatch, "total", "costs", "--by", by) == 0
        head = capsys.readouterr().out.splitlines()[0]
        assert head.split()[: 1 + len(parts.split())] == ["cost", *parts.split()]
    assert call(monkeypatch, "total", "costs", "--by", "dept") == (
        "lightning-costs: no run has a setting 'dept' to be told apart by; did you mean depth?"
    )


def test_a_tariff_that_prices_nothing_says_which_row_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_costs import default_indicators

    clock = FakeClock(0.0)
    with Recorder(
        save_dir=tmp_path / "costs", clock=clock, indicators=default_indicators(), tariff={"usd_per_device_h": 2.0}
    ) as recorder:
        clock.sleep(60.0)
        recorder.step(BATCH)
    (tmp_path / "aws.toml").write_text('provider = "aws"\n')
    assert call(monkeypatch, "total", tmp_path / "costs") == 0
    assert "cloud cost" in capsys.readouterr().out
    assert call(monkeypatch, "total", tmp_path / "costs", "--tariff", tmp_path / "aws.toml") == 0
    out = capsys.readouterr().out
    assert "cloud cost is left out, as no run has it under this tariff: no price of nodes without accelerators" in out
    assert "[[prices]] row" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "costs", "--json", "file/x.json"],
        ["report", "costs", "-o", "file/x.html"],
        ["report", "costs", "--to", "csv", "-o", "file/x"],
        ["report", "costs", "--to", "md", "-o", "file/x.md"],
        ["total", "costs", "--csv", "file/x.csv"],
        ["total", "costs", "--json", "file/x.json"],
    ],
)
def test_what_cannot_be_written_is_told_before_anything_is_printed(
    costs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    Path("file").write_text("")
    text = call(monkeypatch, *arguments)
    assert text.startswith("lightning-costs: file/x")
    assert text.endswith(" cannot be written: file is a file")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("arguments", [["compare", "costs", "--json"], ["total", "costs", "--csv"]])
def test_the_folders_of_what_is_written_are_made(
    costs: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    assert call(monkeypatch, *arguments, "new/folder/x") == 0
    assert Path("new/folder/x").stat().st_size


def test_a_column_that_no_run_has_gets_near_ones_in_check(
    costs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = costs.iterdir()
    assert call(monkeypatch, "check", one, "--baseline", two, "--fail", "x_call>2%") == 2
    assert "'x_call' is no column of these runs; choose one of x_calls, " in capsys.readouterr().err


def test_another_depth_forbids_a_check_and_another_seed_does_not(
    costs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = costs.iterdir()
    assert call(monkeypatch, "check", one, "--baseline", two, "--fail", "x_calls>2%") == 2
    assert "--allow hyperparameters.depth" in capsys.readouterr().out
    rewrite(one, hyperparameters={"depth": 2, "seed": 3})
    rewrite(two, hyperparameters={"depth": 2, "seed": 4, "data.seed": 1})
    assert call(monkeypatch, "check", one, "--baseline", two, "--fail", "x_calls>2%") == 0
    header = json.loads((two / "header.json").read_text())
    del header["hyperparameters"]
    (two / "header.json").write_text(json.dumps(header))
    assert call(monkeypatch, "check", one, "--baseline", two, "--fail", "x_calls>2%") == 0, "an older baseline"


def test_comparisons_name_the_hyperparameters_that_differ(costs: Path) -> None:
    compared = lightning_costs.compare(lightning_costs.load_runs(costs))
    assert compared.setups["different"] == {"hyperparameters.depth": {"shallow": 2, "deep": 4}}
    assert "setups differ in hyperparameters.depth" in " ".join(c["text"] for c in compared.cautions)
    groups = lightning_costs.compare(lightning_costs.load_runs(costs), group="depth").groups
    assert groups is not None


def test_no_console_of_the_package_reads_texts_as_markup() -> None:
    for file in Path(lightning_costs.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Console":
                plain = {k.arg for k in node.keywords if isinstance(k.value, ast.Constant) and k.value.value is False}
                assert "markup" in plain, f"{file}:{node.lineno}"

"""Folders that anybody may have written, through every command: nothing of theirs is obeyed, nobody else pays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from hostile import HIDDEN, PAYLOADS, hostile_header, rich_header, write_run

from lightning_costs.cli.commands import main

pytestmark = pytest.mark.integration

GOAL = ("--monitor", "val/acc", "--mode", "max")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run for each payload, which is in every text of its header, and one that means no harm."""
    folder = tmp_path / "costs"
    for number, (kind, payload) in enumerate(PAYLOADS.items()):
        header = {**hostile_header(payload), "monitor": "val/acc"}
        write_run(folder / f"hostile{number}-{kind.replace(' ', '-')}", header, parquet=bool(number % 2))
    write_run(folder / "plain", rich_header("plain"))
    return folder


def call(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *args: str | Path
) -> tuple[int | str | None, str]:
    """The exit code of a command, and all that it wrote to the terminal."""
    monkeypatch.setattr("sys.argv", ["lightning-costs", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capfd.readouterr()
    said = captured.out + captured.err + (stop.value.code if isinstance(stop.value.code, str) else "")
    assert not HIDDEN & set(said.replace("\n", "")), [hex(ord(c)) for c in HIDDEN & set(said)]
    assert "Traceback" not in said
    return stop.value.code, said


def test_what_a_terminal_is_told_of_hostile_runs_holds_no_control_character_and_no_markup(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    for folder in runs.iterdir():
        code, said = call(monkeypatch, capfd, "show", folder, "--all")
        assert code == 0
        if "markup" in folder.name:
            assert "[red]a[/red] [link=http://evil]b[/link] [/] :smile:" in said
        if "colour" in folder.name:
            assert r"a\x1b[31mred" in said
    for by in ("status", "group", "tag"):
        assert call(monkeypatch, capfd, "total", runs, "--by", by)[0] == 0
    assert call(monkeypatch, capfd, "compare", runs, *GOAL)[0] == 0
    assert call(monkeypatch, capfd, "compare", runs, *GOAL, "--group", "group", "--curve", "to_reach")[0] == 0
    hostile = next(runs.glob("*colour"))
    assert call(monkeypatch, capfd, "check", hostile, "--baseline", runs / "plain")[0] == 2
    tariff = tmp_path / "tariff.toml"
    tariff.write_text('gco2e_per_kwh = 50.0\nusd_per_kwh = 0.2\nsource = "a\\u001b[31mpage"\n')
    assert call(monkeypatch, capfd, "reprice", hostile, "--tariff", tariff)[0] == 0
    assert call(monkeypatch, capfd, "reprice", hostile, "--tariff", tariff, "--json")[0] == 0


def test_every_report_of_hostile_runs_is_written_and_holds_none_of_it(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("altair")
    out = tmp_path / "out"
    for to in ("html", "csv", "md", "latex", "hf-yaml"):
        more = ["--tables"] if to in ("md", "latex") else []
        assert call(monkeypatch, capfd, "report", runs, *GOAL, "--to", to, *more, "-o", out / to)[0] == 0
    assert call(monkeypatch, capfd, "compare", runs, *GOAL, "--json", out / "compared.json")[0] == 0
    assert call(monkeypatch, capfd, "total", runs, "--json", out / "total.json", "--csv", out / "total.csv")[0] == 0
    for name in ("compared.json", "total.json"):
        json.loads((out / name).read_bytes(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    yaml.safe_load((out / "hf-yaml").read_text(encoding="utf-8"))
    for path in filter(Path.is_file, out.rglob("*")):
        text = path.read_bytes().decode("utf-8")
        ours = set("\n\u2028\u2029") if path.name == "html" else set("\n")  # Vega's own script holds some
        page = text if path.name != "html" else text[text.index('id="page-data"') :].split("</script>")[0]
        assert not (HIDDEN - ours) & set(page), path.name


@pytest.mark.integration
def test_a_name_that_no_xml_holds_ends_no_process_that_draws_it(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("altair")
    kept = [next(runs.glob("*xml")), next(runs.glob("*colour")), runs / "plain"]
    command = [sys.executable, "-c", "from lightning_costs.cli.commands import main; main()"]
    done = subprocess.run(
        [*command, "report", *kept, *GOAL, "--to", "figures", "-o", tmp_path / "figures"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pictures = list((tmp_path / "figures").glob("*.svg"))
    assert pictures
    for picture in pictures:
        ElementTree.fromstring(picture.read_bytes())  # well-formed
    assert any(r"a\x1b[31mred" in picture.read_text(encoding="utf-8") for picture in pictures)


def test_paths_are_shown_and_not_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "a\x1b]0;owned\x07 \udcff", rich_header())
    assert call(monkeypatch, capfd, "show", folder)[0] == 0
    (folder / "header.json").write_text("{")
    code, said = call(monkeypatch, capfd, "compare", folder, *GOAL)
    assert r"a\x1b]0;owned\x07 \udcff" in said
    assert "is no header of a run" in str(code)


def test_a_run_that_cannot_be_read_costs_the_others_nothing_and_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("altair")
    costs = tmp_path / "costs"
    for name in ("one", "two"):
        write_run(costs / name, rich_header(name))
    write_run(costs / "broken", {**rich_header("broken"), "attempts": "none"})
    os.mkfifo(write_run(costs / "pipe", rich_header("pipe")) / "writer.lock")
    for command in (
        ("compare", costs, *GOAL),
        ("total", costs),
        ("report", costs, *GOAL, "--to", "md", "--tables"),
        ("compare", costs / "one", costs / "broken", costs / "two", *GOAL),
    ):
        code, said = call(monkeypatch, capfd, *command)
        assert code == 0
        assert said.count("lightning-costs: left out: ") == 1
        assert "'attempts' must be a list, got a text: 'none'" in said
        assert "two" in said or command[0] == "total"
    code, said = call(monkeypatch, capfd, "show", costs / "broken")
    assert "'attempts' must be a list" in str(code)
    assert call(monkeypatch, capfd, "check", costs / "broken", "--baseline", costs / "one")[0] == 2


@pytest.mark.integration
def test_a_terminal_that_speaks_ascii_alone_shows_what_it_can(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rich_header("Zoë 👩\u200d🔬"))
    done = subprocess.run(
        [sys.executable, "-c", "from lightning_costs.cli.commands import main; main()", "show", folder],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 0, done.stderr
    assert rb"Zo\xeb" in done.stdout

"""The command that `compare` proposes writes the page of the same comparison."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from lightning_costs.cli.commands import main

pytestmark = pytest.mark.integration

TABLE = "the model,Params (M),gflops,ms,top 1\nA,10,2,5,70\nB,20,4,9,75\nC,30,3,4,80\n"
CURVES = "run,step,time_s,acc\na-1,0,1,0.1\na-1,10,9,0.9\nb-1,0,1,0.2\nb-1,10,7,0.8\n"


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    monkeypatch.setattr("sys.argv", list(words))
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        (
            "it's a table.csv",
            TABLE,
            "--monitor 'top 1' --mode max --cost 'params=Params (M)' --cost forward_mac=gflops --cost ms "
            "--unit params=M --unit forward_mac=GMAC --target 75 --target 72.5 --run-column 'the model' "
            "--tolerance 0.1 --queries 1e6",
        ),
        ("-curves.csv", CURVES, "--monitor acc --mode max --cost time_s --group 'name~(\\w)-' --step-column step"),
        ("rates.csv", TABLE.replace(",ms,", ",img_per_s,"), "--monitor 'top 1' --mode min --cost img_per_s:max"),
    ],
)
def test_the_next_command_works_as_it_is_printed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    options: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text)
    given = shlex.split(options)
    assert run(monkeypatch, "lightning-costs", "compare", *given, "--json", "c.json", "--", name) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("next: ")]
    proposed = shlex.split(line.removeprefix("next: "))
    assert proposed[:2] == ["lightning-costs", "report"]
    for word in given:
        assert word in proposed or float(word) in [float(each) for each in proposed if each.replace(".", "").isdigit()]
    assert run(monkeypatch, *proposed) == 0
    assert (tmp_path / "report.html").stat().st_size

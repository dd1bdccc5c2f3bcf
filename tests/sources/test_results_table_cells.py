"""Files and cells as people write them: read, or refused in one line that says what to do."""

from __future__ import annotations

import gzip
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from lightning_costs import compare, load_runs
from lightning_costs.report.tables.tables import final_blocks
from lightning_costs.run.record import RunRecord
from lightning_costs.sources.loader import find_runs

TEXT = "model,params,acc\nA,1,2\nBé,3,4\n"


def read(folder: Path, content: bytes | str, name: str = "t.csv", **options: object) -> list[RunRecord]:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    given = {"monitor": "acc", "mode": "max", "costs": ["params"]} | options
    return load_runs(folder / name, **given)  # type: ignore[arg-type]


def told(runs: list[RunRecord]) -> list[tuple[str, float | None, float]]:
    return [(run.name, run.final["params"], run.points["acc"][0]) for run in runs]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("crlf.csv", TEXT.replace("\n", "\r\n").encode()),
        ("cr.csv", TEXT.replace("\n", "\r").encode()),
        ("gzip.csv", gzip.compress(TEXT.encode(), mtime=0)),
        ("gzip.csv.gz", gzip.compress(TEXT.encode(), mtime=0)),
        ("gzip.tsv.gz", gzip.compress(TEXT.replace(",", "\t").encode(), mtime=0)),
        ("bom.csv", TEXT.encode("utf-8-sig")),
        ("utf16.csv", TEXT.encode("utf-16")),
        ("utf16be.csv", b"\xfe\xff" + TEXT.encode("utf-16-be")),
        ("tabs.csv", TEXT.replace(",", "\t").encode()),
        ("semicolons.csv", TEXT.replace(",", ";").encode()),
        ("sep.csv", ("sep=;\r\n" + TEXT.replace(",", ";")).encode()),
        ("excel.csv", ("sep=\t\r\n" + TEXT.replace(",", "\t")).encode("utf-16")),
        ("spaces.csv", 'model, params, acc \nA, 1, 2\n"Bé", 3, 4\n'.encode()),
        ("blank.csv", "\nmodel,params,acc,\n\nA,1,2,\n,,,\nBé,3,4,\n,,,,,\n\n".encode()),
        ("pandas.csv", ",model,params,acc\n0,A,1,2\n1,Bé,3,4\n".encode()),
        ("index.csv", ",params,acc\nA,1,2\nBé,3,4\n".encode()),
    ],
)
def test_a_table_is_read_however_it_was_written(tmp_path: Path, name: str, content: bytes) -> None:
    assert told(read(tmp_path, content, name)) == [("A", 1.0, 2.0), ("Bé", 3.0, 4.0)]


#: huggingface/pytorch-image-models, results/results-imagenet-a.csv, rows 1 to 3.
TIMM = """model,img_size,top1,top1_err,top5,top5_err,param_count,crop_pct,interpolation,top1_diff,top5_diff,rank_diff
eva02_large_patch14_448.mim_m38m_ft_in22k_in1k,448,88.627,11.373,97.360,2.640,305.08,1.000,bicubic,-10.203,-2.510,+2
eva02_large_patch14_448.mim_in22k_ft_in22k_in1k,448,88.413,11.587,97.040,2.960,305.08,1.000,bicubic,-10.527,-2.870,-1
eva_giant_patch14_560.m30m_ft_in22k_in1k,560,87.320,12.680,96.800,3.200,"1,014.45",1.000,bicubic,-11.500,-3.100,+1
"""


def test_a_table_of_timm_is_read_as_it_is_published(tmp_path: Path) -> None:
    runs = read(tmp_path, TIMM, monitor="top1", costs=["params=param_count"], units={"params": "M"})
    assert [run.final["params"] for run in runs] == [305.08e6, 305.08e6, 1014.45e6]
    assert [run.points["top1"][0] for run in runs] == [88.627, 88.413, 87.32]
    assert runs[2].header["setup"]["img_size"] == "560"


def test_a_comma_in_a_heading_of_semicolons_separates_nothing(tmp_path: Path) -> None:
    runs = read(tmp_path, "model;acc, top-1\nA;1\nB;2\n", costs=["params=acc, top-1"], monitor=None)
    assert [run.final for run in runs] == [{"params": 1.0}, {"params": 2.0}]


def test_old_encodings_are_read_with_a_caution(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lightning_costs"):
        assert told(read(tmp_path, TEXT.encode("latin-1")))[1][0] == "Bé"
    assert "t.csv is no UTF-8 and was read as cp1252" in caplog.text


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.parquet", POINTER, "pointer of Git LFS"),
        ("t.csv", POINTER, "pointer of Git LFS"),
        ("t.parquet", b"PAR1 broken", "is no table"),
        ("t.parquet", b"", "is no table"),
        ("t.csv.gz", gzip.compress(TEXT.encode(), mtime=0)[:-9], "is gzipped and broken"),
        ("t.csv", b"PK\x03\x04...", "an Excel workbook"),
        ("t.csv", TEXT.encode("utf-16-le"), "no text (NUL): save it as UTF-8"),
        ("t.csv", b"\xff\xfea", "begins as utf-16 and is none"),
        ("t.csv", b"", "it is empty"),
        ("t.csv", b"model,params,acc\n\nA,1,2\nB,1,2,3\n", "row 3 has 4 cells where the heading has 3"),
        ("t.csv", b"model,params,acc\nA,1,2\nB,1\n", "row 2 has 2 cells where the heading has 3"),
        ("t.csv", b'model,params,acc\nA,1,2\n"B,1,3\n', "row 2: unexpected end of data"),
        ("t.csv", b"model,params,acc\n\nA,1,2\n,,\nB,x,2\n", "row 4 (run 'B'): params is 'x'"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=name) as refused:
        read(tmp_path, content, name)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("cells", "decimal", "values"),
    [
        (("1,014.45", "305.08"), None, (1014.45, 305.08)),
        (("25,557,032", "980"), None, (25557032.0, 980.0)),
        (("1,080", "980"), ".", (1080.0, 980.0)),
        (("1.080,5", "76,1"), ",", (1080.5, 76.1)),
        (("1.080", "76"), ",", (1080.0, 76.0)),
        (("1.080", "76"), None, (1.08, 76.0)),
        (("1 080", "2"), None, (1080.0, 2.0)),
        (("1'080", "2"), None, (1080.0, 2.0)),
        (("75%", "5 %"), None, (0.75, 0.05)),
        (("−75", "+2"), None, (-75.0, 2.0)),
    ],
)
def test_numbers_are_read_as_they_are_grouped_and_marked(
    tmp_path: Path, cells: tuple[str, str], decimal: str | None, values: tuple[float, float]
) -> None:
    text = "model;params;acc\n" + "".join(f"m{at};1;{cell}\n" for at, cell in enumerate(cells))
    runs = read(tmp_path, text, decimal=decimal)
    assert tuple(run.points["acc"][0] for run in runs) == values


@pytest.mark.parametrize(
    ("cells", "decimal", "said"),
    [
        (("1,080", "980"), None, "params is '1,080', expected a number"),
        (("1,080", "980"), None, "say which mark is the decimal one"),
        (("76,1", "3"), None, "say which mark is the decimal one"),
        (("1.5", "76,1"), ",", "with ',' as the decimal mark"),
        (("12,34", "1.5"), ".", "params is '12,34'"),
        (("75%", "80"), None, "every cell of the column is in per cent, or none"),
    ],
)
def test_a_number_that_may_be_two_is_refused(
    tmp_path: Path, cells: tuple[str, str], decimal: str | None, said: str
) -> None:
    text = "model;params;acc\n" + "".join(f"m{at};{cell};1\n" for at, cell in enumerate(cells))
    with pytest.raises(ValueError, match=r"row 1 \(run 'm0'\)") as refused:
        read(tmp_path, text, decimal=decimal)
    assert said in str(refused.value)


@pytest.mark.parametrize("cells", ["75%,80%", "75,80"])
def test_per_cent_is_taken_once(tmp_path: Path, cells: str) -> None:
    text = "model,mfu,acc\n" + "".join(f"{cell},{cell},1\n" for cell in cells.split(","))
    runs = read(tmp_path, text, costs=["mfu"], units={"mfu": "%"})
    assert [run.final["mfu"] for run in runs] == [0.75, 0.8]


def test_inf_in_a_cost_to_a_target_is_never_and_elsewhere_refused(tmp_path: Path) -> None:
    text = "model,hours_to_target,acc\nA,12,1\nB,inf,2\nC,nan,3\n"
    for cost in ("hours_to_target", "total_s=hours_to_target"):
        name = cost.partition("=")[0]
        a, b, c = read(tmp_path, text, costs=[cost])
        assert (a.final[name], b.final[name], c.final[name]) == (12.0, None, None)
        assert b.header["missing"][name] == "never: it did not reach the target, as the table says (inf)"
        assert c.header["missing"][name] == "t.csv does not say"
        found = compare([a, b, c])
        assert found.fronts[name] == ["A"]
        (cells,) = (line.cells for block in final_blocks(found) for line in block.lines if line.name == name)
        assert [cell.text for cell in cells][1:] == ["never", "missing"]
    with pytest.raises(ValueError, match=r"row 2 \(run 'B'\): hours is infinite.*inf is never"):
        read(tmp_path, text.replace("_to_target", ""), costs=["hours"])


def test_fractions_beside_per_cent_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("model,params,acc\nA,1,0.7\n")
    (tmp_path / "b.csv").write_text("model,params,acc\nB,1,70\n")
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    (note,) = find_runs(files, monitor="acc", mode="max").notes
    assert note == "'acc' is at most 0.7 in a.csv and up to 70 in b.csv: fractions beside per cent compare wrongly"
    assert find_runs(files[1:], monitor="acc", mode="max").notes == []


OK = "model,params,gflops,acc\nA,10,3,70\nB,20,2,75\n"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"units": {"parms": "M"}}, "--unit parms: .* 'parms' (did you mean 'params'?)"),
        ({"costs": ["params", "gflop"]}, "--cost gflop: .* 'gflop' (did you mean 'gflops'?); there are 'model', "),
        ({"costs": ["x=params", "x=gflops"]}, "cost 'x' is declared twice, as 'params' and 'gflops'"),
        ({"run_column": "modle"}, "has no column 'modle' (did you mean 'model'?)"),
        ({"step_column": "Step"}, "has no column 'Step'; there are"),
        ({"costs": ["flops"]}, "has no cost: looked for 'flops' (did you mean 'gflops'?)"),
    ],
)
def test_a_name_that_fits_nothing_is_refused_with_the_nearest(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")):
        read(tmp_path, OK, **options)


def test_a_metric_that_the_only_table_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--monitor acc: no source has a column 'acc'; there are 'model', 'params'"):
        read(tmp_path, "model,params\nA,1\n")


def test_a_cost_that_one_of_several_tables_has_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("model,params,ms,acc\nB,1,5,0.6\n")
    (tmp_path / "a.csv").write_text("model,params,acc\nA,1,0.7\n")
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    runs = load_runs(files, monitor="acc", mode="max", costs=["params", "ms"], units={"ms": "ms"})
    assert [run.final.get("ms") for run in runs] == [None, 0.005]


def test_rates_are_what_their_words_say(tmp_path: Path) -> None:
    names = ("tflop_per_s", "img_per_s", "gbytes_per_s", "ktokens_per_s", "train_flop_per_s", "tokens_per_s")
    text = f"model,{','.join(names)},acc\nA,{','.join(['312'] * len(names))},1\n"
    (run,) = read(tmp_path, text, costs=[f"{name}:max" for name in names])
    units = [run.header["indicators"][name]["unit"] for name in names]
    assert units == ["tflop_per_s", "img_per_s", "gbytes_per_s", "ktokens_per_s", "flop_per_s", "tokens_per_s"]
    assert set(run.final.values()) == {312.0}


def test_a_path_that_is_not_there_is_called_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no run under .*nope\.csv: there is no such file"):
        load_runs(tmp_path / "nope.csv")


@pytest.mark.integration
def test_the_command_line_takes_columns_marks_and_tells_cautions(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("backbone;run;step;time_s;acc\nÄ;1;0;0;0,1\nÄ;1;10;1.010;0,7\n".encode("latin-1"))
    command = [sys.executable, "-m", "lightning_costs", "compare", "t.csv", "--monitor", "acc", "--mode", "max"]
    command += ["--cost", "time_s", "--run-column", "backbone", "--run-column", "run", "--decimal", ","]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert "Ä, run 1" in done.stdout
    assert "0.7" in done.stdout
    assert "read as cp1252" in done.stderr
    bad = subprocess.run([*command[:-1], ";"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert bad.returncode == 1
    assert bad.stderr.strip() == "lightning-costs: --decimal must be '.' or ',', got ';'"


@pytest.mark.parametrize("cost", ["infer_samples_per_sec", "x=Throughput (im/s)", "fps", "x=img/s"])
def test_what_is_counted_per_second_needs_its_direction_by_any_name(tmp_path: Path, cost: str) -> None:
    column = cost.partition("=")[2] or cost
    text = f"model,{column},acc\nA,1,2\n"
    with pytest.raises(ValueError, match="is a rate: say which direction is better"):
        read(tmp_path, text, costs=[cost])
    (run,) = read(tmp_path, text, costs=[f"{cost}:max"])
    assert run.header["indicators"][cost.partition("=")[0]]["better"] == "higher"


@pytest.mark.parametrize(
    ("cost", "unit", "amount"),
    [
        ("params=Params (M)", "params", 1e6),
        ("latency=Latency [ms]", "s", 1e-3),
        ("mem=Memory (GB)", "bytes", 1e9),
        ("params=Params (B)", "params", 1e9),
        ("params=param_count_m", "params", 1e6),
        ("train_s=Training time (hours)", "s", 3600.0),
        ("train_s=wall_ms", "s", 1e-3),
        ("train_s=total_time_s", "s", 1.0),
        ("infer_latency_p50_s=ms_per_image", "s", 1e-3),
        ("device_s=GPU hours", "s", 3600.0),
        ("device_s=Compute [A100 hours]", "s", 3600.0),
        ("energy_j=energy_kwh", "j", 3.6e6),
        ("peak_mem_bytes=mem_mb", "bytes", 1e6),
        ("forward_mac=gmacs", "mac", 1e9),
        ("forward_mac=GFLOPs", "mac", 1e9),
        ("forward_flop=GFLOPS", "flop", 1e9),
        ("flop=Training compute (PF-days)", "flop", 8.64e19),
        ("flop=Compute (10^18 FLOPs)", "flop", 1e18),
        ("co2e_g=Emissions (kgCO2eq)", "g", 1e3),
        ("cloud_usd=Cost (k$)", "usd", 1e3),
        ("mfu_fraction=mfu_pct", "fraction", 0.01),
        ("depth=Depth (m)", "depth", 1.0),
    ],
)
def test_a_unit_in_the_heading_is_taken_and_said(tmp_path: Path, cost: str, unit: str, amount: float) -> None:
    name, _, column = cost.partition("=")
    (tmp_path / "t.csv").write_text(f"model,{column},acc\nA,1,2\n")
    found = find_runs(tmp_path / "t.csv", monitor="acc", mode="max", costs=[cost])
    assert found.runs[0].final == {name: amount}
    assert found.runs[0].header["indicators"][name]["unit"] == unit
    assert [note.partition(" is read in ")[0] for note in found.notes] == ([repr(column)] if amount != 1.0 else [])
    (plain,) = read(tmp_path, f"model,{column},acc\nA,1,2\n", costs=[cost], units={name: "k"})
    assert plain.final == {name: 1e3}


def test_a_unit_that_nobody_knows_is_told_and_one_that_may_be_two_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("model,x,acc\nA,1,2\n")
    options = {"monitor": "acc", "mode": "max", "costs": ["x"]}
    found = find_runs(tmp_path / "t.csv", units={"x": "furlongs"}, **options)  # type: ignore[arg-type]
    assert found.notes == ["--unit x=furlongs: 'furlongs' is no unit known here: numbers stay as they are"]
    with pytest.raises(ValueError, match="unit 'gflops' could be gFLOP or gFLOP/s"):
        find_runs(tmp_path / "t.csv", units={"x": "gflops"}, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cost", "why"),
    [
        ("train_s=Time (m)", "train_s is in s and its heading says m"),
        ("train_s=Energy (kWh)", "train_s is in s and its heading says kWh"),
        ("forward_flop=FLOPs (GMACs)", "forward_flop is in flop and its heading says GMACs"),
        ("forward_flop=gmacs", "forward_flop is in flop and its heading says gmacs"),
    ],
)
def test_a_unit_in_the_heading_that_a_cost_cannot_have_is_refused(tmp_path: Path, cost: str, why: str) -> None:
    name, _, column = cost.partition("=")
    with pytest.raises(ValueError, match=re.escape(f"{why}; say the unit of its numbers: --unit {name}=UNIT")):
        read(tmp_path, f"model,{column},acc\nA,1,2\n", costs=[cost])
    (run,) = read(tmp_path, f"model,{column},acc\nA,1,2\n", costs=[cost], units={name: "k"})
    assert run.final == {name: 1e3}


def test_brackets_that_are_no_known_unit_are_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("model,Price (EUR),acc\nA,1,2\n")
    found = find_runs(tmp_path / "t.csv", monitor="acc", mode="max", costs=["cloud_usd=Price (EUR)"])
    assert found.notes == ["'Price (EUR)' is read in usd: 'EUR' in its heading is no unit known here"]


@pytest.mark.parametrize(
    ("column", "cells", "why"),
    [
        ("params", ("25557032", "25.56"), "row 2 (run 'B'): params is 25.56, and params are whole numbers"),
        ("forward_mac", ("4", "4.11"), "row 2 (run 'B'): forward_mac is 4.11, and mac are whole numbers"),
        ("mfu_fraction", ("0.4", "45.2"), "row 2 (run 'B'): mfu_fraction is 45.2, and a fraction is at most 1"),
    ],
)
def test_amounts_that_are_none_of_their_unit_are_refused(
    tmp_path: Path, column: str, cells: tuple[str, str], why: str
) -> None:
    text = f"model,{column},acc\nA,{cells[0]},2\nB,{cells[1]},3\n"
    with pytest.raises(ValueError, match=re.escape(why)):
        read(tmp_path, text, costs=[])
    unit = "%" if column == "mfu_fraction" else "M"
    assert read(tmp_path, text, costs=[], units={column: unit})[1].final[column] == pytest.approx(
        float(cells[1]) * (0.01 if unit == "%" else 1e6)
    )


def test_an_amount_in_another_unit_is_the_one_that_is_written_out(tmp_path: Path) -> None:
    text = "model,params,mac,acc\nA,4.1,4.11,2\n"
    (run,) = read(tmp_path, text, costs=["params", "mac"], units={"params": "G", "mac": "GMAC"})
    assert run.final == {"params": 4_100_000_000.0, "mac": 4_110_000_000.0}


def test_a_mean_of_counts_may_be_broken(tmp_path: Path) -> None:
    (run,) = read(tmp_path, "model,samples,steps,acc\nA,50000.5,90.25,2\n", costs=[])
    assert run.final == {"samples": 50000.5, "steps": 90.25}


def test_switches_of_a_parquet_file_are_no_numbers(tmp_path: Path) -> None:
    pl.DataFrame({"model": ["A"], "params": [1], "acc": [2.0], "pretrained": [True]}).write_parquet(
        tmp_path / "t.parquet"
    )
    (run,) = load_runs(tmp_path / "t.parquet")
    assert (run.quality_columns, run.header["setup"]["pretrained"]) == (["acc"], True)

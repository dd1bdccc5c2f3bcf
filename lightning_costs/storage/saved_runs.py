"""Many runs in two files: `NAME.json` holds their headers, `NAME.parquet` the points of all of them.

The JSON is an object with `format` (its first field) and `version`; `run_column`, the column of the Parquet that names
the run; `shared`, by JSON pointer (RFC 6901) to a part of a header the values that several runs have; and `runs`, by
run id. A run has `points`, their number; `header`, without the id, with null in the place of what is shared; and
`shared`, by pointer the position of its value. A pointer leads to a field (`/setup`) or into one (`/energy/cpu`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from lightning_costs.records.printable import printable, utf8_encodable
from lightning_costs.run.record import RunRecord
from lightning_costs.storage.limits import (
    MOST_HEADERS_BYTES,
    MOST_POINTS_BYTES,
    check_size,
    check_table,
    check_values,
    refuse_pointer,
)
from lightning_costs.storage.paths import SourcePath
from lightning_costs.storage.run_folder.files import HEADER, replace_file
from lightning_costs.storage.run_folder.frames import OWN, cost_columns, with_costs
from lightning_costs.storage.run_folder.header import header_from
from lightning_costs.storage.run_folder.journal import to_strict_json
from lightning_costs.storage.run_folder.reader import check_not_newer, typed

if TYPE_CHECKING:
    import polars

HEADERS, POINTS = ".json", ".parquet"
FORMAT, VERSION = "lightning-costs runs", 1
_BEGIN = re.compile(rb'\s*\{\s*"format"\s*:\s*"' + FORMAT.encode() + b'"')
#: A value that several headers hold is written once if its text is longer than this many characters.
_LONG = 30


def save_runs(runs: Iterable[RunRecord], path: str | Path) -> None:
    """Write runs into two files, which `load_run`, `load_runs` and the command line read as they read run folders.

    Args:
        runs: Each of another id.
        path: `NAME.json`, for the headers; the points go into `NAME.parquet` beside it. Runs that were saved there
            before are replaced; to add some, save `[*load_runs(path), *more]`.

    Raises:
        ValueError: If the path is no `NAME.json` of this machine, or if its files hold something else. Also if two
            runs have one id, or for more than `load_runs` would read.
    """
    place, runs = SourcePath.of(path), list(runs)
    headers, points = Path(place.path), Path(place.beside(POINTS).path)
    if place.remote or headers.suffix != HEADERS or headers.name == HEADER:
        raise ValueError(f"expected a path NAME.json of this machine, other than {HEADER}, got {place}")
    if (headers.exists() or points.exists()) and saved_at(place) is None:
        raise ValueError(f"{place} or its {POINTS} is there and holds no saved runs: choose another name")
    document, table = _document(runs), BytesIO()
    for run_id in document.runs:
        document.header(run_id)
    text = document.text()
    check_size(headers.name, max(len(text), document.whole_bytes()), MOST_HEADERS_BYTES)
    frame = _table(runs, document.run_column)
    check_values(points.name, frame.height, frame.width)
    frame.write_parquet(table, compression="zstd", compression_level=19, statistics=False)
    check_size(points.name, table.tell(), MOST_POINTS_BYTES)
    headers.parent.mkdir(parents=True, exist_ok=True)
    # A reader between the two finds other numbers of points, and says so.
    replace_file(points, lambda fresh: fresh.write_bytes(table.getvalue()))
    replace_file(headers, lambda fresh: fresh.write_text(text, encoding="ascii"))


class SavedRun(NamedTuple):
    """The identity of a saved run: its file and its id."""

    file: object
    run_id: str


def saved_at(place: SourcePath) -> SourcePath | None:
    """The file of headers, if a file is that of saved runs or holds their points."""
    headers = place.beside(HEADERS) if place.suffix == POINTS else place
    try:
        known = headers.suffix == HEADERS and headers.name != HEADER and headers.is_file()
        return headers if known and _BEGIN.match(headers.starts(200)) else None
    except OSError:  # a folder without permission to read
        return None


def read_saved(headers: SourcePath, key: object) -> list[tuple[SavedRun, Callable[[], RunRecord]]]:
    """Saved runs: what identifies each, and how it is read. One that cannot be read concerns no other."""
    try:
        document = _read_document(headers)
        points = _read_table(headers.beside(POINTS), document)
    except (ValueError, OSError) as error:
        return [(SavedRun(key, ""), partial(_fail, error))]
    return [(SavedRun(key, run_id), partial(_run, headers, document, points, run_id)) for run_id in document.runs]


def _fail(error: Exception) -> NoReturn:
    raise error


class _Document(NamedTuple):
    """What the file of headers holds."""

    run_column: str
    shared: Mapping[str, Sequence[Any]]
    runs: Mapping[str, Any]

    def header(self, run_id: str) -> dict[str, Any]:
        """The header of a run, checked."""
        match self.runs[run_id]:
            case {"points": int(), "header": dict(own), "shared": dict(elsewhere)}:
                pass
            case _:
                raise ValueError("expected an object with the fields 'points', 'header' and 'shared'")
        header = {name: dict(value) if isinstance(value, dict) else value for name, value in own.items()}
        for pointer, at in elsewhere.items():
            values = self.shared.get(pointer, ())
            name, *inner = (part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:] or [""])
            whole = header if not inner else header.get(name)
            there = isinstance(at, int) and 0 <= at < len(values)
            if not there or len(inner) > 1 or not isinstance(whole, dict):
                raise ValueError(f"{pointer!r} is at no position of the values that runs share")
            whole[[name, *inner][-1]] = dict(values[at]) if isinstance(values[at], dict) else values[at]
        header = header_from({**header, "run_id": run_id})
        quality = header.setdefault("quality", [])
        if not isinstance(quality, list) or not all(isinstance(name, str) for name in quality):
            raise ValueError("'quality' must be a list of texts")
        return header

    def text(self) -> str:
        """The file: a line a run, so that its versions can be told apart."""
        begin = {"format": FORMAT, "version": VERSION, "run_column": self.run_column, "shared": self.shared}
        lines = ",\n".join(f"{_text(run_id)}:{_text(entry)}" for run_id, entry in self.runs.items())
        return f'{_text(begin)[:-1]},\n"runs":{{\n{lines}\n}}}}\n'

    def whole_bytes(self) -> int:
        """About how much the headers would be if nothing were shared."""
        shared = self.shared.items()
        sizes = {(name, at): len(_text(value)) for name, values in shared for at, value in enumerate(values)}
        parts = (entry.get("shared") for entry in self.runs.values() if isinstance(entry, dict))
        named = (item for part in parts if isinstance(part, dict) for item in part.items())
        return sum(sizes.get(item, 0) for item in named if isinstance(item[1], int))


def _text(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), allow_nan=False, default=str)


def _document(runs: Sequence[RunRecord]) -> _Document:
    headers: dict[str, dict[str, Any]] = {}
    for run in runs:
        run_id = utf8_encodable(run.id)
        if run_id in headers:
            raise ValueError(f"expected runs of different ids, got two of {printable(run_id)!r}")
        header = {name: to_strict_json(value) for name, value in run.header.items() if name != "run_id"}
        headers[run_id] = {**header, "quality": _metrics(run)}
    often = Counter(
        (pointer, text) for header in headers.values() for pointer, text in _parts(header) if len(text) > _LONG
    )
    shared: dict[str, dict[str, int]] = {}
    entries: dict[str, dict[str, Any]] = {}
    for run, (run_id, header) in zip(runs, headers.items(), strict=True):
        elsewhere: dict[str, int] = {}

        def own(data: dict[str, Any], within: str = "", elsewhere: dict[str, int] = elsewhere) -> dict[str, Any]:
            left: dict[str, Any] = {}
            for name, value in data.items():
                pointer, text = _pointer(name, within), _text(value)
                if often[pointer, text] > 1:
                    known = shared.setdefault(pointer, {})
                    elsewhere[pointer] = known.setdefault(text, len(known))
                    left[name] = None
                else:
                    left[name] = own(value, pointer) if isinstance(value, dict) and not within else value
            return left

        entries[run_id] = {"points": run.points.height, "header": own(header), "shared": elsewhere}
    values = {pointer: [json.loads(text) for text in texts] for pointer, texts in shared.items()}
    column = "run"
    while any(column in (*run.points.columns, *run.header["indicators"]) for run in runs):
        column += "_"
    return _Document(column, values, entries)


def _parts(header: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Pointers to the fields of a header and to what is in them, with their texts."""
    for name, value in header.items():
        yield _pointer(name), _text(value)
        if isinstance(value, dict):
            yield from ((_pointer(key, _pointer(name)), _text(item)) for key, item in value.items())


def _pointer(name: str, within: str = "") -> str:
    return f"{within}/{name.replace('~', '~0').replace('/', '~1')}"


def _metrics(run: RunRecord) -> list[str]:
    return [name for name in run.points.columns if name not in OWN and name not in run.header["indicators"]]


def _table(runs: Sequence[RunRecord], run_column: str) -> polars.DataFrame:
    """The points of all runs; costs that no point has are left out, as headers declare them."""
    import polars

    frames = []
    for run in runs:
        known = {series.name for series in run.points if series.null_count() < len(series)}
        costs = [name for name in cost_columns(run.header) if name in known]
        points = typed(run.points[[*OWN, *costs, *_metrics(run)]], run.header)
        ids = polars.Series(run_column, [utf8_encodable(run.id)], polars.String).new_from_index(0, points.height)
        frames.append(polars.DataFrame({run_column: ids, **points.to_dict()}))
    return polars.concat(frames, how="diagonal") if frames else polars.DataFrame(schema={run_column: polars.String})


def _read_document(place: SourcePath) -> _Document:
    content = place.read_at_most(MOST_HEADERS_BYTES)
    try:
        data = json.loads(content, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} holds no saved runs: {printable(str(error))}") from error
    match data:
        case {"version": int(version)} if version > VERSION:
            raise ValueError(
                f"{place} was written with version {version} of the format, this package reads up to {VERSION}; "
                "install a newer lightning-costs"
            )
        case {"run_column": str(column), "shared": dict(shared), "runs": dict(runs)}:
            lists = {name: values for name, values in shared.items() if isinstance(values, list)}
            document = _Document(column, lists, runs)
        case _:
            raise ValueError(f"{place} holds no saved runs: expected the fields 'run_column', 'shared' and 'runs'")
    check_size(str(place), document.whole_bytes(), MOST_HEADERS_BYTES)
    return document


def _read_table(place: SourcePath, document: _Document) -> dict[str, polars.DataFrame]:
    """The points of each run; of a run without any, a table of none."""
    import polars

    if not place.is_file():
        raise FileNotFoundError(f"{place} is not there, which holds the points of {place.beside(HEADERS).name}")
    content = place.read_at_most(MOST_POINTS_BYTES)
    refuse_pointer(str(place), content)
    column = document.run_column
    try:
        check_table(place.name, content)
        frame = polars.read_parquet(content)
        if frame.schema.get(column) != polars.String:
            raise ValueError(
                f"{place} cannot be read: expected a column {printable(column)!r} of texts, which names the run"
            )
        ours = frame.filter(frame[column].is_in(list(document.runs)))
        by_run = ours.partition_by(column, as_dict=True, maintain_order=True, include_key=False)
    except (polars.exceptions.PolarsError, polars.exceptions.PanicException, OSError) as error:
        raise ValueError(f"{place} cannot be read: {printable(str(error))}") from error
    return {run_id: by_run.get((run_id,), frame.drop(column).clear()) for run_id in document.runs}


def _run(place: SourcePath, document: _Document, points: Mapping[str, polars.DataFrame], run_id: str) -> RunRecord:
    import polars

    where = f"{place}, run {printable(run_id)!r}"
    try:
        header = document.header(run_id)
    except ValueError as error:
        raise ValueError(f"{where} has no header of a run: {error}") from error
    check_not_newer(header, where)
    rows, expected, parquet = points[run_id], document.runs[run_id]["points"], place.beside(POINTS).name
    if rows.height != expected:
        raise ValueError(
            f"{where} has {expected} points, and {parquet} holds {rows.height} of it: the two files were not written "
            "together; save the runs again"
        )
    costs = cost_columns(header)
    taken = {*OWN, *header["indicators"]}
    quality = [name for name in dict.fromkeys(header["quality"]) if name not in taken]
    check_values(where, rows.height, len(costs) + len(quality))
    try:
        rows = rows[[name for name in (*OWN, *costs, *quality) if name in rows.columns]]
        frame = typed(with_costs(rows, header), header)
    except (Exception, polars.exceptions.PanicException) as error:  # whatever stands there, it is this run's alone
        raise ValueError(f"the points of {where} cannot be read: {printable(repr(error))}") from error
    quality = [name for name in quality if name in frame.columns]
    return RunRecord(header={**header, "quality": quality}, points=frame[[*OWN, *costs, *quality]], source=parquet)

"""Runs compared, for people: the plain data of a comparison, and how it is drawn, written and sent."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lightning_costs.analysis.data import ComparisonData
from lightning_costs.analysis.schema import TOLERANCE
from lightning_costs.pricing.tariff import Tariff
from lightning_costs.run.kept import Curve as CostCurve
from lightning_costs.run.record import RunRecord

if TYPE_CHECKING:
    import altair


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison(ComparisonData):
    """Runs compared by quality and by every cost at once. `ComparisonData` says what it holds."""

    def chart(
        self,
        x: str,
        y: str | None = None,
        log: bool = True,
        *,
        ylim: tuple[float, float] | None = None,
        group: bool | None = None,
        width: int | None = None,
    ) -> altair.LayerChart:
        """Draw quality, or another indicator `y`, against the cost `x`.

        Args:
            x: Column of an indicator.
            y: Column of another; None draws the quality metric.
            log: Whether costs are drawn on a logarithmic axis.
            ylim: Least and greatest value of the vertical axis; None fits it to the data.
            group: Whether seeds of one method share a color, with their median and band; None if runs are grouped.
            width: In pixels.

        Raises:
            ValueError: For an indicator that is not compared, limits out of order, or groups that runs do not have.
            ImportError: Without the extra `report`.
        """
        try:
            from lightning_costs.report.charts.quality import chart
        except ImportError as error:
            raise _needs_report("chart", error) from error
        return chart(self, x, y, log=log, ylim=ylim, group=group, width=width)

    def to_html(self, path: str | Path, *, reload_s: int | None = None) -> Path:
        """Write the comparison as one HTML file that loads nothing from anywhere.

        Args:
            path: The file.
            reload_s: Seconds after which a browser loads the file again, for one that is written again and again.

        Raises:
            ImportError: Without the extra `report`.
        """
        try:
            from lightning_costs.report.page.page import write_page
        except ImportError as error:
            raise _needs_report("to_html", error) from error
        return write_page(self, Path(path), reload_s=reload_s)

    def to_wandb(self, project: str, *, title: str | None = None) -> str:
        """Write the comparison as a W&B Report, or replace the package's report of this title.

        Args:
            project: `entity/project`. Panels draw those of the compared runs that it has.
            title: The report's title.

        Returns:
            The report's address.

        Raises:
            ImportError: Without the extras `report` and `wandb`.
            ValueError: Where W&B refuses it or cannot be reached.
        """
        try:
            from lightning_costs.report.page.page import page
            from lightning_costs.report.wandb.publish import publish
        except ImportError as error:
            raise _needs_report("to_wandb", error) from error
        return publish(self, project, title=title, page=page(self)).url

    def to_figures(
        self,
        folder: str | Path,
        *,
        only: Sequence[str] = (),
        formats: Sequence[Literal["pdf", "svg", "png"]] = ("pdf", "png", "svg"),
        width: Literal["column", "text"] | float = "text",
    ) -> list[Path]:
        """Write charts into a folder; returns the files.

        Args:
            folder: Made if it does not exist.
            only: Names of figures, or columns, of which all figures are written; without any, the answer, the
                independent costs and what costs are made of, with a README.txt that has a line each.
            formats: 'pdf', 'svg' and 'png'.
            width: 'column' (84 mm), 'text' (174 mm) or a number of millimetres.

        Raises:
            ValueError: For an unknown format or width, or if `only` names nothing that can be drawn.
            ImportError: Without the extra `report`.
        """
        try:
            from lightning_costs.report.charts.figures import write_figures
        except ImportError as error:
            raise _needs_report("to_figures", error) from error
        return write_figures(self, Path(folder), only=only, formats=formats, width=width)

    def to_csv(self, folder: str | Path) -> list[Path]:
        """Write every table into a folder, as a CSV file each that a spreadsheet can open safely; returns the files."""
        from lightning_costs.report.tables.csv_files import write_csv

        return write_csv(self, Path(folder))

    def __str__(self) -> str:
        """The answer: sentences, one table, cautions; as wide as the terminal."""
        from lightning_costs.report.terminal.answer import answer_text

        return answer_text(self, shutil.get_terminal_size().columns).rstrip("\n")

    def _repr_html_(self) -> str:
        from lightning_costs.report.tables.notebook import comparison_html

        return comparison_html(self)


def compare(
    runs: Sequence[RunRecord],
    *,
    monitor: str | None = None,
    mode: Literal["max", "min"] | None = None,
    targets: float | Sequence[float] = (),
    tariff: Tariff | Mapping[str, Any] | str | Path | None = None,
    curve: CostCurve = "spent",
    queries: Sequence[float] = (),
    group: str | None = None,
    reference: str | None = None,
    tolerance: float = TOLERANCE,
) -> Comparison:
    """Compare runs by quality and by every cost at once.

    Args:
        runs: At least one.
        monitor: The quality metric, by the name it was logged under; where not given, the one that headers
            agree on.
        mode: 'max' or 'min'; where not given, what the headers say of this metric. One against what all of them say
            is taken where `monitor` is given beside it, and is an error else.
        targets: Qualities to reach, declared before results were seen; where not given, those in the headers,
            else two are chosen from the results and marked as chosen.
        tariff: Prices all runs again, as a Tariff, its fields by name or the path of a TOML file; by default each
            keeps what it recorded.
        curve: 'spent' compares everything spent; 'to_reach' leaves out lost work and its points.
        queries: Numbers of queries (samples to infer) for lifecycle costs; by default a few.
        group: What makes runs seeds of one method: 'name', 'name~PATTERN' (a regular expression; its first bracket
            names the method), 'group' (the header's) or a setting of the setup such as 'optimizers.0.name'. Where not
            given, runs that differ by nothing but their seed are grouped; 'none' compares single runs.
        reference: The group that the others are held against; where not given, the one of the best quality.
        tolerance: Runs are matched by an indicator where the larger amount is at most 1 + tolerance times the smaller.

    Raises:
        ValueError: For no runs, no metric that all runs can be compared by, a target that is not a number, or an
            unknown curve. Also for a number of queries below 0, a group that a run has not, or a tolerance below 0.
    """
    # A script that trains imports `compare` beside CostMonitor: polars, whose threads outlive no fork, waits for a
    # call.
    from lightning_costs.analysis.comparison import compare_runs

    data = compare_runs(
        runs,
        monitor=monitor,
        mode=mode,
        targets=(targets,) if isinstance(targets, int | float) else targets,
        tariff=None if tariff is None else Tariff.of(tariff),
        curve=curve,
        queries=queries,
        group=group,
        reference=reference,
        tolerance=tolerance,
    )
    return Comparison(**{field.name: getattr(data, field.name) for field in fields(data)})


def _needs_report(method: str, error: ImportError) -> ImportError:
    return ImportError(f"{method} needs {error.name or 'altair'}: pip install 'lightning-costs[report]'")

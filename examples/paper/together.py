"""Everything that was trained, together: how well costs agree about the order of runs (as the paper's Figure 5b asks).

Quality differs from study to study (accuracy of digits, bits per byte of text) and takes no part. Runs are told apart
by study: an order that flips within a study is one that the study's own methods disagree about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import altair as alt

from lightning_costs import Comparison, compare
from lightning_costs.analysis.agreement_schema import RankPair
from lightning_costs.report.charts.look import styled
from lightning_costs.report.charts.ranks import heat_map
from lightning_costs.report.tables.tables import rank_matrix
from lightning_costs.run.record import RunRecord

from . import STUDIES
from .claims import number
from .kept import kept, kept_results
from .study import find_study

#: Costs of every family, in whose order every study's runs can be put.
COLUMNS = (
    "params",
    "active_params",
    "opt_peak_bytes",
    "activation_elements",
    "forward_flop",
    "flop",
    "mem_access_bytes",
    "op_calls",
    "train_s",
    "samples_per_s",
    "train_energy_j",
)


def together(size: str) -> Comparison | None:
    """All kept runs of a size, compared by their costs; None where there are none.

    Args:
        size: Of one size only: runs of two machines are not ranked by time.
    """
    runs = [run for name in STUDIES for run in _of_study(name, size)]
    return compare(runs, monitor="val/acc", mode="max", group="group") if runs else None


def _of_study(name: str, size: str) -> list[RunRecord]:
    """Its runs, named and grouped by the study."""
    study = find_study(name)
    return [
        replace(run, header={**run.header, "group": name, "name": f"{name} {run.name}"}) for run in kept(study, size)
    ]


def correlations(compared: Comparison) -> alt.LayerChart:
    """Spearman's rank correlation of every two costs, as a map."""
    return styled(heat_map(rank_matrix(compared, COLUMNS)))


def disagreements(compared: Comparison, most: int = 12) -> list[str]:
    """A Markdown table of the pairs of costs that order most pairs of runs of one study in opposite ways."""
    among = [pair for pair in compared.ranks["pairs"] if {pair["first"], pair["second"]} <= set(COLUMNS)]
    found = sorted(among, key=lambda pair: -(_share(pair) or 0.0))[:most]
    lines = [
        "| costs | Spearman, all runs | opposite order, of pairs of one study | of all pairs |",
        "| --- | --- | --- | --- |",
    ]
    for pair in found:
        share, spearman = _share(pair), pair["spearman"]
        told = [pair["concordant"], pair["discordant"]]
        everywhere = "" if not sum(told) else f"{told[1] / sum(told):.0%}"
        lines.append(
            f"| `{pair['first']}`, `{pair['second']}` | {'' if spearman is None else number(spearman)} "
            f"| {'' if share is None else f'{share:.0%}'} | {everywhere} |"
        )
    return lines


def _share(pair: RankPair) -> float | None:
    """Of the pairs of runs of one study that both costs tell apart, how many they put in opposite orders."""
    within = pair["within"]
    told = 0 if within is None else within["concordant"] + within["discordant"]
    return within["discordant"] / told if within is not None and told else None


def verdicts(sizes: Sequence[str]) -> list[str]:
    """A Markdown table of studies: how many of their claims held, by size."""
    lines = ["| study | part of the paper | size | runs | held | not held | undecided |", "| --- |" + " --- |" * 6]
    for name in STUDIES:
        study = find_study(name)
        for size in sizes:
            results = kept_results(name, size)
            if results is None:
                continue
            found = [claim.against(results).verdict for claim in study.claims]
            counts = " | ".join(str(found.count(verdict)) for verdict in ("held", "not held", "undecided"))
            lines.append(
                f"| [{study.title}]({name}.md) | {study.part} | {size} | {len(results.compared.runs)} | {counts} |"
            )
    return lines

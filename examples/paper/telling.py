"""What came out of a study in words and tables: claims with their verdicts, and what each method cost."""

from __future__ import annotations

from lightning_costs.records.formatting import format_amount

from .claims import Results, final, number, quality
from .study import Study


def tell(study: Study, results: Results) -> str:
    """Which claims held, and what each method cost, as plain text."""
    return "\n".join(
        [f"{study.part}: {study.title}", "", *claim_lines(study, results), "", *cost_lines(study, results), ""]
    )


def claim_lines(study: Study, results: Results) -> list[str]:
    """A Markdown table of claims, verdicts and evidence."""
    lines = ["| claim | verdict | what was measured |", "| --- | --- | --- |"]
    for claim in study.claims:
        found = claim.against(results)
        lines.append(f"| {claim.text} | **{found.verdict}** | {found.evidence} |")
    return lines


def cost_lines(study: Study, results: Results) -> list[str]:
    """A Markdown table of methods: medians over seeds, with their 95 % interval where seeds differ."""
    columns = [name for name in study.columns if name in results.compared.indicators]
    lines = [
        f"| method | seeds | best {study.monitor} | {' | '.join(f'`{name}`' for name in columns)} |",
        f"| --- | --- | --- |{' --- |' * len(columns)}",
    ]
    for arm, seeds in results.rows.items():
        best = results.over_seeds(quality(), arm)
        cells = [_spread(results, arm, name) for name in columns]
        low, high = best["low"], best["high"]
        interval = "" if low is None or low == high else f" [{number(low)}, {number(high)}]"
        lines.append(f"| {arm} | {len(seeds)} | {number(best['median'])}{interval} | {' | '.join(cells)} |")
    return lines


def _spread(results: Results, arm: str, column: str) -> str:
    found = results.over_seeds(final(column), arm)
    unit = results.compared.indicators[column]["unit"]
    low, high = found["low"], found["high"]
    interval = "" if low is None or low == high else f" [{format_amount(low, unit)}, {format_amount(high, unit)}]"
    return format_amount(found["median"], unit) + interval


def setup_line(results: Results) -> str:
    """On what it was measured, as far as that is the same for all runs, and what the runs took together."""
    setups = results.compared.setups
    same = setups["same"]

    def said(form: str, *names: str) -> list[str]:
        known = [same[name] for name in names if same.get(name) is not None]
        return [form.format(*known)] if len(known) == len(names) else []

    machine = [*said("{}", "hardware.device"), *said("{} cores of {}", "hardware.cpu_count", "hardware.cpu")]
    # Only a Lightning Trainer says which accelerator it took; the studies without one train by DeepSpeed.
    trainer = "Lightning" if "accelerator" in {*same, *setups["different"]} else "DeepSpeed"
    about = [
        " with ".join(machine) or "machines that differ, or are not known",
        *said("{}", "precision"),
        *said("torch {}", "software.torch"),
        *said(f"{trainer} {{}}", f"software.{trainer.lower()}"),
    ]
    took = sum(row["final"].get("total_s") or 0.0 for row in results.compared.runs)
    return f"{len(results.compared.runs)} runs, {format_amount(took, 's')} together, on {', '.join(about)}."

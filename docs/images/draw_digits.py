"""Draw the README's picture from the runs of `make demo`: `python docs/images/draw_digits.py demo/costs`."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

import altair as alt

from lightning_costs import load_runs

TARGET = 0.9
METHODS = {"wide": "#0072B2", "deep": "#D55E00", "sam": "#009E73"}
COSTS = {
    "samples": "samples",
    "train_s": "training time",
    "energy_j": "energy (modelled)",
    "flop": "FLOPs",
    "params": "parameters",
    "opt_peak_bytes": "optimizer memory",
}


def cost_to(path: Path, target: float) -> dict[str, dict[str, list[float]]]:
    """Column to method to what each seed had spent at its first evaluation at or past the target."""
    spent: dict[str, dict[str, list[float]]] = {column: {} for column in COSTS}
    for run in load_runs(path):
        method, reached = run.name.partition("-seed")[0], run.points.filter(run.points["val/acc"] >= target)
        for column in COSTS:
            amount = reached[column][0] if column in reached.columns else run.final[column]
            spent[column].setdefault(method, []).append(float(amount))
    return spent


def main() -> None:
    spent = cost_to(Path(sys.argv[1]), TARGET)
    rows = []
    for column, label in COSTS.items():
        least = min(median(amounts) for amounts in spent[column].values())
        rows += [
            {"cost": label, "method": method, "ratio": amount / least, "median": median(amounts) / least}
            for method, amounts in spent[column].items()
            for amount in amounts
        ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        x=alt.X(
            "ratio:Q", scale=alt.Scale(type="log", base=2), title="times the cheapest method (median of its seeds)"
        ),
        y=alt.Y("cost:N", sort=list(COSTS.values()), title=None),
        yOffset=alt.YOffset("method:N", sort=list(METHODS)),
        color=alt.Color("method:N", scale=alt.Scale(domain=list(METHODS), range=list(METHODS.values())), title=None),
    )
    seeds = base.mark_point(size=35, opacity=0.5, filled=True)
    medians = base.mark_point(size=160, shape="diamond", filled=True, opacity=1).encode(x=alt.X("median:Q"))
    chart = (seeds + medians).properties(width=560, height=alt.Step(15)).configure(background="white")
    chart = chart.configure_axis(labelFontSize=13, titleFontSize=12, labelLimit=200)
    chart = chart.configure_legend(orient="top", labelFontSize=13, symbolSize=120)
    chart.save(Path(__file__).with_name("digits.svg"))


if __name__ == "__main__":
    main()

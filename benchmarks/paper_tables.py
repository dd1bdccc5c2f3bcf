"""Tables 1 and 2 of 'The Efficiency Misnomer': parameters and multiply-accumulates of its vision transformers.

Every row is built on the meta device, where tensors have shapes and no memory, and measured by
`lightning_costs.model_cost`, once with explicit attention and once with torch's fused one. `paper_tables.csv` holds the
configurations, the exact figures of these architectures, and what the paper printed (Dehghani et al. 2021, arXiv
2110.12894, Tables 1 and 2; its 'GFLOPs' are multiply-accumulates).

Exits with 1 where a count is not exact.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from vit import ViT

from lightning_costs import measure

ROWS = Path(__file__).with_name("paper_tables.csv")
_SIZES = ("image", "patch", "hidden", "layers", "heads", "ffn", "num_classes")


def main() -> int:
    began = time.perf_counter()
    table = Table(title="Parameters and MACs per image, exact", title_justify="left", box=None)
    for heading in ("", "parameters", "printed", "GMAC, explicit", "GMAC, fused", "printed", ""):
        table.add_column(heading, justify="right" if heading else "left")
    wrong = 0
    with ROWS.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        sizes = {name: int(row[name]) for name in _SIZES}
        costs = []
        for fused in (False, True):
            with torch.device("meta"):
                model, images = ViT(**sizes, fused=fused), torch.empty(1, 3, sizes["image"], sizes["image"])
            costs.append(measure(model, images))
        exact = all((cost.params, cost.forward_mac) == (int(row["params"]), int(row["mac_forward"])) for cost in costs)
        wrong += not exact
        explicit, by_operator = (f"{(cost.forward_mac or 0) / 1e9:.3f}" for cost in costs)
        table.add_row(
            f"table {row['table']}, {row['model']}",
            f"{costs[0].params:,.0f}",
            f"{row['printed_mparams']} M",
            explicit,
            by_operator,
            row["printed_gflops"],
            "exact" if exact else f"[red]expected {row['params']} and {row['mac_forward']}[/red]",
        )
    console = Console()
    console.print(table)
    console.print(f"{len(rows) - wrong} of {len(rows)} rows exact, in {time.perf_counter() - began:.1f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

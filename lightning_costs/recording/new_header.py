"""The header of a run before its first batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning_costs.pricing.tariff import Tariff
from lightning_costs.records.declaration import Declaration
from lightning_costs.records.samples import SCHEMA_VERSION
from lightning_costs.records.versions import version_of
from lightning_costs.storage.run_folder.identity import group_of_run, tags_of_run


def new_header(
    *,
    declarations: Mapping[str, Declaration],
    name: str | None,
    monitor: str | None,
    mode: str | None,
    targets: Iterable[float],
    tariff: Tariff,
    priced: list[str],
    warmup: str,
) -> dict[str, Any]:
    """A header without identity and setup."""
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": "",
        "name": None if name is None else str(name),  # a number is a name, too
        "group": group_of_run(),
        "tags": tags_of_run(),
        "status": "running",
        "created": "",
        "monitor": None if monitor is None else str(monitor),
        "mode": mode,
        "targets": [float(target) for target in targets],
        "indicators": {column: declared.as_dict() for column, declared in declarations.items()},
        "missing": {},
        "methods": {},
        "statics": {},
        "setup": {},
        "tariff": tariff.as_dict(),
        "priced": priced,
        "attempts": [],
        "warmup": warmup,
        "written_by": f"lightning-costs {version_of('lightning-costs')}",
    }

"""The command line, called in this process as a user calls it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lightning_costs.cli.commands import main


def call(monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> int | str | None:
    monkeypatch.setattr("sys.argv", ["lightning-costs", *map(str, args)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code

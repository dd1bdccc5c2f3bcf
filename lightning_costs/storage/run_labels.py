"""What a run belongs to: its group (seeds of one method, a sweep) and its tags, as the environment names them."""

from __future__ import annotations

import os

#: The first that is set counts.
GROUP = ("LIGHTNING_COSTS_GROUP", "WANDB_RUN_GROUP")
TAGS = ("LIGHTNING_COSTS_TAGS", "WANDB_TAGS")


def group_of_run() -> str | None:
    """The group that the environment names; None if it names none."""
    return next((value for name in GROUP if (value := os.environ.get(name, "").strip())), None)


def tags_of_run() -> list[str]:
    """The tags that the environment names, which separates them by commas."""
    text = next((value for name in TAGS if (value := os.environ.get(name, "").strip())), "")
    return list(dict.fromkeys(tag for part in text.split(",") if (tag := part.strip())))

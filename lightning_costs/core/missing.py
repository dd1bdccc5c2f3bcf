"""A reading that is not there, and why."""

from __future__ import annotations


class Missing(Exception):  # noqa: N818 - a reading that is not there is no error of the program
    """A reading cannot be had; the message is the reason that goes into the run's header.

    Args:
        reason: What would be needed, what came, what to do.
        warn: Whether to say so in the log as well: for what a user would expect to work here.
    """

    def __init__(self, reason: str, *, warn: bool = False) -> None:
        super().__init__(reason)
        self.warn = warn

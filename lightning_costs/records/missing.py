"""A missing reading and its reason."""

from __future__ import annotations

import logging

_log = logging.getLogger("lightning_costs")


class Missing(Exception):  # noqa: N818 - a reading that is not there is no error of the program
    """A cost cannot be read; the message is the reason that is recorded in the header.

    Args:
        reason: What is needed, what came, what to do.
        warn: Whether to log a warning as well, if a user would expect the reading to work.
    """

    def __init__(self, reason: str, *, warn: bool = False) -> None:
        super().__init__(reason)
        self.warn = warn


def by_type(error: BaseException) -> str:
    """What a run's record says of an error: its type.

    An error's text is its author's: it may hold a password, an address or a path, and a header travels to pages,
    loggers and other people. The log, which stays with the user, gets it.
    """
    return f"{type(error).__name__} (its text is in the log)"


def type_only(what: str, error: BaseException) -> str:
    """Why something failed, as a run's record may say it; the error's text goes to the log."""
    if isinstance(error, Missing):
        return f"{what}: {error}"
    _log.warning("%s: %r", what, error)
    return f"{what}: {by_type(error)}"

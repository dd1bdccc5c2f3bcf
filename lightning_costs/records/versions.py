"""Versions of installed packages, from their metadata."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

UNKNOWN = "unknown"


def version_of(package: str) -> str:
    """The version of a package; 'unknown' if it has no metadata: a source path, a zip, a copy within another package.

    Example:
        >>> version_of("no-such-package")
        'unknown'
    """
    try:
        return version(package) or UNKNOWN
    except (PackageNotFoundError, KeyError):  # the latter if metadata has none
        return UNKNOWN

"""Reasons why a bundle was not written or read; each message is one line with place, cause and remedy.

ReplicationError (`replication/errors.py`)
└── BundleError
├── BundleInvalid       truncated, altered, no bundle at all, or with members that no bundle has
├── BaseMissing         an incremental bundle leaves out content that the target does not have
├── NameRefused         a name in the bundle is no name of a repository
├── OutputRefused       the output exists, or an unfinished export of something else is in its place
└── OutputFull          no space left for the output
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.replication.errors import ReplicationError

if TYPE_CHECKING:
    from collections.abc import Collection

    from moorage.types import Digest

__all__ = ["BaseMissing", "BundleError", "BundleInvalid", "NameRefused", "OutputFull", "OutputRefused"]

_SHOWN: Final = 10


class BundleError(ReplicationError):
    """A bundle that was not written, or not read."""


class BundleInvalid(BundleError):
    """The file is truncated, altered, or no bundle."""


class BaseMissing(BundleError):
    """The target lacks content that the bundle leaves out; nothing was written."""

    def __init__(self, place: str, target: str, base: str, missing: Collection[Digest]) -> None:
        shown = ", ".join(sorted(missing)[:_SHOWN])
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        super().__init__(
            f"{place} leaves out content that {target} should have, but does not: {shown}{more}; import {base} "
            "first, or export without --since and --have. Nothing was written"
        )
        self.missing = frozenset(missing)


class NameRefused(BundleError):
    """A name in the bundle is no name of a repository, or has none."""


class OutputRefused(BundleError):
    """The output exists, or an unfinished export of something else is in its place."""


class OutputFull(BundleError):
    """No space is left for the output; what was written stays, and the next run continues."""

"""Translation of storage errors to errors for clients; the cause is logged here, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

import structlog

from moorage.errors import StorageFull, Unavailable
from moorage.storage.driver import (
    StorageDenied,
    StorageError,
    StorageExhausted,
    StorageReadOnly,
    TooManyOpenFiles,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moorage.errors import RegistryError

__all__ = ["refuse", "refusing"]

_REFUSALS: Final[Sequence[tuple[type[StorageError], str, type[RegistryError], str]]] = (
    (StorageReadOnly, "the storage is read-only", StorageFull, "the storage is read-only"),
    (
        StorageExhausted,
        "the storage is full",
        StorageFull,
        "the storage is full; try again when the operator has made room",
    ),
    (
        StorageDenied,
        "the storage denies access",
        Unavailable,
        "the registry has no permission to use its storage; the operator has to grant it",
    ),
    (
        TooManyOpenFiles,
        "too many open files",
        Unavailable,
        "the registry has too many open files; try again later",
    ),
    (StorageError, "the storage failed", Unavailable, "the storage failed; try again later"),
)
"""Kind of error, event in the log, refusal, and text for the client: the first kind that fits."""

_DESCRIPTORS_S: Final = 1
"""Descriptors are free again as soon as other requests end."""

_log: Final = structlog.get_logger("moorage.registry")


class refusing:  # noqa: N801  used like a function; a class costs a fifth of a generator on every request
    """Context that raises `StorageFull` or `Unavailable` for a `StorageError`.

    The meaning of a missing key depends on the key, so it is caught where it is read.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, StorageError):
            refuse(error)


def refuse(error: StorageError) -> NoReturn:
    """Log `error` and raise the refusal for it: `refusing` for what is called most often."""
    _, event, refusal, text = next(entry for entry in _REFUSALS if isinstance(error, entry[0]))
    _log.error(event, cause=str(error), kind=type(error).__name__)
    if isinstance(error, TooManyOpenFiles):
        raise Unavailable(text, retry_after_s=_DESCRIPTORS_S) from error
    raise refusal(text) from error

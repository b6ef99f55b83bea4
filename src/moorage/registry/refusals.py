"""Storage errors become refusals here, and the cause goes to the log once."""

from __future__ import annotations

from typing import Final, NoReturn

import structlog

from moorage.errors import StorageFull, Unavailable
from moorage.storage.driver import StorageError, StorageExhausted

__all__ = ["refusing"]

_log: Final = structlog.get_logger("moorage.registry")


class refusing:  # noqa: N801  used like a function; a class costs a fifth of a generator on every request
    """Let a `StorageError` that nobody below expected reach the client as `StorageFull` or `Unavailable`.

    What an absent key means depends on where it is read: that is caught there, before it comes here.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, StorageError):
            _refuse(error)


def _refuse(error: StorageError) -> NoReturn:
    if isinstance(error, StorageExhausted):
        _log.error("the storage takes no more", cause=str(error))
        raise StorageFull("the storage takes no more; try again when the operator has made room") from error
    _log.error("the storage failed", cause=str(error), kind=type(error).__name__)
    raise Unavailable("the storage failed; try again later") from error

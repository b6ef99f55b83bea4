"""Storage errors become refusals here, and the cause goes to the log once."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import structlog

from moorage.errors import StorageFull, Unavailable
from moorage.storage.driver import StorageError, StorageExhausted

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["refusing"]

_log: Final = structlog.get_logger("moorage.registry")


@contextmanager
def refusing() -> Iterator[None]:
    """Let a `StorageError` that nobody below expected reach the client as `StorageFull` or `Unavailable`.

    What an absent key means depends on where it is read: that is caught there, before it comes here.
    """
    try:
        yield
    except StorageExhausted as error:
        _log.error("the storage takes no more", cause=str(error))
        raise StorageFull("the storage takes no more; try again when the operator has made room") from error
    except StorageError as error:
        _log.error("the storage failed", cause=str(error), kind=type(error).__name__)
        raise Unavailable("the storage failed; try again later") from error

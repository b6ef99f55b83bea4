"""Storage errors of uploads become refusals here: an upload that no longer exists, and one that another
request extends.

Above: `uploads.py`, `upload_part.py`.  Below: `storage_errors.py`, which has all other errors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.errors import BlobUploadUnknown, RangeInvalid
from moorage.registry.storage_errors import refuse
from moorage.storage.driver import StorageError, UploadBusy, UploadChanged, UploadMissing

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.registry.interface import UploadStatus

__all__ = ["upload_errors"]


class upload_errors:  # noqa: N801  used like a function; a class costs a fifth of a generator
    """Raise storage errors of the upload `uuid` as BlobUploadUnknown, RangeInvalid, StorageFull or Unavailable.

    `status` returns the status of the upload, for RangeInvalid.
    """

    __slots__ = ("_status", "_uuid")

    def __init__(self, uuid: str, status: Callable[[], UploadStatus] | None = None) -> None:
        self._uuid = uuid
        self._status = status

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UploadMissing):  # cancelled by another request, finished, or never begun
            raise BlobUploadUnknown(self._uuid) from error
        if isinstance(error, (UploadBusy, UploadChanged)):
            # A store without locks lets another request in, and that one may be faster.
            refusal = RangeInvalid("another request is writing to this upload")
            if self._status is not None:
                status = self._status()
                refusal = RangeInvalid(
                    "another request is writing to this upload",
                    uuid=status.uuid,
                    offset=status.offset,
                    state=status.state,
                )
            raise refusal from error
        if isinstance(error, StorageError):
            refuse(error)

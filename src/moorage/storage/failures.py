"""What a driver raises when an object store fails: one sentence of one form, whichever store it is.

It names the operation, the key, where the request went and the store's own words.  Nothing secret gets in: callers
hand over neither a URL's query nor a header.

Above: `s3/errors.py`, `gcs/errors.py`, `azure/errors.py`.
"""

from __future__ import annotations

from moorage.storage.driver import StorageError, StorageExhausted, StorageUnavailable

__all__ = ["failed"]


def failed(
    operation: str, key: str, where: str, *, status: int, code: str, reason: str, exhausted: bool
) -> StorageError:
    """`status` 0: there was no answer.  `code` is the store's, "" where it gave none."""
    said = " ".join(text for text in (str(status or ""), code) if text) or "no answer"
    kind = StorageExhausted if exhausted else StorageUnavailable
    return kind(f"{operation} {key or '/'} at {where}: {said}: {reason}")

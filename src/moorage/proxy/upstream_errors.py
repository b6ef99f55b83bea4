"""Refusals for what an upstream registry answers, in its own words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from moorage.errors import UpstreamDenies, UpstreamFailed, UpstreamLimits
from moorage.upstream.errors import UpstreamDenied, UpstreamMissing, UpstreamRateLimited

if TYPE_CHECKING:
    from moorage.errors import RegistryError
    from moorage.upstream.errors import UpstreamError

__all__ = ["as_refusal"]

_RETRY_S: Final = 30


def as_refusal(error: UpstreamError, missing: RegistryError) -> RegistryError:
    """Return the refusal of a client's request; `missing` is the one for content that is not there.

    A 401 of the upstream registry is a 403 here: the client cannot log in there, and would take a 401 for one of
    this registry.
    """
    if isinstance(error, UpstreamMissing):
        return missing
    if isinstance(error, UpstreamDenied):
        return UpstreamDenies(str(error))
    if isinstance(error, UpstreamRateLimited):
        retry_s = _RETRY_S if error.retry_after_s is None else max(1, round(error.retry_after_s))
        return UpstreamLimits(str(error), retry_after_s=retry_s)
    return UpstreamFailed(str(error))

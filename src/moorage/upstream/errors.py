"""Errors of requests to another registry.

    UpstreamError
    ├── UpstreamUnreachable    no connection, DNS, TLS, a timeout, 5xx, a cut body: worth a retry
    ├── UpstreamDenied         401, 403, refused or missing credentials
    ├── UpstreamMissing        404
    ├── UpstreamRateLimited    429; carries when to try again
    ├── UpstreamRefused        any other 4xx
    └── UpstreamInvalid        the response breaks the protocol

The message names the registry, the operation and the cause, and quotes the registry's own message.  It never
contains a password, a token, or the query of a URL that may be signed.

Above: all of `upstream/`, `replication/`, `proxy/`.
Source: distribution-spec 1.1 "Error Codes"; RFC 9110 section 10.2.3 (Retry-After).
"""

from __future__ import annotations

__all__ = [
    "UpstreamDenied",
    "UpstreamError",
    "UpstreamInvalid",
    "UpstreamMissing",
    "UpstreamRateLimited",
    "UpstreamRefused",
    "UpstreamUnreachable",
]


class UpstreamError(Exception):
    """A request to the registry `registry` (host, with its port unless it is the usual one) failed.

    `status` is that of the response, None if there was none; `codes` are the registry's error codes; `words` is
    the registry's own message, "" if it sent none.
    """

    def __init__(
        self,
        message: str,
        *,
        registry: str,
        status: int | None = None,
        codes: tuple[str, ...] = (),
        words: str = "",
    ) -> None:
        super().__init__(f"{registry}: {message}")
        self.registry = registry
        self.status = status
        self.codes = codes
        self.words = words


class UpstreamUnreachable(UpstreamError):
    """The registry cannot be reached, fails, is too slow, or ended a response early; worth a retry."""


class UpstreamDenied(UpstreamError):
    """Credentials are missing, wrong or not enough, or must not be sent where the registry wants them."""


class UpstreamMissing(UpstreamError):
    """The registry has no such repository, manifest, tag or blob."""


class UpstreamRateLimited(UpstreamError):
    """Too many requests; `retry_after_s` is the time to wait in seconds, None if the registry sent none."""

    def __init__(
        self,
        message: str,
        *,
        registry: str,
        retry_after_s: float | None = None,
        codes: tuple[str, ...] = (),
        words: str = "",
    ) -> None:
        super().__init__(message, registry=registry, status=429, codes=codes, words=words)
        self.retry_after_s = retry_after_s


class UpstreamRefused(UpstreamError):
    """The registry refuses the request for a reason of its own: policy, quota, an unsupported operation."""


class UpstreamInvalid(UpstreamError):
    """The response breaks the protocol: another digest, an endless manifest, malformed JSON, a redirect loop."""

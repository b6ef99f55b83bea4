"""A request to an endpoint: headers, query and path, parsed on demand, and the registry."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from starlette.datastructures import QueryParams

from moorage.auth.access import UNRESTRICTED
from moorage.errors import DigestInvalid, NameInvalid, NotAName, NotATag, RouteUnknown, TagInvalid
from moorage.http.headers import headers_of, lines_of
from moorage.http.ranges import parse_decimal
from moorage.http.urls import location, path_outside
from moorage.logs.log_setup import request_id
from moorage.registry.interface import Caller
from moorage.registry.media import essence
from moorage.types import NAME_LIMIT_CHARS, Digest, parse_reference, parse_repo_name

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from moorage.auth.access import Principal
    from moorage.http.options import HttpOptions
    from moorage.registry.interface import Registry
    from moorage.types import Reference, RepoName

__all__ = ["Call"]

_ANY_TYPE: Final = {"*/*", "application/*"}
_DIGEST_SHAPE: Final = re.compile(r"[a-z0-9+._-]+:[A-Za-z0-9=_-]+", re.ASCII)


class Call:
    """A request; `headers` has the first line of each header, `params` the variable parts of the path."""

    __slots__ = ("headers", "method", "options", "params", "principal", "receive", "registry", "scope")

    def __init__(
        self, scope: Scope, receive: Receive, registry: Registry, options: HttpOptions, params: dict[str, str]
    ) -> None:
        self.scope = scope
        self.receive = receive
        self.registry = registry
        self.options = options
        self.params = params
        self.method: str = scope["method"]
        self.headers = headers_of(scope)
        self.principal: Principal = UNRESTRICTED

    def name(self) -> RepoName:
        """Return the repository's name.  Raises NotAName, and NameInvalid for one that is too long or (a referrers
        list must not be 404) of that endpoint.
        """
        text = self.params["name"]
        try:
            return parse_repo_name(text)
        except NameInvalid as error:
            if len(text) > NAME_LIMIT_CHARS or "subject" in self.params:
                raise
            raise NotAName(text) from error

    def digest(self) -> Digest:
        """Return the digest of a blob.  Raises DigestInvalid; RouteUnknown for a text without the form of one."""
        text = self.params["digest"]
        try:
            return Digest.parse(text)
        except DigestInvalid as error:
            if _DIGEST_SHAPE.fullmatch(text) is None:
                raise RouteUnknown(text) from error
            raise

    def subject(self) -> Digest:
        """Return the digest whose referrers are listed.  Raises DigestInvalid, since the specification forbids a
        404 of this endpoint.
        """
        return Digest.parse(self.params["subject"])

    def reference(self) -> Reference:
        """Return a digest or tag.  Raises DigestInvalid for a text with a colon, NotATag for another one."""
        try:
            return parse_reference(self.params["reference"])
        except TagInvalid as error:
            raise NotATag(error.subject) from error

    def check_path(self) -> None:
        """Parse all variable parts of the path, to raise the errors of the methods above."""
        for name in self.params:
            if (parse := _PARSERS.get(name)) is not None:
                parse(self)

    def header(self, name: bytes) -> str | None:
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def list_header(self, name: bytes) -> str | None:
        """Return all lines of a header whose value is a list, joined (RFC 9110 section 5.3)."""
        if name not in self.headers:
            return None
        return b", ".join(lines_of(self.scope, name)).decode("latin-1")

    def query(self, name: str) -> str | None:
        """Return the first value of a parameter, as CNCF Distribution (Go's `Values.Get`); None without one."""
        values = self.query_values(name)
        return values[0] if values else None

    def query_values(self, name: str) -> list[str]:
        """Return all values of a parameter."""
        return QueryParams(self.scope["query_string"]).getlist(name) if self.scope["query_string"] else []

    def content_length(self) -> int | None:
        """Return Content-Length in bytes; None for a chunked body."""
        return parse_decimal(self.header(b"content-length") or "")

    def has_body(self) -> bool:
        """Return whether a body may follow: announced, chunked, or (HTTP/2 of another server) unknown."""
        length = self.content_length()
        if length is not None:
            return length > 0
        return b"transfer-encoding" in self.headers or self.scope.get("http_version") == "2"

    def accepts(self, media_type: str) -> bool:
        """Return whether the `Accept` header covers a media type; a missing or empty one covers all."""
        values = (self.list_header(b"accept") or "").split(",")
        accepted = {essence(value) for value in values if value.strip()}
        return not accepted or media_type in accepted or bool(accepted & _ANY_TYPE)

    def caller(self) -> Caller:
        """Return the client, for operations of the registry that depend on it or record it."""
        return Caller(self.principal.name, self._client_address, request_id.get())

    def _client_address(self) -> str:
        return self.options.clients.decisive_address(self.scope)

    def location(self, path: str) -> str:
        """Return the URL of `path`, which begins with `v2/`."""
        return location(self.scope, self.options, path)

    def page_path(self, path: str) -> str:
        """Return the URL without scheme and host, for `Link`."""
        return path_outside(self.options, path)


_PARSERS: Final = {
    "name": Call.name,
    "digest": Call.digest,
    "reference": Call.reference,
    "subject": Call.subject,
}

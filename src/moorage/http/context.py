"""One call of an endpoint: the request, what its path holds, and the registry behind it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from moorage.auth.access import ANYBODY
from moorage.errors import NameInvalid, NotAName, NotATag, RouteUnknown, TagInvalid
from moorage.http.ranges import parse_decimal
from moorage.http.urls import location, path_outside
from moorage.types import NAME_LIMIT_CHARS, Digest, parse_reference, parse_repo_name

if TYPE_CHECKING:
    from starlette.requests import Request

    from moorage.auth.access import Principal
    from moorage.http.options import HttpOptions
    from moorage.registry.interface import Registry
    from moorage.types import Reference, RepoName

__all__ = ["Call"]

_DIGEST_SHAPE: Final = re.compile(r"[a-z0-9+._-]+:[A-Za-z0-9=_-]+", re.ASCII)


@dataclass(slots=True)
class Call:
    request: Request
    registry: Registry
    options: HttpOptions
    params: dict[str, str]
    principal: Principal = ANYBODY

    def name(self) -> RepoName:
        """The repository.  A path that cannot hold one is no route (404), except for referrers; one that is too
        long is 400.
        """
        text = self.params["name"]
        try:
            return parse_repo_name(text)
        except NameInvalid as error:
            if len(text) > NAME_LIMIT_CHARS or "subject" in self.params:
                raise
            raise NotAName(text) from error

    def digest(self) -> Digest:
        """Raises DigestInvalid; what has no digest's shape is no route."""
        text = self.params["digest"]
        if _DIGEST_SHAPE.fullmatch(text) is None:
            raise RouteUnknown(text)
        return Digest.parse(text)

    def subject(self) -> Digest:
        """The digest whose referrers are listed.  Raises DigestInvalid for anything else: the specification
        forbids this endpoint to answer 404.
        """
        return Digest.parse(self.params["subject"])

    def reference(self) -> Reference:
        """Raises DigestInvalid for what has a digest's shape, NotATag for what cannot be a tag."""
        try:
            return parse_reference(self.params["reference"])
        except TagInvalid as error:
            raise NotATag(error.subject) from error

    def check_path(self) -> None:
        """Raise what the methods above raise for what the path holds."""
        for name in self.params:
            if (parse := _PARSERS.get(name)) is not None:
                parse(self)

    def header(self, name: str) -> str | None:
        return self.request.headers.get(name)

    def list_header(self, name: str) -> str | None:
        """All lines of a header whose value is a list, joined (RFC 9110 section 5.3)."""
        wanted = name.encode()
        lines = [value for key, value in self.request.scope["headers"] if key == wanted]
        return b", ".join(lines).decode("latin-1") if lines else None

    def query(self, name: str) -> str | None:
        """The first value of a parameter, as in CNCF Distribution (Go's `Values.Get`); None without one."""
        values = self.request.query_params.getlist(name)
        return values[0] if values else None

    def content_length(self) -> int | None:
        """None for a chunked body."""
        return parse_decimal(self.header("content-length") or "")

    def has_body(self) -> bool:
        """Return whether a body may follow: announced, chunked, or (HTTP/2 of another server) unknown."""
        length = self.content_length()
        if length is not None:
            return length > 0
        return self.header("transfer-encoding") is not None or self.request.scope.get("http_version") == "2"

    def client(self) -> str:
        """The address of the client, by trusted proxies' word only; "" for a Unix socket."""
        return self.options.clients.decisive_address(self.request.scope)

    def location(self, path: str) -> str:
        """The URL of `path`, which begins with `v2/`."""
        return location(self.request, self.options, path)

    def page_path(self, path: str) -> str:
        """The same without scheme and host, for `Link`."""
        return path_outside(self.options, path)


_PARSERS: Final = {
    "name": Call.name,
    "digest": Call.digest,
    "reference": Call.reference,
    "subject": Call.subject,
}

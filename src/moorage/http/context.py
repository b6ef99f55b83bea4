"""One call of an endpoint: the request, what its path holds, and the registry behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moorage.errors import NameInvalid, NotAName, NotATag, TagInvalid
from moorage.http.urls import location
from moorage.types import NAME_LIMIT_CHARS, Digest, parse_reference, parse_repo_name

if TYPE_CHECKING:
    from starlette.requests import Request

    from moorage.http.options import HttpOptions
    from moorage.registry.interface import Registry
    from moorage.types import Reference, RepoName

__all__ = ["Call"]


@dataclass(slots=True)
class Call:
    request: Request
    registry: Registry
    options: HttpOptions
    params: dict[str, str]

    def name(self) -> RepoName:
        """The repository.  A path that cannot hold one is no route (404); one that is too long is 400."""
        text = self.params["name"]
        try:
            return parse_repo_name(text)
        except NameInvalid as error:
            if len(text) > NAME_LIMIT_CHARS:
                raise
            raise NotAName(text) from error

    def digest(self) -> Digest:
        """Raises DigestInvalid."""
        return Digest.parse(self.params["digest"])

    def reference(self) -> Reference:
        """Raises DigestInvalid for what has a digest's shape, NotATag for what cannot be a tag."""
        try:
            return parse_reference(self.params["reference"])
        except TagInvalid as error:
            raise NotATag(error.subject) from error

    def header(self, name: str) -> str | None:
        return self.request.headers.get(name)

    def query(self, name: str) -> str | None:
        return self.request.query_params.get(name)

    def content_length(self) -> int | None:
        """None for a chunked body."""
        text = self.header("content-length")
        return int(text) if text is not None and text.isascii() and text.isdigit() else None

    def location(self, path: str) -> str:
        """The URL of `path`, which begins with `v2/`."""
        return location(self.request, self.options, path)

    def page_path(self, path: str) -> str:
        """The same without scheme and host, for `Link`."""
        return f"{self.options.prefix}{path}"

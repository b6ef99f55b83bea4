"""What azurite is too lenient about: a blob of one kind cannot be written over one of another kind.

CNCF Distribution 2.8 and Moorage write links as block blobs, 3.0 to 3.1.1 as append blobs; between them this
decides.  Source: "Put Blob" and "Copy Blob" of Azure's REST reference; commit 5c4717ced of
distribution/distribution, which quotes the service's answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

if TYPE_CHECKING:
    from tests.azure import Request

__all__ = ["Kinds"]

REFUSED = (409, "InvalidBlobType")


class Kinds:
    """To be an `Azurite.trouble`, from a container's beginning."""

    def __init__(self, account: str) -> None:
        self._account = f"/{account}/"
        self._known: dict[str, str] = {}

    def __call__(self, request: Request) -> tuple[int, str] | None:
        name = self._name(request.path)
        if request.method == "DELETE":
            self._known.pop(name, None)
        kind = self._made(request)
        if request.method != "PUT" or not kind:
            return None
        if self._known.get(name, kind) != kind and request.headers.get("if-none-match") != "*":
            return REFUSED
        self._known.setdefault(name, kind)
        return None

    def _made(self, request: Request) -> str:
        """The kind of blob that the request writes; nothing for one that writes none."""
        if "x-ms-copy-source" in request.headers:
            return self._known.get(self._name(urlsplit(request.headers["x-ms-copy-source"]).path), "")
        operation = parse_qs(request.query).get("comp", [""])[0]
        if operation == "blocklist":
            return "BlockBlob"
        return "" if operation else request.headers.get("x-ms-blob-type", "")

    def _name(self, path: str) -> str:
        return unquote(path).removeprefix(self._account).removeprefix("/")

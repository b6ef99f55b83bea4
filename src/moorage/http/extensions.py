"""Extensions (distribution-spec 1.1 "Extensions"): their list, `_oci/ext/discover`, and Moorage's own.

Moorage's own are below `_moorage/<component>/<module>`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

if TYPE_CHECKING:
    from moorage.http.context import Call

__all__ = ["delete_repository", "discover", "discover_repository"]

_CATALOG: Final[dict[str, object]] = {
    "name": "_catalog",
    "description": "the repositories of this registry",
    "url": "https://distribution.github.io/distribution/spec/api/#catalog",
    "endpoints": ["/v2/_catalog"],
}

_REPOSITORY: Final[dict[str, object]] = {
    "name": "_moorage",
    "description": "deletion of the whole repository, by DELETE",
    "url": "https://github.com/opencontainers/distribution-spec/tree/main/extensions",
}


async def discover(call: Call) -> Response:
    """GET: 200, the registry's extensions."""
    del call
    return _answer([_CATALOG])


async def discover_repository(call: Call) -> Response:
    """GET: 200, a repository's extensions.  Refuses: NAME_INVALID."""
    name = call.name()
    return _answer([{**_REPOSITORY, "endpoints": [f"/v2/{name}/_moorage/repository/content"]}])


async def delete_repository(call: Call) -> Response:
    """DELETE: 202, the repository is gone, with all its tags, manifests and links to blobs.

    Refuses: NAME_INVALID, NAME_UNKNOWN, DENIED, UNSUPPORTED.
    """
    await call.registry.repositories.delete(call.name(), caller=call.caller())
    return Response(status_code=202, headers={"content-length": "0"})


def _answer(extensions: list[dict[str, object]]) -> Response:
    body = json.dumps({"extensions": extensions}, separators=(",", ":"))
    return Response(f"{body}\n", headers={"content-type": "application/json"})

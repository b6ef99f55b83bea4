"""`_oci/ext/discover` (distribution-spec 1.1 "Extensions"): list of the registry's extensions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

if TYPE_CHECKING:
    from moorage.http.context import Call

__all__ = ["discover", "discover_repository"]

_CATALOG: Final[dict[str, object]] = {
    "name": "_catalog",
    "description": "the repositories of this registry",
    "url": "https://distribution.github.io/distribution/spec/api/#catalog",
    "endpoints": ["/v2/_catalog"],
}


async def discover(call: Call) -> Response:
    """GET: 200, the registry's extensions."""
    del call
    return _answer([_CATALOG])


async def discover_repository(call: Call) -> Response:
    """GET: 200, a repository's extensions: none.  Refuses: NAME_INVALID."""
    call.name()
    return _answer([])


def _answer(extensions: list[dict[str, object]]) -> Response:
    body = json.dumps({"extensions": extensions}, separators=(",", ":"))
    return Response(f"{body}\n", headers={"content-type": "application/json"})

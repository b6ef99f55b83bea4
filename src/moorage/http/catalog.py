"""`/v2/_catalog`: the repositories (CNCF Distribution's, not in the specification; `podman search` uses it)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from moorage.errors import PageSizeInvalid
from moorage.http.paging import next_link, page_size

if TYPE_CHECKING:
    from moorage.http.context import Call

__all__ = ["list_repositories"]

_DEFAULT_PAGE: Final = 100


async def list_repositories(call: Call) -> Response:
    """GET or HEAD: 200.  Without `n` 100 repositories.

    Refuses: PAGINATION_NUMBER_INVALID, also for an `n` above `catalog.maxentries`.
    """
    most = call.options.catalog_max_entries
    size = page_size(call.query("n"))
    if size is not None and size > most:
        raise PageSizeInvalid(f"n={size}; catalog.maxentries is {most}", detail={"n": size})
    limit = min(_DEFAULT_PAGE, most) if size is None else size
    page = await call.registry.repositories.list(last=call.query("last") or "", limit=limit)
    headers = {"content-type": "application/json"}
    if page.more and page.names:
        headers["link"] = next_link(call.page_path("v2/_catalog"), [("last", page.names[-1]), ("n", str(limit))])
    body = json.dumps({"repositories": page.names}, separators=(",", ":"))
    return Response(f"{body}\n", headers=headers)

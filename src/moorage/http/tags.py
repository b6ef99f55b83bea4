"""`/v2/<name>/tags/list` (distribution-spec 1.1 "Listing Tags")."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from starlette.responses import Response

from moorage.http.paging import next_link, page_size

if TYPE_CHECKING:
    from moorage.http.context import Call

__all__ = ["list_tags"]


async def list_tags(call: Call) -> Response:
    """end-8, GET or HEAD: 200.  Without `n` all tags; a larger `n` than `tags.maxtags` is cut to it.

    Refuses: NAME_INVALID, NAME_UNKNOWN, PAGINATION_NUMBER_INVALID.
    """
    name, size = call.name(), page_size(call.query("n"))
    limit = None if size is None else min(size, call.options.tags_max)
    page = await call.registry.tags.list(name, last=call.query("last") or "", limit=limit)
    headers = {"content-type": "application/json"}
    if page.more and page.names:
        query = [("last", page.names[-1]), ("n", str(limit))]
        headers["link"] = next_link(call.page_path(f"v2/{name}/tags/list"), query)
    body = json.dumps({"name": name, "tags": page.names}, separators=(",", ":"))
    return Response(f"{body}\n", headers=headers)

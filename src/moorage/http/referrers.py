"""`/v2/<name>/referrers/<digest>` (distribution-spec 1.1 "Listing Referrers")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.responses import Response

from moorage.http.paging import next_link
from moorage.registry.media import OCI_INDEX

if TYPE_CHECKING:
    from moorage.http.context import Call

__all__ = ["list_referrers"]

_BEGINNING: Final = f'{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":['.encode()
_END: Final = b"]}\n"


async def list_referrers(call: Call) -> Response:
    """end-12, GET or HEAD: 200 always, for an unknown subject or repository with an empty list.

    `artifactType` may be repeated; any of them counts.  Refuses: NAME_INVALID, DIGEST_INVALID.
    """
    name, digest = call.name(), call.subject()
    types = [value for value in call.query_values("artifactType") if value]
    # A media type contains no space: it is a "+" that the client did not escape (`application/vnd.x.y+json`).
    accepted = [*types, *(value.replace(" ", "+") for value in types if " " in value)]
    page = await call.registry.referrers.list(
        name, digest, artifact_types=accepted, after=call.query("last") or ""
    )
    headers = {"content-type": OCI_INDEX}
    if types:
        headers["oci-filters-applied"] = "artifactType"
    if page.next is not None:
        path = call.page_path(f"v2/{name}/referrers/{digest}")
        query = [("last", page.next), *(("artifactType", value) for value in types)]
        headers["link"] = next_link(path, query)
    body = b"".join((_BEGINNING, b",".join([entry.descriptor for entry in page.entries]), _END))
    return Response(body, headers=headers)

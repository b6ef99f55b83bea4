"""`/v2/<name>/referrers/<digest>` (distribution-spec 1.1 "Listing Referrers")."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from moorage.http.paging import next_link
from moorage.registry.media import OCI_INDEX

if TYPE_CHECKING:
    from moorage.http.context import Call
    from moorage.types import Descriptor

__all__ = ["list_referrers"]


async def list_referrers(call: Call) -> Response:
    """end-12, GET or HEAD: 200 always, for an unknown subject or repository with an empty list.

    `artifactType` may be repeated; any of them counts.  Refuses: NAME_INVALID, DIGEST_INVALID.
    """
    name, digest = call.name(), call.subject()
    types = [value for value in call.request.query_params.getlist("artifactType") if value]
    # A media type contains no space: it is a "+" that the client did not escape (`application/vnd.x.y+json`).
    wanted = [*types, *(value.replace(" ", "+") for value in types if " " in value)]
    found, more = await call.registry.referrers.list(
        name, digest, artifact_types=wanted, after=call.query("last") or ""
    )
    headers = {"content-type": OCI_INDEX}
    if types:
        headers["oci-filters-applied"] = "artifactType"
    if more:
        path = call.page_path(f"v2/{name}/referrers/{digest}")
        query = [("last", str(found[-1].digest)), *(("artifactType", value) for value in types)]
        headers["link"] = next_link(path, query)
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [_descriptor(item) for item in found]}
    return Response(json.dumps(index, separators=(",", ":")) + "\n", headers=headers)


def _descriptor(item: Descriptor) -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": item.media_type, "digest": str(item.digest), "size": item.size}
    if item.artifact_type is not None:
        found["artifactType"] = item.artifact_type
    if item.annotations:
        found["annotations"] = item.annotations
    return found

"""The one table: which path and method end where, and what they need.

`<name>` is greedy and may itself hold `/manifests/`, `/blobs/` or `tags/list`, so paths are matched from their
end.  Patterns are tried in this order; `tests/test_boundaries.py` checks that every row names its access, which
`auth.py` enforces.

Source: distribution-spec 1.1 "Endpoints"; docs/reference/http-api.md, section 1.1,
and docs/reference/auth.md, section 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from moorage.errors import MethodUnknown, RouteUnknown
from moorage.http import base, blobs, catalog, extensions, manifests, referrers, tags, uploads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from moorage.http.context import Call
    from moorage.http.reply import Answer

    Handler = Callable[[Call], Awaitable[Answer]]

__all__ = ["ROUTES", "Access", "Route", "find"]


_READS: Final = frozenset({"GET", "HEAD"})
_MANIFESTS_CHARS: Final = len("/v2//manifests")
_BLOBS_CHARS: Final = len("/v2//blobs")


class Access(Enum):
    """Permission that a route requires."""

    IDENTITY = "to be authenticated"
    PULL = "pull on the repository"
    PUSH = "pull and push on the repository"
    DELETE = "delete on the repository"
    CANCEL = "pull and push, or delete, on the repository"
    CATALOG = "everything on the catalog"


@dataclass(frozen=True, slots=True)
class Route:
    """`label` names the endpoint in metrics, in the reference's words where it has one; `spec` in the
    specification's table ("end-2"); handlers by method, HEAD with GET.

    `mark` is the longest fixed part of the pattern: a path without it needs no regular expression (which would be
    eight for a blob, a tenth of the time of a request).
    """

    label: str
    spec: str
    pattern: str
    methods: Mapping[str, tuple[Handler, Access]]
    regex: re.Pattern[str]
    mark: str

    def match(self, path: str) -> re.Match[str] | None:
        return self.regex.fullmatch(path) if self.mark in path else None

    def offers(self, method: str, *, readonly: bool) -> bool:
        return method in self.methods and (not readonly or method in _READS)

    def endpoint(self, method: str, *, readonly: bool) -> tuple[Handler, Access]:
        """The handler and the access it needs.  Raises MethodUnknown."""
        found = self.methods.get(method)
        if found is None or (readonly and method not in _READS):
            raise MethodUnknown(method, self.allowed(readonly=readonly))
        return found

    def allowed(self, *, readonly: bool) -> tuple[str, ...]:
        return tuple(sorted(method for method in self.methods if self.offers(method, readonly=readonly)))


def _route(label: str, spec: str, pattern: str, **methods: tuple[Handler, Access]) -> Route:
    if "GET" in methods:
        methods["HEAD"] = methods["GET"]
    expression = re.escape(pattern).replace("<name>", "(?P<name>.+)")
    expression = re.sub(r"<(digest|reference)>", r"(?P<\1>[^/]+)", expression)
    expression = expression.replace("<uuid>", "(?P<uuid>[A-Za-z0-9_.=-]+)")
    mark = max(re.split("<[a-z]+>", pattern), key=len)
    return Route(label, spec, pattern, methods, re.compile(expression, re.DOTALL), mark)


ROUTES: Final = (
    _route("base", "end-1", "/v2/", GET=(base.get_base, Access.IDENTITY)),
    _route("tags", "end-8", "/v2/<name>/tags/list", GET=(tags.list_tags, Access.PULL)),
    _route(
        "manifest",
        "end-3, end-7, end-9",
        "/v2/<name>/manifests/<reference>",
        GET=(manifests.get_manifest, Access.PULL),
        PUT=(manifests.put_manifest, Access.PUSH),
        DELETE=(manifests.delete_manifest, Access.DELETE),
    ),
    _route("blob_upload", "end-4a, end-11", "/v2/<name>/blobs/uploads/", POST=(uploads.start_upload, Access.PUSH)),
    _route("blob_upload", "end-4a, end-11", "/v2/<name>/blobs/uploads", POST=(uploads.start_upload, Access.PUSH)),
    _route(
        "blob_upload_chunk",
        "end-5, end-6, end-13",
        "/v2/<name>/blobs/uploads/<uuid>",
        GET=(uploads.get_upload, Access.PULL),
        PATCH=(uploads.patch_upload, Access.PUSH),
        PUT=(uploads.put_upload, Access.PUSH),
        DELETE=(uploads.cancel_upload, Access.CANCEL),
    ),
    _route(
        "blob",
        "end-2, end-10",
        "/v2/<name>/blobs/<digest>",
        GET=(blobs.get_blob, Access.PULL),
        DELETE=(blobs.delete_blob, Access.DELETE),
    ),
    _route("catalog", "catalog", "/v2/_catalog", GET=(catalog.list_repositories, Access.CATALOG)),
    _route("extensions", "extensions", "/v2/_oci/ext/discover", GET=(extensions.discover, Access.IDENTITY)),
    _route(
        "extensions",
        "extensions",
        "/v2/<name>/_oci/ext/discover",
        GET=(extensions.discover_repository, Access.PULL),
    ),
    # The last one: the specification forbids it to answer 404, so it takes every path that no other route matches.
    replace(
        _route(
            "referrers", "end-12", "/v2/<name>/referrers/<digest>", GET=(referrers.list_referrers, Access.PULL)
        ),
        regex=re.compile(r"/v2/(?:(?P<name>.+)/)?referrers(?:/(?P<subject>.*))?", re.DOTALL),
        mark="/referrers",
    ),
)


_MANIFEST: Final = next(route for route in ROUTES if route.label == "manifest")
_BLOB: Final = next(route for route in ROUTES if route.label == "blob")


def find(path: str) -> tuple[Route, dict[str, str]]:
    """The route, and what the path holds.  Raises RouteUnknown."""
    # The two that are asked most often need no regular expression; the rows before them match no such path.
    head, _, last = path.rpartition("/")
    if last and head.startswith("/v2/"):
        if head.endswith("/manifests") and len(head) > _MANIFESTS_CHARS:
            return _MANIFEST, {"name": head[4:-10], "reference": last}
        if head.endswith("/blobs") and len(head) > _BLOBS_CHARS and last != "uploads":
            return _BLOB, {"name": head[4:-6], "digest": last}
    for route in ROUTES:
        if (found := route.match(path)) is not None:
            return route, found.groupdict("")
    raise RouteUnknown(path)

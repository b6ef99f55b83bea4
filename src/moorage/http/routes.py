"""The route table: every path that is served, its handlers by method, their access, and its listener.

    PUBLIC    `/`, `/token`                      dispatched by `app.py`
    API       `/v2/...`                          dispatched by `app.py`, after `auth.py` has decided
    PROBES    `/livez`, `/readyz`                dispatched by `health_gate.py`, also while a health check fails
    DEBUG     `/debug/...`, `/metrics`, ...      dispatched by `debug_app.py`, on the debug listener

`<name>` is greedy and may itself contain `/manifests/`, `/blobs/` or `tags/list`, so paths are matched from their
end.  Patterns are tried in this order; `tests/test_boundaries.py` checks the access of every row.

Source: distribution-spec 1.1 "Endpoints"; docs/reference/http-api.md, section 1.1,
and docs/reference/auth.md, section 1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from moorage.errors import MethodUnknown, RouteUnknown
from moorage.http import (
    base,
    blobs,
    catalog,
    debug,
    extensions,
    manifests,
    probes,
    public,
    referrers,
    tags,
    uploads,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from moorage.http.context import Call
    from moorage.http.debug import DebugRequest
    from moorage.http.probes import ProbeRequest
    from moorage.http.public import PublicRequest
    from moorage.http.reply import Answer

__all__ = [
    "ANY",
    "API",
    "DEBUG",
    "METRICS",
    "PROBES",
    "PUBLIC",
    "ROOT",
    "ROUTES",
    "TOKEN",
    "Access",
    "Route",
    "RouteListener",
    "find",
]

_R = TypeVar("_R")
"""Type of the request that the handlers of a block take."""

ANY: Final = "*"
"""Key of a handler for every method."""

_READS: Final = frozenset({"GET", "HEAD"})
_MANIFESTS_CHARS: Final = len("/v2//manifests")
_BLOBS_CHARS: Final = len("/v2//blobs")


class Access(Enum):
    """Permission that a route requires."""

    PUBLIC = "nothing"
    PROBE = "nothing, also while a health check fails"
    DEBUG = "nothing but to reach the debug listener"
    IDENTITY = "to be authenticated"
    PULL = "pull on the repository"
    PUSH = "pull and push on the repository"
    DELETE = "delete on the repository"
    CANCEL = "pull and push, or delete, on the repository"
    CATALOG = "everything on the catalog"


class RouteListener(Enum):
    """Listener that serves a route."""

    REGISTRY = "http.addr"
    DEBUG = "http.debug.addr"


@dataclass(frozen=True, slots=True)
class Route(Generic[_R]):
    """A path and its handlers by method; GET answers HEAD as well.

    `label` names the endpoint in metrics, in the words of CNCF Distribution where it has one ("": counted with
    unknown paths), `spec` in the specification's table ("end-2").  `mark` is the longest fixed part of the
    pattern: a path without it needs no regular expression (which would be eight for a blob, a tenth of the time of
    a request).
    """

    label: str
    spec: str
    pattern: str
    methods: Mapping[str, tuple[Callable[[_R], Awaitable[Answer]], Access]]
    regex: re.Pattern[str]
    mark: str
    listener: RouteListener = RouteListener.REGISTRY

    def match(self, path: str) -> re.Match[str] | None:
        return self.regex.fullmatch(path) if self.mark in path else None

    def offers(self, method: str, *, readonly: bool) -> bool:
        return method in self.methods and (not readonly or method in _READS)

    def endpoint(self, method: str, *, readonly: bool = False) -> tuple[Callable[[_R], Awaitable[Answer]], Access]:
        """Return the handler and its access.  Raises MethodUnknown."""
        found = self.methods.get(method)
        if found is None or (readonly and method not in _READS):
            found = self.methods.get(ANY)
            if found is None:
                raise MethodUnknown(method, self.allowed(readonly=readonly), readonly=method in self.methods)
        return found

    def allowed(self, *, readonly: bool = False) -> tuple[str, ...]:
        """Return the methods, sorted."""
        return tuple(sorted(method for method in self.methods if self.offers(method, readonly=readonly)))


def _route(
    label: str,
    spec: str,
    pattern: str,
    *,
    listener: RouteListener = RouteListener.REGISTRY,
    **methods: tuple[Callable[[_R], Awaitable[Answer]], Access],
) -> Route[_R]:
    if "GET" in methods:
        methods["HEAD"] = methods["GET"]
    expression = re.escape(pattern).replace("<name>", "(?P<name>.+)").replace("<rest>", "(?P<rest>.*)")
    expression = re.sub(r"<(digest|reference)>", r"(?P<\1>[^/]+)", expression)
    expression = expression.replace("<uuid>", "(?P<uuid>[A-Za-z0-9_.=-]+)")
    mark = max(re.split("<[a-z]+>", pattern), key=len)
    return Route(label, spec, pattern, methods, re.compile(expression, re.DOTALL), mark, listener)


def _page(pattern: str, handler: Callable[[DebugRequest], Awaitable[Answer]]) -> Route[DebugRequest]:
    return _route("", "", pattern, listener=RouteListener.DEBUG, GET=(handler, Access.DEBUG))


ROOT: Final = Route("", "", "/", {ANY: (public.get_root, Access.PUBLIC)}, re.compile("/"), "/")
"""Answered outside of `http.prefix` as well: load balancers probe it."""
TOKEN: Final = _route(
    "", "", "/token", GET=(public.issue_token, Access.PUBLIC), POST=(public.issue_token, Access.PUBLIC)
)
"""Served with `auth.local` only."""
PUBLIC: Final[Sequence[Route[PublicRequest]]] = (ROOT, TOKEN)

PROBES: Final[Sequence[Route[ProbeRequest]]] = (
    _route("health", "", "/livez", GET=(probes.get_livez, Access.PROBE)),
    _route("health", "", "/readyz", GET=(probes.get_readyz, Access.PROBE)),
)

API: Final[Sequence[Route[Call]]] = (
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
    _route(
        "extensions",
        "extensions",
        "/v2/<name>/_moorage/repository/content",
        DELETE=(extensions.delete_repository, Access.DELETE),
    ),
    # The last one: the specification forbids it to answer 404, so its pattern covers malformed paths as well.
    replace(
        _route(
            "referrers", "end-12", "/v2/<name>/referrers/<digest>", GET=(referrers.list_referrers, Access.PULL)
        ),
        regex=re.compile(r"/v2/(?:(?P<name>.+)/)?referrers(?:/(?P<subject>.*))?", re.DOTALL),
        mark="/referrers",
    ),
)

METRICS: Final = _page("/metrics", debug.get_metrics)
"""The path is `http.debug.prometheus.path`."""
DEBUG: Final[Sequence[Route[DebugRequest]]] = (
    METRICS,
    _page("/debug/health", debug.get_health),
    _page("/livez", debug.get_livez),
    _page("/readyz", debug.get_readyz),
    _page("/debug/vars", debug.get_vars),
    _page("/debug/pprof", debug.get_pprof),
    _page("/debug/pprof/<rest>", debug.get_pprof),
)

ROUTES: Final[Sequence[Route[Any]]] = (*PUBLIC, *PROBES, *API, *DEBUG)
"""Every row of every listener."""

_MANIFEST: Final = next(route for route in API if route.label == "manifest")
_BLOB: Final = next(route for route in API if route.label == "blob")


def find(path: str) -> tuple[Route[Call], dict[str, str]]:
    """Return the row of `API` for a path, and the variable parts of the path.  Raises RouteUnknown."""
    # The two most frequent ones need no regular expression; the rows before them match no such path.
    head, _, last = path.rpartition("/")
    if last and head.startswith("/v2/"):
        if head.endswith("/manifests") and len(head) > _MANIFESTS_CHARS:
            return _MANIFEST, {"name": head[4:-10], "reference": last}
        if head.endswith("/blobs") and len(head) > _BLOBS_CHARS and last != "uploads":
            return _BLOB, {"name": head[4:-6], "digest": last}
    for route in API:
        if (found := route.match(path)) is not None:
            return route, found.groupdict("")
    raise RouteUnknown(path)

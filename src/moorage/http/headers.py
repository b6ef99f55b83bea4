"""Request headers by name, indexed once per request.

Names are in lower case, as in ASGI.  Of a repeated header the first line counts, except for list values
(`lines_of`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    Scope = MutableMapping[str, Any]

__all__ = ["first_header", "headers_of", "lines_of", "remove_headers"]

_KEY: Final = "moorage.headers"


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """Return the first line of each header; cached in the scope."""
    found: dict[bytes, bytes] | None = scope.get(_KEY)
    if found is None:
        # Of equal keys `dict` keeps the last one.
        found = scope[_KEY] = dict(reversed(scope["headers"]))
    return found


def first_header(scope: Scope, name: bytes) -> str:
    """Return the first line of a header; "" if there is none."""
    value = headers_of(scope).get(name)
    return "" if value is None else value.decode("latin-1")


def lines_of(scope: Scope, name: bytes) -> list[bytes]:
    """Return all lines of a header, in order."""
    if name not in headers_of(scope):
        return []
    return [value for key, value in scope["headers"] if key == name]


def remove_headers(scope: Scope, names: frozenset[bytes]) -> None:
    """Remove all lines of the named headers."""
    found = headers_of(scope)
    if names.isdisjoint(found):
        return
    scope["headers"] = [header for header in scope["headers"] if header[0] not in names]
    scope[_KEY] = {name: value for name, value in found.items() if name not in names}

"""Client addresses behind proxies, and the trusted proxies whose headers count.

    http.trustedproxies   connection from      `remote_address` (logs)      `decisive_address` (rate limits)
    not set               any client           the one in its headers       the connection's address
    set                   a proxy of the list  the right-most address of X-Forwarded-For that is no such proxy
                          any other client     the connection's address; its forwarded headers are dropped

Any client can send `X-Forwarded-For`.  So without the setting it is used for logs and for `Location` only (as in
the reference), never to rate-limit passwords or to grant access.

Of the headers with addresses only the first present one counts: X-Forwarded-For, `for=` of Forwarded, X-Real-Ip.
A proxy that sets a later one must remove those before it, or a client's own value would count.

Used by `auth.py`, `token.py` and `middleware.py`; `urls.py` reads the headers that are left.
Source: docs/reference/http-api.md, section 11, docs/reference/auth.md, section 7; RFC 7239.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from moorage.http.headers import first_header, headers_of, lines_of, remove_headers

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping, Sequence

    Scope = MutableMapping[str, Any]

__all__ = ["DEFAULT_CLIENTS", "SHORTHANDS", "Clients", "parse_network"]

_FORWARDED: Final = frozenset({
    b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-prefix",
    b"x-forwarded-proto", b"x-real-ip",
})  # fmt: skip
"""Headers that only a proxy may set."""

_FOR: Final = re.compile(r'(?:^|;)\s*for\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;,"\s]*))', re.ASCII | re.IGNORECASE)
_QUOTED_OR_COMMA: Final = re.compile(r'"(?:[^"\\]|\\.)*"|,')

_ZONE: Final = re.compile(r"[A-Za-z0-9._~-]{1,32}", re.ASCII)
"""An interface's name or number (RFC 4007 section 11.2), of unreserved characters (RFC 6874)."""

_LONGEST_CHARS: Final = 64
"""No address is longer, with brackets, zone and port; longer texts never enter the cache."""

_HOPS_LIMIT: Final = 32
"""Number of entries of a header that are read, from the right; no chain of proxies is longer."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

UNIX: Final = "unix"
SHORTHANDS: Final[dict[str, tuple[str, ...]]] = {
    UNIX: (),
    "loopback": ("127.0.0.0/8", "::1/128"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10", "fc00::/7",
                "fe80::/10"),
}  # fmt: skip
"""Names of address ranges: `private` is RFC 1918, RFC 4193, RFC 6598 and link-local addresses."""


def parse_network(text: str) -> tuple[Network, ...]:
    """Return the networks of one entry of `http.trustedproxies`; none for `unix`.  Raises ValueError."""
    if text in SHORTHANDS:
        return tuple(ipaddress.ip_network(each) for each in SHORTHANDS[text])
    network = ipaddress.ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None:
        return (ipaddress.ip_network(f"{mapped}/{max(0, network.prefixlen - 96)}"),)
    return (network,)


class Clients:
    """Addresses of clients.  `trusted`: `http.trustedproxies`; None if it is not set, () for no trusted proxy.

    Raises ValueError for an entry that is no address.
    """

    def __init__(self, trusted: Sequence[str] | None = None) -> None:
        self._unset = trusted is None
        self._unix = UNIX in (trusted or ())
        self._networks = [network for text in trusted or () for network in parse_network(text)]
        # Few proxies send many requests.
        self._trusts = lru_cache(maxsize=1024)(self._look_up)

    def drop_untrusted_headers(self, scope: Scope) -> None:
        """Remove forwarded headers from a request that does not come from a trusted proxy."""
        if not (self._unset or self._trusts(_peer(scope))):
            remove_headers(scope, _FORWARDED)

    def decisive_address(self, scope: Scope) -> str:
        """Return the client's address as far as it is trusted; "" for a Unix socket without such headers."""
        peer = _peer(scope)
        if self._unset or not self._trusts(peer):
            return peer
        address = peer
        for claim in _claims(scope):
            # An unreadable entry ends the chain: the last valid proxy is used for its clients.
            if (claimed := _address(claim)) is None:
                break
            address = claimed
            if not self._trusts(claimed):
                break
        return address

    def remote_address(self, scope: Scope) -> str:
        """Return the client's address for logs and events; "" if unknown."""
        if not self._unset:
            return self.decisive_address(scope)
        headers = headers_of(scope)
        if b"x-forwarded-for" in headers or b"x-real-ip" in headers:
            for name in (b"x-forwarded-for", b"x-real-ip"):
                for part in first_header(scope, name).split(","):
                    if (address := _address(part.strip())) is not None:
                        return address
        return _peer(scope)

    def _look_up(self, address: str) -> bool:
        if not address:
            return self._unix
        found = ipaddress.ip_address(address)
        return any(found in network for network in self._networks)


DEFAULT_CLIENTS: Final = Clients()
"""As in CNCF Distribution: headers of any client are used, except for decisions."""


def _claims(scope: Scope) -> Iterable[str]:
    """Return the client addresses that the proxies report, the nearest proxy first."""
    if forwarded_for := _all(scope, b"x-forwarded-for"):
        parts = [part for part in forwarded_for.split(",") if part.strip()]
    elif forwarded := _all(scope, b"forwarded"):
        parts = [_for(element) for element in _elements(forwarded)]
    elif real := _all(scope, b"x-real-ip"):
        parts = [real]
    else:
        return ()
    return [part.strip() for part in reversed(parts[-_HOPS_LIMIT:])]


def _elements(forwarded: str) -> list[str]:
    """Split at commas outside of quotes."""
    cuts = [match.start() for match in _QUOTED_OR_COMMA.finditer(forwarded) if match[0] == ","]
    return [forwarded[at + 1 : to] for at, to in zip([-1, *cuts], [*cuts, None], strict=True)]


def _for(element: str) -> str:
    """Return the `for` of one element, without its quotes; "" if it has none."""
    found = _FOR.search(element.strip())
    return (found[1] or found[2] or "").replace("\\", "") if found else ""


def _all(scope: Scope, name: bytes) -> str:
    """Return the lines of a header, joined: HAProxy adds a line of its own after the client's."""
    return b",".join(lines_of(scope, name)).decode("latin-1")


def _peer(scope: Scope) -> str:
    """Return the address of the connection's peer; "" for a Unix socket."""
    client = scope.get("client")
    return (_address(client[0]) or "") if client and client[0] else ""


def _address(text: str) -> str | None:
    """Return the address in its canonical form, the only one that is logged; None if `text` is no address.

    IPv4 within IPv6 (a dual-stack socket) is IPv4.  The port that some proxies add is dropped, and so is the zone
    of a link-local address, which names an interface of the proxy.
    """
    return _canonical(text) if len(text) <= _LONGEST_CHARS else None


@lru_cache(maxsize=4096)
def _canonical(text: str) -> str | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    text, percent, zone = text.partition("%")
    if percent and (":" not in text or _ZONE.fullmatch(zone) is None):
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)

"""Amazon's list of its own addresses, fetched periodically in the background.

Without a list, and for addresses that cannot be parsed, a client counts as outside AWS: a URL of CloudFront works
from everywhere.  If a list cannot be fetched, or is empty, the previous one stays in force and the fetch is
repeated after a minute.

Source: docs.aws.amazon.com, "AWS IP address ranges"; `ip-ranges.json` has `prefixes[].ip_prefix` and
`ipv6_prefixes[].ipv6_prefix`, each with its `region`.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import time
from bisect import bisect_right
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.request import Request, urlopen

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["IpRanges"]

_LIMIT_BYTES: Final = 64 << 20
_TIMEOUT_S: Final = 10.0
_AGAIN_S: Final = 60.0
_IPV4, _IPV6 = 4, 6
_log: Final = structlog.get_logger("moorage.storage.middleware")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Ranges:
    """Networks of one version of IP, joined and in order: looking one address up costs a dozen comparisons."""

    def __init__(self, networks: Iterable[Any]) -> None:
        joined = list(ipaddress.collapse_addresses(networks))
        self._firsts = [int(network.network_address) for network in joined]
        self._lasts = [int(network.broadcast_address) for network in joined]

    def __contains__(self, address: int) -> bool:
        at = bisect_right(self._firsts, address) - 1
        return at >= 0 and address <= self._lasts[at]

    def __len__(self) -> int:
        return len(self._firsts)


class IpRanges:
    """The addresses of `regions` (lower case; None: of all) in the list at `url`, at most `every_s` old."""

    def __init__(
        self,
        url: str,
        *,
        regions: frozenset[str] | None = None,
        every_s: float = 12 * 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._regions = regions
        self._every_s = every_s
        self._clock = clock
        self._ranges = {_IPV4: Ranges(()), _IPV6: Ranges(())}
        self._due: float | None = None
        self._fetching: asyncio.Task[None] | None = None

    def includes(self, client: str) -> bool:
        """Return whether the address is in the list; start a fetch if the list is too old."""
        self.refresh()
        try:
            address = ipaddress.ip_address(client)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        address = address if mapped is None else mapped
        return int(address) in self._ranges[address.version]

    def refresh(self) -> asyncio.Task[None] | None:
        """Start to fetch the list if it is due; return the fetch that is running, if any."""
        running = self._fetching is not None and not self._fetching.done()
        if not running and (self._due is None or self._clock() >= self._due):
            self._fetching = asyncio.create_task(self._fetch(), name="AWS addresses")
            running = True
        return self._fetching if running else None

    async def _fetch(self) -> None:
        try:
            ranges = await asyncio.to_thread(self._read)
        except Exception as error:  # noqa: BLE001  the network, TLS, JSON and addresses each have their own
            self._due = self._clock() + min(_AGAIN_S, self._every_s)
            _log.warning(
                "the list of AWS addresses cannot be fetched; the one before it stays in force",
                url=self._url,
                error=f"{type(error).__name__}: {error}",
            )
            return
        self._ranges = ranges
        self._due = self._clock() + self._every_s
        _log.info("fetched the list of AWS addresses", url=self._url, ranges=sum(map(len, ranges.values())))

    def _read(self) -> dict[int, Ranges]:
        request = Request(self._url, headers={"user-agent": "moorage"})  # noqa: S310  `config/` accepts http(s) only
        with urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            data = answer.read(_LIMIT_BYTES + 1)
        if len(data) > _LIMIT_BYTES:
            raise ValueError(f"more than {_LIMIT_BYTES} bytes")
        found = json.loads(data)
        ranges = {
            _IPV4: Ranges(self._networks(found["prefixes"], "ip_prefix", ipaddress.IPv4Network)),
            _IPV6: Ranges(self._networks(found.get("ipv6_prefixes", ()), "ipv6_prefix", ipaddress.IPv6Network)),
        }
        if not any(ranges.values()):
            regions = "anywhere" if self._regions is None else ", ".join(sorted(self._regions))
            raise ValueError(f"it names no addresses in {regions}")
        return ranges

    def _networks(self, entries: Iterable[Any], field: str, kind: Callable[[str], Network]) -> Iterable[Network]:
        for entry in entries:
            if self._regions is None or str(entry["region"]).lower() in self._regions:
                yield kind(entry[field])

    async def close(self) -> None:
        """Cancel a fetch that is running."""
        if self._fetching is not None:
            self._fetching.cancel()
            with suppress(asyncio.CancelledError):
                await self._fetching

"""Amazon's list, from a server of the test: read, kept when it cannot be had, and fetched again when it is old."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from moorage.storage.middleware.ip_ranges import IpRanges

if TYPE_CHECKING:
    from collections.abc import Iterator

LIST = {
    "syncToken": "1",
    "prefixes": [
        {"ip_prefix": "192.0.2.0/25", "region": "us-east-1", "service": "AMAZON"},
        {"ip_prefix": "192.0.2.128/25", "region": "us-east-1", "service": "EC2"},
        {"ip_prefix": "192.0.2.16/28", "region": "us-east-1", "service": "S3"},
        {"ip_prefix": "198.51.100.7/32", "region": "EU-West-1", "service": "EC2"},
    ],
    "ipv6_prefixes": [{"ipv6_prefix": "2001:db8:1::/48", "region": "eu-west-1", "service": "EC2"}],
}


class Amazon:
    """Serves `body`; None: 500."""

    def __init__(self) -> None:
        self.body: bytes | None = json.dumps(LIST).encode()
        self.requested = 0
        amazon = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                amazon.requested += 1
                self.send_response(500 if amazon.body is None else 200)
                self.end_headers()
                self.wfile.write(amazon.body or b"")

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                """Discard the line."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/ip-ranges.json"


@pytest.fixture
def amazon() -> Iterator[Amazon]:
    found = Amazon()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.server.shutdown()
    found.server.server_close()
    thread.join()


async def fetched(ranges: IpRanges) -> None:
    running = ranges.refresh()
    assert running is not None
    await running


async def test_addresses_in_the_list_are_found(amazon: Amazon) -> None:
    """Both versions of IP, at the edges, and IPv4 as a socket for both shows it."""
    ranges = IpRanges(amazon.url)
    assert not ranges.includes("192.0.2.1"), "nobody is inside before the list is there"
    await fetched(ranges)
    inside = ["192.0.2.0", "192.0.2.127", "192.0.2.255", "198.51.100.7", "2001:db8:1::5", "::ffff:192.0.2.9"]
    outside = ["192.0.1.255", "192.0.3.0", "198.51.100.6", "198.51.100.8", "2001:db8:2::", "", "unix:", "::1"]
    assert [address for address in inside + outside if ranges.includes(address)] == inside
    assert amazon.requested == 1
    await ranges.close()


async def test_only_the_regions_that_are_asked_for(amazon: Amazon) -> None:
    ranges = IpRanges(amazon.url, regions=frozenset({"eu-west-1"}))
    await fetched(ranges)
    assert ranges.includes("198.51.100.7")
    assert ranges.includes("2001:db8:1::1")
    assert not ranges.includes("192.0.2.1")
    await ranges.close()


@pytest.mark.parametrize(
    "body",
    [None, b"", b"no JSON", b"{}", b'{"prefixes": []}', b'{"prefixes": [{"ip_prefix": "x", "region": "r"}]}',
     b'{"prefixes": [{"region": "r"}]}'],
)  # fmt: skip
async def test_a_list_that_cannot_be_had_leaves_the_one_before(amazon: Amazon, body: bytes | None) -> None:
    """It is tried again after a minute, logged once each time, and no request waits or fails."""
    now = 0.0
    ranges = IpRanges(amazon.url, every_s=3600, clock=lambda: now)
    await fetched(ranges)
    assert ranges.refresh() is None, "not due"
    amazon.body, now = body, 3600.0
    with capture_logs() as logs:
        await fetched(ranges)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert ranges.includes("192.0.2.1")
    assert ranges.refresh() is None
    amazon.body = json.dumps({"prefixes": [{"ip_prefix": "203.0.113.0/24", "region": "r"}]}).encode()
    now += 60
    await fetched(ranges)
    assert ranges.includes("203.0.113.1")
    assert not ranges.includes("192.0.2.1")
    await ranges.close()


async def test_a_server_that_is_not_there_costs_nothing(amazon: Amazon) -> None:
    ranges = IpRanges("http://127.0.0.1:1/")
    with capture_logs() as logs:
        assert not ranges.includes("192.0.2.1")
        running = ranges.refresh()
        assert running is not None
        await running
    assert len(logs) == 1
    await ranges.close()

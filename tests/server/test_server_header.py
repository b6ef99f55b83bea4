"""The `Server` header: no component is named unless the operator names one, as in CNCF Distribution."""

from __future__ import annotations

import http.client
import os
from typing import TYPE_CHECKING

import pytest
from tests.http.client import ABSENT
from tests.live import start_moorage
from tests.server.debugging import debugged

from moorage.types import Digest

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

ASKED = (
    ("GET", "/"), ("GET", "/v2/"), ("HEAD", "/v2/"), ("GET", "/livez"), ("GET", "/readyz"), ("GET", "/v2"),
    ("GET", "//v2/"), ("GET", "/nothing"), ("GET", "/v2/a/tags/list"), ("POST", "/v2/"), ("OPTIONS", "/v2/"),
    ("GET", f"/v2/a/blobs/{ABSENT}"), ("POST", "/v2/a/blobs/uploads/"), ("GET", "/v2/%ff/tags/list/"),
)  # fmt: skip


def names(host: str, method: str, path: str, body: bytes = b"", **headers: str) -> list[str]:
    """The values of `Server` in the answer."""
    connection = http.client.HTTPConnection(host)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.headers.get_all("server", [])
    finally:
        connection.close()


def test_no_component_is_named(tmp_path: Path) -> None:
    """A scanner that reads a name looks up its known vulnerabilities."""
    with debugged(tmp_path / "data", http={"workers": 1}) as server:
        for method, path in ASKED:
            assert names(server.live.host, method, path) in ([], [""]), (method, path)
        layer = os.urandom(100_000)
        digest = Digest.of(layer)
        target = f"/v2/a/blobs/{digest}"
        assert names(server.live.host, "POST", f"/v2/a/blobs/uploads/?digest={digest}", layer) in ([], [""])
        assert names(server.live.host, "GET", target) in ([], [""]), "sent by the server from the file"
        assert names(server.live.host, "GET", target, range="bytes=0-1") in ([], [""])
        assert names(f"127.0.0.1:{server.port}", "GET", "/debug/health") in ([], [""])


def test_the_operator_may_name_one(tmp_path: Path) -> None:
    with start_moorage(tmp_path / "data", http={"workers": 1, "headers": {"Server": ["registry"]}}) as live:
        assert names(live.host, "GET", "/v2/") == ["registry"]
        assert names(live.host, "GET", "/") in ([], [""])

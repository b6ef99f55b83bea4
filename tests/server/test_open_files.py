"""Downloads at the limit of open files: a readable refusal, and the same connection later serves them."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import time
from typing import TYPE_CHECKING

import pytest
from tests.live import start_moorage
from tests.server.descriptors import only_free

if TYPE_CHECKING:
    from pathlib import Path

    from tests.live import Live

LIMIT_S = 60.0
DATA = bytes(range(256)) * 4096


def push(live: Live, data: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with contextlib.closing(http.client.HTTPConnection(live.host, timeout=LIMIT_S)) as connection:
        connection.request("POST", f"/v2/a/blobs/uploads/?digest={digest}", body=data)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 201
    return digest


def pull(connection: http.client.HTTPConnection, digest: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection.request("GET", f"/v2/a/blobs/{digest}")
    answer = connection.getresponse()
    return answer, answer.read()


@pytest.mark.slow
def test_a_download_without_a_free_descriptor_is_refused(tmp_path: Path) -> None:
    """The file can be opened and its socket cannot be duplicated: a broken connection would name no cause."""
    log = {"accesslog": {"disabled": False}}
    with start_moorage(tmp_path / "data", http={"workers": 1}, log=log) as live:
        digest = push(live, DATA)
        (worker,) = live.workers
        with contextlib.closing(http.client.HTTPConnection(live.host, timeout=LIMIT_S)) as connection:
            assert pull(connection, digest)[1] == DATA
            deadline = time.monotonic() + LIMIT_S
            while True:  # connections of earlier requests may be closed meanwhile, which frees descriptors
                with only_free(worker, 1):
                    answer, body = pull(connection, digest)
                if b"open files or threads" in body[:1000]:
                    break
                assert time.monotonic() < deadline, (answer.status, body[:1000])
            assert (answer.status, answer.getheader("retry-after")) == (503, "1")
            assert answer.getheader("docker-distribution-api-version") == "registry/2.0"
            assert [error["code"] for error in json.loads(body)["errors"]] == ["UNAVAILABLE"]
            assert pull(connection, digest)[1] == DATA
        live.logged("cannot send a file")
        live.logged(f'"GET /v2/a/blobs/{digest} HTTP/1.1" 503')

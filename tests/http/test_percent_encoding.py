"""Arbitrary bytes in a URL: never a 500, and every `Location` names the resource that was requested.

Paths are decoded in two ways: with U+FFFD for invalid UTF-8, as our server does, and with surrogate escapes, as
other servers might.
"""

from __future__ import annotations

import http.client
import re
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
from tests.http.conftest import DELETABLE
from tests.http.raw import Answer, ask
from tests.live import start_moorage

from moorage.config.model import Settings
from moorage.config.sections.storage import Filesystem, Storage
from moorage.wiring.storage import make_driver

if TYPE_CHECKING:
    from pathlib import Path

    from tests.http.conftest import Serve

URI_REFERENCE: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})+")
"""The characters of RFC 3986 section 3.3 and 3.4, which have no brackets and no fragment."""
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
DIGEST: Final = f"sha256:{'0' * 64}"
BYTES: Final = tuple(f"%{byte:02x}" for byte in range(256))
HARD: Final = (
    "%2f", "%2F", "%2f%2f", "%2e", "%2e%2e", "%2e%2e%2f", "..%2f..%2f", "%252f", "%252e%252e%252f", "%25",
    "%2500", "%00", "%0d%0aset-cookie:%20a=b", "%0a", "%c0%af", "%c0%ae%c0%ae%c0%af", "%e0%80%af",
    "%f0%80%80%af", "%ed%a0%80", "%ed%b3%bf", "%f4%90%80%80", "%fe%ff", "%e2%82%ac", "%e2%80%ae", "%u20ac",
    "%", "%2", "%zz", "%3f", "%3fn=1", "%23", "%5c", "%5c..%5c", "%3b", "%3a", "%40", "%20", "+", "%2b",
    "%c4%b0", "%ef%bc%8f", "%ef%bb%bf", "%7f", "%c2%85", "\\", "|", "^", "`", "{", "}", "[", "]", "<", ">", '"',
)  # fmt: skip
"""Separators, dot segments, double encodings, overlong and invalid UTF-8, broken escapes, line ends."""

PLACES: Final = (
    "/{}v2/", "/v2{}/", "/v2/{}", "/v2/{}a/tags/list", "/v2/a{}b/tags/list", "/v2/a/{}/tags/list",
    "/v2/a{}/tags/list/", "/v2/a/tags/list{}", "/v2/a/tags/list/{}", "/v2/a/tags{}/list", "/{}/v2/a/tags/list",
    "/v2/a/manifests/{}", "/v2/a/manifests/v1{}", "/v2/a/manifests/v1{}/", f"/v2/a/manifests/{DIGEST}{{}}/",
    f"/v2/a/blobs/{DIGEST}{{}}", f"/v2/a/blobs/sha256{{}}:{'0' * 64}/", f"/v2/a{{}}/blobs/{DIGEST}/",
    "/v2/a{}/blobs/uploads/", "/v2/a/blobs/uploads{}", "/v2/a/blobs/uploads/{}", "/v2/a/blobs/uploads/0123{}/",
    f"/v2/a{{}}b/referrers/{DIGEST}/", f"/v2/a/referrers/{DIGEST}{{}}/",
    "/v2/_catalog{}/", "/v2/_oci/ext/discover{}/", "/v2/a{}/_oci/ext/discover/", "/token{}",
)  # fmt: skip
"""A slash at the end makes a redirect of what is otherwise valid."""

QUERIES: Final = (
    "/v2/a/tags/list/?n=1&last={}|^",
    "/v2/a/tags/list/?last={}", "/v2/a/tags/list?last={}", "/v2/a/tags/list?n={}", "/v2/a/tags/list?n=1{}",
    "/v2/_catalog?last={}", "/v2/_catalog?last=a{}b", "/v2/_catalog?n={}&last=a", "/v2/?{}", "/v2/?a{}=b",
    f"/v2/a/referrers/{DIGEST}?artifactType=a/b{{}}&last={{}}", "/v2/a/blobs/uploads/0123?_state={}",
    f"/v2/a/manifests/{DIGEST}?tag={{}}", "/v2/a/blobs/uploads/?mount={}&from=a", "/v2/a/blobs/uploads/?digest={}",
    f"/v2/a/blobs/uploads/?mount={DIGEST}&from={{}}", "/v2/a/blobs/uploads/?digest-algorithm={}",
)  # fmt: skip


def resolved(path: bytes) -> bytes:
    """The decoded path without empty and dot segments and without a final slash."""
    parts: list[bytes] = []
    for part in unquote_to_bytes(path).split(b"/"):
        if part == b"..":
            parts = parts[:-1]
        elif part not in {b"", b"."}:
            parts.append(part)
    return b"/" + b"/".join(parts)


def check(method: str, target: str, answer: Answer) -> None:
    """No 500; a redirect names the same resource, and the `Location` of an upload is below it."""
    requested = f"{method} {target}"
    assert answer.status < 500, requested
    if not answer.location:
        assert answer.status not in {201, 202, 301}, requested
        return
    assert answer.location.isascii(), requested
    assert answer.location.decode().isprintable(), requested
    assert URI_REFERENCE.fullmatch(answer.location), requested
    location = urlsplit(answer.location)
    path, _, query = target.partition("?")
    assert location.fragment == b"", requested
    if answer.status == 301:
        assert method in {"GET", "HEAD"}, requested
        assert location.netloc == b"", requested
        assert resolved(location.path) == resolved(path.encode()), requested
        assert unquote_to_bytes(location.query) == unquote_to_bytes(query), requested
    else:
        assert location.netloc == b"h", requested
        assert resolved(location.path).startswith(resolved(path.encode())), requested


@pytest.mark.parametrize("place", PLACES)
async def test_no_byte_in_a_path_is_an_internal_error(serve: Serve, place: str) -> None:
    """A 500 without credentials fills the log with tracebacks and alerts operators."""
    app = serve(DELETABLE).app
    for text in BYTES:
        target = place.replace("{}", text)
        for method in METHODS if text < "%80" else METHODS[:1]:
            check(method, target, await ask(app, method, target))
        if text >= "%80":
            check("GET", target, await ask(app, "GET", target, errors="surrogateescape"))


@pytest.mark.parametrize("place", PLACES)
async def test_no_malformed_encoding_is_an_internal_error(serve: Serve, place: str) -> None:
    app = serve(DELETABLE).app
    for text in HARD:
        target = place.replace("{}", text)
        for method in METHODS:
            for errors in ("replace", "surrogateescape"):
                check(method, target, await ask(app, method, target, errors=errors))


@pytest.mark.parametrize("place", QUERIES)
async def test_no_byte_in_a_query_is_an_internal_error(serve: Serve, tmp_path: Path, place: str) -> None:
    """Lists on the filesystem driver, where parameters are compared with names of directories."""
    settings = DELETABLE
    if "uploads/?" not in place:
        settings = Settings(storage=Storage(filesystem=Filesystem(rootdirectory=str(tmp_path))))
    app = serve(settings, driver=make_driver(settings)).app
    method = "POST" if "uploads/?" in place else "PUT" if "tag=" in place else "GET"
    for text in (*BYTES, *HARD):
        target = place.replace("{}", text)
        check(method, target, await ask(app, method, target))


@pytest.mark.parametrize(
    ("requested", "location"),
    [
        ("/v2/a/tags/list/?last=%E2%82%AC&n=%3F", "/v2/a/tags/list?last=%E2%82%AC&n=%3F"),
        ("/v2/a/tags/list/?last=é\x7f# x", "/v2/a/tags/list?last=%C3%A9%7F%23%20x"),
        ('/v2/a/tags/list/?last=\\|^{}`[]<>"', "/v2/a/tags/list?last=%5C%7C%5E%7B%7D%60%5B%5D%3C%3E%22"),
        ("/v2/a/tags/list/?last=%zz%4%7c%", "/v2/a/tags/list?last=%25zz%254%7c%25"),
        ("/v2/%61/tags/list/", "/v2/a/tags/list"),
        ("/v2/a%2Fb/tags/list/", "/v2/a/b/tags/list"),
        (f"/v2/a/blobs/sha256%3A{'0' * 64}/", f"/v2/a/blobs/{DIGEST}"),
        ("/v2/%3F/tags/list/", None), ("/v2/a%23/tags/list/", None), ("/v2/a%5cb/tags/list/", None),
        ("/v2/%E2%82%AC/tags/list/", None), ("/v2/%ff/tags/list/", None), ("/v2/a/manifests/%2d/", None),
        ("/v2/a/blobs/foo/", None), ("/v2/a/blobs/uploads/%ff/", None),
    ],
)  # fmt: skip
async def test_a_redirect_leads_to_an_endpoint_or_there_is_none(
    serve: Serve, requested: str, location: str | None
) -> None:
    """CNCF Distribution answers 404 to the others as well."""
    answer = await ask(serve().app, "GET", requested)
    expected = (404, b"") if location is None else (301, location.encode())
    assert (answer.status, answer.location) == expected


@pytest.mark.slow
def test_no_byte_sent_to_a_running_server_is_an_internal_error(tmp_path: Path) -> None:
    """The server decodes the path before the application sees it."""
    with start_moorage(tmp_path / "data", http={"workers": 1}) as live:
        connection = http.client.HTTPConnection(live.host)
        for place in PLACES:
            for text in (*BYTES, *HARD) if place.endswith("/") else HARD:
                target = place.replace("{}", text)
                connection.request("GET", target, headers={"host": "h"})
                answer = connection.getresponse()
                answer.read()
                location = answer.headers.get("location", "").encode("latin-1")
                check("GET", target, Answer(answer.status, [(b"location", location)]))
        connection.close()
        assert "Traceback" not in live.logs()

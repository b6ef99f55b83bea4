"""What an ACME server may do wrong, and what the operator reads of it."""

from __future__ import annotations

import json
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from tests.ports import free_port

from moorage.acme import authority, pem
from moorage.acme.order_spec import HTTP_01, CertificateOrder, OrderFailed, Timings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Answer = tuple[int, dict[str, str], Any]
"""Status, headers and body."""

TIMINGS = Timings(request_limit_s=30.0, order_limit_s=60.0)


class NoAnswers:
    """Nothing comes as far as challenges here."""

    def __init__(self) -> None:
        self.withdrawn = 0

    def put_http(self, token: str, text: str) -> None:
        raise AssertionError(token)

    def put_alpn(self, host: str, certificate: bytes) -> None:
        raise AssertionError(host)

    def ready(self) -> None:
        raise AssertionError

    def withdraw(self) -> None:
        self.withdrawn += 1


class Server:
    """ACME server that answers `newAccount` and `newOrder` as a test specifies, and all else correctly."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.requested: list[str] = []
        self.payloads: list[dict[str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(*server.reply("directory", server.directory))

            def do_HEAD(self) -> None:
                self.reply(200, {}, None)

            def do_POST(self) -> None:
                payload = json.loads(self.rfile.read(int(self.headers["content-length"])))
                server.payloads.append(payload)
                name = self.path.strip("/")
                account = {"status": "valid", "contact": ["mailto:old@x.test"], "orders": server.url("orders")}
                reported = {"newAccount": (201, {"Location": server.url("account/1")}, account)}
                self.reply(*server.reply(name, reported.get(name, (404, {}, {"type": "x", "detail": "no"}))))

            def reply(self, status: int, headers: dict[str, str], body: Any) -> None:
                data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Replay-Nonce": os.urandom(16).hex(), **headers}.items():
                    self.send_header(name, value)
                kind = "application/problem+json" if status >= 400 else "application/json"
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/{path}"

    @property
    def directory(self) -> Answer:
        return 200, {}, {name: self.url(name) for name in ("newNonce", "newAccount", "newOrder")}

    def reply(self, name: str, usual: Answer) -> Answer:
        self.requested.append(name)
        output = self.answers.get(name, [])
        return output.pop(0) if len(output) > 1 else output[0] if output else usual

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.stop()


def problem(code: str, detail: str, **more: Any) -> dict[str, Any]:
    return {"type": f"urn:ietf:params:acme:error:{code}", "detail": detail, **more}


def fails(
    url: str, email: str = "a@x.test", key: authority.Key | None = None, timings: Timings = TIMINGS
) -> OrderFailed:
    expected = CertificateOrder(("r.test", "s.test"), "/nowhere", (HTTP_01,), email=email, directory=url)
    with pytest.raises(OrderFailed) as caught:
        authority.obtain(expected, key or pem.new_key(), HTTP_01, NoAnswers(), timings)
    assert not caught.value.challenge
    return caught.value


def test_an_authority_that_is_down_is_named() -> None:
    port = free_port()
    assert str(fails(f"http://127.0.0.1:{port}/dir")) == f"cannot reach 127.0.0.1:{port}: Connection refused"
    assert str(fails("http://nowhere.invalid/dir")).startswith("cannot reach nowhere.invalid: ")


def test_an_authority_that_is_silent_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        hasty = Timings(request_limit_s=0.3, order_limit_s=2.0)
        failed = fails(f"http://127.0.0.1:{port}/dir", timings=hasty)
        assert str(failed) == f"127.0.0.1:{port} does not answer in time"


@pytest.mark.parametrize("body", [b"<html>hello</html>", {}, {"newNonce": 5}, [], {"newAccount": "x"}, b""])
def test_what_is_no_acme_server_is_told(server: Server, body: Any) -> None:
    """A wrong directoryurl, or a proxy in between with a page of its own."""
    server.answers["directory"] = [(200, {}, body)]
    reported = str(fails(server.url("dir")))
    assert reported.startswith((f"{server.url('dir')} does not answer as an ACME server: ", "cannot reach"))
    assert len(reported) < 400


@pytest.mark.parametrize("status", [404, 500, 503])
def test_an_error_page_is_told(server: Server, status: int) -> None:
    server.answers["directory"] = [(status, {}, b"<html>")]
    assert "does not answer as an ACME server: " in str(fails(server.url("dir")))


@pytest.mark.parametrize(
    ("header", "seconds"), [("120", (120, 120)), ("Wed, 01 Jan 2120 00:00:00 GMT", (1e9, 1e10)), ("soon", (0, 0)),
                          ("-5", (0, 0)), ("Wed, 01 Jan 2020 00:00:00 GMT", (0, 0))],
)  # fmt: skip
def test_the_authoritys_time_is_taken(server: Server, header: str, seconds: tuple[float, float]) -> None:
    """A client that retries sooner is blocked for longer."""
    limited = problem("rateLimited", "too many certificates for r.test")
    server.answers["newOrder"] = [(429, {"Retry-After": header}, limited)]
    failed = fails(server.url("dir"))
    assert str(failed) == "too many certificates for r.test (rateLimited)"
    assert seconds[0] <= failed.wait_s <= seconds[1]


def test_the_host_that_is_refused_is_named(server: Server) -> None:
    """Among several hosts the message is all there is to go by."""
    parts = [problem("rejectedIdentifier", "not in public DNS", identifier={"type": "dns", "value": "s.test"})]
    whole = problem("rejectedIdentifier", "some names are refused", subproblems=parts)
    server.answers["newOrder"] = [(400, {}, whole)]
    assert str(fails(server.url("dir"))) == (
        "some names are refused (rejectedIdentifier); s.test: not in public DNS (rejectedIdentifier)"
    )


def test_an_account_elsewhere_is_asked_for_in_vain(server: Server) -> None:
    server.answers["newAccount"] = [(403, {}, problem("externalAccountRequired", "binding required"))]
    assert "external account binding are not supported" in str(fails(server.url("dir")))


def test_refused_nonces_are_passed_over_but_not_for_ever(server: Server) -> None:
    """The library gives up after the second one."""
    bad: Answer = (400, {}, problem("badNonce", "try again"))
    refused: Answer = (403, {}, problem("unauthorized", "no"))
    server.answers["newAccount"] = [bad] * 9 + [refused]
    assert str(fails(server.url("dir"))) == "no (unauthorized)"
    server.answers["newAccount"] = [bad]
    assert str(fails(server.url("dir"))) == "try again (badNonce)"


@pytest.mark.parametrize("email", ["", "a@x.test", "old@x.test"])
def test_the_address_of_a_known_account_is_changed(server: Server, email: str) -> None:
    """The address in the settings is the one that counts; without one the authority keeps what it has."""
    known = {"status": "valid", "contact": ["mailto:old@x.test"]}
    server.answers["newAccount"] = [(200, {"Location": server.url("account/1")}, known)]
    server.answers["account/1"] = [(200, {}, known)]
    fails(server.url("dir"), email)
    assert ("account/1" in server.requested) == (email == "a@x.test")
    assert server.requested[-1] == "newOrder"


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP521R1()),
     rsa.generate_private_key(65537, 2048)],
    ids=["P-384", "P-521", "RSA"],
)  # fmt: skip
def test_accounts_with_keys_of_other_kinds_are_used(server: Server, key: authority.Key) -> None:
    """An operator who moves a directory here also moves the key that is in it."""
    fails(server.url("dir"), key=key)
    assert server.requested[-1] == "newOrder"


def test_the_systems_authorities_are_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A private authority's root in the system's place, or SSL_CERT_FILE's, is enough, as with the reference."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    (tmp_path / "ca.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    authority.trust()
    assert os.environ["REQUESTS_CA_BUNDLE"] == str(tmp_path / "ca.pem")
    monkeypatch.delenv("SSL_CERT_FILE")
    authority.trust()
    assert os.environ["REQUESTS_CA_BUNDLE"] == str(tmp_path / "ca.pem")

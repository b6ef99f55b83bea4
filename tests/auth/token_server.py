"""A token server for tests: Docker's token protocol, GET and POST, on loopback.

    users = {"alice": User("secret", {"team/*": {"pull", "push"}})}
    with TokenServer(Signer.of("P-256"), users) as server:
        ... auth: {token: server.settings(bundle)} ...
        assert server.seen[-1].scopes == ["repository:team/app:pull"]

Without credentials a client is anonymous and has the permissions of `users[""]`.  Requesting more than that is
not an error: the granted part is returned.  `form` selects how tokens refer to their key
(`signing.Signer.header`).

Source: docs/reference/auth.md, section 5; distribution's "Docker Registry v2 authentication via central service"
and "Oauth2 Token Authentication".
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.auth.signing import ISSUER, SERVICE, pem

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.auth.signing import Signer

__all__ = ["Asked", "TokenServer", "User"]


@dataclass(frozen=True)
class User:
    """`rights`: actions by pattern of the name; a pattern with a colon holds the type too (`registry:catalog`)."""

    password: str
    rights: Mapping[str, set[str]]

    def may(self, kind: str, name: str) -> set[str]:
        found: set[str] = set()
        for pattern, actions in self.rights.items():
            full = pattern if ":" in pattern else f"repository:{pattern}"
            if fnmatchcase(f"{kind}:{name}", full):
                found |= actions
        return found


@dataclass(frozen=True)
class Asked:
    """One request for a token: `status` is the answer."""

    method: str
    user: str
    scopes: list[str]
    parameters: dict[str, list[str]]
    status: int


@dataclass
class TokenServer:
    """Runs between entering and leaving.  `lifetime_s` is what tokens are issued for."""

    signer: Signer
    users: Mapping[str, User]
    form: str = "x5c"
    lifetime_s: int = 300
    post: bool = True
    seen: list[Asked] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._refresh: dict[str, str] = {}
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def realm(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/token"

    def settings(self, folder: Path) -> dict[str, Any]:
        """The section `auth` of a registry that believes us; the bundle is written below `folder`."""
        bundle = folder / "token-bundle.pem"
        bundle.write_bytes(pem(self.signer.certificate))
        shared = {"realm": self.realm, "service": SERVICE, "issuer": ISSUER}
        return {"token": {**shared, "rootcertbundle": str(bundle)}}

    def issue(self, user: str, scopes: list[str]) -> str:
        """A token for what both the scopes and the user's rights hold."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "exp": now + self.lifetime_s,
            "nbf": now - 10,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": self._access(user, scopes),
        }
        return self.signer.token(claims, **self.signer.header(self.form))

    def _access(self, user: str, scopes: list[str]) -> list[dict[str, Any]]:
        rights = self.users.get(user, User("", {}))
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            allowed = rights.may(kind, name)
            granted = [action for action in actions.split(",") if action in allowed or "*" in allowed]
            if granted:
                access.append({"type": kind, "name": name, "actions": granted})
        return access

    def answer(
        self, method: str, header: str | None, parameters: dict[str, list[str]]
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON for one request."""
        scopes = [scope for value in parameters.get("scope", []) for scope in value.split()]
        user = self._basic(header) if method == "GET" else self._form(parameters)
        status = 401 if user is None or parameters.get("service") != [SERVICE] else 200
        self.seen.append(Asked(method, user or "", scopes, parameters, status))
        if user is None or status != 200:
            return 401, {"details": "incorrect username or password"}
        token = self.issue(user, scopes)
        answer: dict[str, Any] = {"token": token, "access_token": token, "expires_in": self.lifetime_s}
        answer["issued_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if method == "POST":
            answer["scope"] = " ".join(scopes)
        offline = parameters.get("offline_token") == ["true"] or parameters.get("access_type") == ["offline"]
        if user and offline:
            answer["refresh_token"] = secrets.token_urlsafe(24)
            self._refresh[answer["refresh_token"]] = user
        return 200, answer

    def _basic(self, header: str | None) -> str | None:
        """The user; "" without credentials, None for wrong ones."""
        if header is None:
            return ""
        name, _, password = base64.b64decode(header.partition(" ")[2]).decode().partition(":")
        return self._checked(name, password)

    def _form(self, parameters: dict[str, list[str]]) -> str | None:
        grant = parameters.get("grant_type")
        if grant == ["refresh_token"]:
            return self._refresh.get(parameters["refresh_token"][0])
        if grant == ["password"]:
            return self._checked(parameters["username"][0], parameters["password"][0])
        return None

    def _checked(self, name: str, password: str) -> str | None:
        user = self.users.get(name)
        return name if user is not None and user.password == password else None


def _handler(server: TokenServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            self._reply(*server.answer("GET", self.headers.get("Authorization"), query))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
            if not server.post:
                self._reply(404, {})
                return
            self._reply(*server.answer("POST", None, parse_qs(body)))

        def log_message(self, *_: object) -> None:
            pass

        def _reply(self, status: int, document: dict[str, Any]) -> None:
            data = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler

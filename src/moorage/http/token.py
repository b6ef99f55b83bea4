"""`/token`: exchanges a password, a robot's secret or another issuer's token for a token of this registry.

    GET    Basic or nothing, `scope` as often as needed          `docker login` and every pull
    POST   a form: password, refresh_token, or token exchange    containerd, and clients with an identity token

Without credentials the token has the anonymous rights; of a scope beyond the client's rights it has the granted
part.  Wrong credentials are 401, the same for every reason.  Errors have the registry's form and OAuth 2.0's.

Source: distribution's token and OAuth 2.0 specifications; RFC 6749; RFC 8693 (exchange);
docs/reference/auth.md, section 5.2.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import parse_qs

from starlette.responses import Response

from moorage.auth.access import Basic, challenge
from moorage.auth.local.authority import TokenRequest
from moorage.auth.local.identities import LoginRefused
from moorage.auth.local.scopes import TooManyScopes
from moorage.errors import RequestTimeout, TokenRequestInvalid, Unauthorized
from moorage.http.auth import credentials_of
from moorage.http.clients import DEFAULT_CLIENTS
from moorage.http.errors import to_response
from moorage.http.streaming import body

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from starlette.requests import Request

    from moorage.auth.local.authority import IssuedToken
    from moorage.http.clients import Clients
    from moorage.http.reply import Answer

__all__ = ["FORM_TIMEOUT_S", "TokenEndpoint", "TokenIssuer"]

FORM_TIMEOUT_S: Final = 30.0
"""Time for a whole form: one byte now and then is no progress."""

_FORM: Final = "application/x-www-form-urlencoded"
_FORM_LIMIT_BYTES: Final = 64 << 10
_FIELDS_LIMIT: Final = 200
_WRONG: Final = "wrong or missing credentials"
_PRIVATE: Final = {"cache-control": "no-store", "pragma": "no-cache"}
_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105  the name of a kind of token
_SUBJECTS: Final = frozenset(f"urn:ietf:params:oauth:token-type:{kind}" for kind in ("id_token", "jwt"))


class TokenIssuer(Protocol):
    """See `auth.local.authority.LocalAuthority`."""

    @property
    def service(self) -> str: ...

    async def issue(self, wish: TokenRequest) -> IssuedToken: ...


class TokenEndpoint:
    """A form must arrive whole within `form_timeout_s`, each part of it within `body_timeout_s`."""

    def __init__(
        self,
        issuer: TokenIssuer,
        body_timeout_s: float,
        clients: Clients = DEFAULT_CLIENTS,
        form_timeout_s: float = FORM_TIMEOUT_S,
    ) -> None:
        self._issuer = issuer
        self._clients = clients
        self._body_timeout_s = body_timeout_s
        self._form_timeout_s = form_timeout_s

    async def answer(self, request: Request) -> Answer:
        """Answer GET, HEAD or POST.  Raises TooManyRequests, Unavailable, ClientDisconnected."""
        try:
            fields = await self._fields(request)
            posted = request.method == "POST"
            wish = self._posted(fields, request) if posted else self._got(fields, request)
            issued = await self._issuer.issue(wish)
        except LoginRefused:
            return self._unauthorized(request)
        except TooManyScopes as error:
            return _bad("invalid_scope", str(error))
        except _BadRequest as error:
            return _bad(error.code, str(error))
        request.scope["moorage.user"] = issued.name
        return _given(issued, fields, posted=posted)

    async def _fields(self, request: Request) -> Mapping[str, Sequence[str]]:
        if request.method != "POST":
            text = request.scope["query_string"].decode(errors="surrogateescape")
        else:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != _FORM:
                raise _BadRequest(f"expected a form, {_FORM}")
            text = await self._form(request)
        try:
            # Passwords may be anything: what is no UTF-8 comes out of the text as it went in.
            return parse_qs(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=_FIELDS_LIMIT)
        except ValueError as error:
            raise _BadRequest(f"expected at most {_FIELDS_LIMIT} fields") from error

    async def _form(self, request: Request) -> str:
        data = bytearray()
        try:
            async with (
                asyncio.timeout(self._form_timeout_s),
                aclosing(body(request.scope, request.receive, self._body_timeout_s)) as parts,
            ):
                async for part in parts:
                    data += part if isinstance(part, bytes) else b"".join(part)
                    if len(data) > _FORM_LIMIT_BYTES:
                        raise _BadRequest(f"expected a form of at most {_FORM_LIMIT_BYTES} bytes")
        except RequestTimeout as error:
            raise _BadRequest("the form did not come") from error
        except TimeoutError as error:
            raise _BadRequest(f"the form did not arrive within {self._form_timeout_s:g} s") from error
        return data.decode(errors="surrogateescape")

    def _got(self, fields: Mapping[str, Sequence[str]], request: Request) -> TokenRequest:
        header = request.headers.get("authorization")
        basic = credentials_of(header)
        if header and not isinstance(basic, Basic):
            raise LoginRefused("expected Basic credentials")
        assert basic is None or isinstance(basic, Basic)
        account = _one(fields, "account")
        if basic is not None and account and basic.user not in {_bytes(text) for text in _spellings(account)}:
            raise _BadRequest("account is not the user of the credentials")
        self._check_service(fields)
        offline = _one(fields, "offline_token").lower() in {"true", "1"}
        remote = self._clients.decisive_address(request.scope)
        return TokenRequest(basic, scopes=fields.get("scope", ()), offline=offline, remote=remote)

    def _posted(self, fields: Mapping[str, Sequence[str]], request: Request) -> TokenRequest:
        self._check_service(fields)
        offline, remote = _one(fields, "access_type") == "offline", self._clients.decisive_address(request.scope)
        scopes = fields.get("scope", ())
        match _one(fields, "grant_type"):
            case "password":
                basic = Basic(_bytes(_needed(fields, "username")), _bytes(_needed(fields, "password")))
                return TokenRequest(basic, scopes=scopes, offline=offline, remote=remote)
            case "refresh_token":
                token = _needed(fields, "refresh_token")
                return TokenRequest(refresh_token=token, scopes=scopes, offline=offline, remote=remote)
            case grant if grant == _EXCHANGE:
                if _needed(fields, "subject_token_type") not in _SUBJECTS:
                    raise _BadRequest(f"expected a subject_token_type of {' or '.join(sorted(_SUBJECTS))}")
                token = _needed(fields, "subject_token")
                return TokenRequest(oidc_token=token, scopes=scopes, offline=offline, remote=remote)
            case "":
                raise _BadRequest("expected grant_type")
            case _:
                message = f"expected a grant_type of password, refresh_token or {_EXCHANGE}"
                raise _BadRequest(message, "unsupported_grant_type")

    def _check_service(self, fields: Mapping[str, Sequence[str]]) -> None:
        service = _one(fields, "service")
        if service and self._issuer.service not in _spellings(service):
            raise _BadRequest(f"expected the service {self._issuer.service!r}")

    def _unauthorized(self, request: Request) -> Answer:
        error = Unauthorized(challenge("Basic", realm=self._issuer.service))
        headers = {**_PRIVATE, "www-authenticate": error.challenge}
        code = "invalid_grant" if request.method == "POST" else "invalid_client"
        # `details` is what Docker shows its user (Docker Hub answers so).
        fields = {"error": code, "error_description": _WRONG, "details": _WRONG}
        return to_response(error, headers, fields)


class _BadRequest(Exception):
    """A client error with its OAuth 2.0 error code."""

    def __init__(self, message: str, code: str = "invalid_request") -> None:
        super().__init__(message)
        self.code = code


def _bad(code: str, message: str) -> Answer:
    return to_response(TokenRequestInvalid(message), _PRIVATE, {"error": code, "error_description": message})


def _given(issued: IssuedToken, fields: Mapping[str, Sequence[str]], *, posted: bool) -> Response:
    answer: dict[str, Any] = {
        "token": issued.token,
        "access_token": issued.token,
        "expires_in": issued.expires_in_s,
        "issued_at": datetime.fromtimestamp(issued.issued_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if posted:
        answer |= {"scope": " ".join(issued.scopes), "token_type": "Bearer"}
    if _one(fields, "grant_type") == _EXCHANGE:
        answer["issued_token_type"] = _ACCESS_TOKEN
    if issued.refresh_token:
        answer["refresh_token"] = issued.refresh_token
    headers = {**_PRIVATE, "content-type": "application/json"}
    return Response(json.dumps(answer, separators=(",", ":")), headers=headers)


def _one(fields: Mapping[str, Sequence[str]], name: str) -> str:
    """The first value, as in CNCF Distribution; "" if there is none."""
    return next(iter(fields.get(name, ())), "")


def _spellings(value: str) -> tuple[str, str]:
    """The value as it was decoded, and with `+` for each space: clients forget to escape it (`robot+ci`)."""
    return value, value.replace(" ", "+")


def _needed(fields: Mapping[str, Sequence[str]], name: str) -> str:
    value = _one(fields, name)
    if not value:
        raise _BadRequest(f"expected {name}")
    return value


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")

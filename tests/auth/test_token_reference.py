"""The same tokens before Debian's docker-registry 2.8 and before us.

`SAME` are taken or refused alike.  `WIDER` are those that we take and 2.8 does not, each with the reason; there is
no list of the opposite, and that is the point.
"""

from __future__ import annotations

import base64
import http.client
import json
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import pytest
from tests.auth.signing import ISSUER, SERVICE, Signer, b64, certificate, claims, compact, pem
from tests.live import Live, start_moorage, start_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.reference, pytest.mark.slow, pytest.mark.xdist_group("token-reference")]

RSA, EC, STRANGER = Signer.of("RSA"), Signer.of("P-256"), Signer.of("P-256", 1)
ROOT, MIDDLE = Signer.of("P-256", 2).private, Signer.of("P-256", 3).private
AUTHORITY: Final = certificate("authority", ROOT, authority=True)
MIDDLEMAN: Final = certificate("middle", MIDDLE, "authority", ROOT, authority=True)
BELOW: Final = Signer(EC.private, certificate("below", EC.private, "middle", MIDDLE), "ES256")
CHAIN: Final = [*BELOW.x5c, *Signer(MIDDLE, MIDDLEMAN, "ES256").x5c]
PULL: Final = [{"type": "repository", "name": "library/app", "actions": ["pull"]}]


def both(**access: Any) -> dict[str, Any]:
    return claims(access=[{"type": "repository", "name": "library/app", **access}])


def unsigned() -> str:
    head, body = (b64(json.dumps(part).encode()) for part in ({"alg": "none", "kid": EC.libtrust}, claims()))
    return f"{head}.{body}."


# What GET /v2/library/app/tags/list is answered with: 404 is let in, there being no such repository.
SAME: Final[dict[str, tuple[Callable[[], str], int]]] = {
    "libtrust id, RSA": (lambda: RSA.token(claims(), kid=RSA.libtrust), 404),
    "libtrust id, EC": (lambda: EC.token(claims(), kid=EC.libtrust), 404),
    "own certificate, RSA": (lambda: RSA.token(claims(), x5c=RSA.x5c), 404),
    "own certificate, EC": (lambda: EC.token(claims(), x5c=EC.x5c), 404),
    "a chain": (lambda: EC.token(claims(), x5c=CHAIN), 404),
    "a chain that ends nowhere": (lambda: STRANGER.token(claims(), x5c=STRANGER.x5c), 401),
    "a chain to nowhere, and a good id": (lambda: EC.token(claims(), x5c=STRANGER.x5c, kid=EC.libtrust), 401),
    "a chain without its middle": (lambda: EC.token(claims(), x5c=BELOW.x5c), 401),
    "jwk with id, RSA": (lambda: RSA.token(claims(), **RSA.header("jwk with libtrust")), 404),
    "jwk with id, EC": (lambda: EC.token(claims(), **EC.header("jwk with libtrust")), 404),
    "jwk without id, RSA": (lambda: RSA.token(claims(), **RSA.header("jwk")), 404),
    "jwk without id, EC": (lambda: EC.token(claims(), **EC.header("jwk")), 404),
    "jwk of a stranger": (lambda: STRANGER.token(claims(), **STRANGER.header("jwk with libtrust")), 401),
    "jwk of a stranger without id": (lambda: STRANGER.token(claims(), **STRANGER.header("jwk")), 401),
    "jwk with x5c, RSA": (lambda: RSA.token(claims(), **RSA.header("jwk with x5c")), 404),
    "jwk with x5c, EC": (lambda: EC.token(claims(), **EC.header("jwk with x5c")), 404),
    "jwk with x5c and id": (lambda: EC.token(claims(), jwk={**EC.jwk, "kid": EC.libtrust, "x5c": EC.x5c}), 404),
    "jwk with a chain": (lambda: EC.token(claims(), jwk={**EC.jwk, "kid": EC.libtrust, "x5c": CHAIN}), 404),
    "jwk with x5c of a stranger": (lambda: STRANGER.token(claims(), **STRANGER.header("jwk with x5c")), 401),
    "unknown id": (lambda: STRANGER.token(claims(), kid=STRANGER.libtrust), 401),
    "a stranger's signature": (lambda: STRANGER.token(claims(), kid=EC.libtrust), 401),
    "no id": (lambda: EC.token(claims(), typ="JWT"), 401),
    "no signature": (unsigned, 401),
    "garbage": (lambda: "garbage", 401),
    "another issuer": (lambda: EC.token(claims(iss="x"), kid=EC.libtrust), 401),
    "another audience": (lambda: EC.token(claims(aud="x"), kid=EC.libtrust), 401),
    "no audience": (lambda: EC.token(claims(aud=None), kid=EC.libtrust), 401),
    "expired, within the minute": (lambda: EC.token(claims(exp=int(time.time()) - 20), kid=EC.libtrust), 404),
    "expired": (lambda: EC.token(claims(exp=int(time.time()) - 70), kid=EC.libtrust), 401),
    "without end": (lambda: EC.token(claims(exp=None), kid=EC.libtrust), 401),
    "not yet, within the minute": (lambda: EC.token(claims(nbf=int(time.time()) + 20), kid=EC.libtrust), 404),
    "not yet valid": (lambda: EC.token(claims(nbf=int(time.time()) + 120), kid=EC.libtrust), 401),
    "no begin": (lambda: EC.token(claims(nbf=None), kid=EC.libtrust), 404),
    "nothing allowed": (lambda: EC.token(claims(access=None), kid=EC.libtrust), 401),
    "access of another form": (lambda: EC.token(claims(access={}), kid=EC.libtrust), 401),
    "everything allowed": (lambda: EC.token(both(actions=["*"]), kid=EC.libtrust), 404),
    "only push allowed": (lambda: EC.token(both(actions=["push"]), kid=EC.libtrust), 401),
    "actions null": (lambda: EC.token(both(actions=None), kid=EC.libtrust), 401),
    "a class is ignored": (lambda: EC.token(both(actions=["pull"], **{"class": "plugin"}), kid=EC.libtrust), 404),
    "an unknown header": (lambda: EC.token(claims(), kid=EC.libtrust, extra={"a": [1]}), 404),
    "another typ": (lambda: EC.token(claims(), kid=EC.libtrust, typ="at+jwt"), 404),
}  # fmt: skip

WIDER: Final[dict[str, Callable[[], str]]] = {
    # ids of version 3, which 2.8 has never heard of
    "thumbprint, RSA": lambda: RSA.token(claims(), kid=RSA.thumbprint),
    "thumbprint, EC": lambda: EC.token(claims(), kid=EC.thumbprint),
    "jwk with thumbprint": lambda: EC.token(claims(), **EC.header("jwk with thumbprint")),
    # RFC 7519 has both; 2.8 does not
    "audiences": lambda: EC.token(claims(aud=[SERVICE, "x"]), kid=EC.libtrust),
    "fractions": lambda: EC.token(claims(exp=time.time() + 100.5), kid=EC.libtrust),
    # algorithms that 2.8 has not
    "PS256": lambda: RSA.token(claims(), alg="PS256", kid=RSA.libtrust),
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Live]]:
    folder = tmp_path_factory.mktemp("token")
    bundle = folder / "bundle.pem"
    bundle.write_bytes(pem(RSA.certificate, EC.certificate, AUTHORITY))
    token = {"realm": "https://auth.test/t", "service": SERVICE, "issuer": ISSUER, "rootcertbundle": str(bundle)}
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(begin(folder / name, auth={"token": token}))
            for name, begin in (("reference", start_reference), ("moorage", start_moorage))
        }


def ask(server: Live, token: str | None) -> tuple[int, str, Any]:
    """Status, challenge, and body of a request that needs to pull."""
    connection = http.client.HTTPConnection(server.host, timeout=30)
    try:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request("GET", "/v2/library/app/tags/list", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.getheader("WWW-Authenticate", ""), json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("name", SAME)
def test_tokens_are_taken_and_refused_alike(servers: dict[str, Live], name: str) -> None:
    """A token server that works with 2.8 works with us, and what 2.8 refuses does not slip in here."""
    make, expected = SAME[name]
    token = make()
    statuses = {side: ask(server, token)[0] for side, server in servers.items()}
    assert statuses == {"reference": expected, "moorage": expected}


@pytest.mark.parametrize("name", WIDER)
def test_what_only_we_take_is_known(servers: dict[str, Live], name: str) -> None:
    token = WIDER[name]()
    assert {side: ask(server, token)[0] for side, server in servers.items()} == {"reference": 401, "moorage": 404}


def test_the_challenge_and_the_body_are_the_references(servers: dict[str, Live]) -> None:
    """Client libraries were written against these bytes."""
    enough = EC.token(claims(access=None), kid=EC.libtrust)
    for token, error in ((None, ""), (enough, "insufficient_scope")):
        reference, moorage = (ask(servers[side], token) for side in ("reference", "moorage"))
        assert moorage == reference
        assert (f'error="{error}"' in moorage[1]) == bool(error)


def test_an_error_is_named_also_where_the_reference_forgets_it(servers: dict[str, Live]) -> None:
    """2.8 (and 3) leave it out when a signature is wrong; clients then keep a token that can never work."""
    wrong = EC.token(claims(), kid=EC.libtrust).rpartition(".")[0] + f".{b64(bytes(64))}"
    expected = ask(servers["moorage"], None)[1] + ',error="invalid_token"'
    for token in (wrong, "garbage", compact(b"{", claims(), EC.key, "ES256"), base64.b64encode(b"x").decode()):
        assert ask(servers["moorage"], token)[1] == expected


def test_our_log_has_the_reason(servers: dict[str, Live]) -> None:
    """With the request's id, so that a user's report leads to it; the token is in no log."""
    token = EC.token(claims(aud="somewhere else", sub="carol"), kid=EC.libtrust)
    assert ask(servers["moorage"], token)[0] == 401
    logs = servers["moorage"].logs()
    (line,) = [line for line in logs.splitlines() if "somewhere else" in line]
    assert "level=warning" in line
    assert "auth.user.name=carol" in line
    assert f'key="{EC.libtrust}"' in line
    assert "http.request.id=" in line
    assert all(part not in logs for part in token.split("."))

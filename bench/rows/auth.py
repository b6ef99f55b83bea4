"""Cost of authentication: the same manifest from one server with and one without it.

Both are Moorage, on the same core and over the same storage, one after the other; the number is the ratio of both
rates.
"""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bench import load, servers
from bench.client import ACCEPT
from bench.rows.base import Bench, Metric, Row, load_request
from bench.rows.small import CONNECTIONS, MANIFEST_GET, NAME, fill

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Sections = Mapping[str, Any]

__all__ = ["ROWS"]

_PASSWORD: Final = b"the benchmark's"
_SERVICE: Final = "registry.example.com"
_ISSUER: Final = "the benchmark's token server"


def _htpasswd(folder: Path) -> tuple[Sections, str]:
    """A configuration with one user, and the header with the password that Docker sends with each request."""
    import bcrypt  # noqa: PLC0415  of one row

    users = folder / "htpasswd"
    users.write_bytes(b"bench:" + bcrypt.hashpw(_PASSWORD, bcrypt.gensalt(10)) + b"\n")
    credentials = base64.b64encode(b"bench:" + _PASSWORD).decode()
    return {"auth": {"htpasswd": {"realm": "bench", "path": str(users)}}}, f"Basic {credentials}"


def _token(folder: Path) -> tuple[Sections, str]:
    """A configuration that takes tokens, and an Authorization header with one (P-256, by key id)."""
    from joserfc import jws  # noqa: PLC0415  of one row
    from joserfc.jwk import ECKey  # noqa: PLC0415

    key = ECKey.generate_key("P-256", parameters={"kid": "bench"})
    keys = folder / "jwks.json"
    keys.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    now = int(time.time())
    claims = {
        "iss": _ISSUER,
        "aud": _SERVICE,
        "sub": "bench",
        "exp": now + 3600,
        "nbf": now - 10,
        "iat": now,
        "jti": "tYJCO1c6cnyy7kAn0c7rKPgbV1H1bFws",
        "access": [{"type": "repository", "name": NAME, "actions": ["pull"]}],
    }
    header = {"typ": "JWT", "alg": "ES256", "kid": "bench"}
    token = jws.serialize_compact(header, json.dumps(claims), key, ["ES256"])
    settings = {
        "realm": "https://auth.example.com/token",
        "service": _SERVICE,
        "issuer": _ISSUER,
        "jwks": str(keys),
    }
    return {"auth": {"token": settings}}, f"Bearer {token}"


def _kept(make: Callable[[Path], tuple[Sections, str]]) -> Callable[[Bench, str, Path], Mapping[str, float]]:
    def measure(bench: Bench, side: str, root: Path) -> dict[str, float]:
        root.mkdir(parents=True)
        sections, authorization = make(root)
        guarded = load_request("GET", f"/v2/{NAME}/manifests/latest", accept=ACCEPT, authorization=authorization)
        storage = root / "data"
        with servers.start(side, storage, [bench.server_cpu]) as server:
            fill(bench, server)
            plain = _load(bench, server, MANIFEST_GET)
        with servers.start(side, storage, [bench.server_cpu], sections=sections) as server:
            with_it = _load(bench, server, guarded)
        return {
            "kept": with_it.per_s / plain.per_s,
            "added_us": with_it.cpu_us - plain.cpu_us,
            "requests": with_it.per_s,
            "requests_without": plain.per_s,
            "cpu_us": with_it.cpu_us,
            "cpu_us_without": plain.cpu_us,
            "generator_busy": max(plain.busy, with_it.busy),
        }

    return measure


@dataclass(frozen=True, slots=True)
class _Load:
    """`cpu_us` is what the server's processes used for each request; less noisy than the rate."""

    per_s: float
    cpu_us: float
    busy: float


def _load(bench: Bench, server: servers.Server, request: bytes) -> _Load:
    cpu = server.cpu_s()
    result = load.run(server.port, request, connections=CONNECTIONS, seconds=bench.seconds, cpus=bench.load_cpus)
    # The warm-up is in the processor time, so it is in the count of answers.
    return _Load(result.per_s, (server.cpu_s() - cpu) / result.answers * 1e6, result.busy)


ROWS: Final = (
    Row(
        "auth-htpasswd",
        "GET manifest by tag with a password, against without authentication",
        (
            Metric("kept", "of the rate without", "higher", 0.7, "value"),
            Metric("added_us", "server CPU us/request more", "lower"),
        ),
        alone=_kept(_htpasswd),
        sides=(servers.MOORAGE,),
    ),
    Row(
        "auth-token",
        "GET manifest by tag with a bearer token, against without authentication",
        (
            Metric("kept", "of the rate without", "higher", 0.7, "value"),
            Metric("added_us", "server CPU us/request more", "lower"),
        ),
        alone=_kept(_token),
        sides=(servers.MOORAGE,),
    ),
)

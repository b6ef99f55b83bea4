"""A Google Cloud Storage for tests, in a thread of this process: the JSON API, signed URLs, tokens, IAM, metadata.

It is stricter than emulators are: generations and conditions hold, a compose takes 32 sources, a listing is in
order of keys with prefixes rolled up and keeps to its page size, a session keeps multiples of 256 KiB (or
`GcsServer.quantum`) and may keep less than it was sent, a rewrite may need several calls, tokens and signatures
are verified, and a URL signed for GET is not good for HEAD.

    GcsServer.trouble     asked before each request: a status and reason to answer instead, `DROP` (the connection
                          is cut, nothing has happened) or `LOSE` (it has happened, and the answer is lost)

Written from Google's documentation, not from the service itself, which these tests never saw.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import re
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, quote, unquote

from aiohttp import web
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from tests.storage.gcs.model import Refusal, Request, Session, Stored, answer_of, matches, resource

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable

__all__ = [
    "DROP",
    "EMAIL",
    "LOSE",
    "NUMBERS",
    "GcsServer",
    "Request",
    "Stored",
    "private_key",
    "serve_in_a_thread",
    "server",
]

EMAIL: Final = "registry@project.iam.gserviceaccount.com"
DROP: Final = (0, "drop")
LOSE: Final = (0, "lose")
_SOURCES: Final = 32
NUMBERS: Final = itertools.count(1_700_000_000_000_000)


@cache
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class GcsServer:
    """The server.  `iam`: whether signBlob is permitted; `lenient`: requests of a session may have credentials."""

    port: int = 0
    buckets: dict[str, dict[str, Stored]] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    trouble: Callable[[Request], tuple[int, str] | None] | None = None
    open_to_all: bool = False
    quantum: int = 256 * 1024
    keeps: int | None = None
    rewritten: int | None = None
    page: int = 1000
    cut_after: int | None = None
    iam: bool = True
    lenient: bool = False
    audiences: tuple[str, ...] = ()
    _rewrites: dict[str, int] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def over_tls(self, context: ssl.SSLContext) -> AsyncIterator[str]:
        """The same server, also with TLS, on the loop of the test; its address."""
        runner = web.AppRunner(self.application(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        try:
            yield f"https://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    def application(self) -> web.Application:
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{path:.*}", self.answer)
        return application

    def reset(self) -> None:
        self.requests.clear()
        self.tokens.clear()
        self.sessions.clear()
        self._rewrites.clear()
        self.trouble, self.keeps, self.rewritten, self.cut_after = None, None, None, None
        self.open_to_all, self.iam, self.quantum, self.page = False, True, 256 * 1024, 1000
        self.lenient = False

    def key_file(self) -> dict[str, str]:
        """Return the content of the JSON file of a service account."""
        pem = private_key().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {
            "type": "service_account",
            "client_email": EMAIL,
            "private_key": pem.decode(),
            "token_uri": f"{self.endpoint}/token",
        }

    # ------------------------------------------------------------------------------------------ answering

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        path = request.rel_url.raw_path
        handler, names, what = self._route(request.method, path, dict(request.query))
        headers = {name.lower(): text for name, text in request.headers.items()}
        requested = Request(what, names[-1] if names else "", dict(request.query), headers)
        self.requests.append(requested)
        output = self.trouble(requested) if self.trouble is not None else None
        if output == DROP:
            return self._cut(request)
        if output not in {None, LOSE}:
            assert output is not None
            return answer_of(Refusal(output[0], output[1], "made by a test"), media=what == "media")
        try:
            if what not in {"token", "metadata", "signed", "session", "cancel"} and not (
                self.open_to_all or self._known(headers)
            ):
                raise Refusal(401, "authError", "Invalid Credentials")
            found: web.StreamResponse = handler(request, body, *names)
        except Refusal as refusal:
            found = answer_of(refusal, media=what in {"media", "signed"})
        if output == LOSE:
            return self._cut(request)
        if what == "media" and found.status < 300 and self.cut_after is not None:
            return await self._cut_short(request, found)
        return found

    def _known(self, headers: dict[str, str]) -> bool:
        return headers.get("authorization", "").removeprefix("Bearer ") in self.tokens

    def _route(self, method: str, path: str, query: dict[str, str]) -> tuple[Any, list[str], str]:
        """(handler, unquoted parts of the path, what it is)."""
        routes: list[tuple[str, str, Any, str]] = [
            ("POST", r"/token", self._token, "token"),
            (
                "GET",
                r"/computeMetadata/v1/instance/service-accounts/default/(token|email)",
                self._metadata,
                "metadata",
            ),
            ("POST", r"/v1/projects/-/serviceAccounts/([^/:]+):signBlob", self._sign_blob, "signBlob"),
            ("GET", r"/storage/v1/b/([^/]+)/o", self._list, "list"),
            ("POST", r"/storage/v1/b/([^/]+)/o/([^/]+)/compose", self._compose, "compose"),
            ("POST", r"/storage/v1/b/([^/]+)/o/([^/]+)/rewriteTo/b/([^/]+)/o/([^/]+)", self._rewrite, "rewrite"),
            ("DELETE", r"/storage/v1/b/([^/]+)/o/([^/]+)", self._delete, "delete"),
            ("POST", r"/upload/storage/v1/b/([^/]+)/o", self._insert, "insert"),
            ("PUT", r"/session/([^/]+)", self._session, "session"),
            ("DELETE", r"/session/([^/]+)", self._cancel, "cancel"),
            ("GET|HEAD", r"/((?!storage/|upload/)[^/]+)/(.+)", self._signed, "signed"),
        ]
        if query.get("alt") == "media":
            routes.insert(0, ("GET", r"/storage/v1/b/([^/]+)/o/([^/]+)", self._media, "media"))
        else:
            routes.insert(0, ("GET", r"/storage/v1/b/([^/]+)/o/([^/]+)", self._get, "get"))
        for methods, pattern, handler, what in routes:
            found = re.fullmatch(pattern, path)
            if found is not None and method in methods.split("|"):
                if what in {"session", "cancel"}:
                    return handler, [found[1]], what
                return handler, [unquote(part) for part in found.groups()], what
        return self._nothing, [], f"{method} {path}"

    def _nothing(self, request: web.Request, body: bytes) -> web.Response:
        raise Refusal(404, "notFound", "Not Found")

    def _cut(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _cut_short(self, request: web.Request, found: web.StreamResponse) -> web.StreamResponse:
        """Headers of the whole, the first bytes, and the end of the connection."""
        assert isinstance(found, web.Response)
        assert isinstance(found.body, bytes)
        short = web.StreamResponse(status=found.status, headers=found.headers)
        short.content_length = len(found.body)
        await short.prepare(request)
        await short.write(found.body[: self.cut_after])
        await asyncio.sleep(0.01)  # aiohttp's client drops what it has not read when the connection breaks
        return self._cut(request)

    # ------------------------------------------------------------------------------------------ who asks

    def _token(self, request: web.Request, body: bytes) -> web.Response:
        import jwt

        form = dict(parse_qsl(body.decode()))
        if form.get("grant_type") == "urn:ietf:params:oauth:grant-type:token-exchange":
            if form["subject_token"] != "from another cloud":
                return web.json_response({"error": "invalid_grant", "error_description": "unknown"}, status=400)
            return self._issue()
        try:
            output = jwt.decode(
                form["assertion"],
                private_key().public_key(),
                algorithms=["RS256"],
                audience=[f"{self.endpoint}/token", *self.audiences],
            )
        except jwt.PyJWTError as error:
            return web.json_response({"error": "invalid_grant", "error_description": str(error)}, status=400)
        assert output["iss"] == EMAIL
        return self._issue()

    def _issue(self) -> web.Response:
        token = f"token-{next(NUMBERS)}"
        self.tokens.add(token)
        return web.json_response({"access_token": token, "expires_in": 3600, "token_type": "Bearer"})

    def _metadata(self, request: web.Request, body: bytes, what: str) -> web.Response:
        if request.headers.get("Metadata-Flavor", "").lower() != "google":
            raise Refusal(403, "forbidden", "Missing Metadata-Flavor:Google header.")
        return self._issue() if what == "token" else web.Response(text=EMAIL)

    def _sign_blob(self, request: web.Request, body: bytes, email: str) -> web.Response:
        if not self.iam:
            raise Refusal(403, "forbidden", "Permission 'iam.serviceAccounts.signBlob' denied")
        assert email == EMAIL
        text = base64.b64decode(json.loads(body)["payload"].replace("-", "+").replace("_", "/"))
        signature = private_key().sign(text, padding.PKCS1v15(), hashes.SHA256())
        return web.json_response({"keyId": "1", "signedBlob": base64.b64encode(signature).decode()})

    def _signed(self, request: web.Request, body: bytes, bucket: str, name: str) -> web.Response:
        """The XML API's GET and HEAD, by signature only."""
        query = dict(request.query)
        signature = query.pop("X-Goog-Signature", "")
        try:
            made = datetime.strptime(query["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            if datetime.now(UTC) > made + timedelta(seconds=int(query["X-Goog-Expires"])):
                raise Refusal(400, "ExpiredToken", "Invalid argument.")
            email, scope = query["X-Goog-Credential"].split("/", 1)
            canonical = "\n".join(
                (
                    request.method,
                    request.rel_url.raw_path,
                    "&".join(
                        f"{quote(key, safe='')}={quote(text, safe='')}" for key, text in sorted(query.items())
                    ),
                    f"host:{request.headers['Host']}",
                    "",
                    query["X-Goog-SignedHeaders"],
                    "UNSIGNED-PAYLOAD",
                )
            )
            digest = hashlib.sha256(canonical.encode()).hexdigest()
            text = "\n".join((query["X-Goog-Algorithm"], query["X-Goog-Date"], scope, digest))
            assert email == EMAIL
            private_key().public_key().verify(
                bytes.fromhex(signature), text.encode(), padding.PKCS1v15(), hashes.SHA256()
            )
        except (KeyError, ValueError, AssertionError, InvalidSignature) as error:
            raise Refusal(403, "SignatureDoesNotMatch", "Access denied.") from error
        return self._media(request, body, bucket, name)

    # ------------------------------------------------------------------------------------------ objects

    def _bucket(self, name: str) -> dict[str, Stored]:
        if name not in self.buckets:
            raise Refusal(404, "notFound", "The specified bucket does not exist.")
        return self.buckets[name]

    def _object(self, bucket: str, name: str, query: dict[str, str] | None = None) -> Stored:
        found = self._bucket(bucket).get(name)
        if found is None or (query or {}).get("generation", str(found.generation)) != str(found.generation):
            raise Refusal(404, "notFound", f"No such object: {bucket}/{name}")
        return found

    def _condition(self, bucket: str, name: str, query: dict[str, str]) -> None:
        expected = query.get("ifGenerationMatch")
        found = self._bucket(bucket).get(name)
        if expected is not None and int(expected) != (found.generation if found is not None else 0):
            raise Refusal(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")

    def _store(self, bucket: str, name: str, stored: Stored) -> Stored:
        stored.generation = next(NUMBERS)
        self._bucket(bucket)[name] = stored
        return stored

    def _insert(self, request: web.Request, body: bytes, bucket: str) -> web.Response:
        query = dict(request.query)
        name, kind = query["name"], request.headers.get("Content-Type", "")
        self._bucket(bucket)
        if query["uploadType"] == "resumable":
            address = hashlib.sha256(str(next(NUMBERS)).encode()).hexdigest()
            kind = request.headers.get("X-Upload-Content-Type", "")
            self.sessions[address] = Session(bucket, name, kind, query)
            return web.Response(headers={"Location": f"{self.endpoint}/session/{address}"})
        assert query["uploadType"] == "media"
        self._condition(bucket, name, query)
        return web.json_response(resource(name, self._store(bucket, name, Stored(body, kind))))

    def _session(self, request: web.Request, body: bytes, address: str) -> web.Response:
        assert self.lenient or "Authorization" not in request.headers, "the address is the credential"
        session = self.sessions.get(address)
        if session is None:
            raise Refusal(404, "notFound", "Not Found")
        output = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", request.headers["Content-Range"])
        assert output is not None, request.headers["Content-Range"]
        if session.done is not None:
            return web.json_response(resource(session.name, session.done))
        total = None if output[3] == "*" else int(output[3])
        if total is not None and total < len(session.data):
            raise Refusal(400, "badRequest", "Invalid request.  The number of bytes uploaded is too large.")
        if output[1] is not None:
            assert len(body) == int(output[2]) - int(output[1]) + 1
            if int(output[1]) > len(session.data):
                raise Refusal(503, "backendError", "Invalid request.  There is a gap.")
            fresh = body[len(session.data) - int(output[1]) :]
            last = total is not None and len(session.data) + len(fresh) == total
            if not last:
                fresh = fresh[: len(fresh) - (len(session.data) + len(fresh)) % self.quantum]
            if self.keeps is not None and len(fresh) > self.keeps:
                fresh = fresh[: self.keeps]
            session.data += fresh
        if total is not None and len(session.data) == total:
            self._condition(session.bucket, session.name, session.params)
            session.done = self._store(session.bucket, session.name, Stored(bytes(session.data), session.kind))
            return web.json_response(resource(session.name, session.done))
        kept = {"Range": f"bytes=0-{len(session.data) - 1}"} if session.data else {}
        return web.Response(status=308, headers=kept)

    def _cancel(self, request: web.Request, body: bytes, address: str) -> web.Response:
        if self.sessions.pop(address, None) is None:
            raise Refusal(404, "notFound", "Not Found")
        return web.Response(status=499)

    def _get(self, request: web.Request, body: bytes, bucket: str, name: str) -> web.Response:
        return web.json_response(resource(name, self._object(bucket, name, dict(request.query))))

    def _media(self, request: web.Request, body: bytes, bucket: str, name: str) -> web.Response:
        found = self._object(bucket, name, dict(request.query))
        headers = {
            "Content-Type": found.kind,
            "X-Goog-Generation": str(found.generation),
            "Last-Modified": found.created.strftime("%a, %d %b %Y %H:%M:%S GMT"),
            **{f"X-Goog-Meta-{name}": text for name, text in found.metadata.items()},
        }
        expected = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if expected is None:
            return web.Response(body=found.data, headers=headers)
        start, size = int(expected[1]), len(found.data)
        if start >= size:
            raise Refusal(416, "requestedRangeNotSatisfiable", "Request range not satisfiable")
        end = min(size, int(expected[2]) + 1) if expected[2] else size
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        return web.Response(status=206, body=found.data[start:end], headers=headers)

    def _delete(self, request: web.Request, body: bytes, bucket: str, name: str) -> web.Response:
        self._object(bucket, name)
        self._condition(bucket, name, dict(request.query))
        del self._bucket(bucket)[name]
        return web.Response(status=204)

    def _list(self, request: web.Request, body: bytes, bucket: str) -> web.Response:
        query = dict(request.query)
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        limit = min(int(query.get("maxResults", "1000")), self.page)
        start, after = query.get("startOffset", ""), base64.urlsafe_b64decode(query.get("pageToken", "")).decode()
        items: list[dict[str, Any]] = []
        prefixes: list[str] = []
        last = more = ""
        for name in sorted(self._bucket(bucket), key=lambda name: name.encode()):
            if not name.startswith(prefix) or name < start or (after and name <= after):
                continue
            head, slash, _ = (
                name[len(prefix) :].partition(delimiter) if delimiter else (name[len(prefix) :], "", "")
            )
            shown = prefix + head + slash
            if slash and shown in {last, after}:
                continue
            if len(items) + len(prefixes) == limit:
                more = last
                break
            last = shown
            if slash:
                prefixes.append(shown)
            elif matches(name, query.get("matchGlob") or None):
                items.append(resource(name, self._bucket(bucket)[name]))
        output: dict[str, Any] = {"kind": "storage#objects"}
        if items:
            output["items"] = items
        if prefixes:
            output["prefixes"] = prefixes
        if more:
            output["nextPageToken"] = base64.urlsafe_b64encode(more.encode()).decode()
        return web.json_response(output)

    def _compose(self, request: web.Request, body: bytes, bucket: str, name: str) -> web.Response:
        expected = json.loads(body)
        if not 1 <= len(expected["sourceObjects"]) <= _SOURCES:
            raise Refusal(400, "invalid", "The number of source components provided exceeds the maximum (32)")
        data = b""
        for source in expected["sourceObjects"]:
            found = self._object(bucket, source["name"])
            self._condition(bucket, source["name"], source.get("objectPreconditions", {}))
            data += found.data
        self._condition(bucket, name, dict(request.query))
        stored = self._store(bucket, name, Stored(data, expected["destination"]["contentType"]))
        return web.json_response(resource(name, stored))

    def _rewrite(
        self, request: web.Request, body: bytes, bucket: str, source: str, target: str, name: str
    ) -> web.Response:
        query = dict(request.query)
        found = self._object(bucket, source)
        if int(query.get("ifSourceGenerationMatch", found.generation)) != found.generation:
            raise Refusal(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
        self._condition(target, name, query)
        token = query.get("rewriteToken")
        if self.rewritten is not None:
            done = self._rewrites.get(token, 0) + self.rewritten if token else self.rewritten
            if done < len(found.data):
                fresh = f"rewrite-{next(NUMBERS)}"
                self._rewrites[fresh] = done
                return web.json_response({"done": False, "rewriteToken": fresh, "totalBytesRewritten": str(done)})
        stored = self._store(
            target, name, Stored(found.data, json.loads(body or b"{}").get("contentType", found.kind))
        )
        return web.json_response({"done": True, "resource": resource(name, stored)})


@cache
def server() -> GcsServer:
    """Started once for all tests of this process, and gone with it."""
    found = GcsServer()
    serve_in_a_thread(found)
    return found


def serve_in_a_thread(found: GcsServer) -> None:
    """For as long as the process lasts."""
    ready = threading.Event()

    async def serve() -> None:
        runner = web.AppRunner(found.application(), access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        found.port = runner.addresses[0][1]
        ready.set()
        await asyncio.Event().wait()

    threading.Thread(target=lambda: asyncio.run(serve()), name="gcs", daemon=True).start()
    assert ready.wait(30)

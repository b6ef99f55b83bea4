"""Clients of the soak: each has a repository of its own, so it knows what must be there.

All of them use the same few layers, so a layer that is dead in one repository lives in another, and dies and comes
back all the time.  An answer that was lost, since a worker was killed, leaves a tag with two possible manifests.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from functools import cache
from typing import TYPE_CHECKING, Final

import httpx
from tests.wire import OCI_MANIFEST

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Ledger", "Pusher", "SoakFailure", "layer"]

LAYERS: Final = 24
_TAGS: Final = 5
_LIMIT_S: Final = 90.0
_AGAIN_S: Final = 0.1
_NONE: Final = ""
_BYTES: Final = "application/octet-stream"


class SoakFailure(Exception):
    """An answer that no client may get."""


class _Lost(Exception):
    """The connection broke, so the outcome is unknown."""


@cache
def layer(number: int) -> bytes:
    """Return a layer, a few of which are large."""
    return random.Random(number).randbytes(512 << (number % 10))


class Ledger:
    """What a repository must have: for each tag the digests that it may name, "" for none."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tags: dict[str, set[str]] = {}
        self.manifests: dict[str, bytes] = {}

    def set(self, tag: str, digest: str, *, known: bool) -> None:
        """Note a tag that was set, or, if the outcome is not known, may have been."""
        self.tags[tag] = {digest} if known else self.tags.get(tag, {_NONE}) | {digest}


class Pusher:
    """A client with one connection pool.

    `count` is the number of acknowledged changes and pulls, `late` that of pushes that took longer than `quick_s`,
    and were refused.
    """

    def __init__(self, host: str, name: str, seed: int, names: list[str], quick_s: float = 1.0) -> None:
        self.ledger = Ledger(name)
        self.count = 0
        self.refusals = 0
        self.late = 0
        self._quick_s = quick_s
        self._names = [other for other in names if other != name]
        self._random = random.Random(f"{seed} {name}")
        # A bucket's registry redirects downloads to the bucket.
        self._client = httpx.AsyncClient(
            base_url=f"http://{host}", timeout=_LIMIT_S, trust_env=False, follow_redirects=True
        )

    async def act(self, until: float) -> None:
        """Push, pull, tag and delete until a time of the monotonic clock.  Raises SoakFailure."""
        works: list[Callable[[], Awaitable[None]]] = [self.push, self.pull, self.retag, self.untag, self.delete]
        try:
            while time.monotonic() < until:
                (work,) = self._random.choices(works, [6, 4, 2, 1, 1])
                try:
                    await work()
                except _Lost:
                    await asyncio.sleep(_AGAIN_S)
        finally:
            await self._client.aclose()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        data: bytes = b"",
        *,
        allowed: tuple[int, ...],
        kind: str = _BYTES,
    ) -> httpx.Response:
        """Send a request again while the answer is 503.  Raises SoakFailure for an answer that is not allowed."""
        until = time.monotonic() + _LIMIT_S
        while True:
            try:
                headers = {"Content-Type": kind, "Accept": OCI_MANIFEST}
                answer = await self._client.request(method, path, content=data, headers=headers)
            except httpx.TransportError as error:
                raise _Lost from error
            if answer.status_code in allowed:
                return answer
            if answer.status_code != 503 or time.monotonic() > until:
                raise SoakFailure(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
            self.refusals += 1
            await asyncio.sleep(_AGAIN_S)

    # Pushing.

    async def push(self) -> None:
        """Push an image with layers that are there, mounted or uploaded; then set a tag."""
        name = self.ledger.name
        config = json.dumps({"n": self._random.randrange(10**9)}).encode()
        parts = [
            config,
            *(layer(number) for number in self._random.sample(range(LAYERS), self._random.randint(1, 4))),
        ]
        began = time.monotonic()
        for data in parts:
            await self._supply(data)
        described = [{"mediaType": _BYTES, "digest": str(Digest.of(data)), "size": len(data)} for data in parts]
        manifest = json.dumps(
            {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": described[1:]}
        ).encode()
        digest, tag = str(Digest.of(manifest)), self._tag()
        self.ledger.manifests[digest] = manifest
        try:
            answer = await self.ask(
                "PUT", f"/v2/{name}/manifests/{tag}", manifest, allowed=(201, 400, 404), kind=OCI_MANIFEST
            )
        except _Lost:
            self.ledger.set(tag, digest, known=False)
            raise
        if answer.status_code == 201:
            self.ledger.set(tag, digest, known=True)
            self.count += 1
        elif (took := time.monotonic() - began) < self._quick_s:
            raise SoakFailure(f"a quick push ({took:.1f} s) to {name} was refused: {answer.text[:300]}")
        else:
            self.late += 1

    def _tag(self) -> str:
        return f"t{self._random.randrange(_TAGS)}"

    async def _supply(self, data: bytes) -> None:
        """Have a blob in the repository: it is there, or mounted, or uploaded."""
        name, digest = self.ledger.name, str(Digest.of(data))
        if self._random.random() < 0.8:
            found = await self.ask("HEAD", f"/v2/{name}/blobs/{digest}", allowed=(200, 404))
            if found.status_code == 200:
                return
        query = ""
        if self._random.random() < 0.5 and self._names:
            query = f"?mount={digest}&from={self._random.choice(self._names)}"
        begun = await self.ask("POST", f"/v2/{name}/blobs/uploads/{query}", allowed=(201, 202))
        if begun.status_code == 201:
            self.count += 1
            return
        location = begun.headers["location"]
        joined = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        # 404: an attempt that was refused for a while may have used up the upload.
        answer = await self.ask("PUT", joined, data, allowed=(201, 404))
        if answer.status_code == 404:
            await self._supply(data)
        self.count += 1

    # The others.

    async def _known(self) -> tuple[str, str]:
        """Return a tag and the digest that it names; "" for a tag that may name none."""
        tag = self._tag()
        named = self.ledger.tags.get(tag, {_NONE})
        answer = await self.ask("GET", f"/v2/{self.ledger.name}/manifests/{tag}", allowed=(200, 404))
        digest = str(Digest.of(answer.content)) if answer.status_code == 200 else _NONE
        if digest not in named:
            raise SoakFailure(f"{self.ledger.name}:{tag} is {digest or 'not there'}, and must be {named}")
        self.ledger.tags[tag] = {digest}
        return tag, digest

    async def pull(self) -> None:
        """Pull a tag whole."""
        _, digest = await self._known()
        if digest:
            await self.check(digest)
            self.count += 1

    async def check(self, digest: str) -> None:
        """Raise SoakFailure unless everything that a manifest names can be pulled."""
        manifest = json.loads(self.ledger.manifests[digest])
        for described in (manifest["config"], *manifest["layers"]):
            answer = await self.ask("GET", f"/v2/{self.ledger.name}/blobs/{described['digest']}", allowed=(200,))
            if str(Digest.of(answer.content)) != described["digest"]:
                raise SoakFailure(f"{described['digest']} has other bytes")

    async def check_all(self) -> set[str]:
        """Check every tag; return the digests of everything that they need."""
        needed: set[str] = set()
        for tag in list(self.ledger.tags):
            answer = await self.ask("GET", f"/v2/{self.ledger.name}/manifests/{tag}", allowed=(200, 404))
            digest = str(Digest.of(answer.content)) if answer.status_code == 200 else _NONE
            if digest not in self.ledger.tags[tag]:
                raise SoakFailure(f"{self.ledger.name}:{tag} is {digest or 'lost'}, not {self.ledger.tags[tag]}")
            if digest:
                await self.check(digest)
                manifest = json.loads(self.ledger.manifests[digest])
                needed |= {digest, *(part["digest"] for part in (manifest["config"], *manifest["layers"]))}
        return needed

    async def retag(self) -> None:
        """Give the manifest of a tag another tag."""
        _, digest = await self._known()
        if not digest:
            return
        tag = self._tag()
        path = f"/v2/{self.ledger.name}/manifests/{tag}"
        try:
            await self.ask("PUT", path, self.ledger.manifests[digest], allowed=(201,), kind=OCI_MANIFEST)
        except _Lost:
            self.ledger.set(tag, digest, known=False)
            raise
        self.ledger.set(tag, digest, known=True)
        self.count += 1

    async def untag(self) -> None:
        tag = self._tag()
        self.ledger.tags[tag] = self.ledger.tags.get(tag, {_NONE}) | {_NONE}
        await self.ask("DELETE", f"/v2/{self.ledger.name}/manifests/{tag}", allowed=(202, 404))
        self.ledger.tags[tag] = {_NONE}
        self.count += 1

    async def delete(self) -> None:
        """Delete a manifest by its digest, and with it all its tags."""
        _, digest = await self._known()
        if not digest:
            return
        having = [tag for tag, named in self.ledger.tags.items() if digest in named]
        for tag in having:
            self.ledger.tags[tag] = self.ledger.tags[tag] | {_NONE}
        await self.ask("DELETE", f"/v2/{self.ledger.name}/manifests/{digest}", allowed=(202, 404))
        for tag in having:
            self.ledger.tags[tag] = (self.ledger.tags[tag] - {digest}) | {_NONE}
        self.count += 1

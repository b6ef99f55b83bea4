"""What a registry acknowledged, and whether it still keeps its word after it was killed.

    Pusher threads ──acknowledged steps──► Ledger ──after the restart──► Ledger.audit

A step is entered as tried before its request is sent, and as acknowledged when a 2xx came back.  Afterwards:

* acknowledged blobs and manifests are there, byte for byte, with everything they name;
* a tag points at what was last acknowledged for it, or at what was being pushed when the server died;
* an upload still has every acknowledged byte, and can be gone on with from where the server says;
* whatever is served, acknowledged or not, is whole: no tag that answers 200 lacks a blob, and nothing is a 5xx.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests.wire import Wire, image

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.live import Live

__all__ = ["Account", "Ledger", "Pusher", "Upload", "push_until_killed"]

TAGS: Final = 2
_SLOWEST_S: Final = 60.0
_NETWORK: Final = (OSError, http.client.HTTPException)


@dataclass
class Upload:
    """The upload in hand: `data` to send, `acknowledged` bytes of it kept, `finishing` once its PUT was sent."""

    name: str
    location: str
    data: bytes
    acknowledged: int = 0
    sent: int = 0
    finishing: bool = False


@dataclass
class Account:
    """One pusher's own repository; `tags` holds what each may point at, "" for nothing."""

    name: str
    blobs: dict[Digest, bytes] = field(default_factory=dict)
    manifests: dict[Digest, bytes] = field(default_factory=dict)
    tags: dict[str, set[str]] = field(default_factory=dict)
    upload: Upload | None = None


@dataclass
class Ledger:
    """All accounts, and what has been audited already, so that an audit looks at the new entries only."""

    accounts: list[Account]
    _audited: set[tuple[str, Digest]] = field(default_factory=set)
    _whole: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def of(cls, count: int, prefix: str = "crash/pusher") -> Ledger:
        return cls([Account(f"{prefix}-{number}") for number in range(count)])

    @property
    def acknowledged(self) -> int:
        return sum(len(account.manifests) for account in self.accounts)

    def audit(self, wire: Wire, *, everything: bool = False) -> None:
        """Raises AssertionError with what was lost or torn.  `everything`: older entries once more."""
        if everything:
            self._audited.clear()
        self._whole.clear()
        for account in self.accounts:
            self._audit_entries(wire, account)
            self._audit_tags(wire, account)
            self._audit_upload(wire, account)

    def _audit_entries(self, wire: Wire, account: Account) -> None:
        for digest, data in account.blobs.items():
            if (account.name, digest) not in self._audited:
                answer = wire.blob(account.name, digest)
                assert (answer.status, answer.body) == (200, data), f"lost blob {account.name}@{digest}: {answer}"
                self._audited.add((account.name, digest))
                self._whole.add((account.name, str(digest)))
        for digest, data in account.manifests.items():
            if (account.name, digest) not in self._audited:
                answer = wire.manifest(account.name, digest)
                assert (answer.status, answer.body) == (200, data), f"lost {account.name}@{digest}: {answer}"
                self._audit_content(wire, account.name, data)
                self._audited.add((account.name, digest))

    def _audit_tags(self, wire: Wire, account: Account) -> None:
        alive = []
        for tag in sorted({*account.tags, *wire.tags(account.name)}):
            answer = wire.manifest(account.name, tag)
            alive += [tag] if answer.status == 200 else []
            assert answer.status in {200, 404}, f"{account.name}:{tag} is torn: {answer}"
            seen = ""
            if answer.status == 200:
                seen = answer.headers["docker-content-digest"]
                assert str(Digest.of(answer.body)) == seen
                self._audit_content(wire, account.name, answer.body)
            allowed = account.tags.get(tag, set())
            assert seen in allowed, f"{account.name}:{tag} points at {seen or 'nothing'}, not at one of {allowed}"
            account.tags[tag] = {seen}
        for listed in (wire.tags(account.name), wire.tags(account.name, "?n=1000")):
            assert listed == alive, f"{account.name} lists {listed}; {alive} answer 200"

    def _audit_content(self, wire: Wire, name: str, manifest: bytes) -> None:
        """Every blob that a served manifest names, each once in an audit."""
        for digest in _named(manifest):
            if (name, digest) not in self._whole:
                answer = wire.blob(name, digest)
                whole = answer.status == 200 and str(Digest.of(answer.body)) == digest
                assert whole, f"{name} serves a manifest without its blob {digest}: {answer}"
                self._whole.add((name, digest))

    def _audit_upload(self, wire: Wire, account: Account) -> None:
        upload, account.upload = account.upload, None
        if upload is None:
            return
        status = wire.send("GET", upload.location)
        if status.status == 404 and upload.finishing:
            return  # The PUT whose response was lost has done its work, or as much of it as ends the upload.
        assert status.status == 204, f"an upload with {upload.acknowledged} acknowledged bytes is gone: {status}"
        last = int(status.headers["range"].partition("-")[2])
        offset = last + 1 if last else 0  # "0-0" means none or one, but nothing here is one byte long
        assert upload.acknowledged <= offset <= upload.sent, f"{upload.acknowledged=} {offset=} {upload.sent=}"
        digest = Digest.of(upload.data)
        done = wire.finish(status.headers["location"], digest, upload.data[offset:])
        assert done.status == 201, f"an upload cannot be gone on with from byte {offset}: {done}"
        account.blobs[digest] = upload.data
        assert wire.blob(account.name, digest).body == upload.data


def _named(manifest: bytes) -> list[str]:
    """The digests of config and layers: the only strings of their form in the manifests pushed here."""
    parts = manifest.decode().split('"digest":"')[1:]
    return [part.partition('"')[0] for part in parts]


class Pusher(threading.Thread):
    """Pushes random images to its own repository until the server dies or `enough` is set.

    `shared` are layers that all pushers use, so that the same blob is being published several times at once.
    A refusal (4xx, 5xx) is kept in `surprise`: no request here deserves one.
    """

    def __init__(
        self, host: str, account: Account, seed: str, shared: Sequence[bytes], others: Sequence[str]
    ) -> None:
        super().__init__(name=account.name)
        self.account, self.enough = account, threading.Event()
        self.surprise: Exception | None = None
        self._random, self._shared, self._others = random.Random(seed), shared, others
        self._wire = Wire(host, keep=self._random.random() < 0.5)

    def run(self) -> None:
        try:
            while not self.enough.is_set():
                self._push_image()
        except _NETWORK:
            pass  # The server was killed: what this test is about.
        except Exception as error:  # noqa: BLE001  handed to the test, which raises it
            self.surprise = error
        finally:
            self._wire.close()

    def _push_image(self) -> None:
        size = self._random.choice((40, 1000, 70_000, 400_000))
        config, layer = self._random.randbytes(50), self._random.randbytes(size)
        layers = [layer, self._random.choice(self._shared)]
        for data in (config, *layers):
            if data is not layers[1] or not self._mount(data):
                self._push_blob(data)
        self._push_manifest(image(config, layers))

    def _mount(self, data: bytes) -> bool:
        """Half the time, ask for the shared layer out of a neighbour's repository."""
        if self._random.random() < 0.5:
            return False
        digest = Digest.of(data)
        source = self._random.choice(self._others)
        answer = self._wire.start_upload(self.account.name, mount=str(digest), **{"from": source})
        assert answer.status in {201, 202}, answer
        if answer.status == 201:
            self.account.blobs[digest] = data
        return answer.status == 201

    def _push_blob(self, data: bytes) -> None:
        begun = self._wire.start_upload(self.account.name)
        assert begun.status == 202, begun
        upload = self.account.upload = Upload(self.account.name, begun.headers["location"], data)
        pieces = self._random.choice((0, 1, 3))
        for number in range(pieces):
            # The last piece is left to the PUT now and then.
            stop = len(data) * (number + 1) // (pieces + self._random.randrange(2))
            piece = data[upload.sent : stop]
            if piece:
                self._patch(upload, piece)
        rest = data[upload.acknowledged :]
        upload.sent, upload.finishing = len(data), True
        done = self._wire.finish(upload.location, Digest.of(data), rest)
        assert done.status == 201, done
        self.account.blobs[Digest.of(data)] = data
        self.account.upload = None

    def _patch(self, upload: Upload, piece: bytes) -> None:
        start = upload.acknowledged
        upload.sent = start + len(piece)
        style = self._random.randrange(3)
        if style == 0:
            answer = self._wire.patch(upload.location, piece, start)
        elif style == 1:
            answer = self._wire.patch(upload.location, piece)
        else:  # chunked, as the Docker engine streams
            answer = self._wire.patch(
                upload.location, iter((piece[: len(piece) // 2 + 1], piece[len(piece) // 2 + 1 :]))
            )
        assert answer.status == 202, answer
        upload.location, upload.acknowledged = answer.headers["location"], upload.sent

    def _push_manifest(self, manifest: bytes) -> None:
        digest = Digest.of(manifest)
        tag = f"v{self._random.randrange(TAGS)}"
        by_digest = self._random.random() < 0.1
        if not by_digest:
            self.account.tags.setdefault(tag, {""}).add(str(digest))
        answer = self._wire.put_manifest(self.account.name, str(digest) if by_digest else tag, manifest)
        assert answer.status == 201, answer
        self.account.manifests[digest] = manifest
        if not by_digest:
            self.account.tags[tag] = {str(digest)}


def push_until_killed(
    live: Live, ledger: Ledger, label: str, moment_s: float, shared: Sequence[bytes], *, after: int = 0
) -> None:
    """Let every account push, and kill the server after `moment_s`.  Raises what surprised a pusher.

    `shared` are layers that all of them use.  `after`: so many manifests are acknowledged before it begins.
    """
    aim, deadline = ledger.acknowledged + after, time.monotonic() + _SLOWEST_S
    names = [account.name for account in ledger.accounts]
    pushers = [Pusher(live.host, account, f"{label}-{account.name}", shared, names) for account in ledger.accounts]
    for pusher in pushers:
        pusher.start()
    while ledger.acknowledged < aim and any(pusher.is_alive() for pusher in pushers):
        assert time.monotonic() < deadline, f"no image was pushed in {_SLOWEST_S:g} s"
        time.sleep(0.01)
    threading.Event().wait(moment_s)
    live.kill()
    for pusher in pushers:
        pusher.enough.set()
        pusher.join()
    for pusher in pushers:
        if pusher.surprise is not None:
            raise pusher.surprise

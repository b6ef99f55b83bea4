"""Keys read back: each that `layout.py` builds, and none that it does not."""

from __future__ import annotations

import pytest

from moorage.registry import layout
from moorage.registry.places import Place, digests, place_of
from moorage.storage.driver import Key
from moorage.storage.memory import MemoryDriver
from moorage.types import Digest, RepoName, Tag

NAME, TAG = RepoName("team/app/nested.x"), Tag("_uploads")
ONE, STRONG = Digest.of(b"one"), Digest.of(b"two", "sha512")


@pytest.mark.parametrize(
    ("key", "place"),
    [
        (layout.blob_data(ONE), Place("blob", digest=ONE)),
        (layout.blob_data(STRONG), Place("blob", digest=STRONG)),
        (layout.torn_mark(STRONG), Place("torn", digest=STRONG)),
        (layout.layer_link(NAME, ONE), Place("layer", NAME, ONE)),
        (layout.revision_link(NAME, STRONG), Place("revision", NAME, STRONG)),
        (layout.tag_link(NAME, TAG), Place("tag", NAME, tag=TAG)),
        (layout.tag_history_link(NAME, TAG, ONE), Place("history", NAME, ONE, TAG)),
        (layout.deleted_mark(NAME, ONE), Place("mark", NAME, ONE)),
        (layout.referrer_link(NAME, STRONG, ONE), Place("referrer", NAME, ONE, subject=STRONG)),
        (layout.below(layout.upload_home(NAME, "some-id"), "hashstates/sha256/0"), Place("upload", NAME)),
    ],
)
def test_every_key_is_known_again(key: Key, place: Place) -> None:
    assert place_of(key) == place


@pytest.mark.parametrize(
    "key",
    [
        "scheduler-state.json",
        f"{layout.ROOT}",
        f"{layout.BLOBS}/sha256/00/{'ab' * 32}/data",
        f"{layout.BLOBS}/sha256/ab/abcd/data",
        f"{layout.BLOBS}/sha384/ab/{'ab' * 48}/data",
        f"{layout.REPOSITORIES}/UPPER/_layers/sha256/{'ab' * 32}/link",
        f"{layout.REPOSITORIES}/_layers/sha256/{'ab' * 32}/link",
        f"{layout.REPOSITORIES}/a/_manifests/tags/.bad/current/link",
        f"{layout.REPOSITORIES}/a/_manifests/tags/v1/current/link/more",
        f"{layout.REPOSITORIES}/a/_uploads/loose",
    ],
)
def test_other_keys_are_nobodys(key: str) -> None:
    assert place_of(Key(key)) is None


async def test_digests_below_a_key_are_those_that_clients_could_name() -> None:
    """What an editor or a restored backup left beside them ends neither a listing nor a copy."""
    driver = MemoryDriver()
    for digest in (ONE, STRONG):
        await driver.write(layout.layer_link(NAME, digest), str(digest).encode())
    for stray in ("sha256/notes.txt/link", "sha256/ab/link", f"md5/{'ab' * 16}/link", "README"):
        await driver.write(layout.below(layout.layers(NAME), stray), b"")
    found = [digest async for page in digests(driver, layout.layers(NAME)) for digest in page]
    assert sorted(map(str, found)) == sorted(map(str, (ONE, STRONG)))
    assert [page async for page in digests(driver, layout.revisions(NAME))] == []


async def test_digests_after_one_of_them() -> None:
    """In the order of their texts, whatever `after` is: a client may ask for the page after anything."""
    driver = MemoryDriver()
    stored = sorted(
        Digest.of(bytes([number]), algorithm) for number in range(20) for algorithm in ("sha256", "sha512")
    )
    for digest in stored:
        await driver.write(layout.layer_link(NAME, digest), str(digest).encode())
    texts = [str(digest) for digest in stored]
    odd = ["", "sha256", "sha256:", "sha256:g", "sha256;", "sha3", "sha512:", "t", "\n", "\u00e9", "sha256:../x"]
    for after in (*texts, *odd, *(text[:20] for text in texts)):
        pages = digests(driver, layout.layers(NAME), after=after)
        assert [str(digest) async for page in pages for digest in page] == [text for text in texts if text > after]

"""Every format of our own carries a version, and an unknown one is refused or ignored, never misread.

docs/formats.md has the table; what a later version may write is made up here.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.registry.images import NAME, push
from tests.wire import OCI_MANIFEST, Wire
from tests.wire import image as wire_image

from moorage.errors import ManifestUnknown
from moorage.registry import hashing, layout
from moorage.registry.blob_store import BlobStore, Purpose
from moorage.registry.manifests import StoredManifests
from moorage.registry.referrers import StoredReferrers
from moorage.storage.azure.appender import BlockLog, decode
from moorage.storage.azure.requests import BlobProperties
from moorage.storage.driver import Key, StorageUnavailable, Version
from moorage.storage.filesystem.driver import FilesystemDriver
from moorage.storage.memory import MemoryDriver
from moorage.storage.object_store.driver import ObjectDriver
from moorage.testing.builders import artifact, blob, image
from moorage.testing.memory_objects import Bucket, MemoryObjects
from moorage.types import Digest, Tag

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.live import Live

    from moorage.storage.driver import UploadState

HOME = Key("docker/registry/v2/repositories/team/app/_uploads/1")
PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


async def begun(driver: FilesystemDriver | ObjectDriver) -> UploadState:
    """An upload of a few bytes."""
    state = await driver.uploads.begin(HOME)
    async with driver.uploads.append(HOME, state) as appender:
        return await appender.checkpoint((), [b"bytes"])


@pytest.fixture
async def files(tmp_path: Path) -> AsyncIterator[FilesystemDriver]:
    driver = FilesystemDriver(tmp_path)
    yield driver
    await driver.close()


async def test_an_upload_of_a_later_format_is_not_continued(files: FilesystemDriver, tmp_path: Path) -> None:
    """Its bytes may be in other files, or fewer than the sizes of these."""
    state = await begun(files)
    (tmp_path / HOME / "format.2").touch()
    with pytest.raises(StorageUnavailable, match=r"format\.2 is not known to this version of Moorage"):
        await files.uploads.state(HOME)
    with pytest.raises(StorageUnavailable, match="begin it again"):
        async with files.uploads.append(HOME, state):
            pass
    assert (tmp_path / HOME / "data").read_bytes() == b"bytes"


async def test_an_upload_of_a_later_format_is_removed_by_age_all_the_same(
    files: FilesystemDriver, tmp_path: Path
) -> None:
    await begun(files)
    (tmp_path / HOME / "format.2").touch()
    later = datetime.now(UTC) + timedelta(seconds=5)
    found = [home async for home in files.uploads.abandoned(layout.REPOSITORIES, later)]
    assert found == [HOME]
    await files.uploads.discard(HOME)
    assert not (tmp_path / HOME).exists()


async def test_the_known_format_may_be_named(files: FilesystemDriver, tmp_path: Path) -> None:
    """So that the version after the next may write the name for the sake of the next."""
    state = await begun(files)
    (tmp_path / HOME / "format.1").touch()
    assert (await files.uploads.state(HOME)).offset == 5
    async with files.uploads.append(HOME, state) as appender:
        assert (await appender.checkpoint((), [b"more"])).offset == 9
    assert (tmp_path / HOME / "format.1").exists()


def test_a_client_is_asked_to_retry_an_upload_of_a_later_format(live_moorage: Live) -> None:
    """503: behind a load balancer the retry reaches a node of the newer version."""
    wire = Wire(live_moorage.host)
    location = wire.start_upload("later/format").headers["location"]
    (home,) = live_moorage.root.glob("docker/registry/v2/repositories/later/format/_uploads/*")
    (home / "format.2").touch()
    assert wire.patch(location, b"bytes").status == 503
    assert wire.send("GET", location).status == 503
    live_moorage.logged("format.2 is not known to this version of Moorage")
    shutil.rmtree(home)


async def test_a_state_of_a_later_format_in_a_bucket_is_refused() -> None:
    driver = ObjectDriver.with_chunk_log(MemoryObjects(Bucket()))
    state = await begun(driver)
    key = Key(f"{HOME}/state")
    stored = (await driver.read(key)).data
    await driver.write(key, stored.replace(b'"moorage":1', b'"moorage":2'))
    with pytest.raises(StorageUnavailable, match=r"cannot read it: it has format 2, and 1 is known"):
        await driver.uploads.state(HOME)
    await driver.write(key, stored)
    assert (await driver.uploads.state(HOME)).offset == state.offset


def test_a_state_of_a_later_format_on_azure_is_refused() -> None:
    log = BlockLog(datetime(2026, 1, 5, tzinfo=UTC))
    found = BlobProperties(0, log.started, Version("v"), log.metadata(), "", "")
    assert decode("here", found).started == log.started
    later = replace(found, metadata={**found.metadata, "moorage": "2"})
    with pytest.raises(StorageUnavailable, match=r"here: .*it has format '2', and 1 is known"):
        decode("here", later)


async def test_a_referrer_link_of_a_later_format_is_listed_from_the_manifest() -> None:
    """A node of the version before shows the same list, a little slower."""
    driver = MemoryDriver()
    manifests = StoredManifests(driver, delete_enabled=True)
    subject = image(seed=1)
    signature = artifact("application/vnd.example.sig", subject=subject)
    await push(driver, manifests, signature)
    whole = (await StoredReferrers(driver, manifests).list(NAME, subject.digest)).entries
    key = layout.referrer_link(NAME, subject.digest, signature.digest)
    body = (await driver.read(key)).data.partition(b"\n")[2].partition(b"\n")[2]
    for later in (b"v3 \n{}", b"v3 " + body, b"v3 checksum\n" + body.replace(b"sig", b"gis")):
        await driver.write(key, str(signature.digest).encode() + b"\n" + later)
        fresh = StoredReferrers(driver, StoredManifests(driver, delete_enabled=True))
        assert (await fresh.list(NAME, subject.digest)).entries == whole


@pytest.mark.parametrize("text", [b"v2 100000", b'{"size":100000}', b"100000\nv2"])
async def test_a_mark_of_a_torn_blob_of_a_later_format_is_as_none(text: bytes) -> None:
    """The blob is read and judged by its bytes, which are whole here."""
    driver, whole = MemoryDriver(), blob(size=100_000, seed=3)
    await driver.write(layout.blob_data(whole.digest), whole.data)
    await driver.write(layout.torn_mark(whole.digest), text)
    assert await BlobStore(driver).rely(whole.digest, Purpose.LINK) == 100_000


async def test_a_mark_of_a_deletion_counts_by_its_name() -> None:
    """What a later version writes into it changes nothing: tags of the deleted manifest stay dead."""
    driver, built = MemoryDriver(), image(seed=1)
    manifests = StoredManifests(driver, delete_enabled=True)
    await push(driver, manifests, built)
    await manifests.put(NAME, Tag("old"), built.media_type, built.data)
    await manifests.delete(NAME, built.digest)
    await driver.write(layout.deleted_mark(NAME, built.digest), b'{"format":2}')
    again = StoredManifests(driver, delete_enabled=True)
    await again.put(NAME, built.digest, built.media_type, built.data)
    with pytest.raises(ManifestUnknown):
        await again.get(NAME, Tag("old"))


def test_a_hash_state_of_another_version_is_not_used() -> None:
    """Go's `sha256` has a magic of its own for each form; the bytes are hashed again."""
    hasher = hashing.new("sha256")
    hasher.update([b"bytes"])
    state = hasher.export()
    assert state is not None
    assert hashing.restore("sha256", state, 5) is not None
    assert hashing.restore("sha256", b"sha\x04" + state[4:], 5) is None


def rows() -> list[re.Pattern[str]]:
    """The names in the first column of the page's tables, as patterns of keys."""
    found = []
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 4:
            name = re.escape(cells[0].strip("`"))
            for word, form in (
                ("NAME", ".+"), ("UUID", "[^/]+"), ("DIGEST", "sha(?:256|512)/[0-9a-f]+"), ("OFFSET", "[0-9]+"),
                ("ALG", "sha(?:256|512)"), ("HH", "[0-9a-f]{2}"), ("HEX", "[0-9a-f]+"), ("TAG", "[^/]+"),
                ("SEQ", "[0-9]{8}"), ("SESSION", "[0-9a-f]{16}"), ("INSTANCE", "[^/]+"), ("FAMILY.*STAMP", ".+"),
                ("STAMP", "[^/]+"), ("RUN", "[^/.]+"), ("NUMBER", "[0-9]+"), ("TOKEN", "[^/]+"),
            ):  # fmt: skip
                name = re.sub(rf"\b{word}\b", form, name)
            found.append(re.compile(name))
    return found


def test_the_page_has_every_key_that_is_written(live_moorage: Live) -> None:
    """A file that the page does not name has no decided version."""
    wire = Wire(live_moorage.host)
    subject = wire.push_image("pages/app", "v1", [b"layer"])
    described = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(subject)), "size": len(subject)}
    signature = wire_image(b"{}", [], subject=described)
    assert wire.put_manifest("pages/app", Digest.of(signature), signature).status == 201
    for data in (b"short", b"first" * 250_031):
        wire.patch(wire.start_upload("pages/app").headers["location"], data)
    assert wire.delete_manifest("pages/app", Digest.of(subject)).status == 202
    root = live_moorage.root
    keys = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    known = rows()
    additions = [key for key in keys if "/_referrers/" in key or "/_deleted/" in key or "/offset." in key]
    assert len(additions) >= 3
    assert [key for key in keys if not any(row.fullmatch(key) for row in known)] == []


async def test_the_page_has_every_key_of_a_bucket() -> None:
    driver = ObjectDriver.with_chunk_log(MemoryObjects(Bucket()))
    state = await driver.uploads.begin(HOME)
    async with driver.uploads.append(HOME, state) as appender:
        await appender.checkpoint((), [bytes(3 << 20)])
    known = rows()
    keys = [stat.key async for page in driver.scan(layout.ROOT) for stat in page]
    assert {key.removeprefix(f"{HOME}/").partition("/")[0] for key in keys} == {"state", "startedat", "parts"}
    assert [key for key in keys if not any(row.fullmatch(key) for row in known)] == []

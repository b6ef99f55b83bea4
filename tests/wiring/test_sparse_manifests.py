"""`validation.manifests.layers: none`: manifests without content are stored and served, and no tool harms them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest
from tests.copy.worlds import Recorder, copied
from tests.fsck.test_damage import Recorder as Findings
from tests.gc.running import AT_ONCE, run
from tests.http.client import NAME, Client, codes
from tests.registry.collection_steps import Run

from moorage.config.load import load
from moorage.copy.repositories import CopyOptions
from moorage.fsck.store import CheckOptions, check
from moorage.http.app import create_app
from moorage.quota.count import count
from moorage.registry import layout
from moorage.registry.validation import ValidationRules
from moorage.storage.memory import MemoryDriver
from moorage.testing.builders import blob, image, index
from moorage.types import RepoName, Tag
from moorage.wiring.app import make_registry
from moorage.wiring.http import http_options
from moorage.wiring.retention import apply_retention
from moorage.wiring.validation import is_sparse_in, validation_rules

if TYPE_CHECKING:
    from pathlib import Path

    from moorage.config.model import Settings
    from moorage.storage.driver import Driver

LAYER: Final = blob(size=3000, seed=1)
BUILT: Final = image(LAYER, blob(size=10, seed=2), seed=1)
CONFIG: Final = BUILT.blobs[-1]
BASE: Final = "version: 0.1\nstorage: {inmemory: {}}\nhttp: {addr: 127.0.0.1:0}\n"


@pytest.fixture
def sparse(tmp_path: Path) -> Settings:
    return settings_of(tmp_path, "validation: {manifests: {layers: none}}")


def settings_of(folder: Path, text: str) -> Settings:
    path = folder / "config.yml"
    path.write_text(f"{BASE}{text}\n")
    return load(path, {}).settings


def serving(driver: Driver, settings: Settings) -> Client:
    return Client(create_app(make_registry(driver, settings, b"secret"), http_options(settings)))


async def checked(driver: Driver, settings: Settings) -> Findings:
    findings, now = Findings(), datetime.now(UTC) + timedelta(hours=2)
    options = CheckOptions(now, now, is_sparse=is_sparse_in(settings))
    await check(driver, options, findings)
    return findings


async def test_a_manifest_without_its_content_is_accepted_and_served(sparse: Settings) -> None:
    """By tag and digest; what is absent is a 404, and an error that clients show."""
    client = serving(MemoryDriver(), sparse)
    assert (await client.put("v1", BUILT)).status_code == 201
    for reference in ("v1", BUILT):
        assert (await client.manifest(reference)).content == BUILT.data
    for part in BUILT.blobs:
        for method in ("HEAD", "GET"):
            answer = await client.send(method, f"/v2/{NAME}/blobs/{part.digest}")
            assert answer.status_code == 404
        assert codes(answer) == ["BLOB_UNKNOWN"]
    # Its content may follow, and be pulled then.
    await client.push_blob(LAYER)
    assert (await client.blob(LAYER)).content == LAYER.data


async def test_a_manifest_without_its_content_is_refused_by_default(tmp_path: Path) -> None:
    client = serving(MemoryDriver(), settings_of(tmp_path, ""))
    refused = await client.put("v1", BUILT)
    assert (refused.status_code, codes(refused)) == (400, ["MANIFEST_BLOB_UNKNOWN"] * len(BUILT.blobs))


async def test_content_that_is_there_must_have_its_size(sparse: Settings) -> None:
    """Such an image can never be pulled."""
    client = serving(MemoryDriver(), sparse)
    await client.push_blob(LAYER)
    wrong = image(seed=1, extra={"layers": [{**LAYER.entry, "size": 7}]})
    refused = await client.put("v1", wrong)
    assert (refused.status_code, codes(refused)) == (400, ["MANIFEST_INVALID"])
    assert "has size 7" in refused.text


async def test_children_of_an_index_are_required_all_the_same(sparse: Settings) -> None:
    """They have a setting of their own."""
    client = serving(MemoryDriver(), sparse)
    refused = await client.put("v1", index(BUILT))
    assert (refused.status_code, codes(refused)) == (400, ["MANIFEST_BLOB_UNKNOWN"])


def test_the_rules_of_the_settings(tmp_path: Path) -> None:
    """`disabled` leaves the setting as it is."""
    assert validation_rules(settings_of(tmp_path, "")).layers
    for text in ("{manifests: {layers: NONE}}", "{disabled: true, manifests: {layers: none}}"):
        rules = validation_rules(settings_of(tmp_path, f"validation: {text}"))
        assert not rules.layers
        assert rules.platforms is None
    assert ValidationRules.sparse() == ValidationRules(platforms=frozenset(), layers=False)


async def test_a_collection_keeps_sparse_manifests_and_what_there_is_of_them(sparse: Settings) -> None:
    driver = MemoryDriver()
    client = serving(driver, sparse)
    await client.push_blob(LAYER)
    await client.push_blob(garbage := blob(size=50, seed=9))
    assert (await client.put("v1", BUILT)).status_code == 201
    report = await run(driver, AT_ONCE)
    assert (report.outcome, report.problem_count) == ("finished", 0)
    assert await driver.find(layout.blob_data(garbage.digest)) is None
    fresh = serving(driver, sparse)
    assert (await fresh.manifest("v1")).content == BUILT.data
    assert (await fresh.blob(LAYER)).content == LAYER.data


async def test_a_push_rescues_what_there_is_from_a_collection(sparse: Settings) -> None:
    """It need not be there, but a manifest whose layer was stored must not lose it."""
    driver = MemoryDriver()
    await serving(driver, sparse).push_blob(LAYER)
    steps = Run(driver)
    await steps.start()
    await steps.condemn(LAYER.digest)
    assert (await serving(driver, sparse).put("v1", BUILT)).status_code == 201
    assert await steps.rescued(LAYER.digest)


async def test_a_check_notes_what_is_absent(sparse: Settings, tmp_path: Path) -> None:
    """Without the setting, it is damage."""
    driver = MemoryDriver()
    assert (await serving(driver, sparse).put("v1", BUILT)).status_code == 201
    findings = await checked(driver, sparse)
    assert findings.kinds == {"content-absent"}
    assert len(findings.findings) == len(BUILT.blobs)
    assert (await checked(driver, settings_of(tmp_path, ""))).kinds == {"content-missing"}


def test_repositories_of_a_mirror_are_sparse(tmp_path: Path) -> None:
    """It stores a layer when it is pulled; local repositories beside it are whole."""
    mirror = "proxy: {upstreams: [{prefix: docker.io, remoteurl: 'https://registry-1.docker.io'}]}"
    is_sparse = is_sparse_in(settings_of(tmp_path, mirror))
    assert is_sparse(RepoName("docker.io/library/app"))
    assert not is_sparse(RepoName("team/app"))
    assert not is_sparse_in(settings_of(tmp_path, ""))(RepoName("docker.io/library/app"))


async def test_a_copy_has_sparse_manifests(sparse: Settings) -> None:
    """With their tags and what there is of them; what was lost at the source is a problem."""
    source, target = MemoryDriver(), MemoryDriver()
    client = serving(source, sparse)
    await client.push_blob(LAYER)
    assert (await client.put("v1", BUILT)).status_code == 201
    options = CopyOptions(is_sparse=is_sparse_in(sparse))
    await copied(source, target, options)
    served = serving(target, sparse)
    assert (await served.manifest("v1")).content == BUILT.data
    assert (await served.blob(LAYER)).content == LAYER.data
    assert (await served.blob(CONFIG)).status_code == 404

    strict = Recorder()
    await copied(source, MemoryDriver(), CopyOptions(), strict)
    assert any(str(CONFIG.digest) in text for _, text in strict.problems)
    await source.delete([layout.blob_data(LAYER.digest)])
    lost = Recorder()
    await copied(source, MemoryDriver(), options, lost)
    assert any(str(LAYER.digest) in text for _, text in lost.problems)


async def test_quotas_count_what_is_stored(sparse: Settings) -> None:
    driver = MemoryDriver()
    client = serving(driver, sparse)
    await client.push_blob(LAYER)
    assert (await client.put("v1", BUILT)).status_code == 201
    counted = await count(driver, [NAME], clock=time.time)
    amount = counted.amounts[NAME]
    assert (amount.bytes, amount.tags) == (LAYER.size + len(BUILT.data), 1)


async def test_retention_removes_sparse_manifests(tmp_path: Path) -> None:
    """As any other; and their tags."""
    settings = settings_of(
        tmp_path,
        "validation: {manifests: {layers: none}}\n"
        "retention: {enabled: true, untagged: {after: 1h}, rules: [{repositories: ['**'], keeplast: 1}]}",
    )
    driver = MemoryDriver()
    client = serving(driver, settings)
    other = image(blob(size=77, seed=5), seed=5)
    assert (await client.put("v1", BUILT)).status_code == 201
    assert (await client.put("v2", other)).status_code == 201
    summary = await apply_retention(driver, settings, dry_run=False)
    assert summary.tags == 1
    assert not summary.unreadable
    left = [tag for tag in ("v1", "v2") if await driver.find(layout.tag_link(RepoName(NAME), Tag(tag)))]
    assert len(left) == 1


# `validation.manifests.indexes`.

LISTED: Final = (
    "validation: {manifests: {indexes: {platforms: list, platformlist: [{architecture: arm64, os: linux}]}}}"
)


def entry_of(platform: object) -> dict[str, object]:
    """Return an entry of an index for a manifest that is not stored; None: without a platform."""
    return {**BUILT.entry, **({} if platform is None else {"platform": platform})}


@pytest.mark.parametrize(
    ("platform", "status", "code"),
    [
        (None, 201, None),
        ({}, 201, None),
        ({"architecture": "arm64"}, 201, None),
        ({"architecture": "amd64", "os": "linux"}, 201, None),
        ({"architecture": "arm64", "os": "linux", "variant": "v8"}, 400, "MANIFEST_BLOB_UNKNOWN"),
        ("linux/arm64", 400, "MANIFEST_INVALID"),
        ({"architecture": 64, "os": "linux"}, 400, "MANIFEST_INVALID"),
    ],
)
async def test_an_index_needs_images_of_listed_platforms(
    tmp_path: Path, platform: object, status: int, code: str | None
) -> None:
    """CNCF Distribution drops the connection at an entry without `platform` (a nil pointer)."""
    client = serving(MemoryDriver(), settings_of(tmp_path, LISTED))
    parent = index(extra={"manifests": [entry_of(platform)]})
    answer = await client.put("v1", parent)
    assert answer.status_code == status, answer.text
    assert codes(answer) == [code] if code else (await client.manifest("v1")).content == parent.data


@pytest.mark.parametrize(("platforms", "status"), [("all", 400), ("none", 201)])
async def test_an_index_needs_all_of_its_images_or_none(tmp_path: Path, platforms: str, status: int) -> None:
    text = f"validation: {{manifests: {{indexes: {{platforms: {platforms}}}}}}}"
    client = serving(MemoryDriver(), settings_of(tmp_path, text))
    answer = await client.put("v1", index(BUILT))
    assert answer.status_code == status
    if status == 201:
        assert (await client.manifest("v1")).status_code == 200
        missing = await client.manifest(BUILT)
        assert (missing.status_code, codes(missing)) == (404, ["MANIFEST_UNKNOWN"])
    else:
        assert codes(answer) == ["MANIFEST_BLOB_UNKNOWN"]

"""Images that leave one registry in a file and arrive in another one, whole and unchanged."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

import pytest
from tests.bundle.sites import export, imported, new_registry, pulled

from moorage.bundle.errors import BaseMissing, BundleInvalid, OutputFull, OutputRefused
from moorage.bundle.naming import ImportNames
from moorage.registry.validation import ValidationRules
from moorage.testing.builders import artifact, blob, image, index
from moorage.testing.registry_fixtures import push
from moorage.types import parse_repo_name

if TYPE_CHECKING:
    from pathlib import Path

    from moorage.registry.stored import StoredRegistry

APP = parse_repo_name("library/app")
BOTH = index(image(blob(size=3000, seed=1)), image(blob(size=2000, seed=2), platform="linux/arm64"))


async def test_all_platforms_and_referrers_arrive(
    here: StoredRegistry, there: StoredRegistry, tmp_path: Path
) -> None:
    """A signature that stays behind makes the image useless where a policy verifies it."""
    signature = artifact("application/vnd.example.sig", blob(size=50, seed=3), subject=BOTH)
    await push(here, BOTH, "1", "latest", name=APP)
    await push(here, signature, name=APP)
    result = await export(here, tmp_path / "b.tar", "library/app:1", "library/app:latest")
    assert result.paths == [tmp_path / "b.tar"]
    assert result.size == (tmp_path / "b.tar").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["b.tar"]  # noqa: ASYNC240  nothing else runs

    arrived = await imported(there, tmp_path / "b.tar")
    assert [(str(one.name), str(one.tag), one.tagged) for one in arrived.images] == [
        ("library/app", "1", True),
        ("library/app", "latest", True),
    ]
    for tag in ("1", "latest"):
        await pulled(there, "library/app", tag, BOTH)
    found = (await there.referrers.list(APP, BOTH.digest)).entries
    assert [entry.digest for entry in found] == [signature.digest]

    again = await imported(there, tmp_path / "b.tar")
    assert (again.counts.blobs, again.counts.manifests) == (0, 0)
    assert not any(one.tagged for one in again.images)


async def test_signatures_under_tags_of_cosign_arrive(
    here: StoredRegistry, there: StoredRegistry, tmp_path: Path
) -> None:
    """And content of another repository with the same image does not come along."""
    signature = image(blob(size=60, seed=8))
    tag = f"sha256-{BOTH.digest.hex}.sig"
    await push(here, BOTH, "1", name=APP)
    await push(here, signature, tag, name=APP)
    other = parse_repo_name("team/other")
    attached = artifact("application/vnd.example.sbom", blob(size=50, seed=9), subject=BOTH)
    await push(here, BOTH, "1", name=other)
    await push(here, attached, name=other)
    await export(here, tmp_path / "b.tar", "library/app:1", "team/other:1")
    await imported(there, tmp_path / "b.tar")
    await pulled(there, "library/app", tag, signature)
    assert (await there.referrers.list(APP, BOTH.digest)).entries == ()
    assert [entry.digest for entry in (await there.referrers.list(other, BOTH.digest)).entries] == [
        attached.digest
    ]


async def test_other_programs_can_read_the_tar_file(here: StoredRegistry, tmp_path: Path) -> None:
    """The file is an OCI layout; the same content is in it byte for byte each time."""
    long = image(blob(size=700, seed=4, algorithm="sha512"), algorithm="sha512")
    await push(here, BOTH, "1", name=APP)
    await push(here, long, "long", name=APP)
    for name in ("one.tar", "two.tar"):
        await export(here, tmp_path / name, "library/app:1", f"library/app@{long.digest}")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as archive:
        files = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        content = {name: file.read() for name, file in files.items() if file is not None}
    assert json.loads(content["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    for part in (*BOTH.closure, *long.closure):
        assert content[f"blobs/{part.digest.algorithm}/{part.digest.hex}"] == part.data
    entries = json.loads(content["index.json"])["manifests"]
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in entries] == [
        f"library/app@{long.digest}",
        "library/app:1",
    ]


async def test_a_tag_of_a_sha512_manifest_is_exported_by_its_digest(here: StoredRegistry, tmp_path: Path) -> None:
    long = image(blob(size=700, seed=4, algorithm="sha512"), algorithm="sha512")
    await push(here, long, "long", name=APP)
    result = await export(here, tmp_path / "b.tar", "library/app:long")
    assert [entry.digest for entry in result.contents.images] == [long.digest]


async def test_an_image_without_a_tag_is_imported_by_its_digest(
    here: StoredRegistry, there: StoredRegistry, tmp_path: Path
) -> None:
    await push(here, BOTH, name=APP)
    await export(here, tmp_path / "b.tar", f"library/app@{BOTH.digest}")
    arrived = await imported(there, tmp_path / "b.tar")
    assert [(one.tag, one.digest) for one in arrived.images] == [(None, BOTH.digest)]
    assert (await there.manifests.get(APP, BOTH.digest)).data == BOTH.data


async def test_one_platform_of_an_index(here: StoredRegistry, tmp_path: Path) -> None:
    """The index keeps its digest; the target must accept one of which not all platforms are there."""
    await push(here, BOTH, "1", name=APP)
    await export(here, tmp_path / "b.tar", "library/app:1", platforms=("linux/arm64",))
    sparse = new_registry(validation=ValidationRules(platforms=frozenset()))
    await imported(sparse, tmp_path / "b.tar")
    assert (await sparse.manifests.get(APP, BOTH.digest)).data == BOTH.data
    amd, arm = BOTH.manifests
    assert (await sparse.manifests.get(APP, arm.digest)).data == arm.data
    with tarfile.open(tmp_path / "b.tar") as archive:
        assert not any(amd.digest.hex in name for name in archive.getnames())


async def test_tags_that_differ_in_case_are_two_images(
    here: StoredRegistry, there: StoredRegistry, tmp_path: Path
) -> None:
    """Nothing of a bundle is ever a file name of its tags."""
    small, capital = image(seed=1), image(seed=2)
    await push(here, small, "v1", name=APP)
    await push(here, capital, "V1", name=APP)
    await export(here, tmp_path / "b.tar", "library/app:v1", "library/app:V1")
    await imported(there, tmp_path / "b.tar")
    await pulled(there, "library/app", "v1", small)
    await pulled(there, "library/app", "V1", capital)


async def test_volumes_are_pieces_of_the_whole(
    here: StoredRegistry, there: StoredRegistry, tmp_path: Path
) -> None:
    """`cat bundle.tar.*` gives the file that would have been written without volumes."""
    large = image(blob(size=300_000, seed=5))
    await push(here, large, "1", name=APP)
    whole = await export(here, tmp_path / "whole.tar", "library/app:1")
    parts = await export(here, tmp_path / "b.tar", "library/app:1", volume_bytes=65536)
    assert [path.name for path in parts.paths] == [f"b.tar.{number:03}" for number in range(1, 6)]
    joined = b"".join(path.read_bytes() for path in parts.paths)
    assert len(joined) == parts.size
    (tmp_path / "joined.tar").write_bytes(joined)
    assert {path.stat().st_size for path in parts.paths[:-1]} == {65536}
    assert whole.contents.content == parts.contents.content
    for name in ("b.tar", "b.tar.001", "b.tar.003", "joined.tar"):
        target = new_registry()
        await imported(target, tmp_path / name)
        await pulled(target, "library/app", "1", large)
    (tmp_path / "b.tar.002").unlink()
    with pytest.raises(BundleInvalid, match=r"b\.tar\.002 is missing; all volumes must be in the same folder"):
        await imported(there, tmp_path / "b.tar")


async def test_an_incremental_bundle_holds_only_what_is_new(
    here: StoredRegistry, there: StoredRegistry, tmp_path: Path
) -> None:
    """And it is refused, before anything is written, by a registry that lacks its base."""
    shared, new = blob(size=5000, seed=6), blob(size=100, seed=7)
    first, second = image(shared), image(shared, new)
    await push(here, first, "1", name=APP)
    base = await export(here, tmp_path / "first.tar", "library/app:1")
    await push(here, second, "2", name=parse_repo_name("team/other"))
    left_out = {item.digest: item.repositories for item in base.contents.content}
    from moorage.bundle.contents import BaseBundle

    await export(
        here, tmp_path / "second.tar", "team/other:2", left_out=left_out,
        base=BaseBundle("first.tar", base.contents.id),
    )  # fmt: skip
    assert (tmp_path / "second.tar").stat().st_size < (tmp_path / "first.tar").stat().st_size
    with pytest.raises(BaseMissing, match=r"import its base first\.tar") as refused:
        await imported(there, tmp_path / "second.tar")
    assert str(shared.digest) in str(refused.value)
    assert refused.value.missing == {shared.digest}
    assert (await there.repositories.list(limit=10)).names == ()
    await imported(there, tmp_path / "first.tar", names=ImportNames(prefix="site"))
    result = await imported(there, tmp_path / "second.tar", names=ImportNames(prefix="site"))
    await pulled(there, "site/team/other", "2", second)
    assert result.counts.blobs == 2  # the new layer and the config


async def test_an_existing_output_is_kept(here: StoredRegistry, tmp_path: Path) -> None:
    await push(here, BOTH, "1", name=APP)
    (tmp_path / "b.tar").write_text("precious")
    with pytest.raises(OutputRefused, match="exists; remove it, or name another output"):
        await export(here, tmp_path / "b.tar", "library/app:1")
    assert (tmp_path / "b.tar").read_text() == "precious"


async def test_space_is_checked_before_anything_is_written(
    here: StoredRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await push(here, BOTH, "1", name=APP)

    class Full:
        f_bavail = 1
        f_frsize = 4096

    monkeypatch.setattr("os.statvfs", lambda _: Full)
    with pytest.raises(OutputFull, match="has 4096 bytes of free space; the export needs"):
        await export(here, tmp_path / "b.tar", "library/app:1")
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240  nothing else runs

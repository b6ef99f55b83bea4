"""Bases of incremental bundles: bundles, their beginnings, layouts of other programs, lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.bundle.sites import export
from tests.bundle.test_hostile import files_of, tar_of

from moorage.bundle.errors import BundleError
from moorage.bundle.incremental import HaveListInvalid, blobs_of_bundle, blobs_of_list
from moorage.testing.builders import blob, image, index
from moorage.testing.registry_fixtures import push
from moorage.types import parse_repo_name

if TYPE_CHECKING:
    from pathlib import Path

    from moorage.registry.stored import StoredRegistry

APP = parse_repo_name("library/app")
APP_IMAGE = index(image(blob(size=30_000, seed=1)), image(seed=2, platform="linux/arm64"))
DIGESTS = {part.digest for part in APP_IMAGE.closure}


async def test_the_beginning_of_a_bundle_is_enough(here: StoredRegistry, tmp_path: Path) -> None:
    """The documentation promises it, since the whole bundle is on the other side."""
    await push(here, APP_IMAGE, "1", name=APP)
    result = await export(here, tmp_path / "b.tar", "library/app:1")
    blobs, base = await blobs_of_bundle(tmp_path / "b.tar")
    assert blobs == dict.fromkeys(DIGESTS, ("library/app",))
    assert (base.name, base.id) == ("b.tar", result.contents.id)
    (tmp_path / "beginning.tar").write_bytes((tmp_path / "b.tar").read_bytes()[:10_000])
    assert (await blobs_of_bundle(tmp_path / "beginning.tar"))[0] == blobs
    await export(here, tmp_path / "v.tar", "library/app:1", volume_bytes=65536)
    assert (await blobs_of_bundle(tmp_path / "v.tar"))[0] == blobs


async def test_what_a_base_left_out_is_left_out_again(here: StoredRegistry, tmp_path: Path) -> None:
    """The third bundle continues the second, which continues the first."""
    await push(here, APP_IMAGE, "1", name=APP)
    left_out = {APP_IMAGE.manifests[0].blobs[0].digest: ("site/app",)}
    await export(here, tmp_path / "b.tar", "library/app:1", left_out=left_out)
    blobs, _ = await blobs_of_bundle(tmp_path / "b.tar")
    assert blobs == dict.fromkeys(DIGESTS, ("library/app",)) | left_out


async def test_a_layout_of_another_program_is_a_base(tmp_path: Path) -> None:
    blobs, base = await blobs_of_bundle(tar_of(tmp_path / "b.tar", files_of(APP_IMAGE)))
    assert blobs == dict.fromkeys(DIGESTS, ("library/app",))
    assert base.id.startswith("sha256:")


async def test_an_archive_without_digests_is_no_base(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no oci-layout"):
        await blobs_of_bundle(tar_of(tmp_path / "d.tar", {"manifest.json": b"[]"}))
    with pytest.raises(BundleError, match=r"absent\.tar"):
        await blobs_of_bundle(tmp_path / "absent.tar")


def test_lists_of_digests(tmp_path: Path) -> None:
    """A digest may be on several lines, for several repositories."""
    one, two = sorted(DIGESTS)[:2]
    (tmp_path / "have").write_text(f"# all\n{one} a/b # first\n\n{two}\n{one} c d/e\n")
    assert blobs_of_list(tmp_path / "have") == {one: ("a/b", "c", "d/e"), two: ()}
    for text, match in (
        ("sha256:short", "line 1: expected a digest such as sha256:"),
        (f"{one} Upper/case", "line 1: expected a digest .* and the repositories that have it"),
        (f"{one}\n{one} a\nx", "line 3"),
    ):
        (tmp_path / "have").write_text(text)
        with pytest.raises(HaveListInvalid, match=match):
            blobs_of_list(tmp_path / "have")
    (tmp_path / "have").write_bytes(b"\xff")
    with pytest.raises(HaveListInvalid, match="is not UTF-8"):
        blobs_of_list(tmp_path / "have")

"""Files that are damaged, or made to do damage: refused with their cause, and nothing of them is stored."""

from __future__ import annotations

import io
import json
import os
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from tests.bundle.sites import export, imported, new_registry, pulled

from moorage.bundle.errors import BundleError, BundleInvalid, NameRefused
from moorage.bundle.naming import ImportNames
from moorage.errors import ManifestUnknown
from moorage.registry.validation import ValidationRules
from moorage.replication.errors import ReplicationError, SourceDamaged, TargetRefused
from moorage.testing.builders import blob, image, index
from moorage.testing.registry_fixtures import push
from moorage.types import parse_repo_name, parse_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from moorage.registry.stored import StoredRegistry
    from moorage.testing.builders import Built

APP = parse_repo_name("library/app")
APP_IMAGE = index(image(blob(size=3000, seed=1)), image(blob(size=4000, seed=2), platform="linux/arm64"))
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
REF_NAME = "org.opencontainers.image.ref.name"


def files_of(built: Built, name: str = "library/app:1") -> dict[str, bytes]:
    """An OCI layout of an image."""
    entries = [{**built.entry, "annotations": {REF_NAME: name}}]
    found = {
        "oci-layout": LAYOUT,
        "index.json": json.dumps({"schemaVersion": 2, "manifests": entries}).encode(),
    }
    return found | {f"blobs/{part.digest.algorithm}/{part.digest.hex}": part.data for part in built.closure}


def tar_of(path: Path, files: Mapping[str, bytes], *more: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in more:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return path


async def refused(path: Path, match: str, error: type[Exception] = BundleInvalid, **options: Any) -> None:
    """The file is refused, and nothing of it can be pulled."""
    target = new_registry()
    with pytest.raises(error, match=match) as raised:
        await imported(target, path, **options)
    assert "\n" not in str(raised.value)
    if error is SourceDamaged:  # platforms that are whole may be there; the image is not
        with pytest.raises(ManifestUnknown):
            await target.manifests.get(APP, parse_tag("1"))
    else:
        assert (await target.repositories.list(limit=10)).names == ()
    await target.close()


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = target
    return info


@pytest.mark.parametrize(
    ("added", "match"),
    [
        (member("../escape"), r"the member '../escape' is outside of the bundle"),
        (member("/etc/passwd"), r"the member '/etc/passwd' is outside of the bundle"),
        (member("blobs/../../x"), "is outside of the bundle"),
        (
            member("blobs/sha256/link", tarfile.SYMTYPE, "../../../etc/shadow"),
            "is a link to '../../../etc/shadow'",
        ),
        (member("blobs/sha256/link", tarfile.SYMTYPE, "/etc/shadow"), "outside of the bundle"),
        (member("blobs/sha256/link", tarfile.LNKTYPE, "index.json"), "has links, which no bundle needs"),
        (member("dev", tarfile.CHRTYPE), "is neither a file nor a folder"),
        (member("dev", tarfile.BLKTYPE), "is neither a file nor a folder"),
        (member("pipe", tarfile.FIFOTYPE), "is neither a file nor a folder"),
        (member("index.json"), "has 'index.json' twice"),
        (member("./index.json"), "has 'index.json' twice"),
        (member(f"blobs/sha256/{'A' * 64}"), "is no digest in lower case"),
        (member("blobs/sha256/short"), "is no digest in lower case"),
    ],
)
async def test_members_that_no_bundle_has(tmp_path: Path, added: tarfile.TarInfo, match: str) -> None:
    """The file is never unpacked, but the next program may unpack it."""
    await refused(tar_of(tmp_path / "b.tar", files_of(APP_IMAGE), added), match)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda files: files.pop("index.json"), "has no index.json"),
        (lambda files: files.pop("oci-layout"), "it has neither an oci-layout"),
        (lambda files: files.update({"oci-layout": b'{"imageLayoutVersion":"2.0.0"}'}), "not that of version 1"),
        (lambda files: files.update({"index.json": b"{"}), "index.json is not JSON"),
        (lambda files: files.update({"index.json": b"[" * 200_000}), "index.json is not JSON"),
        (lambda files: files.update({"index.json": b"[" + b"[]," * 600_000 + b"0]"}), "more than 500000"),
        (lambda files: files.update({"index.json": b"[]"}), "index.json has no list of manifests"),
        (lambda files: files.update({"index.json": b'{"manifests":[3]}'}), "no sha256 or sha512 digest"),
        (lambda files: files.update({"index.json": bytes(40 << 20)}), "index.json has 41943040 bytes; at most"),
        (lambda files: files.update({"index.json": b'{"manifests":[]}'}), "has no images"),
        (lambda files: files.update({"moorage.json": b"{}"}), "moorage.json cannot be read"),
        (lambda files: files.update({"moorage.json": b'{"format":9}'}), "has format 9 of moorage.json"),
    ],
)  # fmt: skip
async def test_documents_that_are_none(
    tmp_path: Path, change: Callable[[dict[str, bytes]], object], match: str
) -> None:
    files = files_of(APP_IMAGE)
    change(files)
    await refused(tar_of(tmp_path / "b.tar", files), match, BundleError)


async def test_a_truncated_file_is_refused_at_every_length(here: StoredRegistry, tmp_path: Path) -> None:
    await push(here, APP_IMAGE, "1", name=APP)
    result = await export(here, tmp_path / "whole.tar", "library/app:1")
    data = (tmp_path / "whole.tar").read_bytes()
    for length in {0, 1, 511, 512, 1000, 5000, result.size // 2, result.size - 1025, result.size - 1024}:
        (tmp_path / "b.tar").write_bytes(data[:length])
        await refused(tmp_path / "b.tar", "is truncated: it ends|is not a tar file")
    (tmp_path / "b.tar").write_bytes(data + b"beyond the end")
    await imported(here, tmp_path / "b.tar")


async def test_every_altered_byte_is_found(here: StoredRegistry, tmp_path: Path) -> None:
    """A bit that flipped on the way never becomes an image; most are found before anything is written."""
    await push(here, APP_IMAGE, "1", name=APP)
    await export(here, tmp_path / "whole.tar", "library/app:1")
    data = (tmp_path / "whole.tar").read_bytes()
    target = new_registry()
    refusals = 0
    for offset in range(100, len(data) - 1024, 97):
        altered = bytearray(data)
        altered[offset] ^= 0x10
        (tmp_path / "b.tar").write_bytes(altered)
        try:
            await imported(target, tmp_path / "b.tar")
        except ReplicationError:
            refusals += 1
            with pytest.raises(ManifestUnknown):
                await target.manifests.get(APP, parse_tag("1"))
        else:  # padding, or the mode of a file
            await pulled(target, "library/app", "1", APP_IMAGE)
            await target.close()
            target = new_registry()
    assert refusals > 50
    await target.close()


async def test_an_altered_layer_is_named(tmp_path: Path) -> None:
    files = files_of(APP_IMAGE)
    layer = APP_IMAGE.manifests[0].blobs[0]
    files[f"blobs/sha256/{layer.digest.hex}"] = bytes(layer.size)
    await refused(tar_of(tmp_path / "b.tar", files), str(layer.digest), SourceDamaged)
    files[f"blobs/sha256/{layer.digest.hex}"] = bytes(7)
    await refused(tar_of(tmp_path / "b.tar", files), f"{layer.digest} has 7 bytes, its manifest names 3000")


async def test_an_altered_manifest_is_named(tmp_path: Path) -> None:
    files = files_of(APP_IMAGE)
    manifest = APP_IMAGE.manifests[1]
    files[f"blobs/sha256/{manifest.digest.hex}"] = manifest.data + b" "
    await refused(tar_of(tmp_path / "b.tar", files), f"its {manifest.digest} does not have that digest")
    files[f"blobs/sha256/{manifest.digest.hex}"] = bytes((4 << 20) + 1)
    await refused(tar_of(tmp_path / "b.tar", files), "at most 4 MiB are read")


async def test_missing_content_is_named_before_anything_is_written(tmp_path: Path) -> None:
    files = files_of(APP_IMAGE)
    lost = [APP_IMAGE.manifests[0].blobs[0], APP_IMAGE.manifests[1].blobs[1]]
    for part in lost:
        del files[f"blobs/sha256/{part.digest.hex}"]
    expected = ", ".join(sorted(part.digest for part in lost))
    await refused(tar_of(tmp_path / "b.tar", files), f"content that it does not hold: {expected}. Nothing was")
    child = APP_IMAGE.manifests[0]
    del files[f"blobs/sha256/{child.digest.hex}"]
    await refused(tar_of(tmp_path / "b.tar", files), f"names {child.digest}, which is missing", ReplicationError)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("App:1", "'App:1' cannot be imported: invalid repository name: App"),
        ("library/App:1", "invalid repository name"),
        ("localhost:5000/app:1", "invalid repository name: .*; --strip-host removes the host"),
        ("app:-1", "invalid tag"),
        ("../x:1", "invalid repository name"),
    ],
)
async def test_names_that_are_none(tmp_path: Path, name: str, match: str) -> None:
    await refused(tar_of(tmp_path / "b.tar", files_of(APP_IMAGE, name)), match, NameRefused)


async def test_an_image_without_a_repository_needs_a_name(there: StoredRegistry, tmp_path: Path) -> None:
    """Skopeo writes only the tag if it is given only a tag."""
    path = tar_of(tmp_path / "b.tar", files_of(APP_IMAGE, "v1"))
    await refused(path, "the image of the tag 'v1' has no repository in the file; name one with --as", NameRefused)
    await imported(there, path, names=ImportNames(name="library/app"))
    await pulled(there, "library/app", "v1", APP_IMAGE)
    await imported(there, path, names=ImportNames(name="library/app", tag="2"))
    await pulled(there, "library/app", "2", APP_IMAGE)


async def test_two_images_for_one_tag_are_refused(tmp_path: Path) -> None:
    one, two = image(seed=1), image(seed=2)
    files = files_of(one) | files_of(two)
    for names, match in (
        (("library/app:1", "library/app:1"), "has two images named library/app:1"),
        (("docker.io/app:1", "quay.io/app:1"), "would both become app:1"),
    ):
        entries = [
            {**built.entry, "annotations": {REF_NAME: name}} for built, name in zip((one, two), names, strict=True)
        ]
        files["index.json"] = json.dumps({"manifests": entries}).encode()
        path = tar_of(tmp_path / "b.tar", files)
        await refused(path, match, BundleError, names=ImportNames(strip_host=True))


async def test_the_index_and_the_contents_of_a_bundle_agree(here: StoredRegistry, tmp_path: Path) -> None:
    await push(here, APP_IMAGE, "1", name=APP)
    await export(here, tmp_path / "whole.tar", "library/app:1")
    with tarfile.open(tmp_path / "whole.tar") as archive:
        files = {each.name: archive.extractfile(each) for each in archive if each.isfile()}
        content = {name: file.read() for name, file in files.items() if file is not None}
    content["index.json"] = content["index.json"].replace(b"library/app:1", b"library/app:2")
    await refused(tar_of(tmp_path / "b.tar", content), "index.json and moorage.json disagree")


async def test_extension_headers_are_bounded(tmp_path: Path) -> None:
    """A name of a gigabyte would be read into memory."""
    info = tarfile.TarInfo("././@PaxHeader")
    info.type = tarfile.XHDTYPE
    info.size = 1 << 31
    (tmp_path / "b.tar").write_bytes(info.tobuf() + bytes(1024))
    await refused(tmp_path / "b.tar", "has an extension header of 2147483648 bytes; at most 1 MiB is read")
    for record in (b"9999 path=x\n", b"x path=y\n", b"3 a\n", b"-1 path=x\n"):
        info.size = len(record)
        (tmp_path / "b.tar").write_bytes(
            info.tobuf() + record.ljust(512, b"\0") + member("a").tobuf() + bytes(1024)
        )
        await refused(tmp_path / "b.tar", "has an extension header that cannot be read")
    for key, match in ((b"size=-5", "is not a number of bytes"), (b"GNU.sparse.major=1", "is a sparse file")):
        record = b"%d %s\n" % (len(key) + 4, key)
        info.size = len(record)
        (tmp_path / "b.tar").write_bytes(
            info.tobuf() + record.ljust(512, b"\0") + member("a").tobuf() + bytes(1024)
        )
        await refused(tmp_path / "b.tar", match)


async def test_files_that_are_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a bundle" * 100)
    await refused(tmp_path / "text", "is not a tar file; a compressed one must be decompressed first")
    (tmp_path / "empty").mkdir()
    await refused(tmp_path / "empty", "is no bundle")
    await refused(tmp_path / "absent", "there is no file", BundleError)
    os.mkfifo(tmp_path / "pipe")
    await refused(tmp_path / "pipe", "is not a file")
    (tmp_path / "u.tar.partial").write_text("")
    await refused(tmp_path / "u.tar", r"the export to .*u\.tar was not finished; run it again", BundleError)


async def test_layouts_of_docker_25_and_containerd(there: StoredRegistry, tmp_path: Path) -> None:
    """They name an image with its host, beside the tag alone, and Docker adds the files of older versions."""
    files = files_of(APP_IMAGE)
    entries = [
        {
            **APP_IMAGE.entry,
            "annotations": {"io.containerd.image.name": f"docker.io/library/app:{tag}", REF_NAME: tag},
        }
        for tag in ("1", "2")
    ]
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    path = tar_of(tmp_path / "b.tar", {**files, "manifest.json": b"[]", "repositories": b"{}"})
    await imported(there, path, names=ImportNames(strip_host=True))
    for tag in ("1", "2"):
        await pulled(there, "library/app", tag, APP_IMAGE)
    arrived = await imported(there, path)
    assert [str(one.name) for one in arrived.images] == ["docker.io/library/app"] * 2


async def test_a_layout_with_one_platform_of_an_index(there: StoredRegistry, tmp_path: Path) -> None:
    """`ctr images export` of what was pulled for one platform."""
    files = files_of(APP_IMAGE)
    amd, arm = APP_IMAGE.manifests
    for part in (arm, *arm.blobs):
        del files[f"blobs/sha256/{part.digest.hex}"]
    path = tar_of(tmp_path / "b.tar", files)
    await refused(path, f"names {arm.digest}, which is missing there", ReplicationError)
    with pytest.raises(TargetRefused, match=r"validation\.manifests\.indexes"):
        await imported(there, path, platforms=("linux/amd64",))
    sparse = new_registry(validation=ValidationRules(platforms=frozenset()))
    await imported(sparse, path, platforms=("linux/amd64",))
    assert (await sparse.manifests.get(APP, parse_tag("1"))).digest == APP_IMAGE.digest
    assert (await sparse.manifests.get(APP, amd.digest)).data == amd.data


async def test_a_directory_is_read_as_a_tar_file_is(there: StoredRegistry, tmp_path: Path) -> None:
    """Skopeo's `oci:` directories; a link in one is not followed."""
    for name, data in files_of(APP_IMAGE).items():
        path = tmp_path / "layout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    await imported(there, tmp_path / "layout")
    await pulled(there, "library/app", "1", APP_IMAGE)
    layer = tmp_path / "layout" / "blobs" / "sha256" / APP_IMAGE.manifests[0].blobs[0].digest.hex
    layer.rename(tmp_path / "elsewhere")
    layer.symlink_to(tmp_path / "elsewhere")
    await refused(tmp_path / "layout", "content that it does not hold")

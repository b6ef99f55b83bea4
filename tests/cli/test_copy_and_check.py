"""`moorage storage copy` and `moorage storage check` as they are typed: files, variables, exit status, signals."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from typing import TYPE_CHECKING, Final

import pytest
from tests.interop.volumes import fill, show
from tests.live import start_moorage, start_reference
from tests.s3 import a_bucket
from tests.wire import Wire

from moorage.registry import layout
from moorage.testing.builders import blob
from moorage.types import Digest, RepoName, Tag

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = RepoName("team/app")

# A shell's job in the background ignores Ctrl-C, and so does what it starts.
_MAIN: Final = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from moorage.cli import main; main()"
)


def config(path: Path, storage: Mapping[str, object]) -> Path:
    # JSON is YAML.
    path.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": "127.0.0.1:0"}}))
    return path


def files(path: Path, root: Path) -> Path:
    return config(path, {"filesystem": {"rootdirectory": str(root)}})


_SLOW_DISK: Final = "import os, time; real = os.fsync; os.fsync = lambda fd: (time.sleep(0.05), real(fd)); "
"""So that a copy does not end before the test has seen its beginning, on any machine."""


def started(*arguments: str | Path, code: str = _MAIN, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, "storage", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def run(*arguments: str | Path, **environment: str) -> tuple[int, str, str]:
    process = started(*arguments, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def volume(root: Path, *images: tuple[str, list[bytes]]) -> None:
    """A directory as a registry leaves it, without one."""
    for tag, layers in images:
        config_data = b'{"image": "%s"}' % tag.encode()
        entries = [
            {"mediaType": "application/octet-stream", "digest": str(Digest.of(data)), "size": len(data)}
            for data in (config_data, *layers)
        ]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": entries[0],
                "layers": entries[1:],
            }
        ).encode()
        digest = Digest.of(manifest)
        objects: dict[str, bytes] = {layout.blob_data(digest): manifest}
        for data in (config_data, *layers):
            objects[layout.blob_data(Digest.of(data))] = data
            objects[layout.layer_link(NAME, Digest.of(data))] = str(Digest.of(data)).encode()
        for key in (
            layout.revision_link(NAME, digest),
            layout.tag_link(NAME, Tag(tag)),
            layout.tag_history_link(NAME, Tag(tag), digest),
        ):
            objects[key] = str(digest).encode()
        for name, data in objects.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_copy_reports_its_totals_and_a_second_one_finds_nothing_to_do(tmp_path: Path) -> None:
    volume(tmp_path / "old", ("v1", [b"a layer"]), ("v2", [b"another"]))
    old, new = files(tmp_path / "old.yml", tmp_path / "old"), files(tmp_path / "new.yml", tmp_path / "new")
    status, out, err = run("copy", "--from", old, "--to", new)
    assert status == 0
    assert re.fullmatch(r"copying\ncopying: .* of .* in [0-9.]+ s; 6 copied, 0 there, 1 repositories\n", err), err
    assert out.startswith("1 repository: copied 6 blobs ("), out
    assert "4 links, 2 manifests, 2 tags; already present: 0 blobs (0 B)" in out
    assert tree(tmp_path / "new") == tree(tmp_path / "old")
    status, out, err = run("copy", "--from", old, "--to", new, "--quiet")
    assert (status, err) == (0, "")
    assert out.startswith(
        "1 repository: copied 0 blobs (0 B), 0 links, 0 manifests, 0 tags; already present: 6 blobs ("
    )


@pytest.mark.slow
def test_variables_apply_to_the_side_that_they_name(tmp_path: Path) -> None:
    """With two configurations, REGISTRY_STORAGE_... could mean either; the secret keys of both come this way."""
    volume(tmp_path / "old", ("v1", [b"a layer"]))
    wrong = files(tmp_path / "wrong.yml", tmp_path / "nowhere")
    with a_bucket() as bucket:
        settings = bucket.settings()
        secret = settings.pop("secretkey")
        to = config(tmp_path / "to.yml", {"s3": {**settings, "secretkey": "wrong"}})
        status, out, err = run(
            "copy", "--from", wrong, "--to", to,
            FROM_REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=str(tmp_path / "old"),
            TO_REGISTRY_STORAGE_S3_SECRETKEY=secret,
            REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=str(tmp_path / "ignored"),
        )  # fmt: skip
        assert status == 0, err
        assert out.startswith("1 repository: copied 3 blobs")
        assert bucket.keys().keys() == tree(tmp_path / "old").keys()
    assert not (tmp_path / "ignored").exists()


@pytest.mark.slow
def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    one = files(tmp_path / "one.yml", tmp_path / "data")
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    same = files(tmp_path / "same.yml", tmp_path / "link")
    other = files(tmp_path / "other.yml", tmp_path / "other")
    memory = config(tmp_path / "memory.yml", {"inmemory": {}})
    for arguments, expected, text in (
        (("--from", one, "--to", same), 2, "it is the same store as --from"),
        (("--from", one, "--to", other, "--all-blobs", "--repository", "a"), 2, "--all-blobs"),
        (("--from", one, "--to", other, "--concurrency", "0"), 2, "--concurrency"),
        (("--from", memory, "--to", other), 1, "storage.inmemory is the memory of one process"),
        (("--from", one, "--to", tmp_path / "absent.yml"), 1, "no such file"),
        (("--from", one), 2, "--to"),
    ):
        status, out, err = run("copy", *arguments)
        assert (status, out) == (expected, ""), err
        assert text in err
        assert "Traceback" not in err
    assert run("check", memory)[:2] == (1, "")


@pytest.mark.slow
def test_damage_at_the_source_gives_status_1_and_the_rest_is_copied(tmp_path: Path) -> None:
    volume(tmp_path / "old", ("bad", [b"a layer"]), ("good", [b"another"]))
    (tmp_path / "old" / layout.blob_data(Digest.of(b"a layer"))).write_bytes(b"a lager")
    old, new = files(tmp_path / "old.yml", tmp_path / "old"), files(tmp_path / "new.yml", tmp_path / "new")
    status, out, err = run("copy", "--from", old, "--to", new, "-q")
    assert status == 1
    assert f"error: {Digest.of(b'a layer')}: its bytes in the source are not those of its digest\n" in err
    assert "error: team/app:bad: left out" in err
    assert "3 problems, listed above" in out
    assert (tmp_path / "new" / layout.tag_link(NAME, Tag("good"))).exists()
    assert not (tmp_path / "new" / layout.tag_link(NAME, Tag("bad"))).exists()


@pytest.mark.slow
@pytest.mark.fault
def test_killed_at_any_moment_and_run_again_the_copy_is_whole(tmp_path: Path) -> None:
    """Nothing is kept beside the stores themselves, so nothing can be out of step with them."""
    images = [(f"v{number}", [blob(size=2 << 20, seed=number).data]) for number in range(20)]
    volume(tmp_path / "old", *images)
    old, new = files(tmp_path / "old.yml", tmp_path / "old"), files(tmp_path / "new.yml", tmp_path / "new")
    for expected in (1, 5, 12):
        process = started("copy", "--from", old, "--to", new, "--concurrency", "1", "-q", code=_SLOW_DISK + _MAIN)
        while process.poll() is None and len(list((tmp_path / "new").rglob("data"))) < expected:
            pass
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        status, out, err = run("check", "--digests", new, "-q")
        assert status == 0, f"what is there must be whole: {out}{err}"
    status, _, err = run("copy", "--from", old, "--to", new, "-q")
    assert status == 0, err
    there = {name: data for name, data in tree(tmp_path / "new").items() if not name.endswith(".tmp")}
    assert there == tree(tmp_path / "old")


@pytest.mark.slow
@pytest.mark.fault
def test_an_interrupted_copy_reports_it_and_leaves_no_half_files(tmp_path: Path) -> None:
    volume(tmp_path / "old", *((f"v{number}", [blob(size=1 << 16, seed=number).data]) for number in range(20)))
    old, new = files(tmp_path / "old.yml", tmp_path / "old"), files(tmp_path / "new.yml", tmp_path / "new")
    process = started("copy", "--from", old, "--to", new, "--concurrency", "1", "-q", code=_SLOW_DISK + _MAIN)
    while process.poll() is None and not list((tmp_path / "new").rglob("data")):
        pass
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted; run the same command again to continue\n")
    assert not list((tmp_path / "new").rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.reference
def test_a_volume_of_the_old_registry_is_clean_and_moves(tmp_path: Path) -> None:
    """From the old registry's directory to a bucket, served from there by us; and back to a directory for it."""
    with start_reference(tmp_path / "old") as reference:
        fill(reference, tmp_path)
        shown = show(reference)
    old, back = files(tmp_path / "old.yml", tmp_path / "old"), files(tmp_path / "back.yml", tmp_path / "back")
    status, out, err = run("check", "--digests", "--notes", old, "-q")
    assert status == 0, out + err
    assert out.splitlines()[-1] == "0 errors, 0 warnings, 0 notes"
    with a_bucket() as bucket:
        settings = bucket.settings()
        bucket_config = config(tmp_path / "bucket.yml", {"s3": settings})
        assert run("copy", "--from", old, "--to", bucket_config, "-q")[0] == 0
        status, out, err = run("check", "--digests", bucket_config, "-q")
        assert status == 0, out + err
        with start_moorage(
            tmp_path / "unused", storage={"filesystem": None, "s3": settings, "redirect": {"disable": True}}
        ) as moorage:
            assert show(moorage) == shown
        assert run("copy", "--from", bucket_config, "--to", back, "-q")[0] == 0
    with start_reference(tmp_path / "back") as reference:
        assert show(reference) == shown


@pytest.mark.slow
@pytest.mark.reference
def test_deletions_by_the_old_registry_are_no_damage(tmp_path: Path) -> None:
    """It leaves directories and histories behind."""
    with start_reference(tmp_path / "old") as reference:
        wire = Wire(reference.host)
        manifest = wire.push_image("team/app", "v1", [b"a layer"])
        wire.push_image("team/app", "v2", [b"another"])
        assert wire.delete_manifest("team/app", Digest.of(manifest)).status == 202
    status, out, err = run("check", "--notes", files(tmp_path / "old.yml", tmp_path / "old"), "-q")
    assert status == 0, out + err
    assert out.splitlines()[-1] == "0 errors, 0 warnings, 0 notes"


@pytest.mark.slow
def test_a_source_that_is_being_pushed_to(tmp_path: Path) -> None:
    """The copy sees some of it, and whole; one more run, after the last push, sees all."""
    old, new = files(tmp_path / "from.yml", tmp_path / "old"), files(tmp_path / "to.yml", tmp_path / "new")
    enough = threading.Event()
    pushed: dict[str, bytes] = {}
    with start_moorage(tmp_path / "old") as source, start_moorage(tmp_path / "new") as target:

        def push() -> None:
            wire, number = Wire(source.host), 0
            while not enough.is_set():
                tag = f"v{number % 7}"
                pushed[tag] = wire.push_image("team/app", tag, [b"layer %d" % number, b"x" * 50_000])
                number += 1

        pusher = threading.Thread(target=push)
        pusher.start()
        try:
            for _ in range(3):
                status, _, err = run("copy", "--from", old, "--to", new, "-q")
                assert status == 0, err
                status, out, err = run("check", "--digests", new, "-q")
                assert status == 0, out + err
        finally:
            enough.set()
            pusher.join(60)
        status, _, err = run("copy", "--from", old, "--to", new, "-q")
        assert status == 0, err
        wire = Wire(target.host)
        for tag, manifest in pushed.items():
            assert wire.manifest("team/app", tag).body == manifest
    for kept in ("old", "new"):
        status, out, err = run("check", "--digests", files(tmp_path / "x.yml", tmp_path / kept), "-q")
        assert status == 0, out + err


@pytest.mark.slow
def test_a_check_reports_repairs_and_is_clean_the_next_time(tmp_path: Path) -> None:
    volume(tmp_path / "data", ("v1", [b"a layer"]))
    path = files(tmp_path / "config.yml", tmp_path / "data")
    link = layout.layer_link(NAME, Digest.of(b"a layer"))
    (tmp_path / "data" / link).write_bytes(b"")
    leftover = tmp_path / "data" / layout.ROOT / f"link.{uuid.UUID(int=1)}.tmp"
    leftover.touch()
    os.utime(leftover, (0, 0))
    status, out, err = run("check", path)
    assert status == 1
    ended = ["objects listed: 8 in", "repositories: 1 of 1 in", "leftovers: 1 in"]
    assert [line.partition(" in ")[0] + " in" for line in err.splitlines() if " in " in line] == ended, err
    leftover.unlink()
    status, out, err = run("check", path, "-q")
    assert (status, err) == (1, "")
    first, counted, counts = out.splitlines()
    assert first == (
        f"error: {link}: layer-torn: the link holds no digest; "
        "clients: the blob is unknown in this repository; repair: writes the link, or removes it"
    )
    assert counted.startswith("1 repository, 3 blobs (")
    assert counts == "1 error, 0 warnings, 0 notes"
    status, out, _ = run("check", "--repair", path, "-q")
    assert status == 0
    assert out.startswith(f"repaired: {link}: layer-torn: ")
    assert out.endswith("0 errors, 0 warnings, 0 notes, 1 repaired\n")
    assert run("check", path, "-q")[0] == 0


@pytest.mark.slow
def test_a_check_for_machines(tmp_path: Path) -> None:
    volume(tmp_path / "data", ("v1", [b"a layer"]))
    blob_key = layout.blob_data(Digest.of(b"a layer"))
    (tmp_path / "data" / blob_key).write_bytes(b"a lager")
    status, out, err = run("check", "--digests", "--json", files(tmp_path / "config.yml", tmp_path / "data"), "-q")
    assert (status, err) == (1, "")
    finding, summary = map(json.loads, out.splitlines())
    assert (finding["severity"], finding["kind"], finding["key"]) == ("error", "blob-corrupt", blob_key)
    assert finding["outcome"] == "found"
    assert finding["repair"] == ""
    assert summary["summary"]["blobs"] == 3
    assert summary["summary"]["errors"] == 1


@pytest.mark.slow
def test_a_store_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with a_bucket() as bucket:
        path = config(tmp_path / "config.yml", {"s3": bucket.settings(bucket="there-is-no-such-bucket")})
        status, out, err = run("check", path, "-q")
    assert (status, out) == (1, "")
    assert err.startswith("stopped: ")
    assert "Traceback" not in err

"""`moorage copy`: what a user sees, and when scripts may go on."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.live import require, start_moorage, start_reference
from tests.upstream.faulty import FaultyRegistry, Gate

from moorage import extras
from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Run
    from tests.live import Live

PLAIN = ("--plain-http", "-q")
LAYER = bytes(range(256)) * 800


@pytest.fixture(scope="module")
def source() -> Iterator[FaultyRegistry]:
    with FaultyRegistry().in_thread() as registry:
        image = registry.add_image("lib/app", "1.0", [LAYER, b"second"])
        registry.add_image("lib/app", "2.0", [LAYER, b"third"])
        registry.add_index("lib/app", "multi", {"linux/amd64": image})
        yield registry


@pytest.fixture(autouse=True)
def _healthy(source: FaultyRegistry) -> None:
    source.recover()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with start_moorage(tmp_path_factory.mktemp("target") / "data", http={"workers": 1}) as live:
        yield live


def raw(reference: str) -> bytes:
    """The manifest as skopeo gets it."""
    command = [require("skopeo"), "inspect", "--raw", "--tls-verify=false", f"docker://{reference}"]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


def test_the_digest_that_skopeo_gets_is_unchanged(run: Run, source: FaultyRegistry, target: Live) -> None:
    result = run("copy", *PLAIN, f"{source.host}/lib/app:multi", f"{target.host}/copied/app")
    digest = source.tags_of("lib/app")["multi"]
    first, last = result.stdout.splitlines()
    assert (result.returncode, last) == (0, digest)
    assert first.startswith(f"copied {source.host}/lib/app:multi to {target.host}/copied/app:multi: 3 blobs (")
    assert Digest.of(raw(f"{target.host}/copied/app:multi")) == digest
    again = run("copy", *PLAIN, f"{source.host}/lib/app:multi", f"{target.host}/copied/app")
    assert again.stdout == f"{target.host}/copied/app:multi is up to date: {digest}\n"


def test_a_tag_that_is_replaced_is_named(run: Run, source: FaultyRegistry, target: Live) -> None:
    for tag in ("1.0", "2.0"):
        result = run("copy", *PLAIN, f"{source.host}/lib/app:{tag}", f"{target.host}/replaced/app:stable")
    assert f"replaced {source.tags_of('lib/app')['1.0']}\n" in result.stdout


def test_a_digest_gets_no_tag(run: Run, source: FaultyRegistry, target: Live) -> None:
    digest = source.tags_of("lib/app")["1.0"]
    result = run("copy", *PLAIN, f"{source.host}/lib/app@{digest}", f"{target.host}/bydigest/app")
    assert f"to {target.host}/bydigest/app@{digest}: " in result.stdout
    assert Digest.of(raw(f"{target.host}/bydigest/app@{digest}")) == digest


def test_all_tags(run: Run, source: FaultyRegistry, target: Live) -> None:
    result = run("copy", *PLAIN, "--all-tags", f"{source.host}/lib/app", f"{target.host}/all/app")
    *rows, total = result.stdout.splitlines()
    assert (result.returncode, len(rows)) == (0, 3)
    assert all(row.startswith("copied ") for row in rows)
    assert total.startswith("3 copied, 0 present; ")
    assert "present" in run("copy", *PLAIN, "-a", f"{source.host}/lib/app", f"{target.host}/all/app").stdout


def test_a_dry_run_stores_nothing(run: Run, source: FaultyRegistry, target: Live) -> None:
    for _ in range(2):
        result = run("copy", *PLAIN, "--dry-run", f"{source.host}/lib/app:1.0", f"{target.host}/dry/app")
        assert result.stdout.startswith("would copy ")
        assert "3 blobs" in result.stdout


def test_the_store_of_a_configuration_is_source_and_target(
    run: Run, source: FaultyRegistry, target: Live, tmp_path: Path
) -> None:
    """Without a server, or beside the one that serves it."""
    config = target.root.with_name("data.yml")
    result = run("copy", *PLAIN, "--config", config, f"{source.host}/lib/app:1.0", "store:local/app")
    assert result.stdout.startswith(f"copied {source.host}/lib/app:1.0 to store:local/app:1.0: ")
    digest = source.tags_of("lib/app")["1.0"]
    assert Digest.of(raw(f"{target.host}/local/app:1.0")) == digest
    back = run("copy", *PLAIN, "--config", config, "store:local/app:1.0", f"{source.host}/back/app")
    assert back.returncode == 0
    assert source.tags_of("back/app")["1.0"] == digest
    promoted = run("copy", *PLAIN, "--config", config, "store:local/app:1.0", "store:prod/app")
    assert "3 mounted" in promoted.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a.test/Lib/app:1", "b.test/app"), "'a.test/Lib/app:1' is not an image name"),
        (("a.test/app:1", "b.test/app:"), "is not an image name"),
        (
            ("http://a.test/app:1", "b.test/app"),
            "an image name has no scheme; write a.test/app:1 with --plain-http",
        ),
        (("docker://a.test/app:1", "b.test/app"), "an image name has no scheme; write a.test/app:1 alone"),
        (("a.test/app:1", f"b.test/app@sha256:{'0' * 64}"), "a target is named by a tag"),
        (("a.test/app:1", "a.test/app"), "it is the same image as SRC"),
        (("a.test/app", "a.test/app:latest"), "it is the same image as SRC"),
        (("--all-tags", "a.test/app:1", "b.test/app"), "it is a repository without a tag"),
        (("--platform", "amd64", "a.test/app:1", "b.test/app"), "such as linux/amd64"),
        (("store:App:1", "b.test/app"), "'store:App:1' is not an image of the store"),
        (("--config", "c.yml", "a.test/app:1", "b.test/app"), "it is used by store:NAME:TAG only"),
        (("a.test/app:1",), "Missing argument 'DST'"),
    ],
)
def test_mistakes_on_the_command_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    result = run("copy", *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    assert message in " ".join(result.stderr.split())


def test_what_is_missing_is_one_line(run: Run, source: FaultyRegistry, target: Live) -> None:
    result = run("copy", *PLAIN, f"{source.host}/lib/app:9", f"{target.host}/app")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"error: {source.host} has no lib/app:9\n"
    result = run("copy", *PLAIN, "--platform", "linux/s390x", f"{source.host}/lib/app:1.0", f"{target.host}/app")
    assert result.stderr == f"error: {source.host}: lib/app:1.0 has no image for linux/s390x; it has linux/amd64\n"


@pytest.mark.slow
def test_a_registry_of_plain_http_is_explained(run: Run, target: Live) -> None:
    result = run("copy", "-q", f"{target.host}/lib/app:1.0", f"{target.host}/app")
    assert result.returncode == 1
    assert result.stderr.endswith("; --plain-http reaches it without TLS\n")


def test_a_missing_library_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the extra starts and serves; only what needs it is refused."""
    monkeypatch.setattr(extras, "_can_be_imported", lambda name: name != "aiohttp")
    result = run("copy", "-q", "a.test/app:1", "b.test/app")
    assert result.returncode == 1
    assert "access to a.test needs the extra moorage[mirror], which is not installed (no aiohttp)" in result.stderr


def test_a_login_is_asked_for(run: Run, target: Live, tmp_path: Path) -> None:
    """And its credentials are those of docker login, which never appear in messages."""
    with FaultyRegistry(basic=("user", "secret-word")).in_thread() as private:
        private.add_image("lib/app", "1.0", [b"private"])
        names = (f"{private.host}/lib/app:1.0", f"{target.host}/private/app")
        file = tmp_path / "config.json"
        file.write_text("{}")
        result = run("copy", *PLAIN, "--authfile", file, *names)
        assert result.returncode == 1
        assert result.stderr.endswith(f"; log in with: docker login {private.host}\n")
        for password, status in (("wrong-word", 1), ("secret-word", 0)):
            encoded = base64.b64encode(f"user:{password}".encode()).decode()
            file.write_text(json.dumps({"auths": {private.host: {"auth": encoded}}}))
            result = run("copy", *PLAIN, "--authfile", file, *names)
            assert result.returncode == status, result.stderr
            assert ("the password may be wrong" in result.stderr) == (status == 1)
            assert password not in result.stdout + result.stderr


def test_a_cut_layer_is_continued_by_range(run: Run, source: FaultyRegistry, target: Live) -> None:
    layer = Digest.of(LAYER)
    source.fail(f"/blobs/{layer}", method="GET", cut_after=50_000, times=1)
    result = run("copy", *PLAIN, f"{source.host}/lib/app:1.0", f"{target.host}/cut/app")
    assert result.returncode == 0
    ranges = [
        request.headers.get("range")
        for request in source.received
        if request.method == "GET" and request.path.endswith(layer)
    ]
    assert ranges[-1] is not None
    assert ranges[-1].startswith("bytes=")


def test_a_corrupt_layer_is_refused(run: Run, source: FaultyRegistry, target: Live) -> None:
    layer = Digest.of(LAYER)
    source.fail(f"/blobs/{layer}", method="GET", corrupt_at=1000)
    result = run("copy", *PLAIN, f"{source.host}/lib/app:1.0", f"{target.host}/corrupt/app")
    assert result.returncode == 1
    assert f"lib/app@{layer}" in result.stderr
    assert "nothing was stored of it" in result.stderr
    source.recover()
    assert run("copy", *PLAIN, f"{source.host}/lib/app:1.0", f"{target.host}/corrupt/app").returncode == 0


@pytest.mark.slow
def test_a_copy_that_is_terminated_leaves_nothing_torn(source: FaultyRegistry, target: Live) -> None:
    """The next copy continues; docker stop and systemd send SIGTERM."""
    gate = Gate()
    source.fail(f"/blobs/{Digest.of(LAYER)}", method="GET", hold=gate, hold_at=100_000)
    arguments = ["copy", *PLAIN, f"{source.host}/lib/app:1.0", f"{target.host}/term/app"]
    moorage = Path(sys.executable).with_name("moorage")
    with subprocess.Popen([moorage, *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert gate.reached.wait(30)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    gate.release()
    source.recover()
    assert process.returncode == 143
    assert errors == "terminated; what was copied stays; run the same command again to continue\n"
    again = subprocess.run([moorage, *arguments], capture_output=True, text=True, timeout=60, check=True)
    assert "copied" in again.stdout


@pytest.mark.slow
@pytest.mark.client
def test_an_image_goes_to_the_reference_and_back_by_skopeo(
    run: Run, source: FaultyRegistry, target: Live, tmp_path: Path
) -> None:
    """Either of the two finds in a registry what the other has put there."""
    with start_reference(tmp_path / "reference") as reference:
        result = run("copy", *PLAIN, f"{source.host}/lib/app:multi", f"{reference.host}/sk/app")
        assert result.returncode == 0
        skopeo = [
            require("skopeo"),
            "copy",
            "--all",
            "--preserve-digests",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
        ]
        names = (f"docker://{reference.host}/sk/app:multi", f"docker://{target.host}/sk/app:multi")
        subprocess.run([*skopeo, *names], check=True, capture_output=True, timeout=60)
        result = run("copy", *PLAIN, f"{target.host}/sk/app:multi", f"{reference.host}/back/app")
        assert result.returncode == 0
        assert Digest.of(raw(f"{reference.host}/back/app:multi")) == source.tags_of("lib/app")["multi"]

"""`moorage storage`: an old volume's referrers become listable."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from moorage.registry import layout
from moorage.registry.media import OCI_MANIFEST
from moorage.types import Digest, RepoName

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run

NAME = RepoName("old/app")


def _config(tmp_path: Path, root: Path) -> Path:
    config = tmp_path / "config.yml"
    config.write_text(
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n"
    )
    return config


def _rebuild(config: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-c",
        "from moorage.cli import main; main()",
        "storage",
        "rebuild-referrers",
        str(config),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_referrers_of_an_old_volume_get_their_links_once(tmp_path: Path) -> None:
    """Signatures pushed to the old registry must be found after the move."""
    subject = Digest.of(b"an image")
    descriptor = {"mediaType": OCI_MANIFEST, "digest": str(subject), "size": 8}
    data = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor, "layers": [], "subject": descriptor}
    ).encode()
    digest = Digest.of(data)
    for key, content in (
        (layout.blob_data(digest), data),
        (layout.revision_link(NAME, digest), str(digest).encode()),
    ):
        path = tmp_path / "volume" / key
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
    config = _config(tmp_path, tmp_path / "volume")

    first, second = _rebuild(config), _rebuild(config)

    assert (first.returncode, first.stdout) == (0, "1 repository read, 1 link written\n"), first.stderr
    assert (second.returncode, second.stdout) == (0, "1 repository read, 0 links written\n"), second.stderr
    begun, ended = first.stderr.splitlines()
    assert begun == "repositories"
    assert re.fullmatch(rf"repositories: 1 in [0-9.]+ s; 1 links written; last {NAME}", ended), "numbers in a pipe"
    link = tmp_path / "volume" / layout.referrer_link(NAME, subject, digest)
    assert link.read_text().startswith(f"{digest}\n")


@pytest.mark.parametrize(
    ("command", "option"),
    [(("check",), ()), (("rebuild-referrers",), ()), (("copy", "--to", "{other}"), ("--from",))],
)
def test_a_data_directory_that_is_not_there_is_no_empty_registry(
    run: Run, tmp_path: Path, command: tuple[str, ...], option: tuple[str, ...]
) -> None:
    """A nightly check or backup of a volume that is not mounted must fail, not report that all is well."""
    other, config = tmp_path / "other.yml", tmp_path / "config.yml"
    text = "version: 0.1\nstorage: {filesystem: {rootdirectory: '%s'}}\nhttp: {addr: '127.0.0.1:0'}\n"
    other.write_text(text % (tmp_path / "target"))
    config.write_text(text % (tmp_path / "data"))
    arguments = [word.format(other=other) for word in command]
    missing = run("storage", *arguments, *option, config)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert f"{tmp_path}/data: there is no such directory; is its volume mounted?" in missing.stderr
    (tmp_path / "data").write_text("")
    file = run("storage", *arguments, *option, config)
    assert (file.returncode, file.stdout) == (1, "")
    assert f"{tmp_path}/data: Not a directory" in file.stderr
    assert not (tmp_path / "target").exists()

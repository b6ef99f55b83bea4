"""The commands of docs/migrating, typed in their order: there from docker-registry 2.8, and back.

What is Docker's, systemd's, Helm's or kubectl's is left to the pages about these; every other command is run, with
the paths of the pages replaced by those of the test.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import yaml
from tests.config.test_stock_files import DEBIAN, OFFICIAL_2, OFFICIAL_3
from tests.interop.recording import UPLOADS
from tests.live import SECRET, require, start, start_reference
from tests.migrate.populate import artifact, finish_uploads, listed, populate
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.interop.recording import Upload
    from tests.live import Live

pytestmark = [pytest.mark.reference, pytest.mark.slow]

PAGES: Final = Path(__file__).parents[2] / "docs" / "migrating"
ELSEWHERE: Final = ("docker ", "systemctl ", "helm ", "kubectl ")
PLACES: Final = ("/etc/docker/registry", "/etc/distribution")


def commands(page: str) -> list[str]:
    """Every line of the page's shell blocks."""
    text = (PAGES / f"{page}.md").read_text()
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in textwrap.dedent(block).splitlines() if line]


@dataclass
class Operator:
    """An operator with a registry in `root`, configured in `folder`, who types the commands of a page."""

    root: Path
    folder: Path

    def type(self, command: str, status: int = 0, visit: Callable[[Live], None] | None = None) -> str:
        """Run one command; `visit` is called with a server while it runs.  Its output."""
        for place in PLACES:
            command = command.replace(place, str(self.folder))
        command = command.replace("--user 1000", f"--user {os.geteuid()}")
        program, *arguments = shlex.split(command)
        path = {"moorage": Path(sys.executable).with_name("moorage")}.get(program) or require(program)
        if arguments[:1] == ["serve"]:
            self._serve(str(path), visit)
            return ""
        done = subprocess.run(
            [str(path), *arguments], cwd=self.folder, env=self._environment(), capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == status, (command, done.stdout, done.stderr)
        return done.stdout

    def _serve(self, program: str, visit: Callable[[Live], None] | None) -> None:
        settings = yaml.safe_load((self.folder / "config.yml").read_text())
        with start(
            [program, "serve"], self.root, settings, config=self.folder / "config.yml",
            environment={"REGISTRY_HTTP_ADDR": "127.0.0.1:0"},
        ) as live:  # fmt: skip
            if visit is not None:
                visit(live)

    def _environment(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Upload]]:
    """A volume of docker-registry, with uploads in progress."""
    root = tmp_path_factory.mktemp("old") / "data"
    with start_reference(root) as live:
        return root, populate(live)


def an_operator(tmp_path: Path, old: tuple[Path, dict[str, Upload]], text: str) -> Operator:
    """One whose configuration is `text`, a stock file, with a secret and a copy of the volume."""
    folder = tmp_path / "etc"
    folder.mkdir()
    root = shutil.copytree(old[0], tmp_path / "data")
    for place in ("/var/lib/registry", "/var/lib/docker-registry"):
        text = text.replace(place, str(root))
    text = text.replace(f"path: {PLACES[0]}", f"path: {folder}").replace("http:\n", f"http:\n  secret: {SECRET}\n")
    text = text.replace(":5001", "127.0.0.1:0").replace("addr: :5000", "addr: 127.0.0.1:5000")
    (folder / "config.yml").write_text(text)
    return Operator(root, folder)


def test_each_command_of_the_pages_is_known() -> None:
    """A page that gains a command gains a test."""
    for page in PAGES.glob("*.md"):
        for command in commands(page.stem):
            if not command.startswith(ELSEWHERE):
                program = command.split()[0]
                assert program in {"moorage", "docker-registry", "sed", "chgrp", "chmod"}, (page.name, command)


def test_from_registry_2_and_back(tmp_path: Path, old: tuple[Path, dict[str, Upload]]) -> None:
    """The whole way: what was there is served, what is pushed meanwhile is served by the old program again."""
    operator = an_operator(tmp_path, old, OFFICIAL_2.replace("http:\n", "  delete:\n    enabled: true\nhttp:\n"))
    kept: dict[str, bytes] = {}
    moved: dict[str, Upload] = {}

    def serving(live: Live) -> None:
        wire = Wire(live.host)
        assert wire.tags("team/app") == ["moved", "v1"]
        finish_uploads(live, old[1])
        kept["new"] = wire.push_image("team/app", "new", [b"pushed to Moorage"])
        kept["gone"] = wire.push_image("team/app", "gone", [b"deleted by Moorage"])
        kept["subject"] = wire.manifest("team/app", "v1").body
        artifact(wire, "team/app", kept["subject"], "application/vnd.example.later")
        assert wire.delete_manifest("team/app", Digest.of(kept["gone"])).status == 202
        begun = wire.patch(wire.start_upload("begun/small").headers["location"], UPLOADS["small"])
        moved["small"] = type(old[1]["small"])(begun.headers["location"], len(UPLOADS["small"]))

    for command in commands("registry-2"):
        if not command.startswith(ELSEWHERE):
            output = operator.type(command, visit=serving)
            if "rebuild-referrers" in command:
                assert "2 links written" in output
    (operator.folder / "config.yml").write_text(
        (operator.folder / "config.yml").read_text().replace("http:\n", "http:\n  workers: 2\n")
    )

    def back(live: Live) -> None:
        wire = Wire(live.host)
        assert wire.manifest("team/app", "new").body == kept["new"]
        assert "gone" in wire.tags("team/app")
        gone = wire.manifest("team/app", "gone")
        assert (gone.status, gone.codes) == (404, ["MANIFEST_UNKNOWN"])
        subject = Digest.of(kept["subject"])
        assert wire.send("GET", f"/v2/team/app/referrers/{subject}").status == 404
        finish_uploads(live, moved, b"finished by the old one")
        kept["third"] = wire.push_image("team/app", "third", [b"pushed to the old one again"])

    for command in commands("back"):
        operator.type(command, visit=back)

    def forth(live: Live) -> None:
        wire = Wire(live.host)
        assert wire.tags("team/app") == ["moved", "new", "third", "v1"]
        kinds = {entry["artifactType"] for entry in listed(wire, "team/app", Digest.of(kept["subject"])).values()}
        assert "application/vnd.example.later" in kinds
        assert len(kinds) == 3

    operator.type(f"moorage serve {PLACES[0]}/config.yml", visit=forth)


def test_from_registry_3s_file(tmp_path: Path, old: tuple[Path, dict[str, Upload]]) -> None:
    """The stock file of version 3, with its debug listener."""
    operator = an_operator(tmp_path, old, OFFICIAL_3)
    visited = []
    for command in commands("registry-3"):
        operator.type(command, visit=lambda live: visited.append(Wire(live.host).tags("team/app")))
    assert visited == [["moved", "v1"]]


def test_from_debians_package(tmp_path: Path, old: tuple[Path, dict[str, Upload]]) -> None:
    """The conffile's password file is a directory: the one point that must be settled, by the page's commands."""
    operator = an_operator(tmp_path, old, DEBIAN)
    statuses = []

    def closed(live: Live) -> None:
        wire = Wire(live.host)
        statuses.append(wire.send("GET", "/v2/").status)
        ann = {"Authorization": "Basic YW5uOnNlY3JldA=="}
        statuses.append(wire.send("GET", "/v2/team/app/tags/list", None, ann).status)

    for command in commands("debian"):
        if command.startswith(ELSEWHERE) or (command.startswith("chgrp") and os.geteuid() != 0):
            continue
        if command.startswith("moorage migrate check"):
            # As root the account is that of Debian's unit; the test's directories are closed to it.
            output = operator.type(f"{command} --user {os.geteuid()}", status=1)
            assert "1 point must be settled before Moorage takes over" in output
            assert "is a directory, so no user can log in" in output
            assert "bcrypt entries" not in output
            continue
        operator.type(command, visit=closed)
    assert statuses == [401, 200]
    mode = (operator.folder / "htpasswd").stat().st_mode & 0o777
    assert mode == 0o640
    operator.type(f"moorage migrate check --user {os.geteuid()} {PLACES[0]}/config.yml")


def test_from_twunis_chart(tmp_path: Path) -> None:
    """Its file, read where its volume is not: that is one point, and the only one."""
    operator = Operator(tmp_path / "data", tmp_path)
    (tmp_path / "config.yml").write_text(OFFICIAL_2.replace("/var/lib/registry", str(tmp_path / "not" / "here")))
    (command,) = (command for command in commands("twuni") if not command.startswith(ELSEWHERE))
    output = operator.type(command, status=1)
    assert "1 point must be settled before Moorage takes over" in output
    assert "there is no such directory" in output

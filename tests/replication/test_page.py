"""docs/sync.md: its commands and its configuration, run as they are written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.conftest import run
from tests.config.helpers import load_text
from tests.live import start_moorage
from tests.upstream.faulty import FaultyRegistry

from moorage.replication.report import SyncOutcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Run
    from tests.live import Live

__all__ = ["run"]

PAGE = (Path(__file__).parents[2] / "docs" / "sync.md").read_text()
CONFIG = "/etc/docker/registry/config.yml"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def hub() -> Iterator[FaultyRegistry]:
    """What the page copies, in place of Docker Hub."""
    with FaultyRegistry().in_thread() as registry:
        images = [registry.add_image("library/alpine", None, [bytes([n])]) for n in range(2)]
        index = dict(zip(("linux/amd64", "linux/arm64"), images, strict=True))
        for tag in ("3.20", "3.20.1"):
            registry.add_index("library/alpine", tag, index)
        for tag in ("16", "17"):
            registry.add_image("library/postgres", tag, [tag.encode()])
        yield registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with start_moorage(tmp_path_factory.mktemp("page") / "data", http={"workers": 1}) as live:
        yield live


def test_every_copy_of_the_page(run: Run, hub: FaultyRegistry, registry: Live) -> None:
    """With other hosts, no TLS, and the configuration of the server that serves the target."""
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("moorage copy ")]
    assert len(commands) == 7
    for command in commands:
        written = command.replace("docker.io", hub.host).replace("registry.example", registry.host)
        arguments = shlex.split(written.replace(CONFIG, str(registry.root.with_name("data.yml"))), comments=True)
        result = run(*arguments[1:], "--plain-http", "-q")
        assert result.returncode == 0, (command, result.stderr)
    assert "0 blobs" in run("copy", "--plain-http", "-q", *map(str, promoted(registry))).stdout


def promoted(registry: Live) -> tuple[str, str]:
    return f"{registry.host}/base/alpine:3.20", f"{registry.host}/other/alpine:3.20"


def test_the_configuration_of_the_page(run: Run, hub: FaultyRegistry, tmp_path: Path) -> None:
    """As it is written it has no problems; its first job is run with the registry of the test."""
    (text,) = blocks("yaml")
    loaded = load_text(tmp_path, text.replace("/etc/ssl/staging.pem", "''"))
    assert [job.name for job in loaded.settings.sync.jobs] == ["base images", "from staging"]
    text = text.replace("registry: docker.io", f"registry: '{hub.host}'\n        plainhttp: true")
    text = text.replace("/var/lib/registry", str(tmp_path / "data"))
    config = tmp_path / "page.yml"
    config.write_text(text)
    for line in blocks("sh")[-1].splitlines():
        if "sync --dry-run" in line:
            line += " --job 'base images'"  # noqa: PLW2901  the other one needs more hosts
        if line.startswith("moorage sync"):
            result = run(*shlex.split(line.replace(CONFIG, str(config)))[1:], "-q")
            assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("3 copied, 0 present; ")


def test_every_outcome_is_explained() -> None:
    rows = dict(re.findall(r"^\| `([a-z ]+)` \| .* \| (\d) \|$", PAGE, re.MULTILINE))
    assert set(rows) == {outcome.value for outcome in SyncOutcome}

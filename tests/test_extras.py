"""The end of each message about a missing extra: what to type, by the way that Moorage was installed."""

from __future__ import annotations

import json
import re
import shlex
import sys
from importlib.metadata import Distribution, PackageNotFoundError
from typing import TYPE_CHECKING

import pytest

from moorage import __version__
from moorage.extras import remedy

if TYPE_CHECKING:
    from pathlib import Path

EXTRAS = ["s3", "gcs", "azure", "redis", "letsencrypt", "tracing"]


def command(extra: str, prefix: str = sys.prefix) -> list[str]:
    text = remedy(extra, {}, prefix)
    assert text.startswith("install it with: ")
    return shlex.split(text.removeprefix("install it with: "))


@pytest.fixture
def from_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed from an index: there is no `direct_url.json`."""
    monkeypatch.setattr(Distribution, "from_name", lambda name: _FromIndex())


class _FromIndex:
    requires = ("aiobotocore>=2; extra == 's3'",)

    def read_text(self, name: str) -> None:
        assert name == "direct_url.json"


class _FromWheel(_FromIndex):
    def __init__(self, **more: object) -> None:
        self.content = json.dumps({"url": "file:///tmp/moorage-1-py3-none-any.whl", **more})

    def read_text(self, name: str) -> str:  # type: ignore[override]
        return self.content


@pytest.mark.parametrize("extra", EXTRAS)
def test_in_a_clone_the_command_names_the_libraries(extra: str) -> None:
    """For the interpreter that runs; `moorage[s3]` would be looked for on an index."""
    python, *rest = command(extra)
    assert python == sys.executable
    assert rest[:3] == ["-m", "pip", "install"]
    assert len(rest) > 3
    assert all(re.match(r"[a-z-]+(\[\w+\])?[<>=]", requirement) for requirement in rest[3:]), rest


@pytest.mark.usefixtures("from_index")
def test_from_an_index_the_extra_is_named() -> None:
    assert command("s3") == [sys.executable, "-m", "pip", "install", "moorage[s3]"]


def test_without_metadata_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source tree on the path that was never installed."""

    def missing(name: str) -> Distribution:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(Distribution, "from_name", missing)
    assert command("s3")[-1] == "moorage[s3]"


@pytest.mark.parametrize(
    ("marker", "expected"),
    [
        ("tools/moorage/pipx_metadata.json", ["pipx", "install", "--force"]),
        ("tools/moorage/uv-receipt.toml", ["uv", "tool", "install", "--force"]),
        ("archive-v0/x/pyvenv.cfg", ["uvx", "--from"]),
    ],
)
def test_tools_install_themselves_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marker: str, expected: list[str]
) -> None:
    """Their environments have no pip."""
    file = tmp_path / marker
    file.parent.mkdir(parents=True)
    file.touch()
    more = ["moorage"] if expected[0] == "uvx" else []
    monkeypatch.setattr(Distribution, "from_name", lambda name: _FromIndex())
    assert command("s3", str(file.parent)) == [*expected, "moorage[s3]", *more]
    monkeypatch.setattr(Distribution, "from_name", lambda name: _FromWheel())
    wheel = "moorage[s3] @ file:///tmp/moorage-1-py3-none-any.whl"
    assert command("s3", str(file.parent)) == [*expected, wheel, *more]
    monkeypatch.setattr(Distribution, "from_name", lambda name: _FromWheel(vcs_info={"vcs": "git"}))
    assert "moorage[s3] @ git+file:///tmp/moorage-1-py3-none-any.whl" in command("s3", str(file.parent))


@pytest.mark.parametrize("extra", EXTRAS)
def test_in_the_slim_image_the_full_one_is_named(extra: str) -> None:
    """There is no pip in it, and the root file system may be read-only."""
    expected = f"the slim image leaves it out; run the full image (moorage:{__version__}) instead"
    assert remedy(extra, {"MOORAGE_IMAGE": "slim"}) == expected
    assert remedy(extra, {"MOORAGE_IMAGE": "full"}).startswith("install it with: ")


def test_a_missing_extra_ends_the_start_in_the_slim_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole sentence, as the log has it."""
    from moorage.server import companion
    from moorage.server.cannot import Cannot

    monkeypatch.setenv("MOORAGE_IMAGE", "slim")
    monkeypatch.setattr(companion, "find_spec", lambda name: None)
    with pytest.raises(Cannot) as caught:
        companion.require_library()
    assert str(caught.value) == (
        "http.tls.letsencrypt needs the extra moorage[letsencrypt], which is not installed (no acme and josepy); "
        f"the slim image leaves it out; run the full image (moorage:{__version__}) instead"
    )

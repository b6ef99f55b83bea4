"""Commands that install an extra's libraries: they must fit the installer, and work where there is no index.

The installers themselves run in tests/packages/test_installers.py.
"""

from __future__ import annotations

import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, PathDistribution
from typing import TYPE_CHECKING

import pytest

from moorage import __version__, extras
from moorage.extras import install_command, remedy

if TYPE_CHECKING:
    from pathlib import Path

EXTRAS = ["s3", "gcs", "azure", "redis", "letsencrypt", "tracing"]


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_command_names_the_libraries(extra: str) -> None:
    """For the interpreter that runs, wherever its package came from: `moorage[s3]` does not work in a clone."""
    python, *rest = shlex.split(install_command(extra))
    assert python == sys.executable
    assert rest[:3] == ["-m", "pip", "install"]
    assert len(rest) > 3
    assert all(re.match(r"[a-z-]+(\[\w+\])?[<>=]", requirement) for requirement in rest[3:]), rest


def test_without_metadata_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source tree on the path that was never installed."""

    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "distribution", missing)
    assert shlex.split(install_command("s3"))[-1] == "moorage[s3]"


@pytest.mark.parametrize(
    ("origin", "address"),
    [
        ("", ""),
        ('{"url": "file:///x/moorage.whl", "archive_info": {}}', " @ file:///x/moorage.whl"),
        ('{"url": "file:///x/clone", "dir_info": {}}', " @ file:///x/clone"),
        (
            '{"url": "https://example.com/m", "vcs_info": {"vcs": "git", "commit_id": "abc"}}',
            " @ git+https://example.com/m@abc",
        ),
    ],
)
def test_the_package_comes_from_where_it_came_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, origin: str, address: str
) -> None:
    """By its name alone an index would be used, which may have another version, or none."""
    info = tmp_path / "moorage-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: moorage\nVersion: 1\nProvides-Extra: redis\nProvides-Extra: other\n"
        "Requires-Dist: redis>=5; extra == 'redis'\nRequires-Dist: not-installed-anywhere; extra == 'other'\n"
    )
    if origin:
        (info / "direct_url.json").write_text(origin)
    (tmp_path / "uv-receipt.toml").write_text("")
    monkeypatch.setattr(extras, "distribution", lambda _: PathDistribution(info))
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert shlex.split(install_command("redis")) == ["uv", "tool", "install", f"moorage[redis]{address}"]


@pytest.mark.parametrize(
    ("folder", "marks", "expected"),
    [
        ("venvs/moorage-2", {"pipx_metadata.json": "{}"}, r"pipx inject moorage-2 'redis>=.*"),
        ("tools/moorage", {"uv-receipt.toml": ""}, r"uv tool install 'moorage\[.*redis.*\]( @ file:\S+)?'"),
        ("archive-v0/D1", {"pyvenv.cfg": "uv = 0\n"}, r"uvx --from 'moorage\[.*redis.*\]( @ file:\S+)?' moorage"),
        ("venv", {"pyvenv.cfg": "home = /usr/bin\nuv = 0.13.9\n"}, r"uv pip install --python \S+ 'redis>=.*"),
        ("venv", {"pyvenv.cfg": "home = /usr/bin\n"}, r"pip --python \S+ install 'redis>=.*"),
        ("venv", {}, r"pip --python \S+ install 'redis>=.*"),
    ],
)  # fmt: skip
def test_the_command_fits_the_installer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, marks: dict[str, str], expected: str
) -> None:
    """Environments of pipx and uv have no pip, and `python -m pip` would fail there."""
    prefix = tmp_path / folder
    prefix.mkdir(parents=True)
    for name, text in marks.items():
        (prefix / name).write_text(text)
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    assert re.fullmatch(expected, install_command("redis"))


@pytest.mark.parametrize("extra", EXTRAS)
def test_in_the_slim_image_the_full_one_is_named(extra: str) -> None:
    """There is no pip in it, and the root file system may be read-only."""
    expected = f"the slim image leaves it out; run the full image (moorage:{__version__}) instead"
    assert remedy(extra, {"MOORAGE_IMAGE": "slim"}) == expected
    assert remedy(extra, {"MOORAGE_IMAGE": "full"}).startswith("install it with: ")


def test_a_missing_extra_ends_the_start_in_the_slim_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole sentence, as the log has it."""
    from moorage.server.housekeeper import acme_job
    from moorage.startup import StartupError

    monkeypatch.setenv("MOORAGE_IMAGE", "slim")
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(StartupError) as caught:
        acme_job.require_library()
    assert str(caught.value) == (
        "http.tls.letsencrypt needs the extra moorage[letsencrypt], which is not installed (no acme and josepy); "
        f"the slim image leaves it out; run the full image (moorage:{__version__}) instead"
    )

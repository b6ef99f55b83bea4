"""docs/settings.md: rendered from the models and never stale."""

from __future__ import annotations

from pathlib import Path

from moorage.config.model import Settings
from moorage.config.render_docs import document
from moorage.config.schema import ScalarOf, SectionOf, walk
from moorage.config.unsupported import LATER

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_is_current() -> None:
    """Mend with: python -m moorage.config.render_docs > docs/settings.md."""
    assert PAGE.read_text() == document()


def test_every_setting_is_on_the_page_with_a_meaning() -> None:
    """A setting that is missing on the page does not exist for its reader."""
    page = document()
    for path, key in walk(Settings):
        assert key.meaning.strip(), path
        if key.instead is None and not {"pool", "s3aws"} & set(path):
            assert f"`{'.'.join(path)}`" in page or f"`{'.'.join(path)}[]`" in page, path


def test_every_duration_and_size_has_its_unit() -> None:
    """A number without its unit is a guess; a duration's kind is its unit."""
    for path, key in walk(Settings):
        if isinstance(key.shape, ScalarOf) and key.shape.reader.kind == "duration" and key.instead is None:
            assert key.unit == "duration", path
        if path[-1].endswith(("size", "chunksize")) and path[-1] not in {"poolsize", "blobdescriptorsize"}:
            assert key.unit == "bytes", path


def test_what_comes_later_is_marked() -> None:
    """A reader must not plan with what is refused at start."""
    lines = document().splitlines()
    for later in LATER:
        for key in later.keys:
            at = next(n for n, line in enumerate(lines) if line.startswith(("#", "|")) and f"`{key}" in line)
            assert any("later" in line.lower() for line in lines[at : at + 3]), key


def test_sections_have_all_their_keys_described_once() -> None:
    """Two keys of one name in a section would hide one of them."""
    seen = [path for path, key in walk(Settings) if not isinstance(key.shape, SectionOf)]
    assert len(seen) == len(set(seen))

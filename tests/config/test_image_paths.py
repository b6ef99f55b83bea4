"""Which of the two usual places is read inside the container image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from moorage.config.image_paths import choose
from moorage.config.load import load
from moorage.config.problems import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Places:
    two: Path
    three: Path
    shipped: Path

    @property
    def both(self) -> tuple[Path, Path]:
        return self.two, self.three


@pytest.fixture
def places(tmp_path: Path) -> Places:
    made = Places(tmp_path / "docker.yml", tmp_path / "distribution.yml", tmp_path / "shipped.yml")
    for path in (*made.both, made.shipped):
        path.write_text("version: 0.1\n")
    return made


def chosen(places: Places, named: Path | None) -> tuple[Path, list[str]]:
    path, warnings = choose(named, places.both, places.shipped)
    return path, [str(warning) for warning in warnings]


def test_without_a_mount_the_image_reads_its_own_file(places: Places) -> None:
    assert chosen(places, None) == (places.two, [])
    assert chosen(places, places.three) == (places.three, [])


@pytest.mark.parametrize("mounted", ["two", "three"])
def test_the_mounted_file_is_read_for_both_names(places: Places, mounted: str) -> None:
    """registry:3 ignored mounts at registry:2's place silently and served the defaults: an open registry."""
    path: Path = getattr(places, mounted)
    path.write_text("version: 0.1\nhttp: {addr: ':5001'}\n")
    (other,) = {*places.both} - {path}
    assert chosen(places, None) == (path, [])
    assert chosen(places, path) == (path, [])
    read, warnings = chosen(places, other)
    assert read == path
    assert warnings == [f"{other}: is the image's own file; {path} was mounted and is read"]


def test_of_two_mounted_files_the_named_one_is_read_and_the_other_reported(places: Places) -> None:
    for path in places.both:
        path.write_text("version: 0.1\nhttp: {addr: ':5001'}\n")
    assert chosen(places, places.three) == (places.three, [f"{places.two}: not read: {places.three} was named"])
    assert chosen(places, None) == (places.two, [f"{places.three}: not read: {places.two} comes first"])


def test_another_file_is_read_as_it_is_named(places: Places, tmp_path: Path) -> None:
    places.two.write_text("version: 0.1\nhttp: {addr: ':5001'}\n")
    assert chosen(places, tmp_path / "mine.yml") == (tmp_path / "mine.yml", [])


def test_a_directory_in_the_place_of_the_file_is_not_passed_over(places: Places) -> None:
    """Docker makes an empty directory where a mount has no source; the defaults would be an open registry."""
    places.two.unlink()
    places.two.mkdir()
    assert chosen(places, None) == (places.two, [])
    assert chosen(places, places.three)[0] == places.two


def test_a_place_that_a_mounted_directory_hides_is_missing(places: Places) -> None:
    """`-v ./conf:/etc/docker/registry` without a config.yml in it."""
    places.two.unlink()
    assert chosen(places, None) == (places.two, [])
    assert chosen(places, places.two) == (places.two, [])
    places.three.write_text("version: 0.1\nhttp: {addr: ':5001'}\n")
    assert chosen(places, None) == (places.three, [])


def test_load_follows_these_rules_where_the_image_sets_its_variable(places: Places) -> None:
    for path in places.both:
        path.unlink()
    environment = {"MOORAGE_IMAGE": "full"}
    with pytest.raises(ConfigError, match="no such file"):
        load(None, environment, places=places.both)
    assert load(None, {}, places=places.both[:1]).path is None
    environment["REGISTRY_CONFIGURATION_PATH"] = str(places.three)
    places.three.write_text("version: 0.1\nstorage: {inmemory: {}}\nhttp: {addr: ':5000'}\n")
    assert load(None, environment, places=places.both).path == places.three

"""Everything pinned for the image exists as a wheel for linux/arm64 as well.

The wheels' names were asked of the package index when tools/install_test_programs.py made the parts of the image.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
from tests.image.build import part
from tests.live import ROOT
from tools import image_parts

if TYPE_CHECKING:
    from collections.abc import Iterator


def pins(name: str) -> Iterator[tuple[str, set[str]]]:
    """Each requirement that applies to Linux, as NAME==VERSION, and the hashes of its files."""
    for entry in (ROOT / "requirements" / name).read_text().replace("\\\n", " ").splitlines():
        requirement, _, marker = entry.partition(" --hash")[0].partition(";")
        if "win32" not in marker:
            yield normalised(requirement.strip()), set(re.findall(r"sha256:([0-9a-f]{64})", entry))


def normalised(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", requirement.partition("==")[0]).lower() + "==" + requirement.partition("==")[2]


@pytest.mark.parametrize("name", ["image.txt", "image-slim.txt"])
def test_every_pinned_requirement_has_a_wheel_for_arm64(name: str) -> None:
    """A build for both platforms would otherwise end in a compiler that the base does not have."""
    chosen = json.loads((part(image_parts.wheels()) / image_parts.ARM64).read_text())[name]
    found = {normalised(requirement): wheel for requirement, wheel in chosen.items()}
    expected = dict(pins(name))
    assert found.keys() == expected.keys()
    for requirement, (file, digest) in found.items():
        assert digest in expected[requirement], requirement
        assert re.search(r"-(none-any|manylinux\w+_aarch64.*)\.whl$", file), file


@pytest.mark.parametrize("name", ["image.txt", "image-slim.txt", "image-build.txt"])
def test_the_image_has_the_versions_that_the_tests_run_with(name: str) -> None:
    """The image's files of pins are written by `dev.py lock` beside that of the tests."""
    tested = {requirement.partition("==")[0]: requirement for requirement, _ in pins("run.txt")}
    for requirement, _ in pins(name):
        assert tested[requirement.partition("==")[0]] == requirement
    assert dict(pins("image-slim.txt")).keys() < dict(pins("image.txt")).keys()

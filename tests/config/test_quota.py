"""The section `quota`: sizes, and the spelling in environment variables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import BASE, load_text

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10GiB", 10 << 30),
        ("10 GiB", 10 << 30),
        ("1.5MiB", 3 << 19),
        ("1kB", 1000),
        ("2TB", 2 * 10**12),
        ("7B", 7),
        ("1gib", 1 << 30),
    ],
)
def test_sizes(tmp_path: Path, text: str, size: int) -> None:
    """A size that is read as another one lets a team fill the disk, or stops its pushes."""
    settings = load_text(tmp_path, BASE + f"quota: {{rules: [{{repositories: team-a, bytes: {text}}}]}}").settings
    assert settings.quota.rules[0].bytes == size
    assert settings.quota.rules[0].tags is None


def test_rules_can_be_given_by_variables(tmp_path: Path) -> None:
    """Containers are configured by variables alone."""
    environ = {"REGISTRY_QUOTA_RULES": "[{repositories: team-a, tags: 5}]", "REGISTRY_QUOTA_INTERVAL": "1h"}
    quota = load_text(tmp_path, BASE, environ).settings.quota
    assert (quota.rules[0].repositories, quota.rules[0].tags, quota.interval) == ("team-a", 5, 3600)


def test_no_rules_by_default(tmp_path: Path) -> None:
    """A registry without the section must have no limits."""
    assert load_text(tmp_path, BASE).settings.quota.rules == ()

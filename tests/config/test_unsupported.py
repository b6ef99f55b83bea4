"""Settings of features that are not available: refused by name if enabled, otherwise ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import BASE, PLAIN, errors_of, load_text

from moorage.config.model import Settings
from moorage.config.schema import walk
from moorage.config.unsupported import LATER, REMOVED

if TYPE_CHECKING:
    from pathlib import Path

TO_COME = [
    (PLAIN + "storage: {swift: {authurl: x}}", "storage.swift", 3),
    (PLAIN + "storage: {oss: {bucket: x}}", "storage.oss", 3),
    (PLAIN + "storage: oss", "storage.oss", 3),
    (BASE + "notifications: {endpoints: [{url: http://x}]}", "notifications.endpoints[0]", 7),
]


@pytest.mark.parametrize(("text", "key", "line"), TO_COME)
def test_a_feature_to_come_is_refused_by_name_and_line(tmp_path: Path, text: str, key: str, line: int) -> None:
    """An access check, a mirror or a bucket that is silently not there would be the worst of answers."""
    (error,) = errors_of(tmp_path, text)
    assert (error.key, error.origin.line) == (key, line)
    missing = (
        "of 2.8 is not supported, as in" if key.startswith("storage.") else "is not available in this version of"
    )
    assert missing in error.message


def test_every_row_of_the_table_is_provoked() -> None:
    """A row without a test could refuse nothing."""
    keys = [key for _, key, _ in TO_COME]
    for later in (*LATER, *REMOVED):
        assert any(key.startswith(prefix) for key in keys for prefix in later.keys), later.what


def test_the_table_names_keys_that_exist() -> None:
    """The documentation marks by these names."""
    known = {".".join(path).replace("[]", "") for path, _ in walk(Settings)}
    assert {key for later in (*LATER, *REMOVED) for key in later.keys} <= known


def test_old_object_stores_are_shown_the_way(tmp_path: Path) -> None:
    """Both speak S3, which is where their users go."""
    for driver in ("swift", "oss"):
        (error,) = errors_of(tmp_path, PLAIN + f"storage: {driver}")
        assert "storage.s3 with regionendpoint" in error.message


@pytest.mark.parametrize(
    "text",
    [
        "auth: none", "auth: {none: }", "log: {hooks: [{type: mail, disabled: true}]}",
        "notifications: {endpoints: [{url: http://x, disabled: true}], events: {includereferences: true}}",
        "middleware: {storage: [{name: cloudfront, disabled: true}]}", "proxy: {}", "proxy: {remoteurl: ''}",
        "proxy: {ttl: 1h, exec: {lifetime: 0}}", "  debug: {prometheus: {enabled: true}}",
        "  debug: {addr: }", "  tls: {}",
    ],
)  # fmt: skip
def test_what_is_off_is_not_refused(tmp_path: Path, text: str) -> None:
    """Examples and leftovers in a file have no effect; the reference starts with them."""
    assert load_text(tmp_path, BASE + text).warnings == ()

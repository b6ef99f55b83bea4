"""The settings of garbage collection and of undo."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import BASE, PLAIN, errors_of, load_text, warnings_of

if TYPE_CHECKING:
    from pathlib import Path

KEY = "storage.maintenance.garbagecollection"


def _with(collection: str, *, rest: str = "") -> str:
    storage = f"filesystem: {{}}, maintenance: {{garbagecollection: {{{collection}}}{rest}}}"
    return PLAIN + f"storage: {{{storage}}}\n"


def test_collection_is_off_by_default_and_deleted_content_is_kept_for_a_week(tmp_path: Path) -> None:
    """An upgrade removes nothing that the version before kept."""
    storage = load_text(tmp_path, BASE).settings.storage
    collection = storage.maintenance.garbagecollection
    assert not collection.enabled
    assert not collection.deleteuntagged
    assert not collection.foreignwriters
    assert (collection.interval, collection.grace, collection.wait) == (86_400, 86_400, 600)
    assert storage.delete.undo == 168 * 3600


def test_every_setting_is_read(tmp_path: Path) -> None:
    text = _with("enabled: true, interval: 6h, deleteuntagged: true, grace: 48h, wait: 5m, foreignwriters: false")
    collection = load_text(tmp_path, text).settings.storage.maintenance.garbagecollection
    assert (collection.enabled, collection.deleteuntagged) == (True, True)
    assert (collection.interval, collection.grace, collection.wait) == (6 * 3600, 48 * 3600, 300)
    environ = {"REGISTRY_STORAGE_DELETE_UNDO": "0s"}
    assert load_text(tmp_path, BASE, environ).settings.storage.delete.undo == 0


@pytest.mark.parametrize(
    ("text", "key", "fragment"),
    [
        (_with("grace: -1h"), f"{KEY}.grace", "expected a duration from 0s to 87600h"),
        (_with("grace: 5"), f"{KEY}.grace", "expected a duration"),
        (_with("wait: 25h"), f"{KEY}.wait", "expected a duration from 0s to 24h"),
        (_with("interval: 0s"), f"{KEY}.interval", "expected a duration above 0"),
        (_with("enabled: maybe"), f"{KEY}.enabled", "expected true or false"),
        (PLAIN + "storage: {filesystem: {}, delete: {undo: -1h}}", "storage.delete.undo", "expected a duration"),
        (PLAIN + "storage: {filesystem: {}, delete: {undo: 7}}", "storage.delete.undo", "expected a duration"),
        (PLAIN + "storage: {inmemory: {}, maintenance: {garbagecollection: {enabled: true}}}", f"{KEY}.enabled",
         "storage.inmemory is not collected: it is lost"),
        # Typos that would collect where the file forbids it.
        (_with("foreign_writers: true"), f"{KEY}.foreign_writers", "unknown key"),
        (PLAIN + "storage: {filesystem: {}, garbagecollection: {foreignwriters: true}}",
         "storage.garbagecollection", "is not a storage driver"),
    ],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused(tmp_path: Path, text: str, key: str, fragment: str) -> None:
    """Each names the key; nothing starts, so nothing is removed."""
    (error,) = errors_of(tmp_path, text)
    assert error.key == key
    assert fragment in error.message


@pytest.mark.parametrize(
    ("text", "key", "fragment"),
    [
        (_with("wait: 0s"), "wait", "clients have only 0s between finding a blob and referring to it"),
        (_with("grace: 10m"), "grace", "pushes that take longer than 10m may have to be repeated"),
        (_with("enabled: true", rest=", readonly: {enabled: true}"), "enabled", "no effect while storage"),
        (_with("enabled: true, foreignwriters: true"), "foreignwriters", "runs only report"),
    ],
)  # fmt: skip
def test_values_with_a_price_are_warned_about(tmp_path: Path, text: str, key: str, fragment: str) -> None:
    """Read-only mode is no error: it is switched on for a while, by a file that says otherwise when it is over."""
    (warning,) = warnings_of(tmp_path, text)
    assert f"{KEY}.{key}: " in warning
    assert fragment in warning

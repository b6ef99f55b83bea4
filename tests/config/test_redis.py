"""`redis`: required keys, refusals, warnings, and files of 2.8."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import errors_of, load_text

if TYPE_CHECKING:
    from pathlib import Path

BASE = "version: 0.1\nhttp: {addr: ':5000'}\nstorage: {inmemory: , cache: {blobdescriptor: redis}}\n"

WRONG = [
    ("", "storage.cache.blobdescriptor", "needs the section redis"),
    ("redis: ", "redis.addrs", "required"),
    ("redis: {db: 1}", "redis.addrs", "required"),
    ("redis: {addrs: [redis]}", "redis.addrs[0]", "expected host:port"),
    ("redis: {addrs: ['h:1', 'h:0']}", "redis.addrs[1]", "expected host:port"),
    ("redis: {addrs: ['::1:6379']}", "redis.addrs[0]", "in brackets"),
    ("redis: {addrs: ['redis://h:1']}", "redis.addrs[0]", "in brackets"),
    ("redis: {addrs: ['h:1'], protocol: 4}", "redis.protocol", "expected 2 or 3"),
    ("redis: {addrs: ['h:1'], db: -1}", "redis.db", "at least 0"),
    ("redis: {addrs: ['h:1', 'h:2'], readonly: true}", "redis.readonly", "may lag behind"),
    ("redis: {addrs: ['h:1', 'h:2'], routebylatency: true}", "redis.routebylatency", "may lag behind"),
    ("redis: {addrs: ['h:1'], mastername: m, routerandomly: true}", "redis.routerandomly", "may lag behind"),
    ("redis: {addrs: ['h:1'], tls: {certificate: /etc/hostname}}", "redis.tls.key", "come together"),
    ("redis: {addrs: ['h:1'], tls: {key: /etc/hostname}}", "redis.tls.certificate", "come together"),
    ("redis: {addrs: ['h:1'], tls: {rootcas: [/nowhere/ca]}}", "redis.tls.rootcas[0]", "No such file"),
    ("redis: {addrs: ['h:1'], tls: {rootcas: ['']}}", "redis.tls.rootcas[0]", "cannot read"),
]


@pytest.mark.parametrize(("text", "key", "part"), WRONG)
def test_what_cannot_be_is_refused(tmp_path: Path, text: str, key: str, part: str) -> None:
    """The reference panics, or continues without Redis in silence."""
    (error,) = errors_of(tmp_path, BASE + text)
    assert error.key == key
    assert part in error.message


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("readonly: true", "readonly"), ("poolfifo: true", "poolfifo"), ("minidleconns: 3", "minidleconns"),
        ("maxidleconns: 3", "maxidleconns"), ("contexttimeoutenabled: true", "contexttimeoutenabled"),
        ("maxredirects: 8", "maxredirects"), ("identitysuffix: x", "identitysuffix"),
        ("unstableresp3: true", "unstableresp3"), ("sentinelusername: x", "sentinelusername"),
        ("sentinelpassword: x", "sentinelpassword"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_reported(tmp_path: Path, more: str, key: str) -> None:
    (warning,) = load_text(tmp_path, BASE + f"redis: {{addrs: ['h:1'], {more}}}").warnings
    assert (warning.key, warning.kind) == (f"redis.{key}", "warning")


def test_a_cluster_has_one_database(tmp_path: Path) -> None:
    (warning,) = load_text(tmp_path, BASE + "redis: {addrs: ['h:1', 'h:2'], db: 1}").warnings
    assert warning.key == "redis.db"


@pytest.mark.parametrize(
    "text",
    [
        "redis: {addrs: ['redis.example.com:6379', '[::1]:6379', ':6380'], username: u, password: p}",
        "redis: {addrs: ['h:1'], mastername: m, sentinelusername: u, sentinelpassword: p, db: 2}",
        "redis: {addrs: ['h:1'], tls: {enabled: true}, protocol: 2, poolsize: 4, connmaxlifetime: 1h}",
        "redis: {addrs: ['h:1'], tls: {certificate: /etc/hostname, key: /etc/hostname, rootcas: [/etc/hostname]}}",
    ],
)
def test_what_is_right_is_taken(tmp_path: Path, text: str) -> None:
    assert load_text(tmp_path, BASE + text).warnings == ()


def test_a_section_of_2_8_is_understood(tmp_path: Path) -> None:
    """3.x ignores it and panics."""
    text = (
        "redis: {addr: 'h:6379', password: x, db: 1, dialtimeout: 10ms, readtimeout: 20ms, writetimeout: 30ms,\n"
        "  pool: {maxidle: 16, maxactive: 64, idletimeout: 300s}}"
    )
    loaded = load_text(tmp_path, BASE + text)
    redis = loaded.settings.redis
    assert redis is not None
    assert (redis.addrs, redis.poolsize, redis.connmaxidletime, redis.db) == (("h:6379",), 64, 300.0, 1)
    assert {warning.kind for warning in loaded.warnings} == {"warning"}

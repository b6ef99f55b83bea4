"""Settings of the pull-through cache: what is refused, by name and with the remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import BASE, errors_of, load_text

if TYPE_CHECKING:
    from pathlib import Path

ONE = BASE + "proxy: {%s}"
SEVERAL = BASE + "proxy: {ttl: 0s, upstreams: [%s]}"
HUB = "{prefix: docker.io, remoteurl: 'https://registry-1.docker.io'%s}"

REFUSED = [
    (
        ONE % "remoteurl: registry-1.docker.io",
        "proxy.remoteurl",
        "begins with https:// or http://, found no scheme",
    ),
    (ONE % "remoteurl: 'ftp://a.test'", "proxy.remoteurl", "found the scheme 'ftp'"),
    (ONE % "remoteurl: 'https://'", "proxy.remoteurl", "expected a root URL such as"),
    (ONE % "remoteurl: 'https://a.test:99999'", "proxy.remoteurl", "expected a root URL such as"),
    (ONE % "remoteurl: 'https://a.test/?x=1'", "proxy.remoteurl", "expected a root URL such as"),
    (ONE % "remoteurl: 'https://a.test/v2/'", "proxy.remoteurl", "without a path; /v2/ is added"),
    (ONE % "remoteurl: 'https://u:p@a.test'", "proxy.remoteurl", "belong to username and password"),
    (ONE % "remoteurl: 'https://a.test', endpoints: [b.test]", "proxy.endpoints[0]", "begins with https://"),
    (ONE % "remoteurl: 'https://a.test', password: p", "proxy.password", "needs a username"),
    (ONE % "remoteurl: 'https://a.test', username: u, exec: {command: x}", "proxy.username", "excludes exec"),
    (ONE % "remoteurl: 'https://a.test', exec: {command: 'x get'}", "proxy.exec.command", "without arguments"),
    (ONE % "remoteurl: 'https://a.test', maxsize: 1GiB", "proxy.maxsize", "garbagecollection.enabled"),
    (ONE % "remoteurl: 'https://a.test', maxsize: 5", "proxy.maxsize", "expected a size above 0 with its unit"),
    (ONE % f"remoteurl: 'https://a.test', upstreams: [{HUB % ''}]", "proxy.remoteurl", "excludes proxy.upstreams"),
    (
        ONE % "remoteurl: 'https://a.test', ttl: 0s"
        + "\nsync: {jobs: [{name: a, source: {registry: b.test}, repositories: [{match: c}]}]}",
        "sync.jobs[0]",
        "which is only a cache",
    ),
    (ONE % "local: ['***']", "proxy.local[0]", "more stars in a row"),
    (ONE % "names: ['a/b']", "proxy.names[0]", "expected a host"),
    (SEVERAL % "{prefix: docker.io}", "proxy.upstreams[0].remoteurl", "required and missing"),
    (SEVERAL % (HUB % "").replace("docker.io,", "Docker.io,"), "proxy.upstreams[0].prefix", "in lower case"),
    (SEVERAL % (HUB % "").replace("docker.io,", "docker.io/,"), "proxy.upstreams[0].prefix", "without a slash"),
    (
        SEVERAL % (HUB % "").replace("docker.io,", "'a:5000',"),
        "proxy.upstreams[0].prefix",
        "belongs to namespaces",
    ),
    (SEVERAL % (HUB % ", namespaces: ['a/b']"), "proxy.upstreams[0].namespaces[0]", "expected a host"),
    (SEVERAL % (HUB % ", allow: ['']"), "proxy.upstreams[0].allow[0]", "expected a pattern"),
    (SEVERAL % (HUB % ", deny: ['***']"), "proxy.upstreams[0].deny[0]", "more stars in a row"),
    (SEVERAL % (HUB % ", maxsize: 1GiB"), "proxy.upstreams[0].maxsize", "garbagecollection.enabled"),
    (SEVERAL % f"{HUB % ''}, {HUB % ''}", "proxy.upstreams[1]", "docker.io is that of proxy.upstreams[0] already"),
    (
        SEVERAL % f"{HUB % ''}, {{prefix: b, namespaces: [DOCKER.io], remoteurl: 'https://b.test'}}",
        "proxy.upstreams[1]",
        "docker.io is that of proxy.upstreams[0] already",
    ),
    (
        SEVERAL % "{remoteurl: 'https://a.test'}, {remoteurl: 'https://b.test'}",
        "proxy.upstreams[1]",
        "the empty prefix is that of",
    ),
]


@pytest.mark.parametrize(("text", "key", "message"), REFUSED)
def test_a_wrong_setting_is_refused(tmp_path: Path, text: str, key: str, message: str) -> None:
    """A mirror of something else than was meant, or of nothing, is noticed at the start."""
    (error,) = errors_of(tmp_path, text)
    assert error.key == key
    assert message in error.message


def test_the_settings_of_the_reference_are_taken(tmp_path: Path) -> None:
    """Also a trailing slash, with which the reference requests //v2/."""
    text = ONE % "remoteurl: 'https://a.test/', username: u, password: p, ttl: 0, cachewritetimeout: 1m"
    loaded = load_text(tmp_path, text)
    assert loaded.warnings == ()
    assert (loaded.settings.proxy.ttl, loaded.settings.proxy.cachewritetimeout) == (0, 60)


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        (ONE % "remoteurl: 'https://a.test'", "proxy.ttl", "stays on the disk without garbage collection"),
        (ONE % "username: u, password: p", "proxy", "nothing is mirrored"),
    ],
)
def test_what_has_no_effect_is_a_warning(tmp_path: Path, text: str, key: str, message: str) -> None:
    """The reference starts with both."""
    (warning,) = load_text(tmp_path, text).warnings
    assert warning.key == key
    assert message in warning.message

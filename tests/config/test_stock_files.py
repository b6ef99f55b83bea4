"""The files that images and packages ship: they start, or are refused for exactly what is not there yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import load_text

if TYPE_CHECKING:
    from pathlib import Path

OFFICIAL_2 = """\
version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: :5000
  headers:
    X-Content-Type-Options: [nosniff]
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
"""

OFFICIAL_3 = """\
version: 0.1
log:
  level: debug
  fields:
    service: registry
    environment: development
storage:
  delete:
    enabled: true
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
  tag:
    concurrencylimit: 5
http:
  addr: :5000
  debug:
    addr: :5001
    prometheus:
      enabled: true
      path: /metrics
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
"""

DEBIAN = OFFICIAL_2.replace("/var/lib/registry", "/var/lib/docker-registry").replace(
    "http:\n",
    "  delete:\n    enabled: true\n"
    "auth:\n  htpasswd:\n    realm: basic-realm\n    path: /etc/docker/registry\nhttp:\n",
)  # fmt: skip

UPSTREAM_2 = """\
version: 0.1
log:
  level: debug
  fields:
    service: registry
    environment: development
  hooks:
    - type: mail
      disabled: true
      levels:
        - panic
      options:
        smtp:
          addr: mail.example.com:25
          username: mailuser
          password: password
          insecure: true
        from: sender@example.com
        to:
          - errors@example.com
storage:
  delete:
    enabled: true
  cache:
    blobdescriptor: redis
  filesystem:
    rootdirectory: /var/lib/registry
  maintenance:
    uploadpurging:
      enabled: false
http:
  addr: :5000
  debug:
    addr: :5001
    prometheus:
      enabled: true
      path: /metrics
  headers:
    X-Content-Type-Options: [nosniff]
redis:
  addr: localhost:6379
  pool:
    maxidle: 16
    maxactive: 64
    idletimeout: 300s
  dialtimeout: 10ms
  readtimeout: 10ms
  writetimeout: 10ms
notifications:
  events:
    includereferences: true
  endpoints:
    - name: local-5003
      url: http://localhost:5003/callback
      headers:
        Authorization: [Bearer an-example]
      timeout: 1s
      threshold: 10
      backoff: 1s
      disabled: true
    - name: local-8083
      url: http://localhost:8083/callback
      timeout: 1s
      threshold: 10
      backoff: 1s
      disabled: true
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
"""

UPSTREAM_3 = OFFICIAL_3.replace("concurrencylimit: 5", "concurrencylimit: 8").replace(
    "  debug:\n", "  headers:\n    X-Content-Type-Options: [nosniff]\n  debug:\n"
).replace("  tag:\n", "  maintenance:\n    uploadpurging:\n      enabled: false\n  tag:\n")  # fmt: skip


def test_the_file_of_registry_2_starts(tmp_path: Path) -> None:
    """The commonest configuration there is."""
    loaded = load_text(tmp_path, OFFICIAL_2)
    assert loaded.warnings == ()
    settings = loaded.settings
    assert settings.http.addr == ":5000"
    assert settings.http.headers == {"X-Content-Type-Options": ("nosniff",)}
    assert settings.log.fields == {"service": "registry"}
    assert settings.storage.filesystem is not None
    assert settings.storage.filesystem.rootdirectory == "/var/lib/registry"
    assert not settings.storage.delete.enabled
    health = settings.health.storagedriver
    assert (health.enabled, health.interval, health.threshold) == (True, 10.0, 3)


def test_disabled_examples_do_not_prevent_a_start(tmp_path: Path) -> None:
    """The development file of version 2: a cache in Redis, metrics, hooks and endpoints that are switched off."""
    loaded = load_text(tmp_path, UPSTREAM_2)
    assert loaded.settings.storage.cache.blobdescriptor == "redis"
    assert loaded.settings.http.debug.addr


@pytest.mark.parametrize("text", [OFFICIAL_3, UPSTREAM_3])
def test_the_files_of_registry_3_start(tmp_path: Path, text: str) -> None:
    """With the debug listener and metrics that the image switches on."""
    loaded = load_text(tmp_path, text)
    assert loaded.warnings == ()
    debug = loaded.settings.http.debug
    assert (debug.addr, debug.prometheus.enabled, debug.prometheus.path) == (":5001", True, "/metrics")
    assert loaded.settings.storage.delete.enabled
    assert loaded.settings.log.level == "debug"


def test_debians_file_is_read_with_its_authentication_and_starts_without(tmp_path: Path) -> None:
    """By variable, so that the package's file can stay as it is.  It is open to the network, with a warning."""
    loaded = load_text(tmp_path, DEBIAN)
    assert loaded.settings.auth.htpasswd is not None
    assert loaded.settings.auth.htpasswd.path == "/etc/docker/registry"
    assert [problem.key for problem in loaded.warnings] == ["auth.htpasswd"]
    loaded = load_text(tmp_path, DEBIAN, {"REGISTRY_AUTH": "none"})
    assert loaded.settings.storage.delete.enabled
    assert (loaded.settings.auth.provider, loaded.warnings) == ("none", ())


@pytest.mark.parametrize("text", [OFFICIAL_3, UPSTREAM_3])
def test_a_variable_takes_the_debug_listener_away(tmp_path: Path, text: str) -> None:
    """An operator who does not want the image's open port has no file to edit."""
    loaded = load_text(tmp_path, text, {"REGISTRY_HTTP_DEBUG_ADDR": ""})
    assert loaded.warnings == ()
    assert loaded.settings.http.debug.addr == ""


def test_the_development_file_starts_without_redis(tmp_path: Path) -> None:
    """Its `redis` section stays and is only warned about; 2.8's spellings in it are understood."""
    environ = {"REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR": "inmemory"}
    loaded = load_text(tmp_path, UPSTREAM_2, environ)
    redis = loaded.settings.redis
    assert redis is not None
    assert (redis.addrs, redis.maxidleconns, redis.poolsize) == (("localhost:6379",), 16, 64)
    assert (redis.connmaxidletime, redis.dialtimeout) == (300.0, 0.01)
    assert not loaded.settings.storage.maintenance.uploadpurging.enabled
    assert "redis" in {problem.key for problem in loaded.warnings}

"""Variables: every rule of the reference, and every trap of it repaired."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.config.helpers import BASE, errors_of, load_text, warnings_of

from moorage.config.environment import variable_of
from moorage.config.model import Settings
from moorage.config.problems import ConfigError
from moorage.config.schema import ScalarOf, walk

if TYPE_CHECKING:
    from pathlib import Path


def at(settings: Settings, path: str) -> Any:
    """The value at a dotted path."""
    value: Any = settings
    for step in path.split("."):
        value = value[int(step)] if step.isdecimal() else getattr(value, step)
    return value


@pytest.mark.parametrize(
    ("variable", "payload", "path", "value"),
    [
        ("REGISTRY_HTTP_ADDR", ":8080", "http.addr", ":8080"),
        ("REGISTRY_HTTP_SECRET", "0123", "http.secret", "0123"),
        ("REGISTRY_HTTP_SECRET", '"p#ss: word"', "http.secret", "p#ss: word"),
        ("REGISTRY_HTTP_RELATIVEURLS", "yes", "http.relativeurls", True),
        ("REGISTRY_HTTP_DRAINTIMEOUT", "1m30s", "http.draintimeout", 90.0),
        ("REGISTRY_HTTP_HTTP2_DISABLED", "true", "http.http2.disabled", True),
        ("REGISTRY_HTTP_H2C_ENABLED", "true", "http.h2c.enabled", True),
        ("REGISTRY_HTTP_WORKERS", "3", "http.workers", 3),
        ("REGISTRY_HTTP_BODYTIMEOUT", "5s", "http.bodytimeout", 5.0),
        ("REGISTRY_LOG_LEVEL", "DEBUG", "log.level", "debug"),
        ("REGISTRY_LOGLEVEL", "warn", "log.level", "warn"),
        ("REGISTRY_LOG_FIELDS_SERVICE", "reg", "log.fields", {"service": "reg"}),
        ("REGISTRY_LOG_FIELDS_MY_FIELD", "1e3", "log.fields", {"my_field": 1000.0}),
        ("REGISTRY_LOG_ACCESSLOG_DISABLED", "true", "log.accesslog.disabled", True),
        ("REGISTRY_CATALOG_MAXENTRIES", "5", "catalog.maxentries", 5),
        ("REGISTRY_VALIDATION_MANIFESTS_URLS_ALLOW", "['^https?://']", "validation.manifests.urls.allow",
         ("^https?://",)),
        ("REGISTRY_POLICY_REPOSITORY_CLASSES_0", "image", "policy.repository.classes", ("image",)),
        ("REGISTRY_HEALTH_STORAGEDRIVER_ENABLED", "true", "health.storagedriver.enabled", True),
        ("REGISTRY_HEALTH_TCP_0_ADDR", "db:1", "health.tcp.0.addr", "db:1"),
        ("REGISTRY_HEALTH_TCPCHECKERS_0_ADDR", "db:1", "health.tcp.0.addr", "db:1"),
        ("REGISTRY_HEALTH_FILECHECKERS_0_FILE", "/x", "health.file.0.file", "/x"),
        ("REGISTRY_HEALTH_HTTPCHECKERS_0_URI", "http://x", "health.http.0.uri", "http://x"),
        ("REGISTRY_NOTIFICATIONS_EVENTCONFIG_INCLUDEREFERENCES", "true", "notifications.events.includereferences",
         True),
        ("REGISTRY_NOTIFICATIONS_EVENTS_INCLUDEREFERENCES", "true", "notifications.events.includereferences",
         True),
        ("REGISTRY_LOG_HOOKS", "[{disabled: true}]", "log.hooks.0.disabled", True),
        ("REGISTRY_STORAGE_DELETE_ENABLED", "true", "storage.delete.enabled", True),
        ("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR", "inmemory", "storage.cache.blobdescriptor", "inmemory"),
        ("REGISTRY_STORAGE_CACHE_LAYERINFO", "inmemory", "storage.cache.blobdescriptor", "inmemory"),
        ("REGISTRY_STORAGE_MAINTENANCE_READONLY_ENABLED", "true", "storage.maintenance.readonly.enabled", True),
        ("REGISTRY_STORAGE_MAINTENANCE_READONLY", "{enabled: true}", "storage.maintenance.readonly.enabled", True),
        ("REGISTRY_STORAGE_MAINTENANCE", "{readonly: {enabled: true}}", "storage.maintenance.readonly.enabled",
         True),
        ("REGISTRY_STORAGE_MAINTENANCE_UPLOADPURGING_AGE", "1h", "storage.maintenance.uploadpurging.age", 3600.0),
        ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/x", "storage.filesystem.rootdirectory", "/x"),
        ("REGISTRY_STORAGE", "{filesystem: {rootdirectory: /y}}", "storage.filesystem.rootdirectory", "/y"),
        ("REGISTRY_STORAGE", '{"filesystem": {"rootdirectory": "/y"}}', "storage.filesystem.rootdirectory", "/y"),
        ("REGISTRY_STORAGE", "inmemory", "storage.driver", "inmemory"),
        ("REGISTRY_HTTP_HEADERS", "{X-A: [b, c]}", "http.headers", {"X-A": ("b", "c")}),
        ("REGISTRY_HTTP_HEADERS_X-A_0", "b", "http.headers", {"x-a": ("b",)}),
        ("REGISTRY_MIDDLEWARE_STORAGE_0", "{name: x, disabled: true}", "middleware.storage.0.name", "x"),
        ("REGISTRY_VERSION", "0.1", "version", "0.1"),
    ],
)  # fmt: skip
def test_a_variable_sets_its_key(tmp_path: Path, variable: str, payload: str, path: str, value: object) -> None:
    """Compose files and charts set these; each must have the meaning of its name."""
    assert at(load_text(tmp_path, BASE, {variable: payload}).settings, path) == value


def test_every_single_setting_has_a_working_variable(tmp_path: Path) -> None:
    """A key that only the file can set cannot be set in containers."""
    for path, key in walk(Settings):
        if isinstance(key.shape, ScalarOf):
            name = variable_of(path)
            problems: list[str] = []
            try:
                problems += warnings_of(tmp_path, BASE, {name: ""})
            except ConfigError as error:
                problems += [str(problem) for problem in error.problems]
            assert not [problem for problem in problems if "names no setting" in problem], name


@pytest.mark.parametrize(
    ("text", "variable", "payload", "message"),
    [
        ("middleware: {storage: [{name: x, disabled: true, options: {}}]}",
         "REGISTRY_MIDDLEWARE_STORAGE_0_OPTIONS_BASEURL", "https://x", None),
        ("middleware: {storage: [{name: x, disabled: true, options: {baseurl: a}}]}",
         "REGISTRY_MIDDLEWARE_STORAGE_1", "{name: y, disabled: true}", None),
        ("notifications: {endpoints: [{name: a, disabled: true}]}",
         "REGISTRY_NOTIFICATIONS_ENDPOINTS_0_URL", "http://x", None),
    ],
)  # fmt: skip
def test_list_elements_of_the_file_are_reached(
    tmp_path: Path, text: str, variable: str, payload: str, message: None
) -> None:
    """CNCF Distribution panics or ignores it."""
    loaded = load_text(tmp_path, BASE + text, {variable: payload})
    assert loaded.warnings == ()
    shown = str(loaded.settings.model_dump())
    assert payload in shown or "'y'" in shown


def test_certificates_for_other_names_are_listed_by_number(tmp_path: Path) -> None:
    """With their paths in a secret each, as orchestrators mount them."""
    names = [f"{index}_{key}" for index in (0, 1) for key in ("CERTIFICATE", "KEY")]
    environ = {f"REGISTRY_HTTP_TLS_CERTIFICATES_{name}": str(tmp_path / name) for name in names}
    for name in names:
        (tmp_path / name).touch()
    environ |= {"REGISTRY_HTTP_TLS_CERTIFICATE": "/etc/passwd", "REGISTRY_HTTP_TLS_KEY": "/etc/passwd"}
    loaded = load_text(tmp_path, BASE, environ)
    found = [path for pair in loaded.settings.http.tls.certificates for path in (pair.certificate, pair.key)]
    assert found == [str(tmp_path / name) for name in names]
    assert loaded.warnings == ()


def test_half_a_certificate_by_variables_is_refused(tmp_path: Path) -> None:
    environ = {
        "REGISTRY_HTTP_TLS_CERTIFICATE": "/etc/passwd",
        "REGISTRY_HTTP_TLS_KEY": "/etc/passwd",
        "REGISTRY_HTTP_TLS_CERTIFICATES_0_CERTIFICATE": "/etc/passwd",
    }
    (problem,) = errors_of(tmp_path, BASE, environ)
    assert problem.key == "http.tls.certificates[0].key"


def test_list_elements_apply_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """Bytewise, 10 comes before 2, and the reference stops with "undefined index"."""
    environ = {f"REGISTRY_HEALTH_TCP_{n}_ADDR": f"h{n}:1" for n in range(12)}
    settings = load_text(tmp_path, BASE, environ).settings
    assert [entry.addr for entry in settings.health.tcp] == [f"h{n}:1" for n in range(12)]


def test_scalar_elements_are_set_by_number(tmp_path: Path) -> None:
    """The reference's manual documents this form, and its code does nothing for it."""
    text = BASE + "policy: {repository: {classes: [image, plugin]}}"
    settings = load_text(tmp_path, text, {"REGISTRY_POLICY_REPOSITORY_CLASSES_1": "chart"}).settings
    assert settings.policy.repository.classes == ("image", "chart")


def test_a_gap_in_a_list_is_an_error(tmp_path: Path) -> None:
    """A missing element cannot be made up."""
    (error,) = errors_of(tmp_path, BASE, {"REGISTRY_HEALTH_TCP_3_ADDR": "x:1"})
    assert str(error).startswith("REGISTRY_HEALTH_TCP_3_ADDR: health.tcp[3].addr: there is no element 0 yet")


def test_keys_with_an_underscore_are_reached(tmp_path: Path) -> None:
    """The reference makes two levels of `max_retries`."""
    text = BASE.replace("filesystem:\n    rootdirectory: /srv/registry", "azure: {}")
    errors = errors_of(tmp_path, text, {"REGISTRY_STORAGE_AZURE_MAX_RETRIES": "many"})
    assert "storage.azure.max_retries" in {error.key for error in errors}
    environ = {"REGISTRY_STORAGE_GCS_CREDENTIALS_PRIVATE_KEY": "[", "REGISTRY_STORAGE_GCS_BUCKET": "b"}
    errors = errors_of(tmp_path, BASE, environ)
    assert "storage.gcs.credentials.private_key" in {error.key for error in errors}


def test_a_driver_named_by_a_variable_wins_and_the_other_keys_stay(tmp_path: Path) -> None:
    """The stock image has filesystem; CNCF Distribution panics on REGISTRY_STORAGE_S3_BUCKET."""
    text = """
version: 0.1
http: {addr: ':5000'}
storage:
  filesystem: {rootdirectory: /srv/registry}
  delete: {enabled: true}
  redirect: {disable: true}
  cache: {blobdescriptor: inmemory}
  tag: {concurrencylimit: 3}
  maintenance: {readonly: {enabled: true}}
"""
    for environ in (
        {"REGISTRY_STORAGE": "inmemory"},
        {"REGISTRY_STORAGE": "{inmemory: }"},
        {"REGISTRY_STORAGE_INMEMORY": "{}"},
    ):
        storage = load_text(tmp_path, text, environ).settings.storage
        assert (storage.driver, storage.filesystem) == ("inmemory", None)
        assert storage.delete.enabled
        assert storage.redirect.disable
        assert storage.cache.blobdescriptor == "inmemory"
        assert storage.tag.concurrencylimit == 3
        assert storage.maintenance.readonly.enabled
    for bucket in (
        {"REGISTRY_STORAGE_S3_BUCKET": "b", "REGISTRY_STORAGE_S3_REGION": "r"},
        {"REGISTRY_STORAGE": "s3", "REGISTRY_STORAGE_S3_BUCKET": "b", "REGISTRY_STORAGE_S3_REGION": "r"},
        {"REGISTRY_STORAGE": "s3aws", "REGISTRY_STORAGE_S3_BUCKET": "b", "REGISTRY_STORAGE_S3AWS_REGION": "r"},
    ):
        storage = load_text(tmp_path, text, bucket).settings.storage
        assert storage.s3 is not None
        assert (storage.driver, storage.s3.bucket, storage.s3.region) == ("s3", "b", "r")


def test_variables_of_two_drivers_contradict_each_other(tmp_path: Path) -> None:
    """Choosing one would store images in an unexpected place."""
    environ = {"REGISTRY_STORAGE": "inmemory", "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/x"}
    (error,) = errors_of(tmp_path, BASE, environ)
    assert "inmemory (REGISTRY_STORAGE) and filesystem (REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY)" in str(error)


def test_an_empty_variable_of_another_driver_chooses_nothing(tmp_path: Path) -> None:
    """Compose files pass on variables that are not set, as empty ones."""
    assert load_text(tmp_path, BASE, {"REGISTRY_STORAGE_S3_BUCKET": ""}).settings.storage.driver == "filesystem"


def test_an_empty_variable_clears_the_value_of_the_file(tmp_path: Path) -> None:
    """`REGISTRY_HTTP_SECRET=` erases the file's secret; `REGISTRY_STORAGE=` the storage, as in the reference."""
    text = BASE + "  secret: abc\n"
    assert load_text(tmp_path, text).settings.http.secret == "abc"
    assert load_text(tmp_path, text, {"REGISTRY_HTTP_SECRET": ""}).settings.http.secret == ""
    (error,) = errors_of(tmp_path, text, {"REGISTRY_STORAGE": ""})
    assert error.key == "storage"


def test_auth_none_by_variable_switches_the_files_provider_off(tmp_path: Path) -> None:
    """In any case, as in the reference."""
    text = BASE + "auth: {htpasswd: {realm: r, path: /p}}"
    assert load_text(tmp_path, text, {"REGISTRY_AUTH": "None"}).settings.auth.provider == "none"
    (error,) = errors_of(tmp_path, BASE, {"REGISTRY_AUTH": "htpasswd", "REGISTRY_AUTH_HTPASSWD_REALM": "r"})
    assert error.key == "auth.htpasswd.path"


def test_contradicting_ways_of_authentication_are_refused(tmp_path: Path) -> None:
    """The reference takes one at random."""
    environ = {"REGISTRY_AUTH": "none", "REGISTRY_AUTH_HTPASSWD_REALM": "r", "REGISTRY_AUTH_HTPASSWD_PATH": "/p"}
    (error,) = errors_of(tmp_path, BASE, environ)
    assert "more than one" in error.message


def test_header_names_match_in_any_case(tmp_path: Path) -> None:
    """The reference sends both values then: two contradicting X-Frame-Options."""
    text = BASE + "  headers: {X-Content-Type-Options: [nosniff]}\n"
    environ = {"REGISTRY_HTTP_HEADERS_X-CONTENT-TYPE-OPTIONS": "[deny]"}
    headers = load_text(tmp_path, text, environ).settings.http.headers
    assert headers == {"X-Content-Type-Options": ("deny",)}
    text = BASE + "  headers: {X-A: [b], x-a: [c]}\n"
    assert load_text(tmp_path, text).settings.http.headers == {"X-A": ("b", "c")}


KUBERNETES = {
    "REGISTRY_SERVICE_HOST": "10.0.0.1",
    "REGISTRY_SERVICE_PORT": "5000",
    "REGISTRY_SERVICE_PORT_HTTP": "5000",
    "REGISTRY_PORT": "tcp://10.0.0.1:5000",
    "REGISTRY_PORT_5000_TCP": "tcp://10.0.0.1:5000",
    "REGISTRY_PORT_5000_TCP_PROTO": "tcp",
    "REGISTRY_PORT_5000_TCP_PORT": "5000",
    "REGISTRY_PORT_5000_TCP_ADDR": "10.0.0.1",
    "REGISTRY_STORAGE_SERVICE_HOST": "10.0.0.2",
    "REGISTRY_STORAGE_SERVICE_PORT": "80",
    "REGISTRY_STORAGE_PORT": "tcp://10.0.0.2:80",
    "REGISTRY_STORAGE_PORT_80_TCP": "tcp://10.0.0.2:80",
    "REGISTRY_AUTH_SERVICE_HOST": "10.0.0.3",
    "REGISTRY_AUTH_PORT_5000_TCP_ADDR": "10.0.0.3",
    "REGISTRY_REDIS_PORT": "tcp://10.0.0.4:6379",
    "REGISTRY_HTTP_DEBUG_PORT_1_UDP_PROTO": "udp",
}


def test_service_links_of_kubernetes_are_ignored_with_a_warning(tmp_path: Path) -> None:
    """A service called registry-storage made the reference crash in a loop."""
    loaded = load_text(tmp_path, BASE, KUBERNETES)
    assert loaded.settings == load_text(tmp_path, BASE).settings
    assert {problem.kind for problem in loaded.warnings} == {"warning"}
    assert len(loaded.warnings) == 5  # one for each service, not one for each variable


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("REGISTRY_HTTP_DRAINTIMOUT", "REGISTRY_HTTP_DRAINTIMEOUT"),
        ("REGISTRY_http_addr", "REGISTRY_HTTP_ADDR"),
        ("REGISTRY_TAG", "REGISTRY_TAGS"),
        ("REGISTRY_HEALTH_TCPCHECKER_0_ADDR", "REGISTRY_HEALTH_TCP_0_ADDR"),
        ("REGISTRY_PORT", None),
        ("REGISTRY_", None),
        ("REGISTRY__", None),
        ("REGISTRY_HEALTH_TCP_X_ADDR", "REGISTRY_HEALTH_TCP_0_ADDR"),
        ("REGISTRY_HEALTH_TCP_-1_ADDR", "REGISTRY_HEALTH_TCP_0_ADDR"),
        ("REGISTRY_LOG_LEVEL_X", "REGISTRY_LOG_LEVEL"),
    ],
)
def test_a_variable_that_names_nothing_is_reported_with_the_nearest(
    tmp_path: Path, name: str, meant: str | None
) -> None:
    """A typo in a variable would be ignored silently."""
    (problem,) = load_text(tmp_path, BASE, {name: "x"}).warnings
    assert (problem.kind, problem.origin.source, problem.nearest) == ("unknown", name, meant)


def test_other_variables_are_not_looked_at(tmp_path: Path) -> None:
    """Only the exact prefix counts; REGISTRY_CONFIGURATION_PATH is known."""
    environ = {"registry_http_addr": ":1", "HTTP_ADDR": ":1", "REGISTRY_CONFIGURATION_PATH": "/x", "REGISTRY": "y"}
    assert load_text(tmp_path, BASE, environ).warnings == ()


@pytest.mark.parametrize("payload", ["a: b", "@x", "'x", "[a", "%x", "`x"])
def test_text_that_is_no_yaml_asks_for_quotes_and_keeps_the_secret(tmp_path: Path, payload: str) -> None:
    """Passwords have such characters; the message must help and must not print them."""
    (error,) = errors_of(tmp_path, BASE, {"REGISTRY_HTTP_SECRET": payload})
    assert (error.key, error.origin.source) == ("http.secret", "REGISTRY_HTTP_SECRET")
    assert "quote it" in error.message
    assert payload not in error.message


def test_a_value_cut_at_a_hash_is_reported(tmp_path: Path) -> None:
    """`pass #1` is `pass` in YAML, as in CNCF Distribution, and nothing shows it."""
    loaded = load_text(tmp_path, BASE, {"REGISTRY_HTTP_SECRET": "pass #1"})
    assert loaded.settings.http.secret == "pass"
    assert "comment" in str(loaded.warnings[0])
    assert load_text(tmp_path, BASE, {"REGISTRY_HTTP_SECRET": "pass#1"}).warnings == ()


def test_a_wrong_value_is_reported_with_its_variable(tmp_path: Path) -> None:
    """Not with a line of the file, where nothing is wrong."""
    (error,) = errors_of(tmp_path, BASE, {"REGISTRY_LOG_LEVEL": "trace"})
    expected = "REGISTRY_LOG_LEVEL: log.level: expected error, warn, info or debug, found 'trace'"
    assert str(error) == expected


def test_nothing_is_put_below_a_value_of_the_wrong_shape(tmp_path: Path) -> None:
    """The file's mistake is reported; the variable does not hide it."""
    (error,) = errors_of(tmp_path, BASE + "log: loud", {"REGISTRY_LOG_LEVEL": "debug"})
    assert error.key == "log"
    assert error.origin.line == 7


def test_redis_is_reached_by_both_spellings(tmp_path: Path) -> None:
    """3.0 knew only the long one, 3.1 both."""
    for name in ("REGISTRY_REDIS_OPTIONS_DB", "REGISTRY_REDIS_DB"):
        redis = load_text(tmp_path, BASE, {name: "7"}).settings.redis
        assert redis is not None
        assert redis.db == 7
    (error,) = errors_of(tmp_path, BASE, {"REGISTRY_REDIS_ADDRS": "h:1"})
    assert str(error) == "REGISTRY_REDIS_ADDRS: redis.addrs: expected a list such as [a, b], found 'h:1'"

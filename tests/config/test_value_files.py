"""`REGISTRY_..._FILE`: a setting's value in a file, as Swarm, Kubernetes and systemd hand over secrets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.config.helpers import BASE, errors_of, load_text, warnings_of
from tests.config.test_environment import at
from tests.config.test_load import unprivileged

from moorage.config.environment import apply, variable_of
from moorage.config.model import Settings
from moorage.config.problems import NOWHERE, ConfigError
from moorage.config.scalars import read_loose_path, read_path
from moorage.config.schema import Key, ScalarOf, walk
from moorage.config.show import MASK, render
from moorage.config.tree import Map, Scalar, find

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "correct horse battery staple"

SCALARS: list[tuple[tuple[str, ...], Key, ScalarOf]] = [
    (path, key, key.shape) for path, key in walk(Settings) if isinstance(key.shape, ScalarOf)
]


@pytest.fixture
def secret(tmp_path: Path) -> Callable[[str | bytes], str]:
    """Writes a file, returns its path."""

    def write(content: str | bytes) -> str:
        file = tmp_path / "secret"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(file)

    return write


def sent(tmp_path: Path, text: str = BASE, **environ: str) -> Settings:
    return load_text(tmp_path, text, environ).settings


# ----------------------------------------------------------------------------------------------- the value


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("p", "p"),
        ("p\n", "p"),
        ("p\r\n", "p"),
        ("p\n\n", "p\n"),
        (" p ", " p "),
        ("0123", "0123"),
        ("yes\n", "yes"),
        ("~", "~"),
        ("a: b", "a: b"),
        ("*x", "*x"),
        ("a #b", "a #b"),
        ('"quoted"', '"quoted"'),
        ("{[", "{["),
        ("%\t@`", "%\t@`"),
        ("\ufeffp", "p"),
        ("a\nb\n", "a\nb"),
    ],
)
@pytest.mark.parametrize(
    ("variable", "path", "text"),
    [
        ("REGISTRY_HTTP_SECRET", "http.secret", BASE),
        ("REGISTRY_REDIS_PASSWORD", "redis.password", BASE + "redis: {addrs: ['localhost:6379']}\n"),
        ("REGISTRY_STORAGE_S3_SECRETKEY", "storage.s3.secretkey",
         "version: 0.1\nstorage: {s3: {region: r, bucket: b, accesskey: k}}\nhttp: {addr: ':5000'}\n"),
    ],
)  # fmt: skip
def test_a_text_is_the_content_of_the_file(
    tmp_path: Path, secret: Callable[[str], str], content: str, value: str, variable: str, path: str, text: str
) -> None:
    """A generated password may look like anything; nothing in it is YAML, and `0123` is not 83."""
    assert at(sent(tmp_path, text, **{f"{variable}_FILE": secret(content)}), path) == value


@pytest.mark.parametrize(
    ("variable", "content", "path", "value"),
    [
        ("REGISTRY_HTTP_WORKERS", "3\n", "http.workers", 3),
        ("REGISTRY_HTTP_RELATIVEURLS", "yes\n", "http.relativeurls", True),
        ("REGISTRY_HTTP_DRAINTIMEOUT", "1m30s\n", "http.draintimeout", 90.0),
        ("REGISTRY_LOG_LEVEL", "DEBUG\n", "log.level", "debug"),
        ("REGISTRY_LOG_FIELDS_ENVIRONMENT", "12:30\n", "log.fields", {"environment": "12:30"}),
        ("REGISTRY_LOG_FIELDS", "{a: 1}\n", "log.fields", {"a": 1}),
        ("REGISTRY_POLICY_REPOSITORY_CLASSES", "- image\n- plugin\n", "policy.repository.classes",
         ("image", "plugin")),
        ("REGISTRY_POLICY_REPOSITORY_CLASSES_0", "image\n", "policy.repository.classes", ("image",)),
        ("REGISTRY_HTTP_HEADERS_X-FRAME-OPTIONS_0", "deny\n", "http.headers", {"x-frame-options": ("deny",)}),
        ("REGISTRY_HTTP_HEADERS_X-FRAME-OPTIONS", "[deny]\n", "http.headers", {"x-frame-options": ("deny",)}),
        ("REGISTRY_HTTP_HTTP2", "disabled: true\n", "http.http2.disabled", True),
        ("REGISTRY_STORAGE", "inmemory\n", "storage.driver", "inmemory"),
        ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", "/data\n", "storage.filesystem.rootdirectory", "/data"),
        ("REGISTRY_HEALTH_FILECHECKERS_0_FILE", "/down\n", "health.file.0.file", "/down"),
        ("REGISTRY_HEALTH_FILE_0_FILE", "/down\n", "health.file.0.file", "/down"),
        ("REGISTRY_HEALTH_FILE", "[{file: /down}]\n", "health.file.0.file", "/down"),
        ("REGISTRY_LOGLEVEL", "warn", "log.level", "warn"),
    ],
)  # fmt: skip
def test_other_values_are_read_as_those_of_variables(
    tmp_path: Path, secret: Callable[[str], str], variable: str, content: str, path: str, value: object
) -> None:
    """Numbers, flags and durations as texts; lists, mappings and sections as YAML."""
    assert at(sent(tmp_path, **{f"{variable}_FILE": secret(content)}), path) == value


def test_credentials_as_a_file_of_json(tmp_path: Path, secret: Callable[[str], str]) -> None:
    """The key file of a Google service account, mounted as a secret."""
    text = "version: 0.1\nstorage: {gcs: {bucket: b}}\nhttp: {addr: ':5000'}\n"
    content = '{"type": "service_account", "private_key": "-----BEGIN\\nx\\n", "client_email": "a@b"}\n'
    settings = sent(tmp_path, text, REGISTRY_STORAGE_GCS_CREDENTIALS_FILE=secret(content))
    assert settings.storage.gcs is not None
    credentials: Any = settings.storage.gcs.credentials
    assert credentials["private_key"] == "-----BEGIN\nx\n"


@given(content=st.text(st.characters(codec="utf-8"), min_size=1), leaf=st.sampled_from(SCALARS))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_setting_can_come_from_a_file(
    tmp_path: Path, content: str, leaf: tuple[tuple[str, ...], Key, ScalarOf]
) -> None:
    """Text is unchanged for every name; other values have the same text; and no message shows it."""
    path, _, shape = leaf
    file = tmp_path / "content"
    file.write_bytes(content.encode())
    name = f"{variable_of(path)}_FILE"
    root = Map(NOWHERE)
    problems = apply(root, Settings, {name: str(file)})
    steps = [part for step in path for part in ((step[:-2], 0) if step.endswith("[]") else (step,))]
    node = find(root, tuple("s3" if step == "s3aws" else step for step in steps))
    text = content.removeprefix("\ufeff")
    if text.endswith("\n"):
        text = text.removesuffix("\n").removesuffix("\r")
    names_file = shape.reader.read in {read_path, read_loose_path} and path[-1] != "rootdirectory"
    if not text.strip() or (names_file and (text[0] != "/" or "\n" in text)):
        (problem,) = problems
        assert (problem.kind, problem.origin.source) == ("error", name)
        assert node is None
    else:
        assert problems == []
        assert isinstance(node, Scalar)
        assert (node.text, node.origin.source, node.origin.hidden) == (text, name, True)
        if shape.reader.kind == "text":
            assert node.quoted


def test_every_setting_has_a_variable_for_a_file(tmp_path: Path) -> None:
    """Also lists, mappings and sections; but not `auth`, whose variable is podman's."""
    file = tmp_path / "none"
    for path, _ in walk(Settings):
        name = f"{variable_of(path)}_FILE"
        problems = apply(Map(NOWHERE), Settings, {name: str(file)})
        if name == "REGISTRY_AUTH_FILE":
            assert [problem.kind for problem in problems] == ["warning"]
        elif name == "REGISTRY_HEALTH_FILE":  # a key
            assert problems == []
        else:
            (problem,) = problems
            assert problem.message == f"there is no file {file}; is the secret mounted there?", name


# ------------------------------------------------------------------------------------- keys that end in file


@pytest.mark.parametrize(
    ("variable", "path"),
    [
        ("REGISTRY_HEALTH_FILECHECKERS_0_FILE", "health.file.0.file"),
        ("REGISTRY_HEALTH_FILE_0_FILE", "health.file.0.file"),
        ("REGISTRY_HTTP_TLS_LETSENCRYPT_CACHEFILE", "http.tls.letsencrypt.cachefile"),
        ("REGISTRY_STORAGE_GCS_KEYFILE", "storage.gcs.keyfile"),
    ],
)
def test_a_key_that_ends_in_file_keeps_its_meaning(tmp_path: Path, variable: str, path: str) -> None:
    tls = "{letsencrypt: {hosts: [a.b], cachefile: /x}}"
    text = f"version: 0.1\nstorage: inmemory\nhttp: {{addr: ':5000', tls: {tls}}}\n"
    if "gcs" in path:
        text = text.replace("inmemory", "{gcs: {bucket: b}}")
    file = tmp_path / "not-read"
    if "keyfile" in path:
        file.write_text("{}")
    assert at(load_text(tmp_path, text, {variable: str(file)}).settings, path) == str(file)


def test_a_free_key_of_the_file_comes_first(tmp_path: Path, secret: Callable[[str], str]) -> None:
    """`log.fields` may have a field `config_file`; without it, the file's content is `config`."""
    text = BASE + "log: {fields: {config_file: a}}\n"
    assert sent(tmp_path, text, REGISTRY_LOG_FIELDS_CONFIG_FILE="b").log.fields == {"config_file": "b"}
    assert sent(tmp_path, REGISTRY_LOG_FIELDS_CONFIG_FILE=secret("b")).log.fields == {"config": "b"}


def test_podmans_variable_is_ignored_with_a_warning(tmp_path: Path, secret: Callable[[str], str]) -> None:
    (warning,) = warnings_of(tmp_path, BASE, {"REGISTRY_AUTH_FILE": secret('{"auths": {}}')})
    assert "podman, skopeo and buildah" in warning


# --------------------------------------------------------------------------------------------------- refusals


def refused(tmp_path: Path, **environ: str) -> str:
    (error,) = errors_of(tmp_path, BASE, environ)
    assert "\n" not in str(error)
    return str(error)


def test_a_setting_and_its_file_together_are_refused(tmp_path: Path, secret: Callable[[str], str]) -> None:
    """Neither takes precedence; the aliases of the reference are the same setting."""
    file = secret(SECRET)
    for value in ("x", ""):
        fragment = refused(tmp_path, REGISTRY_HTTP_SECRET=value, REGISTRY_HTTP_SECRET_FILE=file)
        assert fragment == (
            "REGISTRY_HTTP_SECRET_FILE: http.secret: sets the same as REGISTRY_HTTP_SECRET; "
            "remove one of the two variables"
        )
    environ = {"REGISTRY_HEALTH_TCPCHECKERS_0_ADDR": "a:1", "REGISTRY_HEALTH_TCP_0_ADDR_FILE": file}
    assert "health.tcp[0].addr: sets the same as" in refused(tmp_path, **environ)


def test_a_section_in_a_file_does_not_replace_single_settings(
    tmp_path: Path, secret: Callable[[str], str]
) -> None:
    """A variable for one key holds beside that for its section, as without files."""
    environ = {"REGISTRY_HTTP_FILE": secret("{addr: ':1', prefix: /p/}"), "REGISTRY_HTTP_ADDR": ":2"}
    assert sent(tmp_path, **environ).http.addr == ":2"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "there is no file {0}; is the secret mounted there?"),
        (Path.mkdir, "{0} is a directory; name the file in it"),
        (os.mkfifo, "{0} is not a regular file, and could not be read again at a reload"),
        (Path.touch, "{0} is empty; write the value into it, or remove the variable"),
        (lambda path: path.write_text("\n\n "), "{0} is empty; write the value into it, or remove the variable"),
        (lambda path: path.write_bytes(b"\xff\xfeh"), "{0} is not UTF-8; save it in that encoding"),
        (
            lambda path: path.write_bytes(b"x" * (2**20 + 1)),
            "{0} is larger than 1048576 bytes; is it the right file?",
        ),
        (lambda path: path.symlink_to(path), "{0} cannot be read: Too many levels of symbolic links"),
    ],
)
def test_a_file_that_holds_no_value_is_refused(
    tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    file = tmp_path / "secret"
    make(file)
    fragment = refused(tmp_path, REGISTRY_HTTP_SECRET_FILE=str(file))
    assert fragment == f"REGISTRY_HTTP_SECRET_FILE: http.secret: {reason.format(file)}"


def test_names_that_are_no_files_are_refused(tmp_path: Path) -> None:
    fragment = refused(tmp_path, REGISTRY_HTTP_SECRET_FILE="")
    assert fragment == (
        "REGISTRY_HTTP_SECRET_FILE: http.secret: is empty; name the file with the value, or remove the variable"
    )
    assert "cannot be read: not a path" in refused(tmp_path, REGISTRY_HTTP_SECRET_FILE="a\0b")


def test_an_unreadable_secret_names_the_user(tmp_path: Path, secret: Callable[[str], str]) -> None:
    """Secrets of Swarm belong to root, and the image does not run as root."""
    file = Path(secret(SECRET))
    file.chmod(0)
    with unprivileged():
        uid = os.geteuid()
        (error,) = errors_of_loaded(tmp_path, {"REGISTRY_HTTP_SECRET_FILE": str(file)})
    assert error == (
        f"REGISTRY_HTTP_SECRET_FILE: http.secret: {file} is not readable by this user (uid {uid}); "
        "change its owner or its mode"
    )


def errors_of_loaded(tmp_path: Path, environ: dict[str, str]) -> list[str]:
    """Without writing anything."""
    return [str(problem) for problem in apply(Map(NOWHERE), Settings, environ)]


@pytest.mark.parametrize(
    ("variable", "content"),
    [
        ("REGISTRY_HTTP_TLS_KEY", "-----BEGIN PRIVATE KEY-----\nMIG\n-----END PRIVATE KEY-----\n"),
        ("REGISTRY_AUTH_HTPASSWD_PATH", "ann:$2y$05$abcdefghijklmnopqrstuv\n"),
        ("REGISTRY_HTTP_TLS_CLIENTCAS_0", "-----BEGIN CERTIFICATE-----\nMIG\n"),
        ("REGISTRY_HTTP_TLS_CERTIFICATE", "/a\n/b\n"),
    ],
)
def test_the_file_that_a_path_should_name_is_no_value_of_it(
    tmp_path: Path, secret: Callable[[str], str], variable: str, content: str
) -> None:
    """An operator who mounts a key as a secret may set the wrong variable; the key must not reach the log."""
    file = secret(content)
    problems = errors_of_loaded(tmp_path, {f"{variable}_FILE": file})
    assert len(problems) == 1
    assert problems[0].endswith(
        f"the setting is a path, and the content of {file} is not one; to use that file, set {variable}={file}"
    )
    assert content.split("\n", maxsplit=1)[0] not in problems[0]


@pytest.mark.parametrize(
    ("variable", "content"),
    [
        ("REGISTRY_HTTP_WORKERS", SECRET),
        ("REGISTRY_HTTP_RELATIVEURLS", SECRET),
        ("REGISTRY_HTTP_DRAINTIMEOUT", SECRET),
        ("REGISTRY_HTTP_DRAINTIMEOUT", "~"),
        ("REGISTRY_LOG_LEVEL", SECRET),
        ("REGISTRY_HTTP_TLS_MINIMUMTLS", SECRET),
        ("REGISTRY_HTTP_TLS_CLIENTCAS", SECRET),
        ("REGISTRY_HTTP_HEADERS_X-A", SECRET),
        ("REGISTRY_HTTP_HEADERS", SECRET),
        ("REGISTRY_HTTP_TLS", SECRET),
        ("REGISTRY_HTTP_TRUSTEDPROXIES", f"[{SECRET}]"),
        ("REGISTRY_HTTP_TLS_CLIENTCAS", f"[{{a: {SECRET}}}]"),
        ("REGISTRY_HTTP_CORS", f"{{maxage: {SECRET}}}"),
        ("REGISTRY_HEALTH_TCP", f"*{SECRET}"),
    ],
)
def test_no_message_shows_the_content(
    tmp_path: Path, secret: Callable[[str], str], variable: str, content: str
) -> None:
    """The variable may name the wrong one of several secrets."""
    errors = errors_of(tmp_path, BASE, {f"{variable}_FILE": secret(content)})
    assert errors
    assert not [error for error in errors if "horse" in str(error)]
    assert any(str(error).startswith(f"{variable}_FILE: ") for error in errors)


def test_a_number_without_unit_is_not_shown(tmp_path: Path, secret: Callable[[str], str]) -> None:
    (warning,) = warnings_of(tmp_path, BASE, {"REGISTRY_HTTP_DRAINTIMEOUT_FILE": secret("8005551234")})
    assert "8005551234" not in warning
    assert "a number without a unit means a number nanoseconds" in warning


def test_show_masks_what_came_from_a_file(tmp_path: Path, secret: Callable[[str], str]) -> None:
    shown = render(sent(tmp_path, REGISTRY_HTTP_SECRET_FILE=secret(SECRET)))
    assert "horse" not in shown
    assert f"secret: '{MASK}'" in shown


@pytest.mark.parametrize(
    "path",
    [path for path, _, _ in SCALARS],
    ids=[variable_of(path).removeprefix("REGISTRY_") for path, _, _ in SCALARS],
)
def test_no_message_shows_the_content_of_a_wrong_file(
    tmp_path: Path, path: tuple[str, ...], secret: Callable[[str | bytes], str]
) -> None:
    """A variable may name the wrong file: also what is wrong with a value as a whole is reported without it."""
    try:
        loaded = load_text(tmp_path, BASE, {f"{variable_of(path)}_FILE": secret(SECRET)})
    except ConfigError as error:
        problems = error.problems
    else:
        problems = loaded.warnings
    assert not [problem for problem in problems if SECRET in str(problem)]


def test_a_driver_that_is_none_is_not_shown(tmp_path: Path, secret: Callable[[str | bytes], str]) -> None:
    (error,) = errors_of(tmp_path, BASE, {"REGISTRY_STORAGE_FILE": secret(SECRET)})
    assert str(error) == (
        "REGISTRY_STORAGE_FILE: storage: expected one of "
        "filesystem, inmemory, s3, gcs, azure, swift, oss in the file"
    )
    assert sent(tmp_path, REGISTRY_STORAGE_FILE=secret("inmemory\n")).storage.driver == "inmemory"


# ------------------------------------------------------------------------------------------------- misspellings


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("REGISTRY_HTTP_SECRET_FIEL", "REGISTRY_HTTP_SECRET_FILE"),
        ("REGISTRY_HTTP_SECRET_FILES", "REGISTRY_HTTP_SECRET_FILE"),
        ("REGISTRY_HTTP_SECERT_FILE", "REGISTRY_HTTP_SECRET_FILE"),
        ("REGISTRY_HTTP_SECRETFILE", "REGISTRY_HTTP_SECRET_FILE"),
        ("REGISTRY_HTTPTLS_KEY_FILE", "REGISTRY_HTTP_TLS_KEY_FILE"),
        ("registry_http_secret_file", "REGISTRY_HTTP_SECRET_FILE"),
        ("REGISTRY_PROXY_PASSWROD_FILE", "REGISTRY_PROXY_PASSWORD_FILE"),
        ("REGISTRY_AUTH_HTPASWD_PATH_FILE", "REGISTRY_AUTH_HTPASSWD_PATH_FILE"),
    ],
)
def test_a_misspelling_of_a_critical_one_is_an_error(tmp_path: Path, name: str, meant: str) -> None:
    """Without it every registry behind the balancer has another secret, and uploads break."""
    (error,) = errors_of(tmp_path, BASE, {name: "/run/secrets/x"})
    assert (error.origin.source, error.nearest) == (name, meant)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("REGISTRY_REDIS_PASSWORD_FIEL", "REGISTRY_REDIS_PASSWORD_FILE"),
        ("REGISTRY_REDIS_PASWORD_FILE", "REGISTRY_REDIS_PASSWORD_FILE"),
        ("REGISTRY_REDIS_PASSWORDFILE", "REGISTRY_REDIS_PASSWORD_FILE"),
        ("REGISTRY_HTTPSECRET_FILE", "REGISTRY_HTTP_SECRET_FILE"),
        ("REGISTRY_LOG_LEVLE_FILE", "REGISTRY_LOG_LEVEL_FILE"),
        ("REGISTRY_CERTIFICATES_FILE", None),
        ("REGISTRY_FILE", None),
        ("REGISTRY_CONFIGURATION_PATH_FILE", None),
    ],
)
def test_another_misspelling_is_reported(tmp_path: Path, name: str, meant: str | None) -> None:
    (problem,) = load_text(tmp_path, BASE, {name: "/run/secrets/x"}).warnings
    assert (problem.kind, problem.nearest) == ("unknown", meant)

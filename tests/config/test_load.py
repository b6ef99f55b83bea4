"""Source of the configuration, unreadable files, defaults, and reports of all mistakes."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import BASE, errors_of, load_text, warnings_of

from moorage.config import yaml
from moorage.config.load import load
from moorage.config.problems import ConfigError
from moorage.config.source import BUILT_IN
from moorage.config.tree import Map, copied, find

if TYPE_CHECKING:
    from collections.abc import Iterator

HOME = {"HOME": "/home/user"}


def test_the_argument_comes_before_the_variable(tmp_path: Path) -> None:
    """`serve FILE` means that file, as in the reference."""
    first, second = tmp_path / "first.yml", tmp_path / "second.yml"
    first.write_text(BASE)
    second.write_text(BASE.replace("5000", "5001"))
    environ = {"REGISTRY_CONFIGURATION_PATH": str(second)}
    assert load(first, environ).source == str(first)
    loaded = load(None, environ, places=[first])
    assert (loaded.settings.http.addr, loaded.path) == ("127.0.0.1:5001", second)


def test_the_images_places_are_tried_in_order(tmp_path: Path) -> None:
    """A file mounted where registry:2 had it was ignored by registry:3 without a word."""
    first, second = tmp_path / "v2.yml", tmp_path / "v3.yml"
    second.write_text(BASE)
    assert load(None, {"REGISTRY_CONFIGURATION_PATH": ""}, places=[first, second]).path == second
    first.write_text(BASE)
    loaded = load(None, {}, places=[first, second])
    assert loaded.path == first
    assert str(loaded.warnings[0]) == f"{second}: not read: {first} comes first"


@pytest.mark.parametrize(
    ("environ", "directory"),
    [
        ({"HOME": "/home/a"}, "/home/a/.local/share/moorage"),
        ({"HOME": "/home/a", "XDG_DATA_HOME": "/data"}, "/data/moorage"),
        ({"HOME": "/home/a", "XDG_DATA_HOME": "relative"}, "/home/a/.local/share/moorage"),
        ({"HOME": "/home/a", "XDG_DATA_HOME": ""}, "/home/a/.local/share/moorage"),
    ],
)
def test_without_a_file_the_built_in_defaults_serve(
    environ: dict[str, str], directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`moorage serve` on a fresh machine works, on loopback only, with the data where the user may write."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # root takes over what an older registry kept
    loaded = load(None, environ, places=[])
    settings = loaded.settings
    assert (loaded.source, loaded.path, loaded.warnings) == (BUILT_IN, None, ())
    assert settings.http.addr == "127.0.0.1:5000"
    assert settings.storage.filesystem is not None
    assert settings.storage.filesystem.rootdirectory == directory
    assert settings.storage.cache.blobdescriptor == "inmemory"
    assert not settings.storage.delete.enabled
    assert settings.auth.provider == "none"


def test_defaults_can_be_asked_for(tmp_path: Path) -> None:
    """Trying it out on a machine where another registry has its file."""
    file = tmp_path / "config.yml"
    file.write_text(BASE)
    environ = HOME | {"REGISTRY_CONFIGURATION_PATH": str(file)}
    loaded = load(None, environ, places=[file], defaults=True)
    assert (loaded.source, loaded.path) == (BUILT_IN, None)


def test_a_data_directory_keeps_its_spelling() -> None:
    """A home called /0123 or `~` must not be read as a value."""
    loaded = load(None, {"XDG_DATA_HOME": "/a #b: c"}, places=[])
    assert loaded.settings.storage.filesystem is not None
    assert loaded.settings.storage.filesystem.rootdirectory in {"/a #b: c/moorage", "/var/lib/registry"}


def test_variables_apply_to_the_built_in_defaults() -> None:
    """Containers without a file are configured by variables alone."""
    environ = HOME | {"REGISTRY_HTTP_ADDR": ":5000", "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/x"}
    settings = load(None, environ, places=[]).settings
    assert settings.http.addr == ":5000"
    assert settings.storage.filesystem is not None
    assert settings.storage.filesystem.rootdirectory == "/x"
    assert load(None, HOME | {"REGISTRY_STORAGE": "inmemory"}, places=[]).settings.storage.driver == "inmemory"


def test_a_file_without_a_value_has_the_references_default(tmp_path: Path) -> None:
    """A file that works with the old binary means the same here."""
    settings = load_text(tmp_path, BASE).settings
    assert settings.log.level == "info"
    assert settings.log.formatter == "text"
    assert settings.storage.cache.blobdescriptor == ""
    assert settings.storage.maintenance.uploadpurging.enabled
    assert settings.storage.maintenance.uploadpurging.age == 168 * 3600
    assert settings.http.draintimeout == 0
    assert settings.http.workers is None
    assert settings.http.bodytimeout == 120
    assert settings.http.headertimeout == 30
    assert settings.catalog.maxentries == 1000
    assert settings.tags.maxtags == 1000
    text = "version: 0.1\nstorage: {filesystem: }\nhttp: {addr: ':1'}"
    filesystem = load_text(tmp_path, text).settings.storage.filesystem
    assert filesystem is not None
    assert (filesystem.rootdirectory, filesystem.maxthreads) == ("/var/lib/registry", 100)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("catalog: {maxentries: 0}", ("catalog", "maxentries"), 1000),
        ("catalog: {maxentries: -1}", ("catalog", "maxentries"), 1000),
        ("validation: {enabled: true, disabled: true}", ("validation", "disabled"), False),
        ("validation: {enabled: false, disabled: true}", ("validation", "disabled"), True),
        ("health: {storagedriver: {interval: 0}}", ("health", "storagedriver", "interval"), 10.0),
        ("loglevel: error", ("log", "level"), "error"),
        ("loglevel: error\nlog: {level: warn}", ("log", "level"), "warn"),
        ("log: {level: ''}", ("log", "level"), "info"),
        ("log: {formatter: ''}", ("log", "formatter"), "text"),
        ("auth: None", ("auth", "provider"), "none"),
        ("auth: {NONE: {}}", ("auth", "provider"), "none"),
        ("redis: {pool: {maxactive: 4}}", ("redis", "poolsize"), 4),
        ("redis: {addr: h:1}", ("redis", "addrs"), ("h:1",)),
        ("redis: {tls: {clientcas: [a]}}", ("redis", "tls", "rootcas"), ("a",)),
        ("validation: {manifests: {indexes: {platforms: LIST}}}",
         ("validation", "manifests", "indexes", "platforms"), "list"),
    ],
)  # fmt: skip
def test_habits_of_the_reference(tmp_path: Path, text: str, path: tuple[str, ...], value: object) -> None:
    """Values that mean another value, and older spellings."""
    found: object = load_text(tmp_path, BASE + text).settings
    for step in path:
        found = getattr(found, step)
    assert found == value


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"\xff\xfe", "config.yml:1: not UTF-8"),
        (b"version: 0.1\n\xff", "config.yml:2: not UTF-8"),
        (b"a: [", "config.yml:1: not YAML"),
        (b"- a", "expected a mapping with version, storage and http, found a list"),
        (b"hello", "expected a mapping with version, storage and http, found 'hello'"),
        (b" " * (5 * 2**20), "larger than"),
        (b"\x7fELF", "not YAML"),
    ],
)
def test_what_is_no_configuration_is_reported_in_one_line(tmp_path: Path, content: bytes, part: str) -> None:
    """For anything mounted by mistake the message has the cause, never a traceback."""
    path = tmp_path / "config.yml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    (problem,) = caught.value.problems
    assert part in str(problem)
    assert "\n" not in str(problem)


def test_files_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    """No such file, a directory, a path through a file, a name with a zero byte."""
    (tmp_path / "file").write_text("x")
    for path, part in (
        (tmp_path / "none.yml", "no such file"),
        (tmp_path, "is a directory"),
        (tmp_path / "file" / "x", "cannot be read"),
        (Path("a\0b"), "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=part):
            load(path, {})


def test_a_directory_that_docker_made_is_reported(tmp_path: Path) -> None:
    """`-v ./config.yml:/etc/distribution/config.yml` without the file makes a directory of that name."""
    mounted = tmp_path / "config.yml"
    mounted.mkdir()
    expected = (
        f"{mounted}: is an empty directory, which Docker creates where the file to mount does not exist on the "
        "host; remove that directory, create the file in its place, and create the container again"
    )
    with pytest.raises(ConfigError) as caught:
        load(mounted, {})
    assert str(caught.value) == expected
    (mounted / "config.yml").touch()
    with pytest.raises(ConfigError, match=r"is a directory; name the file in it, such as config.yml"):
        load(mounted, {})


@pytest.mark.parametrize("named", ["argument", "variable"])
def test_the_other_of_both_places_is_reported_where_one_is_named(tmp_path: Path, named: str) -> None:
    """An image names one of them, and the file is mounted at the other, as for the other major version."""
    places = (tmp_path / "docker.yml", tmp_path / "distribution.yml")
    other = tmp_path / "other.yml"
    for file in (*places, other):
        file.write_text(BASE)
    for file, unread in ((places[0], places[1:]), (places[1], places[:1]), (other, ())):
        argument = file if named == "argument" else None
        environ = {} if argument else {"REGISTRY_CONFIGURATION_PATH": str(file)}
        how = "on the command line" if argument else "by REGISTRY_CONFIGURATION_PATH"
        loaded = load(argument, environ, places=places)
        assert loaded.path == file
        assert [str(warning) for warning in loaded.warnings] == [
            f"{place}: not read: {file} is named {how}" for place in unread
        ]


def test_a_file_of_another_user_is_reported(tmp_path: Path) -> None:
    """A secret file owned by root, and a registry that is not."""
    path = tmp_path / "config.yml"
    path.write_text(BASE)
    path.chmod(0)
    with unprivileged(), pytest.raises(ConfigError, match="not readable by this user"):
        load(path, {})


@contextmanager
def unprivileged() -> Iterator[None]:
    """Run without the privileges of root, which may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    """Windows editors write one."""
    path = tmp_path / "config.yml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.encode())
    assert load(path, {}).settings.http.addr == "127.0.0.1:5000"


def test_one_look_finds_every_mistake(tmp_path: Path) -> None:
    """Mending one mistake per start takes an evening."""
    text = """\
version: 0.2
log: {level: loud}
storage:
  filesystem: {maxthreads: many}
  inmemory: {}
  delete: yes
http:
  addr: 5000
  net: udp
  headers: {X-A: b}
  draintimeout: 1d
health: {tcp: {addr: x}}
"""
    errors = errors_of(tmp_path, text, {"REGISTRY_TAGS_MAXTAGS": "-1"})
    assert {error.key for error in errors} == {
        "log.level", "storage.filesystem.maxthreads", "storage.delete", "http.net", "http.headers.X-A",
        "http.draintimeout", "health.tcp", "tags.maxtags", "version", "http.addr", "storage",
    }  # fmt: skip
    by_key = {error.key: str(error) for error in errors}
    file = tmp_path / "config.yml"
    assert by_key["log.level"] == f"{file}:2: log.level: expected error, warn, info or debug, found 'loud'"
    assert by_key["tags.maxtags"].startswith("REGISTRY_TAGS_MAXTAGS: tags.maxtags: expected a whole number of at")


@pytest.mark.parametrize(
    ("line", "key", "meant"),
    [
        ("healht: {}", "healht", "health"),
        ("catalog: {maxentrys: 5}", "catalog.maxentrys", "catalog.maxentries"),
        ("log: {acceslog: {disabled: true}}", "log.acceslog", "log.accesslog"),
        ("Log: {}", "Log", "log"),
        ("health: {tcp: [{address: x, addr: 'a:1'}]}", "health.tcp[0].address", "health.tcp[0].addr"),
        ("auth: none\nzzz: 1", "zzz", None),
    ],
)
def test_an_unknown_key_is_reported_with_a_hint(tmp_path: Path, line: str, key: str, meant: str | None) -> None:
    """CNCF Distribution ignores `maxentrys` silently."""
    (problem,) = load_text(tmp_path, BASE + line).warnings
    assert (problem.kind, problem.key, problem.nearest) == ("unknown", key, meant)
    assert problem.origin.line == 7 + line.count("\n")


def test_a_misspelt_driver_is_an_error(tmp_path: Path) -> None:
    """Starting with another storage than the one that was meant would look like lost images."""
    (error,) = errors_of(tmp_path, BASE.replace("filesystem", "Filesystem"))
    assert "is not a storage driver; expected filesystem, inmemory, s3, gcs or azure" in str(error)
    assert error.nearest == "storage.filesystem"
    (error,) = errors_of(tmp_path, BASE + "auth: {htpaswd: {}}")
    assert "htpasswd, token, local, silly or none (did you mean auth.htpasswd?)" in str(error)
    (error,) = errors_of(tmp_path, BASE, {"REGISTRY_STORAGE": "filesytem"})
    assert str(error).startswith("REGISTRY_STORAGE: storage.filesytem: is not a storage driver")


def test_a_number_of_nanoseconds_is_warned_about(tmp_path: Path) -> None:
    """`draintimeout: 30` drains for 30 ns, which is never intended."""
    (warning,) = warnings_of(tmp_path, BASE + "  draintimeout: 30\n")
    assert "30 nanoseconds; write 30s" in warning


def test_a_quoted_true_is_true_and_reported(tmp_path: Path) -> None:
    """The reference takes `delete.enabled: "true"` for false without a word."""
    loaded = load_text(tmp_path, BASE, {"REGISTRY_STORAGE_DELETE_ENABLED": '"true"'})
    assert loaded.settings.storage.delete.enabled
    assert "takes it for false" in str(loaded.warnings[0])


def test_settings_never_print_secrets(tmp_path: Path) -> None:
    """A log line or a traceback with the settings in it must not leak."""
    settings = load_text(tmp_path, BASE + "  secret: hidden-thing\nproxy: {password: hidden-too}\n").settings
    assert settings.http.secret == "hidden-thing"
    assert "hidden" not in repr(settings)
    assert "hidden" not in str(settings)


def test_a_deep_tree_is_copied(tmp_path: Path) -> None:
    """The file alone is compared with the result of the variables."""
    text = BASE + "x-deep: " + "[" * 150 + "{a: b}" + "]" * 150 + "\n"
    (problem,) = load_text(tmp_path, text, {"REGISTRY_HTTP_ADDR": ":5001"}).warnings
    assert problem.key == "x-deep"


def test_a_copy_of_a_tree_shares_nothing_that_changes() -> None:
    node, _ = yaml.read("a: {b: [1, {c: 2}]}\nd: 3", "f", [])
    assert isinstance(node, Map)
    copy = copied(node)
    assert copy == node
    inner = find(copy, ("a", "b", 1))
    assert isinstance(inner, Map)
    inner.drop("c")
    assert find(node, ("a", "b", 1, "c")) is not None

"""The short way to the address of a running registry ends where the long one does, or gives up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml as pyyaml
from hypothesis import given
from hypothesis import strategies as st

from moorage.config import listener as module
from moorage.config import yaml
from moorage.config.listener import Listener, listener, listener_of_tree
from moorage.config.load import load
from moorage.config.problems import ConfigError
from moorage.config.schema import keys_of
from moorage.config.sections.http import Http
from moorage.config.tree import Map

if TYPE_CHECKING:
    from pathlib import Path

texts = st.sampled_from(
    ["", ":5000", "127.0.0.1:5", "tcp", "unix", "/run/s", "0123", "~", "yes", "[a]", "{}", "a: b"]
)
letsencrypt = st.fixed_dictionaries(
    {},
    optional={
        "cachefile": texts,
        "cachedir": texts,
        "hosts": st.lists(st.sampled_from(["A.example", "b.example"])),
    },
)
tls = st.fixed_dictionaries(
    {}, optional={"certificate": texts, "key": texts, "letsencrypt": st.none() | letsencrypt, "minimumtls": texts}
)
https = st.fixed_dictionaries(
    {"addr": texts}, optional={"net": texts, "tls": st.none() | texts | tls, "secret": texts, "prefix": texts}
)
names = st.sampled_from(
    ["", "_ADDR", "_NET", "_TLS", "_TLS_CERTIFICATE", "_TLS_KEY", "_TLS_LETSENCRYPT_CACHEFILE", "_SECRET", "_HOST",
     "_PORT", "_TLS_CLIENTCAS_0", "_ADR", "_HEADERS_X-A", "_DEBUG_ADDR", "_TLS_LETSENCRYPT"]
)  # fmt: skip
environs = st.dictionaries(names.map(lambda name: f"REGISTRY_HTTP{name}"), texts, max_size=3)


@given(http=https, environ=environs)
def test_both_ways_agree(
    tmp_path_factory: pytest.TempPathFactory, http: dict[str, Any], environ: dict[str, str]
) -> None:
    """A listener that `load` accepts is found or left to it; never another one."""
    file = tmp_path_factory.getbasetemp() / "config.yml"
    text = pyyaml.safe_dump({"version": 0.1, "storage": "inmemory", "http": http})
    file.write_text(text)
    try:
        settings = load(file, environ).settings.http
    except ConfigError:
        return
    acme = settings.tls.letsencrypt
    whole = Listener(settings.addr, settings.net, settings.tls.enabled, acme.cachefile, acme.names)
    tree, _ = yaml.read(text, "file", [])
    assert isinstance(tree, Map)
    short = listener_of_tree(tree, environ)
    # Without ACME its hosts do not matter.
    if not whole.acme_directory:
        whole = Listener(whole.addr, whole.net, whole.tls)
    assert short in {None, whole}
    assert listener(file, environ).addr == whole.addr


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("http: {addr: ':5000'}", {}, Listener(":5000", "tcp", tls=False)),
        ("http: {addr: ':5000', tls: {}}", {"REGISTRY_HTTP_ADDR": ":1"}, Listener(":1", "tcp", tls=False)),
        (
            "http: {addr: /run/s, net: unix}",
            {"REGISTRY_STORAGE": "inmemory"},
            Listener("/run/s", "unix", tls=False),
        ),
        ("http: {addr: ':5000', tls: {certificate: a, key: b}}", {}, Listener(":5000", "tcp", tls=True)),
        (
            "http: {addr: ':5000'}",
            {"REGISTRY_HTTP_TLS_CERTIFICATE": "a", "REGISTRY_HTTP_TLS_KEY": "b"},
            Listener(":5000", "tcp", tls=True),
        ),
        (
            "http: {addr: ':5000', headers: {a: [b]}}",
            {"REGISTRY_HTTP_SECRET": "x"},
            Listener(":5000", "tcp", tls=False),
        ),
        (
            "http: {addr: ':5000', tls: {letsencrypt: {cachefile: /c, hosts: [A.b, a.b]}}}",
            {},
            Listener(":5000", "tcp", tls=True, acme_directory="/c", acme_hosts=("a.b",)),
        ),
        ("x: 1", {}, None),
        ("http: {addr: ''}", {}, None),
        ("http: {addr: ':5000'}", {"REGISTRY_HTTP": "{addr: ':1'}"}, None),
        ("http: {addr: ':5000'}", {"REGISTRY_HTTP_TLS": "{}"}, None),
        ("http: {addr: ':5000'}", {"REGISTRY_HTTP_ADDR_FILE": "/run/secrets/addr"}, None),
        ("http: {addr: ':5000'}", {"REGISTRY_HTTP_ADDR": ""}, None),
        ("http: {addr: ':5000'}", {"REGISTRY_HTTP_ADDR": "["}, None),
        ("http: {addr: ':5000', tls: []}", {}, None),
    ],
)
def test_plain_settings_are_found_the_short_way(
    text: str, environ: dict[str, str], expected: Listener | None
) -> None:
    tree, _ = yaml.read(text, "file", [])
    assert isinstance(tree, Map)
    assert listener_of_tree(tree, environ) == expected


def test_without_a_file_the_defaults_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moorage.config.source.PLACES", (tmp_path / "none",))
    assert listener(None, {}) == Listener("127.0.0.1:5000", "tcp", tls=False)


def test_mistakes_are_those_of_load(tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    file.write_text("version: 0.1\nstorage: inmemory\nhttp: {addr: [1]}\n")
    with pytest.raises(ConfigError, match=r"http.addr: expected text"):
        listener(file, {})
    file.write_text("version: 0.1\nstorage: inmemory\nhttp: {addr: ':1'}\nhttp: {addr: ':2'}\n")
    with pytest.raises(ConfigError, match="duplicate key"):
        listener(file, {})


def test_no_setting_that_matters_is_new() -> None:
    """A key of `http` that changes where the registry listens must be read here as well."""
    known = {"addr", "net", "tls"}
    beginnings = ("REGISTRY_HTTP_ADDR", "REGISTRY_HTTP_NET", "REGISTRY_HTTP_TLS")
    others = {name for name in keys_of(Http) if f"REGISTRY_HTTP_{name.upper()}".startswith(beginnings)}
    assert others == known
    assert set(beginnings) < set(module._OTHERS)

"""Refusals and warnings of all sections but `http` and those of object stores; texts that cannot be paths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import BASE, PLAIN, errors_of, load_text

if TYPE_CHECKING:
    from pathlib import Path

HOOK = BASE + "log: {{hooks: [{{type: mail, levels: [error], options: {{{}}}}}]}}"

WRONG = [
    ("http: {addr: ':1'}\nstorage: inmemory", "version", "required"),
    ("version: 0.10\nhttp: {addr: ':1'}\nstorage: inmemory", "version", "expected 0.1"),
    ("version: 0.1\nhttp: {addr: ':1'}", "storage", "names no driver"),
    ("version: 0.1\nhttp: {addr: ':1'}\nstorage: {delete: {enabled: true}}", "storage", "names no driver"),
    (PLAIN + "storage: {inmemory: , filesystem: }", "storage", "more than one driver: filesystem, inmemory"),
    (PLAIN + "storage: {filesystem: {rootdirectory: ''}}", "storage.filesystem.rootdirectory", "directory"),
    (PLAIN + "storage: [a]", "storage", "expected a mapping, found a list"),
    (PLAIN + "storage: {filesystem: [a]}", "storage.filesystem", "expected a mapping"),
    (PLAIN + "storage: {filesystem: {maxthreads: x}}", "storage.filesystem.maxthreads", "whole number"),
    (BASE + "tags: {maxtags: -1}", "tags.maxtags", "at least 0"),
    (BASE + "health: {file: [{file: /a}, {file: /a}]}", "health.file[1]", "a second time"),
    (BASE + "health: {file: [{interval: 1s}]}", "health.file[0].file", "required and missing"),
    (BASE + "health: {http: [{uri: 'x:1'}]}", "health.http[0].uri", "expected an http or https URL"),
    (BASE + "health: {http: [{uri: 'http://a:b'}]}", "health.http[0].uri", "expected an http or https URL"),
    (BASE + "health: {tcp: [{addr: x}]}", "health.tcp[0].addr", "expected host:port"),
    (BASE + "validation: {manifests: {urls: {deny: ['(']}}}", "validation.manifests.urls.deny[0]", "regular expr"),
    (BASE + "validation: {manifests: {urls: {allow: ['[[:digit:]]']}}}", "validation.manifests.urls.allow[0]",
     "regular expr"),
    (BASE + "validation: {manifests: {indexes: {platforms: some}}}", "validation.manifests.indexes.platforms",
     "expected all, none or list"),
    (BASE + "quota: {rules: [{bytes: 1GiB}]}", "quota.rules[0].repositories", "required and missing"),
    (BASE + "quota: {rules: [{repositories: Team, bytes: 1GiB}]}", "quota.rules[0].repositories", "lower case"),
    (BASE + "quota: {rules: [{repositories: a/, bytes: 1GiB}]}", "quota.rules[0].repositories", "slash at either"),
    (BASE + "quota: {rules: [{repositories: a***, tags: 1}]}", "quota.rules[0].repositories", "repository names"),
    (BASE + "quota: {rules: [{repositories: a}]}", "quota.rules[0]", "limits nothing"),
    (BASE + "quota: {rules: [{repositories: a, bytes: 10}]}", "quota.rules[0].bytes", "with its unit"),
    (BASE + "quota: {rules: [{repositories: a, bytes: 0GiB}]}", "quota.rules[0].bytes", "above 0"),
    (BASE + "quota: {rules: [{repositories: a, bytes: -1GiB}]}", "quota.rules[0].bytes", "above 0"),
    (BASE + "quota: {rules: [{repositories: a, bytes: 10XB}]}", "quota.rules[0].bytes", "such as 10GiB"),
    (BASE + "quota: {rules: [{repositories: a, bytes: 9999PiB}]}", "quota.rules[0].bytes", "at most 4096PiB"),
    (BASE + "quota: {rules: [{repositories: a, tags: 0}]}", "quota.rules[0].tags", "at least 1"),
    (BASE + "quota: {rules: [{repositories: a, tags: 1}, {repositories: a, tags: 2}]}",
     "quota.rules[1].repositories", "has limits in quota.rules[0] already"),
    (BASE + "quota: {interval: 0s}", "quota.interval", "above 0"),
    (BASE + "auth: {none: , htpasswd: {realm: r, path: p}}", "auth", "more than one way"),
    (BASE + "auth: {htpasswd: {realm: r}}", "auth.htpasswd.path", "required and missing"),
    (BASE + "auth: {htpasswd: {path: p}}", "auth.htpasswd.realm", "required and missing"),
    (BASE + "auth: {silly: {realm: r}}", "auth.silly.service", "required and missing"),
    (BASE + "auth: {local: {users: u}}", "auth.local.policy", "required and missing"),
    (BASE + "auth: {local: {policy: p, service: ''}}", "auth.local.service", "expected a name"),
    (BASE + "auth: {local: {policy: p, realm: /token}}", "auth.local.realm", "expected an http or https URL"),
    (BASE + "auth: {local: {policy: p, tokenlifetime: 30s}}", "auth.local.tokenlifetime", "from 1m to 24h"),
    (BASE + "auth: {local: {policy: p, tokenlifetime: 300}}", "auth.local.tokenlifetime", "with its unit"),
    (BASE + "auth: {local: {policy: p, loginlifetime: -1s}}", "auth.local.loginlifetime", "from 0s to"),
    (BASE + "auth: {local: {policy: p, keyrotation: 1s}}", "auth.local.keyrotation", "from 1m to"),
    (BASE + "auth: {local: {policy: p}, silly: {realm: r, service: s}}", "auth", "more than one way"),
    (BASE + "guessing: {failures: -1}", "guessing.failures", "from 0 to"),
    (BASE + "guessing: {window: 60}", "guessing.window", "with its unit"),
    (BASE + "guessing: {longestwait: 0s}", "guessing.longestwait", "above 0"),
    (BASE + "log: {formatter: xml}", "log.formatter", "expected text, json or logstash"),
    (BASE + "log: {fields: [a]}", "log.fields", "expected a mapping"),
    (BASE + "log: {hooks: [{levels: [panic]}]}", "log.hooks[0].type", "expected mail"),
    (BASE + "log: {hooks: [{disabled: true}, {type: slack}]}", "log.hooks[1].type", "found 'slack'"),
    (BASE + "log: {hooks: [{type: mail}]}", "log.hooks[0].levels", "required"),
    (BASE + "log: {hooks: [{type: mail, levels: [panic, critical]}]}", "log.hooks[0].levels[1]", "one of panic"),
    (BASE + "log: {hooks: [{type: mail}]}", "log.hooks[0].options.smtp.addr", "required"),
    (HOOK.format("smtp: {addr: mail.example}"), "log.hooks[0].options.smtp.addr", "expected host:port"),
    (HOOK.format("smtp: {addr: '::1:25'}"), "log.hooks[0].options.smtp.addr", "in brackets"),
    (HOOK.format("smtp: {addr: ':25'}"), "log.hooks[0].options.smtp.addr", "expected host and port"),
    (HOOK.format("smtp: {addr: 'h:25', password: x}"), "log.hooks[0].options.smtp.username", "with a password"),
    (HOOK.format("to: [a@b]"), "log.hooks[0].options.from", "sender's address"),
    (HOOK.format("from: nobody at all"), "log.hooks[0].options.from", "expected an address"),
    (HOOK.format("from: a@b"), "log.hooks[0].options.to", "recipients' addresses"),
    (HOOK.format('from: a@b, to: [c@d, "e@f\\r\\nBcc: g@h"]'), "log.hooks[0].options.to[1]", "an address"),
    (BASE + "redis: {addrs: h:1}", "redis.addrs", "expected a list"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "fragment"), WRONG)
def test_a_wrong_setting_is_refused_with_its_key(tmp_path: Path, text: str, key: str, fragment: str) -> None:
    """The message is all that the operator has: key, file, and what was expected."""
    errors = {error.key: error for error in errors_of(tmp_path, text)}
    assert key in errors
    assert any(part in errors[key].message for part in fragment.split("|"))
    assert errors[key].origin.source.endswith("config.yml")


@pytest.mark.parametrize(
    ("text", "key", "kind"),
    [("redis: {addrs: [x]}", "redis", "warning"), ("reporting: {bugsnag: {apikey: x}}", "reporting", "warning"),
     ("compatibility: {schema1: {enabled: true}}", "compatibility", "warning"),
     ("  host: h.example:5000", "http.host", "warning"), ("  host: ftp://h.example", "http.host", "warning"),
     ("  host: 'http://['", "http.host", "warning"),
     ("  tls: {minimumtls: tls1.2}", "http.tls", "warning"), ("  tls: {clientcas: []}", "http.tls", "warning"),
     ("  cors: {credentials: true}", "http.cors", "warning"),
     ("  headers: {Access-Control-Allow-Origin: [http://a, http://b]}",
      "http.headers.Access-Control-Allow-Origin", "warning"),
     (HOOK.format("smtp: {addr: '[::1]:25'}, from: root, to: [r <a@b>]")[len(BASE):].replace("error", "Trace"),
      "log.hooks[0].levels[0]", "warning"),
     ("  tls: {certificate: /etc/passwd, key: /etc/passwd, minimumtls: tls1.1}", "http.tls.minimumtls",
      "warning")],
)  # fmt: skip
def test_what_has_no_effect_is_reported(tmp_path: Path, text: str, key: str, kind: str) -> None:
    """These start the reference and change nothing, or nothing any more."""
    loaded = load_text(tmp_path, BASE + text)
    assert [(problem.key, problem.kind, problem.origin.line) for problem in loaded.warnings] == [(key, kind, 7)]
    assert loaded.settings.http.host == ""
    assert loaded.settings.http.tls.minimumtls == "tls1.2"


def test_messages_keep_secrets(tmp_path: Path) -> None:
    """Logs of a failed start are pasted into issues."""
    text = BASE + "proxy: {password: {hush: hush}}\nredis: hush"
    errors = errors_of(tmp_path, text + "\nnotifications: {endpoints: [{disabled: true, headers: hush}]}")
    assert "notifications.endpoints[0].headers" in {error.key for error in errors}
    assert not any("hush" in error.message for error in errors if error.key != "redis")


TOKEN = BASE + "auth: {token: {realm: r, service: s, issuer: i, "

PATHS = [
    PLAIN + "storage: {filesystem: {rootdirectory: PATH}}", "storage.filesystem.rootdirectory",
    PLAIN + "storage: {s3: {bucket: b, region: r, cabundle: PATH}}", "storage.s3.cabundle",
    PLAIN + "storage: {s3: {bucket: b, region: r, rootdirectory: PATH}}", "storage.s3.rootdirectory",
    PLAIN + "storage: {gcs: {bucket: b, keyfile: PATH}}", "storage.gcs.keyfile",
    BASE + "  tls: {certificate: PATH, key: /etc/passwd}", "http.tls.certificate",
    BASE + "  tls: {certificate: /etc/passwd, key: PATH}", "http.tls.key",
    BASE + "  tls: {certificate: /etc/passwd, key: /etc/passwd, clientcas: [PATH]}", "http.tls.clientcas[0]",
    BASE + "  tls: {letsencrypt: {cachefile: PATH, hosts: [r.example]}}", "http.tls.letsencrypt.cachefile",
    BASE + "auth: {htpasswd: {realm: r, path: PATH}}", "auth.htpasswd.path",
    TOKEN + "jwks: /j, rootcertbundle: PATH}}", "auth.token.rootcertbundle",
    TOKEN + "rootcertbundle: /r, jwks: PATH}}", "auth.token.jwks",
    BASE + "health: {file: [{file: PATH}]}", "health.file[0].file",
    BASE.replace("127.0.0.1:5000", "PATH") + "  net: unix", "http.addr",
]  # fmt: skip


@pytest.mark.parametrize(("text", "key"), list(zip(PATHS[::2], PATHS[1::2], strict=True)))
@pytest.mark.parametrize(("path", "reason"), [(r'"/tmp/\0x"', "no NUL"), (r'"/tmp/\ud800x"', "no lone surrogate")])
def test_an_invalid_path_is_refused(tmp_path: Path, text: str, key: str, path: str, reason: str) -> None:
    """The system call behind it raises ValueError, which would be a traceback at the start."""
    (error,) = errors_of(tmp_path, text.replace("PATH", path))
    assert error.key == key
    assert reason in error.message
    assert str(error).isprintable()


def test_bytes_that_are_no_text_may_be_a_path(tmp_path: Path) -> None:
    """Linux takes them; in Python they are lone surrogates of one range."""
    loaded = load_text(tmp_path, BASE.replace("/srv/registry", r'"/srv/caf\udce9"'))
    assert loaded.settings.storage.filesystem is not None
    assert loaded.settings.storage.filesystem.rootdirectory == "/srv/caf\udce9"

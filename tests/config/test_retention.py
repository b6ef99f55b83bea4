"""Refusals of `retention` and `immutability`: rules that cannot be meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import BASE, errors_of, load_text, warnings_of

if TYPE_CHECKING:
    from pathlib import Path

RULE = BASE + "retention: {{rules: [{{repositories: ['**'], {}}}]}}"
HOLD = BASE + "retention: {{holds: [{{repositories: ['**'], reason: r, {}}}]}}"
IMMUTABLE = BASE + "immutability: {{rules: [{{repositories: ['**'], {}}}]}}"

WRONG = [
    (BASE + "retention: {rules: [{keeplast: 3}]}", "retention.rules[0].repositories", "required and missing"),
    (BASE + "retention: {interval: 24}", "retention.interval", "with its unit"),
    (RULE.format("name: x"), "retention.rules[0]", "has no condition; set keeplast"),
    (RULE.format("keeplast: -1"), "retention.rules[0].keeplast", "at least 0"),
    (RULE.format("keeplast: many"), "retention.rules[0].keeplast", "whole number"),
    (RULE.format("pushedwithin: 0s"), "retention.rules[0].pushedwithin", "above 0"),
    (RULE.format("pushedwithin: 30d"), "retention.rules[0].pushedwithin", "expected a duration"),
    (RULE.format("pulledwithin: 30"), "retention.rules[0].pulledwithin", "with its unit"),
    (RULE.format("keepall: true, keeplast: 3"), "retention.rules[0].keepall", "contradicts keeplast"),
    (RULE.format("keeplast: 1, tags: {regex: '('}"), "retention.rules[0].tags.regex", "regular expression"),
    (RULE.format("keeplast: 1, tags: {regex: '[[:alpha:]]'}"), "retention.rules[0].tags.regex", "regular expr"),
    (RULE.format("keeplast: 1, tags: {semver: '>2 <1'}"), "retention.rules[0].tags.semver", "no version is in"),
    (RULE.format("keeplast: 1, tags: {semver: 'new'}"), "retention.rules[0].tags.semver", "no comparator"),
    (RULE.format("keeplast: 1, tags: {match: ['a/b']}"), "retention.rules[0].tags.match[0]", "no tag can have"),
    (RULE.format("keeplast: 1, tags: {match: ['v?']}"), "retention.rules[0].tags.match[0]", "no tag can have"),
    (RULE.format("keeplast: 1, tags: {match: ['**']}"), "retention.rules[0].tags.match[0]", "no slashes"),
    (RULE.format("keeplast: 1, tags: {except: ['*']}"), "retention.rules[0].tags.except", "excludes every tag"),
    (RULE.format("keeplast: 1, tags: {match: [a], except: [a]}"), "retention.rules[0].tags.except", "excludes"),
    (RULE.format("keeplast: 1, tags: {exclude: [a]}"), "retention.rules[0].tags.exclude", "unknown key"),
    (BASE + "retention: {rules: [{repositories: ['Team/*'], keeplast: 1}]}",
     "retention.rules[0].repositories[0]", "expected a pattern"),
    (BASE + "retention: {rules: [{repositories: ['team**'], keeplast: 1}]}",
     "retention.rules[0].repositories[0]", "whole component"),
    (BASE + "retention: {rules: [{repositories: ['a--_b'], keeplast: 1}]}",
     "retention.rules[0].repositories[0]", "no repository can have"),
    (BASE + "retention: {rules: [{repositories: [''], keeplast: 1}]}",
     "retention.rules[0].repositories[0]", "expected a pattern"),
    (BASE + "retention: {rules: [{repositories: [a], keeplast: 1}, {repositories: [a], keepall: true}]}",
     "retention.rules[1]", "selects the same tags as retention.rules[0]"),
    (BASE + "retention: {rules: [{repositories: [a], name: x, keeplast: 1}, {repositories: [b], name: x, "
     "keeplast: 1}]}", "retention.rules[1].name", "name of retention.rules[0]"),
    (BASE + "retention: {untagged: {after: 1m}}", "retention.untagged.after", "at least 1h"),
    (BASE + "retention: {untagged: {after: 2h, repositories: ['*/']}}", "retention.untagged.repositories[0]",
     "expected a pattern"),
    (BASE + "retention: {holds: [{repositories: [a]}]}", "retention.holds[0].reason", "required and missing"),
    (BASE + "retention: {holds: [{reason: x}]}", "retention.holds[0].repositories", "required and missing"),
    (HOLD.format("tags: ['a b']"), "retention.holds[0].tags[0]", "no tag can have"),
    (HOLD.format("digests: ['sha256:12']"), "retention.holds[0].digests[0]", "hex digits"),
    (HOLD.format("tag: [a]"), "retention.holds[0].tag", "unknown key"),
    (BASE + "retension: {}", "retension", "similar to one that protects"),
    (BASE + "immutability: {rules: [{}]}", "immutability.rules[0].repositories", "required and missing"),
    (IMMUTABLE.format("tags: ['v***']"), "immutability.rules[0].tags[0]", "no slashes"),
    (IMMUTABLE.format("except: ['*']"), "immutability.rules[0].except", "excludes every tag"),
    (IMMUTABLE.format("excpt: [latest]"), "immutability.rules[0].excpt", "unknown key"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "key", "fragment"), WRONG)
def test_a_rule_that_cannot_be_meant_is_refused_with_its_key(
    tmp_path: Path, text: str, key: str, fragment: str
) -> None:
    """What a rule deletes cannot be guessed; nothing is deleted by one with a mistake."""
    errors = {error.key: error for error in errors_of(tmp_path, text)}
    assert key in errors
    assert fragment in errors[key].message


def test_the_documented_dialect_is_read(tmp_path: Path) -> None:
    """Every key, in the spelling of docs/retention.md."""
    text = (
        BASE
        + """\
retention:
  enabled: true
  interval: 12h
  rules:
    - name: releases
      repositories: [team/**]
      tags: {match: [v*], regex: '.*', semver: '>=1.0 <2.0', except: [v1.0.0]}
      keeplast: 10
      pushedwithin: 720h
      pulledwithin: 720h
  untagged: {after: 168h, repositories: [team/*]}
  holds: [{repositories: [team/app], tags: [v1], reason: case 7}]
  pulls: {enabled: true, flush: 30s}
immutability: {rules: [{repositories: ['**'], tags: [v*], except: [latest], deletable: true}]}
"""
    )
    settings = load_text(tmp_path, text).settings
    rule = settings.retention.rules[0]
    assert (rule.keeplast, rule.pushedwithin, rule.pulledwithin) == (10, 30 * 86400.0, 30 * 86400.0)
    assert rule.tags.except_ == ("v1.0.0",)
    assert settings.retention.untagged.after == 7 * 86400.0
    assert settings.immutability.rules[0].except_ == ("latest",)


def test_rules_can_be_written_as_variables(tmp_path: Path) -> None:
    """Containers are often configured by variables alone."""
    environ = {
        "REGISTRY_RETENTION_ENABLED": "true",
        "REGISTRY_RETENTION_RULES_0_REPOSITORIES": "[team/**]",
        "REGISTRY_RETENTION_RULES_0_TAGS_EXCEPT_0": "latest",
        "REGISTRY_RETENTION_RULES_0_KEEPLAST": "5",
        "REGISTRY_IMMUTABILITY_RULES": "[{repositories: ['**'], tags: [v*]}]",
    }
    settings = load_text(tmp_path, BASE, environ).settings
    (rule,) = settings.retention.rules
    assert (rule.repositories, rule.tags.except_, rule.keeplast) == (("team/**",), ("latest",), 5)
    assert settings.immutability.rules[0].tags == ("v*",)


def test_rules_without_effect_are_reported(tmp_path: Path) -> None:
    """An operator who relies on them fills the disk."""
    (warning,) = warnings_of(tmp_path, BASE + "retention: {enabled: true}")
    assert "has no effect" in warning
    rule = "retention: {enabled: true, rules: [{repositories: [a], keeplast: 1}]}"
    (warning,) = warnings_of(tmp_path, f"version: 0.1\nhttp: {{addr: ':1'}}\nstorage: inmemory\n{rule}")
    assert "storage.inmemory" in warning
    readonly = BASE.replace("http:", "  maintenance: {readonly: {enabled: true}}\nhttp:")
    (warning,) = warnings_of(
        tmp_path, readonly + "retention: {enabled: true, rules: [{repositories: [a], keeplast: 1}]}"
    )
    assert "readonly" in warning

"""Refusals of `sync`: jobs that cannot be meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import BASE, errors_of, load_text, warnings_of

from moorage.config.show import render

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = BASE + "sync: {{jobs: [{{name: a, repositories: [{{match: x}}], source: {{{}}}}}]}}"
ENTRY = BASE + "sync: {{jobs: [{{name: a, source: {{registry: b.test}}, repositories: [{{{}}}]}}]}}"
JOB = "source: {registry: b.test}, repositories: [{match: x}]"
FIRST = "sync.jobs[0]"

WRONG = [
    (BASE + f"sync: {{jobs: [{{{JOB}}}]}}", f"{FIRST}.name", "required and missing"),
    (
        BASE + "sync: {jobs: [{name: a, source: {registry: b.test}}]}",
        f"{FIRST}.repositories",
        "required and missing",
    ),
    (BASE + "sync: {jobs: [{name: a, repositories: [{match: x}]}]}", f"{FIRST}.source.registry", "required"),
    (BASE + f"sync: {{jobs: [{{name: a, {JOB}}}, {{name: a, {JOB}}}]}}", "sync.jobs[1].name", "is the name of"),
    (BASE + "sync: {interval: 6}", "sync.interval", "with its unit"),
    (BASE + "sync: {parallelism: 0}", "sync.parallelism", "from 1 to 64"),
    (BASE + "sync: {ratelimit: 1000}", "sync.ratelimit", "a size above 0 with its unit"),
    (BASE + "sync: {schedule: 6h}", "sync.schedule", "unknown key"),
    (SOURCE.format("registry: b.test/path"), f"{FIRST}.source.registry", "expected a host"),
    (SOURCE.format("registry: 'ftp://b.test'"), f"{FIRST}.source.registry", "expected a host"),
    (SOURCE.format("registry: 'user:word@b.test'"), f"{FIRST}.source.registry", "expected a host"),
    (SOURCE.format("registry: 'http://b.test'"), f"{FIRST}.source.registry", "set plainhttp"),
    (SOURCE.format("registry: 'localhost:5000', plainhttp: true"), f"{FIRST}.source.registry", "this registry"),
    (SOURCE.format("registry: b.test, username: u"), f"{FIRST}.source.username", "needs a password"),
    (SOURCE.format("registry: b.test, password: p"), f"{FIRST}.source.password", "needs a username"),
    (
        SOURCE.format("registry: b.test, username: u, password: p, exec: {command: h}"),
        f"{FIRST}.source.exec.command",
        "contradicts",
    ),
    (ENTRY.format("tags: {match: ['*']}"), f"{FIRST}.repositories[0].match", "required and missing"),
    (ENTRY.format("match: Team/x"), f"{FIRST}.repositories[0].match", "expected a pattern"),
    (ENTRY.format("match: x, tags: {match: ['a b']}"), f"{FIRST}.repositories[0].tags.match[0]", "no tag can"),
    (ENTRY.format("match: x, tags: {regex: '('}"), f"{FIRST}.repositories[0].tags.regex", "regular expression"),
    (ENTRY.format("match: x, tags: {semver: new}"), f"{FIRST}.repositories[0].tags.semver", "no comparator"),
    (ENTRY.format("match: x, tags: {newest: 0}"), f"{FIRST}.repositories[0].tags.newest", "at least 1"),
    (ENTRY.format("match: x, tags: {latest: 3}"), f"{FIRST}.repositories[0].tags.latest", "unknown key"),
    (ENTRY.format("match: x, platforms: [amd64]"), f"{FIRST}.repositories[0].platforms[0]", "linux/amd64"),
    (ENTRY.format("match: x, target: Mirror/"), f"{FIRST}.repositories[0].target", "expected a name"),
    (ENTRY.format("match: 'x/*', target: y"), f"{FIRST}.repositories[0].target", "as a prefix it is y/"),
]


@pytest.mark.parametrize(("text", "key", "message"), WRONG)
def test_jobs_that_cannot_be_meant_are_refused(tmp_path: Path, text: str, key: str, message: str) -> None:
    """At the check, not in the log of a night."""
    found = [problem for problem in errors_of(tmp_path, text) if problem.key == key]
    assert len(found) == 1, [str(problem) for problem in errors_of(tmp_path, text)]
    assert message in found[0].message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BASE + "sync: {enabled: true}", "has no effect: there is no job"),
        (BASE.replace("filesystem:\n    rootdirectory: /srv/registry", "inmemory:") + f"sync: {{enabled: true, "
         f"jobs: [{{name: a, {JOB}}}]}}", "has no effect with storage.inmemory"),
        (BASE + f"sync: {{enabled: true, jobs: [{{name: a, {JOB}}}]}}\n"
         "storage: {filesystem: {rootdirectory: /srv}, maintenance: {readonly: {enabled: true}}}", "readonly"),
        (SOURCE.format("registry: b.test, plainhttp: true, ca: /x.pem"), "has no effect with plainhttp"),
    ],
)  # fmt: skip
def test_jobs_without_effect_are_warned_about(tmp_path: Path, text: str, message: str) -> None:
    if text.count("storage:") == 2:
        head, _, tail = text.partition("storage:\n  filesystem:\n    rootdirectory: /srv/registry\n")
        text = head + tail
    assert any(message in warning for warning in warnings_of(tmp_path, text))


def test_a_whole_job_is_accepted_and_its_password_is_masked(tmp_path: Path) -> None:
    text = (
        BASE
        + """\
sync:
  enabled: true
  interval: 1h
  ratelimit: 20MB
  jobs:
  - name: hub
    source: {registry: docker.io, username: u, password: hidden-word}
    target: {registry: 'registry.example:5000', exec: {command: helper, lifetime: 5m}}
    repositories:
    - match: library/alpine
      tags: {semver: ^3, newest: 2, except: [edge]}
      platforms: [linux/amd64, linux/arm/v7]
    - {match: 'team/**', referrers: false, target: mirror/}
"""
    )
    loaded = load_text(tmp_path, text)
    assert loaded.warnings == ()
    job = loaded.settings.sync.jobs[0]
    assert (loaded.settings.sync.ratelimit, job.source.password) == (20_000_000, "hidden-word")
    assert job.repositories[0].tags.except_ == ("edge",)
    assert "hidden-word" not in render(loaded.settings)

"""`moorage auth`: explained decisions, secrets for robots; and `config check` of a policy."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, Protocol

import pytest
import yaml
from tests.auth.local.helpers import policy_file, users_file

from moorage.auth.local.policy_file import read
from moorage.auth.local.robot_secrets import digest_of, matching_digest
from moorage.cli import main

if TYPE_CHECKING:
    from pathlib import Path

POLICY: Final = f"""
groups: {{dev: [ann]}}
robots:
  ci: {{secret: "{digest_of("x", "s" * 22)}", expires: never}}
  old: {{secret: "{digest_of("x", "s" * 22)}", expires: 2020-01-31}}
issuers:
  - name: gitlab
    issuer: https://ci.example
    audience: registry.example
    rules:
      - claims: {{project_path: "acme/*"}}
        repositories: "{{project_path}}"
        allow: [pull, push]
access:
  - who: anonymous
    repositories: library/**
    allow: pull
  - who: [group:dev, robot:ci, robot:old]
    repositories: [library/**, team/**]
    allow: [push]
  - {{who: ann, catalog: true}}
"""


class Run(Protocol):
    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]: ...


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The entry point in this process: exit status, standard output and error."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["moorage", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        written = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, written.out, written.err

    return call


@pytest.fixture
def config(tmp_path: Path) -> Path:
    policy_file(tmp_path, POLICY)
    users_file(tmp_path, ann="a", bob="b")
    path = tmp_path / "config.yml"
    path.write_text(
        "version: 0.1\nstorage: inmemory\nhttp: {addr: '127.0.0.1:0'}\n"
        f"auth: {{local: {{policy: {tmp_path}/policy.yml, users: {tmp_path}/users}}}}\n"
    )
    return path


@pytest.mark.parametrize(
    ("arguments", "first", "more"),
    [
        ("anonymous pull library/app", "allowed: anonymous may pull library/app", ["granted by", "access[0]"]),
        ("anonymous push library/app", "refused: anonymous may not push library/app", ["push: no rule grants it"]),
        ("ann push library/app", "allowed: ann may push library/app",
         ["pull: granted by", ":15: access[0] (who anonymous; repositories library/**; allow pull)",
          "push: granted by", ":18: access[1] (who group:dev, robot:ci, robot:old;"]),
        ("ann push team/app", "refused: ann may not push team/app", ["pull: no rule grants it", "push: granted"]),
        ("user:ann pull team/app", "refused: user:ann may not pull team/app", ["that concern this user"]),
        ("bob pull library/app", "allowed: bob may pull library/app", []),
        ("eve pull library/app", "refused: eve may not pull library/app", ["there is no user 'eve' in"]),
        ("robot+ci push library/app", "allowed: robot+ci may push library/app", []),
        ("robot:ci push library/app", "allowed: robot:ci may push library/app", []),
        ("robot+old push library/app", "refused: robot+old may not push library/app", ["ended on 2020-02"]),
        ("robot+no pull library/app", "refused: robot+no may not pull library/app", ["there is no robot 'no'"]),
        ("ann catalog -", "allowed: ann may list the repositories", ["catalog: granted by", "access[2]"]),
        ("bob catalog -", "refused: bob may not list the repositories", ["catalog: no rule grants it"]),
        ("issuer:gitlab push acme/app --claim project_path=acme/app",
         "allowed: issuer:gitlab may push acme/app", ["issuers[0].rules[0]"]),
        ("issuer:gitlab push acme/app --claim project_path=acme/other",
         "refused: issuer:gitlab may not push acme/app", ["push: no rule grants it"]),
        ("issuer:gitlab pull library/app --claim project_path=evil/app",
         "refused: issuer:gitlab may not pull library/app", ["no rule matches these claims"]),
        ("issuer:other pull library/app", "refused: issuer:other may not pull library/app", ["no issuer 'other'"]),
    ],
)  # fmt: skip
def test_every_decision_is_explained(run: Run, config: Path, arguments: str, first: str, more: list[str]) -> None:
    """The question of every second ticket; scripts take the exit status."""
    user, action, repository, *options = arguments.split()
    status, out, err = run("auth", "explain", *options, user, action, repository, config)
    assert out.splitlines()[0] == first
    assert status == (0 if first.startswith("allowed") else 1)
    for expected in more:
        assert expected in out
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("ann write a", "expected pull, push, delete or catalog"), ("ann pull A", "is no name of a repository"),
     ("issuer:gitlab pull a --claim x", "expected NAME=VALUE"), ("ann pull", "Missing argument")],
)  # fmt: skip
def test_a_question_that_makes_no_sense_is_status_2(run: Run, config: Path, arguments: str, expected: str) -> None:
    status, _, err = run(
        "auth", "explain", *arguments.split(), *([config] if " a" in arguments.lower()[4:] else [])
    )
    assert status == 2
    assert expected in " ".join(err.split())


def test_without_a_policy_nothing_can_be_explained(run: Run, config: Path, tmp_path: Path) -> None:
    """One line with the reason; status 1 is also "refused", so that a script never takes it for a yes."""
    other = tmp_path / "other.yml"
    other.write_text("version: 0.1\nstorage: inmemory\nhttp: {addr: '127.0.0.1:0'}\n")
    status, out, err = run("auth", "explain", "ann", "pull", "a", other)
    assert (status, out) == (1, "")
    assert "auth.local is not configured" in err
    policy_file(tmp_path, "acess: []")
    status, out, err = run("auth", "explain", "ann", "pull", "a", config)
    assert (status, out) == (1, "")
    assert "unknown key (did you mean access?)" in err
    other.write_text("version: 9")
    assert run("auth", "explain", "ann", "pull", "a", other)[0] == 1


def test_check_reads_the_policy_and_the_users_too(run: Run, config: Path, tmp_path: Path) -> None:
    """Every error of every file, before the registry is restarted with it."""
    message = "warning: auth.local without http.secret: tokens and logins end at a restart; set http.secret\n"
    assert run("config", "check", config) == (0, f"{config}: no errors\n", message)
    policy_file(tmp_path, POLICY + "  - {who: group:dve, repositories: a, allow: pul}\n")
    status, _, err = run("config", "check", config)
    assert status == 1
    assert f"error: {tmp_path}/policy.yml:22: access[3].who: there is no 'dve' in groups" in err
    assert f"error: {tmp_path}/policy.yml:22: access[3].allow: expected pull, push or delete, found 'pul'" in err
    assert "2 errors" in err
    policy_file(tmp_path, POLICY.replace("[ann]", "[anna]"))
    status, _, err = run("config", "check", config)
    assert status == 0
    assert "warning: " in err
    assert "there is no user 'anna'" in err
    (tmp_path / "policy.yml").unlink()
    assert "policy.yml: cannot be read: No such file" in run("config", "check", config)[2]


def test_a_robots_secret_is_shown_once_and_its_lines_go_into_the_file(run: Run, tmp_path: Path) -> None:
    """The lines hold the digest alone; the secret opens the account that they describe."""
    status, lines, message = run("auth", "robot", "ci", "--expires", "90d")
    assert status == 0
    secret = message.split()[-1]
    assert "robot+ci" in message
    assert secret not in lines
    assert yaml.safe_load(lines)["robots"].keys() == {"ci"}
    found = read(str(policy_file(tmp_path, lines)))
    assert found.policy is not None
    robot = found.policy.robots["ci"]
    assert matching_digest(robot, secret.encode())
    assert robot.expires is not None
    assert 89 <= (robot.expires - datetime.now(UTC)).days <= 91
    assert run("auth", "robot", "ci")[2].split()[-1] != secret
    assert "expires: never" in run("auth", "robot", "ci", "--expires", "never")[1]


@pytest.mark.parametrize(
    ("arguments", "expected"), [(("a b",), "expected letters"), (("ci", "--expires", "1y"), "a term such as 90d")]
)
def test_a_robot_that_cannot_be_is_status_2(run: Run, arguments: tuple[str, ...], expected: str) -> None:
    status, out, err = run("auth", "robot", *arguments)
    assert (status, out) == (2, "")
    assert expected in " ".join(err.split())


def test_both_commands_explain_themselves_with_an_example(run: Run) -> None:
    for command in ("explain", "robot"):
        assert "Example: moorage auth" in run("help", "auth", command)[1]

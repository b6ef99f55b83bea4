"""Parsing the policy: every mistake is reported by line and key, and none takes half a policy into force."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.auth.local.helpers import may, policy_file, users_file

from moorage.auth.local import policy_file as policy_file_module
from moorage.auth.local.build import problems_of
from moorage.auth.local.policy import Identity
from moorage.auth.local.policy_file import read

HASH: Final = f"sha256:{'a' * 22}:{'0' * 64}"
ROBOT: Final = f"robots:\n  ci:\n    secret: {HASH}\n    expires: never\n"
RULE: Final = "access:\n  - who: ann\n    repositories: a/**\n    allow: pull\n"
ISSUER: Final = (
    "issuers:\n  - name: ci\n    issuer: https://ci.example\n    audience: me\n"
    "    rules: [{claims: {sub: x}, repositories: a/**, allow: pull}]\n"
)

WRONG: Final = [
    ("acess: []", 1, "acess", "unknown key (did you mean access?)"),
    ("[a]", 1, "", "expected a mapping, found a list"),
    ("access: {who: ann}", 1, "access", "expected a list, found a mapping"),
    ("access:\n  - ann", 2, "access[0]", "expected a mapping, found 'ann'"),
    ("access: [", 1, "", "not YAML"),
    ("groups: [a]", 1, "groups", "expected a mapping, found a list"),
    ("groups:\n  dev: [ann]\n  dev: [bob]", 3, "groups.dev", "duplicate key; the first is on line 2"),
    ("groups:\n  'a b': [ann]", 2, "groups.a b", "expected a name of A-Z"),
    ("groups:\n  dev: [ann, 'a:b']", 2, "groups.dev[1]", "expected a user's name, found 'a:b'"),
    ("groups:\n  dev: [[ann]]", 2, "groups.dev[0]", "expected text, found a list"),
    (RULE.replace("ann", "group:dve"), 2, "access[0].who", "there is no 'dve' in groups"),
    ("groups: {devel: [ann]}\n" + RULE.replace("ann", "group:devl"), 3, "access[0].who", "mean group:devel?"),
    (RULE.replace("ann", "robot:ci"), 2, "access[0].who", "there is no 'ci' in robots"),
    (RULE.replace("ann", "grop:dev"), 2, "access[0].who", "expected user:, group: or robot: before a name"),
    (RULE.replace("ann", "''"), 2, "access[0].who", "expected a user's name"),
    (RULE.replace("ann", "[]"), 2, "access[0].who", "required and missing"),
    ("access: [{repositories: a, allow: pull}]", 1, "access[0].who", "required and missing"),
    (RULE.replace("pull", "[pull, pul]"), 4, "access[0].allow[1]", "found 'pul' (did you mean pull?)"),
    (RULE.replace("pull", "'*'"), 4, "access[0].allow", "expected pull, push or delete"),
    (RULE.replace("a/**", "Team/**"), 3, "access[0].repositories", "no repository has such a name"),
    (RULE.replace("a/**", "['{usr}/**']"), 3, "access[0].repositories[0]", "{usr} is nothing"),
    ("access:\n  - {who: ann, allow: pull}", 2, "access[0].repositories", "required beside allow"),
    ("access:\n  - {who: ann, repositories: a}", 2, "access[0].allow", "required beside repositories"),
    ("access:\n  - {who: ann}", 2, "access[0]", "grants nothing"),
    ("access:\n  - {who: ann, catalog: maybe}", 2, "access[0].catalog", "expected true or false, found 'maybe'"),
    ("access:\n  - {who: ann, catalog: [a]}", 2, "access[0].catalog", "expected true or false, found a list"),
    (RULE + "    deny: push\n", 5, "access[0].deny", "unknown key"),
    ("robots:\n  ci:\n    expires: never", 3, "robots.ci.secret", "required and missing"),
    (ROBOT.replace(HASH, "[]"), 3, "robots.ci.secret", "required and missing"),
    (RULE.replace("pull", "[]"), 2, "access[0].allow", "required beside repositories"),
    (RULE.replace("a/**", "[]"), 2, "access[0].repositories", "required beside allow"),
    ("robots:\n  a b: {}", 2, "robots.a b", "expected a name"),
    (ROBOT.replace(HASH, "hunter2"), 3, "robots.ci.secret", "expected sha256:SALT:DIGEST"),
    (ROBOT.replace("    expires: never\n", ""), 3, "robots.ci.expires", "required and missing"),
    (ROBOT.replace("never", "soon"), 4, "robots.ci.expires", "expected a day such as 2027-01-31"),
    (ROBOT.replace("never", "[never]"), 4, "robots.ci.expires", "expected text, found a list"),
    (ROBOT + "    access: [{who: ann, catalog: true}]", 5, "robots.ci.access[0].who", "unknown key"),
    (ROBOT + "    access: [{repositories: '{user}/**', allow: pull}]", 5,
     "robots.ci.access[0].repositories", "{user} is nothing"),
    ("issuers: [ci]", 1, "issuers[0]", "expected a mapping"),
    (ISSUER.replace("name: ci", "name: 'c i'"), 2, "issuers[0].name", "expected a name"),
    (ISSUER.replace("    issuer: https://ci.example\n", ""), 2, "issuers[0].issuer", "required and missing"),
    (ISSUER.replace("https:", "http:"), 2, "issuers[0].issuer", "expected an https URL"),
    (ISSUER.replace("https://ci.example", "https://[x"), 2, "issuers[0].issuer", "expected an https URL"),
    (ISSUER.replace("https://ci.example", "ci.example"), 2, "issuers[0].issuer", "expected an https URL"),
    (ISSUER.replace("    audience: me\n", ""), 2, "issuers[0].audience", "required and missing"),
    (ISSUER.replace("claims: {sub: x}, ", ""), 5, "issuers[0].rules[0].claims", "every token of this issuer"),
    (ISSUER.replace("sub: x", "sub: []"), 5, "issuers[0].rules[0].claims.sub", "expected a value"),
    (ISSUER.replace("sub: x", "sub: 'a***'"), 5, "issuers[0].rules[0].claims.sub", "more stars"),
    (ISSUER.replace("    rules: [{claims: {sub: x}, repositories: a/**, allow: pull}]\n", ""), 2,
     "issuers[0].rules", "required and missing"),
    (ISSUER + "    jwks: /none\n", 6, "issuers[0].jwks", "cannot read '/none': No such file"),
    (ISSUER + "    ca: /none\n", 6, "issuers[0].ca", "cannot read '/none'"),
    (ISSUER + "    jwks_uri: http://ci.example/x\n", 2, "issuers[0].jwks_uri", "expected an https URL"),
    (ISSUER + "    session: 10s\n", 6, "issuers[0].session", "expected at least 1m"),
    (ISSUER + "    session: 3600\n", 6, "issuers[0].session", "expected a duration"),
    (ISSUER + "    session: [1h]\n", 6, "issuers[0].session", "expected a duration such as 30m"),
    (ISSUER + "  -" + ISSUER.split("-", 1)[1].replace("name: ci", "name: other"), 6, "issuers[1].issuer",
     "is there already; put its rules into one entry"),
    (ISSUER + "  -" + ISSUER.split("-", 1)[1].replace("ci.example", "b.example"), 6, "issuers[1].name",
     "'ci' is there already"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "key", "message"), WRONG)
def test_each_mistake_is_reported_with_its_line_and_keeps_the_policy_out(
    tmp_path: Path, text: str, line: int, key: str, message: str
) -> None:
    """The operator mends one line; with half a policy he would have locked out the other half."""
    found = read(str(policy_file(tmp_path, text)))
    assert found.policy is None
    reported = [(problem.origin.line, problem.key, str(problem)) for problem in found.problems]
    assert any(at == line and where == key and message in whole for at, where, whole in reported), reported


def test_the_examples_that_mistakes_are_made_in_are_right(tmp_path: Path) -> None:
    """Else the test above proves nothing."""
    for text in (RULE, ROBOT, ISSUER, "", "access:\n", "groups: {a: }"):
        found = read(str(policy_file(tmp_path, text)))
        assert found.problems == (), text
        assert found.policy is not None


def test_both_ways_to_the_keys_are_one_too_many(tmp_path: Path) -> None:
    """One of them would silently be ignored."""
    (tmp_path / "keys.json").write_text("{}")
    text = ISSUER + "    jwks: keys.json\n    jwks_uri: https://ci.example/keys\n"
    (problem,) = read(str(policy_file(tmp_path, text))).problems
    assert "expected either jwks or jwks_uri" in problem.message


def test_a_file_lies_beside_the_policy_that_names_it(tmp_path: Path) -> None:
    """Both are mounted into a container together, wherever that starts."""
    (tmp_path / "keys.json").write_text("{}")
    found = read(str(policy_file(tmp_path, ISSUER + "    jwks: keys.json\n")))
    assert found.policy is not None
    assert found.policy.issuers["ci"].keys == str(tmp_path / "keys.json")


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    """An operator would correct three mistakes in three attempts."""
    text = RULE.replace("pull", "pul").replace("a/**", "A") + "  - {who: group:x, catalog: true}\n"
    assert len(read(str(policy_file(tmp_path, text))).problems) == 3


def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    """The message is logged; the value may be a password."""
    found = read(str(policy_file(tmp_path, ROBOT.replace(HASH, "hunter2"))))
    assert "hunter2" not in " ".join(map(str, found.problems))


@pytest.mark.parametrize(
    ("data", "message"),
    [(None, "cannot be read: No such file"), (b"a: \xe4", "not UTF-8"), (b"#" * 100, "larger than 50 bytes")],
)
def test_a_file_that_cannot_be_read_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes | None, message: str
) -> None:
    monkeypatch.setattr(policy_file_module, "SIZE_LIMIT_BYTES", 50)
    if data is not None:
        (tmp_path / "policy.yml").write_bytes(data)
    (problem,) = read(str(tmp_path / "policy.yml")).problems
    assert message in str(problem)
    assert str(problem).startswith(str(tmp_path / "policy.yml"))


def test_what_may_be_a_mistake_is_a_warning(tmp_path: Path) -> None:
    """Open pushing and users who are not there are legal, and seldom meant."""
    users = users_file(tmp_path, ann="a", barbara="b", oidc="c", **{"robot+x": "d"})
    with users.open("a") as file:
        file.write("old:$apr1$x$y\n")
    text = "groups: {dev: [ann, babara]}\naccess: [{who: anonymous, repositories: x, allow: [pull, push]}]"
    found = problems_of(str(policy_file(tmp_path, text)), str(users))
    assert {problem.kind for problem in found} == {"warning"}
    text = " ".join(map(str, found))
    for part in ("lets anonymous clients push", "there is no user 'babara' in", "mean barbara?",
                 "'oidc' cannot log in", "'robot+x' cannot log in", "MD5"):  # fmt: skip
        assert part in text


def test_a_users_file_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    path = policy_file(tmp_path, RULE)
    (tmp_path / "users").write_text("no colon\n")
    for users, message in ((tmp_path / "users", "line 1 has no colon"), (tmp_path / "none", "No such file")):
        (problem,) = problems_of(str(path), str(users))
        assert (problem.kind, problem.origin.source) == ("error", str(users))
        assert message in str(problem)
    (problem,) = problems_of(str(path), "")
    assert "because auth.local.users is not set" in str(problem)


@given(st.text(alphabet="abgr:-[]{}*, \n'\"&!", max_size=120))
def test_nothing_that_is_in_the_file_breaks_its_reader(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    """A traceback at start does not help the operator."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.yml"
    path.write_text(f"access:\n  - who: {text}")
    found = read(str(path))
    assert (found.policy is None) == any(problem.kind == "error" for problem in found.problems)


def test_the_example_in_the_documentation_is_right(tmp_path: Path) -> None:
    """Every operator starts with it; it has each kind of rule."""
    page = (Path(__file__).parents[3] / "docs" / "auth" / "local.md").read_text()
    (example,) = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "\nissuers:" in block]
    found = read(str(policy_file(tmp_path, example)))
    assert found.problems == ()
    assert found.policy is not None
    ann = found.policy.grants_of(Identity("user", "ann"))
    assert [may(ann, name) for name in ("library/x", "docs", "ann/x", "team/x", "x")] == [
        "pull push", "pull", "pull push delete", "pull push", "",
    ]  # fmt: skip
    claims = (("ref", ("refs/heads/main",)), ("repository", ("Acme/App",)))
    job = Identity("foreign", "job", "github", claims)
    assert (found.policy.has_rule_for(job), may(found.policy.grants_of(job), "acme/app/web")) == (
        True,
        "pull push",
    )

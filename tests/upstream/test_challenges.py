"""Challenges as registries send them."""

from __future__ import annotations

import pytest

from moorage.upstream.challenges import AuthChallenge, parse_challenges


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            ['Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull"'],
            [
                AuthChallenge(
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:a/b:pull",
                    },
                )
            ],
        ),
        (['Basic realm="Registry Realm"'], [AuthChallenge("basic", {"realm": "Registry Realm"})]),
        (["basic"], [AuthChallenge("basic")]),
        (["Negotiate", "Basic realm=x"], [AuthChallenge("negotiate"), AuthChallenge("basic", {"realm": "x"})]),
        (
            ['Bearer realm="a, b", service = "c" , Basic realm="d"'],
            [AuthChallenge("bearer", {"realm": "a, b", "service": "c"}), AuthChallenge("basic", {"realm": "d"})],
        ),
        (
            [r'Bearer REALM="quoted \"text\" \\ here",error="insufficient_scope"'],
            [AuthChallenge("bearer", {"realm": r'quoted "text" \ here', "error": "insufficient_scope"})],
        ),
        (["Negotiate YW==, Basic realm=x"], [AuthChallenge("negotiate"), AuthChallenge("basic", {"realm": "x"})]),
        (['Bearer realm="never closed'], [AuthChallenge("bearer")]),
        ([], []),
        (["", ", ,", "=", '"'], []),
    ],
)  # fmt: skip
def test_challenges(headers: list[str], expected: list[AuthChallenge]) -> None:
    """Several in one header or in several, with commas inside of quotes."""
    assert parse_challenges(headers) == expected


def test_a_long_header_takes_no_long_time() -> None:
    """A registry chooses the text, of up to 8 KiB: no backtracking."""
    parse_challenges(['Bearer a="' + '\\"' * 4000, "Basic " + "a" * 8000, "Bearer " + "a=b," * 2000 + "="])

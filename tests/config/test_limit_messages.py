"""Messages of `moorage config check` about wrong limits: the form, the unit and the bounds that are expected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.config.helpers import BASE, errors_of

if TYPE_CHECKING:
    from pathlib import Path

TLS = BASE + "  tls: {certificate: /etc/passwd, key: /etc/passwd, "


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("idletimeout: 0s", "expected a duration above 0, found '0s'"),
        ("idletimeout: 30", "expected a duration such as 300ms, 10s, 5m or 1h30m, with its unit, found '30'"),
        ("idletimeout: [1s]", "expected a duration such as 300ms, 10s, 5m or 1h30m, found a list"),
        ("sendtimeout: -1s", "expected a duration above 0, found '-1s'"),
        ("sendtimeout: 9999999h", "expected a duration of at most 2562047h, found '9999999h'"),
        ("leastrate: -1", "expected a whole number of bytes per second of at least 0, found '-1'"),
        ("leastrate: 100b", "expected a whole number of bytes per second, found '100b'"),
        ("leastrate: [1]", "expected a whole number of bytes per second, found a list"),
        ("headerlimit: 64k", "expected a whole number of bytes, found '64k'"),
        ("headerlimit: 0", "expected a whole number of bytes from 4096 to 1048576, found '0'"),
        ("workers: {}", "expected a whole number, found a mapping"),
    ],
)
def test_a_wrong_limit_is_refused_with_the_form_and_unit_that_are_expected(
    tmp_path: Path, key: str, expected: str
) -> None:
    """`64k` cannot be corrected from "expected a whole number" alone."""
    (error,) = errors_of(tmp_path, BASE + f"  {key}\n")
    assert error.message == expected
    assert error.key == "http." + key.partition(":")[0]


def test_a_key_similar_to_a_protecting_one_is_refused_with_the_remedy(tmp_path: Path) -> None:
    """`handshaketimeout` protects no less than `certificate`, its section does."""
    (error,) = errors_of(tmp_path, TLS + "handshake_timeout: 5s}")
    assert (
        error.message == "unknown key, similar to one that protects the registry or its data; correct or remove it"
    )
    assert error.nearest == "http.tls.handshaketimeout"

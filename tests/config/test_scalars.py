"""Scalars: what Go's yaml.v2 makes of text is what Moorage makes of it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.config.problems import NOWHERE
from moorage.config.scalars import (
    format_duration,
    parse_duration,
    read_flag,
    read_int,
    read_loose_text,
    read_nanoseconds,
    read_seconds,
    read_text,
    resolve,
)
from moorage.config.tree import Scalar


def plain(text: str) -> Scalar:
    return Scalar(text, NOWHERE)


def quoted(text: str) -> Scalar:
    return Scalar(text, NOWHERE, quoted=True)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True), ("Yes", True), ("on", True), ("y", True), ("true", True), ("TRUE", True),
        ("no", False), ("off", False), ("N", False), ("False", False), ("yEs", "yEs"), ("tRue", "tRue"),
        ("", None), ("~", None), ("null", None), ("NULL", None), ("nUll", "nUll"), ("none", "none"),
        ("0", 0), ("5000", 5000), ("-7", -7), ("+7", 7), ("0123", 83), ("0o17", 15), ("0x1F", 31), ("-0x10", -16),
        ("0b101", 5), ("1_000", 1000), ("08", 8.0), ("09.5", 9.5), ("18446744073709551615", 2**64 - 1),
        ("18446744073709551616", 2.0**64),
        ("1e3", 1000.0), ("1.5", 1.5), (".5", 0.5), ("1.", 1.0), ("-1.5E-2", -0.015), (".inf", math.inf),
        ("-.INF", -math.inf), ("12:30", "12:30"), ("1:2:3", "1:2:3"), ("2001-12-14", "2001-12-14"),
        ("2001-12-14t21:59:43.10-05:00", "2001-12-14t21:59:43.10-05:00"), ("1.2.3", "1.2.3"), ("0x", "0x"),
        ("-", "-"), (".", "."), ("+", "+"), ("1e", "1e"), ("10s", "10s"), ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"), ("\u0663", "\u0663"), ("9" * 65, "9" * 65),
    ],
)  # fmt: skip
def test_an_untyped_scalar_is_what_yaml_v2_makes_of_it(text: str, value: object) -> None:
    """A driver parameter that resolved otherwise would name another bucket or directory than before."""
    resolved = resolve(plain(text))
    assert resolved == value
    assert type(resolved) is type(value)


def test_not_a_number_resolves_to_one() -> None:
    """It is the only value that does not equal itself, so the table cannot have it."""
    resolved = resolve(plain(".nan"))
    assert isinstance(resolved, float)
    assert math.isnan(resolved)


@given(st.text())
def test_quotes_make_anything_text(text: str) -> None:
    """Quoting is the way out that every message recommends."""
    assert resolve(quoted(text)) == text


@given(st.text())
def test_resolving_never_fails(text: str) -> None:
    """Every scalar has a value; errors belong to the field that it is meant for."""
    resolve(plain(text))
    read_loose_text(plain(text))


@pytest.mark.parametrize("text", ["0123", "yes", "1e3", "0.10", "12:30", "0x1F"])
def test_typed_text_keeps_its_spelling(text: str) -> None:
    """`secret: 0123` on one replica and "83" on another would break every upload between them."""
    assert read_text(plain(text)) == text


@pytest.mark.parametrize(
    ("text", "printed"),
    [("0123", "83"), ("yes", "true"), ("off", "false"), ("1e3", "1000"), ("1.50", "1.5"), ("1e21", "1e+21"),
     ("1e20", "100000000000000000000"), ("0.0001", "0.0001"), ("0.00001", "1e-05"), ("123456", "123456"),
     (".nan", "NaN"), (".inf", "+Inf"), ("-.inf", "-Inf"), ("a b", "a b")],
)  # fmt: skip
def test_driver_text_is_printed_as_go_prints_it(text: str, printed: str) -> None:
    """The reference stringifies parameters with fmt.Sprint; a directory called 0123 is really called 83."""
    assert read_loose_text(plain(text)) == printed


@pytest.mark.parametrize(("text", "value"), [("true", True), ("yes", True), ("off", False), ("n", False)])
def test_flags_may_be_quoted(text: str, value: bool) -> None:
    """Compose files are full of `REGISTRY_X: '"true"'`; taking that for false switched features off silently."""
    assert read_flag(plain(text)) is value
    assert read_flag(quoted(text)) is value


@pytest.mark.parametrize("text", ["", "1", "0", "yess", "null", "enabled"])
def test_what_is_no_flag_is_refused(text: str) -> None:
    """A guess would enable or disable something by mistake."""
    with pytest.raises(ValueError, match="expected true or false"):
        read_flag(plain(text))


@pytest.mark.parametrize(("text", "value"), [("5", 5), ("-5", -5), ("1e3", 1000), ("0x10", 16), ("010", 8)])
def test_whole_numbers_come_in_every_spelling(text: str, value: int) -> None:
    """All of these start the reference."""
    assert read_int(plain(text)) == value
    assert read_int(quoted(text)) == value


@pytest.mark.parametrize("text", ["", "1.5", "true", "five", "9223372036854775808", ".inf", ".nan", "1e400"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    """A limit that was cut off or overflowed would be another limit."""
    with pytest.raises(ValueError, match="expected a whole number"):
        read_int(plain(text))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("300ms", 0.3), ("10s", 10), ("1h30m", 5400), ("168h", 604800), ("1.5h", 5400), ("-1m", -60),
     ("+5s", 5), (".5s", 0.5), ("1.s", 1), ("1us", 1e-6), ("1µs", 1e-6), ("1μs", 1e-6), ("1ns", 1e-9),
     ("1h1m1s1ms1us1ns", 3661.001001001)],
)  # fmt: skip
def test_durations_are_gos(text: str, seconds: float) -> None:
    """A purge age read wrongly deletes running uploads or none."""
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["", "s", "5", "1d", "1w", "10 s", "1h 30m", "--1s", "+-1s", ".s", "1.2.3s", "1S", "1e3s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    """`7d` looks right and is not a duration in Go; better a message than a guess."""
    with pytest.raises(ValueError, match="expected a duration such as"):
        parse_duration(text)


def test_a_duration_beyond_292_years_is_refused_as_too_long() -> None:
    """The form is right, so naming the form would not help."""
    with pytest.raises(ValueError, match="expected a duration of at most 2562047h"):
        parse_duration("9999999h")


@given(st.integers(0, 2**62))
def test_a_duration_survives_its_text(nanoseconds: int) -> None:
    """`config show` prints durations that are read again."""
    seconds = nanoseconds / 10**9
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, abs=1e-9, rel=1e-12)


def test_a_number_without_unit_is_nanoseconds_where_the_reference_has_it_so() -> None:
    """`draintimeout: 30` is 30 ns in the reference (run); the loader warns about it."""
    assert read_nanoseconds(plain("30")) == 30e-9
    assert read_nanoseconds(plain("30s")) == 30


def test_a_number_without_unit_is_refused_where_it_would_destroy() -> None:
    """`age: 168` as nanoseconds would purge every running upload."""
    with pytest.raises(ValueError, match="with its unit"):
        read_seconds(plain("168"))
    assert read_seconds(plain("0")) == 0
    assert read_seconds(plain("168h")) == 604800

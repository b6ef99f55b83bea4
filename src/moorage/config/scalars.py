"""Parsers of scalar values; the field decides which one applies.

The annotation of every setting with a single value has a `ScalarReader`: `Annotated[float,
ScalarReader("duration", read_seconds)]`.  Its function returns the value of a scalar.  It raises `ValueError`
with a description of valid values ("expected ..."), never with the value, which may be a secret.

Source: docs/reference/configuration.md, section 1.2; go-yaml v2.4.0 resolve.go; Go's time.ParseDuration,
strconv.ParseBool and fmt.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.config.tree import Scalar

__all__ = [
    "EXPECTED_DURATION",
    "ScalarReader",
    "bare_integer",
    "format_duration",
    "parse_duration",
    "path_problem",
    "read_driver_flag",
    "read_flag",
    "read_int",
    "read_loose_path",
    "read_loose_text",
    "read_nanoseconds",
    "read_path",
    "read_seconds",
    "read_text",
    "resolve",
]


@dataclass(frozen=True, slots=True)
class ScalarReader:
    """Parser of a setting's text; `kind` is its name in the documentation.

    `nanoseconds`: a number without a unit means nanoseconds, with a warning.
    """

    kind: str
    read: Callable[[Scalar], object]
    nanoseconds: bool = False


# ------------------------------------------------------------------------------ scalars of yaml.v2

_WORDS: Final[dict[str, bool | float | None]] = {
    **dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_INT: Final = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))", re.ASCII)
_FLOAT: Final = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_DIGITS_LIMIT: Final = 64
"""Longer numbers stay text; Python would spend quadratic time on them and no setting needs them."""


def resolve(scalar: Scalar) -> str | int | float | bool | None:
    """Return the value of an untyped field: 12:30 and dates stay text, 0123 is 83, 1e3 is 1000.0, yes is True."""
    text = scalar.text
    if scalar.quoted:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "+-.0123456789" or len(text) > _DIGITS_LIMIT:
        return text
    plain = text if text[0] == "." else text.replace("_", "")
    whole = _INT.fullmatch(plain)
    if whole is not None:
        sign, hexadecimal, binary, octal, decimal = whole.groups()
        size = (
            int(hexadecimal, 16) if hexadecimal
            else int(binary, 2) if binary
            else int(octal, 8) if octal
            else int(decimal)
        )  # fmt: skip
        if size < 2**64:
            return -size if sign == "-" else size
    return float(plain) if _FLOAT.fullmatch(plain) else text


def _go_text(value: str | float | bool | None) -> str:  # noqa: FBT001  the value itself is a bool
    """Format a value as Go's fmt.Sprint does."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case float() if math.isnan(value):
            return "NaN"
        case float() if math.isinf(value):
            return "+Inf" if value > 0 else "-Inf"
        case float():
            # Shortest digits; an exponent from 21 digits on and below 1e-4, where Python begins at 17.
            text = repr(value)
            exponent = math.floor(math.log10(abs(value))) if value else 0
            if -5 < exponent < 21:  # noqa: PLR2004  Go's %v
                return format(Decimal(text), "f").removesuffix(".0")
            return text.replace(".0e", "e")
        case _:
            return str(value)


# ------------------------------------------------------------------------------------------- text and flags


def read_text(scalar: Scalar) -> str:
    """Return the source text, for typed fields: `0123`, `yes` and `1e3` as written."""
    return scalar.text


def read_loose_text(scalar: Scalar) -> str:
    """Return the text of a driver parameter: resolved first and then formatted, so `0123` is "83"."""
    return _go_text(resolve(scalar))


def path_problem(text: str) -> str:
    """Return the reason why `text` is not a path for the operating system; "" if it is one.

    Bytes that are not UTF-8 are lone surrogates from U+DC80 to U+DCFF in Python, and may be a path.
    """
    if "\0" in text:
        return "expected a path, which contains no NUL character"
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return "expected a path, which contains no lone surrogate"
    return ""


def read_path(scalar: Scalar) -> str:
    """Return the path in a typed text field."""
    return _path(read_text(scalar))


def read_loose_path(scalar: Scalar) -> str:
    """Return the path in a driver parameter."""
    return _path(read_loose_text(scalar))


def _path(text: str) -> str:
    if problem := path_problem(text):
        raise ValueError(problem)
    return text


def read_flag(scalar: Scalar) -> bool:
    """Parse true and false in the spellings of YAML 1.1, quoted too, as in Compose files."""
    value = _WORDS.get(scalar.text)
    if not isinstance(value, bool):
        raise ValueError("expected true or false")  # noqa: TRY004  every reader raises ValueError
    return value


def read_driver_flag(scalar: Scalar) -> bool:
    """Parse as `read_flag` does, and the other spellings of Go's ParseBool (parameters of the S3 driver)."""
    return _GO_WORDS[scalar.text] if scalar.text in _GO_WORDS else read_flag(scalar)


_GO_WORDS: Final = {"1": True, "t": True, "T": True, "0": False, "f": False, "F": False}


def read_int(scalar: Scalar) -> int:
    """Parse a whole number, also as 1e3, 0x10 or in quotes."""
    value = resolve(scalar if not scalar.quoted else type(scalar)(scalar.text, scalar.origin))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise ValueError("expected a whole number")
    return value


# ------------------------------------------------------------------------------------------------ durations

_UNITS: Final = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9,
                 "h": 3600 * 10**9}  # fmt: skip  # both micro signs, as in Go
_PART: Final = re.compile(r"([0-9]*)(\.[0-9]*)?(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
EXPECTED_DURATION: Final = "expected a duration such as 300ms, 10s, 5m or 1h30m"
_LARGEST_NS: Final = 2**63 - 1
_TOO_LONG: Final = "expected a duration of at most 2562047h"


def parse_duration(text: str) -> float:
    """Return the seconds of a Go duration.  Raises ValueError, also beyond Go's 292 years."""
    sign, rest = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    if rest == "0":
        return 0.0
    total, position = Decimal(0), 0
    while position < len(rest):
        part = _PART.match(rest, position)
        if part is None or not (part[1] or (part[2] or "")[1:]) or len(part[0]) > _DIGITS_LIMIT:
            raise ValueError(EXPECTED_DURATION)
        total += Decimal((part[1] or "0") + (part[2] or ".0") + ("0" if part[2] == "." else "")) * _UNITS[part[3]]
        position = part.end()
    if not rest:
        raise ValueError(EXPECTED_DURATION)
    if total > _LARGEST_NS:
        raise ValueError(_TOO_LONG)
    return float(sign * total / 10**9)


def format_duration(seconds: float) -> str:
    """Return the Go duration of a number of seconds."""
    if seconds == 0:
        return "0s"
    nanoseconds = round(abs(seconds) * 10**9)
    text = "-" if seconds < 0 else ""
    for unit in ("h", "m", "s", "ms", "us", "ns"):
        count, nanoseconds = divmod(nanoseconds, _UNITS[unit])
        if count:
            text += f"{count}{unit}"
    return text


def bare_integer(scalar: Scalar) -> int | None:
    """Return the number of a duration without a unit; None if it has one."""
    value = None if scalar.quoted else resolve(scalar)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def read_nanoseconds(scalar: Scalar) -> float:
    """Parse a duration of CNCF Distribution's typed fields, where a bare integer is nanoseconds."""
    bare = bare_integer(scalar)
    if bare is not None:
        if abs(bare) > _LARGEST_NS:
            raise ValueError(_TOO_LONG)
        return bare / 10**9
    return parse_duration(scalar.text)


def read_seconds(scalar: Scalar) -> float:
    """Parse a duration; bare integers are refused, as CNCF Distribution does here, or in Moorage's own settings.

    `age: 168` would otherwise mean 168 nanoseconds and purge every upload.
    """
    if bare_integer(scalar) not in {None, 0}:
        raise ValueError(EXPECTED_DURATION + ", with its unit")
    return parse_duration(scalar.text)

"""Building blocks of the sections: the model, the declaration of a setting, and the types of values.

A setting's annotation holds the parser of its text (`ScalarReader`), `setting(...)` its help and attributes.  The
documentation, `moorage config show`, names of variables and the checks are derived from both.
Units: durations are seconds (float) in Python, Go durations in the file; sizes are bytes.
"""

from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from moorage.config.scalars import (
    ScalarReader,
    format_duration,
    read_driver_flag,
    read_flag,
    read_int,
    read_loose_path,
    read_loose_text,
    read_nanoseconds,
    read_path,
    read_seconds,
    read_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.config.tree import Scalar

__all__ = [
    "DRIVER_FLAG",
    "FLAG",
    "NANOSECONDS",
    "DriverFlag",
    "Flag",
    "LoosePath",
    "LooseText",
    "Nanoseconds",
    "PathText",
    "Period",
    "Section",
    "Span",
    "Text",
    "Whole",
    "at_least",
    "duration_or",
    "one_of",
    "period_within",
    "positive_or",
    "raised_to",
    "setting",
]


class Section(BaseModel):
    """A mapping of the file.  Frozen; unknown names are errors in tests too: `Http(adr=...)`."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


FLAG: Final = ScalarReader("true or false", read_flag)
DRIVER_FLAG: Final = ScalarReader("true or false", read_driver_flag)
NANOSECONDS: Final = ScalarReader("duration", read_nanoseconds, nanoseconds=True)

Text = Annotated[str, ScalarReader("text", read_text)]
LooseText = Annotated[str, ScalarReader("text", read_loose_text)]
PathText = Annotated[str, ScalarReader("text", read_path)]
"""Type of settings that name a file, a directory or a key prefix; `LoosePath` in parameters of drivers."""
LoosePath = Annotated[str, ScalarReader("text", read_loose_path)]
Flag = Annotated[bool, FLAG]
DriverFlag = Annotated[bool, DRIVER_FLAG]
Whole = Annotated[int, ScalarReader("whole number", read_int)]
Nanoseconds = Annotated[float, NANOSECONDS]
"""A duration whose bare integers are nanoseconds, as in CNCF Distribution."""


def one_of(*words: str, fold: bool = False, empty: str | None = None) -> ScalarReader:
    """Return a reader for one of `words`; `fold`: any case, stored in lower case; `empty`: the value of ""."""

    def read(scalar: "Scalar") -> str:
        text = scalar.text.lower() if fold else scalar.text
        if text == "" and empty is not None:
            return empty
        if text not in words:
            raise ValueError("expected " + _listed(words))
        return text

    return ScalarReader(" or ".join(f"`{word}`" for word in words if word), read)


def at_least(minimum: int, maximum: int | None = None) -> ScalarReader:
    """Return a reader for a whole number within bounds."""

    def read(scalar: "Scalar") -> int:
        value = read_int(scalar)
        if value < minimum or (maximum is not None and value > maximum):
            bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
            raise ValueError(f"expected a whole number {bounds}")
        return value

    return ScalarReader("whole number", read)


def raised_to(minimum: int) -> ScalarReader:
    """Return a reader for a whole number; smaller ones become `minimum`, as in CNCF Distribution."""
    return ScalarReader("whole number", lambda scalar: max(read_int(scalar), minimum))


def positive_or(default: int) -> ScalarReader:
    """Return a reader for a whole number; 0 and less become `default`, as in CNCF Distribution."""

    def read(scalar: "Scalar") -> int:
        value = read_int(scalar)
        return value if value > 0 else default

    return ScalarReader("whole number", read)


def duration_or(default_s: float) -> ScalarReader:
    """Return a reader for a duration; 0 and less become `default_s`, as in CNCF Distribution."""

    def read(scalar: "Scalar") -> float:
        value = read_nanoseconds(scalar)
        return value if value > 0 else default_s

    return ScalarReader("duration", read, nanoseconds=True)


def _read_span(scalar: "Scalar") -> float:
    value = read_nanoseconds(scalar)
    if value < 0:
        raise ValueError("expected a duration that is not negative")
    return value


def _read_period(scalar: "Scalar") -> float:
    value = read_seconds(scalar)
    if value <= 0:
        raise ValueError("expected a duration above 0")
    return value


def period_within(least_s: float, most_s: float) -> ScalarReader:
    """Return a reader for a duration with a unit, within bounds."""

    def read(scalar: "Scalar") -> float:
        value = read_seconds(scalar)
        if not least_s <= value <= most_s:
            raise ValueError(f"expected a duration from {format_duration(least_s)} to {format_duration(most_s)}")
        return value

    return ScalarReader("duration", read)


Span = Annotated[float, ScalarReader("duration", _read_span, nanoseconds=True)]
"""A duration of 0 or more whose bare integers are nanoseconds."""
Period = Annotated[float, ScalarReader("duration", _read_period)]
"""A duration above 0, with a unit."""


def _listed(words: tuple[str, ...]) -> str:
    shown = [word for word in words if word]
    return shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " or " + shown[-1]


def setting(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    secret: bool = False,
    required: bool = False,
    variable: str | None = None,
    instead: str | None = None,
    own: bool = False,
    shown: str | None = None,
) -> Any:
    """Declare a key of a section.

    `secret`: masked in all output.  `required`: must not be empty if its section is present.  `variable`: its name
    in environment variables of CNCF Distribution where that differs from the key.  `instead`: the path that
    replaces a deprecated key (`config/deprecated.py`).  `own`: unknown to CNCF Distribution.  `shown`: the
    default as the documentation describes it.
    """
    notes: dict[str, Any] = {
        "unit": unit,
        "secret": secret,
        "required": required,
        "variable": variable,
        "instead": instead,
        "own": own,
        "shown": shown,
    }
    if callable(default):
        factory: Callable[[], Any] = default
        return Field(default_factory=factory, description=meaning, json_schema_extra=notes, repr=not secret)
    return Field(default=default, description=meaning, json_schema_extra=notes, repr=not secret)

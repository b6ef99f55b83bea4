"""Section `quota`."""

import re
from typing import TYPE_CHECKING, Annotated, Final

from moorage.config.scalars import ScalarReader, bare_integer
from moorage.config.sections.base import Period, Section, at_least, setting

if TYPE_CHECKING:
    from moorage.config.tree import Scalar

__all__ = ["Quota", "QuotaRule"]

_UNITS: Final[dict[str, int]] = {
    "B": 1,
    **{unit: 1000**power for power, unit in enumerate(("kB", "MB", "GB", "TB", "PB"), 1)},
    **{unit: 1024**power for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB", "PiB"), 1)},
}
_BY_LOWER: Final = {unit.lower(): size for unit, size in _UNITS.items()}
_SIZE: Final = re.compile(r"([0-9]+)(?:\.([0-9]{1,9}))? ?([A-Za-z]+)", re.ASCII)
_EXPECTED_SIZE: Final = f"expected a size above 0 with its unit ({', '.join(_UNITS)}), such as 10GiB"
_LARGEST: Final = 2**62

_PATTERN: Final = re.compile(r"[a-z0-9._*-]+(?:/[a-z0-9._*-]+)*", re.ASCII)


def _read_size(scalar: "Scalar") -> int:
    """Return the bytes of a size.  A number without a unit is refused: it may be meant in bytes or GiB."""
    number = bare_integer(scalar)
    text = scalar.text.strip()
    match = _SIZE.fullmatch(text)
    if number is not None or match is None or match[3].lower() not in _BY_LOWER:
        raise ValueError(_EXPECTED_SIZE)
    unit = _BY_LOWER[match[3].lower()]
    fraction = match[2] or "0"
    value = int(match[1]) * unit + int(fraction.ljust(9, "0")) * unit // 10**9
    if value < 1:
        raise ValueError(_EXPECTED_SIZE)
    if value > _LARGEST:
        raise ValueError("expected a size of at most 4096PiB")
    return value


def _read_pattern(scalar: "Scalar") -> str:
    text = scalar.text
    if _PATTERN.fullmatch(text) is None or "***" in text:
        raise ValueError(
            "expected the beginning of repository names such as team-a or team-a/images, in lower case and "
            "without a slash at either end; * stands for a part of a component, ** for parts of several"
        )
    return text


_Size = Annotated[int, ScalarReader("size", _read_size)]
_Pattern = Annotated[str, ScalarReader("repository pattern", _read_pattern)]


class QuotaRule(Section):
    """Limits of the repositories that a pattern covers, all of them together."""

    repositories: _Pattern = setting(
        "",
        "Covered repositories: `team-a` is that repository and all below it. `*` stands for a part of a "
        "component, `**` for parts of several; `*` alone is the whole registry. Where several rules cover a "
        "repository, each of them limits it.",
        required=True,
        own=True,
    )
    bytes: _Size | None = setting(
        None, "Limit of the stored bytes, such as `10GiB`.", unit="bytes", own=True, shown="unlimited"
    )
    tags: Annotated[int, at_least(1)] | None = setting(None, "Limit of the tags.", own=True, shown="unlimited")


class Quota(Section):
    """Limits of bytes and tags per repository prefix."""

    rules: tuple[QuotaRule, ...] = setting((), "The limits.", own=True)
    interval: Period = setting(
        86400.0, "Time between two counts of all that is stored; between them changes are added.",
        unit="duration", own=True,
    )  # fmt: skip

"""Sizes with a unit: `10GiB`, `500 MB`."""

import re
from typing import TYPE_CHECKING, Annotated, Final

from moorage.config.scalars import ScalarReader, bare_integer

if TYPE_CHECKING:
    from moorage.config.tree import Scalar

__all__ = ["Size"]

_UNITS: Final[dict[str, int]] = {
    "B": 1,
    **{unit: 1000**power for power, unit in enumerate(("kB", "MB", "GB", "TB", "PB"), 1)},
    **{unit: 1024**power for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB", "PiB"), 1)},
}
_BY_LOWER: Final = {unit.lower(): size for unit, size in _UNITS.items()}
_SIZE: Final = re.compile(r"([0-9]+)(?:\.([0-9]{1,9}))? ?([A-Za-z]+)", re.ASCII)
_EXPECTED_SIZE: Final = f"expected a size above 0 with its unit ({', '.join(_UNITS)}), such as 10GiB"
_LARGEST: Final = 2**62


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


Size = Annotated[int, ScalarReader("size", _read_size)]
"""Bytes, more than 0."""

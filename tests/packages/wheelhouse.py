"""Wheels of installed distributions, so that installers can be tested without an index.

A wheel is its installed files in a zip file: everything that RECORD names, scripts in their own folder.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import re
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["needed_by", "pack"]

_LEFT_OUT: Final = {"INSTALLER", "REQUESTED", "direct_url.json", "RECORD", "uv_cache.json"}


def needed_by(requirements: Iterable[str]) -> dict[str, Distribution]:
    """Return the installed distributions that `requirements` lead to, by name."""
    found: dict[str, Distribution] = {}
    pending: list[tuple[Requirement, tuple[str, ...]]] = [(Requirement(text), ("",)) for text in requirements]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while pending:
        requirement, expected = pending.pop()
        marker = requirement.marker
        if marker is not None and not any(marker.evaluate({"extra": extra}) for extra in expected):
            continue
        name = canonicalize_name(requirement.name)
        key = (name, tuple(sorted(requirement.extras)))
        if key in seen:
            continue
        seen.add(key)
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            raise AssertionError(f"{requirement} is not installed, but moorage needs it") from None
        inner = ("", *requirement.extras)
        pending += [(Requirement(text), inner) for text in found[name].requires or ()]
    return found


def pack(found: Distribution, folder: Path) -> Path:
    """Write the wheel of an installed distribution, without compression."""
    name = re.sub(r"[-_.]+", "_", found.metadata["Name"])
    tags = re.findall(r"^Tag: (\S+)$", found.read_text("WHEEL") or "", re.MULTILINE)
    python, abi = (".".join(sorted({tag.split("-")[part] for tag in tags})) for part in (0, 1))
    platform = ".".join(sorted({tag.split("-")[2] for tag in tags}))
    path = folder / f"{name}-{found.version}-{python}-{abi}-{platform}.whl"
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    info = f"{name}-{found.version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for inside, source in _files(found, info):
            data = source.read_bytes()
            wheel.writestr(inside, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.writerow([inside, f"sha256={digest}", len(data)])
        rows.writerow([f"{info}/RECORD", "", ""])
        wheel.writestr(f"{info}/RECORD", record.getvalue())
    return path


def _files(found: Distribution, info: str) -> Iterator[tuple[str, Path]]:
    for file in found.files or ():
        source = Path(str(file.locate()))
        if file.suffix == ".pyc" or (file.name in _LEFT_OUT and ".dist-info" in file.parts[0]):
            continue
        if file.parts[0] != "..":
            first, *rest = file.parts
            yield "/".join([info if first.endswith(".dist-info") else first, *rest]), source
        elif file.parts[-2] == "bin" and not _is_entry_point(found, file.name):
            yield f"{info.removesuffix('.dist-info')}.data/scripts/{file.name}", source


def _is_entry_point(found: Distribution, name: str) -> bool:
    return any(point.name == name and point.group == "console_scripts" for point in found.entry_points)

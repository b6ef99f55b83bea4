"""Lists of images: `images.txt`, Kubernetes manifests, values of Helm charts.

    images.txt     one name on each line; # begins a comment
    Kubernetes     `image` of containers and of any other object; `reference` of volumes of the kind image
    Helm values    `image: NAME`, or a map of `registry`, `repository`, `tag`, `digest`; `global.imageRegistry`

A name that the file does not determine (a chart takes the tag from its appVersion, a template is not rendered) is
an error with its place: an image that is left out is missed on the other side, where nothing can be done about it.

Above: `cli/export.py`.
Source: Kubernetes API (`Container.image`, `ImageVolumeSource.reference`); Helm best practices, "Values".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import yaml

from moorage.bundle.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["ImageListInvalid", "read_image_list"]

_LIMIT_BYTES: Final = 16 << 20
_YAML: Final = frozenset({".yaml", ".yml", ".json"})
_SHOWN: Final = 10
_LOADER: Final[type[yaml.SafeLoader]] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C is ten times as fast; it is there where PyYAML was built with libyaml."""


class ImageListInvalid(BundleError):
    """A list of images that cannot be read, or that does not determine all names."""


def read_image_list(path: Path) -> list[str]:
    """Return the names of the images in a file, each once, in their order.  Raises ImageListInvalid."""
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT_BYTES + 1)
    except OSError as error:
        raise ImageListInvalid(f"{path}: {error.strerror}") from error
    if len(data) > _LIMIT_BYTES:
        raise ImageListInvalid(f"{path} has more than {_LIMIT_BYTES >> 20} MiB; expected a list of images")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageListInvalid(f"{path} is not UTF-8; expected a list of images") from error
    found = list(dict.fromkeys(_of_yaml(path, text) if path.suffix.lower() in _YAML else _of_lines(path, text)))
    if not found:
        raise ImageListInvalid(f"{path} names no image")
    return found


def _of_lines(path: Path, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        name = line.partition("#")[0].strip()
        if not name:
            continue
        if len(name.split()) > 1:
            raise ImageListInvalid(
                f"{path}, line {number}: expected one name of an image, found {name!a:.100}; a Kubernetes "
                "manifest or a file of Helm values must end in .yaml, .yml or .json"
            )
        yield name


def _of_yaml(path: Path, text: str) -> Iterator[str]:
    problems: list[str] = []
    try:
        documents = [json.loads(text)] if path.suffix.lower() == ".json" else list(yaml.load_all(text, _LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark is not None else ""
        hint = "; is it a template? use the output of helm template" if "{{" in text else ""
        raise ImageListInvalid(f"{path}{where}: not YAML: {error.problem}{hint}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ImageListInvalid(f"{path} cannot be parsed: {error}") from error
    for document in documents:
        walk = _Walk(problems)
        if isinstance(document, dict) and isinstance(settings := document.get("global"), dict):
            walk.registry = str(settings.get("imageRegistry") or "")
        yield from walk.images(document)
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ImageListInvalid(
            f"{path} does not determine all images: {'; '.join(problems[:_SHOWN])}{more}; use the output of "
            "helm template, or list the images in a text file"
        )


class _Walk:
    """Visits every object of a document once; an alias of YAML is the same object."""

    def __init__(self, problems: list[str]) -> None:
        self.registry = ""
        self._problems = problems
        self._visited: set[int] = set()

    def images(self, document: Any) -> Iterator[str]:
        waiting: list[tuple[str, Any]] = [("", document)]
        while waiting:
            place, value = waiting.pop()
            if not isinstance(value, dict | list) or id(value) in self._visited:
                continue
            self._visited.add(id(value))
            if isinstance(value, dict):
                yield from self._of_map(place, value)
                children = [(f"{place}.{key}" if place else str(key), child) for key, child in value.items()]
            else:
                children = [(f"{place}[{i}]", child) for i, child in enumerate(value)]
            waiting += reversed(children)

    def _of_map(self, place: str, found: dict[Any, Any]) -> Iterator[str]:
        image = found.get("image")
        where = f"{place}.image" if place else "image"
        if isinstance(image, str) and image.strip():
            # Some charts have the name in `image` and the tag beside it.
            tag = found.get("tag")
            has_tag = ":" in image.rpartition("/")[2] or "@" in image
            yield from self._name(where, f"{image.strip()}:{tag}" if tag and not has_tag else image.strip())
        if isinstance(image, dict) and isinstance(reference := image.get("reference"), str) and reference:
            yield from self._name(where, reference)
        repository = found.get("repository")
        if isinstance(repository, str) and repository and ("tag" in found or "digest" in found):
            yield from self._of_parts(place or "repository", found, repository)

    def _of_parts(self, place: str, found: dict[Any, Any], repository: str) -> Iterator[str]:
        registry = self.registry or str(found.get("registry") or "")
        tag, digest = str(found.get("tag") or ""), str(found.get("digest") or "")
        if not tag and not digest:
            self._problems.append(f"{place} ({repository}) has no tag")
            return
        name = "/".join(filter(None, (registry.rstrip("/"), repository)))
        yield from self._name(place, name + (f":{tag}" if tag else "") + (f"@{digest}" if digest else ""))

    def _name(self, place: str, text: str) -> Iterator[str]:
        if "{{" in text or len(text.split()) != 1:
            self._problems.append(f"{place} is {text!a:.80}")
            return
        yield text

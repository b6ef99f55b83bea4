"""Values from files: `REGISTRY_HTTP_SECRET_FILE=/run/secrets/http` sets `http.secret` to the content of the file.

Docker, Swarm, Kubernetes and systemd pass secrets to a container as files, so that they are not listed with the
variables (`docker inspect`, `/proc/PID/environ`).  The content without one final newline is the value:

    a text                                unchanged: `0123`, `yes`, `a: b`, `*x` and `#x` are these texts
    a flag, a number, a duration          as in a variable
    a list, a mapping, a section          YAML, as in a variable

No message shows a part of the content: a variable that names the wrong file may name a secret.

Above: `environment.py`.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from moorage.config import yaml
from moorage.config.problems import ConfigError, Origin, Problem
from moorage.config.scalars import read_loose_path, read_path
from moorage.config.schema import ScalarOf, Shape
from moorage.config.tree import Node, Scalar, is_null

if TYPE_CHECKING:
    from moorage.config.scalars import ScalarReader

__all__ = ["SUFFIX", "read"]

SUFFIX: Final = "_FILE"

_SIZE_LIMIT_BYTES: Final = 1 << 20
_TYPED: Final = frozenset({"true or false", "whole number", "duration"})


def read(name: str, file: str, shape: Shape | None, key: str, problems: list[Problem]) -> Node:
    """Return the content of `file`, which the variable `name` names, as a value of `shape` for the setting `key`.

    `shape` is None for a value below a key whose content is free, which is a text.
    Duplicate keys are appended to `problems`.  Raises `ConfigError`.
    """
    origin = Origin(name, hidden=True)
    text = _content(name, file)
    if shape is None:
        return Scalar(text, origin, quoted=True)
    if isinstance(shape, ScalarOf):
        return _scalar(shape.reader, text, origin, file, key)
    try:
        node, _ = yaml.read(text, name, problems, lines=False, hidden=True)
    except ConfigError as error:
        raise _refusal(name, f"the content of {file} is not valid YAML") from error
    return Scalar("", origin) if node is None else node


def _scalar(reader: ScalarReader, text: str, origin: Origin, file: str, key: str) -> Scalar:
    if reader.kind in _TYPED:
        plain = Scalar(text, origin)
        return Scalar(text, origin, quoted=True) if is_null(plain) else plain
    names_file = reader.read in {read_path, read_loose_path} and not key.endswith("rootdirectory")
    if names_file and (not text.startswith("/") or "\n" in text):
        variable = origin.source.removesuffix(SUFFIX)
        message = (
            f"the setting is a path, and the content of {file} is not one; to use that file, set {variable}={file}"
        )
        raise _refusal(origin.source, message)
    return Scalar(text, origin, quoted=True)


def _content(name: str, file: str) -> str:
    if not file:
        raise _refusal(name, "is empty; name the file with the value, or remove the variable")
    try:
        mode = os.stat(file).st_mode  # noqa: PTH116  a text that is no path has an error of its own below
        if stat.S_ISDIR(mode):
            raise _refusal(name, f"{file} is a directory; name the file in it")
        if not stat.S_ISREG(mode):
            raise _refusal(name, f"{file} is not a regular file, and could not be read again at a reload")
        with open(file, "rb") as opened:  # noqa: PTH123  as above
            data = opened.read(_SIZE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        raise _refusal(name, f"there is no file {file}; is the secret mounted there?") from None
    except PermissionError:
        message = f"{file} is not readable by this user (uid {os.geteuid()}); change its owner or its mode"
        raise _refusal(name, message) from None
    except (OSError, ValueError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else "not a path"
        raise _refusal(name, f"{file} cannot be read: {reason}") from None
    if len(data) > _SIZE_LIMIT_BYTES:
        raise _refusal(name, f"{file} is larger than {_SIZE_LIMIT_BYTES} bytes; is it the right file?")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _refusal(name, f"{file} is not UTF-8; save it in that encoding") from None
    text = text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text
    if not text.strip():
        raise _refusal(name, f"{file} is empty; write the value into it, or remove the variable")
    return text


def _refusal(name: str, message: str) -> ConfigError:
    return ConfigError([Problem(message, origin=Origin(name))])

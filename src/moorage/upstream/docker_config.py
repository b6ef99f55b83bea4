"""Credentials that `docker login`, `podman login` and their like have stored.

    $REGISTRY_AUTH_FILE                         if set, the only file
    $DOCKER_CONFIG/config.json                  else ~/.docker/config.json
    $XDG_RUNTIME_DIR/containers/auth.json       else ~/.config/containers/auth.json, of podman and skopeo

The first file with credentials for the host counts.  Within a file a helper of `credHelpers` for the host is
asked, else that of `credsStore`, else the entry of `auths` is used.  Entries of `auths` for a part of a registry
(`quay.io/organization`), which podman writes, are ignored: one client serves all of a registry.

The files are read for each use: they are small, and a login in another terminal changes them.

Above: `cli/`, `wiring/`.  Below: `credentials.py`.
Source: https://docs.docker.com/reference/cli/docker/login/; containers-auth.json(5).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from moorage.reloading import read_regular
from moorage.upstream.answers import parse_json
from moorage.upstream.credentials import UpstreamCredentials, run_helper
from moorage.upstream.errors import UpstreamDenied
from moorage.upstream.reference import DOCKER_HUB, DOCKER_HUB_HOST

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["DockerConfigCredentials"]

_DOCKER_HUB_KEY: Final = "https://index.docker.io/v1/"
_DOCKER_HUB_NAMES: Final = frozenset({DOCKER_HUB, "index.docker.io", DOCKER_HUB_HOST})
_WHOLE_REGISTRY: Final = frozenset({"", "v1", "v2"})


class DockerConfigCredentials:
    """The credentials of the file `path`, or of the usual files; see the module docstring."""

    def __init__(self, path: Path | None = None, *, environ: Mapping[str, str] = os.environ) -> None:
        self._path = path
        self._environ = environ

    async def get(self, host: str) -> UpstreamCredentials | None:
        for path, required in self._files():
            document = await asyncio.to_thread(_read, path, host, required=required)
            found = None if document is None else await _find(document, path, host)
            if found is not None:
                return found
        return None

    def refused(self, host: str) -> None:
        """Nothing is remembered."""

    def _files(self) -> list[tuple[Path, bool]]:
        """Return the files in the order of their precedence, and whether each must exist."""
        if self._path is not None:
            return [(self._path, True)]
        if chosen := self._environ.get("REGISTRY_AUTH_FILE"):
            return [(Path(chosen), True)]
        home = Path(self._environ.get("HOME") or Path.home())
        docker = Path(self._environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
        found = [(docker, False)]
        if runtime := self._environ.get("XDG_RUNTIME_DIR"):
            found.append((Path(runtime) / "containers" / "auth.json", False))
        configuration = Path(self._environ.get("XDG_CONFIG_HOME") or home / ".config")
        return [*found, (configuration / "containers" / "auth.json", False)]


def _read(path: Path, host: str, *, required: bool) -> dict[str, Any] | None:
    """Return the JSON of a file; None if it is missing and not required.  Raises `UpstreamDenied`."""
    try:
        return parse_json(read_regular(str(path)))
    except FileNotFoundError:
        if not required:
            return None
        reason = "it does not exist"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    except ValueError:
        reason = "it is not a JSON object"
    raise UpstreamDenied(f"the credentials in {path} cannot be read: {reason}", registry=host)


async def _find(document: dict[str, Any], path: Path, host: str) -> UpstreamCredentials | None:
    """Return the credentials for a host of one file."""
    helpers, stored = document.get("credHelpers"), document.get("auths")
    helpers, stored = (member if isinstance(member, dict) else {} for member in (helpers, stored))
    names = {key for key in (*helpers, *stored) if _is_of(key, host)}
    key = next((name for name in names if name in helpers), None)
    if key is not None:
        return await _ask(helpers[key], key, path, host)
    key = next((name for name in sorted(names) if name in stored), None)
    if document.get("credsStore"):
        server = key or (_DOCKER_HUB_KEY if host in _DOCKER_HUB_NAMES else host)
        found = await _ask(document["credsStore"], server, path, host)
        if found is not None:
            return found
    return None if key is None else _entry(stored[key], path, host)


async def _ask(helper: object, server: str, path: Path, host: str) -> UpstreamCredentials | None:
    if not isinstance(helper, str) or not helper or "/" in helper:
        raise UpstreamDenied(f"{path} names a credential helper that is not a name", registry=host)
    return await run_helper((f"docker-credential-{helper}",), server, registry=host)


def _is_of(key: str, host: str) -> bool:
    """Return whether a key of the file, a host or a URL of API version 1, is the registry at `host`."""
    named, _, path = key.partition("://")[2 if "://" in key else 0].partition("/")
    if path.strip("/") not in _WHOLE_REGISTRY:
        return False
    return named == host or (named in _DOCKER_HUB_NAMES and host in _DOCKER_HUB_NAMES)


def _entry(entry: object, path: Path, host: str) -> UpstreamCredentials | None:
    """Return the credentials of an entry of `auths`, which is empty if a credential store holds them."""
    if not isinstance(entry, dict):
        return None
    if token := entry.get("identitytoken"):
        return UpstreamCredentials("", identity_token=str(token))
    user, password = entry.get("username"), entry.get("password")
    if isinstance(user, str) and isinstance(password, str) and user and password:
        return UpstreamCredentials(user, password)
    encoded = entry.get("auth")
    if not encoded:
        return None
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (TypeError, ValueError, binascii.Error):
        colon = user = password = ""
    if not colon:
        raise UpstreamDenied(
            f"{path}: the entry of {host} in auths is not the base64 of USER:PASSWORD", registry=host
        )
    return UpstreamCredentials(user, password.rstrip("\0"))

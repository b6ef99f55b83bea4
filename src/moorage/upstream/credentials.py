"""Credentials for registries: none, those of the settings, or those of a helper program.

A helper is any program with the protocol of Docker's: `COMMAND get` reads the host of the registry from its
standard input and prints `{"Username": "...", "Secret": "..."}`.  The user `<token>` marks an identity token.
Its output is never part of a message, since it may be the secret; its standard error is.

Above: `authorization.py`, `tokens.py`, `docker_config.py`, `wiring/`, `cli/`.
Source: https://github.com/docker/docker-credential-helpers ("Development").
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from moorage.caches import TTLCache
from moorage.coalescing import SingleFlight
from moorage.redaction import in_text
from moorage.upstream.answers import parse_json
from moorage.upstream.errors import UpstreamDenied

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "AnonymousCredentials",
    "CredentialSource",
    "HelperCredentials",
    "StaticCredentials",
    "UpstreamCredentials",
    "run_helper",
]

_HELPER_LIMIT_S: Final = 10.0
_OUTPUT_LIMIT_BYTES: Final = 1 << 16
_CACHED_HOSTS: Final = 1024
_SHOWN_CHARS: Final = 300
_NOT_FOUND: Final = b"credentials not found in native keychain"
_TOKEN_USER: Final = "<token>"  # noqa: S105  a name


@dataclass(frozen=True, slots=True)
class UpstreamCredentials:
    """A user and the password, or an identity token (a refresh token of OAuth 2.0), of which one is empty."""

    user: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


class CredentialSource(Protocol):
    """Where the credentials for a registry come from."""

    async def get(self, host: str) -> UpstreamCredentials | None:
        """Return the credentials for the registry at `host`, None if there are none.

        Raises `UpstreamDenied` if they cannot be obtained.
        """

    def refused(self, host: str) -> None:
        """Note that the registry refused them: a remembered value is obtained anew next time."""


class AnonymousCredentials:
    """No credentials for any registry."""

    async def get(self, host: str) -> UpstreamCredentials | None:
        del host
        return None

    def refused(self, host: str) -> None:
        """There is nothing to forget."""


class StaticCredentials:
    """One user and password, for the one registry that the source is configured for."""

    def __init__(self, user: str, password: str) -> None:
        self._credentials = UpstreamCredentials(user, password)

    async def get(self, host: str) -> UpstreamCredentials | None:
        del host
        return self._credentials

    def refused(self, host: str) -> None:
        """They do not change."""


class HelperCredentials:
    """Credentials printed by the program `command`, kept for `lifetime_s` seconds.

    A `lifetime_s` of None keeps them until the registry refuses them; with 0 the program runs for each use.
    """

    def __init__(self, command: str | Sequence[str], lifetime_s: float | None = None) -> None:
        self._command = (command,) if isinstance(command, str) else tuple(command)
        lifetime_s = math.inf if lifetime_s is None else lifetime_s
        self._cache: TTLCache[str, UpstreamCredentials] = TTLCache(_CACHED_HOSTS, lifetime_s)
        self._flight: SingleFlight[str, UpstreamCredentials | None] = SingleFlight("credential-helper")

    async def get(self, host: str) -> UpstreamCredentials | None:
        found = self._cache.get(host)
        return found if found is not None else await self._flight.run(host, lambda: self._run(host))

    async def _run(self, host: str) -> UpstreamCredentials | None:
        found = await run_helper(self._command, host, registry=host)
        if found is not None:
            self._cache.put(host, found)
        return found

    def refused(self, host: str) -> None:
        self._cache.drop(host)


async def run_helper(command: Sequence[str], server: str, *, registry: str) -> UpstreamCredentials | None:
    """Run `COMMAND get` for the name `server`; None if the helper has no credentials for it.

    Raises `UpstreamDenied`: the program cannot be run, fails, is too slow, or prints something else.
    """
    program = os.path.basename(command[0])  # noqa: PTH119  a name, not a path
    place = f"credential helper {program}"
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            "get",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_OUTPUT_LIMIT_BYTES,
        )
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UpstreamDenied(f"{place} cannot be run: {reason}", registry=registry) from None
    try:
        async with asyncio.timeout(_HELPER_LIMIT_S):
            output, errors = await _communicate(process, server)
            status = await process.wait()
    except TimeoutError:
        raise UpstreamDenied(f"{place}: no result within {_HELPER_LIMIT_S:g} s", registry=registry) from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if status != 0:
        if _NOT_FOUND in output:
            return None
        words = errors.decode("utf-8", "replace").strip().partition("\n")[0]
        shown = in_text(ascii(words[:_SHOWN_CHARS])[1:-1]) if words else "it printed no reason to standard error"
        raise UpstreamDenied(f"{place} failed with status {status}: {shown}", registry=registry)
    return _credentials(output, place, registry)


async def _communicate(process: asyncio.subprocess.Process, server: str) -> tuple[bytes, bytes]:
    """Send the name of the server; return both outputs, of which no more than a limit is kept."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None

    async def read(stream: asyncio.StreamReader) -> bytes:
        kept = b""
        while piece := await stream.read(_OUTPUT_LIMIT_BYTES):
            kept += piece[: _OUTPUT_LIMIT_BYTES - len(kept)]
        return kept

    process.stdin.write(f"{server}\n".encode())
    with contextlib.suppress(OSError):  # a helper may read nothing
        await process.stdin.drain()
    process.stdin.close()
    output, errors = await asyncio.gather(read(process.stdout), read(process.stderr))
    return output, errors


def _credentials(output: bytes, place: str, registry: str) -> UpstreamCredentials:
    try:
        document = parse_json(output)
        user, secret = document["Username"], document["Secret"]
    except (ValueError, KeyError):
        user = secret = None
    if not isinstance(user, str) or not isinstance(secret, str) or not secret:
        raise UpstreamDenied(
            f'{place} did not print {{"Username": "...", "Secret": "..."}}; its output is not shown, since it may'
            " contain the secret",
            registry=registry,
        )
    if user == _TOKEN_USER:
        return UpstreamCredentials("", identity_token=secret)
    return UpstreamCredentials(user, secret)

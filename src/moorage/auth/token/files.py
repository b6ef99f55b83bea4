"""Files of keys for tokens, read again when they change.

If a file cannot be read or parsed after a change, or has no usable key, its old keys stay in force, and the reason
is logged once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.auth.file_log import FileLog
from moorage.auth.token.chains import is_ca
from moorage.auth.token.trusted_keys import KeyFileInvalid, TrustedKeys, merge, read_bundle, read_jwks
from moorage.reloading import Reload, ReloadedFile, reason_of
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["KeyFiles"]


class KeyFiles:
    """The files of `auth.token`, at least one; `allowed` are the algorithms.  `keys` are the current keys of both.

    `reports`: this process logs what all workers find in the files.
    """

    def __init__(
        self, rootcertbundle: Path | None, jwks: Path | None, allowed: frozenset[str], *, reports: bool = True
    ) -> None:
        self._log = log = FileLog(reports=reports)
        self._files: list[_KeyFile] = []
        if rootcertbundle is not None:
            self._files.append(
                _KeyFile("rootcertbundle", rootcertbundle, lambda data: read_bundle(data, allowed), log)
            )
        if jwks is not None:
            self._files.append(_KeyFile("jwks", jwks, lambda data: read_jwks(data, allowed), log))
        self.keys = TrustedKeys({})

    def load(self) -> None:
        """Read the files for the first time.  Raises StartupError if no key results, or a file is broken."""
        for file in self._files:
            try:
                file.load()
            except (OSError, ValueError) as error:
                raise StartupError(reason_of(error), f"auth.token.{file}") from error
        self.keys = merge(file.keys for file in self._files)
        if not _usable(self.keys):
            why = "; ".join(self.warnings) or "neither rootcertbundle nor jwks is given"
            raise StartupError(f"auth.token has no key that could sign a token: {why}")

    @property
    def warnings(self) -> list[str]:
        """Return warnings about the current keys."""
        return [f"auth.token.{file}: {note}" for file in self._files for note in file.keys.notes]

    def reload(self) -> bool:
        """Read the files again if they changed; return whether there are other keys now.

        Blocks; called by one thread at a time.
        """
        changed = [file for file in self._files if file.reload()]
        if not changed:
            return False
        self.keys = merge(file.keys for file in self._files)
        self._log.info("keys for tokens read again", files=", ".join(str(file) for file in changed))
        for warning in self.warnings:
            self._log.warning(warning)
        return True


class _KeyFile:
    def __init__(self, name: str, path: Path, read: Callable[[bytes], TrustedKeys], log: FileLog) -> None:
        self._name = name
        self._read = read
        self._log = log
        self._file = ReloadedFile(str(path), self._parse, TrustedKeys({}))

    def __str__(self) -> str:
        return f"{self._name} {self._file.path}"

    @property
    def keys(self) -> TrustedKeys:
        return self._file.value

    def load(self) -> None:
        """Read the file for the first time.  Raises OSError and ValueError."""
        self._file.load()

    def reload(self) -> bool:
        """Read the file again if it changed; return whether it has other keys now.  Logs a new problem."""
        outcome = self._file.reload()
        if outcome is Reload.FAILED and self._file.problem is not None:
            reason = reason_of(self._file.problem)
            self._log.error("the old keys for tokens stay in force", file=str(self), error=reason)
        return outcome is Reload.CHANGED

    def _parse(self, data: bytes) -> TrustedKeys:
        keys = self._read(data)
        if not _usable(keys) and _usable(self.keys):
            raise KeyFileInvalid("no key that could sign a token")
        return keys


def _usable(keys: TrustedKeys) -> bool:
    """Return whether tokens can be verified with the keys; a CA without a usable key of its own is enough."""
    return bool(keys.by_id) or any(is_ca(root) for root in keys.roots)

"""The files that hold the keys, read again when they change.

A file that cannot be read or understood after a change leaves its old keys in force and is told of once; so does
one without a usable key.  The whole content is compared, not the file's times: keys are swapped by renaming,
by symbolic links (Kubernetes) and by writing in place, and the files are small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moorage.auth.file_log import FileLog
from moorage.auth.token.chains import is_authority
from moorage.auth.token.keys import KeyFileInvalid, Keys, join, read_bundle, read_jwks
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["KeyFiles"]


class KeyFiles:
    """`keys` are those in force; `rootcertbundle` or `jwks` must be given, `allowed` are the algorithms to use.

    `reports`: whether this process logs what every worker finds in the files.
    """

    def __init__(
        self, rootcertbundle: Path | None, jwks: Path | None, allowed: frozenset[str], *, reports: bool = True
    ) -> None:
        self._log = log = FileLog(reports=reports)
        self._files: list[_File] = []
        if rootcertbundle is not None:
            self._files.append(
                _File("rootcertbundle", rootcertbundle, lambda data: read_bundle(data, allowed), log)
            )
        if jwks is not None:
            self._files.append(_File("jwks", jwks, lambda data: read_jwks(data, allowed), log))
        self.keys = Keys({})

    def load(self) -> None:
        """Read the files for the first time.  Raises StartupError if no key results, or a file is broken."""
        for file in self._files:
            try:
                file.read()
            except (OSError, KeyFileInvalid) as error:
                raise StartupError(_reason(error), f"auth.token.{file}") from error
        self.keys = join(file.keys for file in self._files)
        if not _usable(self.keys):
            why = "; ".join(self.warnings) or "neither rootcertbundle nor jwks is given"
            raise StartupError(f"auth.token has no key that could sign a token: {why}")

    @property
    def warnings(self) -> list[str]:
        """What is odd about the keys in force."""
        return [f"auth.token.{file}: {note}" for file in self._files for note in file.keys.notes]

    def look(self) -> bool:
        """Read the files again; whether the keys are others now.  Blocks, and is not called twice at once."""
        changed = [file for file in self._files if file.look()]
        if not changed:
            return False
        self.keys = join(file.keys for file in self._files)
        self._log.info("keys for tokens read again", files=", ".join(str(file) for file in changed))
        for warning in self.warnings:
            self._log.warning(warning)
        return True


class _File:
    def __init__(self, name: str, path: Path, parse: Callable[[bytes], Keys], log: FileLog) -> None:
        self._name, self._path, self._parse, self._log = name, path, parse, log
        self._content = b""
        self._refused: object = None
        self.keys = Keys({})

    def __str__(self) -> str:
        return f"{self._name} {self._path}"

    def read(self) -> None:
        """Raises OSError and KeyFileInvalid."""
        content = self._path.read_bytes()
        self.keys, self._content = self._parse(content), content

    def look(self) -> bool:
        """Whether there are other keys now.  Trouble is logged when it begins."""
        refused: object
        problem: Exception
        try:
            content = self._path.read_bytes()
            if content == self._content:
                self._refused = None
                return False
            refused = content
            if content == self._refused:
                return False
            keys = self._parse(content)
            if not _usable(keys) and _usable(self.keys):
                raise KeyFileInvalid("no key that could sign a token")
        except OSError as error:
            refused, problem = error.errno, error
        except KeyFileInvalid as error:
            problem = error
        else:
            self.keys, self._content, self._refused = keys, content, None
            return True
        if refused != self._refused:
            self._refused = refused
            self._log.error("the old keys for tokens stay in force", file=str(self), error=_reason(problem))
        return False


def _usable(keys: Keys) -> bool:
    """A certificate whose own key signs no tokens may still vouch for one whose does."""
    return bool(keys.by_id) or any(is_authority(root) for root in keys.roots)


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)

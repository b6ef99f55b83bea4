"""The policy in force: the file as it was when it was last right.

The file is checked once a second, with or without requests.  A new policy takes effect at once; one with a mistake
does not, and the log names the mistake once, so a half-finished edit changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from moorage.auth.file_log import FileLog
from moorage.auth.local.policy_file import read
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.auth.local.policy import Policy
    from moorage.auth.local.policy_file import FileRead

__all__ = ["PolicySource"]

_EVERY_S: Final = 1.0
_YOUNG_NS: Final = 2_000_000_000

_Stamp = tuple[int, int, int]


class PolicySource:
    """`clock` counts seconds from anywhere; `reports`: whether this process logs what every worker finds."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic, *, reports: bool = True) -> None:
        """Raises StartupError with everything that is wrong with the file."""
        self._path, self._clock, self._log = path, clock, FileLog(reports=reports)
        self._stamp = _stamp(path)
        self._young = _is_young(self._stamp)
        self._looked = clock()
        found = read(path)
        if found.policy is None:
            raise StartupError("; ".join(str(each) for each in found.problems if each.kind == "error"))
        self.warnings = [str(problem) for problem in found.problems]
        self._policy = found.policy
        self._told: tuple[str, ...] = ()

    async def current(self) -> Policy:
        now = self._clock()
        if now - self._looked >= _EVERY_S:
            await self.refresh()
        return self._policy

    async def refresh(self) -> None:
        """Read the file again if it has changed."""
        self._looked = self._clock()
        await self._look()

    async def _look(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._stamp and not self._young:
            return
        # A second edit within a coarse clock's tick moves no time: what is young is read once more.
        edited = stamp != self._stamp
        self._stamp, self._young = stamp, _is_young(stamp)
        # In a thread: a file of ten thousand rules takes a second to read.
        found = await asyncio.to_thread(read, self._path)
        if stamp != self._stamp:
            return  # it changed meanwhile, and who saw that reads it
        if found.policy is None:
            self._tell(found)
            return
        rules = len(found.policy.rules)
        if found.policy != self._policy:
            self._log.info("the policy has changed", file=self._path, rules=rules)
        elif edited:
            self._log.info("the policy was read again; its rules are the same", file=self._path, rules=rules)
        self._policy, self._told = found.policy, ()

    def _tell(self, found: FileRead) -> None:
        problems = tuple(str(problem) for problem in found.problems if problem.kind == "error")
        if problems != self._told:
            self._log.error("the policy cannot be used; the one before stays in force", cause="; ".join(problems))
        self._told = problems


def _stamp(path: str) -> _Stamp | None:
    """What changes with the file; None for one that is not there."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _is_young(stamp: _Stamp | None) -> bool:
    return stamp is not None and time.time_ns() - stamp[0] < _YOUNG_NS

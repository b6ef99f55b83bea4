"""The policy in force: that of the last version of the file without a mistake.

The file is checked once a second, with or without requests.  A valid edit takes effect at once; one with a mistake
is logged once and changes nothing, so neither does a half-finished edit.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from moorage.auth.file_log import FileLog
from moorage.auth.local.policy_file import SIZE_LIMIT_BYTES, parse, unreadable
from moorage.coalescing import SingleFlight
from moorage.reloading import Reload, ReloadedFile
from moorage.startup import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable

    from moorage.auth.local.policy import AccessPolicy

__all__ = ["PolicySource"]

_EVERY_S: Final = 1.0


class PolicySource:
    """`clock` counts seconds from any start; `reports`: this process logs what all workers find in the file."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic, *, reports: bool = True) -> None:
        """Read the file.  Raises StartupError with all its mistakes."""
        self._path = path
        self._clock = clock
        self._log = FileLog(reports=reports)
        self.warnings: list[str] = []
        self._file: ReloadedFile[AccessPolicy | None] = ReloadedFile(
            path, self._parse, None, limit_bytes=SIZE_LIMIT_BYTES
        )
        self._reloads: SingleFlight[None, None] = SingleFlight("reload of the policy")
        self._checked = clock()
        self._file.reload()
        if self._file.value is None:
            raise StartupError(self._cause())
        self._policy = self._file.value

    async def current(self) -> AccessPolicy:
        """Return the policy; checks the file if the last check was a second ago."""
        if self._clock() - self._checked >= _EVERY_S:
            await self.refresh()
        return self._policy

    async def refresh(self) -> None:
        """Read the file again if it changed."""
        self._checked = self._clock()
        if self._file.is_changed():
            await self._reloads.run(None, self._reload)

    async def _reload(self) -> None:
        # In a thread: parsing ten thousand rules takes a second.
        outcome = await asyncio.to_thread(self._file.reload)
        if outcome is Reload.FAILED:
            self._log.error("the policy cannot be used; the one before stays in force", cause=self._cause())
        policy = self._file.value
        if outcome is Reload.FAILED or outcome is Reload.NOTHING or policy is None:
            return
        rules = len(policy.rules)
        if policy != self._policy:
            self._log.info("the policy has changed", file=self._path, rules=rules)
        else:
            self._log.info("the policy was read again; its rules are the same", file=self._path, rules=rules)
        self._policy = policy

    def _parse(self, data: bytes) -> AccessPolicy:
        found = parse(data, self._path)
        if found.policy is None:
            raise ValueError("; ".join(str(each) for each in found.problems if each.kind == "error"))
        self.warnings = [str(problem) for problem in found.problems]
        return found.policy

    def _cause(self) -> str:
        problem = self._file.problem
        return str(unreadable(self._path, problem)) if isinstance(problem, OSError) else str(problem)

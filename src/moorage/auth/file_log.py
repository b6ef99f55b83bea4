"""Log lines about changed files: every worker of a node reads the same files, and one of them reports."""

from __future__ import annotations

import logging
from typing import Any, Final

import structlog

__all__ = ["FileLog"]

_log: Final = structlog.get_logger("moorage.auth")


class FileLog:
    """Logs at the level of the method if this process `reports`, else at debug level."""

    __slots__ = ("_reports",)

    def __init__(self, *, reports: bool) -> None:
        self._reports = reports

    def info(self, event: str, **facts: Any) -> None:
        self._write(logging.INFO, event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        self._write(logging.WARNING, event, facts)

    def error(self, event: str, **facts: Any) -> None:
        self._write(logging.ERROR, event, facts)

    def _write(self, level: int, event: str, facts: dict[str, Any]) -> None:
        _log.log(level if self._reports else logging.DEBUG, event, **facts)

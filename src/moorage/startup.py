"""The error that keeps the server from starting, or a reload from taking effect."""

from __future__ import annotations

__all__ = ["StartupError"]


class StartupError(Exception):
    """The server cannot start, or cannot apply a changed configuration; the message is for the operator.

    `reason` names the cause and the remedy; it holds no secret.  `setting` is the dotted key that has to be
    changed, or the name of an environment variable, "" where no single one is to blame; it precedes the reason in
    the message.
    """

    def __init__(self, reason: str, setting: str = "") -> None:
        super().__init__(f"{setting}: {reason}" if setting else reason)
        self.reason = reason
        self.setting = setting

"""Checks of `log.hooks`; disabled hooks are not checked.

CNCF Distribution starts with all of these mistakes, and sends no mail.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from moorage.config.addresses import host_and_port
from moorage.config.problems import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moorage.config.sections.log import Hook, Log

__all__ = ["HOOK_LEVELS", "check_hooks"]

HOOK_LEVELS: Final = ("panic", "fatal", "error", "warning", "warn", "info", "debug", "trace")
"""Names of levels in logrus."""

_PLAIN: Final = r"[^\s<>,;@\"]+(?:@[^\s<>,;@\"]+)?"
_ADDRESS: Final = re.compile(rf"{_PLAIN}|[^<>]*<{_PLAIN}>")


def check_hooks(log: Log) -> Iterator[Problem]:
    """Yield the problems of `log.hooks`."""
    for index, hook in enumerate(log.hooks):
        if hook.disabled:
            continue
        key = f"log.hooks[{index}]"
        if hook.type != "mail":
            yield Problem(f"expected mail, the only kind of hook, found {hook.type!r}", f"{key}.type")
            continue
        yield from _levels(hook, key)
        yield from _server(hook, f"{key}.options.smtp")
        yield from _addresses(hook, f"{key}.options")


def _levels(hook: Hook, key: str) -> Iterator[Problem]:
    if not hook.levels:
        yield Problem("required; expected the levels of lines to send, such as [error, panic]", f"{key}.levels")
    for index, level in enumerate(hook.levels):
        if level.lower() not in HOOK_LEVELS:
            message = f"expected one of {', '.join(HOOK_LEVELS)}, found {level!r}"
            yield Problem(message, f"{key}.levels[{index}]")
        elif level.lower() == "trace":
            yield Problem("has no effect; nothing is logged as trace", f"{key}.levels[{index}]", kind="warning")


def _server(hook: Hook, key: str) -> Iterator[Problem]:
    smtp = hook.options.smtp
    if not smtp.addr:
        yield Problem("required; expected host:port of the mail server", f"{key}.addr")
        return
    try:
        host, port = host_and_port(smtp.addr)
    except ValueError as error:
        yield Problem(f"{error}, found {smtp.addr!r}", f"{key}.addr")
        return
    if not host or not port:
        yield Problem(f"expected host and port of the mail server, found {smtp.addr!r}", f"{key}.addr")
    if smtp.password and not smtp.username:
        yield Problem("required with a password", f"{key}.username")


def _addresses(hook: Hook, key: str) -> Iterator[Problem]:
    if not hook.options.from_:
        yield Problem("required; expected the sender's address", f"{key}.from")
    elif not _is_address(hook.options.from_):
        yield Problem(
            f"expected an address such as registry@example.com, found {hook.options.from_!r}", f"{key}.from"
        )
    if not hook.options.to:
        yield Problem("required; expected the recipients' addresses", f"{key}.to")
    for index, recipient in enumerate(hook.options.to):
        if not _is_address(recipient):
            message = f"expected an address such as admin@example.com, found {recipient!r}"
            yield Problem(message, f"{key}.to[{index}]")


def _is_address(text: str) -> bool:
    """Return whether this is `a@b`, `root`, or `Name <a@b>`, in ASCII, as some mail servers require."""
    return text.isascii() and text.isprintable() and _ADDRESS.fullmatch(text) is not None

"""Telling problems on standard error: one line each, coloured on a terminal, never wrapped or cut elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moorage.config.problems import Problem

__all__ = ["printable", "tell"]

_STYLES: Final = {"error": "bold red", "warning": "yellow"}


def tell(problems: Iterable[Problem], *, unknown_as: str = "warning") -> None:
    """One line per problem, errors last, where they are seen."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    labels = {"unknown": unknown_as, "fault": "error"}
    labelled = [(labels.get(problem.kind, problem.kind), problem) for problem in problems]
    labelled.sort(key=lambda entry: (entry[0] == "error", entry[1].origin.source, entry[1].origin.line or 0))
    for label, problem in labelled:
        console.print(Text.assemble((f"{label}: ", _STYLES[label]), printable(str(problem))))


def printable(text: str) -> str:
    """Without what would move a terminal's cursor, and encodable whatever bytes a variable held."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
                    for char in text)  # fmt: skip
    return shown.encode(errors="backslashreplace").decode()

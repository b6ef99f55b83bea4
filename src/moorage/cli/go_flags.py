"""Flags with a value, as Go programs accept them: `--dry-run=true`, `-m=false`.

Charts and cron jobs for CNCF Distribution write them so (twuni's CronJob: `--delete-untagged=true`); Click's flags
take no value.
Source: github.com/spf13/pflag, Go's strconv.ParseBool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import typer
from typer.core import TyperCommand, TyperOption

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["GoFlags"]

_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class GoFlags(TyperCommand):
    """A command whose flags may have a value: true is the flag, false is its absence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # a click.Context, which Typer brings or imports
        return super().parse_args(ctx, list(self._without_values(ctx, args)))

    def _without_values(self, ctx: Any, args: list[str]) -> Iterator[str]:
        flags = {
            name
            for option in self.params
            if isinstance(option, TyperOption) and option.is_flag
            for name in option.opts
        }
        for index, argument in enumerate(args):
            if argument == "--":
                yield from args[index:]
                return
            name, equals, value = argument.partition("=")
            if not equals or name not in flags:
                yield argument
            elif value in _TRUE:
                yield name
            elif value not in _FALSE:
                raise typer.BadParameter(f"expected true or false, found {value!r}", ctx, param_hint=name)

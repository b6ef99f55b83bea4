"""`moorage htpasswd`: creates and edits password files, with the interface of Apache's htpasswd.

Flags, messages and exit statuses are Apache's, so that it replaces `docker run --entrypoint htpasswd httpd:2 -Bbn
...`.  Differences: every password is hashed with bcrypt, the only scheme that a registry accepts; a file is
replaced as a whole; names that could not be read back are refused.

Exit status: 0 done; 1 the file cannot be read or written; 2 a mistake on the command line; 3 the password is
wrong, or was typed differently twice; 5 it is too long; 6 the user is unknown, or has an impossible name; 7 the
file is no password file.

Source: htpasswd(1) of Apache 2.4, compared side by side in tests/cli/test_htpasswd.py.
"""

from __future__ import annotations

import codecs
import getopt
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperCommand

__all__ = ["Unparsed", "htpasswd"]

_USAGE: Final = """\
Usage:
	htpasswd [-ciB] [-C cost] passwordfile username
	htpasswd -b[cB] [-C cost] passwordfile username password
	htpasswd -n[iB] [-C cost] username
	htpasswd -nb[B] [-C cost] username password
	htpasswd -v[ib] passwordfile username [password]
	htpasswd -D passwordfile username
 -c  Create a new file.
 -n  Don't update file; display results on stdout.
 -b  Use the password from the command line rather than prompting for it.
 -i  Read password from stdin without verification (for script usage).
 -B  Hash with bcrypt; always done here.
 -C  Set the computing time used for bcrypt
     (higher is more secure but slower, default: 5, valid: 4 to 17).
 -D  Delete the specified user.
 -v  Verify password for the specified user.
"""

_UNSUPPORTED_SCHEMES: Final = {
    "-m": "MD5",
    "-d": "CRYPT",
    "-s": "SHA-1",
    "-p": "plain text",
    "-2": "SHA-256",
    "-5": "SHA-512",
}
_COSTS: Final = range(4, 18)
_LIMIT_BYTES: Final = 255
_FILE: Final = 1
_SYNTAX: Final = 2
_PASSWORD: Final = 3
_TOO_LONG: Final = 5
_USER: Final = 6
_INVALID: Final = 7
"""Exit statuses, as above."""

_FLAGS: Final = (
    ("-c", "Create the file, or replace it."),
    ("-n", "Print the line; no file is read or written."),
    ("-b", "Take the password from the command line."),
    ("-i", "Read the password from standard input."),
    ("-B", "Hash with bcrypt; always done here."),
    ("-C COST", "Cost of bcrypt, 4 to 17.  [default: 5]"),
    ("-D", "Delete the user."),
    ("-v", "Verify the password."),
    ("-h, --help", "Show this message and exit."),
)


class Unparsed(TyperCommand):
    """Passes its arguments to `getopt` unparsed: a password may begin with a hyphen; the help lists them."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        del ctx
        return ["[OPTIONS]", "[PASSWORDFILE]", "USERNAME", "[PASSWORD]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        del ctx
        with formatter.section("Options"):
            formatter.write_dl(_FLAGS)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # a click.Context, which Typer brings or imports
        if args[:1] in (["-h"], ["--help"]):
            return super().parse_args(ctx, args)
        ctx.args = list(args)
        return args


class _Failed(Exception):
    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Request:
    """`source` is b (the command line), i (standard input) or "" (typed); `action` one of c, n, v, D or ""."""

    action: str
    source: str
    cost: int
    path: Path
    user: bytes
    password: bytes | None


def htpasswd(context: typer.Context) -> None:
    """Make and change password files for auth.htpasswd, with the flags of Apache's htpasswd.

    Every password is hashed with bcrypt. Without -b and -i it is prompted for, twice. With -n there is no
    PASSWORDFILE, and PASSWORD is for -b only.

    Example: moorage htpasswd -Bbn testuser testpassword > auth/htpasswd
    """
    try:
        _run(_read(context.args))
    except _Failed as failed:
        if str(failed):
            typer.echo(str(failed), err=True)
        raise typer.Exit(failed.status) from None


def _read(arguments: list[str]) -> _Request:
    """Parse the arguments; everything is checked that needs no file."""
    try:
        options, operands = getopt.getopt(arguments, "cnmBC:r:25dpsDvib")
    except getopt.GetoptError as error:
        problem = "illegal option" if "not recognized" in error.msg else "missing argument for option"
        raise _Failed(_SYNTAX, f"htpasswd: {problem} -- {error.opt}\n{_USAGE.rstrip()}") from None
    given = {name for name, _ in options}
    for name, scheme in _UNSUPPORTED_SCHEMES.items():
        if name in given:
            reason = f"{name} ({scheme}) never matches in a registry; leave it out: bcrypt (-B) is what is used"
            raise _Failed(_SYNTAX, f"htpasswd: {reason}")
    if "-r" in given:
        raise _Failed(_SYNTAX, "htpasswd: -r is for SHA-256 and SHA-512; the cost of bcrypt is set by -C")
    actions = [name for name in ("-c", "-n", "-v", "-D") if name in given]
    if len(actions) > 1:
        raise _Failed(_SYNTAX, "htpasswd: only one of -c -n -v -D may be specified")
    if {"-b", "-i"} <= given:
        raise _Failed(_SYNTAX, "htpasswd: -b and -i are two sources of the password; choose one")
    action = actions[0][1:] if actions else ""
    source = "b" if "-b" in given else "i" if "-i" in given else ""
    if len(operands) != 2 + (source == "b") - (action == "n"):
        raise _Failed(_SYNTAX, _USAGE.rstrip())
    path = Path() if action == "n" else Path(operands.pop(0))
    user = os.fsencode(operands.pop(0))
    _check_user(user)
    return _Request(
        action, source, _cost(dict(options)), path, user, os.fsencode(operands[0]) if operands else None
    )


def _check_user(user: bytes) -> None:
    if b":" in user:
        raise _Failed(_USER, "htpasswd: username contains illegal character ':'")
    if len(user) > _LIMIT_BYTES:
        raise _Failed(_TOO_LONG, f"htpasswd: username too long (> {_LIMIT_BYTES})")
    if not user or user != user.strip() or user.startswith(b"#") or any(byte < 0x20 for byte in user):  # noqa: PLR2004
        raise _Failed(
            _USER,
            "htpasswd: username is empty, begins with '#' or a space, ends with one, or has a control character",
        )


def _cost(options: dict[str, str]) -> int:
    text = options.get("-C", "5")
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise _Failed(_SYNTAX, "htpasswd: argument to -C must be a positive integer")
    if int(text) not in _COSTS:
        raise _Failed(_PASSWORD, f"htpasswd: the cost of bcrypt is from {_COSTS[0]} to {_COSTS[-1]}")
    return int(text)


def _run(request: _Request) -> None:
    from moorage.auth.htpasswd_write import entry

    if request.action == "n":
        # The empty line after it is Apache's.
        typer.echo(entry(request.user, _password(request), request.cost) + b"\n\n", nl=False)
        return
    old = _existing(request)
    if request.action == "v":
        _verify(request, old)
        return
    name = request.user.decode(errors="backslashreplace")
    if request.action == "D":
        if not _has(old, request.user):
            raise _Failed(0, f"User {name} not found")
        _write(request, [line for line in old if not _is(line, request.user)])
        typer.echo(f"Deleting password for user {name}", err=True)
        return
    made = entry(request.user, _password(request), request.cost) + b"\n"
    if _has(old, request.user):
        _write(request, [made if _is(line, request.user) else line for line in old])
        typer.echo(f"Updating password for user {name}", err=True)
    else:
        _write(request, [*old, made])
        typer.echo(f"Adding password for user {name}", err=True)


def _existing(request: _Request) -> list[bytes]:
    """Return the lines of the file, each with its newline; none if it is to be created."""
    from moorage.auth.password_file import parse

    try:
        data = request.path.read_bytes()
    except FileNotFoundError:
        if request.action != "c":
            raise _Failed(_FILE, f"htpasswd: cannot modify file {request.path}; use '-c' to create it") from None
        return []
    except OSError as error:
        raise _Failed(_FILE, f"htpasswd: cannot read file {request.path}: {error.strerror}") from None
    if request.action == "c":
        return []
    try:
        parse(data)
    except ValueError as error:
        reason = f"The file {request.path} does not appear to be a valid htpasswd file: {error}."
        raise _Failed(_INVALID, f"htpasswd: {reason}") from None
    # A byte order mark, which editors on Windows write, would be part of the first user's name.
    data = data.removeprefix(codecs.BOM_UTF8)
    # Without a newline at the end, the next entry would be joined to the last line.
    return [line + b"\n" for line in data.removesuffix(b"\n").split(b"\n")] if data else []


def _is(line: bytes, user: bytes) -> bool:
    from moorage.auth.password_file import read_line

    found = read_line(line)
    return found is not None and found[0] == user


def _has(lines: list[bytes], user: bytes) -> bool:
    return any(_is(line, user) for line in lines)


def _write(request: _Request, lines: list[bytes]) -> None:
    from moorage.auth.htpasswd_write import replace

    try:
        replace(request.path, b"".join(lines))
    except OSError as error:
        what = "create" if request.action == "c" else "modify"
        raise _Failed(_FILE, f"htpasswd: cannot {what} file {request.path}: {error.strerror}") from None


def _verify(request: _Request, lines: list[bytes]) -> None:
    from moorage.auth.password_file import PASSWORD_LIMIT_BYTES, fits, parse

    password = _password(request)
    name = request.user.decode(errors="backslashreplace")
    entries = [line for line in lines if _is(line, request.user)]
    if not entries:
        raise _Failed(_USER, f"User {name} not found")
    found = parse(b"".join(entries))
    for warning in found.warnings:
        raise _Failed(_PASSWORD, f"htpasswd: {warning.partition(': ')[2]}")
    if not fits(password[:PASSWORD_LIMIT_BYTES], found.hashes[request.user]):
        raise _Failed(_PASSWORD, "password verification failed")
    typer.echo(f"Password for user {name} correct.", err=True)


def _password(request: _Request) -> bytes:
    from moorage.auth.password_file import PASSWORD_LIMIT_BYTES

    if request.password is not None:
        password = request.password
    elif request.source == "i":
        password = sys.stdin.buffer.read().removesuffix(b"\n").removesuffix(b"\r")
    else:
        password = _typed(twice=request.action != "v")
    if len(password) > _LIMIT_BYTES:
        raise _Failed(_TOO_LONG, f"htpasswd: password too long (> {_LIMIT_BYTES})")
    if b"\0" in password:
        raise _Failed(_PASSWORD, "htpasswd: the password contains a NUL, where bcrypt would end it")
    if request.action != "v":
        if not password:
            typer.echo("Warning: the password is empty.", err=True)
        if len(password) > PASSWORD_LIMIT_BYTES:
            typer.echo(f"Warning: only the first {PASSWORD_LIMIT_BYTES} bytes of the password count.", err=True)
    return password


def _typed(*, twice: bool) -> bytes:
    import warnings
    from getpass import GetPassWarning, getpass

    warnings.simplefilter("error", GetPassWarning)  # instead of echoing what is typed
    try:
        first = getpass("New password: " if twice else "Enter password: ")
        if twice and getpass("Re-type new password: ") != first:
            raise _Failed(_PASSWORD, "htpasswd: password verification error")
    except EOFError:
        raise _Failed(_PASSWORD, "htpasswd: no password was given") from None
    except GetPassWarning:
        message = "htpasswd: there is no terminal to type the password on; pass it on standard input with -i"
        raise _Failed(_PASSWORD, message) from None
    return os.fsencode(first)

"""The command line: what is printed where, and exit statuses that scripts can trust."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.server import certs

from moorage import __version__
from moorage.config import source

if TYPE_CHECKING:
    from tests.cli.conftest import Run

GOOD = "version: 0.1\nstorage: inmemory\nhttp: {addr: '127.0.0.1:0'}\n"
BIN = Path(sys.executable).parent


@pytest.mark.parametrize("name", ["moorage", "registry"])
def test_both_names_are_installed(name: str) -> None:
    """`registry serve FILE` in a unit file still works."""
    result = subprocess.run([BIN / name, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert (result.stdout, result.stderr) == (f"{name} moorage {__version__}\n", "")


def test_the_version_is_printed_as_the_reference_prints_it(run: Run) -> None:
    """Scripts take the last word of `registry --version`."""
    for name in ("registry", "moorage"):
        for option in ("--version", "-v"):
            result = run(option, name=name)
            assert (result.returncode, result.stdout) == (0, f"{name} moorage {__version__}\n")


def test_version_says_which_python(run: Run) -> None:
    """The first thing asked in an issue."""
    result = run("version")
    assert result.returncode == 0
    assert result.stdout.startswith(f"moorage {__version__} (CPython 3.")


@pytest.mark.parametrize(
    "arguments",
    [("help",), ("--help",), ("-h",), ("help", "serve"), ("serve", "--help"), ("config", "check", "-h")],
)
def test_help_goes_to_standard_output(run: Run, arguments: tuple[str, ...]) -> None:
    """`moorage help | less` works."""
    result = run(*arguments, name="registry")
    assert result.returncode == 0
    assert result.stdout.startswith("Usage: registry")
    assert result.stderr == ""


def test_every_command_explains_itself_with_an_example(run: Run) -> None:
    """And is on the page of commands, with its exit status."""
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
    for command in (
        "serve",
        "config check",
        "config show",
        "htpasswd",
        "version",
        "help",
        "export",
        "import",
        "garbage-collect",
        "history",
        "restore",
        "erase",
        "repository delete",
        "storage purge-uploads",
        "copy",
        "sync",
    ):
        assert "Example: " in run("help", *command.split()).stdout, command
        assert f"`moorage {command}" in page, command


@pytest.mark.parametrize(
    "arguments",
    [(), ("bogus",), ("--bogus",), ("serve", "--bogus"), ("serve", "a", "b"), ("config",), ("config", "bogus"),
     ("version", "x"), ("help", "bogus")],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_status_2(run: Run, arguments: tuple[str, ...]) -> None:
    """The reference exits with 0, and deployments went on."""
    result = run(*arguments, name="registry")
    assert result.returncode == 2
    assert "Usage: registry" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [("serve",), ("config", "check"), ("config", "show")])
def test_a_configuration_that_cannot_be_read_is_one_line_and_status_1(
    run: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Never a traceback, which operators cannot read."""
    (tmp_path / "latin.yml").write_bytes(b"\xe4")
    (tmp_path / "broken.yml").write_text("a: [")
    for file, message in (
        ("none.yml", "no such file"),
        (".", "is a directory"),
        ("latin.yml", "not UTF-8"),
        ("broken.yml", "not YAML"),
    ):
        result = run(*command, tmp_path / file)
        assert (result.returncode, result.stdout) == (1, "")
        first, *rest = result.stderr.splitlines()
        assert first.startswith(f"error: {tmp_path / file}")
        assert message in first
        assert rest == (["1 error"] if command[-1] == "check" else [])


@pytest.mark.parametrize(
    "command",
    [("serve",), ("config", "check"), ("config", "show"), ("storage", "check"), ("storage", "rebuild-referrers"),
     ("auth", "explain", "ann", "pull", "app")],
)  # fmt: skip
def test_a_configuration_without_permission_is_one_line_and_status_1(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Like one that is missing; a usage and status 2 would look like a mistake on the command line."""
    file = tmp_path / "config.yml"
    file.write_text(GOOD)
    real = Path.open

    def denied(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == file:
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **options)

    # Root reads everything, and Click asks beforehand.
    monkeypatch.setattr(Path, "open", denied)
    monkeypatch.setattr(os, "access", lambda path, *_, **__: os.fspath(path) != str(file))
    result = run(*command, file)
    assert (result.returncode, result.stdout) == (1, "")
    first, *rest = result.stderr.splitlines()
    assert first == f"error: {file}: not readable by this user; change its permissions or its owner"
    assert rest == (["1 error"] if command == ("config", "check") else [])


def test_serve_reports_every_error_and_does_not_start(run: Run, tmp_path: Path) -> None:
    """In a crash loop, the log of one start must be enough to correct everything."""
    file = tmp_path / "config.yml"
    file.write_text(GOOD + "log: {level: loud}\nauth: {htpasswd: {realm: r}}\nzzz: 1\n")
    result = run("serve", file, REGISTRY_TAGS_MAXTAGS="x")
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        f"warning: {file}:6: zzz: unknown key",
        f"error: {file}:4: log.level: expected error, warn, info or debug, found 'loud'",
        f"error: {file}:5: auth.htpasswd.path: required and missing",
        "error: REGISTRY_TAGS_MAXTAGS: tags.maxtags: expected a whole number, found 'x'",
    ]


@pytest.mark.parametrize("wrong", ["directory", "secret", "secret that is a directory"])
def test_wrong_mounts_end_the_start_before_anything_is_written(run: Run, tmp_path: Path, wrong: str) -> None:
    """Docker makes directories of files that are not there; nothing else is made then."""
    mount = tmp_path / "mount"
    if wrong != "secret":
        mount.mkdir()
    environ = {"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": str(tmp_path / "data")}
    if wrong == "directory":
        result = run("serve", mount, **environ)
    else:
        result = run("serve", "--defaults", REGISTRY_HTTP_SECRET_FILE=str(mount), **environ)
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert str(mount) in result.stderr
    assert not (tmp_path / "data").exists()


def test_defaults_and_a_file_exclude_each_other(run: Run, tmp_path: Path) -> None:
    result = run("serve", "--defaults", tmp_path / "config.yml")
    assert result.returncode == 2
    assert "--defaults reads no file" in result.stderr


def test_a_file_that_was_found_says_so_when_it_is_wrong(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file may be that of another registry, while the user only tries this one."""
    file = tmp_path / "config.yml"
    file.write_text("version: 9\n")
    monkeypatch.setattr(source, "PLACES", (file,))
    found = run("serve")
    assert found.returncode == 1
    hint = "name another file, or start without one: moorage serve --defaults"
    assert found.stderr.splitlines()[-1] == f"{file} was found in a default location; {hint}"
    assert "default location" not in run("serve", file).stderr
    assert "default location" not in run("serve", REGISTRY_CONFIGURATION_PATH=str(file)).stderr


def test_check_is_content_with_a_good_file(run: Run, tmp_path: Path) -> None:
    """Also when it is found by variable."""
    file = tmp_path / "config.yml"
    file.write_text(GOOD)
    for result in (run("config", "check", file), run("config", "check", REGISTRY_CONFIGURATION_PATH=str(file))):
        assert (result.returncode, result.stdout, result.stderr) == (0, f"{file}: no errors\n", "")


def test_check_reads_certificates_too(run: Run, tmp_path: Path) -> None:
    """Before a reload, not after: a hook of certbot can run it."""
    file, tls = tmp_path / "config.yml", f"  tls: {{certificate: {tmp_path}/now.crt, key: {tmp_path}/now.key}}\n"
    file.write_text("version: 0.1\nstorage: inmemory\nhttp:\n  addr: ':0'\n" + tls)
    certs.self_signed(end=certs.NOW - certs.DAY / 2).write(tmp_path, "now")
    result = run("config", "check", file)
    assert result.returncode == 0
    assert "warning: the certificate" in result.stderr
    assert "has expired" in result.stderr
    (tmp_path / "now.key").write_bytes(certs.self_signed().key_pem())
    result = run("config", "check", file)
    assert result.returncode == 1
    assert "error: http.tls: the key" in result.stderr
    assert "does not belong to" in result.stderr


def test_check_counts_unknown_keys_as_errors_and_warnings_not(run: Run, tmp_path: Path) -> None:
    """A typo stops a pipeline; a service link of Kubernetes does not."""
    file = tmp_path / "config.yml"
    file.write_text(GOOD + "catalog: {maxentrys: 5}\n")
    result = run("config", "check", file)
    assert result.returncode == 1
    assert result.stderr == (
        f"error: {file}:4: catalog.maxentrys: unknown key (did you mean catalog.maxentries?)\n1 error\n"
    )
    file.write_text(GOOD)
    result = run("config", "check", file, REGISTRY_AUTH_SERVICE_HOST="10.0.0.1")
    assert result.returncode == 0
    assert result.stderr.startswith("warning: REGISTRY_AUTH_SERVICE_HOST: ignored")


def test_show_prints_a_file_that_means_the_same(run: Run, tmp_path: Path) -> None:
    """With the variables in it and the secrets not."""
    file, copy = tmp_path / "config.yml", tmp_path / "copy.yml"
    file.write_text(GOOD)
    first = run("config", "show", file, REGISTRY_LOG_LEVEL="debug")
    copy.write_text(first.stdout)
    assert "level: debug" in first.stdout
    assert run("config", "show", copy).stdout.splitlines()[1:] == first.stdout.splitlines()[1:]
    assert "hush" not in run("config", "show", file, REGISTRY_HTTP_SECRET="hush").stdout


def test_a_variable_cannot_write_on_the_terminal(tmp_path: Path) -> None:
    """Escape sequences and bytes that are no UTF-8 are shown as such."""
    file = tmp_path / "config.yml"
    file.write_text(GOOD)
    environ = {b"PATH": b"/bin", b"REGISTRY_\x1b[2J\xff": b"x", b"REGISTRY_LOG_LEVEL": b'"\\e[2J"'}
    result = subprocess.run(
        [BIN / "moorage", "config", "check", file], env=environ, capture_output=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert b"\x1b" not in result.stderr
    assert b"Traceback" not in result.stderr


def test_looking_at_the_version_loads_nothing_heavy() -> None:
    """Pydantic, Rich and the server cost half a second that `--version` must not pay."""
    code = "import sys, moorage.cli; print([m for m in ('pydantic', 'rich.console', 'uvloop', 'starlette') "
    result = subprocess.run(
        [sys.executable, "-c", code + "if m in sys.modules])"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == "[]\n"


def test_the_server_starts_without_rich() -> None:
    """For tracebacks that are never rendered structlog would load it, which is an eighth of the start."""
    code = (
        "import sys; from moorage import cli; cli._import_structlog(); import moorage.wiring.serving, structlog; "
        "print(structlog.dev.rich, 'rich' in sys.modules); import rich.console"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "None False\n"


@pytest.mark.parametrize("group", [(), ("auth",), ("config",), ("storage",)])
def test_lists_of_commands_are_whole_on_80_columns(run: Run, group: tuple[str, ...]) -> None:
    """In a pipe or a narrow terminal "Tell everything that is wrong, at once; exit status 1 ..." is of no use."""
    shown = run(*group, "--help", COLUMNS="80").stdout
    commands = shown.partition("Commands:\n")[2].splitlines()
    assert len(commands) > 1
    for line in commands:
        assert not line.endswith("..."), line
        assert len(line) <= 80, line


def test_problems_in_a_pipe_are_not_wrapped(run: Run, tmp_path: Path) -> None:
    """A path that is cut in two cannot be copied, searched for or parsed."""
    path = tmp_path / ("long-name/" * 20) / "config.yml"
    for command in (("serve",), ("config", "check"), ("config", "show"), ("storage", "check")):
        lines = run(*command, path, COLUMNS="80").stderr.splitlines()
        assert lines[0].startswith(f"error: {path}: no such file; "), command


def test_the_flags_of_htpasswd_are_listed_as_options(run: Run) -> None:
    """Each that it takes, where the help of every command has them."""
    shown = run("htpasswd", "--help").stdout
    assert shown.startswith("Usage: moorage htpasswd [OPTIONS] [PASSWORDFILE] USERNAME [PASSWORD]\n")
    listed = [line.split()[0].rstrip(",") for line in shown.partition("Options:\n")[2].splitlines()]
    assert listed == ["-c", "-n", "-b", "-i", "-B", "-C", "-D", "-v", "-h"]

"""`moorage health`: exit status 0 while the registry answers, 1 with one sentence otherwise, at little cost."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from tests.ports import free_port
from tests.server.serving import serving

from moorage.cli import liveness
from moorage.cli.liveness import Dead, check, parse, served_configuration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Run
    from tests.server.certs import Holder
    from tests.server.serving import Served


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Of which a health check fails all the time: clients are answered 503."""
    home = tmp_path_factory.mktemp("plain")
    (home / "out-of-service").touch()
    health = {"file": [{"file": str(home / "out-of-service"), "interval": "100ms"}]}
    with serving(home, health=health) as server:
        yield server


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, ca: Holder) -> Iterator[Served]:
    """HTTPS for clients with certificates."""
    home = tmp_path_factory.mktemp("secured")
    (home / "ca.crt").write_bytes(ca.pem)
    tls = {**ca.issue("registry.test").write(home, "server"), "clientcas": [f"{home}/ca.crt"]}
    with serving(home, http={"tls": tls}) as server:
        yield server


def configured(folder: Path, addr: str, **http: object) -> Path:
    """The configuration file of a registry that listens there."""
    file = folder / "health.yml"
    file.write_text(yaml.safe_dump({"version": 0.1, "storage": "inmemory", "http": {"addr": addr, **http}}))
    return file


def test_a_registry_that_serves_nobody_is_alive(run: Run, served: Served, tmp_path: Path) -> None:
    """A health check fails: Swarm would kill the task, and another one would fail as well."""
    served.logged("every request is refused", times=2)
    assert served.get("/v2/")[0] == 503
    result = run("health", configured(tmp_path, f"127.0.0.1:{served.port}"))
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == f"alive: http://127.0.0.1:{served.port} answers\n"


@pytest.mark.parametrize("host", ["", "0.0.0.0", "[::]", "localhost"])
def test_every_interface_means_this_machine(served: Served, tmp_path: Path, host: str) -> None:
    """`:5000` is where a client on another machine would connect to; the check does not leave the container."""
    assert "answers" in check(configured(tmp_path, f"{host}:{served.port}"), {}, 10)


def test_loopback_of_the_other_family_is_tried_too(tmp_path: Path) -> None:
    """Without IPv4 the wildcard is `::` only."""
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as server:
        server.bind(("::1", free_port()))
        server.listen()
        thread = threading.Thread(target=_answer, args=(server, b"HTTP/1.1 200 OK\r\n\r\n"))
        thread.start()
        port = server.getsockname()[1]
        assert check(configured(tmp_path, f":{port}"), {}, 10) == f"http://[::1]:{port} answers"
        thread.join(10)


def _answer(server: socket.socket, answer: bytes) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(answer)


def test_the_variables_of_the_server_hold(run: Run, served: Served) -> None:
    """The configuration of most containers, which have no file."""
    result = run("health", "--timeout", "10", REGISTRY_HTTP_ADDR=f"127.0.0.1:{served.port}")
    assert result.returncode == 0, result.stderr
    assert "answers" in result.stdout


def test_a_client_certificate_that_is_missing_is_a_sign_of_life(secured: Served, tmp_path: Path) -> None:
    """The server's certificate does not name the address, and the check has no client certificate."""
    (files,) = [secured.config["http"]["tls"]]
    file = configured(tmp_path, f"127.0.0.1:{secured.port}", tls=files)
    answer = check(file, {}, 10)
    assert answer == f"https://127.0.0.1:{secured.port} answers, and requires a client certificate"


def test_https_is_spoken_where_a_variable_says_so(secured: Served, tmp_path: Path) -> None:
    tls = secured.config["http"]["tls"]
    environ = {"REGISTRY_HTTP_TLS_CERTIFICATE": tls["certificate"], "REGISTRY_HTTP_TLS_KEY": tls["key"]}
    assert check(configured(tmp_path, f"127.0.0.1:{secured.port}"), environ, 10).startswith("https://")


def test_plain_http_where_https_is_configured_is_another_server(served: Served, tmp_path: Path) -> None:
    file = configured(tmp_path, f"127.0.0.1:{served.port}", tls={"certificate": "a", "key": "b"})
    with pytest.raises(Dead, match=r"http.tls is configured, but the answer is not TLS: WRONG_VERSION_NUMBER"):
        check(file, {}, 10)


def test_https_without_client_certificates_and_a_unix_socket(tmp_path: Path, ca: Holder) -> None:
    tls = ca.issue("registry.test").write(tmp_path, "server")
    path = tmp_path / "socket"
    with serving(tmp_path / "home", http={"addr": str(path), "net": "unix", "tls": tls}):
        file = configured(tmp_path, str(path), net="unix", tls=tls)
        assert check(file, {}, 10) == f"unix:{path} answers"


def test_a_registry_without_its_acme_certificate_is_alive(tmp_path: Path) -> None:
    """To start it again would only ask the authority once more."""
    with socket.create_server(("127.0.0.1", 0)) as waiting:
        acme = {"letsencrypt": {"cachefile": str(tmp_path / "acme"), "hosts": ["Registry.example.com"]}}
        addr = f"127.0.0.1:{waiting.getsockname()[1]}"
        assert check(configured(tmp_path, addr, tls=acme), {}, 10).endswith("awaits its certificate")
        (tmp_path / "acme").mkdir()
        (tmp_path / "acme" / "registry.example.com").touch()
        with pytest.raises(Dead, match="no answer"):
            check(configured(tmp_path, addr, tls=acme), {}, 0.1)


@pytest.mark.parametrize("name", ["moorage", "registry"])
def test_nothing_there_is_one_sentence(run: Run, tmp_path: Path, name: str) -> None:
    port = free_port()
    result = run("health", configured(tmp_path, f":{port}"), name=name)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        f"not alive: nothing listens on 127.0.0.1:{port} (http.addr); is the registry running?\n"
    )


def test_a_socket_that_is_gone_is_one_sentence(run: Run, tmp_path: Path) -> None:
    result = run("health", configured(tmp_path, str(tmp_path / "none"), net="unix"))
    assert (result.returncode, result.stdout) == (1, "")
    reason = "No such file or directory"
    assert result.stderr == f"not alive: no connection to {tmp_path}/none (http.addr): {reason}\n"


@pytest.mark.parametrize("tls", [{}, {"certificate": "a", "key": "b"}])
def test_a_server_that_hangs_is_not_alive_after_the_timeout(run: Run, tmp_path: Path, tls: dict[str, str]) -> None:
    """The kernel accepts connections for it; the check of a worker that never answers would never end."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        file = configured(tmp_path, f"127.0.0.1:{hung.getsockname()[1]}", tls=tls)
        result = run("health", "--timeout", "0.2", file)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("not alive: no answer from http")
    assert result.stderr.endswith("within 0.2 s\n")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "/livez answers 404; is it another server that listens there?"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "the answer is not HTTP/1.1: b'SSH-2.0-OpenSSH_9.2"),
        (b"", "closed without an answer"),
    ],
)
def test_another_server_is_not_the_registry(tmp_path: Path, answer: bytes, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_answer, args=(server, answer))
        thread.start()
        with pytest.raises(Dead) as caught:
            check(configured(tmp_path, f"127.0.0.1:{server.getsockname()[1]}"), {}, 10)
        thread.join(10)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("addr", "reason"),
    [
        ("127.0.0.1:0", "http.addr is '127.0.0.1:0', a random port: name one to check the health of the registry"),
        ("a..b:5000", "http.addr is 'a..b:5000': not a host name"),
        ("localhost", "http.addr is 'localhost': expected host:port or :port with a port from 0 to 65535"),
    ],
)
def test_an_address_that_cannot_be_asked(run: Run, tmp_path: Path, addr: str, reason: str) -> None:
    result = run("health", configured(tmp_path, addr))
    assert (result.returncode, result.stderr) == (1, f"not alive: {reason}\n")


def test_a_configuration_that_cannot_be_used_is_one_sentence(run: Run, tmp_path: Path) -> None:
    """Only the file has the address to connect to."""
    file = tmp_path / "config.yml"
    file.write_text("version: 0.1\nstorage: inmemory\nhttp: [\n")
    result = run("health", file)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith(f"liveness unknown: the configuration cannot be used: {file}:4: not YAML")
    assert len(result.stderr.splitlines()) == 1


def test_a_mistake_elsewhere_in_the_file_is_no_matter(served: Served, tmp_path: Path) -> None:
    """The file is being edited while the registry serves."""
    file = tmp_path / "config.yml"
    file.write_text(f"version: 0.1\nstorage: {{no-such: {{}}}}\natuh: x\nhttp: {{addr: ':{served.port}'}}\n")
    assert "answers" in check(file, {}, 10)


@pytest.mark.parametrize(
    ("arguments", "config", "timeout_s"),
    [
        ([], None, liveness.DEFAULT_TIMEOUT_S),
        (["a b.yml"], Path("a b.yml"), liveness.DEFAULT_TIMEOUT_S),
        (["--timeout", "3"], None, 3.0),
        (["--timeout=0.5", "a.yml"], Path("a.yml"), 0.5),
    ],
)
def test_usual_arguments_are_parsed_without_typer(
    arguments: list[str], config: Path | None, timeout_s: float
) -> None:
    assert parse(arguments) == (config, timeout_s)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--timeout", "3x"], ["--timeout", "0"], ["--timeout"], ["a", "b"], ["", "a"], ["-v"]],
)
def test_unusual_arguments_are_left_to_typer(arguments: list[str]) -> None:
    assert parse(arguments) is None


def test_a_mistake_on_the_command_line_is_status_2(run: Run) -> None:
    for arguments in (("--timeout", "0"), ("--timeout", "3x"), ("a", "b")):
        result = run("health", *arguments)
        assert result.returncode == 2
        assert "Usage: moorage health" in result.stderr


def test_typer_reaches_the_same_check(run: Run, served: Served, tmp_path: Path) -> None:
    """An option after the file is one of the forms that Typer parses."""
    assert run("health", configured(tmp_path, f":{served.port}"), "--timeout", "10").returncode == 0
    assert run("health", configured(tmp_path, f":{free_port()}"), "--timeout", "10").returncode == 1


def test_nothing_expensive_is_imported(served: Served) -> None:
    """Many registries on one machine are checked every few seconds; models and Typer cost 0.15 s of CPU."""
    code = (
        "import contextlib, sys\nfrom moorage.cli import main\n"
        "sys.argv = ['moorage', 'health']\n"
        "with contextlib.suppress(SystemExit):\n    main()\n"
        "print(*sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "REGISTRY_HTTP_ADDR": f":{served.port}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, _, modules = result.stdout.partition("\n")
    assert first.startswith("alive: ")
    heavy = {"asyncio", "cryptography", "http", "pydantic", "rich", "ssl", "structlog", "typer"}
    assert heavy.isdisjoint(modules.split())


# ------------------------------------------------------------ what the container was started with


def process(folder: Path, *words: str) -> str:
    """A directory as /proc/PID is."""
    folder.mkdir(exist_ok=True)
    (folder / "cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
    with contextlib.suppress(FileExistsError):
        (folder / "cwd").symlink_to("/srv")
    return str(folder)


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["/usr/bin/python3", "/usr/local/bin/moorage", "serve", "/etc/other.yml"], "/etc/other.yml"),
        (["python3", "/bin/registry", "serve", "other.yml"], "/srv/other.yml"),
        (["/sbin/docker-init", "--", "/entrypoint.sh", "/etc/other.yml"], "/etc/other.yml"),
        (["/sbin/docker-init", "--", "/entrypoint.sh", "registry", "serve", "/etc/other"], "/etc/other"),
        (["/bin/sh", "/entrypoint.sh", "serve", "/etc/other"], "/etc/other"),
        (["/bin/registry", "serve", "/etc/registry"], "/etc/registry"),
    ],
)
def test_the_file_that_the_container_was_started_with_is_read(tmp_path: Path, words: list[str], file: str) -> None:
    """The image's health check is one command for every `docker run IMAGE FILE`."""
    assert served_configuration(process(tmp_path / "1", *words)) == (Path(file), False)


def test_defaults_of_the_command_line_are_those_of_the_check(tmp_path: Path) -> None:
    assert served_configuration(process(tmp_path / "1", "moorage", "serve", "--defaults")) == (None, True)


@pytest.mark.parametrize(
    "words", [["/sbin/init"], ["moorage", "serve"], ["sh", "-c", "x.yml"], ["moorage", "config", "check"], []]
)
def test_another_first_process_names_no_file(tmp_path: Path, words: list[str]) -> None:
    assert served_configuration(process(tmp_path / "1", *words)) is None


def test_without_proc_no_file_is_named(tmp_path: Path) -> None:
    assert served_configuration(str(tmp_path)) is None


def test_the_first_process_is_asked_only_where_nothing_is_named(
    run: Run, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = configured(tmp_path, f":{served.port}")
    found = liveness._Source(good, defaults=False)
    monkeypatch.setattr(liveness, "served_configuration", lambda: found)
    assert run("health").returncode == 0
    other = tmp_path / "other.yml"
    other.write_text(f"version: 0.1\nstorage: inmemory\nhttp: {{addr: ':{free_port()}'}}\n")
    assert run("health", other).returncode == 1
    assert run("health", REGISTRY_CONFIGURATION_PATH=str(other)).returncode == 1

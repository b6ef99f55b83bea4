"""Every block of the operations pages is run, read by what it is written for, or listed here with its reason.

A block of commands is run with the test's paths; one of settings is loaded by the registry, and one of another
program is checked by that program.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import trustme
import yaml
from tests.live import SECRET, Live, require, require_root, start_moorage
from tests.monitoring.test_alerts import FILE as ALERTS
from tests.operations.pages import ROOT, Block, adapted, block, blocks, run_block
from tests.ports import free_port
from tests.server.debugging import get, until
from tests.wire import Wire

from moorage.config.load import load

if TYPE_CHECKING:
    from collections.abc import Callable

PAGES: Final = (
    "docs/operations.md", "docs/sizing.md", "docs/backup.md", "docs/monitoring.md", "docs/upgrading.md",
    "docs/hardening.md", "docs/troubleshooting.md", "CONTRIBUTING.md", "SECURITY.md",
)  # fmt: skip

ELSEWHERE: Final = {
    "docs/upgrading.md": "test_upgrade.py runs every block of the two procedures",
    "docs/troubleshooting.md": "test_troubleshooting.py provokes every text",
}
"""Pages whose blocks a module of their own runs; the block below is the one that it does not."""

UPGRADE: Final = "docs/upgrading.md: moorage config check /etc/moorage/config.yml"

BIN: Final = Path(sys.executable).parent
PATH: Final = f"{BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BASE: Final[dict[str, Any]] = {
    "version": 0.1,
    "storage": {"inmemory": {}},
    "http": {"addr": "127.0.0.1:0", "secret": SECRET},
}


def environment() -> dict[str, str]:
    return {"PATH": PATH, "HOME": os.environ.get("HOME", "/")}


def loaded(found: Block, folder: Path) -> None:
    """The registry takes the settings of the block, without a warning."""
    settings: dict[str, Any] = yaml.safe_load(found.text)
    whole = {**BASE, **settings, "http": {**BASE["http"], **settings.get("http", {})}}
    (folder / "config.yml").write_text(yaml.safe_dump(whole))
    assert load(folder / "config.yml", {}).warnings == ()


def probes(found: Block, folder: Path) -> None:
    """Probes ask for paths that the registry answers with 200."""
    with start_moorage(folder / "data") as live:
        for probe in yaml.safe_load(found.text).values():
            assert get(live.port, probe["httpGet"]["path"])[0] == 200


def image_check(found: Block, folder: Path) -> None:
    """The command exits with 0 beside a registry of the same configuration, and not after it has ended."""
    command = json.loads(found.text.partition(" CMD ")[2])
    with start_moorage(folder / "data", config=folder / "config.yml") as live:
        where = {
            **environment(),
            "REGISTRY_CONFIGURATION_PATH": str(folder / "config.yml"),
            "REGISTRY_HTTP_ADDR": live.host,
        }
        subprocess.run(command, env=where, check=True, timeout=60)
    assert subprocess.run(command, env=where, check=False, capture_output=True, timeout=60).returncode != 0


def haproxy_backend(found: Block, folder: Path) -> None:
    timeouts = "defaults\n    mode http\n    timeout connect 5s\n    timeout client 5s\n    timeout server 5s\n"
    frontend = f"frontend clients\n    bind 127.0.0.1:{free_port()}\n    default_backend registry\n"
    (folder / "haproxy.cfg").write_text(f"{timeouts}{frontend}{found.text}")
    subprocess.run([require("haproxy"), "-c", "-f", folder / "haproxy.cfg"], check=True, timeout=60)


def prometheus_config(found: Block, folder: Path) -> None:
    (folder / "prometheus.yml").write_text(found.text)
    subprocess.run([require("promtool"), "check", "config", folder / "prometheus.yml"], check=True, timeout=60)


def promtool(found: Block, folder: Path) -> None:
    require("promtool")
    run_block(found, {"alerts.yml": str(ALERTS)}, folder=folder, environment=environment())


def developers(found: Block, folder: Path) -> None:
    """Each command of dev.py exists; what they do is what CI runs."""
    del folder
    usage = subprocess.run(
        [sys.executable, ROOT / "dev.py"], capture_output=True, text=True, check=False, timeout=60
    )
    assert usage.returncode == 1
    commands = re.findall(r"^python3 dev\.py (\w+)(.*)$", found.text, re.MULTILINE)
    assert len(commands) == len(found.text.splitlines())
    for command, arguments in commands:
        assert f"python3 dev.py {command} " in usage.stderr
        paths = [word for word in arguments.split() if "/" in word]
        assert all((ROOT / path).exists() for path in paths)


def hardened(found: Block, folder: Path) -> None:
    """The file has no mistake and no warning, and the registry that it makes is closed."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(folder / "registry.key")
    issued.cert_chain_pems[0].write_to_path(folder / "registry.crt")
    moorage = str(BIN / "moorage")
    subprocess.run(
        [moorage, "htpasswd", "-Bbc", folder / "htpasswd", "alice", "wonderland"], check=True, timeout=60
    )
    places = {
        "/etc/moorage": str(folder), "/var/lib/moorage": str(folder / "data"), "addr: :5000": "addr: 127.0.0.1:0",
        "formatter: json": "formatter: text", "127.0.0.1:5001": "127.0.0.1:0",
    }  # fmt: skip
    config = folder / "config.yml"
    config.write_text(adapted(found.text, places))
    (folder / "http-secret").write_text(f"{SECRET}\n")
    with_secret = {**environment(), "REGISTRY_HTTP_SECRET_FILE": str(folder / "http-secret")}
    checked = subprocess.run(
        [moorage, "config", "check", config],
        env=with_secret,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (checked.returncode, "warning" in checked.stderr + checked.stdout) == (0, False), checked.stderr
    log_path = folder / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [moorage, "serve", config], env=with_secret, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    with Live(process, folder / "data", log_path) as live:
        live.logged("listening on https://127.0.0.1:")
        assert "level=warning" not in live.logs()
        port = int(live.logs().partition("listening on https://127.0.0.1:")[2].partition('"')[0])
        context = ssl.create_default_context()
        authority.configure_trust(context)
        for credentials, status in ({}, 401), ({"Authorization": "Basic YWxpY2U6d29uZGVybGFuZA=="}, 200):
            connection = http.client.HTTPSConnection("localhost", port, timeout=60, context=context)
            connection.request("GET", "/v2/", headers=credentials)
            answer = connection.getresponse()
            assert (answer.status, answer.headers["X-Content-Type-Options"]) == (status, "nosniff")
            connection.close()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        old = http.client.HTTPSConnection("localhost", port, timeout=60, context=context)
        with pytest.raises(ssl.SSLError):
            old.connect()
        old.close()


def read_only(found: Block, folder: Path) -> None:
    """Pulls are served, and pushes are refused."""
    with start_moorage(folder / "data") as live:
        manifest = Wire(live.host).push_image("team/app", "v1", [b"layer"])
    settings = yaml.safe_load(adapted(found.text, {"/var/lib/moorage": str(folder / "data")}))
    with start_moorage(folder / "data", **settings) as live:
        assert Wire(live.host).manifest("team/app", "v1").body == manifest
        assert Wire(live.host).start_upload("team/app").status == 405


def permissions(found: Block, folder: Path) -> None:
    """The modes that the page promises, of the users of this machine."""
    require_root()
    for name in ("config.yml", "htpasswd", "registry.crt", "registry.key", "http-secret"):
        (folder / name).touch()
    etc, data = folder / "etc", folder / "data"
    places = {
        "moorage -g moorage": "nobody -g nogroup",
        "-g moorage": "-g nogroup",
        "/etc/moorage": str(etc),
        "/var/lib/moorage": str(data),
    }
    run_block(found, places, folder=folder, environment=environment())
    assert {path.stat().st_mode & 0o777 for path in etc.iterdir()} == {0o640}
    assert (etc.stat().st_mode & 0o777, data.stat().st_mode & 0o777) == (0o750, 0o750)
    assert (etc.owner(), data.owner()) == ("root", "nobody")


def deep_check(found: Block, folder: Path) -> None:
    require("runuser")
    require_root()
    config = {**BASE, "storage": {"filesystem": {"rootdirectory": str(folder / "data")}}}
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    places = {"-u moorage": "-u root", "/etc/moorage": str(folder)}
    assert "ok: " in run_block(found, places, folder=folder, environment=environment())


def config_check(found: Block, folder: Path) -> None:
    (folder / "config.yml").write_text(yaml.safe_dump(BASE))
    run_block(found, {"/etc/moorage": str(folder)}, folder=folder, environment=environment())


def backed_up(found: Block, folder: Path) -> None:
    """The first block of the page leads through all of them: an image survives backup, loss and restore."""
    require("rsync")
    config = folder / "config.yml"
    places = {"/backup": str(folder / "backup"), "/var/lib/moorage": str(folder / "data")}
    with start_moorage(folder / "data", config=config) as live:
        manifest = Wire(live.host).push_image("team/app", "v1", [b"layer"])
        run_block(found, places, folder=folder, environment=environment())
    (folder / "data").rename(folder / "lost")
    page = found.page
    run_block(block(page, "rsync -a /backup/docker"), places, folder=folder, environment=environment())
    check = block(page, "moorage storage check")
    run_block(check, {"/etc/moorage/config.yml": str(config)}, folder=folder, environment=environment())
    with start_moorage(folder / "data", config=config) as live:
        assert Wire(live.host).manifest("team/app", "v1").body == manifest

    port = free_port()
    trial = adapted(block(page, "REGISTRY_STORAGE").text, {"=/backup": f"={folder}/backup", "5999": str(port)})
    with (folder / "trial.log").open("wb") as log:
        command = ["sh", "-euc", f"exec env {trial}"]
        process = subprocess.Popen(command, env=environment(), cwd=folder, stdout=log, stderr=log)
    try:
        until(lambda: get(port, "/readyz")[0] == 200, "the trial", (folder / "trial.log").read_text)
        assert Wire(f"127.0.0.1:{port}").manifest("team/app", "v1").body == manifest
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


RUN: Final[dict[str, Callable[[Block, Path], None]]] = {
    "docs/operations.md: log:": loaded,
    "docs/operations.md: http:\n  trustedproxies": loaded,
    "docs/operations.md: http:\n  cors": loaded,
    "docs/backup.md: mkdir -p /backup": backed_up,
    "docs/monitoring.md: livenessProbe:": probes,
    "docs/monitoring.md: HEALTHCHECK": image_check,
    "docs/monitoring.md: backend registry": haproxy_backend,
    "docs/monitoring.md: health:": loaded,
    "docs/monitoring.md: http:\n  debug:": loaded,
    "docs/monitoring.md: # prometheus.yml": prometheus_config,
    "docs/monitoring.md: promtool check rules": promtool,
    UPGRADE: config_check,
    "docs/hardening.md: version: 0.1": hardened,
    "docs/hardening.md: runuser": deep_check,
    "docs/hardening.md: storage:": read_only,
    "docs/hardening.md: install -d": permissions,
    "CONTRIBUTING.md: python3 dev.py check": developers,
    "CONTRIBUTING.md: python3 dev.py lint": developers,
}
"""What runs a block, by its page and beginning."""

NOT_RUN: Final = {
    "docs/backup.md: rsync -a /backup/docker": "`backed_up` runs it",
    "docs/backup.md: moorage storage check": "`backed_up` runs it",
    "docs/backup.md: REGISTRY_STORAGE": "`backed_up` runs it",
    "CONTRIBUTING.md: uploads: keep what": "the message of a commit",
}


def described(found: Block) -> str:
    return f"{found.page}: {found.text}"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_listed(page: str) -> None:
    """An example that is not run is wrong sooner or later."""
    for found in blocks(page):
        text = described(found)
        known = [beginning for beginning in (*RUN, *NOT_RUN) if text.startswith(beginning)]
        if page in ELSEWHERE and not known:
            continue
        assert len(known) == 1, f"{len(known)} entries for the block {text[:80]!r}"


def test_no_entry_is_left_over() -> None:
    """An entry without a block hides that the page has changed."""
    texts = [described(found) for page in PAGES for found in blocks(page)]
    for beginning in (*RUN, *NOT_RUN):
        assert sum(text.startswith(beginning) for text in texts) == 1, beginning


def test_the_upgrade_test_runs_every_other_block_of_its_page() -> None:
    source = (ROOT / "tests" / "operations" / "test_upgrade.py").read_text()
    for found in blocks("docs/upgrading.md"):
        if described(found).startswith(UPGRADE):
            continue
        start = found.text[:9]
        assert f'"{start}' in source or f"'{start}" in source, found


@pytest.mark.slow
@pytest.mark.parametrize("beginning", RUN)
def test_a_block_does_what_the_page_says(beginning: str, tmp_path: Path) -> None:
    page, _, start = beginning.partition(": ")
    RUN[beginning](block(page, start), tmp_path)


def test_the_pages_name_files_of_the_repository_that_there_are() -> None:
    """Paths of the repository in code font, as `deploy/monitoring/alerts.yml`."""
    for page in PAGES:
        for path in re.findall(r"`((?:deploy|docs|tests|tools|\.ci)/[\w./-]+)`", (ROOT / page).read_text()):
            assert (ROOT / path).exists(), f"{page} names {path}"

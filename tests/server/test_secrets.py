"""No secret that a registry is given or sent is ever in its output: a real server, at its most verbose.

Everything is written down that is secret, the server is asked in many ways, well and badly, and all that it wrote
is searched: both logs, the dump of SIGQUIT, answers, and what the commands say about its configuration.
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote, urlsplit

import bcrypt
import pytest
import yaml
from tests.live import start_moorage
from tests.ports import free_port
from tests.server.serving import LIMIT_S, serving, until
from tests.wire import Wire

from moorage.types import Digest

if TYPE_CHECKING:
    from tests.live import Live

pytestmark = pytest.mark.slow

SECRETS: Final = {
    name: f"hush-{name}-7f3a91"
    for name in (
        "httpsecret", "smtp", "s3access", "s3secret", "redis", "sentinel", "proxy", "endpoint", "urlpassword",
        "password", "bearer", "proxyauth", "cookie", "amz", "sas", "query",
    )
}  # fmt: skip

BASIC: Final = base64.b64encode(f"alice:{SECRETS['password']}".encode()).decode()
KEY: Final = base64.urlsafe_b64encode(b"hush: a key that signs tokens is secret").decode().rstrip("=")
DIGEST: Final = f"sha256:{'0' * 64}"


def everything_secret() -> dict[str, Any]:
    """Sections of a configuration with secrets wherever there can be some, switched off where they must be."""
    hook = {
        "type": "mail",
        "levels": ["error", "warning", "info", "debug"],
        "options": {
            "smtp": {"addr": f"127.0.0.1:{free_port()}", "username": "me", "password": SECRETS["smtp"]},
            "from": "r@example.com", "to": ["a@example.com"],
        },
    }  # fmt: skip
    endpoint = {
        "name": "e", "disabled": True, "url": f"https://u:{SECRETS['urlpassword']}@events.example/",
        "headers": {"Authorization": [f"Bearer {SECRETS['endpoint']}"]},
    }  # fmt: skip
    return {
        "log": {"level": "debug", "hooks": [hook]},
        "http": {"secret": SECRETS["httpsecret"]},
        "notifications": {"endpoints": [endpoint]},
        "proxy": {"username": "me", "password": SECRETS["proxy"]},
        "redis": {"addrs": ["127.0.0.1:1"], "password": SECRETS["redis"], "sentinelpassword": SECRETS["sentinel"]},
    }


def search(text: str, more: dict[str, str] | None = None) -> None:
    """Fail with the name of each secret that is found, and its place."""
    forms = {**SECRETS, "basic": BASIC, **(more or {})}
    for name, secret in forms.items():
        for form in {secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode().rstrip("=")}:
            at = text.find(form)
            assert at < 0, f"{name} is in: {text[max(0, at - 200) : at + 100]}"


def raw(live: Live, request: str) -> bytes:
    """Bytes as they are; everything that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=LIMIT_S) as connection:
        connection.sendall(request.encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


def provoke(live: Live) -> tuple[dict[str, str], bytes]:
    """Ask in many ways; the states of uploads that came up, and all answers."""
    wire, answers = Wire(live.host), b""
    credentials = {
        "Authorization": f"Basic {BASIC}",
        "Proxy-Authorization": f"Basic {SECRETS['proxyauth']}",
        "Cookie": f"session={SECRETS['cookie']}",
        "Referer": f"https://alice:{SECRETS['urlpassword']}@ui.example/?token={SECRETS['query']}",
    }
    targets = [
        "/v2/", "/v2/_catalog?n=x", "/v2/a/tags/list", "/v2/A/tags/list", "/nowhere", f"/v2/a/blobs/{DIGEST}",
        f"/v2/a/manifests/v1?access_token={SECRETS['query']}", f"/v2/a/tags/list/?token={SECRETS['query']}",
        f"/v2/a/blobs/{DIGEST}?X-Amz-Credential={SECRETS['s3access']}&X-Amz-Signature={SECRETS['amz']}",
        f"/v2/a/blobs/{DIGEST}?sv=2024&sig={SECRETS['sas']}&se=1", f"/v2/?password={SECRETS['query']}",
    ]  # fmt: skip
    bearer = {**credentials, "Authorization": f"Bearer {SECRETS['bearer']}"}
    broken = {**credentials, "Authorization": f"Basic !{SECRETS['password']}"}
    for target in targets:
        for headers in (credentials, bearer, broken):
            for method in ("GET", "OPTIONS"):
                answers += wire.send(method, target, None, headers).body
    states = {}
    for number, headers in enumerate((credentials, bearer)):
        begun = wire.send("POST", "/v2/a/blobs/uploads/", b"", headers)
        location = begun.headers["location"]
        states[f"state{number}"] = parse_qs(urlsplit(location).query)["_state"][0]
        sent = wire.send("PATCH", location, b"some bytes", headers)
        states[f"later{number}"] = parse_qs(urlsplit(sent.headers["location"]).query)["_state"][0]
        for attempt in (
            wire.send("PATCH", location, b"again", {**headers, "Content-Range": "0-4"}),
            wire.send("PUT", f"{location}&digest={DIGEST}", b"", headers),
            wire.send("PATCH", f"{location}tampered", b"x", headers),
        ):
            assert attempt.status >= 400
            answers += attempt.body
        wire.finish(sent.headers["location"], Digest.of(b"some bytes"))
    proxied = f"GET http://alice:{SECRETS['urlpassword']}@{live.host}/v2/ HTTP/1.1\r\nHost: {live.host}\r\n"
    answers += raw(live, f"{proxied}Authorization: Basic {BASIC}\r\nConnection: close\r\n\r\n")
    answers += raw(
        live, f"GET /v2/?_state={SECRETS['query']} HTTP/9\r\nAuthorization: {SECRETS['bearer']}\r\n\r\n"
    )
    return states, answers


@pytest.mark.parametrize("formatter", ["text", "json", "logstash"])
def test_a_talkative_server_keeps_its_secrets(tmp_path: Path, formatter: str) -> None:
    """Logs are shipped, searched and pasted by people who may not push."""
    settings = everything_secret()
    settings["log"] |= {"formatter": formatter, "accesslog": {"disabled": False}}
    with start_moorage(tmp_path / "data", **settings) as live:
        states, answers = provoke(live)
        os.kill(live.pid, signal.SIGQUIT)
        until(lambda: "upload purger" in live.logs() or "Task Task-1" in live.logs(), "the dump", live.logs)
        live.stop()
    written = live.logs()
    search(written, states)
    search(answers.decode(errors="replace"))
    # What was searched is what was meant: both logs, the mail that could not be sent, and the struck out.
    assert "a mail of log.hooks could not be sent" in written
    assert "_state=-" in written
    assert "X-Amz-Signature=-" in written
    assert "sig=-" in written
    assert "https://alice:-@ui.example/?token=-" in written


@pytest.mark.parametrize("provider", ["htpasswd", "token", "local"])
def test_whoever_logs_in_keeps_his_secrets(tmp_path: Path, provider: str) -> None:
    """Passwords, access and refresh tokens, of those who are let in and of those who are not."""
    users, policy, keys = tmp_path / "users", tmp_path / "policy.yml", tmp_path / "keys.json"
    users.write_bytes(b"alice:" + bcrypt.hashpw(SECRETS["password"].encode(), bcrypt.gensalt(4)) + b"\n")
    policy.write_text("access: [{who: user:alice, repositories: ['**'], allow: [pull, push]}]\n")
    keys.write_text(json.dumps({"keys": [{"kty": "oct", "kid": "k", "k": KEY}]}))
    auth = {
        "htpasswd": {"realm": "r", "path": str(users)},
        "token": {"realm": "https://t.example/token", "service": "s", "issuer": "i", "jwks": str(keys)},
        "local": {"policy": str(policy), "users": str(users)},
    }[provider]
    settings = everything_secret()
    settings["auth"] = {provider: auth}
    settings["http"]["secret"] = SECRETS["httpsecret"] + "-long-enough-for-keys-of-tokens"
    tokens: dict[str, str] = {}
    with start_moorage(tmp_path / "data", **settings) as live:
        wire = Wire(live.host)
        for password in (SECRETS["password"], SECRETS["query"]):
            basic = base64.b64encode(f"alice:{password}".encode()).decode()
            form = f"grant_type=password&username=alice&password={password}&service=moorage&client_id=c"
            posted = {"Content-Type": "application/x-www-form-urlencoded"}
            wire.send("GET", "/v2/", None, {"Authorization": f"Basic {basic}"})
            got = wire.send(
                "GET", "/token?offline_token=true&account=alice", None, {"Authorization": f"Basic {basic}"}
            )
            wire.send("POST", "/token", form.encode(), posted)
            if got.status == 200:
                answer = json.loads(got.body)
                tokens = {"access": answer["token"], "refresh": answer["refresh_token"]}
                again = f"grant_type=refresh_token&refresh_token={tokens['refresh']}&service=moorage&client_id=c"
                assert wire.send("POST", "/token", again.encode(), posted).status == 200
                assert (
                    wire.send("POST", "/token", again.replace("&service", "x&service").encode(), posted).status
                    == 401
                )
        for bearer in (SECRETS["bearer"], *tokens.values(), *(f"{token}x" for token in tokens.values())):
            wire.send("GET", "/v2/", None, {"Authorization": f"Bearer {bearer}"})
        assert bool(tokens) == (provider == "local")
        live.stop()
    search(live.logs(), {**tokens, "signing": KEY})
    assert "refused" in live.logs() or "wrong" in live.logs(), "nothing was said of those who were not let in"


def test_an_unexpected_error_tells_where_and_not_with_what(tmp_path: Path) -> None:
    """A traceback shows lines of source, never the values in them."""
    with serving(tmp_path / "home", log={"level": "debug", "accesslog": {"disabled": False}}) as served:
        assert served.get("/break?_state=" + SECRETS["query"], Authorization=f"Basic {BASIC}")[0] == 500
        served.logged("broken on purpose")
        served.stop()
    search(served.err + served.out)


def command(*arguments: str, env: dict[str, str] | None = None) -> str:
    moorage = Path(sys.executable).with_name("moorage")
    done = subprocess.run(
        [moorage, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **(env or {})},
    )
    return done.stdout + done.stderr


def test_commands_about_the_configuration_mask_what_it_holds(tmp_path: Path) -> None:
    """Their output is what people put into an issue."""
    storage = {"filesystem": {"rootdirectory": str(tmp_path / "data")}}
    settings = {"version": 0.1, "storage": storage, **everything_secret()}
    settings["http"] |= {"addr": "127.0.0.1:0"}
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(settings))
    shown = command("config", "show", str(path))
    assert shown.count("********") >= 6
    assert "https://u:-@events.example/" in shown
    checked = command("config", "check", str(path))
    assert "no errors" in checked
    search(shown + checked)


WRONG: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "s3": (
        "storage",
        {"s3": {"accesskey": SECRETS["s3access"], "secretkey": SECRETS["s3secret"], "chunksize": 1}},
    ),
    "s3 scalar": ("storage", {"s3": {"bucket": "b", "secretkey": [SECRETS["s3secret"]]}}),
    "url": ("health", {"http": [{"uri": f"ftp://u:{SECRETS['urlpassword']}@h"}]}),
    "mail": ("log", {"hooks": [{"type": "mail", "options": {"smtp": {"password": {SECRETS["smtp"]: 1}}}}]}),
    "secret": ("http", {"secret": [SECRETS["httpsecret"]]}),
    "redis": ("redis", {"password": [SECRETS["redis"]]}),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_without_the_secret(tmp_path: Path, name: str) -> None:
    section, content = WRONG[name]
    settings: dict[str, Any] = {"version": 0.1, "storage": {"inmemory": None}, "http": {"addr": ":0"}}
    settings[section] = {**content} if section != "http" else {"addr": ":0", **content}
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(settings))
    for output in (command("config", "check", str(path)), command("serve", str(path))):
        assert re.search(r"\d+ errors?|error", output), output
        search(output)


def test_secrets_in_variables_are_kept_as_well(tmp_path: Path) -> None:
    """Containers get them so; a variable of an unknown key is named, not shown."""
    variables = {
        "REGISTRY_STORAGE": "inmemory", "REGISTRY_HTTP_SECRET": SECRETS["httpsecret"],
        "REGISTRY_HTTP_SECERT": SECRETS["httpsecret"], "REGISTRY_PROXY_PASSWORD": SECRETS["proxy"],
        "REGISTRY_STORAGE_S3_SECRETKEI": SECRETS["s3secret"], "REGISTRY_REDIS_PASSWORD": SECRETS["redis"],
    }  # fmt: skip
    path = tmp_path / "config.yml"
    path.write_text("version: 0.1\nhttp: {addr: ':0'}\n")
    for name in ("show", "check"):
        output = command("config", name, str(path), env=variables)
        assert "SECERT" in output
        search(output)
